//! Actions: counted, confirmed, carried out, and told.

use http::Method;
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::fetch::{FetchError, Fetched, JobSource};
use qomplement_webhooks::inbox::{InboxAdmin, InboxState, Outcome};
use qomplement_webhooks::page::{InboxPage, PageAccess};
use qomplement_webhooks::sender::Payload;
use qomplement_webhooks::{InboxStore, JobId, MemoryInbox, async_trait};
use serde_json::json;

use super::foreign::{Fault, Foreign};
use super::visitor::Visitor;
use super::{dead, open, receive, settle, state, visitor};

#[tokio::test(start_paused = true)]
async fn one_row_is_replayed_after_a_question_that_names_it() {
    let inbox = MemoryInbox::new();
    let job = dead(&inbox, "job-7", "no such customer").await;
    let mut visitor = visitor(&inbox);
    let row = visitor.open("?view=job&job=job-7").await;
    let question = visitor.open(&row.link("Replay this row…")).await;
    let words = question.words();
    assert!(
        words.contains("Replay this row?") && words.contains("job-7") && words.contains("no such customer"),
        "{words}"
    );
    assert_eq!(state(&inbox, &job).await, Some(InboxState::Dead), "the question has changed the row");
    let told = visitor.submit(&question).await;
    assert!(told.words().contains("1 row replayed."), "{}", told.words());
    assert!(told.words().contains("State received"), "{}", told.words());
    assert_eq!(state(&inbox, &job).await, Some(InboxState::Received));
    // The row is as the back button shows it, and changed meanwhile.
    let told = visitor.submit(&question).await;
    assert!(told.words().contains("Nothing was replayed"), "{}", told.words());
}

