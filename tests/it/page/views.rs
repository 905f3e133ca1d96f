//! Each view shows what it should, and leads on.

use std::time::Duration;

use http::Method;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::fetch::{FetchError, RequestBudget};
use qomplement_webhooks::inbox::{InboxAdmin, Outcome, Redaction};
use qomplement_webhooks::page::{InboxPage, PageAccess};
use qomplement_webhooks::{InboxStore, MemoryInbox};
use serde_json::json;

use super::visitor::Visitor;
use super::{TRACEPARENT, dead, open, receive, settle, visitor};
use crate::support::inboxes::FaultyInbox;
use crate::support::{Call, Fault};

#[tokio::test(start_paused = true)]
async fn the_overview_counts_rows_and_groups_dead_letters_by_error() {
    let inbox = MemoryInbox::new();
    for number in 0..3 {
        dead(&inbox, &format!("dead-{number}"), "no such customer").await;
    }
    dead(&inbox, "other", "the disk is full").await;
    settle(&inbox, "done-1", Outcome::Done).await;
    inbox.expect(&"expected-1".parse().unwrap(), Duration::from_secs(60)).await.unwrap();
    receive(&inbox, "waiting").await;
    tokio::time::advance(Duration::from_secs(120)).await;
    let mut visitor = visitor(&inbox);
    let overview = visitor.open("").await;
    let words = overview.words();
    for expected in [
        "expected 1 registered, no event yet",
        "received 1 waiting for an attempt",
        "done 1 handled",
        "dead 4 dead letters: no further attempt",
        "Oldest due due 2 min ago",
        "3 no such customer 1 the disk is full",
    ] {
        assert!(words.contains(expected), "{expected}: {words}");
    }
    let list = visitor.open(&overview.link("no such customer")).await;
    assert!(list.words().contains("dead-2") && !list.words().contains("other"), "{}", list.words());
    let json = visitor.json("").await;
    assert_eq!(json["rows"], json!({"expected": 1, "received": 1, "running": 0, "done": 1, "dead": 4}));
    assert_eq!(json["dead_by_error"][0], json!({"error": "no such customer", "rows": 3}));
}

#[tokio::test(start_paused = true)]
async fn the_overview_draws_the_events_of_the_last_hour_and_day() {
    let inbox = MemoryInbox::new();
    for number in 0..7 {
        settle(&inbox, &format!("early-{number}"), Outcome::Done).await;
    }
    tokio::time::advance(Duration::from_secs(2 * 60 * 60)).await;
    settle(&inbox, "done", Outcome::Done).await;
    dead(&inbox, "dead", "no such customer").await;
    for number in 0..2 {
        receive(&inbox, &format!("waiting-{number}")).await;
    }
    tokio::time::advance(Duration::from_secs(30 * 60)).await;
    let mut visitor = visitor(&inbox);
    let overview = visitor.open("").await;
    for expected in [
        "Last hour: 4 received (bars), 1 handled (line)",
        "60 minutes ago peak: 4 in a minute now",
        "Last 24 hours: 11 received (bars), 8 handled (line)",
        "peak: 7 in a quarter of an hour",
    ] {
        assert!(overview.words().contains(expected), "{expected}: {}", overview.words());
    }
    let json = visitor.json("").await;
    let minute =
        |ago, received, handled| json!({"minutes_ago": ago, "received": received, "handled": handled});
    assert_eq!(json["traffic"], json!([minute(30, 4, 1), minute(150, 7, 7)]));
}

#[tokio::test(start_paused = true)]
async fn the_overview_counts_the_errors_beyond_the_most_frequent_and_links_no_error_to_all_dead_letters() {
    let inbox = MemoryInbox::new();
    for number in 0..12 {
        dead(&inbox, &format!("dead-{number}"), &format!("no such customer: {number:02}")).await;
    }
    for number in 12..14 {
        dead(&inbox, &format!("dead-{number}"), "\u{1b}\u{202e}").await;
    }
    let mut visitor = visitor(&inbox);
    let overview = visitor.open("").await;
    assert!(
        overview.words().contains("no such customer: 08 3 more have other errors."),
        "{}",
        overview.words()
    );
    let list = visitor.open(&overview.link("no such customer: 07")).await;
    assert!(list.try_link("dead-7").is_some() && list.try_link("dead-8").is_none(), "{}", list.words());
    assert!(overview.words().contains(r"2 \u{1b}\u{202e}"), "{}", overview.words());
    assert_eq!(overview.try_link(r"\u{1b}\u{202e}"), None);
    assert_eq!(visitor.json("").await["dead_by_other_errors"], 3);
}

