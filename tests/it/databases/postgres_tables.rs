//! The tables of both stores in PostgreSQL: their versions, where they are, and what is found to be wrong with them.

use std::error::Error;
use std::time::Duration;

use qomplement_webhooks::dedup::ClaimToken;
use qomplement_webhooks::postgres::PostgresTableError;
use qomplement_webhooks::store::StoreError;
use qomplement_webhooks::{DedupStore, InboxStore, PostgresDedupStore, PostgresInbox};
use tokio_postgres::Client;

use super::postgres_inbox::{client, count, event, job};
use crate::support::databases::{PASSWORD, Server, postgres};

/// Either of the stores.
#[allow(clippy::large_enum_variant)]
enum Store {
    Dedup(PostgresDedupStore),
    Inbox(PostgresInbox),
}

const KINDS: [&str; 2] = ["dedup", "inbox"];

impl Store {
    fn new(kind: &str, url: &str) -> Self {
        match kind {
            "dedup" => Self::Dedup(PostgresDedupStore::from_url(url).unwrap()),
            _ => Self::Inbox(PostgresInbox::from_url(url).unwrap()),
        }
    }

    /// A new handle of the table `{kind}` in a schema.
    fn in_schema(kind: &str, schema: &str) -> Self {
        match Self::new(kind, &postgres().url()) {
            Self::Dedup(store) => Self::Dedup(store.with_table(schema, kind).unwrap()),
            Self::Inbox(inbox) => Self::Inbox(inbox.with_table(schema, kind).unwrap()),
        }
    }

    /// As the next version of this crate would have it.
    fn next(self, statements: &str) -> Self {
        match self {
            Self::Dedup(store) => Self::Dedup(store.with_next_version(statements)),
            Self::Inbox(inbox) => Self::Inbox(inbox.with_next_version(statements)),
        }
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        match self {
            Self::Dedup(store) => store.migrate().await,
            Self::Inbox(inbox) => inbox.migrate().await,
        }
    }

    async fn check(&self) -> Result<(), StoreError> {
        match self {
            Self::Dedup(store) => store.check().await,
            Self::Inbox(inbox) => inbox.check().await,
        }
    }

    /// What a receiver calls first.
    async fn call(&self) -> Result<(), StoreError> {
        match self {
            Self::Dedup(store) => store.claim(&ClaimToken::new(&job("job")), Duration::ZERO).await.map(drop),
            Self::Inbox(inbox) => inbox.receive(&event("job", "completed", "")).await.map(drop),
        }
    }

    fn migrations(&self) -> Vec<String> {
        match self {
            Self::Dedup(store) => store.migrations(),
            Self::Inbox(inbox) => inbox.migrations(),
        }
    }
}

/// What was found to be wrong with the table.
fn found(result: Result<(), StoreError>) -> PostgresTableError {
    let Err(StoreError::Unavailable(cause)) = result else { panic!("nothing was found: {result:?}") };
    *cause.downcast().unwrap_or_else(|cause| panic!("something else: {cause:?}"))
}

/// Migrates, also on a machine that is too busy to connect in time.
async fn migrate_in_time(store: &Store) -> Result<(), StoreError> {
    loop {
        match store.migrate().await {
            Err(StoreError::Unavailable(cause)) if cause.is::<deadpool_postgres::PoolError>() => {}
            migrated => return migrated,
        }
    }
}

/// What a call that failed says.
fn said(result: Result<(), StoreError>) -> String {
    let error = result.expect_err("it was no error");
    format!("{}", error.source().unwrap())
}

async fn set_version(client: &Client, kind: &str, schema: &str, version: u32) {
    let set = format!("COMMENT ON TABLE {schema}.{kind} IS 'qomplement-webhooks {kind}, version {version}'");
    client.batch_execute(&set).await.unwrap();
}

