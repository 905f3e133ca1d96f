//! Requests that must change nothing, over real connections, in all frameworks.

use qomplement_webhooks::inbox::InboxState;
use qomplement_webhooks::page::{InboxPage, PageAccess};
use qomplement_webhooks::{MemoryInbox, SharedToken};

use super::{dead, state};
use crate::support::PATH;
use crate::support::http::{Draft, post};
use crate::support::servers::{Framework, Server};

/// A page whose header `x-access` says who comes.
fn page(inbox: &MemoryInbox) -> InboxPage {
    InboxPage::new(inbox.clone(), |head| async move {
        match head.headers.get("x-access").map(|access| access.as_bytes()) {
            Some(b"full") => PageAccess::full("ada"),
            Some(b"read-only") => PageAccess::read_only("bob"),
            _ => PageAccess::Forbidden,
        }
    })
}

/// A form as a browser sends it; `except` are headers that it lacks.
fn form(action: &str, fields: &str, access: &str, headers: &[(&str, &str)]) -> Draft {
    let mut draft = post(fields)
        .without("content-type")
        .header("content-type", "application/x-www-form-urlencoded")
        .query(&format!("?do={action}"));
    if !access.is_empty() {
        draft = draft.header("x-access", access);
    }
    for (name, value) in headers {
        draft = draft.header(name, value);
    }
    draft
}

#[tokio::test]
async fn only_a_form_of_the_page_itself_changes_anything() {
    let token = SharedToken::generate().unwrap().expose().to_owned();
    let other = SharedToken::generate().unwrap().expose().to_owned();
    let cookie = format!("qomplement_inbox_form={token}");
    let cookie = ("cookie", cookie.as_str());
    let same = ("sec-fetch-site", "same-origin");
    for framework in Framework::ALL {
        let inbox = MemoryInbox::new();
        let job = dead(&inbox, "job-7", "no").await;
        let server = Server::start_page(framework, page(&inbox)).await;
        for action in ["replay", "discard"] {
            for rows in ["job=job-7", "state=dead"] {
                let fields = format!("token={token}&{rows}");
                let unsigned = rows.to_owned();
                let wrong = format!("token={other}&{rows}");
                for (what, fields, access, headers, status) in [
                    ("no access", &fields, "", vec![cookie, same], 403),
                    ("an unknown access", &fields, "fully", vec![cookie, same], 403),
                    ("read-only", &fields, "read-only", vec![cookie, same], 403),
                    ("no word of the origin", &fields, "full", vec![cookie], 403),
                    ("another site", &fields, "full", vec![cookie, ("sec-fetch-site", "cross-site")], 403),
                    (
                        "another host of the site",
                        &fields,
                        "full",
                        vec![cookie, ("sec-fetch-site", "same-site")],
                        403,
                    ),
                    ("typed", &fields, "full", vec![cookie, ("sec-fetch-site", "none")], 403),
                    ("another origin", &fields, "full", vec![cookie, ("origin", "http://evil.example")], 403),
                    ("a hidden origin", &fields, "full", vec![cookie, ("origin", "null")], 403),
                    (
                        "two origins",
                        &fields,
                        "full",
                        vec![cookie, ("origin", "http://test"), ("origin", "http://test")],
                        403,
                    ),
                    ("no cookie", &fields, "full", vec![same], 403),
                    ("no token", &unsigned, "full", vec![cookie, same], 403),
                    ("another token", &wrong, "full", vec![cookie, same], 403),
                    (
                        "an empty cookie",
                        &unsigned,
                        "full",
                        vec![("cookie", "qomplement_inbox_form="), same],
                        403,
                    ),
                ] {
                    let reply = form(action, fields, access, &headers).send(server.address).await;
                    assert_eq!(reply.status, status, "{framework:?} {action} {rows} {what}: {}", reply.body);
                    assert_eq!(
                        state(&inbox, &job).await,
                        Some(InboxState::Dead),
                        "{framework:?} {action} {rows} {what}"
                    );
                }
            }
        }
        // A GET acts as little as a form that is too large.
        let get = form("replay", "", "full", &[cookie, same]).method("GET").send(server.address).await;
        assert_eq!(get.status, 200, "{framework:?}");
        let large = format!("token={token}&job=job-7&x={}", "x".repeat(20_000));
        let large = form("replay", &large, "full", &[cookie, same]).send(server.address).await;
        assert_eq!(large.status, 400, "{framework:?}");
        assert_eq!(state(&inbox, &job).await, Some(InboxState::Dead), "{framework:?}");

        // The same form, unforged, under a prefix too.
        let fields = format!("token={token}&job=job-7");
        let origin = ("origin", "http://test");
        let draft = form("replay", &fields, "full", &[cookie, origin]);
        let reply = draft.target(format!("/tenant{PATH}?do=replay")).send(server.address).await;
        assert_eq!(
            (reply.status, reply.headers["location"].as_str()),
            (303, "?view=job&job=job-7&did=replay&rows=1"),
            "{framework:?}"
        );
        assert_eq!(state(&inbox, &job).await, Some(InboxState::Received), "{framework:?}");
    }
}

