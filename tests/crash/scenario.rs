//! What can be run.

use std::fmt;
use std::str::FromStr;

use crate::database::Database;
use crate::kills::{self, Victim};
use crate::workers;

/// A way to crash, and a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario(&'static str);

impl Scenario {
    pub const ALL: [Self; 8] = [
        Self("sqlite"),
        Self("postgres"),
        Self("postgres-server"),
        Self("abort-sqlite"),
        Self("abort-postgres"),
        Self("stop-sqlite"),
        Self("stop-postgres"),
        Self("clocks-postgres"),
    ];

    /// Whether it keeps the machine busy.
    pub fn is_load(self) -> bool {
        matches!(self.0, "sqlite" | "postgres" | "postgres-server")
    }

    /// Runs it, and returns what is wrong in the end.
    pub async fn run(self, kills: usize) -> Vec<String> {
        let Self(name) = self;
        let database = if name.ends_with("sqlite") { Database::sqlite() } else { Database::postgres().await };
        match name {
            "sqlite" | "postgres" => kills::run(name, database, Victim::App, kills).await,
            "postgres-server" => kills::run(name, database, Victim::Database, kills).await,
            "abort-sqlite" | "abort-postgres" => workers::abort(&database).await,
            "stop-sqlite" | "stop-postgres" => workers::stop(&database).await,
            _ => workers::clocks(&database).await,
        }
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|Self(name)| *name == text);
        found.ok_or(format!("{text} is none of {}", Self::ALL.map(|Self(name)| name).join(", ")))
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
