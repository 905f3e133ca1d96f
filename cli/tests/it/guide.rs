//! The transcripts of the guide's chapter about the command line are real.

use std::time::Duration;

use qomplement_webhooks::inbox::Outcome;
use qomplement_webhooks::{InboxStore, SqliteInbox, WebhookReceiver};
use regex::Regex;

use super::{Folder, Going, command, masked, run};
use crate::support::servers::{Framework, Server};

/// The lines of each console block of the chapter's first minute.
fn consoles() -> Vec<Vec<&'static str>> {
    let chapter = include_str!("../../../docs/command-line.md");
    let minute = chapter.split("\n## ").find(|section| section.starts_with("Try it in one minute")).unwrap();
    let blocks = minute.split("```console\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().lines().collect()).collect()
}

fn arguments(line: &str) -> Vec<&str> {
    let command = line.strip_prefix("$ qomplement-webhooks ").unwrap_or_else(|| panic!("{line}"));
    command.split_whitespace().collect()
}

#[tokio::test]
async fn the_transcripts_of_send_and_listen_are_real() {
    let consoles = consoles();
    let [listen, send, ..] = &consoles[..] else { panic!("{consoles:?}") };
    let mut args = arguments(listen[0]);
    args.extend(["--port", "0"]);
    let mut listening = Going::start(&mut command(&args));
    let said = listening.next_err().await;
    let url = said.strip_prefix("listening on ").unwrap();

    for shown in send.split(|line| line.is_empty()) {
        let command = shown[0].replace("http://127.0.0.1:3000", url);
        let ran = run(&arguments(&command)).await;
        assert_eq!(ran.code, Some(0), "{command}: {ran:?}");
        assert_eq!(masked(&ran.out).trim_end(), masked(&shown[1..].join("\n")), "{command}");
    }
    let heard = listening.interrupt().await;
    let port = Regex::new(r"\b3000\b").unwrap().replace(listen[1], "0").into_owned();
    let shown = masked(&format!("{port}\n{}", listen[2..].join("\n")));
    assert_eq!(format!("{}\n{}", masked(&said), masked(&heard.out).trim_end()), shown, "what listen shows");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_transcripts_of_the_inbox_are_real() {
    let consoles = consoles();
    let [_, _, console] = &consoles[..] else { panic!("{consoles:?}") };
    let folder = Folder::new();
    let file = folder.file("inbox.db");
    let inbox = SqliteInbox::open(&file).unwrap();
    let receiver = WebhookReceiver::durable(inbox.clone()).unauthenticated().build().unwrap();
    let server = Server::start(Framework::Axum, receiver).await;
    let mut commands = console.split(|line| line.is_empty());
    let run_as_shown = async |shown: &[&str]| {
        let command =
            shown[0].replace("127.0.0.1:3000", &server.address.to_string()).replace("inbox.db", &file);
        // 10,000 take long on a busy machine.
        let command = command.replace("--count 10000", "--count 3000");
        let ran = run(&arguments(&command)).await;
        assert_eq!(ran.code, Some(0), "{command}: {ran:?}");
        let numbers = Regex::new(r"\b\d+\b").unwrap();
        let without_numbers = |text: &str| numbers.replace_all(&masked(text), "N").trim_end().to_owned();
        let said = without_numbers(&format!("{}{}", ran.out, ran.err));
        assert_eq!(said, without_numbers(&shown[1..].join("\n")), "{command}");
    };
    run_as_shown(commands.next().unwrap()).await;
    // In place of a worker, with known results.
    let fails =
        Outcome::Retry { after: Duration::ZERO, error: "this one fails, as FAIL_PERCENT asks".to_owned() };
    for (number, leased) in inbox.lease(9, Duration::from_secs(60)).await.unwrap().iter().enumerate() {
        match number {
            0..2 => drop(inbox.settle(&leased.lease, &fails).await.unwrap()),
            2..8 => drop(inbox.settle(&leased.lease, &Outcome::Done).await.unwrap()),
            _ => {}
        }
    }
    for shown in commands {
        run_as_shown(shown).await;
    }
}