#[tokio::test]
async fn a_table_of_a_newer_version_is_refused_by_every_first_call_and_left_alone() {
    let client = client(postgres()).await;
    for kind in KINDS {
        let schema = format!("newer_{kind}");
        let store = Store::in_schema(kind, &schema);
        store.migrate().await.unwrap();
        store.call().await.unwrap();
        set_version(&client, kind, &schema, 7).await;
        let fresh = || Store::in_schema(kind, &schema);
        for result in [fresh().migrate().await, fresh().check().await] {
            let error = found(result);
            assert!(matches!(error, PostgresTableError::TooNew { found: 7, known: 1, .. }), "{error:?}");
        }
        assert!(
            said(fresh().call().await).contains("has version 7, and this program knows versions up to 1")
        );
        let kept = format!("SELECT obj_description('{schema}.{kind}'::regclass) LIKE '%, version 7'");
        assert!(client.query_one(&kept, &[]).await.unwrap().get::<_, bool>(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_table_is_upgraded_once_by_any_number_of_processes_and_refused_before() {
    let client = client(postgres()).await;
    let bouncer = Server::pgbouncer(postgres());
    for (kind, url) in KINDS.into_iter().flat_map(|kind| [(kind, postgres().url()), (kind, bouncer.url())]) {
        let schema = format!("older_{kind}_{}", url.len());
        let schema = format!("{schema}_{}", if url == bouncer.url() { "bouncer" } else { "direct" });
        Store::in_schema(kind, &schema).migrate().await.unwrap();
        let upgrade = format!("ALTER TABLE {schema}.{kind} ADD COLUMN added integer");
        let newer = || match Store::new(kind, &url) {
            Store::Dedup(store) => Store::Dedup(store.with_table(&schema, kind).unwrap()).next(&upgrade),
            Store::Inbox(inbox) => Store::Inbox(inbox.with_table(&schema, kind).unwrap()).next(&upgrade),
        };
        let error = found(newer().check().await);
        assert!(matches!(error, PostgresTableError::TooOld { found: 1, known: 2, .. }), "{error:?}");
        assert!(said(newer().call().await).contains("has version 1, and this program needs version 2"));
        // What fails changes nothing, the steps before it included.
        let failing = newer().next("SELECT 1 / 0");
        assert!(failing.migrate().await.is_err());
        assert!(matches!(found(newer().check().await), PostgresTableError::TooOld { found: 1, .. }));

        let processes: Vec<_> = (0..6).map(|_| (newer(), tokio::runtime::Handle::current())).collect();
        let tasks: Vec<_> = processes
            .into_iter()
            .map(|(store, runtime)| {
                runtime.spawn(async move { migrate_in_time(&store).await.map(|()| store) })
            })
            .collect();
        for task in tasks {
            let store = task.await.unwrap().unwrap();
            store.check().await.unwrap();
            store.call().await.unwrap();
        }
        let added = format!("SELECT count(added) FROM {schema}.{kind}");
        assert_eq!(count(&client, &added).await, 0);
        assert!(said(Store::in_schema(kind, &schema).call().await).contains("has version 2"));
    }
}

#[tokio::test]
async fn the_migrations_by_hand_make_what_migrate_makes() {
    let client = client(postgres()).await;
    for kind in KINDS {
        let schema = format!("by_hand_{kind}");
        let upgrade = format!("ALTER TABLE {schema}.{kind} ADD COLUMN added integer;\n");
        let store = Store::in_schema(kind, &schema).next(&upgrade);
        for migration in store.migrations() {
            client.batch_execute(&migration).await.unwrap();
        }
        store.check().await.unwrap();
        store.migrate().await.unwrap();
        store.call().await.unwrap();
    }
}

#[tokio::test]
async fn a_table_without_a_version_is_not_adopted_and_still_used() {
    let client = client(postgres()).await;
    for kind in KINDS {
        let schema = format!("unversioned_{kind}");
        Store::in_schema(kind, &schema).migrate().await.unwrap();
        // As after a restore without comments.
        client.batch_execute(&format!("COMMENT ON TABLE {schema}.{kind} IS NULL")).await.unwrap();
        let store = Store::in_schema(kind, &schema);
        for result in [store.migrate().await, store.check().await] {
            let error = found(result);
            assert!(matches!(error, PostgresTableError::Unversioned { .. }), "{error:?}");
        }
        store.call().await.unwrap();
        // The other store's table is as wrong as any.
        let other = if kind == "dedup" { "inbox" } else { "dedup" };
        let set = format!("COMMENT ON TABLE {schema}.{kind} IS 'qomplement-webhooks {other}, version 1'");
        client.batch_execute(&set).await.unwrap();
        assert!(matches!(found(store.check().await), PostgresTableError::Unversioned { .. }));
        let set = format!(
            "COMMENT ON TABLE {schema}.{kind} IS 'Ours. qomplement-webhooks {kind}, version 1. Keep!'"
        );
        client.batch_execute(&set).await.unwrap();
        store.check().await.unwrap();
    }
}

#[tokio::test]
async fn a_table_is_made_in_the_first_schema_of_the_search_path_whatever_later_ones_hold() {
    let client = client(postgres()).await;
    for kind in KINDS {
        let (first, later) = (format!("first_{kind}"), format!("later_{kind}"));
        client.batch_execute(&format!("CREATE SCHEMA {first}; CREATE SCHEMA {later}")).await.unwrap();
        let at = |path: &str| {
            let url = postgres().url();
            Store::new(kind, &format!("{url}&options=-c%20search_path%3D{}", path.replace(',', "%2C")))
        };
        at(&later).migrate().await.unwrap();
        let both = format!("{first},{later}");
        let error = found(at(&both).check().await);
        assert!(
            matches!(&error, PostgresTableError::Elsewhere { found, wanted, .. } if *found == later && *wanted == first),
            "{error:?}"
        );
        at(&both).migrate().await.unwrap();
        let store = at(&both);
        store.check().await.unwrap();
        store.call().await.unwrap();
        let rows = |schema: &str| format!("SELECT count(*) FROM {schema}.qomplement_{kind}");
        assert_eq!((count(&client, &rows(&first)).await, count(&client, &rows(&later)).await), (1, 0));
    }
}

#[tokio::test]
async fn a_check_finds_what_would_fail_later() {
    let client = client(postgres()).await;
    let latin = "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    client.batch_execute(latin).await.unwrap();
    for kind in KINDS {
        let missing = Store::in_schema(kind, "missing");
        assert!(matches!(found(missing.check().await), PostgresTableError::Missing { .. }));

        let schema = format!("checked_{kind}");
        Store::in_schema(kind, &schema).migrate().await.unwrap();
        let role = format!("checker_{kind}");
        let grants = format!(
            "CREATE ROLE {role} LOGIN PASSWORD '{role}'; GRANT USAGE ON SCHEMA {schema} TO {role};
            GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}"
        );
        client.batch_execute(&grants).await.unwrap();
        let url = format!("postgres://{role}:{role}@127.0.0.1:{}/postgres", postgres().port());
        let at = |url: &str| match Store::new(kind, url) {
            Store::Dedup(store) => Store::Dedup(store.with_table(&schema, kind).unwrap()),
            Store::Inbox(inbox) => Store::Inbox(inbox.with_table(&schema, kind).unwrap()),
        };
        at(&url).check().await.unwrap();
        let tables: &[_] = if kind == "inbox" { &["inbox", "inbox_traffic"] } else { &[kind] };
        let privileges = ["SELECT", "INSERT", "UPDATE", "DELETE"];
        for (table, privilege) in
            tables.iter().flat_map(|table| privileges.map(|privilege| (table, privilege)))
        {
            let change = |change: String| async { client.batch_execute(&{ change }).await.unwrap() };
            change(format!("REVOKE {privilege} ON {schema}.{table} FROM {role}")).await;
            let error = found(at(&url).check().await);
            let PostgresTableError::NotAllowed { table: named, lacking } = &error else {
                panic!("{error:?}")
            };
            assert_eq!((&**lacking, &**named), (privilege, &*format!("\"{schema}\".\"{table}\"")));
            change(format!("GRANT {privilege} ON {schema}.{table} TO {role}")).await;
        }

        if kind == "inbox" {
            let beside = format!("ALTER TABLE {schema}.inbox_traffic RENAME TO elsewhere");
            client.batch_execute(&beside).await.unwrap();
            let error = found(at(&url).check().await);
            assert!(matches!(error, PostgresTableError::Incomplete { .. }), "{error:?}");
            assert!(error.to_string().contains(&format!("\"{schema}\".\"inbox_traffic\"")), "{error}");
            let back = format!("ALTER TABLE {schema}.elsewhere RENAME TO inbox_traffic");
            client.batch_execute(&back).await.unwrap();
        }

        let read_only = format!("{url}?options=-c%20default_transaction_read_only%3Don");
        let error = found(at(&read_only).check().await);
        assert!(matches!(error, PostgresTableError::ReadOnly { standby: false }), "{error:?}");

        let latin = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/latin", postgres().port());
        at(&latin).migrate().await.unwrap();
        let error = found(at(&latin).check().await);
        assert!(matches!(&error, PostgresTableError::Encoding { found } if found == "LATIN1"), "{error:?}");
        assert!(error.source().is_none() && error.to_string().contains("UTF8"), "{error}");
    }
}