#[tokio::test(start_paused = true)]
async fn a_row_whose_lease_has_ended_says_so() {
    let inbox = MemoryInbox::new();
    receive(&inbox, "job-7").await;
    let _leased = inbox.lease(1, Duration::from_secs(30)).await.unwrap();
    let mut visitor = visitor(&inbox);
    let words = visitor.open("?view=job&job=job-7").await.words();
    assert!(words.contains("An attempt runs; its lease ends"), "{words}");
    tokio::time::advance(Duration::from_secs(90)).await;
    let words = visitor.open("?view=job&job=job-7").await.words();
    assert!(words.contains("The worker is gone or late: its lease has ended Body"), "{words}");
    assert!(words.contains("Next lease ended Body"), "{words}");
}

#[tokio::test(start_paused = true)]
async fn the_overview_says_how_full_the_inbox_is_what_is_overdue_and_whether_the_budget_is_open() {
    let inbox = MemoryInbox::new();
    let job = receive(&inbox, "waiting").await;
    inbox.expect(&"expected-1".parse().unwrap(), Duration::from_secs(60)).await.unwrap();
    tokio::time::advance(Duration::from_secs(180)).await;
    let budget = RequestBudget::new(1.0, 1);
    let mut visitor = Visitor::of(open(&inbox).budget(budget.clone()));
    let words = visitor.open("").await.words();
    for expected in ["Oldest overdue overdue 2 min ago", "Unfinished 2 rows, 3", "Budget for the API open"] {
        assert!(words.contains(expected), "{expected}: {words}");
    }
    let closed = budget.acquire().await.unwrap().failed(&job, &FetchError::Unauthorized);
    assert!(closed >= Duration::from_secs(60), "{closed:?}");
    let words = visitor.open("").await.words();
    assert!(words.contains("closed , reopens in 1 min , after: the API key was refused"), "{words}");
    let json = visitor.json("").await;
    assert_eq!((&json["budget"]["open"], &json["max_unfinished_rows"]), (&json!(false), &json!(null)));
    assert!(json["oldest_overdue_seconds"].as_f64() >= Some(120.0), "{json}");
}

#[tokio::test(start_paused = true)]
async fn the_list_is_newest_first_and_its_pages_hold_each_row_once() {
    let inbox = MemoryInbox::new();
    for number in 0..120 {
        receive(&inbox, &format!("job-{number:03}")).await;
    }
    let mut visitor = visitor(&inbox);
    let mut page = visitor.open("?view=list").await;
    let mut seen = Vec::new();
    let jobs = regex::Regex::new(r"job-\d{3}</a>").unwrap();
    loop {
        seen.extend(jobs.find_iter(&page.text).map(|job| job.as_str()[4..7].parse::<u32>().unwrap()));
        let Some(older) = page.try_link("Older") else { break };
        page = visitor.open(&older).await;
    }
    assert_eq!(seen, (0..120).rev().collect::<Vec<_>>());
    assert!(visitor.open(&page.link("Newest")).await.words().contains("job-119"));
    let json = visitor.json("?view=list").await;
    assert_eq!(json["rows"].as_array().unwrap().len(), 50);
    assert_eq!(json["rows"][0]["job_id"], "job-119");
    let next = visitor.json(&format!("?view=list&before={}", json["before"])).await;
    assert_eq!(next["rows"][0]["job_id"], "job-069");
}

