//! Keeps forms of other sites from acting: the origin of a POST, and the token of its form.

use http::HeaderMap;
use http::header::{COOKIE, HOST, HeaderName, HeaderValue, ORIGIN};
use http::request::Parts;
use subtle::ConstantTimeEq;

use crate::SharedToken;
use crate::auth::TokenError;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The cookie whose value every form repeats. It stands for no access: the closure decides about that.
const COOKIE_NAME: &str = "qomplement_inbox_form";

/// Whether a browser says that the request comes from the page itself. A request without any word of its origin does
/// not count: every browser sends one with a POST.
pub(super) fn is_same_origin(head: &Parts) -> bool {
    match single(&head.headers, &SEC_FETCH_SITE) {
        Single::One(site) => site.as_bytes() == b"same-origin",
        Single::Many => false,
        // Browsers send it to secure origins only.
        Single::Missing => match single(&head.headers, &ORIGIN) {
            Single::One(origin) => is_own_host(origin, head),
            Single::Many | Single::Missing => false,
        },
    }
}

fn is_own_host(origin: &HeaderValue, head: &Parts) -> bool {
    let Some((_, host)) = origin.to_str().ok().and_then(|origin| origin.split_once("://")) else {
        return false;
    };
    // HTTP/2 has the host in the target.
    let own = match (single(&head.headers, &HOST), head.uri.authority()) {
        (Single::One(own), _) => own.to_str().ok(),
        (Single::Missing, Some(own)) => Some(own.as_str()),
        _ => None,
    };
    own.is_some_and(|own| own.eq_ignore_ascii_case(host))
}

enum Single<'a> {
    Missing,
    One(&'a HeaderValue),
    Many,
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Single<'a> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Single::Missing,
        (Some(value), None) => Single::One(value),
        (Some(_), Some(_)) => Single::Many,
    }
}

/// The token of a visitor's forms: a random value, in a cookie and in each form. It needs no memory on the server, and so
/// holds in every process behind one address.
#[derive(Clone)]
pub(super) struct FormToken {
    secret: String,
    /// Whether the visitor's browser has no cookie with it.
    is_new: bool,
}

impl FormToken {
    /// The token in the request's cookie, or a new one.
    pub(super) fn of(head: &Parts) -> Result<Self, TokenError> {
        match presented(&head.headers).next() {
            Some(known) => Ok(Self { secret: known.to_owned(), is_new: false }),
            None => Ok(Self { secret: SharedToken::generate()?.expose().to_owned(), is_new: true }),
        }
    }

    /// The value for a form.
    pub(super) fn for_form(&self) -> &str {
        &self.secret
    }

    /// The header that sets the cookie; `None` if the browser has it. The cookie has no `Path`, so it belongs to the folder
    /// of the page, whatever prefix a router or a proxy has cut off. A link from another site brings it along: a new cookie
    /// would end the forms of all open tabs. A POST of another site does not.
    pub(super) fn set_cookie(&self) -> Option<HeaderValue> {
        let cookie = format!("{COOKIE_NAME}={}; HttpOnly; SameSite=Lax", self.secret);
        self.is_new.then(|| HeaderValue::from_str(&cookie).ok()).flatten()
    }
}

/// Whether a form has the token of one of the request's cookies.
pub(super) fn is_own_form(head: &Parts, token: &str) -> bool {
    presented(&head.headers).any(|known| known.as_bytes().ct_eq(token.as_bytes()).into())
}

/// The tokens in the cookies. One that this page cannot have set is passed over.
fn presented(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs
        .filter(|(name, _)| *name == COOKIE_NAME)
        .map(|(_, value)| value)
        .filter(|value| SharedToken::new(value).is_ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Request;

    use super::*;

    fn head(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::post("/inbox");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_a_request_of_the_page_itself_has_its_origin() {
        let host = ("host", "ops.example:8443");
        for (headers, is_own) in [
            (vec![host, ("sec-fetch-site", "same-origin")], true),
            (vec![host, ("origin", "https://ops.example:8443")], true),
            (vec![host, ("origin", "https://OPS.example:8443")], true),
            // A proxy may have another name for the host; the browser's own word counts.
            (
                vec![("host", "inner"), ("sec-fetch-site", "same-origin"), ("origin", "https://ops.example")],
                true,
            ),
            (vec![host], false),
            (vec![host, ("origin", "null")], false),
            (vec![host, ("origin", "https://ops.example")], false),
            (vec![host, ("origin", "https://ops.example:8443.evil.example")], false),
            (vec![host, ("origin", "https://evil.example/ops.example:8443")], false),
            (vec![host, ("origin", "https://ops.example:8443"), ("origin", "https://evil.example")], false),
            (vec![host, ("origin", "https://ops.example:8443"), ("sec-fetch-site", "cross-site")], false),
            (vec![host, ("origin", "https://ops.example:8443"), ("sec-fetch-site", "same-site")], false),
            (vec![host, ("sec-fetch-site", "none")], false),
            (vec![host, ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], false),
            (vec![host, host, ("origin", "https://ops.example:8443")], false),
            (vec![("origin", "https://ops.example:8443")], false),
        ] {
            assert_eq!(is_same_origin(&head(&headers)), is_own, "{headers:?}");
        }
    }

    #[test]
    fn a_form_has_the_token_of_the_cookie() {
        let token = FormToken::of(&head(&[])).unwrap();
        let set = token.set_cookie().unwrap();
        let set = set.to_str().unwrap();
        assert!(set.ends_with("; HttpOnly; SameSite=Lax"), "{set}");
        let cookie = set.split(';').next().unwrap();
        let back = head(&[("cookie", &format!("theme=dark; {cookie}"))]);
        let known = FormToken::of(&back).unwrap();
        assert_eq!((known.for_form(), known.set_cookie()), (token.for_form(), None));
        assert!(is_own_form(&back, token.for_form()));
        for forged in ["", "x", &token.for_form()[1..], SharedToken::generate().unwrap().expose()] {
            assert!(!is_own_form(&back, forged), "{forged}");
        }
        // An empty cookie must not match an empty field.
        let empty = head(&[("cookie", "qomplement_inbox_form=")]);
        assert!(!is_own_form(&empty, "") && FormToken::of(&empty).unwrap().set_cookie().is_some());
        assert!(!is_own_form(&head(&[]), ""));
    }
}
