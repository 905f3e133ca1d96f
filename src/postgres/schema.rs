//! The version of a store's table, which stands in the table's comment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deadpool_postgres::{Client, GenericClient, Pool, Transaction};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{IsolationLevel, Row};

use super::{Connections, TableName, column, repeat};
use crate::store::StoreError;

/// Why a table in PostgreSQL cannot be used.
///
/// It is the source of the [`StoreError`] that `migrate` and `check` of a store return. A store's first call fails for
/// a table that is missing or of another version, too.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresTableError {
    /// There is no such table.
    #[error("there is no table {table}; `migrate` creates it")]
    Missing {
        /// The table, quoted.
        table: String,
    },
    /// The table has no version in its comment: it is another program's, or the comment was changed.
    #[error("the table {table} does not say in its comment that it is `{wanted}`")]
    Unversioned {
        /// The table, quoted.
        table: String,
        /// The beginning of the comment that was looked for.
        wanted: String,
    },
    /// The table was made by a newer version of this crate.
    #[error(
        "the table {table} has version {found}, and this program knows versions up to {known}: use a newer one"
    )]
    TooNew {
        /// The table, quoted.
        table: String,
        /// The table's version.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// The table was made by an older version of this crate.
    #[error(
        "the table {table} has version {found}, and this program needs version {known}; `migrate` upgrades it"
    )]
    TooOld {
        /// The table, quoted.
        table: String,
        /// The table's version.
        found: u32,
        /// The version that this program needs.
        known: u32,
    },
    /// The table is not in the schema where `migrate` creates it: the first that exists in the `search_path`.
    #[error(
        "the table {table} was found in the schema {found}, and `migrate` would create it in {wanted}: say which with `with_table`"
    )]
    Elsewhere {
        /// The table, quoted.
        table: String,
        /// The schema in which the `search_path` finds it.
        found: String,
        /// The schema in which `migrate` would create it.
        wanted: String,
    },
    /// The role lacks privileges.
    #[error("the role may not {lacking} the table {table}: GRANT {lacking} ON {table}")]
    NotAllowed {
        /// The table, quoted.
        table: String,
        /// The privileges that it lacks, with commas between them.
        lacking: String,
    },
    /// The server is a standby, or transactions are read-only by a setting of the server, the database or the role.
    #[error("the server {}: nothing can be written", if *standby { "is a standby" } else { "begins transactions as read-only (default_transaction_read_only)" })]
    ReadOnly {
        /// Whether the server is a standby.
        standby: bool,
    },
    /// The database cannot hold every text.
    #[error("the database's encoding is {found} instead of UTF8: it cannot hold every text")]
    Encoding {
        /// The database's encoding.
        found: String,
    },
}

/// A table, and what makes it: one step for each version.
#[derive(Clone)]
pub(crate) struct Schema {
    table: TableName,
    /// What the table is, as its comment says before the version.
    kind: &'static str,
    steps: Vec<String>,
    /// Whether the version was looked at.
    is_checked: Arc<AtomicBool>,
}

/// Keeps migrations apart, of all tables. It is held until the end of a transaction, so it works behind a pooler in
/// transaction mode.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7814416281309472353)";

/// Describes what the statements' name of the table (`$1`) stands for, and the table that `migrate` makes: `$3` in the
/// schema `$2`, or in the first schema of the search path.
const DESCRIBE: &str = r"
    SELECT named IS NOT NULL AS is_named, made IS NOT NULL AS is_made, named IS NOT DISTINCT FROM made AS is_one,
        substring(obj_description(named, 'pg_class') FROM $4)::int4 AS named_version,
        substring(obj_description(made, 'pg_class') FROM $4)::int4 AS made_version,
        (SELECT relnamespace::regnamespace::text FROM pg_class WHERE pg_class.oid = named) AS named_in,
        made_in,
        ARRAY(
            SELECT privilege FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
            WHERE NOT has_table_privilege(named, privilege)
        ) AS lacking,
        pg_is_in_recovery() AS is_standby, current_setting('transaction_read_only') = 'on' AS is_read_only,
        current_setting('server_encoding') AS encoding
    FROM (
        SELECT to_regclass($1) AS named, to_regclass(made_in || '.' || $3) AS made, made_in
        FROM (SELECT coalesce($2, quote_ident(current_schema())) AS made_in) AS place
    ) AS tables";

