//! The times of the inbox page's views, in HTML and in JSON.

use std::time::Duration;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use qomplement_webhooks::inbox::{InboxAdmin, InboxCursor, InboxFilter, InboxState};
use qomplement_webhooks::page::{InboxPage, PageAccess};
use serde_json::Value;

use super::{Times, measured};

/// The longest time that a view should take.
const MOST: Duration = Duration::from_millis(100);

/// The views, with the queries that open them. ID and DEAD are the ids of a done row and a dead one, and ID2 and so on
/// are the first characters of the former; MIDDLE is the place of half of the rows.
const VIEWS: &[(&str, &str)] = &[
    ("overview", ""),
    ("list", "?view=list"),
    ("list, the middle", "?view=list&before=MIDDLE"),
    ("list, expected", "?view=list&state=expected"),
    ("list, received", "?view=list&state=received"),
    ("list, running", "?view=list&state=running"),
    ("list, done", "?view=list&state=done"),
    ("list, dead", "?view=list&state=dead"),
    ("list, dead by error", "?view=list&state=dead&error=NUMBER+350+of"),
    ("list, dead by an error that none has", "?view=list&state=dead&error=none"),
    ("list, by an error that none has", "?view=list&error=none"),
    ("list, by a type that none has", "?view=list&type=none"),
    ("list, by a status that none has", "?view=list&status=none"),
    ("list, older than 20 h", "?view=list&older=20h"),
    ("list, dead and older than 20 h", "?view=list&state=dead&older=20h"),
    ("list, newer than 1 h", "?view=list&newer=1h"),
    ("list, newer than 1 s", "?view=list&newer=1s"),
    ("list, a whole id", "?view=list&prefix=ID"),
    ("list, 8 characters of an id", "?view=list&prefix=ID8"),
    ("list, 4 characters of an id", "?view=list&prefix=ID4"),
    ("list, 3 characters of an id", "?view=list&prefix=ID3"),
    ("list, 2 characters of an id", "?view=list&prefix=ID2"),
    ("list, 1 character of an id", "?view=list&prefix=ID1"),
    ("list, 2 characters, an error that none has", "?view=list&prefix=ID2&error=none"),
    ("list, dead, 2 characters", "?view=list&state=dead&prefix=ID2"),
    ("list, received, an error that none has", "?view=list&state=received&error=none"),
    (
        "list, all that a filter can have",
        "?view=list&state=dead&type=extract&status=completed&prefix=ID1&error=number&older=1h&newer=20h",
    ),
    ("row, done", "?view=job&job=ID"),
    ("row, dead", "?view=job&job=DEAD"),
    ("row with its body", "?view=job&job=ID&body=1"),
    ("body", "?view=body&job=ID"),
    ("confirm: replay one", "?view=confirm&action=replay&job=ID"),
    ("confirm: discard one", "?view=confirm&action=discard&job=DEAD"),
    ("confirm: replay dead", "?view=confirm&action=replay&state=dead"),
    ("confirm: discard dead", "?view=confirm&action=discard&state=dead"),
    ("confirm: replay done", "?view=confirm&action=replay&state=done"),
    ("confirm: replay dead by error", "?view=confirm&action=replay&state=dead&error=number+350+of"),
    ("confirm: replay done by an error that none has", "?view=confirm&action=replay&state=done&error=none"),
    ("confirm: replay done, older than 20 h", "?view=confirm&action=replay&state=done&older=20h"),
    ("confirm: replay done, newer than 1 h", "?view=confirm&action=replay&state=done&newer=1h"),
    ("confirm: replay done, 2 characters of an id", "?view=confirm&action=replay&state=done&prefix=ID2"),
    ("confirm: discard dead, 2 characters of an id", "?view=confirm&action=discard&state=dead&prefix=ID2"),
    ("style", "?asset=style.css"),
];

/// Prints a table of the views. The page calls the inbox itself, without a server for HTTP.
pub async fn measure_all(inbox: impl InboxAdmin, rows: u64) {
    let newest = async |state| {
        let filter = InboxFilter::default().state(state);
        inbox.list(&filter, InboxCursor::Newest, 1).await.unwrap().rows.remove(0).job_id
    };
    let (id, dead) = (newest(InboxState::Done).await, newest(InboxState::Dead).await);
    let page = InboxPage::new(inbox, |_| async { PageAccess::full("bench") });
    println!(
        "\n| view | HTML: first | median | most | JSON: first | median | most | |\n|---|---|---|---|---|---|---|---|"
    );
    let mut short = true;
    for (name, query) in VIEWS {
        let mut query = query.replace("DEAD", &dead).replace("MIDDLE", &(rows / 2).to_string());
        for length in [8, 4, 3, 2, 1] {
            query = query.replace(&format!("ID{length}"), &id[..length]);
        }
        let query = query.replace("ID", &id);
        let html = measured(async || open(&page, &query, "text/html").await).await;
        let json = measured(async || open(&page, &query, "application/json").await).await;
        let columns = [&html, &json].map(|(times, _)| {
            let Times { first, middle, most } = times;
            [first, middle, most].map(|time| format!("{:.1} ms", time.as_secs_f64() * 1e3)).join(" | ")
        });
        let is_short = html.0.middle < MOST && json.0.middle < MOST;
        let mark = if is_short { "" } else { ", TOO LONG" };
        println!("| {name} | {} | {}, {} bytes{mark} |", columns.join(" | "), content(&json.1), html.1.len());
        short &= is_short;
    }
    println!("\n{}", if short { "all within 100 ms" } else { "NOT all within 100 ms" });
}

async fn open(page: &InboxPage, query: &str, kind: &str) -> Bytes {
    let request =
        Request::get(format!("/{query}")).header(ACCEPT, kind).body(Full::<Bytes>::default()).unwrap();
    let answer = page.answer(request).await;
    assert_eq!(answer.status(), StatusCode::OK, "{query}");
    answer.into_body().collect().await.unwrap().to_bytes()
}

/// The number of rows in an answer, and whether there are more.
fn content(json: &[u8]) -> String {
    let Ok(json) = serde_json::from_slice::<Value>(json) else { return "no rows".to_owned() };
    let more = json["before"].is_u64() || json["more"] == true;
    let rows = match &json["rows"] {
        Value::Array(rows) => rows.len() as u64,
        Value::Number(rows) => rows.as_u64().unwrap(),
        // Of an error.
        _ => json["dead_by_error"].as_array().map_or(1, |groups| groups.len() as u64),
    };
    format!("{rows} rows{}", if more { " and more" } else { "" })
}
