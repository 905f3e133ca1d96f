//! Which inbox is meant, and how it is opened. A URL is never printed: it can hold a password.

use std::env::VarError;
use std::io;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use qomplement_webhooks::inbox::{InboxAdmin, InboxFilter, SqliteInboxError};
use qomplement_webhooks::postgres::PostgresStoreError;
use qomplement_webhooks::store::StoreError;
use qomplement_webhooks::{PostgresInbox, SqliteInbox};

use crate::failure::{Failure, causes};
use crate::hint::hint;
use crate::output::{self, clean};
use crate::secret;

#[derive(Args)]
pub(crate) struct DatabaseArgs {
    /// The inbox: an SQLite file, or a postgres:// URL. A URL with a password is better put into the
    /// environment variable DATABASE, where others cannot see it
    #[arg(long = "db", value_name = "FILE|URL")]
    database: Option<String>,

    /// The inbox's table in PostgreSQL, unless it is qomplement_inbox in the first schema of the search path
    #[arg(long, value_name = "SCHEMA.TABLE")]
    table: Option<String>,
}

/// The environment variable that says where the inbox is, as in the examples.
const DATABASE: &str = "DATABASE";

impl DatabaseArgs {
    /// Opens the inbox. It is not created, and in PostgreSQL it is looked for.
    pub(crate) async fn open(&self) -> Result<Arc<dyn InboxAdmin>, Failure> {
        let database = match &self.database {
            Some(database) => given(database),
            None => from_env("which inbox? Give --db FILE, --db postgres://…, or set")?,
        };
        open(&database, self.table.as_deref()).await
    }
}

/// The inbox that is given as an option: itself, or `-` for the one in the environment.
pub(crate) async fn open_given(database: &str, table: Option<&str>) -> Result<Arc<dyn InboxAdmin>, Failure> {
    let database = if database == "-" { from_env("`-` stands for the inbox in")? } else { given(database) };
    open(&database, table).await
}

fn from_env(otherwise: &str) -> Result<String, Failure> {
    match std::env::var(DATABASE) {
        Ok(database) if !database.is_empty() => Ok(database),
        Err(VarError::NotUnicode(_)) => {
            Err(Failure::usage(format!("{DATABASE}: it holds something else than text")))
        }
        _ => Err(Failure::usage(format!("{otherwise} {DATABASE}"))),
    }
}

fn given(database: &str) -> String {
    if password(database).is_some() {
        output::warning(format_args!(
            "a password on the command line can be seen by others, as by `ps`\n  Rather put the URL into {DATABASE}"
        ));
    }
    database.to_owned()
}

async fn open(database: &str, table: Option<&str>) -> Result<Arc<dyn InboxAdmin>, Failure> {
    match database.split_once("://") {
        None if table.is_some() => {
            Err(Failure::usage("--table is for PostgreSQL: an SQLite file has one inbox"))
        }
        None => Ok(Arc::new(sqlite(Path::new(database))?)),
        Some(("postgres" | "postgresql", _)) => Ok(Arc::new(postgres(database, table).await?)),
        Some(("sqlite" | "file", _)) => {
            Err(Failure::usage("an SQLite inbox is given as a file, without a scheme: --db inbox.db"))
        }
        Some((scheme, _)) => Err(Failure::usage(format!(
            "there are no inboxes behind {}://\n  Give an SQLite file or a postgres:// URL",
            clean(scheme)
        ))),
    }
}

async fn postgres(url: &str, table: Option<&str>) -> Result<PostgresInbox, Failure> {
    let wrong = |error: PostgresStoreError| Failure::usage(format!("the database's URL: {}", causes(&error)));
    let mut inbox = PostgresInbox::from_url(url).map_err(wrong)?;
    if let Some(table) = table {
        let Some((schema, table)) = table.split_once('.') else {
            return Err(Failure::usage("--table needs a schema, too, as in --table public.qomplement_inbox"));
        };
        inbox = inbox
            .with_table(schema, table)
            .map_err(|error| Failure::usage(format!("--table: {}", causes(&error))))?;
    }
    // Not `check`: it asks for the right to write, and most commands only look.
    inbox.list(&InboxFilter::default(), None, 0).await.map_err(store)?;
    Ok(inbox)
}

fn sqlite(file: &Path) -> Result<SqliteInbox, Failure> {
    let name = secret::name(file);
    match std::fs::metadata(file) {
        Ok(metadata) if metadata.is_dir() => {
            return Err(Failure::failed(format!(
                "{name} is a folder\n  An inbox is a file: give its name, too"
            )));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Failure::failed(missing(&name))),
        Err(error) => return Err(Failure::failed(format!("{name} cannot be looked for: {error}"))),
    }
    SqliteInbox::builder(file).create(false).open().map_err(|error| {
        let tip = match &error {
            SqliteInboxError::TooNew { .. } | SqliteInboxError::TooOld { .. } => "",
            SqliteInboxError::NotADatabase | SqliteInboxError::NotAnInbox => {
                "\n  Is it the right file? Nothing in it was changed"
            }
            error => hint(error),
        };
        Failure::failed(format!("{name}: {}{tip}", causes(&error)))
    })
}

/// Why there is no file of a name, which may be a URL gone wrong.
fn missing(name: &str) -> String {
    let begins = |scheme| name.strip_prefix(scheme).is_some_and(|rest| rest.starts_with([':', '/']));
    let tip = if ["postgres", "postgresql"].into_iter().any(begins) {
        "A URL begins with postgres://, and --help tells what else can be given"
    } else if ["sqlite", "file"].into_iter().any(begins) {
        "An SQLite inbox is given as a file, without a scheme: --db inbox.db"
    } else {
        "A server with `SqliteInbox::open` creates it; is it in another folder?"
    };
    // It may hold a password.
    let name = if name.contains('@') { "of that name" } else { name };
    format!("there is no file {name}\n  {tip}")
}

/// What a store could not do.
pub(crate) fn store(error: StoreError) -> Failure {
    Failure::failed(format!("{}{}", causes(&error), hint(&error)))
}

/// The password in a URL.
fn password(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (user, _) = rest.rsplit_once('@')?;
    let (_, password) = user.split_once(':')?;
    (!password.is_empty()).then_some(password)
}
