//! Creating, upgrading and checking a store's table. The table's comment holds its version.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deadpool_postgres::{Client, GenericClient, Pool, Transaction};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{IsolationLevel, Row};

use super::{Canceller, Connections, Parameter, TableName, column, is_transient, repeat};
use crate::store::StoreError;

/// Why a table in PostgreSQL cannot be used.
///
/// The source of the [`StoreError`] that a store's `migrate` and `check` return. A store's first call also fails with
/// it if the table is missing or has another version.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresTableError {
    /// The table does not exist.
    #[error("there is no table {table}; `migrate` creates it")]
    Missing {
        /// The table, quoted.
        table: String,
    },
    /// The second table of an inbox, with its counts by minute, does not exist: it was dropped, or not restored.
    #[error(
        "there is no table {beside}, which belongs to {table}: restore it, or create it with its statement of `migrations`"
    )]
    Incomplete {
        /// The inbox's table, quoted.
        table: String,
        /// The missing table, quoted.
        beside: String,
    },
    /// The table's comment has no version: it is another program's table, or the comment was changed.
    #[error(
        "the comment of the table {table} does not begin with `{wanted}`: use another table, or restore the comment"
    )]
    Unversioned {
        /// The table, quoted.
        table: String,
        /// The text that the comment should begin with.
        wanted: String,
    },
    /// The table was made by a newer version of this crate.
    #[error(
        "the table {table} has version {found}, and this program knows versions up to {known}: use a newer program"
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
    /// The `search_path` finds the table in another schema than the one where `migrate` creates it, which is the first
    /// schema of the `search_path` that exists.
    #[error(
        "the table {table} is in the schema {found}, and `migrate` would create it in {wanted}: choose one with `with_table`"
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
        /// The missing privileges, separated by commas.
        lacking: String,
    },
    /// The server is a standby, or a setting of the server, the database or the role makes transactions read-only.
    #[error("the server {}: it takes no writes", if *standby { "is a standby" } else { "begins transactions as read-only (default_transaction_read_only)" })]
    ReadOnly {
        /// Whether the server is a standby.
        standby: bool,
    },
    /// The database's encoding lacks characters.
    #[error("the database's encoding is {found}, which lacks characters: use a database with UTF8")]
    Encoding {
        /// The database's encoding.
        found: String,
    },
}

/// A table, and the statements that create and upgrade it.
#[derive(Clone)]
pub(crate) struct Schema {
    table: TableName,
    /// A second table that the statements use, quoted.
    beside: Option<String>,
    /// The text before the version in the table's comment.
    kind: &'static str,
    /// The statements of each version.
    steps: Vec<String>,
    /// Whether [`Schema::check_once`] found the right version.
    is_checked: Arc<AtomicBool>,
}

/// Makes migrations, of any table, wait for each other. The lock is held until the end of the transaction, so it works
/// behind a pooler in transaction mode.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7814416281309472353)";

/// Describes two tables, which should be one: that of the name in the store's statements (`$1`), and the one that
/// `migrate` makes (`$3`, in the schema `$2` or else in the first of the search path). `$4` finds the version in a
/// comment. `$5` is a second table of the store, whose privileges count, too.
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
        ARRAY(
            SELECT privilege FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
            WHERE NOT has_table_privilege(to_regclass($5), privilege)
        ) AS lacking_beside,
        $5::text IS NULL OR to_regclass($5) IS NOT NULL AS is_complete,
        pg_is_in_recovery() AS is_standby, current_setting('transaction_read_only') = 'on' AS is_read_only,
        current_setting('server_encoding') AS encoding
    FROM (
        SELECT to_regclass($1) AS named, to_regclass(made_in || '.' || $3) AS made, made_in
        FROM (SELECT coalesce($2, quote_ident(current_schema())) AS made_in) AS place
    ) AS tables";

impl Schema {
    /// Each of `steps` holds the statements that upgrade the table by one version; the first creates it. A released step
    /// is never changed.
    pub(crate) fn new(table: TableName, kind: &'static str, steps: Vec<String>) -> Self {
        Self { table, beside: None, kind, steps, is_checked: Arc::default() }
    }

    /// Names a second table that the steps create and the statements use.
    pub(crate) fn with_table_beside(self, name: String) -> Self {
        Self { beside: Some(name), ..self }
    }

    pub(crate) fn table(&self) -> &TableName {
        &self.table
    }

