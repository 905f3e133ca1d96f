//! The example servers, as programs: what they print, and how they stop.

use std::time::Duration;

use qomplement_webhooks::sender::{Payload, Sender};
use qomplement_webhooks::{JobType, SharedToken};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use crate::support::programs::{example, start, stop};
use crate::support::{PATH, TOKEN};

async fn serves_and_stops(name: &str) {
    for signal in ["-INT", "-TERM"] {
        let (child, url, said) = start(example(name).env("WEBHOOK_TOKEN", TOKEN)).await;
        assert!(url.ends_with(PATH), "{url}");
        assert!(!said.contains(TOKEN), "the token is shown: {said}");
        let sender = Sender::to_url(&url).unwrap().retry_delays([]);
        let payloads = [
            ("extract_completed", Payload::extract_completed()),
            ("fill_completed", Payload::fill_pdf_completed()),
            ("fill_completed", Payload::fill_excel_completed()),
            ("job_failed", Payload::failed(&JobType::Extract)),
            ("unrecognized", Payload::extract_completed().set("/data/type", "summarize")),
        ];
        let refused = sender.deliver(&payloads[0].1).await;
        assert_eq!(refused.statuses(), [Some(401)], "without the token");

        let sender = sender.token(&SharedToken::new(TOKEN).unwrap());
        let mut expected = String::new();
        for (event, payload) in &payloads {
            for delivery in sender.deliver_in_turn(payload, 2).await {
                assert_eq!(delivery.statuses(), [Some(200)], "{event}");
            }
            expected += &format!("handled {event} {}\n", payload.event().unwrap().job().id());
        }
        let output = stop(child, signal).await;
        assert!(output.status.success(), "{signal}: {:?}", output.status);
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "one line per handler call");
    }

    let (child, url, said) = start(&mut example(name)).await;
    assert!(said.contains("anyone"), "no warning about the missing token: {said}");
    let open = Sender::to_url(&url).unwrap().deliver(Payload::extract_completed()).await;
    assert_eq!(open.statuses(), [Some(200)]);
    assert!(stop(child, "-TERM").await.status.success());

    let refused = example(name).env("WEBHOOK_TOKEN", "short").output().await.unwrap();
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("at least 32"), "a bad token: {message}");
}

#[tokio::test]
async fn the_axum_server_serves_and_stops() {
    serves_and_stops("axum").await;
}

#[tokio::test]
async fn the_actix_web_server_serves_and_stops() {
    serves_and_stops("actix_web").await;
}

#[tokio::test]
async fn the_warp_server_serves_and_stops() {
    serves_and_stops("warp").await;
}

#[tokio::test]
async fn the_hyper_server_serves_and_stops() {
    serves_and_stops("hyper").await;
}