#[tokio::test(start_paused = true)]
async fn a_slow_inbox_leaves_a_list_short_and_the_rest_to_the_next_page() {
    let inbox = FaultyInbox::default();
    dead(&inbox.rows, "oldest", "no such customer").await;
    for number in 0..2500 {
        receive(&inbox.rows, &format!("job-{number}")).await;
    }
    let page = InboxPage::new(inbox.clone(), |_| async { PageAccess::full("ada") });
    let mut visitor = Visitor::of(page);
    let query = "?view=list&error=customer";
    assert_eq!(visitor.json(query).await["rows"][0]["job_id"], "oldest");
    assert_eq!(inbox.calls(Call::List), 3);
    inbox.faults.fail(Call::List, [Some(Fault::Slow)]);
    let short = visitor.json(query).await;
    assert_eq!((&short["rows"], inbox.calls(Call::List)), (&json!([]), 4));
    let next = visitor.json(&format!("{query}&before={}", short["before"])).await;
    assert_eq!(next["rows"][0]["job_id"], "oldest");
}

#[tokio::test(start_paused = true)]
async fn a_filter_selects_rows_and_stands_in_its_fields_again() {
    let inbox = MemoryInbox::new();
    dead(&inbox, "old-1", "The disk is full").await;
    tokio::time::advance(Duration::from_secs(7200)).await;
    dead(&inbox, "new-1", "no such customer").await;
    receive(&inbox, "new-2").await;
    let mut visitor = visitor(&inbox);
    for (query, shown, hidden) in [
        ("state=dead", ["old-1", "new-1"].as_slice(), ["new-2"].as_slice()),
        ("prefix=new-", &["new-1", "new-2"], &["old-1"]),
        ("error=DISK", &["old-1"], &["new-1", "new-2"]),
        ("older=1h", &["old-1"], &["new-1", "new-2"]),
        ("newer=1h", &["new-1", "new-2"], &["old-1"]),
        ("type=extract&status=completed&state=received", &["new-2"], &["old-1", "new-1"]),
        ("type=fill_pdf", &[], &["old-1", "new-1", "new-2"]),
    ] {
        let list = visitor.open(&format!("?view=list&{query}")).await;
        for job in shown {
            assert!(list.try_link(job).is_some(), "{query}: {job} is missing");
        }
        for job in hidden {
            assert!(list.try_link(job).is_none(), "{query}: {job} is shown");
        }
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let field = if name == "state" {
                format!("<option selected>{value}</option>")
            } else {
                format!(r#"name="{name}" value="{value}""#)
            };
            assert!(list.text.contains(&field), "{query}: {field}");
        }
        // Through a row and back.
        if let Some(job) = shown.first() {
            let row = visitor.open(&list.link(job)).await;
            let back = visitor.open(&row.link("Back to the list")).await;
            assert!(back.try_link(job).is_some() && hidden.iter().all(|job| back.try_link(job).is_none()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_has_its_error_and_shows_its_body_on_demand() {
    let inbox = MemoryInbox::new();
    let job = dead(&inbox, "job-7", "no such customer").await;
    let mut visitor = visitor(&inbox);
    let row = visitor.open("?view=job&job=job-7").await;
    let words = row.words();
    for expected in
        ["job-7", "State dead", "Type extract", "Last error no such customer", "Arrived now", "Dead letter"]
            .into_iter()
            .chain([&*format!("Trace {TRACEPARENT}")])
    {
        assert!(words.contains(expected), "{expected}: {words}");
    }
    assert!(!row.text.contains("invoice"), "the body is shown unasked");
    let shown = visitor.open(&row.link("Show the body")).await;
    assert!(shown.words().contains(r#""document_type": "invoice""#), "{}", shown.words());
    assert!(shown.words().contains(r#"curl "$WEBHOOK_URL""#), "{}", shown.words());
    let hidden = visitor.open(&shown.link("Hide the body")).await;
    assert!(!hidden.text.contains("invoice"));

    let file = visitor.open(&row.link("Download the body")).await;
    assert_eq!(file.headers["content-type"], "application/octet-stream");
    assert_eq!(file.headers["content-disposition"], r#"attachment; filename="event.json""#);
    let (_, body) = qomplement_webhooks::inbox::InboxAdmin::get(&inbox, &job).await.unwrap().unwrap();
    assert_eq!(file.text.as_bytes(), body.unwrap());

    let json = visitor.json("?view=job&job=job-7").await;
    assert_eq!((&json["state"], &json["error"]), (&json!("dead"), &json!("no such customer")));
    assert_eq!(json["traceparent"], TRACEPARENT);
    assert!(json["body"].is_null() && json["body_bytes"].as_u64() > Some(100), "{json}");
    let json = visitor.json("?view=job&job=job-7&body=1").await;
    assert_eq!(json["body"]["job_id"], "job-7");
    let missing = visitor.json("?view=job&job=job-8").await;
    assert_eq!(missing["error"]["code"], "no_such_job");
}

#[tokio::test(start_paused = true)]
async fn no_body_makes_the_json_of_its_row_unreadable() {
    let inbox = MemoryInbox::new();
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let mut visitor = visitor(&inbox);
    for (job, value, is_string) in [
        ("high", nested(97), false),
        ("deep", nested(98), true),
        ("abyss", nested(100_000), true),
        ("wide", format!("[{}]", vec!["[]"; 1000].join(",")), false),
        ("half", r#""\ud83d""#.to_owned(), true),
        ("whole", r#""\ud83d\ude00""#.to_owned(), false),
        ("key", r#"{"\ude00":1}"#.to_owned(), true),
    ] {
        let body = format!(
            r#"{{"job_id":"{job}","data":{{"id":"{job}","type":"extract","status":"completed","result":{{"x":{value}}}}}}}"#
        );
        inbox.receive(&Envelope::try_from(bytes::Bytes::from(body.clone())).unwrap()).await.unwrap();
        let row = visitor.json(&format!("?view=job&job={job}&body=1")).await;
        assert_eq!(row["state"], "received", "{job}");
        if is_string {
            assert_eq!(row["body"], body, "{job}");
        } else {
            assert_eq!(row["body"]["job_id"], job, "{job}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_json_of_a_row_has_its_body_as_it_is() {
    let inbox = MemoryInbox::new();
    let body = r#"{"job_id":"job-7", "data":{"id":"job-7","type":"extract","status":"completed",
        "result":{"z":12345678901234567890123,"a":1.50,"a":1e400}}}"#;
    inbox.receive(&Envelope::try_from(bytes::Bytes::from(body)).unwrap()).await.unwrap();
    let mut visitor = visitor(&inbox);
    let json = [("accept", "application/json")];
    let answer = visitor.send(Method::GET, "?view=job&job=job-7&body=1", &json, "").await;
    assert!(answer.text.contains(body), "{}", answer.text);
    let row: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&answer.text.replace("1e400", "null")).unwrap();
    assert_eq!((&row["state"], &row["body_bytes"]), (&json!("received"), &json!(body.len())));
}

#[tokio::test(start_paused = true)]
async fn the_timeline_has_each_failed_attempt() {
    let inbox = MemoryInbox::new();
    let retry = Outcome::Retry { after: Duration::ZERO, error: "the database is away".to_owned() };
    settle(&inbox, "job-7", retry).await;
    let leased = inbox.lease(1, Duration::from_secs(30)).await.unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    let dead = Outcome::Dead { error: "no such customer".to_owned() };
    let _ = inbox.settle(&leased[0].lease, &dead).await.unwrap();
    let mut visitor = visitor(&inbox);
    let words = visitor.open("?view=job&job=job-7").await.words();
    let words = regex::Regex::new(r" \([0-9TZ:-]+\)").unwrap().replace_all(&words, "");
    for expected in [
        "Attempt 1 failed after 0 ms, 2 s ago the database is away",
        "Attempt 2 failed after 2.0 s, now no such customer",
    ] {
        assert!(words.contains(expected), "{expected}: {words}");
    }
    let json = visitor.json("?view=job&job=job-7").await;
    assert_eq!(json["failures"][1]["error"], "no such customer");
    assert_eq!(json["failures"][1]["took_seconds"], 2.0);
}

#[tokio::test(start_paused = true)]
async fn the_timeline_has_the_last_replay_between_the_attempts_before_and_after_it() {
    let inbox = MemoryInbox::new();
    let job = dead(&inbox, "job-7", "the disk is full").await;
    let mut visitor = visitor(&inbox);
    let mut timeline = async || {
        let words = visitor.open("?view=job&job=job-7").await.words();
        let words = regex::Regex::new(r" \([0-9TZ:-]+\)").unwrap().replace_all(&words, "").into_owned();
        words.split_once("Timeline ").unwrap().1.to_owned()
    };
    let first = "Arrived now Attempt 1 failed after 0 ms, now the disk is full ";
    assert!(timeline().await.starts_with(&format!("{first}Dead letter")));
    assert!(inbox.replay(&job).await.unwrap());
    let replayed = timeline().await;
    assert!(replayed.starts_with(&format!("{first}Replayed after attempt 1 Waits")), "{replayed}");
    for number in 2..4 {
        let leased = inbox.lease(1, Duration::from_secs(30)).await.unwrap();
        let retry = Outcome::Retry { after: Duration::ZERO, error: format!("still full, {number}") };
        let _ = inbox.settle(&leased[0].lease, &retry).await.unwrap();
    }
    let failed = timeline().await;
    let second = "Replayed after attempt 1 Attempt 2 failed after 0 ms, now still full, 2 Attempt 3 failed";
    assert!(failed.starts_with(&format!("{first}{second}")), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn a_redacted_body_shows_nothing_of_what_was_removed() {
    let inbox = MemoryInbox::new();
    dead(&inbox, "job-7", "no").await;
    let page = open(&inbox).redact(Redaction::fields(["/data/result/fields"]));
    let plain = visitor(&inbox).open("?view=job&job=job-7&body=1").await;
    assert!(plain.text.contains("1500.50"), "{}", plain.words());
    let mut visitor = Visitor::of(page);
    for link in ["?view=job&job=job-7&body=1", "?view=body&job=job-7"] {
        let answer = visitor.open(link).await;
        assert!(!answer.text.contains("1500.50") && answer.text.contains("[redacted]"), "{}", answer.text);
        assert!(!answer.text.contains("curl"), "a command would deliver the placeholders: {}", answer.text);
    }
    let json = visitor.json("?view=job&job=job-7&body=1").await;
    assert_eq!(json["body"]["data"]["result"]["fields"], "[redacted]");
    let broken = open(&inbox).redact(Redaction::new(|_| panic!("broken")));
    let mut visitor = Visitor::of(broken);
    let answer = visitor.open("?view=job&job=job-7&body=1").await;
    assert!(!answer.text.contains("1500.50"), "{}", answer.text);
    let answer = visitor.send(Method::GET, "?view=body&job=job-7", &[], "").await;
    assert_eq!(answer.status, 422);
}

#[tokio::test(start_paused = true)]
async fn every_answer_has_the_headers_that_protect_it() {
    let inbox = MemoryInbox::new();
    dead(&inbox, "job-7", "no").await;
    let mut visitor = visitor(&inbox);
    for link in [
        "",
        "?view=list",
        "?view=job&job=job-7",
        "?view=body&job=job-7",
        "?asset=style.css",
        "?asset=script.js",
        "?asset=icon.svg",
        "?asset=none",
        "?view=none",
        "?view=list&state=none",
        "?view=confirm&action=replay&job=job-7",
    ] {
        let answer = visitor.send(Method::GET, link, &[], "").await;
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("vary", "accept, cookie"),
        ] {
            assert_eq!(answer.headers[name], value, "{link}");
        }
        assert!(!answer.text.contains(" style=") && !answer.text.contains("<style"), "{link}");
    }
    assert_eq!(visitor.send(Method::PUT, "", &[], "").await.headers["allow"], "GET, HEAD, POST");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_has_not_changed_is_not_sent_again() {
    let inbox = MemoryInbox::new();
    dead(&inbox, "job-7", "no").await;
    let mut visitor = visitor(&inbox);
    for link in ["", "?view=list", "?view=job&job=job-7", "?asset=script.js"] {
        visitor.open(link).await;
        let first = visitor.open(link).await;
        let tag = first.headers["etag"].to_str().unwrap().to_owned();
        let again = visitor.send(Method::GET, link, &[("if-none-match", &tag)], "").await;
        assert_eq!((again.status.as_u16(), again.text.as_str()), (304, ""), "{link}");
        assert!(again.headers.contains_key("content-security-policy"));
        let other = visitor.send(Method::GET, link, &[("if-none-match", "\"0\"")], "").await;
        assert_eq!(other.status, 200);
    }
    let tag = visitor.open("").await.headers["etag"].to_str().unwrap().to_owned();
    receive(&inbox, "job-8").await;
    let changed = visitor.send(Method::GET, "", &[("if-none-match", &tag)], "").await;
    assert_eq!(changed.status, 200);
}
