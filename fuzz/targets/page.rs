//! The inbox page's query strings: the list holds the rows that the model selects, and the page in HTML has only the tags and
//! attributes of its templates, whatever stands in the query. The input is a query string.
#![no_main]

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{Request, StatusCode, Uri};
use http_body::Body;
use libfuzzer_sys::{Corpus, fuzz_target};
use qomplement_webhooks::event::Envelope;
use qomplement_webhooks::inbox::{InboxStore, Outcome};
use qomplement_webhooks::page::{InboxPage, PageAccess};
use qomplement_webhooks::store::Fenced;
use qomplement_webhooks::{JobId, MemoryInbox};
use serde_json::Value;
use tokio::runtime::Runtime;

/// A row of the inbox: job, state, type, status and error.
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str);

/// The rows, oldest first.
const ROWS: [Row; 6] = [
    ("a", "received", "extract", "completed", ""),
    ("ab", "received", "extract", "failed", ""),
    ("<b>", "dead", "fill_pdf", "completed", "\"><script>alert(1)</script>"),
    ("a\"b", "dead", "fill_pdf", "failed", "a & b < c"),
    ("abc", "done", "<i>", "completed", ""),
    ("expected", "expected", "", "", ""),
];

const HOUR: Duration = Duration::from_secs(3600);

struct Fixture {
    runtime: Runtime,
    page: InboxPage,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let inbox = MemoryInbox::new();
    runtime.block_on(async {
        for (job, state, kind, status, error) in ROWS {
            if state == "expected" {
                inbox.expect(&job.parse::<JobId>().unwrap(), HOUR).await.unwrap();
                continue;
            }
            let body = serde_json::json!({
                "job_id": job, "data": {"id": job, "type": kind, "status": status, "result": {}},
            });
            let event = Envelope::try_from(Bytes::from(body.to_string())).unwrap();
            inbox.receive(&event).await.unwrap();
            let outcome = match state {
                "dead" => Outcome::Dead { error: error.to_owned() },
                "done" => Outcome::Done,
                _ => continue,
            };
            settle(&inbox, job, outcome).await;
        }
    });
    Fixture { runtime, page: InboxPage::new(inbox, |_| async { PageAccess::full("fuzz") }) }
});

/// Ends a job, and gives the others back.
async fn settle(inbox: &MemoryInbox, job: &str, outcome: Outcome) {
    for leased in inbox.lease(ROWS.len(), HOUR).await.unwrap() {
        let outcome = if *leased.lease.job() == *job {
            outcome.clone()
        } else {
            Outcome::Release { after: Duration::ZERO }
        };
        assert_eq!(inbox.settle(&leased.lease, &outcome).await.unwrap(), Fenced::Applied);
    }
}

