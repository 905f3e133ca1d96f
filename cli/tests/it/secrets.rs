//! Secrets come from the environment or from files, and are never shown.

use std::os::unix::fs::PermissionsExt;

use qomplement_webhooks::auth::WebhookUrlError;
use qomplement_webhooks::{SharedToken, WebhookReceiver};
use serde_json::json;

use super::{Folder, command, finish, run};
use crate::support::servers::{Framework, Server};
use crate::support::{Script, TOKEN};

async fn server(token: &str) -> Server {
    let token = SharedToken::new(token).unwrap();
    let receiver = WebhookReceiver::builder(Script::default().handler()).token(token).build().unwrap();
    Server::start(Framework::Axum, receiver).await
}

#[tokio::test]
async fn a_token_is_generated_with_its_url() {
    run(&["token"]).await.shows(0, "TOKEN\n", "");
    let one = run(&["token"]).await.out;
    assert_ne!(one, run(&["token"]).await.out, "the same token twice");
    SharedToken::new(one.trim()).unwrap();

    let url = "https://example.com/api/webhooks/qomplement?tenant=7";
    let made = run(&["token", "--url", url]).await;
    made.shows(0, &format!("WEBHOOK_TOKEN=TOKEN\nwebhook_url={url}&token=TOKEN\n"), NEW);
    let (token, in_url) = (made.out.lines().next().unwrap(), made.out.lines().nth(1).unwrap());
    assert!(in_url.ends_with(token.trim_start_matches("WEBHOOK_TOKEN=")), "another token: {}", made.out);

    let made = run(&["token", "--url", url, "--format", "json"]).await.json();
    assert_eq!(made["webhook_url"], json!(format!("{url}&token={}", made["token"].as_str().unwrap())));
    assert_eq!(run(&["token", "--format", "json"]).await.json().as_object().unwrap().len(), 1);
}

const NEW: &str = "the URL has a new token: configure your server with this token\n";

#[tokio::test]
async fn the_url_carries_the_token_of_the_environment_if_there_is_one() {
    let folder = Folder::new();
    let file = folder.file("new.token");
    let with = async |args: &[&str]| {
        let mut command = command(&[&["token"], args].concat());
        finish(command.env("WEBHOOK_TOKEN", TOKEN), "").await
    };
    let url = ["--url", "https://example.com/"];
    with(&url).await.shows(
        0,
        &format!("webhook_url=https://example.com/?token={TOKEN}\n").replace(TOKEN, "TOKEN"),
        "the URL has the token in WEBHOOK_TOKEN; unset it to generate a token\n",
    );
    assert!(with(&url).await.out.contains(TOKEN), "another token");
    let json = with(&[&url[..], &["--format", "json"]].concat()).await.json();
    assert_eq!(json, json!({"webhook_url": format!("https://example.com/?token={TOKEN}")}));
    let saved = with(&[&url[..], &["--save", &file]].concat()).await;
    assert!(saved.err == NEW && !saved.out.contains(TOKEN), "a new one is wanted: {saved:?}");
    let alone = with(&[]).await;
    assert!(alone.code == Some(0) && !alone.out.contains(TOKEN), "a new one is wanted: {alone:?}");
    let mut bad = command(&["token", "--url", "https://example.com/"]);
    let bad = finish(bad.env("WEBHOOK_TOKEN", "hidden-secret"), "").await;
    assert!(bad.code == Some(2) && !bad.err.contains("hidden-secret"), "{bad:?}");
}

#[tokio::test]
async fn a_token_is_saved_where_only_its_owner_reads_it_and_never_over_another() {
    let folder = Folder::new();
    let file = folder.file("webhook.token");
    run(&["token", "--save", &file]).await.shows(0, "", "");
    let token = std::fs::read_to_string(&file).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = run(&["token", "--save", &file]).await;
    again.shows(
        2,
        "",
        "error: FOLDER/webhook.token already exists, and can hold a token in use\n  \
            Move the file away, or give another name\n",
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), token);

    let url = run(&["token", "--token-file", &file, "--url", "https://example.com/"]).await;
    assert_eq!(url.out, format!("webhook_url=https://example.com/?token={token}"));
    let nothing = run(&["token", "--token-file", &file]).await;
    nothing.shows(
        2,
        "",
        "error: a token without --url: nothing to do\n  Give --url, or leave the token out to generate one\n",
    );
}

