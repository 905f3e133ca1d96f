//! What can be run.

use std::fmt;
use std::str::FromStr;

use crate::bulk;
use crate::database::Database;
use crate::kills::{self, Victim};
use crate::{disk, failover, workers};

/// A way to crash, and a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario(&'static str);

impl Scenario {
    pub const ALL: [Self; 14] = [
        Self("sqlite"),
        Self("postgres"),
        Self("postgres-server"),
        Self("bulk-sqlite"),
        Self("bulk-postgres"),
        Self("abort-sqlite"),
        Self("abort-postgres"),
        Self("stop-sqlite"),
        Self("stop-postgres"),
        Self("clocks-postgres"),
        Self("failover-postgres"),
        Self("read-only-postgres"),
        Self("full-sqlite"),
        Self("broken-sqlite"),
    ];

    /// Whether it keeps the machine busy.
    pub fn is_load(self) -> bool {
        matches!(
            self.0,
            "sqlite"
                | "postgres"
                | "postgres-server"
                | "bulk-sqlite"
                | "bulk-postgres"
                | "failover-postgres"
                | "read-only-postgres"
        )
    }

    /// Why it cannot be run here, if it cannot.
    pub async fn obstacle(self) -> Option<String> {
        match self.0 {
            "full-sqlite" => disk::FULL.obstacle().await,
            "broken-sqlite" => disk::BROKEN.obstacle().await,
            _ => None,
        }
    }

    /// Runs it, and returns what is wrong in the end.
    pub async fn run(self, kills: usize) -> Vec<String> {
        let Self(name) = self;
        let database = match name {
            // An asynchronous replica loses events, which shows that the check finds them.
            "failover-postgres" => Database::pair(std::env::var_os("ASYNCHRONOUS").is_none()).await,
            _ if name.ends_with("sqlite") => Database::sqlite(),
            _ => Database::postgres().await,
        };
        match name {
            "sqlite" | "postgres" => kills::run(name, database, Victim::App, kills).await,
            "postgres-server" => kills::run(name, database, Victim::Database, kills).await,
            "bulk-sqlite" | "bulk-postgres" => bulk::run(name, &database).await,
            "abort-sqlite" | "abort-postgres" => workers::abort(&database).await,
            "stop-sqlite" | "stop-postgres" => workers::stop(&database).await,
            "failover-postgres" => failover::promote(name, database, kills.div_ceil(20)).await,
            "read-only-postgres" => failover::read_only(name, database, kills.div_ceil(10)).await,
            "full-sqlite" => disk::FULL.run(&database).await,
            "broken-sqlite" => disk::BROKEN.run(&database).await,
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
