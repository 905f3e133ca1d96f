//! Which requests a token admits, and that no text shows the secret.

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderValue, Request};

use super::*;

const TOKEN: &str = "4Kz0PhvXDXnKcQ9JvW5c8tqGpn7oYbRm2sLd1aTfEuI";
const PREVIOUS: &str = "Zk3QmV9nUuYb6s0aLr7pXw2TtHcJ5dEoGf8iKvN1BqM";

fn token(secret: &str) -> SharedToken {
    SharedToken::new(secret).unwrap()
}

/// A request's head with this target and these values of `Authorization`.
fn head(target: &str, authorization: &[&str]) -> Parts {
    let mut request = Request::post(target).body(()).unwrap();
    for value in authorization {
        request.headers_mut().append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
    }
    request.into_parts().0
}

fn admitted(token: &SharedToken, target: &str, authorization: &[&str]) -> bool {
    token.check(&head(target, authorization)) == Access::Granted
}

#[test]
fn a_token_is_admitted_from_the_query_or_as_a_bearer() {
    let token = token(TOKEN);
    let bearer = format!("Bearer {TOKEN}");
    assert!(admitted(&token, &format!("/?token={TOKEN}"), &[]));
    assert!(admitted(&token, &format!("/a/b?x=1&token={TOKEN}&y"), &[]));
    assert!(admitted(&token, "/", &[&bearer]));
    assert!(admitted(&token, "/", &[&bearer.replace("Bearer", "bEARER")]));
    assert!(admitted(&token, "/?x=1", &["Basic eDp5", &bearer]), "another scheme is ignored");
    assert!(admitted(&token, &format!("/?token={TOKEN}"), &["Basic eDp5"]));
    let encoded: String = TOKEN.bytes().map(|byte| format!("%{byte:02x}")).collect();
    assert!(admitted(&token, &format!("/?%74oken={encoded}"), &[]), "percent-encoding is undone");
}

#[test]
fn every_byte_of_a_token_counts() {
    for length in 32..=48 {
        let secret: String = TOKEN.chars().cycle().take(length).collect();
        let known = token(&secret);
        let admits = |presented: &str| admitted(&known, &format!("/?token={presented}"), &[]);
        assert!(admits(&secret));
        for place in 0..length {
            let other = if secret[place..].starts_with('x') { "y" } else { "x" };
            let wrong = format!("{}{other}{}", &secret[..place], &secret[place + 1..]);
            assert!(!admits(&wrong), "byte {place} of {length}");
            assert!(!admits(&secret[..place]), "{place} bytes of {length}");
        }
        assert!(!admits(&format!("{secret}x")), "one byte more than {length}");
    }
}

#[test]
fn a_token_that_is_missing_wrong_or_given_twice_is_not() {
    let token = token(TOKEN);
    let (query, bearer) = (format!("token={TOKEN}"), format!("Bearer {TOKEN}"));
    let (bearer, long) = (bearer.as_str(), format!("{TOKEN}{TOKEN}"));
    let refused: &[(String, &[&str])] = &[
        ("/".into(), &[]),
        ("/?token=".into(), &[]),
        ("/?token".into(), &[]),
        (format!("/?Token={TOKEN}"), &[]),
        (format!("/?token={PREVIOUS}"), &[]),
        (format!("/?token={}", &TOKEN[1..]), &[]),
        (format!("/?token={long}"), &[]),
        (format!("/?token={}", TOKEN.to_lowercase()), &[]),
        (format!("/?{query}&{query}"), &[]),
        (format!("/?{query}&token=x"), &[]),
        (format!("/?{query}&token"), &[]),
        (format!("/?{query}&%74oken=x"), &[]),
        (format!("/?{query}"), &[bearer]),
        (format!("/?{query}"), &["Bearer x"]),
        ("/".into(), &[bearer, bearer]),
        ("/".into(), &["Bearer "]),
        ("/".into(), &["Bearer"]),
        ("/".into(), &[TOKEN]),
        (format!("/{TOKEN}?x=token={TOKEN}"), &[]),
    ];
    for (target, authorization) in refused {
        assert!(!admitted(&token, target, authorization), "{target} {authorization:?}");
    }
    let mut odd = head("/", &[]);
    odd.headers.append(AUTHORIZATION, HeaderValue::from_bytes(b"Bearer \xff").unwrap());
    assert_eq!(token.check(&odd), Access::Denied);
    odd.uri = format!("/?{query}").parse().unwrap();
    assert_eq!(token.check(&odd), Access::Denied, "a bearer that is no text is a second token");
}