#[tokio::test]
async fn the_token_comes_from_the_environment_a_file_standard_input_or_the_url() {
    let (folder, server) = (Folder::new(), server(TOKEN).await);
    let url = server.url();
    let send = ["send", "--schedule", "none", "--format", "json", "--to"];
    let with = |others: &[&str]| command(&[&send, others].concat());
    let file = folder.write("token", format!("{TOKEN}\n"));
    let in_url = format!("{url}?token={TOKEN}");
    let other = SharedToken::generate().unwrap();

    for (what, mut command, input) in [
        ("nothing", with(&[&url]), ""),
        ("another", with(&[&url]), other.expose()),
        ("the environment", with(&[&url]), TOKEN),
        ("a file", with(&[&url, "--token-file", &file]), ""),
        ("standard input", with(&[&url, "--token-file", "-"]), TOKEN),
        ("a file, and another in the environment", with(&[&url, "--token-file", &file]), other.expose()),
        ("the URL", with(&[&in_url]), ""),
        ("the URL, and another in the environment", with(&[&in_url]), other.expose()),
    ] {
        if what.contains("environment") || what == "another" {
            command.env("WEBHOOK_TOKEN", input);
        }
        let ran = finish(&mut command, input).await;
        let expected = if matches!(what, "nothing" | "another") { "401 unauthorized" } else { "200" };
        assert_eq!(ran.json()["answers"], json!({expected: 1}), "{what}: {ran:?}");
        assert_eq!(ran.err, "", "{what}");
        assert!(!ran.out.contains(TOKEN), "{what}: the token is shown");
    }

    let text = run(&["send", "--to", &in_url]).await;
    assert!(text.code == Some(0) && !text.out.contains(TOKEN), "{text:?}");
}

#[tokio::test]
async fn a_token_on_the_command_line_is_accepted_with_a_warning() {
    // A token can begin with dashes, like an option.
    let token = format!("--{TOKEN}");
    let server = server(&token).await;
    let ran = run(&["send", "--to", &server.url(), "--token", &token, "--format", "json"]).await;
    assert_eq!((ran.code, &ran.json()["answers"]), (Some(0), &json!({"200": 1})));
    assert_eq!(
        ran.err,
        "warning: other users can see a token on the command line, with `ps`\n  Set WEBHOOK_TOKEN or give --token-file instead\n"
    );
}

#[tokio::test]
async fn an_invalid_token_is_refused_and_not_shown() {
    let folder = Folder::new();
    const MAKE: &str = "\n  Make a token with `qomplement-webhooks token`\n";
    const SPACED: &str = "not a token, with spaces: hidden-secret";
    let invalid = |token: &str| SharedToken::new(token).unwrap_err();
    let file = folder.write("token", SPACED);
    let url = format!("http://127.0.0.1:1/?token={TOKEN}");
    let in_env = |args: &[&str], token: &str| {
        let mut command = command(args);
        command.env("WEBHOOK_TOKEN", token);
        command
    };
    for (mut command, expected) in [
        (
            in_env(&["send", "--to", "http://127.0.0.1:1"], "hidden-secret"),
            &*format!("error: WEBHOOK_TOKEN: {}{MAKE}", invalid("hidden-secret")),
        ),
        (in_env(&["listen"], ""), &format!("error: WEBHOOK_TOKEN: {}{MAKE}", invalid(""))),
        (
            command(&["listen", "--token-file", &file]),
            &format!("error: FOLDER/token: {}{MAKE}", invalid(SPACED)),
        ),
        (
            command(&["send", "--to", "http://127.0.0.1:1", "--token-file", "/no/such/file"]),
            "error: /no/such/file cannot be read: No such file or directory (os error 2)\n",
        ),
        (
            command(&["send", "--to", &url, "--token-file", "-"]),
            "error: --to: the URL already has a token\n  Leave out the other token, or the one in the URL\n",
        ),
        (
            in_env(&["send", "--to", "http://example.com/hooks"], TOKEN),
            &format!(
                "error: --to: {}\n  Give an https:// URL: a token is never sent unencrypted\n",
                WebhookUrlError::NotHttps
            ),
        ),
        (
            command(&["send", "-", "--to", "http://127.0.0.1:1", "--token-file", "-"]),
            "error: the body and the token cannot both come from standard input\n  Read one of them from a file\n",
        ),
    ] {
        let ran = finish(&mut command, TOKEN).await;
        ran.shows(2, "", expected);
        assert!(!ran.err.contains("hidden-secret") && !ran.err.contains(TOKEN), "{}", ran.err);
    }
}
