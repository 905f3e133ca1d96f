//! `token`: makes a token, and the URL that carries it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use qomplement_webhooks::{SharedToken, WebhookUrl};
use serde_json::json;

use crate::arguments::http_url;
use crate::failure::{Failure, causes};
use crate::output::{self, Format};
use crate::secret::{self, TOKEN, TokenArgs};

/// Make a strong token, and the webhook URL that carries it
#[derive(Args)]
#[command(after_help = "\
Examples:
  export WEBHOOK_TOKEN=$(qomplement-webhooks token)
  qomplement-webhooks token --url https://example.com/webhooks
  qomplement-webhooks token --save webhook.token
  qomplement-webhooks token --token-file webhook.token --url https://example.com

Without --url, a new token is printed. With it, webhook_url=… for Qomplement,
with the token of --token-file, --token or WEBHOOK_TOKEN; if there is none, or
with --save, with a new one. A new one that is not saved is printed before, as
WEBHOOK_TOKEN=… for your server's environment.")]
pub(crate) struct Token {
    /// Where your server is reached from outside: https, or http on this machine
    #[arg(long)]
    url: Option<String>,

    /// Write the token to a new file that only you can read, instead of printing it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["token", "token_file"])]
    save: Option<PathBuf>,

    #[command(flatten)]
    given: TokenArgs,

    /// {"token", "webhook_url"}, each only if it would be printed otherwise
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Token {
    pub(crate) fn run(&self) -> Result<ExitCode, Failure> {
        let given = self.given.explicit()?;
        if given.is_some() && self.url.is_none() {
            return Err(Failure::usage("a token was given, and no --url to put it into"));
        }
        // Without a URL, and to be saved, a new one is wanted.
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
            output::note(format_args!("the URL carries the token in {TOKEN}; without it, a new one is made"));
        } else if is_new && self.url.is_some() {
            output::note("the URL carries a new token: your server must have it, too");
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
            "{} exists, and could hold a token in use\n  Move it away first, or give another name",
            secret::name(file)
        )),
        _ => Failure::failed(format!("{} cannot be written: {error}", secret::name(file))),
    })
}
