//! The inbox that a command changes, and its name in the question before the change.

use std::sync::Arc;

use clap::{ArgMatches, Args, Command, FromArgMatches};
use qomplement_webhooks::inbox::InboxAdmin;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::database::DatabaseArgs;
use crate::failure::Failure;
use crate::output::clean;

/// The options of [`DatabaseArgs`].
pub(super) struct NamedInbox {
    arguments: DatabaseArgs,
    database: Option<String>,
    table: Option<String>,
}

impl NamedInbox {
    pub(super) async fn open(&self) -> Result<Arc<dyn InboxAdmin>, Failure> {
        self.arguments.open().await
    }

    /// The file, or the host, database and table: no user and no password.
    pub(super) fn name(&self) -> String {
        let database = self.database.clone().or_else(|| std::env::var("DATABASE").ok());
        name(&database.unwrap_or_default(), self.table.as_deref())
    }
}

impl Args for NamedInbox {
    fn augment_args(command: Command) -> Command {
        DatabaseArgs::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        DatabaseArgs::augment_args_for_update(command)
    }
}

impl FromArgMatches for NamedInbox {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let [database, table] = ["database", "table"].map(|id| matches.get_one(id).cloned());
        Ok(Self { arguments: DatabaseArgs::from_arg_matches(matches)?, database, table })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::name;

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
