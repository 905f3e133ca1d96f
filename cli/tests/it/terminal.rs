//! On a terminal: colours, questions, progress bars, and tables that update in place.

use std::time::Duration;

use bytes::Bytes;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{InboxAdmin, InboxCursor, InboxFilter, InboxState, Outcome, Retention};
use qomplement_webhooks::{InboxStore, SqliteInbox, WebhookReceiver};
use rexpect::session::{PtySession, spawn_command};

use super::inbox::fill;
use super::{Folder, plain_command};
use crate::support::servers::{Framework, Server};
use crate::support::{Act, Script};

/// A command on a terminal of its own.
struct Terminal(PtySession);

impl Terminal {
    fn start(args: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = plain_command(args);
        command.envs(environment.iter().copied());
        Self(spawn_command(command, Some(30_000)).unwrap())
    }

    /// Waits for a text, and returns what came before it.
    fn until(&mut self, text: &str) -> String {
        self.0.exp_string(text).unwrap_or_else(|error| panic!("waited for {text:?}: {error}"))
    }

    fn type_line(&mut self, line: &str) {
        self.0.send_line(line).unwrap();
    }

    fn ctrl_c(&mut self) {
        self.0.send_control('c').unwrap();
    }

    /// The rest of the output, and the exit status; or the text of another end, such as a signal.
    fn end(mut self) -> (String, Result<i32, String>) {
        let rest = self.0.exp_eof().unwrap();
        // Its type belongs to a crate that is not a dependency here.
        let status = format!("{:?}", self.0.process().wait().unwrap());
        let code = status.strip_prefix("Exited(").and_then(|status| status.rsplit_once(", "));
        let code = code.and_then(|(_, code)| code.trim_end_matches(')').parse().ok());
        (rest, code.ok_or(status))
    }
}

const RED: &str = "\u{1b}[31m";
const HIDE_CURSOR: &str = "\u{1b}[?25l";
const SHOW_CURSOR: &str = "\u{1b}[?25h";

async fn filled(folder: &Folder) -> (String, SqliteInbox) {
    let file = folder.file("inbox.db");
    let inbox = SqliteInbox::open(&file).unwrap();
    fill(&inbox).await;
    (file, inbox)
}

#[tokio::test]
async fn colours_are_for_terminals_that_want_them() {
    let folder = Folder::new();
    let (file, _) = filled(&folder).await;
    let list = ["inbox", "list", "--db", &file];
    let (shown, status) = Terminal::start(&list, &[]).end();
    assert_eq!(status, Ok(0));
    assert!(shown.contains(&format!("{RED}job-dead")), "{shown:?}");
    assert!(!shown.contains("such\u{1b}"), "an escape sequence of another's: {shown:?}");
    assert!(shown.contains("    extract     failed      the disk is full"), "why is cut off: {shown:?}");
    for line in shown.lines() {
        let shown = console_width(line);
        assert!(shown <= 80, "{shown} columns: {line:?}");
    }
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let (shown, _) = Terminal::start(&list, &[variable]).end();
        assert!(!shown.contains('\u{1b}'), "{variable:?}: {shown:?}");
    }
    let (shown, status) = Terminal::start(&["inbox", "list"], &[]).end();
    assert!(status == Ok(2) && shown.contains("\u{1b}[31m\u{1b}[1merror:\u{1b}[0m no inbox"), "{shown:?}");
}

/// The columns of a line without its escape sequences.
fn console_width(line: &str) -> usize {
    let escape = regex::Regex::new("\u{1b}\\[[0-9;]*m").unwrap();
    // `rexpect` turns each byte into a character.
    escape.replace_all(line, "").replace("â\u{80}¦", "…").chars().count()
}

#[tokio::test]
async fn a_replay_needs_confirmation_and_only_yes_confirms() {
    let folder = Folder::new();
    let (file, inbox) = filled(&folder).await;
    let dead = async || inbox.stats().await.unwrap().dead;
    let replay = ["inbox", "replay", "--db", &file, "--all"];
    for answer in ["n", "", "yep", "\u{4}"] {
        let mut terminal = Terminal::start(&replay, &[]);
        let before = terminal.until(&format!("Replay these 2 events in {file}? [y/N] "));
        assert!(before.contains("job-dead") && before.contains("job-odd"), "what is asked for: {before}");
        terminal.type_line(answer);
        let (rest, status) = terminal.end();
        assert!(rest.contains("nothing was replayed"), "{answer}: {rest}");
        assert_eq!((status, dead().await), (Ok(1), 2), "{answer:?}");
    }

    let mut terminal = Terminal::start(&replay, &[]);
    terminal.until("[y/N] ");
    terminal.ctrl_c();
    let (_, status) = terminal.end();
    assert!(status.as_ref().is_err_and(|status| status.contains("SIGINT")), "{status:?}");
    assert_eq!(dead().await, 2, "Ctrl-C is no yes");

    let mut terminal = Terminal::start(&replay, &[]);
    terminal.until("[y/N] ");
    terminal.type_line("y");
    let (rest, status) = terminal.end();
    assert!(rest.ends_with("2 replayed\r\n"), "{rest:?}");
    assert_eq!((status, dead().await), (Ok(0), 0));
}

