//! A row's words: its times, its next step, its attempts and its size, in the list and on its own view.

use std::time::Duration;

use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{InboxAdmin, InboxState, Outcome};
use qomplement_webhooks::page::{InboxPage, PageAccess};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{InboxStore, JobId, MemoryInbox};
use regex::Regex;
use serde_json::json;

use super::foreign::Foreign;
use super::visitor::{Answer, Visitor};
use super::{dead, open, receive, settle, visitor};

const HOUR: Duration = Duration::from_secs(3600);

async fn expect(inbox: &MemoryInbox, job: &str, deadline: Duration) -> JobId {
    let job = job.parse().unwrap();
    inbox.expect(&job, deadline).await.unwrap();
    job
}

/// The cells of the list's only row, without tags. The labels are those of cards.
fn cells(list: &Answer) -> Vec<String> {
    let body = list.text.split_once("<tbody").and_then(|(_, rest)| rest.split_once("</tbody>")).unwrap().0;
    let cell = Regex::new("(?s)<(t[dh])[ >].*?</t[dh]>").unwrap();
    let words = |cell: regex::Match<'_>| Answer { text: cell.as_str().to_owned(), ..list.clone() }.words();
    cell.find_iter(body).map(words).collect()
}

fn headers(list: &Answer) -> Vec<String> {
    let header = Regex::new(r#"<th scope="col"[^>]*>([^<]*)</th>"#).unwrap();
    header.captures_iter(&list.text).map(|found| found[1].to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_registered_job_says_when_its_fetch_is_due_and_not_that_anything_arrived() {
    let inbox = MemoryInbox::new();
    expect(&inbox, "job-7", HOUR).await;
    tokio::time::advance(Duration::from_secs(120)).await;
    let mut visitor = visitor(&inbox);
    let list = visitor.open("?view=list").await;
    assert_eq!(headers(&list)[6..], ["Arrived", "Next"]);
    let found = cells(&list);
    assert_eq!(found[6..], ["Registered 2 min ago", "Next fetch due in 58 min"], "{found:?}");
    let list = visitor.open("?view=list&state=expected").await;
    assert_eq!(headers(&list)[6..], ["Registered", "Next"]);
    assert_eq!(cells(&list)[6], "Registered 2 min ago");
    let row = visitor.open("?view=job&job=job-7").await.words();
    assert!(row.contains("Next fetch due in 58 min"), "{row}");
    assert!(row.contains("The webhook has not arrived; a fetch is due in 58 min"), "{row}");
    assert!(row.contains("Registered 2 min ago") && !row.contains("Arrived"), "{row}");
    let json = visitor.json("?view=job&job=job-7").await;
    assert!(json["registered"].is_string() && json["arrived"].is_null(), "{json}");

    // Past its deadline.
    tokio::time::advance(HOUR).await;
    assert_eq!(cells(&visitor.open("?view=list").await)[7], "Next fetch due (overdue)");
    let row = visitor.open("?view=job&job=job-7").await.words();
    assert!(row.contains("Next fetch due (overdue)"), "{row}");
    assert!(row.contains("Overdue: the webhook has not arrived, and a fetch is due"), "{row}");
}

#[tokio::test(start_paused = true)]
async fn a_registered_job_says_who_fetches_it() {
    let inbox = MemoryInbox::new();
    expect(&inbox, "job-7", Duration::ZERO).await;
    receive(&inbox, "job-8").await;
    let whole = "A job whose webhook has not arrived by its deadline is overdue. A reconciler, or a worker with \
                 Verification::Fetch , fetches overdue jobs. If neither runs, the job stays expected until its webhook arrives";
    let row = visitor(&inbox).open("?view=job&job=job-7").await.words();
    assert!(row.contains(&format!("{whole}.")), "{row}");
    let row = Visitor::of(open(&inbox).source(super::actions::Api)).open("?view=job&job=job-7").await.words();
    assert!(row.contains(&format!("{whole} or you press Fetch now .")), "{row}");
    let row = visitor(&inbox).open("?view=job&job=job-8").await.words();
    assert!(!row.contains("overdue"), "{row}");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_given_up_before_its_event_came_has_not_arrived() {
    let inbox = MemoryInbox::new();
    expect(&inbox, "given-up", Duration::ZERO).await;
    let overdue = inbox.overdue(1, HOUR).await.unwrap();
    let given_up = Outcome::Dead { error: "no such job".to_owned() };
    let _ = inbox.settle(&overdue[0].lease, &given_up).await.unwrap();
    settle(&inbox, "rejected", Outcome::Rejected { error: "no such job".to_owned() }).await;
    let mut visitor = visitor(&inbox);
    for (job, since, other) in [("given-up", "Registered", "Arrived"), ("rejected", "Arrived", "Registered")]
    {
        for view in ["?view=job", "?view=confirm&action=discard"] {
            let words = visitor.open(&format!("{view}&job={job}")).await.words();
            assert!(words.contains(since) && !words.contains(other), "{view} {job}: {words}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_row_of_the_list_has_its_next_step() {
    for (state, next) in [
        ("expected", "Next fetch due in 1 h"),
        ("received", "Next attempt due"),
        ("retry", "Next attempt due in 1 h"),
        ("running", "Next lease ends in 1 h"),
        ("done", ""),
        ("dead", "Next replay or discard"),
    ] {
        let inbox = MemoryInbox::new();
        match state {
            "expected" => expect(&inbox, "job-7", HOUR).await,
            "received" | "running" => receive(&inbox, "job-7").await,
            "retry" => {
                let retry = Outcome::Retry { after: HOUR, error: "the database is away".to_owned() };
                settle(&inbox, "job-7", retry).await
            }
            "done" => settle(&inbox, "job-7", Outcome::Done).await,
            _ => dead(&inbox, "job-7", "no").await,
        };
        if state == "running" {
            inbox.lease(1, HOUR).await.unwrap();
        }
        let found = cells(&visitor(&inbox).open("?view=list").await);
        assert_eq!(found[7], next, "{state}: {found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_without_a_body_is_not_told_to_be_replayed() {
    for (body, next) in [(true, "Next replay or discard"), (false, "Next discard")] {
        let inbox = Foreign { body, ..Foreign::new("no", InboxState::Dead) };
        let page = InboxPage::new(inbox, |_| async { PageAccess::full("ada") });
        let row = Visitor::of(page).open("?view=job&job=job-7").await;
        assert!(row.words().contains(next), "{}", row.words());
        assert_eq!(row.try_link("Replay this row…").is_some(), body);
    }
}

#[tokio::test(start_paused = true)]
async fn the_list_keeps_the_roles_of_its_table_where_css_lays_it_out_as_cards() {
    let inbox = MemoryInbox::new();
    dead(&inbox, "job-7", "no").await;
    let list = visitor(&inbox).open("?view=list").await;
    let part = Regex::new("<(table|thead|tbody|tr|th|td)( [^>]*)?>").unwrap();
    let mut parts = 0;
    for found in part.captures_iter(&list.text) {
        let attributes = found.get(2).map_or("", |found| found.as_str());
        let role = match &found[1] {
            "table" => "table",
            "thead" | "tbody" => "rowgroup",
            "tr" => "row",
            "th" if attributes.contains(r#"scope="col""#) => "columnheader",
            "th" => "rowheader",
            _ => "cell",
        };
        assert!(attributes.contains(&format!(r#" role="{role}""#)), "{}", &found[0]);
        parts += 1;
    }
    assert_eq!(parts, 1 + 2 + 2 + 8 + 8, "{}", list.text);
}

#[tokio::test(start_paused = true)]
async fn the_exact_time_stands_beside_each_relative_one_of_a_row() {
    let inbox = MemoryInbox::new();
    let retry = Outcome::Retry { after: HOUR, error: "the database is away".to_owned() };
    settle(&inbox, "job-7", retry).await;
    expect(&inbox, "job-8", HOUR).await;
    let mut visitor = visitor(&inbox);
    let time = Regex::new(r#"<time datetime="([^"]*)"[^>]*>[^<]*</time>(.{0,60})"#).unwrap();
    for (job, times) in [("job-7", 4), ("job-8", 3)] {
        let row = visitor.open(&format!("?view=job&job={job}&body=1")).await;
        let found: Vec<_> = time.captures_iter(&row.text).collect();
        // Its arrival, its failed attempt, and twice the next one.
        assert_eq!(found.len(), times, "{}", row.text);
        for found in found {
            assert!(
                found[2].starts_with(&format!(r#" <small class="exact">({})</small>"#, &found[1])),
                "{}",
                &found[0]
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_before_a_replay_are_told_from_those_since() {
    let inbox = MemoryInbox::new();
    let job = dead(&inbox, "job-7", "no such customer").await;
    assert!(inbox.replay(&job).await.unwrap());
    let leased = inbox.lease(1, HOUR).await.unwrap();
    let again = Outcome::Dead { error: "no such customer".to_owned() };
    let _ = inbox.settle(&leased[0].lease, &again).await.unwrap();
    let mut visitor = visitor(&inbox);
    let found = cells(&visitor.open("?view=list").await);
    assert_eq!(found[4], "Attempts 1 + 1 before replay", "{found:?}");
    let row = visitor.open("?view=job&job=job-7").await.words();
    assert!(row.contains("Attempts 1, and 1 before the last replay Next replay or discard"), "{row}");
    let json = visitor.json("?view=job&job=job-7").await;
    assert_eq!((&json["attempts"], &json["earlier_attempts"]), (&json!(1), &json!(1)));
}

#[tokio::test(start_paused = true)]
async fn sizes_are_rounded_for_the_eye_and_exact_in_the_title_and_in_json() {
    let inbox = MemoryInbox::new();
    let body = Payload::extract_completed()
        .job_id("job-7")
        .set("/data/result/language", "x".repeat(1 << 21))
        .to_bytes();
    let exact = body.len();
    inbox.receive(&Envelope::try_from(body).unwrap()).await.unwrap();
    let title = format!("2,097,{:03} bytes", exact - 2_097_000);
    let mut visitor = visitor(&inbox);
    let row = visitor.open("?view=job&job=job-7").await;
    assert!(row.words().contains("Body 2.0 MiB"), "{}", row.words());
    assert!(row.text.contains(&format!(r#"<span title="{title}">2.0 MiB</span>"#)), "{}", row.text);
    let overview = visitor.open("").await;
    for expected in ["Unfinished 1 row, 2.0 MiB", "All bodies 2.0 MiB"] {
        assert!(overview.words().contains(expected), "{}", overview.words());
    }
    assert_eq!(overview.text.matches(&title).count(), 2, "{}", overview.text);
    assert_eq!(visitor.json("?view=job&job=job-7").await["body_bytes"], exact);
    let json = visitor.json("").await;
    assert_eq!((&json["bytes"], &json["unfinished_bytes"]), (&json!(exact), &json!(exact)));
}

#[tokio::test(start_paused = true)]
async fn a_view_that_does_not_refresh_says_so() {
    let inbox = MemoryInbox::new();
    dead(&inbox, "job-7", "no").await;
    let mut visitor = visitor(&inbox);
    let row = visitor.open("?view=job&job=job-7").await;
    let note = "This view does not refresh while the body is shown.";
    assert!(row.text.contains("<body data-live>") && !row.words().contains(note), "{}", row.text);
    let shown = visitor.open(&row.link("Show the body")).await;
    assert!(!shown.text.contains("data-live") && shown.words().contains(note), "{}", shown.text);
}

#[tokio::test(start_paused = true)]
async fn the_heading_of_the_list_names_its_rows() {
    let inbox = MemoryInbox::new();
    dead(&inbox, "job-7", "no").await;
    let mut visitor = visitor(&inbox);
    for (query, heading) in [
        ("", "Events"),
        ("&state=done", "Events"),
        ("&state=dead", "Dead letters"),
        ("&state=dead&error=no", "Dead letters"),
        ("&state=expected", "Expected jobs"),
    ] {
        let list = visitor.open(&format!("?view=list{query}")).await;
        assert!(list.text.contains(&format!("<h1>{heading}</h1>")), "{query}: {}", list.text);
        assert!(list.text.contains(&format!("<title>{heading} – Inbox</title>")), "{query}: {}", list.text);
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_no_row_has_leads_to_a_fetch() {
    let inbox = MemoryInbox::new();
    dead(&inbox, "job-7", "no").await;
    let mut visitor = visitor(&inbox);
    let command = "qomplement-webhooks fetch JOB_ID";
    for (query, is_unknown) in [
        ("prefix=job-8", true),
        ("prefix=job-7", false),
        ("prefix=job-8&state=dead", false),
        ("state=done", false),
    ] {
        let words = visitor.open(&format!("?view=list&{query}")).await.words();
        assert_eq!(words.contains(command), is_unknown, "{query}: {words}");
    }
    let missing = visitor.send(http::Method::GET, "?view=job&job=job-8", &[], "").await;
    assert_eq!(missing.status, 404);
    assert!(
        missing.words().contains("it is not registered") && missing.words().contains(command),
        "{}",
        missing.words()
    );
}