#[test]
fn rotation_admits_both_and_the_url_carries_the_new_one() {
    let rotated = token(TOKEN).also_accept(token(PREVIOUS));
    assert!(admitted(&rotated, &format!("/?token={TOKEN}"), &[]));
    assert!(admitted(&rotated, &format!("/?token={PREVIOUS}"), &[]));
    assert!(!admitted(&rotated, &format!("/?token={}", &TOKEN[1..]), &[]));
    let url = WebhookUrl::new("https://example.com/", &rotated).unwrap();
    assert!(url.expose().ends_with(TOKEN));
    let twice = token(TOKEN).also_accept(token(TOKEN));
    assert!(admitted(&twice, &format!("/?token={TOKEN}"), &[]), "a token that is accepted twice");
}

#[test]
fn a_token_is_32_to_255_base64url_characters() {
    assert!(matches!(SharedToken::new("a".repeat(31)), Err(TokenError::TooShort { length: 31 })));
    assert!(SharedToken::new("a".repeat(32)).is_ok());
    assert!(SharedToken::new("-_".repeat(127)).is_ok());
    assert!(matches!(SharedToken::new("a".repeat(256)), Err(TokenError::TooLong { length: 256 })));
    for bad in ["+", "/", "=", " ", "é", "\n", "%"] {
        let text = format!("{TOKEN}{bad}");
        let Err(error) = SharedToken::new(&text) else { panic!("{bad} was accepted") };
        assert!(matches!(error, TokenError::Character { position: 43 }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains(TOKEN), "the error shows the secret");
    }
    let missing = SharedToken::from_env("QOMPLEMENT_WEBHOOKS_NO_SUCH_VARIABLE").unwrap_err();
    assert!(missing.to_string().contains("QOMPLEMENT_WEBHOOKS_NO_SUCH_VARIABLE"), "{missing}");
}

#[test]
fn a_generated_token_is_new_and_long_enough() {
    let (first, second) = (SharedToken::generate().unwrap(), SharedToken::generate().unwrap());
    assert_eq!(first.expose().len(), 43);
    assert_ne!(first.expose(), second.expose());
}

#[test]
fn generated_tokens_draw_from_all_characters() {
    // One of 64 characters is missing among 4300 once in 10²⁷ runs.
    let tokens: String = (0..100).map(|_| SharedToken::generate().unwrap().expose().to_owned()).collect();
    let distinct: std::collections::HashSet<_> = tokens.chars().collect();
    assert_eq!(distinct.len(), 64, "{distinct:?}");
}

#[test]
fn a_webhook_url_is_https_or_loopback_and_carries_the_token() {
    let token = token(TOKEN);
    let urls = [
        ("https://example.com", "https://example.com/?token="),
        ("https://example.com:8443/a/b", "https://example.com:8443/a/b?token="),
        ("https://example.com/?tenant=7", "https://example.com/?tenant=7&token="),
        ("https://example.com/?", "https://example.com/?token="),
        ("http://localhost:3000/x", "http://localhost:3000/x?token="),
        ("http://127.0.0.1/x", "http://127.0.0.1/x?token="),
        ("http://[::1]:3000/x", "http://[::1]:3000/x?token="),
    ];
    for (url, expected) in urls {
        let url = WebhookUrl::new(url, &token).unwrap();
        assert_eq!(url.expose(), format!("{expected}{TOKEN}"));
        assert_eq!(url.to_string(), format!("{expected}[redacted]"));
        assert_eq!(format!("{url:?}"), format!("WebhookUrl({expected}[redacted])"));
    }
}

#[test]
fn other_urls_are_refused_with_the_reason() {
    let token = token(TOKEN);
    for url in
        ["http://example.com/", "http://127.0.0.1.example.com/", "http://10.0.0.1/", "ftp://example.com/"]
    {
        assert!(matches!(WebhookUrl::new(url, &token), Err(WebhookUrlError::NotHttps)), "{url}");
    }
    for url in ["/webhook", "example.com", ""] {
        let refused = WebhookUrl::new(url, &token);
        assert!(
            matches!(refused, Err(WebhookUrlError::NotAbsolute | WebhookUrlError::Unreadable(_))),
            "{url}"
        );
    }
    for url in [
        "https://u:p@example.com/",
        "https://example.com/#x",
        "https://example.com/?token=x",
        "https://example.com/?%74oken",
    ] {
        assert!(matches!(WebhookUrl::new(url, &token), Err(WebhookUrlError::Superfluous(_))), "{url}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let shown = format!("{:?}", token(TOKEN).also_accept(token(PREVIOUS)));
    assert_eq!(shown, r#"SharedToken { secret: "[redacted]", accepted: 2 }"#);
}
