//! Which inbox is meant, and how it is opened. A URL is never printed: it can hold a password.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use qomplement_webhooks::{
    InboxAdmin, PostgresInbox, PostgresStoreError, SqliteInbox, SqliteInboxError, StoreError,
};

use crate::failure::{Failure, causes};
use crate::output;

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
    std::env::var(DATABASE).map_err(|_| Failure::usage(format!("{otherwise} {DATABASE}")))
}

fn given(database: &str) -> String {
    if password(database).is_some() {
        output::warning(format_args!(
            "a password on the command line can be seen by others, as by `ps`; rather put the URL into {DATABASE}"
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
        Some(("sqlite", _)) => Err(Failure::usage("an SQLite inbox is given as a file, such as inbox.db")),
        Some((scheme, _)) => Err(Failure::usage(format!(
            "{scheme}:// is neither a file nor a postgres:// URL: inboxes are in SQLite files or in PostgreSQL"
        ))),
    }
}

async fn postgres(url: &str, table: Option<&str>) -> Result<PostgresInbox, Failure> {
    let wrong = |error: PostgresStoreError| Failure::usage(format!("the database's URL: {}", causes(&error)));
    let mut inbox = PostgresInbox::from_url(url).map_err(wrong)?;
    if let Some(table) = table {
        let Some((schema, table)) = table.split_once('.') else {
            return Err(Failure::usage("--table needs a schema, too: --table public.qomplement_inbox"));
        };
        inbox = inbox.with_table(schema, table).map_err(wrong)?;
    }
    inbox.check().await.map_err(store)?;
    Ok(inbox)
}

fn sqlite(file: &Path) -> Result<SqliteInbox, Failure> {
    if !file.exists() {
        // What looks like a URL gone wrong may hold a password.
        let name =
            if file.to_string_lossy().contains('@') { "of that name".into() } else { file.to_string_lossy() };
        return Err(Failure::failed(format!(
            "there is no file {name}\n  A server with `SqliteInbox::open` creates it; `--help` says what else can be given"
        )));
    }
    SqliteInbox::builder(file).create(false).open().map_err(|error| {
        let tip = match &error {
            SqliteInboxError::TooNew { .. } => "",
            SqliteInboxError::NotADatabase | SqliteInboxError::NotAnInbox => "\n  Nothing in it was changed",
            error => tip(&causes(error)),
        };
        Failure::failed(format!("{}: {}{tip}", file.display(), causes(&error)))
    })
}

/// What a store could not do.
pub(crate) fn store(error: StoreError) -> Failure {
    let text = causes(&error);
    let tip = tip(&text);
    Failure::failed(format!("{text}{tip}"))
}

/// What to do about an error of a database.
fn tip(error: &str) -> &'static str {
    let tips = [
        ("locked", "\n  Another program is writing to the file for long; try again when it has ended"),
        ("readonly", "\n  The file and its folder must be writable, also to look into it"),
        ("unable to open", "\n  The file and its folder must be readable and writable, also to look into it"),
        ("refused", "\n  Is the database running, and is it the right host and port?"),
        ("password authentication failed", "\n  Are user and password right?"),
        (
            "does not exist",
            "\n  The server that receives creates the table (`PostgresInbox::migrate`); is it another --table?",
        ),
        ("full", "\n  Too much is unfinished, or the disk is full; prune, or make room"),
    ];
    tips.into_iter().find(|(sign, _)| error.contains(sign)).map_or("", |(_, tip)| tip)
}

/// The password in a URL.
fn password(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (user, _) = rest.rsplit_once('@')?;
    let (_, password) = user.split_once(':')?;
    (!password.is_empty()).then_some(password)
}
