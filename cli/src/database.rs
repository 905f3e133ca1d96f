//! Opens the inbox that the options or the environment name. Never prints a URL: it can hold a password.

use std::env::VarError;
use std::io;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use qomplement_webhooks::inbox::{InboxAdmin, InboxCursor, InboxFilter, SqliteInboxError};
use qomplement_webhooks::postgres::PostgresStoreError;
use qomplement_webhooks::store::StoreError;
use qomplement_webhooks::{PostgresInbox, SqliteInbox};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::causes::causes;
use crate::failure::Failure;
use crate::hint::hint;
use crate::output::{self, clean};
use crate::secret;

#[derive(Args)]
pub(crate) struct DatabaseArgs {
    /// The inbox: an SQLite file or a postgres:// URL. Put a URL with a password into the environment
    /// variable DATABASE instead: other users can see command lines
    #[arg(long = "db", value_name = "FILE|URL")]
    database: Option<String>,

    /// The table in PostgreSQL; by default qomplement_inbox in the first schema of the search path
    #[arg(long, value_name = "SCHEMA.TABLE")]
    table: Option<String>,
}

/// The environment variable that names the inbox, as in the examples.
const DATABASE: &str = "DATABASE";

impl DatabaseArgs {
    /// Opens an existing inbox. Returns an error if the file or the table does not exist.
    pub(crate) async fn open(&self) -> Result<Arc<dyn InboxAdmin>, Failure> {
        let database = match &self.database {
            Some(database) => with_warning(database),
            None => from_env("no inbox given\n  Give --db FILE or --db postgres://…, or set")?,
        };
        open(&database, self.table.as_deref()).await
    }

    /// The name of the inbox in a question: the file, or the host, database and table; no user and no password.
    pub(crate) fn name(&self) -> String {
        let database = self.database.clone().or_else(|| std::env::var(DATABASE).ok());
        name(&database.unwrap_or_default(), self.table.as_deref())
    }
}

fn name(database: &str, table: Option<&str>) -> String {
    if !database.contains("://") {
        return clean(database);
    }
    let Ok(config) = database.parse::<Config>() else { return "PostgreSQL".to_owned() };
    let ports = config.get_ports();
    let hosts = config.get_hosts().iter().enumerate().map(|(number, host)| {
        let host = match host {
            Host::Tcp(host) => host.clone(),
            Host::Unix(folder) => folder.to_string_lossy().into_owned(),
        };
        ports.get(number).map_or(host.clone(), |port| format!("{host}:{port}"))
    });
    let hosts = hosts.collect::<Vec<_>>().join(",");
    let database = config.get_dbname().map(|database| format!("/{database}")).unwrap_or_default();
    let table = table.map(|table| format!(", table {table}")).unwrap_or_default();
    clean(&format!("{hosts}{database}{table}"))
}

/// Opens the inbox that an option names; `-` stands for the one in the environment.
pub(crate) async fn open_given(database: &str, table: Option<&str>) -> Result<Arc<dyn InboxAdmin>, Failure> {
    let database = if database == "-" {
        from_env("`-` stands for the inbox in DATABASE, which is not set\n  Set")?
    } else {
        with_warning(database)
    };
    open(&database, table).await
}

/// The database from the environment. `otherwise` begins the error if no variable is set.
fn from_env(otherwise: &str) -> Result<String, Failure> {
    match std::env::var(DATABASE) {
        Ok(database) if !database.is_empty() => Ok(database),
        Err(VarError::NotUnicode(_)) => Err(Failure::usage(format!(
            "{DATABASE} is not valid UTF-8\n  Set it to an SQLite file or a postgres:// URL"
        ))),
        _ => Err(Failure::usage(format!("{otherwise} {DATABASE}"))),
    }
}

/// The database from the command line, after a warning if its URL has a password.
fn with_warning(database: &str) -> String {
    if has_password(database) {
        output::warning(format_args!(
            "other users can see a password on the command line, with `ps`\n  Put the URL into {DATABASE} instead"
        ));
    }
    database.to_owned()
}

async fn open(database: &str, table: Option<&str>) -> Result<Arc<dyn InboxAdmin>, Failure> {
    match database.split_once("://") {
        None if table.is_some() => Err(Failure::usage(
            "--table needs a postgres:// URL: an SQLite file holds one inbox\n  Leave --table out",
        )),
        None => Ok(Arc::new(sqlite(Path::new(database))?)),
        Some(("postgres" | "postgresql", _)) => Ok(Arc::new(postgres(database, table).await?)),
        Some(("sqlite" | "file", _)) => {
            Err(Failure::usage("--db takes an SQLite file without a scheme\n  Give --db inbox.db"))
        }
        Some((scheme, _)) => Err(Failure::usage(format!(
            "{}:// is not a supported database\n  Give an SQLite file or a postgres:// URL",
            clean(scheme)
        ))),
    }
}

