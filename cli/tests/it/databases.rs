//! `inbox`, on PostgreSQL.

use qomplement_webhooks::{InboxStore, PostgresInbox};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::inbox::{LIST, fill};
use super::{Going, command, end, run};
use crate::support::databases::{PASSWORD, Server, postgres};

async fn inbox(url: &str, args: &[&str]) -> super::Ran {
    let ran = end(command(&[&["inbox"], args].concat()).env("DATABASE", url).spawn().unwrap()).await;
    assert!(!format!("{ran:?}").contains(PASSWORD), "the password is shown: {ran:?}");
    ran
}

#[tokio::test]
async fn an_inbox_in_postgresql_is_listed_replayed_and_pruned() {
    let url = postgres().url();
    let store = PostgresInbox::from_url(&url).unwrap().with_table("cli", "inbox").unwrap();
    store.migrate().await.unwrap();
    fill(&store).await;
    let table = ["--table", "cli.inbox"];
    let with = |args: &[&'static str]| [args, &table].concat();
    inbox(&url, &with(&["list"])).await.shows(0, LIST, "");
    let again = inbox(&url, &with(&["show", "job-again"])).await;
    let failed = again.out.lines().find(|line| line.starts_with("failed ")).unwrap_or_default();
    assert!(
        failed.starts_with("failed    attempt 1, ") && failed.ends_with("s: the disk is full"),
        "{again:?}"
    );
    let asked = inbox(&url, &with(&["discard", "--all"])).await;
    let question = "error: Discard these 2 dead letters in ADDRESS/postgres, table cli.inbox?\n";
    assert!(asked.code == Some(2) && super::masked(&asked.err).starts_with(question), "{asked:?}");
    let replayed = inbox(&url, &with(&["replay", "--all", "--yes", "--format", "json"])).await;
    assert_eq!(replayed.json()["replayed"].as_u64(), Some(2));
    let pruned = inbox(&url, &with(&["prune", "--bodies", "0s", "--rows", "0s", "--yes"])).await;
    assert!(pruned.code == Some(0) && pruned.out.contains("1 row deleted"), "{pruned:?}");
    let stats = inbox(&url, &with(&["stats", "--format", "json"])).await.json();
    assert_eq!(["received", "done", "dead"].map(|state| stats[state].as_u64()), [Some(4), Some(0), Some(0)]);

    let named = run(&["inbox", "stats", "--db", &url, "--table", "cli.inbox"]).await;
    assert_eq!(named.code, Some(0));
    assert_eq!(
        named.err,
        "warning: other users can see a password on the command line, with `ps`\n  Put the URL into DATABASE instead\n"
    );
}

#[tokio::test]
async fn only_dead_letters_that_are_in_use_are_to_be_replayed_again() {
    let url = postgres().url();
    let store = PostgresInbox::from_url(&url).unwrap().with_table("cli_in_use", "inbox").unwrap();
    store.migrate().await.unwrap();
    fill(&store).await;
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    // Until the connection ends.
    let lock = "BEGIN; SELECT 1 FROM cli_in_use.inbox WHERE job_id IN ('job-done', 'job-odd') FOR UPDATE";
    client.batch_execute(lock).await.unwrap();
    let replay = ["replay", "--all", "--yes", "--table", "cli_in_use.inbox", "--state"];
    for (state, count, note) in [
        ("done", 0, "some rows were in use, and were not replayed\n"),
        ("dead", 1, "some rows were in use: repeat the command\n"),
    ] {
        let replayed = inbox(&url, &[&replay[..], &[state]].concat()).await;
        assert!(replayed.out.ends_with(&format!("\n{count} replayed\n")), "{replayed:?}");
        assert_eq!((replayed.code, replayed.err.as_str()), (Some(0), note));
    }
}

#[tokio::test]
async fn the_error_of_a_database_shows_no_password() {
    let url = postgres().url();
    let missing = inbox(&url, &["stats", "--table", "cli.nothing"]).await;
    let hint = "\n  A receiving server creates the table (`PostgresInbox::migrate`)\n  \
        Check the database in the URL, and --table\n";
    assert!(missing.code == Some(1) && missing.err.ends_with(hint), "{missing:?}");
    assert!(missing.err.contains(r#""cli"."nothing""#), "{missing:?}");
    let other = url.rsplit_once('/').map(|(server, _)| format!("{server}/nothing")).unwrap();
    let other = inbox(&other, &["stats"]).await;
    assert!(
        other.code == Some(1) && other.err.contains("Check the name of the database, at the end of the URL"),
        "{other:?}"
    );
    let refused = inbox(&url.replace("postgres:open", "nobody:open"), &["stats"]).await;
    assert!(
        refused.code == Some(1) && refused.err.contains("Check the user and the password"),
        "{refused:?}"
    );
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = inbox(&format!("postgres://me:{PASSWORD}@{gone}/db"), &["stats"]).await;
    assert!(away.code == Some(1) && away.err.contains("Check that the database is running"), "{away:?}");
    for url in [format!("postgres://me:{PASSWORD}@[::1/db"), format!("postgres://me:{PASSWORD}@host:port/db")]
    {
        let wrong = inbox(&url, &["stats"]).await;
        assert!(
            wrong.code == Some(2) && wrong.err.starts_with("error: the URL of the database: "),
            "{wrong:?}"
        );
    }
    inbox(&url, &["stats", "--table", "inbox"]).await.shows(
        2,
        "",
        "error: --table needs a schema before the name\n  Give, for example, --table public.qomplement_inbox\n",
    );
}

#[tokio::test]
async fn a_role_without_write_permission_reads_an_inbox() {
    let url = postgres().url();
    let store = PostgresInbox::from_url(&url).unwrap().with_table("cli_looking", "inbox").unwrap();
    store.migrate().await.unwrap();
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let grants = "CREATE ROLE looker LOGIN PASSWORD 'looker'; GRANT USAGE ON SCHEMA cli_looking TO looker;
        GRANT SELECT ON cli_looking.inbox TO looker";
    client.batch_execute(grants).await.unwrap();
    let url = format!("postgres://looker:looker@127.0.0.1:{}/postgres", postgres().port());
    let stats = inbox(&url, &["stats", "--table", "cli_looking.inbox", "--format", "json"]).await;
    assert_eq!(stats.json()["received"].as_u64(), Some(0), "{stats:?}");
    let newer = "COMMENT ON TABLE cli_looking.inbox IS 'qomplement-webhooks inbox, version 2'";
    client.batch_execute(newer).await.unwrap();
    let refused = inbox(&url, &["stats", "--table", "cli_looking.inbox"]).await;
    assert!(refused.code == Some(1) && refused.err.contains("has version 2"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_an_outage_and_goes_on_after_it() {
    let mut server = Server::postgres(&[], &[]);
    let store = PostgresInbox::from_url(&server.url()).unwrap();
    store.migrate().await.unwrap();
    store.expect(&"job".parse().unwrap(), super::inbox::HOUR).await.unwrap();
    let mut watch =
        Going::start(command(&["inbox", "watch", "--every", "50ms"]).env("DATABASE", server.url()));
    let mut counts = BufReader::new(watch.child.stdout.take().unwrap()).lines();
    let expected = "expected 1  received 0  running 0  done 0  dead 0";
    assert_eq!(counts.next_line().await.unwrap().unwrap(), expected);
    server.kill();
    while !watch.next_err().await.contains("Check that the database is running") {}
    server.restart();
    assert_eq!(counts.next_line().await.unwrap().unwrap(), expected);
    let ended = watch.interrupt().await;
    assert!(ended.code == Some(0) && !ended.err.contains(PASSWORD), "{ended:?}");
}
