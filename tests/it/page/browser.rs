//! The page in a real browser.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use qomplement_webhooks::inbox::{InboxAdmin, InboxState, Outcome};
use qomplement_webhooks::page::{InboxPage, PageAccess};
use qomplement_webhooks::{InboxStore, MemoryInbox, SqliteInbox};
use serde_json::{Value, json};

use super::foreign::Foreign;
use super::{dead, open, receive, settle, state};
use crate::sqlite::Folder;
use crate::support::PATH;
use crate::support::chromium::{Chromium, Tab};
use crate::support::servers::{Framework, Server};

/// A served inbox with rows in every state.
async fn serve(inbox: &(impl InboxAdmin + Clone)) -> Server {
    let hour = Duration::from_secs(3600);
    for number in 0..4 {
        settle(inbox, &format!("7d3f0c52-0000-4000-8000-00000000000{number}"), Outcome::Done).await;
    }
    for number in 0..3 {
        dead(
            inbox,
            &format!("b10be0b8-0000-4000-8000-00000000000{number}"),
            "the disk is full: 0 bytes left on /data",
        )
        .await;
    }
    let replayed = dead(inbox, "9f7cf8d2-2a63-4da2-a56f-546e226b2064", "no such customer: 4711").await;
    assert!(inbox.replay(&replayed).await.unwrap());
    let leased = inbox.lease(1, hour).await.unwrap();
    let again = Outcome::Dead { error: "no such customer: 4711".to_owned() };
    let _ = inbox.settle(&leased[0].lease, &again).await.unwrap();
    let retry = Outcome::Retry { after: hour, error: "the database is away: connection refused".to_owned() };
    settle(inbox, "c2b1e6aa-0000-4000-8000-000000000001", retry).await;
    receive(inbox, "e5a0c1d4-0000-4000-8000-000000000001").await;
    inbox.lease(1, hour).await.unwrap();
    receive(inbox, "f0f0f0f0-0000-4000-8000-000000000001").await;
    for (number, deadline) in [Duration::ZERO, hour].into_iter().enumerate() {
        let job = format!("a1a1a1a1-0000-4000-8000-00000000000{number}").parse().unwrap();
        inbox.expect(&job, deadline).await.unwrap();
    }
    Server::start_page(Framework::Axum, open(inbox)).await
}

fn url(server: &Server, query: &str) -> String {
    format!("http://{}{PATH}{query}", server.address)
}

async fn words(tab: &Tab) -> String {
    tab.text("document.querySelector('main').innerText.replace(/\\s+/g, ' ')").await
}

#[track_caller]
fn assert_no_faults(chromium: &Chromium) {
    let faults = chromium.faults();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test]
async fn an_operator_finds_out_why_events_died_replays_one_and_discards_the_others() {
    let inbox = MemoryInbox::new();
    let server = serve(&inbox).await;
    let chromium = Chromium::start().await;
    let tab = chromium.tab().await;
    tab.open(&url(&server, "")).await;
    assert!(words(&tab).await.contains("dead 4"), "{}", words(&tab).await);
    tab.follow_text("no such customer: 4711").await;
    tab.follow_text("9f7cf8d2-2a63-4da2-a56f-546e226b2064").await;
    assert!(words(&tab).await.contains("Last error no such customer: 4711"), "{}", words(&tab).await);
    tab.follow_text("Show the body").await;
    assert!(words(&tab).await.contains("\"document_type\": \"invoice\""), "{}", words(&tab).await);
    tab.follow_text("Hide the body").await;
    tab.follow_text("Replay this row…").await;
    assert!(words(&tab).await.contains("Replay this row?"), "{}", words(&tab).await);
    tab.follow_text("Replay this row").await;
    assert!(words(&tab).await.contains("1 row replayed."), "{}", words(&tab).await);
    let job = "9f7cf8d2-2a63-4da2-a56f-546e226b2064".parse().unwrap();
    assert_eq!(state(&inbox, &job).await, Some(InboxState::Received));

    // The back button leads to the question, and its answer changes nothing more.
    tab.back().await;
    tab.follow_text("Replay this row").await;
    assert!(words(&tab).await.contains("Nothing was replayed"), "{}", words(&tab).await);

    // By filter.
    tab.follow_text("Dead letters").await;
    tab.fill("input[name=error]", "DISK").await;
    tab.follow_text("Filter").await;
    tab.follow_text("Discard all that match…").await;
    assert!(words(&tab).await.contains("Discard 3 rows?"), "{}", words(&tab).await);
    tab.follow_text("Discard 3 rows").await;
    assert!(words(&tab).await.contains("3 rows discarded."), "{}", words(&tab).await);
    assert_eq!(
        tab.text("document.querySelector('input[name=error]').value").await,
        "DISK",
        "the filter is lost"
    );
    assert_eq!(inbox.stats().await.unwrap().dead, 0);
    assert_no_faults(&chromium);
}

