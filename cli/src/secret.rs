//! Where secrets come from: the environment, or a file. None is ever printed but by `token`, which makes them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use qomplement_webhooks::auth::{TokenError, WebhookUrlError};
use qomplement_webhooks::{SharedToken, WebhookUrl};

use crate::failure::{Failure, causes};
use crate::output::{self, clean};

/// The environment variable that holds the token, as in the examples.
pub(crate) const TOKEN: &str = "WEBHOOK_TOKEN";

#[derive(Args)]
pub(crate) struct TokenArgs {
    /// The token. Others can see it in the list of processes: rather set WEBHOOK_TOKEN, or use --token-file
    #[arg(long, conflicts_with = "token_file", allow_hyphen_values = true)]
    token: Option<String>,

    /// A file that holds the token; "-" is standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenArgs {
    /// The token that was given, on the command line first.
    pub(crate) fn read(&self) -> Result<Option<SharedToken>, Failure> {
        match self.explicit()? {
            Some(token) => Ok(Some(token)),
            None => from_env(),
        }
    }

    /// Whether a token was given on the command line.
    pub(crate) fn is_given(&self) -> bool {
        self.token.is_some() || self.token_file.is_some()
    }

    /// Whether the token is read from standard input.
    pub(crate) fn is_stdin(&self) -> bool {
        self.token_file.as_deref() == Some(Path::new("-"))
    }

    /// The token that was given on the command line.
    pub(crate) fn explicit(&self) -> Result<Option<SharedToken>, Failure> {
        if let Some(token) = &self.token {
            output::warning(format_args!(
                "a token on the command line can be seen by others, as by `ps`\n  Rather set {TOKEN}, or use --token-file"
            ));
            return SharedToken::new(token).map(Some).map_err(|error| bad_token("--token", &error));
        }
        let Some(file) = &self.token_file else { return Ok(None) };
        let token = SharedToken::new(read(file)?.trim());
        token.map(Some).map_err(|error| bad_token(&name(file), &error))
    }
}

/// The token in the environment.
pub(crate) fn from_env() -> Result<Option<SharedToken>, Failure> {
    if std::env::var_os(TOKEN).is_none() {
        return Ok(None);
    }
    SharedToken::from_env(TOKEN).map(Some).map_err(|error| bad_token(TOKEN, &error))
}

/// A URL with a token in it, unless it has one.
pub(crate) fn url_with_token(option: &str, url: &str, token: Option<SharedToken>) -> Result<String, Failure> {
    let Some(token) = token.filter(|_| !has_token(url)) else { return Ok(url.to_owned()) };
    WebhookUrl::new(url, &token).map(|url| url.expose().to_owned()).map_err(|error| {
        let tip = match error {
            WebhookUrlError::NotHttps => "\n  A token was given: it is not sent in the clear",
            _ => "",
        };
        Failure::usage(format!("{option}: {}{tip}", causes(&error)))
    })
}

pub(crate) fn has_token(url: &str) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    form_urlencoded::parse(query.as_bytes()).any(|(key, _)| key == "token")
}

fn bad_token(place: &str, error: &TokenError) -> Failure {
    Failure::usage(format!("{place}: {error}\n  `qomplement-webhooks token` makes a good one"))
}

/// Reads a small file, or standard input.
pub(crate) fn read(file: &Path) -> Result<String, Failure> {
    let text =
        if file == Path::new("-") { io::read_to_string(io::stdin()) } else { fs::read_to_string(file) };
    text.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::InvalidData => "it holds something else than text".to_owned(),
            _ => error.to_string(),
        };
        Failure::usage(format!("{} cannot be read: {why}", name(file)))
    })
}

/// The name of a file, to be shown.
pub(crate) fn name(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { clean(&file.to_string_lossy()) }
}
