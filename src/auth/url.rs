//! The URL for the API's `webhook_url` parameter.

use std::fmt;

use http::Uri;
use http::uri::Scheme;

use super::token::SharedToken;

/// The URL that the sender delivers to, with the token in it: the value of `webhook_url`.
///
/// `Debug` and `Display` leave out the token; [`expose`](Self::expose) returns the whole URL.
///
/// # Examples
///
/// ```
/// use qomplement_webhooks::{SharedToken, WebhookUrl};
///
/// let token = SharedToken::generate()?;
/// let url = WebhookUrl::new("https://example.com/api/webhooks/qomplement", &token)?;
/// assert_eq!(url.to_string(), "https://example.com/api/webhooks/qomplement?token=[redacted]");
/// let form_field = ("webhook_url", url.expose());
/// # let _ = form_field;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct WebhookUrl {
    url: String,
    /// The token's position. The token ends the URL.
    token_at: usize,
}

/// The error of a text that cannot be a [`WebhookUrl`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookUrlError {
    /// The URL has no scheme or no host.
    #[error("the webhook URL is not an absolute URL")]
    NotAbsolute,
    /// The text is not a URL.
    #[error("the webhook URL cannot be parsed")]
    Unreadable(#[source] http::uri::InvalidUri),
    /// The scheme is not https, and the host is not a loopback address: others could read the token on
    /// its way.
    #[error("the webhook URL must begin with https:// (http:// only for a loopback address)")]
    NotHttps,
    /// The URL has a user name, a fragment, or already a `token`.
    #[error("the webhook URL must have no {0}")]
    Superfluous(&'static str),
}

impl WebhookUrl {
    /// Adds a token to your server's public URL.
    ///
    /// # Errors
    ///
    /// Returns an error if the text is not an absolute URL ([`WebhookUrlError::Unreadable`],
    /// [`WebhookUrlError::NotAbsolute`]), its scheme is not https and its host is not a loopback
    /// address ([`WebhookUrlError::NotHttps`]), or it has a user name, a fragment or a `token` in its
    /// query ([`WebhookUrlError::Superfluous`]).
    pub fn new(url: &str, token: &SharedToken) -> Result<Self, WebhookUrlError> {
        if url.contains('#') {
            return Err(WebhookUrlError::Superfluous("fragment"));
        }
        let uri: Uri = url.parse().map_err(WebhookUrlError::Unreadable)?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(WebhookUrlError::NotAbsolute);
        };
        if authority.as_str().contains('@') {
            return Err(WebhookUrlError::Superfluous("user name"));
        }
        if *scheme != Scheme::HTTPS && !(*scheme == Scheme::HTTP && is_loopback(authority.host())) {
            return Err(WebhookUrlError::NotHttps);
        }
        let query = uri.query().unwrap_or_default();
        if form_urlencoded::parse(query.as_bytes()).any(|(key, _)| key == "token") {
            return Err(WebhookUrlError::Superfluous("token of its own"));
        }
        let separator = match uri.query() {
            None => "?",
            Some("") => "",
            Some(_) => "&",
        };
        let before = format!(
            "{scheme}://{authority}{}{}{query}{separator}token=",
            uri.path(),
            if uri.query().is_some() { "?" } else { "" }
        );
        let token_at = before.len();
        Ok(Self { url: before + token.expose(), token_at })
    }

    /// The URL with its token.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.url
    }
}

/// Whether a URL's host is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[redacted]", &self.url[..self.token_at])
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookUrl({self})")
    }
}