#[tokio::test]
async fn everything_works_without_javascript() {
    let inbox = MemoryInbox::new();
    let server = serve(&inbox).await;
    let chromium = Chromium::start().await;
    let tab = chromium.tab().await;
    tab.without_script().await;
    tab.open(&url(&server, "?view=list")).await;
    let is_seen = "document.getElementById('pause').checkVisibility()";
    assert_eq!(tab.value(is_seen).await, false, "the script has run");
    tab.fill("input[name=prefix]", "9f7c").await;
    tab.follow_text("Filter").await;
    assert_eq!(tab.value("document.querySelectorAll('tbody tr').length").await, 1);
    tab.follow_text("9f7cf8d2-2a63-4da2-a56f-546e226b2064").await;
    tab.follow_text("Show the body").await;
    tab.follow_text("Replay this row…").await;
    tab.follow_text("Replay this row").await;
    assert!(words(&tab).await.contains("1 row replayed."), "{}", words(&tab).await);
    tab.follow_text("Back to the list").await;
    assert_eq!(tab.text("document.querySelector('input[name=prefix]').value").await, "9f7c");
    assert_no_faults(&chromium);
}

#[tokio::test]
async fn a_row_that_changes_meanwhile_is_shown_and_not_acted_on_twice() {
    let inbox = MemoryInbox::new();
    let server = serve(&inbox).await;
    let chromium = Chromium::start().await;
    let (first, second, list) = (chromium.tab().await, chromium.tab().await, chromium.live_tab().await);
    list.open(&url(&server, "?view=list&prefix=b10be0b8")).await;
    list.value("document.querySelector('tbody a').focus()").await;
    let focused = "document.activeElement.getAttribute('href')";
    let link = list.text(focused).await;
    for tab in [&first, &second] {
        tab.open(&url(&server, "?view=confirm&action=replay&job=b10be0b8-0000-4000-8000-000000000000")).await;
    }
    first.follow_text("Replay this row").await;
    assert!(words(&first).await.contains("1 row replayed."), "{}", words(&first).await);
    second.follow_text("Replay this row").await;
    assert!(words(&second).await.contains("Nothing was replayed"), "{}", words(&second).await);

    // The third tab learns of it by itself, and keeps its focus.
    list.until("document.querySelector('tbody').innerText.includes('received')").await;
    assert_eq!(list.text(focused).await, link, "the focus is lost");
    assert_eq!(list.value("document.getElementById('pause').checkVisibility()").await, true);
    list.click("#pause").await;
    assert_eq!(list.text("document.getElementById('pause').textContent").await, "Resume refresh");
    assert_no_faults(&chromium);
}

#[tokio::test]
async fn the_body_of_an_expected_job_is_offered_as_soon_as_its_event_has_arrived() {
    let inbox = MemoryInbox::new();
    inbox.expect(&"job-7".parse().unwrap(), Duration::from_secs(3600)).await.unwrap();
    let server = Server::start_page(Framework::Axum, open(&inbox)).await;
    let chromium = Chromium::start().await;
    let tab = chromium.live_tab().await;
    tab.open(&url(&server, "?view=job&job=job-7")).await;
    assert!(
        words(&tab).await.contains("There is no body: the event has not arrived"),
        "{}",
        words(&tab).await
    );
    receive(&inbox, "job-7").await;
    tab.until("document.getElementById('row').innerText.includes('received')").await;
    assert!(words(&tab).await.contains("Show the body"), "{}", words(&tab).await);
    assert_no_faults(&chromium);
}

