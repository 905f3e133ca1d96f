//! Foreign text that wants to be more than text, in every field of every view.

use http::Method;
use qomplement_webhooks::inbox::InboxState;
use qomplement_webhooks::page::{InboxPage, PageAccess};

use super::foreign::Foreign;
use super::markup::assert_own;
use super::visitor::Visitor;

/// A part of every hostile text, by which it is found again.
const MARK: &str = "mark-7";

fn texts() -> Vec<String> {
    let texts = [
        "<script>alert('mark-7')</script>",
        "</script><script src=//evil.example/mark-7></script>",
        "\" onmouseover=\"alert('mark-7')\" x=\"",
        "' onfocus='alert(1)' autofocus mark-7",
        "\"><img src=x onerror=alert(1)> mark-7",
        "</title></textarea></pre></template><svg onload=alert(1)> mark-7",
        "<!-- mark-7",
        "--><b>mark-7",
        "<![CDATA[ mark-7 ]]>",
        "&lt;b&gt; &#60;script&#62; &amp; mark-7",
        "{{ mark-7 }} {% if x %} ${mark-7} #{x}",
        "javascript:alert('mark-7')",
        "</time><time datetime=\"x\">mark-7",
        "mark-7\0\u{1}\u{7}\u{8}\u{1b}[2J\u{1b}]0;title\u{7}\u{7f}\u{9b}31m",
        "mark-7 \u{202e}gpj.exe\u{2066}\u{2069}\u{200f}",
        "mark-7\u{200b}\u{feff}\u{2060}\u{e0041}\u{2028}\u{2029}",
        "mark-7\r\nSet-Cookie: a=b\r\n\r\n<html>",
        "mark-7 ÿ 工作 🎉 e\u{301}",
        "' OR 1=1; DROP TABLE rows; -- mark-7",
        "../../etc/passwd?mark-7#x&view=confirm&action=discard",
    ];
    let long = [
        format!("mark-7 {}", "A".repeat(1 << 20)),
        format!("mark-7 {}", "<".repeat(1 << 20)),
        format!("mark-7 {}", "\u{202e}".repeat((1 << 20) / 3)),
        format!("mark-7{}", "\n".repeat(1 << 20)),
    ];
    texts.into_iter().map(str::to_owned).chain(long).collect()
}

#[tokio::test]
async fn foreign_text_stays_text_in_every_field_of_every_view() {
    for text in texts() {
        let is_long = text.len() > 5000;
        for (ids, state) in
            [(true, InboxState::Dead), (false, InboxState::Dead), (false, InboxState::Received)]
        {
            // A debug build takes its time for megabytes.
            if is_long && !ids {
                continue;
            }
            let inbox = Foreign { ids, ..Foreign::new(&text, state) };
            let who = text.clone();
            let page = InboxPage::new(inbox, move |_| {
                let who = who.clone();
                async { PageAccess::full(who) }
            });
            let mut visitor = Visitor::of(page);
            for link in [
                "",
                "?view=list",
                "?view=list&state=dead",
                "?view=job&job=job-7",
                "?view=job&job=job-7&body=1",
                "?view=confirm&action=replay&job=job-7",
                "?view=confirm&action=discard&job=job-7",
                "?view=confirm&action=discard&state=dead",
            ] {
                let shown = visitor.open(link).await;
                assert_own(&shown.text);
                assert!(shown.text.contains(MARK), "{link}: the text is not shown");
                assert!(shown.text.len() < 1_500_000, "{link}: {} bytes", shown.text.len());
                for (name, value) in &shown.headers {
                    assert!(!value.to_str().unwrap().contains(MARK), "{name} has foreign text");
                }
                let json = if is_long { continue } else { visitor.json(link).await };
                assert!(link.contains("confirm") || json.to_string().contains(MARK), "{link}: {json}");
            }
        }
    }
}

#[tokio::test]
async fn a_body_of_hostile_json_stays_text() {
    for text in texts() {
        let body = serde_json::json!({ "job_id": text, text.as_str(): [text, {"a": text}] }).to_string();
        let inbox = Foreign::new(&body, InboxState::Dead);
        let page = InboxPage::new(inbox, |_| async { PageAccess::full("ada") });
        let shown = Visitor::of(page).open("?view=job&job=job-7&body=1").await;
        assert_own(&shown.text);
        assert!(shown.text.contains(MARK) && shown.text.len() < 3_000_000, "{}", shown.text.len());
    }
}

#[tokio::test]
async fn a_hostile_url_is_refused_or_shown_as_text() {
    let inbox = Foreign::new("no", InboxState::Dead);
    let page = InboxPage::new(inbox, |_| async { PageAccess::full("ada") });
    let mut visitor = Visitor::of(page);
    for text in texts().into_iter().filter(|text| text.len() < 5000) {
        let text: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
        for name in [
            "view", "asset", "state", "type", "status", "prefix", "error", "older", "newer", "before", "job",
            "back", "body", "action", "did", "rows", "more",
        ] {
            for rest in [
                "view=list",
                "view=job&job=job-7",
                "view=confirm&action=discard&state=dead",
                "did=replay&view=list",
            ] {
                let answer = visitor.send(Method::GET, &format!("?{name}={text}&{rest}"), &[], "").await;
                assert!(matches!(answer.status.as_u16(), 200 | 400 | 404), "{name}: {}", answer.status);
                assert_own(&answer.text);
                let json = visitor
                    .send(
                        Method::GET,
                        &format!("?{name}={text}&{rest}"),
                        &[("accept", "application/json")],
                        "",
                    )
                    .await;
                assert!(json.status == 404 || json.headers["content-type"] == "application/json", "{name}");
            }
        }
    }
}