impl Schema {
    /// `steps` are the statements that bring the table from each version to the next, starting from nothing. A step
    /// that is released is never changed.
    pub(crate) fn new(table: TableName, kind: &'static str, steps: Vec<String>) -> Self {
        Self { table, kind, steps, is_checked: Arc::default() }
    }

    pub(crate) fn table(&self) -> &TableName {
        &self.table
    }

    /// The same with one version more.
    pub(crate) fn with_step(&self, statements: &str) -> Self {
        let mut steps = self.steps.clone();
        steps.push(statements.to_owned());
        Self::new(self.table.clone(), self.kind, steps)
    }

    /// The statements of each version.
    pub(crate) fn migrations(&self) -> Vec<String> {
        let versions = 1..;
        let schema = self.create_schema().map(|create| format!("{create};\n")).unwrap_or_default();
        let steps = self.steps.iter().zip(versions).map(|(step, version)| {
            let schema = if version == 1 { &*schema } else { "" };
            format!("{schema}{step}{};\n", self.comment(version))
        });
        steps.collect()
    }

    fn create_schema(&self) -> Option<String> {
        self.table.schema().map(|schema| format!("CREATE SCHEMA IF NOT EXISTS {schema}"))
    }

    fn comment(&self, version: u32) -> String {
        format!("COMMENT ON TABLE {} IS '{}, version {version}'", self.table, self.kind)
    }

    fn known(&self) -> u32 {
        u32::try_from(self.steps.len()).unwrap_or(u32::MAX)
    }

    pub(super) async fn migrate(&self, pool: &Pool) -> Result<(), StoreError> {
        // FetchHistory first, so that a role that may not create anything finds a table that needs nothing.
        if self.describe(pool).await?.made.is_some_and(|version| version == Some(self.known())) {
            return Ok(());
        }
        let mut client = pool.get().await.map_err(StoreError::unavailable)?;
        let migrated = self.migrate_locked(&mut client).await;
        if migrated.is_err() {
            drop(Client::take(client));
        }
        migrated
    }

