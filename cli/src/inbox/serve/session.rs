//! The one browser that may see the page.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, COOKIE, HeaderName, LOCATION, REFERRER_POLICY, SET_COOKIE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use qomplement_webhooks::SharedToken;

use crate::causes::causes;
use crate::failure::Failure;

/// A link that works once, and the cookie that it is exchanged for.
pub(super) struct Session {
    link: SharedToken,
    is_used: AtomicBool,
    cookie: SharedToken,
    /// The page's path. A browser sends the cookies of 127.0.0.1 to every port: no other server has this path, so none
    /// gets the cookie.
    path: String,
}

const COOKIE_NAME: &str = "inbox";

impl Session {
    pub(super) fn new() -> Result<Self, Failure> {
        let token = || SharedToken::generate().map_err(|error| Failure::failed(causes(&error)));
        let path = format!("/{}", token()?.expose());
        Ok(Self { link: token()?, is_used: AtomicBool::new(false), cookie: token()?, path })
    }

    pub(super) fn link(&self, address: SocketAddr) -> String {
        format!("http://{address}/?token={}", self.link.expose())
    }

    /// Answers a request that is not for the page.
    pub(super) fn answer<B>(&self, request: &Request<B>) -> Option<Response<Full<Bytes>>> {
        if request.uri().path() == self.path {
            return None;
        }
        if request.uri().path() != "/" {
            return Some(text(StatusCode::NOT_FOUND, "There is no such page.\n"));
        }
        let query = request.uri().query().unwrap_or_default();
        let token = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "token");
        let is_ours =
            request.method() == Method::GET && token.is_some_and(|(_, token)| is(&self.link, &token));
        if !is_ours || self.is_used.swap(true, Ordering::Relaxed) {
            let said = "This link was used, or is not the one that `inbox serve` printed. Start the command again.\n";
            return Some(text(StatusCode::FORBIDDEN, said));
        }
        let cookie =
            format!("{COOKIE_NAME}={}; Path={}; HttpOnly; SameSite=Strict", self.cookie.expose(), self.path);
        let mut response = text(StatusCode::SEE_OTHER, "");
        for (name, value) in [(LOCATION, &self.path), (SET_COOKIE, &cookie)] {
            response.headers_mut().extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        }
        Some(response)
    }

    /// Whether a request has the cookie.
    pub(super) fn has(&self, head: &Parts) -> bool {
        let cookies = head.headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let pairs =
            cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.filter(|(name, _)| *name == COOKIE_NAME).any(|(_, cookie)| is(&self.cookie, cookie))
    }
}

/// Whether a text is a token's secret. Takes the same time for every text of the right length.
fn is(token: &SharedToken, text: &str) -> bool {
    let secret = token.expose();
    let differences = secret.bytes().zip(text.bytes()).fold(0, |found, (one, other)| found | (one ^ other));
    secret.len() == text.len() && differences == 0
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let fixed: [(HeaderName, &'static str); 3] = [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
