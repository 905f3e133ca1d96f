//! A closed pipe, as after `head`, and a full disk: the work goes on, and the exit status tells its result.

use std::fs::File;

use qomplement_webhooks::inbox::InboxAdmin;
use qomplement_webhooks::sender::{Payload, Sender};
use qomplement_webhooks::{SqliteInbox, WebhookReceiver};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::inbox::fill;
use super::{Folder, Going, Ran, command, end};
use crate::support::servers::{Framework, Server};
use crate::support::{Act, Script};

/// Runs a command with a closed standard output.
async fn unread(command: &mut Command) -> Ran {
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    end(child).await
}

/// Runs a command whose standard output closes after the first line.
async fn read_once(command: &mut Command) -> Ran {
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next_line().await.unwrap().expect("a line");
    drop(lines);
    end(child).await
}

async fn filled(folder: &Folder) -> (String, SqliteInbox) {
    let file = folder.file("inbox.db");
    let inbox = SqliteInbox::open(&file).unwrap();
    fill(&inbox).await;
    (file, inbox)
}

#[tokio::test]
async fn everything_is_sent_and_the_exit_status_stays() {
    for (act, code) in [(Act::Succeed, 0), (Act::Fail, 1)] {
        let script = Script::new([act]);
        let receiver = WebhookReceiver::builder(script.handler()).unauthenticated().build().unwrap();
        let server = Server::start(Framework::Axum, receiver).await;
        let url = server.url();
        let send = ["send", "--to", &url, "--count", "20", "--concurrency", "1", "--schedule", "none"];
        let ran = read_once(&mut command(&send)).await;
        assert_eq!((ran.code, ran.err.as_str(), script.runs()), (Some(code), "", 20), "text");
        let ran = unread(&mut command(&[&send[..], &["--format", "json"]].concat())).await;
        assert_eq!((ran.code, ran.err.as_str(), script.runs()), (Some(code), "", 40), "json");
    }
}

#[tokio::test]
async fn everything_is_replayed_and_pruned() {
    let folder = Folder::new();
    let (file, inbox) = filled(&folder).await;
    let replay = ["inbox", "replay", "--db", &file, "--yes"];
    let ran = unread(&mut command(&[&replay[..], &["--all"]].concat())).await;
    assert_eq!((ran.code, inbox.stats().await.unwrap().dead), (Some(0), 0), "{ran:?}");
    let ran = unread(&mut command(&[&replay[..], &["job-done", "job-nobody"]].concat())).await;
    assert_eq!((ran.code, inbox.stats().await.unwrap().done), (Some(1), 0), "one was not replayed: {ran:?}");

    let folder = Folder::new();
    let (file, inbox) = filled(&folder).await;
    let prune = ["inbox", "prune", "--db", &file, "--yes", "--bodies", "0s", "--rows", "0s"];
    let ran = unread(&mut command(&prune)).await;
    assert_eq!((ran.code, inbox.stats().await.unwrap().done), (Some(0), 0), "{ran:?}");
}

#[tokio::test]
async fn a_server_that_forwards_goes_on() {
    let script = Script::default();
    let receiver = WebhookReceiver::builder(script.handler()).unauthenticated().build().unwrap();
    let server = Server::start(Framework::Axum, receiver).await;
    let mut going = Going::start(&mut command(&["listen", "--port", "0", "--forward", &server.url()]));
    let url = going.next_err().await.strip_prefix("listening on ").unwrap().to_owned();
    drop(going.child.stdout.take());
    let sender = Sender::to_url(&url).unwrap().retry_delays([]);
    for _ in 0..3 {
        assert!(sender.deliver(Payload::extract_completed()).await.is_delivered());
    }
    let ran = going.interrupt().await;
    let said = (ran.code, ran.err.as_str(), script.runs());
    assert_eq!(said, (Some(0), "3 webhooks, 0 requests refused\n", 3), "{ran:?}");
}

#[tokio::test]
async fn a_command_that_only_shows_data_ends_with_0() {
    let folder = Folder::new();
    let (file, _) = filled(&folder).await;
    for args in [
        &["inbox", "list", "--db", &file] as &[_],
        &["inbox", "list", "--db", &file, "--format", "json"],
        &["inbox", "show", "job-new", "--db", &file],
        &["inbox", "show", "job-new", "--db", &file, "--raw"],
        &["inbox", "stats", "--db", &file],
        &["inbox", "watch", "--db", &file, "--every", "50ms"],
        &["inbox", "replay", "--db", &file, "--all", "--dry-run"],
    ] {
        let ran = unread(&mut command(args)).await;
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{args:?}");
    }
    let ran = unread(&mut command(&["inbox", "show", "job-nobody", "--db", &file])).await;
    assert_eq!(ran.code, Some(1), "no such job: {ran:?}");
}

#[tokio::test]
async fn an_output_that_cannot_be_written_is_an_error_after_the_work() {
    let folder = Folder::new();
    let (file, inbox) = filled(&folder).await;
    let script = Script::default();
    let receiver = WebhookReceiver::builder(script.handler()).unauthenticated().build().unwrap();
    let server = Server::start(Framework::Axum, receiver).await;
    for args in [
        &["send", "--to", &server.url(), "--count", "5"] as &[_],
        &["inbox", "list", "--db", &file],
        &["inbox", "watch", "--db", &file],
        &["inbox", "replay", "--db", &file, "--yes", "--all"],
        &["completions", "bash"],
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let ran = end(command(args).stdout(full).spawn().unwrap()).await;
        let expected = "error: the output cannot be written: No space left on device (os error 28)\n";
        assert_eq!((ran.code, ran.err.as_str()), (Some(1), expected), "{args:?}");
    }
    assert_eq!((script.runs(), inbox.stats().await.unwrap().dead), (5, 0));
}
