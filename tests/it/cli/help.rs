//! Help, completions, and command lines that are wrong.

use std::process::Stdio;

use super::{command, end, finish, run};

const COMMANDS: [&[&str]; 12] = [
    &["send"],
    &["listen"],
    &["inbox"],
    &["inbox", "list"],
    &["inbox", "show"],
    &["inbox", "replay"],
    &["inbox", "prune"],
    &["inbox", "stats"],
    &["inbox", "watch"],
    &["fetch"],
    &["token"],
    &["completions"],
];

#[tokio::test]
async fn the_help_says_what_there_is_and_how_to_begin() {
    let help = run(&["--help"]).await;
    help.shows(
        0,
        "\
Sends Qomplement's webhooks, listens to them, and looks into inboxes

Usage: qomplement-webhooks <COMMAND>

Commands:
  send  Deliver webhooks as Qomplement does
  listen  Show webhooks as they arrive, and answer as you are told to
  inbox  Look into an inbox, replay and prune
  fetch  Ask the API for a job, and put what came of it into an inbox
  token  Make a strong token, and the webhook URL that carries it
  completions  Print what a shell needs to complete the commands
  help  Print this message or the help of the given subcommand(s)

Options:
  -h, --help  Print help
  -V, --version  Print version

Exit status:
  0  everything was done, and every webhook was acknowledged
  1  something was not: a webhook is undeliverable, there is no such job
  2  the command line or the environment is wrong; nothing was done
  130  stopped by Ctrl-C before it was done; `listen` and `inbox watch` end
       that way, with 0

Environment:
  WEBHOOK_TOKEN  the token that webhooks carry
  DATABASE  the inbox: an SQLite file, or a postgres:// URL
  QOMPLEMENT_API_KEY  the key of your account at the API, for fetch
  NO_COLOR  no colours; they are only used on a terminal

Try it, in two terminals:
  qomplement-webhooks listen
  qomplement-webhooks send --to http://ADDRESS
",
        "",
    );
    let none = run(&[]).await;
    assert_eq!((none.code, none.out.as_str(), none.err), (Some(2), "", help.out), "without a command");
    run(&["--version"]).await.shows(0, concat!("qomplement-webhooks ", env!("CARGO_PKG_VERSION"), "\n"), "");
}

#[tokio::test]
async fn the_help_of_every_command_has_examples_and_fits_on_a_terminal() {
    for path in COMMANDS {
        let help = run(&[path, &["--help"]].concat()).await;
        assert_eq!((help.code, help.err.as_str()), (Some(0), ""), "{path:?}");
        assert!(help.out.contains("\nExamples:\n  "), "{path:?}: {}", help.out);
        for line in help.out.lines() {
            assert!(line.chars().count() <= 100, "{path:?}: {line}");
        }
        let examples = help.out.split("\nExamples:\n").nth(1).unwrap();
        for line in examples.lines() {
            assert!(line.chars().count() <= 80, "{path:?}: {line}");
        }
        // Every example is one of our commands, with options that it has.
        for example in help.out.lines().filter_map(|line| line.trim().strip_prefix("qomplement-webhooks ")) {
            let words = example.split_whitespace().take_while(|word| !matches!(*word, ">" | "|" | "="));
            let mut words: Vec<_> = words.collect();
            words.push("--help");
            let tried = run(&words).await;
            assert_eq!(tried.code, Some(0), "{example}: {}", tried.err);
        }
    }
}

#[tokio::test]
async fn a_wrong_command_line_is_refused_with_what_would_be_right() {
    for (args, expected) in [
        (
            &["sned"] as &[_],
            "\
error: unrecognized subcommand 'sned'

  tip: a similar subcommand exists: 'send'

Usage: qomplement-webhooks <COMMAND>

For more information, try '--help'.
",
        ),
        (
            &["send"],
            "\
error: the following required arguments were not provided:
  --to <URL>

Usage: qomplement-webhooks send --to <URL> [EVENT|FILE]

For more information, try '--help'.
",
        ),
        (
            &["send", "--to", "http://127.0.0.1", "--set", "data.status"],
            "\
error: invalid value 'data.status' for '--set <PATH=VALUE>': a PATH=VALUE is needed, such as data.status=failed

For more information, try '--help'.
",
        ),
        (
            &["send", "--to", "http://127.0.0.1", "--count", "0"],
            "\
error: invalid value '0' for '--count <COUNT>': number would be zero for non-zero type

For more information, try '--help'.
",
        ),
        (
            &["send", "invoice.json", "--to", "http://127.0.0.1"],
            "\
error: there is no file invoice.json, and no event of that name: extract, fill-pdf, fill-excel or failed
",
        ),
        (
            &["send", "--to", "example.com"],
            "\
error: --to: webhooks are delivered to an absolute http or https URL: relative URL without a base
",
        ),
        (
            &["inbox", "list"],
            "\
error: which inbox? Give --db FILE, --db postgres://…, or set DATABASE
",
        ),
        (
            &["inbox", "list", "--state", "waiting"],
            "\
error: invalid value 'waiting' for '--state <STATE>'
  [possible values: expected, received, running, done, dead]

For more information, try '--help'.
",
        ),
        (
            &["inbox", "list", "--db", "mysql://me:secret@host/db"],
            "\
warning: a password on the command line can be seen by others, as by `ps`; rather put the URL into DATABASE
error: mysql:// is neither a file nor a postgres:// URL: inboxes are in SQLite files or in PostgreSQL
",
        ),
        (
            &["inbox", "replay", "--db", "inbox.db"],
            "\
error: replay what? Give job ids, or a filter such as --state dead
",
        ),
        (
            &["inbox", "watch", "--db", "inbox.db", "--every", "1"],
            "\
error: invalid value '1' for '--every <TIME>': time unit needed, for example 1sec or TIME

For more information, try '--help'.
",
        ),
        (
            &["token", "--url", "http://example.com/webhooks"],
            "\
error: --url: the webhook URL must begin with https:// (http:// only for a loopback address)
",
        ),
    ] {
        let ran = run(args).await;
        ran.shows(2, "", expected);
    }
}

#[tokio::test]
async fn there_are_completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]).await;
        assert_eq!((script.code, script.err.as_str()), (Some(0), ""), "{shell}");
        for word in ["replay", "fail-first", "completions"] {
            assert!(script.out.contains(word), "{shell}: {word}");
        }
    }
    let script = run(&["completions", "bash"]).await.out;
    let complete = "COMP_WORDS=(qomplement-webhooks inbox re) COMP_CWORD=2
        $(complete -p qomplement-webhooks | grep -o '_qomplement[^ ]*') qomplement-webhooks re inbox; echo \"${COMPREPLY[@]}\"";
    let mut bash = tokio::process::Command::new("bash");
    bash.args(["-c", &format!("{script}\n{complete}")]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let completed = finish(&mut bash, "").await;
    assert_eq!(completed.out.trim(), "replay", "{completed:?}");
}

#[tokio::test]
async fn nobody_who_reads_is_no_reason_to_panic() {
    for args in [&["--help"] as &[_], &["completions", "bash"], &["token"], &["inbox", "--help"]] {
        let mut child = command(args).spawn().unwrap();
        // As `head` does.
        drop(child.stdout.take());
        let ran = end(child).await;
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{args:?}");
    }
}
