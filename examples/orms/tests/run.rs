//! The examples, as programs, on a PostgreSQL server of their own: they check what they show.

#[path = "../../../tests/it/support/databases.rs"]
#[allow(dead_code)]
mod databases;

use std::process::Command;

use tokio_postgres::NoTls;

use self::databases::postgres;

/// Runs an example twice on a new database.
async fn runs(program: &str, name: &str) {
    let (client, connection) = tokio_postgres::connect(&postgres().url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let url = postgres().url().replace("/postgres?", &format!("/{name}?"));
    for _ in 0..2 {
        let output = Command::new(program).env("DATABASE_URL", &url).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        for fact in [
            "and its submission is rolled back",
            "a job is registered and its submission stored",
            "its event is done and booked once",
            "and its completion is rolled back",
            "the next attempt books it once",
            "of two runs at once, one commits",
            "and the event is booked once",
        ] {
            assert!(shown.contains(fact), "{fact}:\n{shown}");
        }
    }
    // What the examples say, once more from outside: three events of each run are done, and each is booked once.
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let counts = "SELECT (SELECT count(*) FROM qomplement_inbox WHERE state = 'done'),
        (SELECT count(*) FROM bookings), (SELECT count(DISTINCT job_id) FROM bookings)";
    let row = client.query_one(counts, &[]).await.unwrap();
    assert_eq!([0, 1, 2].map(|column| row.get::<_, i64>(column)), [6, 6, 6]);
}

#[tokio::test]
async fn the_example_with_sqlx() {
    runs(env!("CARGO_BIN_EXE_sqlx_transaction"), "with_sqlx").await;
}

#[tokio::test]
async fn the_example_with_diesel() {
    runs(env!("CARGO_BIN_EXE_diesel_transaction"), "with_diesel").await;
}

#[tokio::test]
async fn the_example_with_sea_orm() {
    runs(env!("CARGO_BIN_EXE_sea_orm_transaction"), "with_sea_orm").await;
}
