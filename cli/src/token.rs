//! `token`: generates a token and the webhook URL with the token.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use qomplement_webhooks::{SharedToken, WebhookUrl};
use serde_json::json;

use crate::arguments::http_url;
use crate::causes::causes;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::secret::{self, TOKEN, TokenArgs};

/// Generate a token, and the webhook URL with the token
#[derive(Args)]
#[command(after_help = "\
Examples:
  export WEBHOOK_TOKEN=$(qomplement-webhooks token)
  qomplement-webhooks token --url https://example.com/webhooks
  qomplement-webhooks token --save webhook.token
  qomplement-webhooks token --token-file webhook.token --url https://example.com

Without --url, prints a new token. With --url, prints webhook_url=… for
Qomplement with the token of --token-file, --token or WEBHOOK_TOKEN; without
one of these, or with --save, the token is new. A new token that is not saved
comes first, as WEBHOOK_TOKEN=… for the environment of your server.

--format json prints one object with token and webhook_url, each only where
--format text prints it.")]
pub(crate) struct Token {
    /// The public URL of your server: https, or http on a loopback address
    #[arg(long)]
    url: Option<String>,

    /// Write a new token to a new file that only you can read, and print no token
    #[arg(long, value_name = "FILE", conflicts_with_all = ["token", "token_file"])]
    save: Option<PathBuf>,

    #[command(flatten)]
    given: TokenArgs,

    /// The output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Token {
    pub(crate) fn run(&self) -> Result<ExitCode, Failure> {
        let given = self.given.read_given()?;
        if given.is_some() && self.url.is_none() {
            return Err(Failure::usage(
                "a token without --url: nothing to do\n  Give --url, or leave the token out to generate one",
            ));
        }
        // Without --url, or with --save, the token is new.
        let in_use = if self.url.is_some() && self.save.is_none() && given.is_none() {
            secret::from_env()?
        } else {
            None
        };
        let is_from_env = in_use.is_some();
        let (token, is_new) = match given.or(in_use) {
            Some(token) => (token, false),
            None => (SharedToken::generate().map_err(|error| Failure::failed(causes(&error)))?, true),
        };
        let url = match &self.url {
            Some(url) => {
                http_url("--url", url, "https://example.com/webhooks")?;
                let url = WebhookUrl::new(url, &token);
                Some(url.map_err(|error| Failure::usage(format!("--url: {}", causes(&error))))?)
            }
            None => None,
        };
        if let Some(file) = &self.save {
            save(file, &token)?;
        }
        let shown = (is_new && self.save.is_none()).then(|| token.expose());
        let url = url.as_ref().map(WebhookUrl::expose);
        match (self.format, shown, url) {
            (Format::Json, shown, url) => {
                let mut object = serde_json::Map::new();
                object.extend(shown.map(|token| ("token".to_owned(), json!(token))));
                object.extend(url.map(|url| ("webhook_url".to_owned(), json!(url))));
                output::json(&object.into());
            }
            (Format::Text, Some(token), None) => output::line(token),
            (Format::Text, shown, url) => {
                if let Some(token) = shown {
                    output::line(format_args!("{TOKEN}={token}"));
                }
                if let Some(url) = url {
                    output::line(format_args!("webhook_url={url}"));
                }
            }
        }
        if is_from_env {
            output::note(format_args!("the URL has the token in {TOKEN}; unset it to generate a token"));
        } else if is_new && self.url.is_some() {
            output::note("the URL has a new token: configure your server with this token");
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn save(file: &PathBuf, token: &SharedToken) -> Result<(), Failure> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut file| writeln!(file, "{}", token.expose()));
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::usage(format!(
            "{} already exists, and can hold a token in use\n  Move the file away, or give another name",
            secret::name(file)
        )),
        _ => Failure::failed(format!("{} cannot be written: {error}", secret::name(file))),
    })
}
