//! Help, completions, and invalid command lines.

use std::process::Stdio;

use qomplement_webhooks::auth::WebhookUrlError;

use super::{command, end, finish, run};

const COMMANDS: [&[&str]; 14] = [
    &["send"],
    &["listen"],
    &["inbox"],
    &["inbox", "list"],
    &["inbox", "show"],
    &["inbox", "replay"],
    &["inbox", "discard"],
    &["inbox", "prune"],
    &["inbox", "stats"],
    &["inbox", "watch"],
    &["inbox", "serve"],
    &["fetch"],
    &["token"],
    &["completions"],
];

#[tokio::test]
async fn the_help_lists_the_commands_and_how_to_begin() {
    let help = run(&["--help"]).await;
    help.shows(
        0,
        "\
Sends and receives Qomplement's webhooks, and operates inboxes

Usage: qomplement-webhooks <COMMAND>

Commands:
  send  Deliver webhooks on the schedule of Qomplement
  listen  Show webhooks as they arrive, and answer them
  inbox  Show, replay, discard and prune the rows of an inbox
  fetch  Fetch jobs from the API, and print, store or deliver their events
  token  Generate a token, and the webhook URL with the token
  completions  Print a script that lets a shell complete the commands
  help  Print this message or the help of the given subcommand(s)

Options:
  -h, --help  Print help
  -V, --version  Print version

Exit status:
  0  success; every webhook was acknowledged
  1  failure: an undeliverable webhook, no such job, an unavailable store
  2  the command line or the environment is wrong; nothing was done
  130  interrupted by Ctrl-C; `listen`, `inbox watch` and `inbox serve` end
       with 0 then
A closed pipe, as after `head`, does not change the exit status. A command that
only shows data ends with 0; any other finishes its work without output.
`listen` ends, unless it forwards.

Environment:
  WEBHOOK_TOKEN  the token in the webhook URL
  DATABASE  the inbox: an SQLite file or a postgres:// URL
  QOMPLEMENT_API_KEY  the API key of your account, for `fetch`
  NO_COLOR  turns colours off; only a terminal gets colours

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
async fn the_error_of_an_invalid_command_line_names_a_valid_one() {
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
error: invalid value 'data.status' for '--set <PATH=VALUE>': expected PATH=VALUE, such as data.status=failed

For more information, try '--help'.
",
        ),
        (
            &["send", "--to", "http://127.0.0.1", "--count", "0"],
            "\
error: invalid value '0' for '--count <COUNT>': expected a whole number, at least 1

For more information, try '--help'.
",
        ),
        (
            &["send", "invoice.json", "--to", "http://127.0.0.1"],
            "\
error: invoice.json is neither an event nor an existing file
  The events are extract, fill-pdf, fill-excel and failed
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
error: no inbox given
  Give --db FILE or --db postgres://…, or set DATABASE
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
warning: other users can see a password on the command line, with `ps`
  Put the URL into DATABASE instead
error: mysql:// is not a supported database
  Give an SQLite file or a postgres:// URL
",
        ),
        (
            &["inbox", "replay", "--db", "inbox.db"],
            "\
error: no events selected
  Give job ids, or --all with options such as --state dead
",
        ),
        (
            &["inbox", "watch", "--db", "inbox.db", "--every", "1"],
            "\
error: invalid value '1' for '--every <TIME>': expected a duration with a unit, such as TIME, TIME, 5m or 7d

For more information, try '--help'.
",
        ),
        (
            &["token", "--url", "http://example.com/webhooks"],
            &format!("error: --url: {}\n", WebhookUrlError::NotHttps),
        ),
    ] {
        let ran = run(args).await;
        ran.shows(2, "", expected);
    }
}

#[tokio::test]
async fn the_error_of_an_invalid_value_names_the_valid_ones() {
    let inbox = |option: &'static str| vec!["inbox", option];
    let to = vec!["send", "--to", "http://127.0.0.1:1"];
    let number = "expected a whole number, at least ";
    let time = "expected a duration with a unit, such as 500ms, 10s, 5m or 7d";
    for (command, option, value, expected) in [
        (&to, "--count", "x", "expected a whole number, at least 1"),
        (&to, "--concurrency", "0", "expected a whole number from 1 to 10000"),
        (&to, "--concurrency", "1.5", "expected a whole number from 1 to 10000"),
        (&to, "--duplicates", "two", number),
        (&to, "--set", "=1", "is empty; give one, such as data.status"),
        (&inbox("list"), "--limit", "ten", number),
        (&inbox("list"), "--after", "", number),
        (&inbox("replay"), "--limit", "x", "expected a whole number, at least 1"),
        (&inbox("discard"), "--limit", "0", "expected a whole number, at least 1"),
        (&vec!["inbox", "replay", "job"], "--limit", "1", "cannot be used with"),
        (&vec!["inbox", "discard", "job", "job-2", "--yes"], "--limit", "1", "cannot be used with"),
        (&inbox("replay"), "--job", "", "expected a text; leave the option out to select all rows"),
        (&inbox("discard"), "--error", "", "expected a text"),
        (&inbox("list"), "--type", "", "expected a text"),
        (&inbox("list"), "--status", "", "expected a text"),
        (&inbox("watch"), "--limit", "x", number),
        (&inbox("watch"), "--every", "1ms", "expected at least 50ms"),
        (&inbox("watch"), "--every", "300000000000y", "expected at most 100years"),
        (&inbox("list"), "--older-than", "100years 1s", "expected at most 100years"),
        (&inbox("list"), "--older-than", "100years", "no inbox given"),
        (&inbox("prune"), "--bodies", "7", time),
        (&inbox("prune"), "--rows", "seven days", time),
        (&inbox("show"), "--", "job with spaces", "a job id is 1 to 255 visible ASCII characters"),
        (&vec!["fetch", "job"], "--timeout", "0s", "expected at least 1ms"),
        (
            &vec!["fetch", "job"],
            "--origin",
            "api.example.com",
            "--origin: api.example.com does not begin with",
        ),
        (&vec!["listen"], "--port", "65536", "expected a whole number from 0 to 65535"),
        (&vec!["listen"], "--host", "localhost", "expected an IP address, such as 127.0.0.1, 0.0.0.0 or ::1"),
        (
            &vec!["listen"],
            "--host",
            "192.0.2.1",
            "This machine does not have the address: give another --host",
        ),
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
            "--to: http://h:99999/ is not a URL: invalid port number",
        ),
        // A password may not have these characters unescaped.
        (&vec!["send"], "--to", "http://me:hid/hidden@h/", "--to: h/ is not a URL: invalid port number"),
        (&vec!["send"], "--to", "http://me:hidden?more@h/", "--to: h/ is not a URL: invalid port number"),
        (&vec!["inbox", "stats"], "--db", "host=h password=hidden", "A URL begins with postgres://"),
        (&vec!["send"], "--to", "http://", "--to: http:// is not a URL: empty host"),
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
async fn a_closed_pipe_causes_no_panic() {
    for args in [&["--help"] as &[_], &["completions", "bash"], &["token"], &["inbox", "--help"]] {
        let mut child = command(args).spawn().unwrap();
        // As `head` does.
        drop(child.stdout.take());
        let ran = end(child).await;
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{args:?}");
    }
}