#[tokio::test]
async fn the_hyper_server_speaks_https_with_a_certificate_made_or_given() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = std::env::temp_dir().join(format!("qomplement-webhooks-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();

    let trusting = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let trusting = reqwest::Client::builder().no_proxy().tls_certs_only([trusting]).build().unwrap();
    let careless =
        reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true).build().unwrap();
    let mut given = example("hyper");
    given.env("TLS_CERT", &chain).env("TLS_KEY", &key);
    let mut self_signed = example("hyper");
    self_signed.env("TLS", "self-signed");
    for (mut command, client) in [(given, trusting), (self_signed, careless)] {
        let (child, url, _) = start(&mut command).await;
        let url = url.replace("127.0.0.1", "localhost");
        assert!(url.starts_with("https://"), "{url}");
        let reply = client.post(&url).body(Payload::extract_completed().to_bytes()).send().await.unwrap();
        assert_eq!((reply.status().as_u16(), reply.version()), (200, http::Version::HTTP_2));
        assert!(stop(child, "-TERM").await.status.success());
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn the_quickstart_shows_a_duplicate_and_a_failure_in_under_ten_seconds() {
    let output =
        timeout(Duration::from_secs(10), example("quickstart").output()).await.expect("too slow").unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        shown.matches("handler: extract an invoice over 1500.50").count(),
        1,
        "a duplicate ran:\n{shown}"
    );
    assert_eq!(shown.matches("the disk is full").count(), 1, "{shown}");
    assert!(shown.contains("delivered (503 at "), "the failed form is not retried:\n{shown}");
    assert!(shown.contains("undeliverable (401"), "the forger got in:\n{shown}");
}

#[tokio::test]
async fn no_result_is_lost_or_forged_with_webhooks_and_without() {
    let output = timeout(Duration::from_secs(60), example("never_lose_a_result").output()).await;
    let output = output.expect("too slow").unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let (with, without) = shown.split_once("every webhook is lost").unwrap();
    for (shown, what) in [(with, "with webhooks"), (without, "without webhooks")] {
        for result in ["extract an invoice over 1500.50", "fill_pdf 8 fields", "fill_excel 8 fields"] {
            assert_eq!(shown.matches(result).count(), 1, "{what}:\n{shown}");
        }
    }
    assert!(with.contains("forged: a failure, delivered: true"), "{with}");
    assert!(!shown.contains("no luck"), "a forged failure was believed:\n{shown}");
}

#[tokio::test]
async fn each_job_of_several_accounts_is_fetched_with_the_key_of_its_account() {
    let output = timeout(Duration::from_secs(60), example("several_accounts").output()).await;
    let output = output.expect("too slow").unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for account in ["north", "south"] {
        assert_eq!(shown.matches(&format!("handler: a job of {account} is completed")).count(), 1, "{shown}");
    }
}

#[tokio::test]
async fn the_durable_inbox_server_handles_what_it_stored_once_and_remembers_it() {
    let folder = std::env::temp_dir().join(format!("qomplement-webhooks-durable-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let server = || {
        let mut command = example("durable_inbox");
        command.env("WEBHOOK_TOKEN", TOKEN).env("DATABASE", folder.join("inbox.db"));
        command
    };
    let payloads =
        [Payload::extract_completed(), Payload::fill_pdf_completed(), Payload::fill_excel_completed()];
    let deliver = async |url: &str| {
        let sender = Sender::to_url(url).unwrap().token(&SharedToken::new(TOKEN).unwrap());
        for payload in &payloads {
            for delivery in sender.deliver_in_turn(payload, 2).await {
                assert_eq!(delivery.statuses(), [Some(200)]);
            }
        }
    };
    let (mut child, url, said) = start(&mut server()).await;
    assert!(!said.contains(TOKEN), "the token is shown: {said}");
    deliver(&url).await;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut handled = Vec::new();
    for _ in &payloads {
        let line = timeout(Duration::from_secs(10), lines.next_line()).await.expect("not handled");
        handled.push(line.unwrap().unwrap());
    }
    let mut expected: Vec<_> = payloads
        .iter()
        .map(|payload| payload.event().unwrap())
        .map(|event| format!("handled {} {}", event.name(), event.job().id()))
        .collect();
    handled.sort();
    expected.sort();
    assert_eq!(handled, expected);
    assert!(stop(child, "-TERM").await.status.success());

    let (child, url, _) = start(&mut server()).await;
    deliver(&url).await;
    let output = stop(child, "-INT").await;
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "what was done before the restart is done");
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn the_durable_inbox_server_says_what_is_wrong_with_its_database() {
    for (database, expected) in [
        ("mysql://user:hidden-secret@host/db", "postgres://"),
        ("postgres://user:hidden-secret@127.0.0.1:1/db", "refused"),
        ("/no/such/folder/inbox.db", "cannot be opened"),
    ] {
        let refused = example("durable_inbox").env("DATABASE", database).output().await.unwrap();
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && message.contains(expected), "{database}: {message}");
        assert!(!message.contains("hidden-secret"), "{message}");
    }
}

#[tokio::test]
async fn the_server_with_metrics_shows_what_it_received_and_handled() {
    let folder = std::env::temp_dir().join(format!("qomplement-webhooks-metrics-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let mut server = example("metrics");
    server
        .env("WEBHOOK_TOKEN", TOKEN)
        .env("METRICS_ADDR", "127.0.0.1:0")
        .env("DATABASE", folder.join("inbox.db"));
    let (child, url, said) = start(&mut server).await;
    let metrics = said.lines().find_map(|line| line.strip_prefix("metrics on ")).unwrap().to_owned();
    let sender = Sender::to_url(&url).unwrap().token(&SharedToken::new(TOKEN).unwrap());
    assert_eq!(sender.deliver(&Payload::extract_completed()).await.statuses(), [Some(200)]);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let shown = async || client.get(&metrics).send().await.unwrap().text().await.unwrap();
    let expected = [
        "qomplement_webhooks_requests_total{outcome=\"stored\"} 1",
        "qomplement_webhooks_attempts_total{settled=\"done\"} 1",
        "qomplement_webhooks_end_to_end_seconds_bucket{le=\"+Inf\"} 1",
        "qomplement_webhooks_inbox_max_unfinished_rows 100000",
        "qomplement_webhooks_inbox_rows{state=\"dead\"} 0",
        "# TYPE qomplement_webhooks_inbox_rows gauge",
    ];
    crate::support::eventually("everything is shown", async || {
        let text = shown().await;
        expected.iter().all(|line| text.lines().any(|shown| shown == *line))
    })
    .await;
    assert!(stop(child, "-TERM").await.status.success());
    std::fs::remove_dir_all(folder).unwrap();
}
