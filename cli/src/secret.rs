//! Reads secrets from options, files and the environment. Only `token` prints one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use qomplement_webhooks::auth::{TokenError, WebhookUrlError};
use qomplement_webhooks::{SharedToken, WebhookUrl};

use crate::arguments::http_url;
use crate::causes::causes;
use crate::failure::Failure;
use crate::output::{self, clean};

/// The environment variable that holds the token, as in the examples.
pub(crate) const TOKEN: &str = "WEBHOOK_TOKEN";

#[derive(Args)]
pub(crate) struct TokenArgs {
    /// The token. Other users can see it in the list of processes: prefer WEBHOOK_TOKEN or --token-file
    #[arg(long, conflicts_with = "token_file", allow_hyphen_values = true)]
    token: Option<String>,

    /// A file with the token; "-" reads standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenArgs {
    /// The token from the command line, or else from the environment.
    pub(crate) fn read(&self) -> Result<Option<SharedToken>, Failure> {
        match self.read_given()? {
            Some(token) => Ok(Some(token)),
            None => from_env(),
        }
    }

    /// Whether the command line has a token.
    pub(crate) fn is_given(&self) -> bool {
        self.token.is_some() || self.token_file.is_some()
    }

    /// Whether the token comes from standard input.
    pub(crate) fn is_stdin(&self) -> bool {
        self.token_file.as_deref() == Some(Path::new("-"))
    }

    /// The URL that an option gives, with the token in it.
    pub(crate) fn url(&self, option: &str, url: &str) -> Result<String, Failure> {
        http_url(option, url, "http://127.0.0.1:3000")?;
        let token = self.read()?;
        if has_token(url) && self.is_given() {
            return Err(Failure::usage(format!(
                "{option}: the URL already has a token\n  Leave out the other token, or the one in the URL"
            )));
        }
        url_with_token(option, url, token)
    }

    /// The token from the command line.
    pub(crate) fn read_given(&self) -> Result<Option<SharedToken>, Failure> {
        if let Some(token) = &self.token {
            output::warning(format_args!(
                "other users can see a token on the command line, with `ps`\n  Set {TOKEN} or give --token-file instead"
            ));
            return SharedToken::new(token).map(Some).map_err(|error| bad_token("--token", &error));
        }
        let Some(file) = &self.token_file else { return Ok(None) };
        let token = SharedToken::new(read(file)?.trim());
        token.map(Some).map_err(|error| bad_token(&name(file), &error))
    }
}

/// The token from the environment.
pub(crate) fn from_env() -> Result<Option<SharedToken>, Failure> {
    if std::env::var_os(TOKEN).is_none() {
        return Ok(None);
    }
    SharedToken::from_env(TOKEN).map(Some).map_err(|error| bad_token(TOKEN, &error))
}

/// Adds the token to a URL that has none.
pub(crate) fn url_with_token(option: &str, url: &str, token: Option<SharedToken>) -> Result<String, Failure> {
    let Some(token) = token.filter(|_| !has_token(url)) else { return Ok(url.to_owned()) };
    WebhookUrl::new(url, &token).map(|url| url.expose().to_owned()).map_err(|error| {
        let tip = match error {
            WebhookUrlError::NotHttps => "\n  Give an https:// URL: a token is never sent unencrypted",
            _ => "",
        };
        Failure::usage(format!("{option}: {}{tip}", causes(&error)))
    })
}

fn has_token(url: &str) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    form_urlencoded::parse(query.as_bytes()).any(|(key, _)| key == "token")
}

fn bad_token(place: &str, error: &TokenError) -> Failure {
    Failure::usage(format!("{place}: {error}\n  Make a token with `qomplement-webhooks token`"))
}

/// Reads a small file, or standard input.
pub(crate) fn read(file: &Path) -> Result<String, Failure> {
    let text =
        if file == Path::new("-") { io::read_to_string(io::stdin()) } else { fs::read_to_string(file) };
    text.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::InvalidData => "it is not valid UTF-8".to_owned(),
            _ => error.to_string(),
        };
        Failure::usage(format!("{} cannot be read: {why}", name(file)))
    })
}

/// The name of a file, escaped for printing.
pub(crate) fn name(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { clean(&file.to_string_lossy()) }
}