#[tokio::test]
async fn times_are_those_of_the_server_whatever_the_clock_of_the_browser() {
    let inbox = MemoryInbox::new();
    dead(&inbox, "job-7", "no such customer").await;
    let server = Server::start_page(Framework::Axum, open(&inbox)).await;
    let chromium = Chromium::start().await;
    for hours in [-1, 1] {
        let tab = chromium.tab().await;
        let shift = format!("{{ const now = Date.now; Date.now = () => now() + {hours} * 3600 * 1000; }}");
        tab.call("Page.addScriptToEvaluateOnNewDocument", json!({"source": shift})).await;
        tab.open(&url(&server, "?view=list")).await;
        // The script writes it anew each second.
        let time = "document.querySelector('main time').textContent";
        tab.value(&format!("{time} = 'old'")).await;
        tab.until(&format!("{time} !== 'old'")).await;
        let text = tab.text(time).await;
        assert!(text == "now" || text.ends_with(" s ago") || text.ends_with(" min ago"), "{text}");
    }
    assert_no_faults(&chromium);
}

#[tokio::test]
async fn a_link_from_another_site_leaves_the_forms_of_open_tabs_valid() {
    let inbox = MemoryInbox::new();
    let job = dead(&inbox, "job-7", "no such customer").await;
    let server = Server::start_page(Framework::Axum, open(&inbox)).await;
    let chromium = Chromium::start().await;
    let (form, link) = (chromium.tab().await, chromium.tab().await);
    form.open(&url(&server, "?view=confirm&action=replay&job=job-7")).await;
    // A name of the same machine, and another site.
    link.open(&url(&server, "").replace("127.0.0.1", "localhost")).await;
    let target = url(&server, "?view=job&job=job-7");
    link.value(&format!("location.href = '{target}'")).await;
    link.until(&format!("location.href === '{target}' && document.readyState === 'complete'")).await;
    form.follow_text("Replay this row").await;
    assert!(words(&form).await.contains("1 row replayed."), "{}", words(&form).await);
    assert_eq!(state(&inbox, &job).await, Some(InboxState::Received));
    assert_no_faults(&chromium);
}

#[tokio::test]
async fn one_refresh_runs_at_a_time_and_an_answer_of_something_else_is_told() {
    let inbox = MemoryInbox::new();
    let server = serve(&inbox).await;
    let chromium = Chromium::start().await;
    let tab = chromium.live_tab().await;
    tab.open(&url(&server, "")).await;
    let hangs = "window.calls = 0; window.fetch = () => { calls += 1; return new Promise(done => { window.answer = done; }); }";
    tab.value(hangs).await;
    tab.until("(refresh(), calls === 1)").await;
    assert_eq!(tab.value("refresh(); calls").await, 1, "two refreshes run");
    tab.value("answer(new Response('<!doctype html><title>Log in</title>'))").await;
    let told = "document.getElementById('refreshed').textContent";
    tab.until(&format!("{told} === 'Not refreshed: another page answered'")).await;
    assert_eq!(tab.value("refresh(); calls").await, 2, "no refresh after it");
    assert!(words(&tab).await.contains("dead 4"), "{}", words(&tab).await);
    assert_no_faults(&chromium);
}

#[tokio::test]
async fn a_keyboard_moves_through_a_list() {
    let inbox = MemoryInbox::new();
    let server = serve(&inbox).await;
    let chromium = Chromium::start().await;
    let tab = chromium.tab().await;
    tab.open(&url(&server, "?view=list")).await;
    tab.press("Tab").await;
    assert_eq!(tab.text("document.activeElement.textContent").await, "Skip to the content");
    let is_in_table = "!!document.activeElement.closest('tbody')";
    for _ in 0..30 {
        if tab.value(is_in_table).await == true {
            break;
        }
        tab.press("Tab").await;
    }
    let place = "[...document.querySelectorAll('tbody a')].indexOf(document.activeElement)";
    let mut places = Vec::new();
    for key in ["", "ArrowDown", "ArrowDown", "ArrowUp", "End", "Home", "ArrowUp"] {
        if !key.is_empty() {
            tab.press(key).await;
        }
        places.push(tab.value(place).await.as_i64().unwrap());
    }
    let last = tab.value("document.querySelectorAll('tbody a').length - 1").await.as_i64().unwrap();
    assert_eq!(places, [0, 1, 2, 1, last, 0, 0]);
    let outline = tab.text("getComputedStyle(document.activeElement).outlineStyle").await;
    assert_eq!(outline, "solid", "the focus is not seen");
    let job = tab.text("document.activeElement.textContent").await;
    tab.press("Enter").await;
    let opened = format!("document.querySelector('h1')?.textContent === '{job}'");
    tab.until(&opened).await;
    assert_no_faults(&chromium);
}