async fn postgres(url: &str, table: Option<&str>) -> Result<PostgresInbox, Failure> {
    let invalid =
        |error: PostgresStoreError| Failure::usage(format!("the URL of the database: {}", causes(&error)));
    let mut inbox = PostgresInbox::from_url(url).map_err(invalid)?;
    if let Some(table) = table {
        let Some((schema, table)) = table.split_once('.') else {
            return Err(Failure::usage(
                "--table needs a schema before the name\n  Give, for example, --table public.qomplement_inbox",
            ));
        };
        inbox = inbox
            .with_table(schema, table)
            .map_err(|error| Failure::usage(format!("--table: {}", causes(&error))))?;
    }
    // Not `check`: it requires write permission, and most commands only read.
    inbox.list(&InboxFilter::default(), InboxCursor::Newest, 0).await.map_err(store_failure)?;
    Ok(inbox)
}

fn sqlite(file: &Path) -> Result<SqliteInbox, Failure> {
    let name = secret::name(file);
    match std::fs::metadata(file) {
        Ok(metadata) if metadata.is_dir() => {
            return Err(Failure::failed(format!("{name} is a folder\n  Give the file of the inbox in it")));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::failed(missing_file(&name)));
        }
        Err(error) => return Err(Failure::failed(format!("{} cannot be found: {error}", shown(&name)))),
    }
    SqliteInbox::builder(file).create(false).open().map_err(|error| {
        let tip = match &error {
            SqliteInboxError::TooNew { .. } | SqliteInboxError::TooOld { .. } => "",
            SqliteInboxError::NotADatabase | SqliteInboxError::NotAnInbox => {
                "\n  Check the name of the file; nothing in it was changed"
            }
            error => hint(error),
        };
        Failure::failed(format!("{name}: {}{tip}", causes(&error)))
    })
}

/// The message for a missing file, whose name can be a mistyped URL.
fn missing_file(name: &str) -> String {
    let begins = |scheme| name.strip_prefix(scheme).is_some_and(|rest| rest.starts_with([':', '/']));
    let tip = if ["postgres", "postgresql"].into_iter().any(begins) || name.contains("host=") {
        "A URL begins with postgres://; `--help` lists what --db takes"
    } else if ["sqlite", "file"].into_iter().any(begins) {
        "Give an SQLite file without a scheme: --db inbox.db"
    } else {
        "Check the folder: a server creates the file with `SqliteInbox::open`"
    };
    format!("{} does not exist\n  {tip}", shown(name))
}

/// The name of a file, unless it can be a mistyped URL or a list of connection settings: those can hold a password.
fn shown(name: &str) -> &str {
    if name.contains(['@', '=']) { "the file of the inbox" } else { name }
}

/// The failure for an error of the store.
pub(crate) fn store_failure(error: StoreError) -> Failure {
    Failure::failed(store_error(&error))
}

/// The text of an error of the store, with what to do.
pub(crate) fn store_error(error: &StoreError) -> String {
    format!("{}{}", causes(error), hint(error))
}

/// Whether a URL has a password, before its hosts or among its settings.
fn has_password(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    let user = rest.rsplit_once('@').map_or("", |(user, _)| user);
    let settings = rest.split(['?', '&']).skip(1).filter_map(|setting| setting.split_once('='));
    let passwords = settings.filter_map(|(name, value)| (name == "password").then_some(value));
    passwords.chain(user.split_once(':').map(|(_, password)| password)).any(|password| !password.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_found_wherever_a_url_has_one() {
        for url in [
            "postgres://me:secret@host/db",
            "postgres://me:se@cret@host/db",
            "postgres://host/db?password=secret",
            "postgresql://me@host/db?sslmode=require&password=secret",
            "postgres://host/db?user=me&password=se?c=ret",
        ] {
            assert!(has_password(url), "{url}");
        }
        for url in [
            "inbox.db",
            "postgres://host/db",
            "postgres://me:@host/db?password=",
            "postgres://host:5432/password=db",
        ] {
            assert!(!has_password(url), "{url}");
        }
    }

    #[test]
    fn the_name_of_an_inbox_has_no_user_and_no_password() {
        for (database, table, expected) in [
            ("inbox.db", None, "inbox.db"),
            ("/var/lib/a\u{1b}b.db", None, "/var/lib/a\\u{1b}b.db"),
            ("postgres://me:secret@db.example.com/webhooks", None, "db.example.com:5432/webhooks"),
            (
                "postgresql://me:secret@one:5432,two:5433/webhooks?sslmode=require",
                Some("public.events"),
                "one:5432,two:5433/webhooks, table public.events",
            ),
            ("postgres:///webhooks?host=one&port=5433&password=secret", None, "one:5433/webhooks"),
            ("postgres://host?user=me&password=secret", None, "host:5432"),
            ("postgres:///webhooks?host=/run/postgresql&user=me", None, "/run/postgresql/webhooks"),
        ] {
            assert_eq!(name(database, table), expected);
        }
    }
}