#[tokio::test(start_paused = true)]
async fn a_discarded_row_is_gone_and_the_list_keeps_its_filter() {
    let inbox = MemoryInbox::new();
    let (job, other) = (dead(&inbox, "job-7", "disk").await, dead(&inbox, "job-8", "disk").await);
    let done = settle(&inbox, "job-9", Outcome::Done).await;
    let mut visitor = visitor(&inbox);
    let list = visitor.open("?view=list&state=dead&error=disk").await;
    let row = visitor.open(&list.link("job-7")).await;
    let question = visitor.open(&row.link("Discard this row…")).await;
    let told = visitor.submit(&question).await;
    let words = told.words();
    assert!(words.contains("1 row discarded.") && words.contains("job-8"), "{words}");
    assert!(told.text.contains(r#"name="error" value="disk""#), "the filter is lost");
    assert_eq!(state(&inbox, &job).await, None);
    assert_eq!(state(&inbox, &other).await, Some(InboxState::Dead));
    assert!(visitor.open("?view=job&job=job-9").await.try_link("Discard this row…").is_none());
    let question = visitor.open("?view=confirm&action=discard&job=job-9").await;
    assert!(question.words().contains("not in a state for this"), "{}", question.words());
    assert_eq!(state(&inbox, &done).await, Some(InboxState::Done));
}

#[tokio::test(start_paused = true)]
async fn rows_that_match_are_changed_together_and_never_more_than_confirmed() {
    let inbox = MemoryInbox::new();
    for number in 0..30 {
        dead(&inbox, &format!("disk-{number}"), "the disk is full").await;
        dead(&inbox, &format!("gone-{number}"), "no such customer").await;
    }
    let mut visitor = visitor(&inbox);
    let list = visitor.open("?view=list&state=dead&error=disk").await;
    let question = visitor.open(&list.link("Replay all that match…")).await;
    let words = question.words();
    assert!(
        words.contains("Replay 30 rows? 30 rows with: State dead Error contains disk Each event"),
        "{words}"
    );
    assert_eq!(inbox.stats().await.unwrap().dead, 60, "the question has changed rows");
    dead(&inbox, "disk-late", "the disk is full").await;
    let told = visitor.submit(&question).await;
    assert!(told.words().contains("30 rows replayed. More rows may match"), "{}", told.words());
    let stats = inbox.stats().await.unwrap();
    assert_eq!((stats.dead, stats.received), (31, 30));

    let question = visitor.open("?view=confirm&action=discard&state=dead&error=customer").await;
    assert!(question.words().contains("This cannot be undone"), "{}", question.words());
    let told = visitor.submit(&question).await;
    assert!(told.words().contains("30 rows discarded."), "{}", told.words());
    assert_eq!(inbox.stats().await.unwrap().dead, 1);
}

#[tokio::test(start_paused = true)]
async fn the_question_names_the_fields_of_the_filter_and_says_what_its_buttons_do() {
    let inbox = MemoryInbox::new();
    let job = dead(&inbox, "job-7", "disk").await;
    dead(&inbox, "job-8", "disk").await;
    inbox.expect(&"job-9".parse().unwrap(), std::time::Duration::ZERO).await.unwrap();
    let overdue = inbox.overdue(1, std::time::Duration::from_secs(60)).await.unwrap();
    let given_up = Outcome::Dead { error: "no such job".to_owned() };
    let _ = inbox.settle(&overdue[0].lease, &given_up).await.unwrap();
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    let mut visitor = visitor(&inbox);
    let filter = "state=dead&type=extract&status=completed&prefix=job-&error=disk&older=1s&newer=2h";
    let list = visitor.open(&format!("?view=list&{filter}")).await;
    for action in ["Discard", "Replay"] {
        let question = visitor.open(&list.link(&format!("{action} all that match…"))).await;
        let words = question.words();
        assert!(
            words.contains(&format!(
                "{action} 2 rows? 2 rows with: State dead Type extract Job status completed Job id begins with job- \
                 Error contains disk Older than 1s Newer than 2h Each "
            )),
            "{words}"
        );
        assert!(words.ends_with(&format!("{action} 2 rows Cancel, change nothing")), "{words}");
        assert_eq!(
            question.link("Cancel, change nothing"),
            list.link(&format!("{action} all that match…"))
                .replace(&format!("view=confirm&action={}", action.to_lowercase()), "view=list")
        );
    }
    for (query, effect, button) in [
        (
            "action=discard&job=job-7",
            "The row is deleted, with its event and its errors.",
            "Discard this row",
        ),
        ("action=replay&job=job-7", "The event is due at once:", "Replay this row"),
        (
            "action=replay&job=job-9",
            "It is expected again, and a fetch of it is due at once.",
            "Replay this row",
        ),
    ] {
        let words = visitor.open(&format!("?view=confirm&{query}")).await.words();
        assert!(words.contains(effect), "{query}: {words}");
        assert!(words.ends_with(&format!("{button} Cancel, change nothing")), "{query}: {words}");
    }
    assert_eq!(state(&inbox, &job).await, Some(InboxState::Dead));
}

#[tokio::test(start_paused = true)]
async fn an_action_on_many_rows_needs_a_state_that_it_applies_to() {
    let inbox = MemoryInbox::new();
    settle(&inbox, "done", Outcome::Done).await;
    receive(&inbox, "waiting").await;
    let mut visitor = visitor(&inbox);
    let list = visitor.open("?view=list").await;
    assert!(list.try_link("Replay all that match…").is_none(), "finished events would run again");
    let done = visitor.open("?view=list&state=done").await;
    assert!(done.try_link("Replay all that match…").is_some());
    assert!(done.try_link("Discard all that match…").is_none());
    let (_, fields) = visitor.open("?view=confirm&action=replay&state=done").await.form();
    let token = fields.split('&').find(|field| field.starts_with("token=")).unwrap().to_owned();
    for (action, filter) in [
        ("replay", ""),
        ("replay", "&state=received"),
        ("replay", "&state=running"),
        ("discard", ""),
        ("discard", "&state=done"),
        ("fetch", "&state=dead"),
    ] {
        let question =
            visitor.send(Method::GET, &format!("?view=confirm&action={action}{filter}"), &[], "").await;
        assert_eq!(question.status, 400, "{action}{filter}");
        let refused = visitor.post(&format!("?do={action}"), &format!("{token}{filter}")).await;
        assert_eq!(refused.status, 400, "{action}{filter}");
    }
    let stats = inbox.stats().await.unwrap();
    assert_eq!((stats.done, stats.received), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_action_answers_in_json_too() {
    let inbox = MemoryInbox::new();
    dead(&inbox, "job-7", "no").await;
    let mut visitor = visitor(&inbox);
    let count = visitor.json("?view=confirm&action=replay&state=dead").await;
    assert_eq!(count, json!({"action": "replay", "rows": 1, "more": false, "most": 10000}));
    let (action, fields) = visitor.open("?view=confirm&action=replay&job=job-7").await.form();
    let headers = [("origin", "https://test"), ("accept", "application/json")];
    let answer = visitor.send(Method::POST, &action, &headers, &fields).await;
    assert_eq!(
        (answer.status.as_u16(), answer.text.as_str()),
        (200, r#"{"action":"replay","more":false,"rows":1}"#)
    );
}

/// An API that answers by the job's id.
#[derive(Debug)]
pub struct Api;

#[async_trait]
impl JobSource for Api {
    async fn fetch(&self, job: &JobId) -> Result<Fetched, FetchError> {
        match &*job.as_str() {
            "finished" | "known" => {
                let body = Payload::extract_completed().job_id(&*job.as_str()).to_bytes();
                Ok(Fetched::Finished(Envelope::try_from(body).unwrap()))
            }
            "pending" => Ok(Fetched::Pending),
            "missing" => Ok(Fetched::NotFound),
            "other" => self.fetch(&"finished".parse().unwrap()).await,
            "early" => {
                let body = Payload::extract_completed().job_id("early").set("/data/status", "processing");
                Ok(Fetched::Finished(Envelope::try_from(body.to_bytes()).unwrap()))
            }
            "panics" => panic!("no"),
            _ => Err(FetchError::unavailable("away")),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_expected_job_is_fetched_at_once() {
    let inbox = MemoryInbox::new();
    let minute = std::time::Duration::from_secs(60);
    for job in ["finished", "pending", "missing", "other", "early", "away", "panics"] {
        inbox.expect(&job.parse().unwrap(), minute).await.unwrap();
    }
    receive(&inbox, "known").await;
    assert!(
        !visitor(&inbox).open("?view=job&job=finished").await.text.contains("Fetch now"),
        "without a source"
    );
    let mut visitor = Visitor::of(open(&inbox).source(Api));
    for (job, told, after) in [
        ("finished", "Its event is stored", InboxState::Received),
        ("known", "stored before", InboxState::Received),
        ("pending", "has not ended", InboxState::Expected),
        ("missing", "knows no such job", InboxState::Expected),
        // Results that a source must not return.
        ("other", "The fetch failed", InboxState::Expected),
        ("early", "has not ended", InboxState::Expected),
        ("away", "The fetch failed", InboxState::Expected),
        ("panics", "The fetch failed", InboxState::Expected),
    ] {
        let row = visitor.open(&format!("?view=job&job={job}")).await;
        let answer = visitor.submit(&row).await;
        assert!(answer.words().contains(told), "{job}: {}", answer.words());
        assert_eq!(state(&inbox, &job.parse().unwrap()).await, Some(after), "{job}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_inbox_that_fails_is_told_without_its_cause() {
    for fault in [Fault::Error, Fault::Hang, Fault::Panic] {
        let whole = Foreign::new("no", InboxState::Dead);
        let page = |inbox: Foreign| InboxPage::new(inbox, |_| async { PageAccess::full("ada") });
        let (action, fields) =
            Visitor::of(page(whole.clone())).open("?view=confirm&action=replay&state=dead").await.form();
        let token = fields.split('&').next().unwrap().strip_prefix("token=").unwrap().to_owned();
        let mut visitor = Visitor::of(page(Foreign { fault: Some(fault), ..whole }));
        for link in [
            "",
            "?view=list",
            "?view=job&job=job-7",
            "?view=body&job=job-7",
            "?view=confirm&action=replay&job=job-7",
        ] {
            let answer = visitor.send(Method::GET, link, &[], "").await;
            assert_eq!(answer.status, 503, "{fault:?} {link}");
            assert!(answer.words().contains("failed, or took too long"), "{fault:?}: {}", answer.words());
            assert!(!answer.text.contains("s3cr3t"), "{fault:?} {link}");
        }
        let cookie = format!("qomplement_inbox_form={token}");
        let headers = [("sec-fetch-site", "same-origin"), ("cookie", &*cookie)];
        for fields in [fields, format!("token={token}&job=job-7")] {
            let answer = visitor.send(Method::POST, &action, &headers, &fields).await;
            assert_eq!(answer.status, 503, "{fault:?}");
            assert!(!answer.text.contains("s3cr3t"), "{fault:?}");
            // The same request again could change rows that nobody confirmed.
            let told = if matches!(fault, Fault::Hang) { "goes on" } else { "Look at the rows" };
            assert!(answer.words().contains(told), "{fault:?}: {}", answer.words());
            assert!(!answer.words().contains("Try again"), "{fault:?}: {}", answer.words());
        }
    }
}
