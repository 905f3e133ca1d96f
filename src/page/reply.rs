//! Answers: their headers, their form, and the tag by which a browser knows that nothing has changed.

use std::hash::{DefaultHasher, Hasher};

use askama::Template;
use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName,
    HeaderValue, IF_NONE_MATCH, LOCATION, REFERRER_POLICY, SET_COOKIE, VARY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use tracing::error;

use super::body;
use super::csrf::FormToken;
use super::problem::Problem;

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
/// Nothing but the page's own files, and no page of another site around it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// An answer.
pub(super) struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self { status, headers, body: body.into() }
    }

    pub(super) fn html(page: &impl Template) -> Self {
        Self::page(StatusCode::OK, page)
    }

    fn page(status: StatusCode, page: &impl Template) -> Self {
        match page.render() {
            Ok(html) => Self::new(status, HTML, html),
            Err(error) => {
                // Only a `Display` that fails leads here.
                error!(%error, "the inbox page could not be written");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, HTML, "")
            }
        }
    }

    pub(super) fn json(value: &Value) -> Self {
        Self::new(StatusCode::OK, JSON, value.to_string())
    }

    /// A JSON object with a `body` member, whose members and numbers keep their text. A body that is not JSON is a string, and
    /// so is one that parsers may refuse, as they would refuse the whole object.
    pub(super) fn json_with_body(object: &Value, body: &[u8]) -> Self {
        let as_text = || Value::from(String::from_utf8_lossy(body)).to_string();
        let body = body::portable_json(body).map_or_else(as_text, str::to_owned);
        let members = object.to_string();
        let members = members.strip_suffix('}').unwrap_or(&members);
        Self::new(StatusCode::OK, JSON, format!("{members},\"body\":{body}}}"))
    }

    /// The answer to a request that leads to no view.
    pub(super) fn problem(problem: Problem, as_json: bool) -> Self {
        let mut reply = if as_json {
            let error = serde_json::json!({"code": problem.code(), "message": problem.message()});
            Self::new(problem.status(), JSON, serde_json::json!({"error": error}).to_string())
        } else {
            Self::page(problem.status(), &ProblemPage { problem })
        };
        if problem == Problem::MethodNotAllowed {
            reply.headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
        }
        reply
    }

    /// Sends the browser to a view, with a GET.
    pub(super) fn see(link: &str) -> Self {
        let mut reply = Self::new(StatusCode::SEE_OTHER, HTML, "");
        // A link is percent-encoded.
        reply.headers.extend(HeaderValue::from_str(link).ok().map(|link| (LOCATION, link)));
        reply
    }

    /// A file of the page.
    pub(super) fn asset(name: &str) -> Result<Self, Problem> {
        let (content_type, text) = match name {
            "style.css" => ("text/css; charset=utf-8", include_str!("style.css")),
            "script.js" => ("text/javascript; charset=utf-8", include_str!("script.js")),
            "icon.svg" => ("image/svg+xml", include_str!("icon.svg")),
            _ => return Err(Problem::NoSuchPage),
        };
        Ok(Self::new(StatusCode::OK, content_type, text))
    }

    /// A file to keep. No browser opens it as a page.
    pub(super) fn download(body: Bytes) -> Self {
        let mut reply = Self::new(StatusCode::OK, "application/octet-stream", body);
        reply
            .headers
            .insert(CONTENT_DISPOSITION, HeaderValue::from_static(r#"attachment; filename="event.json""#));
        reply
    }

    /// Sets the visit's cookie, if the browser does not have it.
    pub(super) fn with_cookie(mut self, token: &FormToken) -> Self {
        self.headers.extend(token.set_cookie().map(|cookie| (SET_COOKIE, cookie)));
        self
    }

    /// Answers 304 if the browser has the same content.
    pub(super) fn unless_known(mut self, head: &Parts) -> Self {
        if self.status != StatusCode::OK {
            return self;
        }
        let is_html = self.headers.get(CONTENT_TYPE).is_some_and(|content_type| content_type == HTML);
        let tag = tag(&self.body, is_html);
        let is_known =
            head.headers.get_all(IF_NONE_MATCH).iter().any(|known| known.as_bytes() == tag.as_bytes());
        if is_known {
            (self.status, self.body) = (StatusCode::NOT_MODIFIED, Bytes::new());
            self.headers.remove(CONTENT_TYPE);
        }
        self.headers.extend(HeaderValue::from_str(&tag).ok().map(|tag| (ETAG, tag)));
        self
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        let fixed: [(HeaderName, &'static str); 8] = [
            (CACHE_CONTROL, "no-store"),
            (CONTENT_SECURITY_POLICY, POLICY),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
            // `no-referrer` would make browsers send `Origin: null` with the page's own forms.
            (REFERRER_POLICY, "same-origin"),
            (VARY, "accept, cookie"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (X_FRAME_OPTIONS, "DENY"),
        ];
        for (name, value) in fixed {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    problem: Problem,
}

/// The tag of a body: a hash of everything but a page's relative times, which change while nothing else does.
fn tag(body: &[u8], is_html: bool) -> String {
    const OPEN: &[u8] = b"<time ";
    const CLOSE: &[u8] = b"</time>";
    // Its keys are fixed, so that the processes behind one address agree.
    let mut hash = DefaultHasher::new();
    let mut rest = body;
    while let Some(at) = find(rest, OPEN).filter(|_| is_html) {
        // In a page, text from outside is escaped, so every element is the page's own.
        let end = find(&rest[at..], b">").map_or(rest.len(), |end| at + end);
        hash.write(&rest[..end]);
        rest = &rest[end..];
        rest = &rest[find(rest, CLOSE).unwrap_or(0)..];
    }
    hash.write(rest);
    format!("\"{:016x}\"", hash.finish())
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_ignores_relative_times_alone() {
        let page = |exact: &str, relative: &str, rest: &str| {
            tag(
                format!(
                    r#"<p><time datetime="{exact}">{relative}</time> {rest} <time datetime="x">y</time>"#
                )
                .as_bytes(),
                true,
            )
        };
        let first = page("10:00", "now", "running");
        assert_eq!(page("10:00", "5 s ago", "running"), first);
        assert_ne!(page("10:01", "now", "running"), first);
        assert_ne!(page("10:00", "now", "done"), first);
        assert_ne!(tag(b"<time ", true), tag(b"<time", true));
    }

    #[test]
    fn foreign_text_that_looks_like_a_time_hides_nothing_from_the_tag_of_json_or_a_download() {
        let makes: [fn(&str) -> Reply; 2] = [
            |middle| Reply::json(&serde_json::json!(["<time >", middle, "</time>"])),
            |middle| Reply::download(format!("<time >{middle}</time>").into()),
        ];
        for make in makes {
            let head = |tag: &str| {
                http::Request::get("/").header(IF_NONE_MATCH, tag).body(()).unwrap().into_parts().0
            };
            let first = make("received").unless_known(&head("\"0\""));
            let tag = first.headers[ETAG].to_str().unwrap();
            assert_eq!(make("received").unless_known(&head(tag)).status, StatusCode::NOT_MODIFIED);
            assert_eq!(make("dead").unless_known(&head(tag)).status, StatusCode::OK);
        }
    }
}