#[tokio::test]
async fn an_event_that_dies_while_the_question_waits_is_not_replayed() {
    let folder = Folder::new();
    let file = folder.file("inbox.db");
    let inbox = SqliteInbox::open(&file).unwrap();
    let receive = async |job: &str| {
        let body =
            format!(r#"{{"job_id":"{job}","data":{{"id":"{job}","type":"extract","status":"failed"}}}}"#);
        inbox.receive(&Envelope::try_from(Bytes::from(body)).unwrap()).await.unwrap();
        inbox.lease(1, Duration::from_secs(600)).await.unwrap().remove(0).lease
    };
    let kill = async |lease| {
        let _ = inbox.settle(&lease, &Outcome::Dead { error: "no".into() }).await.unwrap();
    };
    kill(receive("dead-before").await).await;
    let running = receive("running").await;
    kill(receive("dead-too").await).await;

    let mut terminal = Terminal::start(&["inbox", "replay", "--db", &file, "--all"], &[]);
    terminal.until(&format!("Replay these 2 events in {file}? [y/N] "));
    // An older row between the two, and a new one.
    kill(running).await;
    kill(receive("new").await).await;
    terminal.type_line("y");
    let (rest, status) = terminal.end();
    assert!(rest.ends_with("2 replayed\r\n"), "{rest:?}");
    let filter = InboxFilter::default().state(InboxState::Dead);
    let dead = inbox.list(&filter, InboxCursor::Oldest, 9).await.unwrap().rows;
    let dead: Vec<_> = dead.iter().map(|row| row.job_id.clone()).collect();
    assert_eq!((status, dead), (Ok(0), ["running", "new"].map(str::to_owned).to_vec()));

    let named = ["inbox", "replay", "--db", &file, "new"];
    let mut terminal = Terminal::start(&named, &[]);
    terminal.until("[y/N] ");
    assert!(inbox.replay(&"new".parse().unwrap()).await.unwrap());
    for leased in inbox.lease(9, Duration::from_secs(600)).await.unwrap() {
        let _ = inbox.settle(&leased.lease, &Outcome::Done).await.unwrap();
    }
    terminal.type_line("y");
    let (rest, status) = terminal.end();
    assert!(rest.contains("new not replayed: the row changed meanwhile"), "{rest:?}");
    assert_eq!(
        (status, inbox.stats().await.unwrap().done),
        (Ok(1), 3),
        "what is done now was to be replayed"
    );
}

#[tokio::test]
async fn rows_that_age_while_the_question_waits_are_replayed() {
    let folder = Folder::new();
    let (file, inbox) = filled(&folder).await;
    let replay = ["inbox", "replay", "--db", &file, "--all", "--newer-than", "1h"];
    let mut terminal = Terminal::start(&replay, &[]);
    terminal.until("[y/N] ");
    rusqlite::Connection::open(&file).unwrap().execute_batch("UPDATE inbox SET received_at = 1").unwrap();
    terminal.type_line("y");
    let (rest, status) = terminal.end();
    assert!(rest.ends_with("2 replayed\r\n"), "{rest:?}");
    assert_eq!((status, inbox.stats().await.unwrap().dead), (Ok(0), 0));
}

#[tokio::test]
async fn rows_that_were_not_replayed_after_the_question_are_counted_with_the_reason() {
    let folder = Folder::new();
    let (file, inbox) = filled(&folder).await;
    let asked = |args: &[&str]| {
        let mut terminal =
            Terminal::start(&[&["inbox", args[0], "--db", &file, "--all"], &args[1..]].concat(), &[]);
        terminal.until("[y/N] ");
        terminal
    };
    let mut terminal = asked(&["replay", "--limit", "1"]);
    assert!(inbox.replay(&"job-dead".parse().unwrap()).await.unwrap());
    terminal.type_line("y");
    let (rest, status) = terminal.end();
    assert!(rest.ends_with("0 replayed; 1 not: changed meanwhile\r\nmore rows match\r\n"), "{rest:?}");
    assert_eq!(status, Ok(0));

    assert_eq!(inbox.prune(&Retention::default().payload(Duration::ZERO)).await.unwrap().payloads, 1);
    let mut terminal = asked(&["replay", "--state", "done"]);
    terminal.type_line("y");
    let (rest, _) = terminal.end();
    assert!(rest.ends_with("0 replayed; 1 not: changed meanwhile, or pruned\r\n"), "{rest:?}");

    let by_hand = "INSERT INTO inbox (job_id, state, received_at) VALUES ('by hand', 'dead', 1)";
    rusqlite::Connection::open(&file).unwrap().execute_batch(by_hand).unwrap();
    let mut terminal = asked(&["discard"]);
    terminal.type_line("y");
    let (rest, _) = terminal.end();
    assert!(rest.ends_with("1 discarded; 1 not: without a valid id (give --yes)\r\n"), "{rest:?}");
}

#[tokio::test]
async fn a_terminal_obeys_no_body() {
    let folder = Folder::new();
    let file = folder.file("inbox.db");
    let inbox = SqliteInbox::open(&file).unwrap();
    let body =
        "{\"job_id\":\"job\",\r\"data\":{\"id\":\"job\",\"type\":\"\u{9b}2J\u{202e}\",\"status\":\"x\"}}";
    inbox.receive(&Envelope::try_from(Bytes::from(body)).unwrap()).await.unwrap();
    for args in [&["show", "job", "--raw"] as &[_], &["show", "job"], &["list"]] {
        let (shown, status) =
            Terminal::start(&[&["inbox", args[0], "--db", &file], &args[1..]].concat(), &[]).end();
        assert_eq!(status, Ok(0));
        // `rexpect` turns each byte into a character.
        let shown: Vec<u8> = shown.chars().map(|char| u8::try_from(char).unwrap()).collect();
        let shown = String::from_utf8(shown).unwrap();
        assert!(!shown.contains(['\u{9b}', '\u{202e}']) && shown.contains("202e"), "{args:?}: {shown:?}");
        assert!(!shown.replace("\r\n", "").contains('\r'), "{args:?}: {shown:?}");
    }
}

#[tokio::test]
async fn pruning_needs_confirmation() {
    let folder = Folder::new();
    let (file, inbox) = filled(&folder).await;
    let prune = ["inbox", "prune", "--db", &file, "--bodies", "0s", "--rows", "0s"];
    for (answer, left, expected) in [("no", 1, Ok(1)), ("yes", 0, Ok(0))] {
        let mut terminal = Terminal::start(&prune, &[]);
        terminal.until("[y/N] ");
        terminal.type_line(answer);
        let (rest, status) = terminal.end();
        assert_eq!((status, inbox.stats().await.unwrap().done), (expected, left), "{rest}");
    }
}

#[tokio::test]
async fn a_watch_is_written_again_in_its_place_and_leaves_the_terminal_as_it_was() {
    let folder = Folder::new();
    let (file, inbox) = filled(&folder).await;
    let mut terminal = Terminal::start(&["inbox", "watch", "--db", &file, "--every", "50ms"], &[]);
    terminal.until(HIDE_CURSOR);
    terminal.until("received          2  waiting");
    terminal.until("job-again");
    // Up over seven lines of counts, an empty one, the header and five rows. The narrow terminal gives the header and
    // the rows two lines each.
    terminal.until("\u{1b}[20A");
    assert!(inbox.replay(&"job-dead".parse().unwrap()).await.unwrap());
    terminal.until("received          3  waiting");
    let lease = inbox.lease(1, Duration::from_secs(60)).await.unwrap().remove(0).lease;
    let _ = inbox.settle(&lease, &Outcome::Done).await.unwrap();
    terminal.until("done              2");
    terminal.ctrl_c();
    let (rest, status) = terminal.end();
    assert!(rest.ends_with(SHOW_CURSOR), "{rest:?}");
    assert_eq!(status, Ok(0));
    assert_eq!(inbox.stats().await.unwrap().received, 2, "a watch changes nothing");
    assert_eq!(InboxState::Dead.as_str(), "dead");
}

#[tokio::test]
async fn a_watch_on_a_terminal_that_cannot_move_its_cursor_prints_the_counts_line_by_line() {
    let folder = Folder::new();
    let (file, inbox) = filled(&folder).await;
    let watch = ["inbox", "watch", "--db", &file, "--every", "50ms"];
    let mut terminal = Terminal::start(&watch, &[("TERM", "dumb")]);
    let first = terminal.until("received 2  running");
    assert!(inbox.replay(&"job-dead".parse().unwrap()).await.unwrap());
    let second = terminal.until("received 3  running");
    terminal.ctrl_c();
    let (rest, status) = terminal.end();
    assert_eq!(status, Ok(0));
    assert!(![first, second, rest.clone()].concat().contains('\u{1b}'), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn many_webhooks_are_sent_with_a_bar_that_goes_away() {
    let script = Script::new([Act::Succeed, Act::Hang]);
    let receiver = WebhookReceiver::builder(script.handler()).unauthenticated().build().unwrap();
    let server = Server::start(Framework::Axum, receiver).await;
    let args = ["send", "--to", &server.url(), "--count", "30", "--concurrency", "1", "--schedule", "none"]
        .map(str::to_owned);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let mut terminal = Terminal::start(&args, &[]);
    terminal.until("1/30");
    terminal.ctrl_c();
    let (rest, status) = terminal.end();
    let summary = rest.rsplit('\u{1b}').next().unwrap();
    assert!(summary.contains("unfinished     29"), "{rest:?}");
    assert_eq!(status, Ok(130));
}