/// Checks that neither the page nor a part of it is wider than the screen.
async fn assert_fits(tab: &Tab, width: u32, what: &str) {
    let wide = tab.value("document.documentElement.scrollWidth").await;
    assert!(wide.as_u64() <= Some(width.into()), "{what}: {wide} pixels wide");
    if width < 400 {
        let scrolled = "[...document.querySelectorAll('main, main *')].filter(e => getComputedStyle(e).overflowX === 'auto' \
                        && e.scrollWidth > e.clientWidth).map(e => e.outerHTML.slice(0, 200))";
        assert_eq!(tab.value(scrolled).await, json!([]), "{what}: parts scroll sideways");
    }
}

#[tokio::test]
async fn a_phone_shows_each_row_as_a_card_with_its_error_at_full_width_and_its_next_step() {
    let inbox = MemoryInbox::new();
    let server = serve(&inbox).await;
    let chromium = Chromium::start().await;
    let tab = chromium.tab().await;
    tab.without_script().await;
    tab.size(360, 740).await;
    tab.open(&url(&server, "?view=list")).await;
    let cards = "[...document.querySelectorAll('tbody tr')].map(row => {
        const [card, error, next] = [row, row.querySelector('.error'), row.querySelector('.next')]
            .map(part => ({text: part.innerText.trim(), box: part.getBoundingClientRect()}));
        const outside = [...row.children].filter(cell => {
            const box = cell.getBoundingClientRect();
            return box.left < card.box.left || box.right > card.box.right;
        });
        return [card.box.width, error.text, error.box.width, next.text, next.box.height, outside.length];
    })";
    let cards = tab.value(cards).await;
    let cards = cards.as_array().unwrap();
    assert_eq!(cards.len(), 13);
    for card in cards {
        let number = |at: usize| card[at].as_f64().unwrap();
        assert!(number(0) > 320.0 && number(5) == 0.0, "{card}");
        let (error, next) = (card[1].as_str().unwrap(), card[3].as_str().unwrap());
        assert!(error.is_empty() || number(2) > 0.9 * number(0), "{card}");
        assert!(next.is_empty() || (next.starts_with("Next ") && number(4) > 10.0), "{card}");
    }
    let is = |part: &Value, text: &str| part.as_str().is_some_and(|part| part.starts_with(text));
    for (text, count) in [
        ("Last error the disk is full: 0 bytes left on /data", 3),
        ("Next replay or discard", 4),
        ("Next attempt due in ", 1),
        ("Next fetch due (overdue)", 1),
        ("Next fetch due in ", 1),
    ] {
        let found = cards.iter().filter(|card| is(&card[1], text) || is(&card[3], text)).count();
        assert_eq!(found, count, "{text}: {cards:#?}");
    }
    // A screen reader finds the table, its headers and its cells.
    let tree = tab.call("Accessibility.getFullAXTree", json!({})).await;
    let named = |role: &str| {
        let nodes = tree["nodes"].as_array().unwrap().iter();
        let nodes = nodes.filter(|node| node["role"]["value"] == role && node["ignored"] == false);
        nodes.map(|node| node["name"]["value"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let headers = ["State", "Job", "Type", "Job status", "Attempts", "Last error", "Arrived", "Next"];
    assert_eq!(named("columnheader"), headers);
    assert_eq!((named("table").len(), named("row").len()), (1, 14));
    assert_eq!((named("rowheader").len(), named("cell").len()), (13, 13 * 7));
    assert_no_faults(&chromium);
}

#[tokio::test]
async fn no_view_scrolls_sideways_on_a_phone_whatever_a_row_holds() {
    let inbox = MemoryInbox::new();
    let server = serve(&inbox).await;
    let chromium = Chromium::start().await;
    let tab = chromium.tab().await;
    for (name, query) in VIEWS {
        for width in [360, 320] {
            tab.size(width, 740).await;
            tab.open(&url(&server, query)).await;
            assert_fits(&tab, width, &format!("{name}, {width} pixels")).await;
        }
    }
    // Without a place to break, as ids, errors and the parts of an event.
    for state in [InboxState::Dead, InboxState::Received] {
        for ids in [true, false] {
            let foreign = Foreign { ids, ..Foreign::new(&"x".repeat(2000), state) };
            let page = InboxPage::new(foreign, |_| async { PageAccess::full("x".repeat(90)) });
            let server = Server::start_page(Framework::Axum, page).await;
            for query in
                ["", "?view=list", "?view=job&job=job-7&body=1", "?view=confirm&action=discard&job=job-7"]
            {
                for width in [360, 320] {
                    tab.size(width, 740).await;
                    tab.open(&url(&server, query)).await;
                    assert_fits(&tab, width, &format!("{query}, {state}, {width} pixels")).await;
                }
            }
        }
    }
    assert_no_faults(&chromium);
}

/// The views, by the names of their pictures.
const VIEWS: [(&str, &str); 7] = [
    ("overview", ""),
    ("list", "?view=list"),
    ("dead-letters", "?view=list&state=dead&error=disk"),
    ("row", "?view=job&job=9f7cf8d2-2a63-4da2-a56f-546e226b2064&body=1"),
    ("expected", "?view=job&job=a1a1a1a1-0000-4000-8000-000000000001"),
    ("replay", "?view=confirm&action=replay&state=dead&error=disk"),
    ("discard", "?view=confirm&action=discard&state=dead&error=disk"),
];

#[tokio::test]
#[ignore = "fetches axe-core from the npm registry"]
async fn every_view_is_accessible_in_light_and_dark_and_fits_on_a_phone() {
    let folder = Folder::new();
    let inbox = SqliteInbox::open(folder.file()).unwrap();
    count_a_day(&folder.file());
    let server = serve(&inbox).await;
    let chromium = Chromium::start().await;
    let tab = chromium.tab().await;
    let axe = std::fs::read_to_string(axe()).unwrap();
    for (name, query) in VIEWS {
        for scheme in ["light", "dark"] {
            tab.colours(scheme).await;
            for (width, height) in [(1280, 800), (360, 1100), (320, 740)] {
                tab.size(width, height).await;
                tab.open(&url(&server, query)).await;
                let what = format!("{name}, {scheme}, {width} pixels");
                assert_fits(&tab, width, &what).await;
                tab.value(&format!("{axe}; null")).await;
                let found = "axe.run().then(r => r.violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html + n.failureSummary)]))";
                let found = tab.value(found).await;
                let found = found.as_array().unwrap();
                let serious: Vec<&Value> = found.iter().filter(|found| found[0] != "minor").collect();
                assert!(serious.is_empty(), "{what}: {serious:#?}");
                if width == 1280 || (width == 360 && matches!(name, "list" | "dead-letters")) {
                    let name = if width == 360 { format!("{name}-phone") } else { name.to_owned() };
                    keep(&format!("{name}-{scheme}.png"), &tab.picture().await);
                }
            }
        }
    }
    assert_no_faults(&chromium);
}

/// Counts the events of a day in an inbox, as if no worker had run for some time.
fn count_a_day(file: &Path) {
    let connection = rusqlite::Connection::open(file).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 60;
    let mut waiting = 0;
    for ago in (1_u64..24 * 60).rev() {
        let received = 30 + ago.abs_diff(700) / 20 + ago * 7919 % 13;
        waiting += received;
        let handled = if (20..32).contains(&ago) { 0 } else { waiting.min(received * 3) };
        waiting -= handled;
        let count = "INSERT INTO inbox_traffic (minute, received, handled) VALUES (?1, ?2, ?3)";
        connection.execute(count, [now - ago, received, handled].map(u64::cast_signed)).unwrap();
    }
}

/// The file of axe-core, from the npm registry: it is not ours to ship.
fn axe() -> PathBuf {
    const PACKAGE: &str = "axe-core@4.14.1";
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(PACKAGE);
    let file = folder.join("package/axe.min.js");
    if !file.exists() {
        std::fs::create_dir_all(&folder).unwrap();
        let fetched = "npm pack --silent \"$1\" >/dev/null && tar -xzf axe-core-*.tgz";
        let done =
            Command::new("sh").args(["-c", fetched, "sh", PACKAGE]).current_dir(&folder).status().unwrap();
        assert!(done.success(), "{PACKAGE} cannot be fetched");
    }
    file
}

/// Writes a picture for the guide, if `PICTURES` names a folder.
fn keep(name: &str, base64: &str) {
    let Some(folder) = std::env::var_os("PICTURES") else { return };
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::with_capacity(base64.len());
    for four in base64.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = four.iter().fold(0_u32, |bits, byte| bits << 6 | u32::from(digit(*byte)));
        let bits = bits << (6 * (4 - four.len()));
        bytes.extend(bits.to_be_bytes()[1..four.len()].iter());
    }
    std::fs::write(Path::new(&folder).join(name), bytes).unwrap();
}