/// The fields of a query: the first of each name, without the blanks around it, and only those that are not blank.
fn fields(query: &str) -> HashMap<String, String> {
    let decode = |text: &str| {
        let (text, mut bytes, mut at) = (text.as_bytes(), Vec::new(), 0);
        while at < text.len() {
            let hex = text.get(at + 1..at + 3).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
            match (text[at], hex) {
                (b'%', Some(hex)) => {
                    bytes.push(u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap());
                    at += 3;
                }
                (byte, _) => {
                    bytes.push(if byte == b'+' { b' ' } else { byte });
                    at += 1;
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let mut fields = HashMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        fields.entry(decode(name)).or_insert_with(|| decode(value).trim().to_owned());
    }
    fields.retain(|_, value| !value.is_empty());
    fields
}

/// The jobs of the list, newest first; `None` where the model does not know.
fn listed(fields: &HashMap<String, String>) -> Option<Result<Vec<&'static str>, ()>> {
    let text = |name| fields.get(name).map(String::as_str).unwrap_or_default();
    let (state, before) = (text("state"), text("before"));
    if !["", "expected", "received", "running", "done", "dead"].contains(&state) {
        return Some(Err(()));
    }
    let texts = ["type", "status", "prefix", "error"].map(text);
    let is_plain = |text: &str| text.len() <= 300 && text.chars().all(|char| (' '..='~').contains(&char));
    if !texts.into_iter().all(is_plain) || ["older", "newer"].into_iter().any(|age| !text(age).is_empty()) {
        return None;
    }
    if !before.is_empty() && before.parse::<u64>().is_err() {
        return Some(Err(()));
    }
    let [kind, status, prefix, error] = texts;
    let is_meant = |(number, row): &(usize, Row)| {
        (state.is_empty() || row.1 == state)
            && (kind.is_empty() || row.2 == kind)
            && (status.is_empty() || row.3 == status)
            && row.0.starts_with(prefix)
            && row.4.to_ascii_lowercase().contains(&error.to_ascii_lowercase())
            && before.parse::<u64>().map_or(true, |before| (*number as u64) < before)
    };
    let rows = (1..).zip(ROWS).filter(is_meant).map(|(_, row)| row.0);
    let mut jobs: Vec<_> = rows.collect();
    jobs.reverse();
    Some(Ok(jobs))
}

/// Checks the tags, and the names of their attributes.
fn check_html(html: &str) {
    const TAGS: &str = " !doctype html head meta title link script body header nav main footer section h1 h2 h3 p a form \
        label select option input datalist button small div table thead tbody tr th td span dl dt dd pre code time ol ul \
        li strong details summary caption noscript kbd br hr em figure figcaption svg g rect path line polyline \
        text desc ";
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        rest = rest[at + 1..].trim_start_matches('/');
        let name = rest.split(|char: char| !char.is_ascii_alphanumeric() && char != '!').next().unwrap();
        assert!(TAGS.contains(&format!(" {} ", name.to_ascii_lowercase())), "a tag {name:?} in {html}");
        rest = &rest[name.len()..];
        // Every value that does not come from a template stands in quotes.
        while !rest.starts_with('>') {
            let end = rest.find(['"', '>']).expect("a tag ends");
            let attributes = &rest[..end];
            for word in attributes.split_ascii_whitespace() {
                assert!(!word.to_ascii_lowercase().starts_with("on"), "an attribute {word:?} in {html}");
                assert!(!word.contains('<'), "{word:?} in {html}");
            }
            rest = &rest[end..];
            if let Some(value) = rest.strip_prefix('"') {
                let end = value.find('"').expect("a value ends");
                assert!(!value[..end].contains('<'), "{:?} in {html}", &value[..end]);
                rest = &value[end + 1..];
            }
        }
    }
}

fn answer(uri: &Uri, accept: &str) -> (StatusCode, Bytes) {
    let Fixture { runtime, page } = &*FIXTURE;
    let request =
        Request::get(uri).header(ACCEPT, accept).body(http_body_util::Empty::<Bytes>::new()).unwrap();
    let response = runtime.block_on(page.answer(request));
    let length = response.body().size_hint().exact().unwrap();
    let status = response.status();
    let body = runtime.block_on(http_body_util::BodyExt::collect(response.into_body())).unwrap().to_bytes();
    assert_eq!(body.len() as u64, length);
    (status, body)
}

fuzz_target!(|query: &str| -> Corpus {
    let Ok(uri) = Uri::try_from(format!("/inbox?{query}")) else { return Corpus::Reject };
    let (status, html) = answer(&uri, "text/html");
    let (json_status, json) = answer(&uri, "application/json");
    assert_eq!(status, json_status);
    assert!(matches!(status.as_u16(), 200 | 400 | 404), "{status}");
    let fields = fields(uri.query().unwrap_or_default());
    if fields.contains_key("asset") {
        return Corpus::Keep;
    }
    let view = fields.get("view").map(String::as_str);
    if view != Some("body") || status != StatusCode::OK {
        check_html(std::str::from_utf8(&html).unwrap());
    }
    match (view, (view == Some("list")).then(|| listed(&fields)).flatten()) {
        (None, _) => assert_eq!(status, StatusCode::OK),
        (Some("list"), Some(Ok(jobs))) => {
            assert_eq!(status, StatusCode::OK);
            let json: Value = serde_json::from_slice(&json).unwrap();
            let rows = json["rows"].as_array().unwrap();
            let found: Vec<_> = rows.iter().map(|row| row["job_id"].as_str().unwrap()).collect();
            assert_eq!(found, jobs);
        }
        (Some("list"), Some(Err(()))) => assert_eq!(status, StatusCode::BAD_REQUEST),
        (Some("list" | "job" | "body" | "confirm"), _) => {}
        (Some(_), _) => assert_eq!(status, StatusCode::NOT_FOUND),
    }
    Corpus::Keep
});