    /// Adds a version.
    pub(crate) fn with_step(&self, statements: &str) -> Self {
        let mut steps = self.steps.clone();
        steps.push(statements.to_owned());
        Self { steps, is_checked: Arc::default(), ..self.clone() }
    }

    /// The complete SQL of each version.
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

    /// The newest version that this program knows.
    fn known(&self) -> u32 {
        u32::try_from(self.steps.len()).unwrap_or(u32::MAX)
    }

    /// Creates the table, or upgrades it to the newest version.
    pub(super) async fn migrate(&self, pool: &Pool) -> Result<(), StoreError> {
        // Before the lock, so that a role without the right to create succeeds if the table is up to date.
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
        // At a stricter level, the migration of another process would be invisible after the wait for the lock.
        let transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted);
        let transaction = transaction.start().await.map_err(StoreError::unavailable)?;
        execute(&transaction, LOCK).await?;
        if let (Some(create), Some(schema)) = (self.create_schema(), self.table.schema()) {
            // `IF NOT EXISTS` alone would demand the right to create a schema even if the schema exists.
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

    /// Checks that a version is the one this program needs.
    fn judge(&self, version: Option<u32>) -> Result<(), PostgresTableError> {
        let (table, known) = (self.table.to_string(), self.known());
        match version {
            None => Err(PostgresTableError::Unversioned { table, wanted: self.kind.to_owned() }),
            Some(found) if found > known => Err(PostgresTableError::TooNew { table, found, known }),
            Some(found) if found < known => Err(PostgresTableError::TooOld { table, found, known }),
            Some(_) => Ok(()),
        }
    }

    /// Checks the version before the first call. A table without a version passes: a restore may have lost its comment.
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

    /// Checks the table, the role's privileges, the server and the database.
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
        let beside = self.beside.clone().unwrap_or_default();
        if !described.is_complete {
            return Err(PostgresTableError::Incomplete { table, beside });
        }
        for (table, lacking) in [(table, described.lacking), (beside, described.lacking_beside)] {
            if !lacking.is_empty() {
                return Err(PostgresTableError::NotAllowed { table, lacking: lacking.join(", ") });
            }
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
        let (named, canceller) = (self.names(), Canceller::default());
        let connections = Connections { pool, reserve: None, canceller: &canceller };
        Described::new(&repeat(connections, DESCRIBE, &parameters(&named), false, is_transient).await?)
    }

    fn names(&self) -> Names {
        (
            self.table.to_string(),
            self.table.schema(),
            self.table.table(),
            self.beside.clone(),
            format!("{}, version ([0-9]{{1,9}})", self.kind),
        )
    }
}

async fn execute(transaction: &Transaction<'_>, statements: &str) -> Result<(), StoreError> {
    transaction.batch_execute(statements).await.map_err(StoreError::unavailable)
}

/// The parameters of [`DESCRIBE`].
type Names = (String, Option<String>, String, Option<String>, String);

fn parameters((named, schema, table, beside, version): &Names) -> [Parameter<'_>; 5] {
    [named as &(dyn ToSql + Sync), schema, table, version, beside].map(|name| (name, Type::TEXT))
}

/// The result of [`DESCRIBE`]. `None` stands for a table that does not exist, `Some(None)` for one without a version.
struct Described {
    /// The version of the table that the store's statements use.
    named: Option<Option<u32>>,
    /// The version of the table that `migrate` makes.
    made: Option<Option<u32>>,
    /// Whether the two are the same table.
    is_one: bool,
    /// The schemas of the two tables.
    named_in: String,
    made_in: String,
    /// The privileges that the role lacks on the named table, and on the one beside it.
    lacking: Vec<String>,
    lacking_beside: Vec<String>,
    /// Whether the table beside it exists, if there should be one.
    is_complete: bool,
    is_standby: bool,
    is_read_only: bool,
    encoding: String,
}

impl Described {
    fn new(rows: &[Row]) -> Result<Self, StoreError> {
        let Some(row) = rows.first() else {
            return Err(StoreError::unavailable("the database returned no description of the table"));
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
            lacking_beside: column(row, "lacking_beside")?,
            is_complete: column(row, "is_complete")?,
            is_standby: column(row, "is_standby")?,
            is_read_only: column(row, "is_read_only")?,
            encoding: column(row, "encoding")?,
        })
    }
}