    async fn migrate_locked(&self, client: &mut Client) -> Result<(), StoreError> {
        // In a stricter isolation, what another process has done meanwhile could not be seen.
        let transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted);
        let transaction = transaction.start().await.map_err(StoreError::unavailable)?;
        execute(&transaction, LOCK).await?;
        if let (Some(create), Some(schema)) = (self.create_schema(), self.table.schema()) {
            // Not by `IF NOT EXISTS`: that asks for the right to create before it looks.
            let exists = "SELECT to_regnamespace($1) IS NOT NULL AS exists";
            let exists = transaction.query_typed(exists, &[(&schema, Type::TEXT)]).await;
            let exists = exists.map_err(StoreError::unavailable)?;
            if !exists.first().map_or(Ok(false), |row| column(row, "exists"))? {
                execute(&transaction, &create).await?;
            }
        }
        let named = self.names();
        let described = transaction.query_typed(DESCRIBE, &parameters(&named)).await;
        let described = Described::new(&described.map_err(StoreError::unavailable)?)?;
        let version = match described.made {
            None => 0,
            Some(version) => match self.judge(version) {
                Ok(()) => self.known(),
                Err(PostgresTableError::TooOld { found, .. }) => found,
                Err(error) => return Err(StoreError::unavailable(error)),
            },
        };
        for (step, version) in self.steps.iter().zip(1..).skip(usize::try_from(version).unwrap_or(usize::MAX))
        {
            execute(&transaction, step).await?;
            execute(&transaction, &self.comment(version)).await?;
        }
        transaction.commit().await.map_err(StoreError::unavailable)
    }

    /// Whether a version is this program's.
    fn judge(&self, version: Option<u32>) -> Result<(), PostgresTableError> {
        let (table, known) = (self.table.to_string(), self.known());
        match version {
            None => Err(PostgresTableError::Unversioned { table, wanted: self.kind.to_owned() }),
            Some(found) if found > known => Err(PostgresTableError::TooNew { table, found, known }),
            Some(found) if found < known => Err(PostgresTableError::TooOld { table, found, known }),
            Some(_) => Ok(()),
        }
    }

    /// Looks at the version before the first call. What has no version is not judged here: the comment may be gone.
    pub(super) async fn check_once(&self, pool: &Pool) -> Result<(), StoreError> {
        if self.is_checked.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.describe(pool).await?.named {
            None => {
                let missing = PostgresTableError::Missing { table: self.table.to_string() };
                return Err(StoreError::unavailable(missing));
            }
            Some(None) => {}
            version @ Some(Some(_)) => self.judge(version.flatten()).map_err(StoreError::unavailable)?,
        }
        self.is_checked.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(super) async fn check(&self, pool: &Pool) -> Result<(), StoreError> {
        let described = self.describe(pool).await?;
        self.judge_all(described).map_err(StoreError::unavailable)
    }

    fn judge_all(&self, described: Described) -> Result<(), PostgresTableError> {
        let table = self.table.to_string();
        let Some(version) = described.named else { return Err(PostgresTableError::Missing { table }) };
        if !described.is_one {
            let (found, wanted) = (described.named_in, described.made_in);
            return Err(PostgresTableError::Elsewhere { table, found, wanted });
        }
        self.judge(version)?;
        if !described.lacking.is_empty() {
            return Err(PostgresTableError::NotAllowed { table, lacking: described.lacking.join(", ") });
        }
        if described.is_standby || described.is_read_only {
            return Err(PostgresTableError::ReadOnly { standby: described.is_standby });
        }
        if described.encoding != "UTF8" {
            return Err(PostgresTableError::Encoding { found: described.encoding });
        }
        Ok(())
    }

    async fn describe(&self, pool: &Pool) -> Result<Described, StoreError> {
        let named = self.names();
        Described::new(&repeat(Connections::Pool(pool), DESCRIBE, &parameters(&named)).await?)
    }

    fn names(&self) -> Names {
        (
            self.table.to_string(),
            self.table.schema(),
            self.table.table(),
            format!("{}, version ([0-9]{{1,9}})", self.kind),
        )
    }
}

async fn execute(transaction: &Transaction<'_>, statements: &str) -> Result<(), StoreError> {
    transaction.batch_execute(statements).await.map_err(StoreError::unavailable)
}

/// What [`DESCRIBE`] asks for.
type Names = (String, Option<String>, String, String);

fn parameters((named, schema, table, version): &Names) -> [(&(dyn ToSql + Sync), Type); 4] {
    [(named, Type::TEXT), (schema, Type::TEXT), (table, Type::TEXT), (version, Type::TEXT)]
}

/// The table, its database and the role.
struct Described {
    /// The table that the statements mean: whether there is one, and its version.
    named: Option<Option<u32>>,
    /// The table that `migrate` makes, if it is there.
    made: Option<Option<u32>>,
    is_one: bool,
    named_in: String,
    made_in: String,
    lacking: Vec<String>,
    is_standby: bool,
    is_read_only: bool,
    encoding: String,
}

impl Described {
    fn new(rows: &[Row]) -> Result<Self, StoreError> {
        let Some(row) = rows.first() else {
            return Err(StoreError::unavailable("the database did not describe the table"));
        };
        let version = |is: &str, version: &str| -> Result<Option<Option<u32>>, StoreError> {
            let found: Option<i32> = column(row, version)?;
            Ok(column::<bool>(row, is)?.then_some(found.map(i32::unsigned_abs)))
        };
        Ok(Self {
            named: version("is_named", "named_version")?,
            made: version("is_made", "made_version")?,
            is_one: column(row, "is_one")?,
            named_in: column::<Option<String>>(row, "named_in")?.unwrap_or_default(),
            made_in: column::<Option<String>>(row, "made_in")?.unwrap_or_default(),
            lacking: column(row, "lacking")?,
            is_standby: column(row, "is_standby")?,
            is_read_only: column(row, "is_read_only")?,
            encoding: column(row, "encoding")?,
        })
    }
}
