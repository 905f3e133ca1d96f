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
When its output is read no further, as by `head`, a command that only shows
ends with 0. One that does something does all of it in silence, and its exit
status tells how that ended; `listen` goes on if it forwards.

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
error: invalid value '0' for '--count <COUNT>': a whole number from 1 on is needed

For more information, try '--help'.
",
        ),
        (
            &["send", "invoice.json", "--to", "http://127.0.0.1"],
            "\
error: there is no file invoice.json, and no event of that name
  Events are extract, fill-pdf, fill-excel and failed
",
        ),
        (
            &["send", "--to", "example.com"],
            "\
error: --to: example.com does not begin with http:// or https://
  Give a URL such as http://ADDRESS
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
warning: a password on the command line can be seen by others, as by `ps`
  Rather put the URL into DATABASE
error: there are no inboxes behind mysql://
  Give an SQLite file or a postgres:// URL
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
error: invalid value '1' for '--every <TIME>': a time with its unit is needed, such as TIME, TIME, 5m or 7d

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
async fn an_error_says_what_is_wrong_with_a_value_and_what_would_be_right() {
    let inbox = |option: &'static str| vec!["inbox", option];
    let to = vec!["send", "--to", "http://127.0.0.1:1"];
    let number = "a whole number from ";
    let time = "a time with its unit is needed, such as 500ms, 10s, 5m or 7d";
    for (command, option, value, expected) in [
        (&to, "--count", "x", "a whole number from 1 on is needed"),
        (&to, "--concurrency", "0", "a whole number from 1 to 10000 is needed"),
        (&to, "--concurrency", "1.5", "a whole number from 1 to 10000 is needed"),
        (&to, "--duplicates", "two", number),
        (&to, "--set", "=1", "give one, such as data.status"),
        (&inbox("list"), "--limit", "ten", number),
        (&inbox("list"), "--after", "", number),
        (&inbox("replay"), "--limit", "x", number),
        (&inbox("watch"), "--rows", "x", number),
        (&inbox("watch"), "--every", "1ms", "50ms at least"),
        (&inbox("prune"), "--bodies", "7", time),
        (&inbox("prune"), "--rows", "seven days", time),
        (&inbox("show"), "--", "job with spaces", "a job id is 1 to 255 visible ASCII characters"),
        (&vec!["fetch", "job"], "--timeout", "0s", "1ms at least"),
        (
            &vec!["fetch", "job"],
            "--origin",
            "api.example.com",
            "--origin: api.example.com does not begin with",
        ),
        (&vec!["listen"], "--port", "65536", "a whole number from 0 to 65535 is needed"),
        (
            &vec!["listen"],
            "--host",
            "localhost",
            "an IP address is needed, such as 127.0.0.1, 0.0.0.0 or ::1",
        ),
        (&vec!["listen"], "--host", "192.0.2.1", "This machine has no such address: try another --host"),
        (&vec!["listen"], "--fail-first", "x", number),
        (&vec!["listen"], "--delay", "5", time),
        (
            &vec!["listen"],
            "--forward",
            "localhost:80?token=hidden",
            "--forward: localhost:80 does not begin with",
        ),
        (
            &vec!["send"],
            "--to",
            "ftp://u:hidden@h/p",
            "--to: ftp://h/p does not begin with http:// or https://",
        ),
        (
            &vec!["send"],
            "--to",
            "http://h:99999/?hidden",
            "--to: http://h:99999/ is no URL: invalid port number",
        ),
        (&vec!["send"], "--to", "http://", "--to: http:// is no URL: empty host"),
        (&vec!["inbox", "list", "--db", "postgres://h/db"], "--table", ".", "--table: a schema's name has"),
        (&vec!["token"], "--url", "example.com", "Give a URL such as https://example.com/webhooks"),
    ] {
        let ran = run(&[&command[..], &[option, value]].concat()).await;
        let said = &ran.err;
        assert!(matches!(ran.code, Some(1 | 2)) && said.contains(expected), "{option} {value}: {said}");
        assert!(!said.contains("hidden"), "{option} {value}: {said}");
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