#[tokio::test]
async fn a_forbidden_request_learns_nothing() {
    for framework in Framework::ALL {
        let inbox = MemoryInbox::new();
        dead(&inbox, "job-7", "no").await;
        let server = Server::start_page(framework, page(&inbox)).await;
        let mut replies = Vec::new();
        for (method, query) in [
            ("GET", ""),
            ("GET", "?view=list"),
            ("GET", "?view=job&job=job-7"),
            ("GET", "?view=job&job=missing"),
            ("GET", "?view=nothing"),
            ("GET", "?asset=style.css"),
            ("POST", "?do=replay"),
            ("POST", "?do=nothing"),
            ("PUT", ""),
            ("DELETE", "?view=job&job=job-7"),
        ] {
            let draft = post("").method(method).without("content-type").query(query);
            replies.push((method, query, draft.clone().send(server.address).await));
            let json = draft.header("accept", "application/json");
            replies.push((method, query, json.send(server.address).await));
        }
        let (.., first) = &replies[0];
        assert_eq!(first.status, 403);
        for (method, query, reply) in &replies {
            assert_eq!(reply, first, "{framework:?} {method} {query}");
        }
        // The answer does not wait for the body.
        let unsent = post("").undeclared().header("content-length", "1000000").query("?do=replay");
        let reply = unsent.send(server.address).await;
        assert_eq!((reply.status, &reply.body), (first.status, &first.body), "{framework:?}");
    }
}

#[tokio::test]
async fn each_framework_serves_the_same_page() {
    let inbox = MemoryInbox::new();
    dead(&inbox, "job-7", "no").await;
    let time = regex::Regex::new("<time .*?</time>").unwrap();
    for link in ["", "?view=list&state=dead", "?view=job&job=job-7", "?asset=script.js", "?view=nothing"] {
        let mut replies = Vec::new();
        for framework in Framework::ALL {
            let server = Server::start_page(framework, page(&inbox)).await;
            let cookie = "qomplement_inbox_form=4Kz0PhvXDXnKcQ9JvW5c8tqGpn7oYbRm2sLd1aTfEuI";
            let draft = post("")
                .method("GET")
                .without("content-type")
                .header("x-access", "full")
                .header("cookie", cookie);
            for path in [PATH.to_owned(), format!("/tenant{PATH}")] {
                let mut reply = draft.clone().target(format!("{path}{link}")).send(server.address).await;
                // The relative times may differ by a second.
                reply.body = time.replace_all(&reply.body, "").into_owned();
                reply.headers.remove("content-length");
                reply.headers.remove("etag");
                replies.push((framework, reply));
            }
        }
        for (framework, reply) in &replies {
            assert_eq!(reply, &replies[0].1, "{framework:?} {link}");
        }
    }
}
