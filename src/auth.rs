//! Who may deliver webhooks.

use std::borrow::Cow;
use std::env::VarError;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, Uri};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// Decides whether a request may deliver a webhook, before anything but its head is read.
///
/// Use [`SharedToken`] unless something in front of your server authenticates the sender in another
/// way, such as a client certificate or a proxy's signature.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Decides from the method, the target and the headers.
    ///
    /// # Errors
    ///
    /// When it could not be decided, because something that it takes was not reached. The answer is
    /// 503, as it is when this hangs or panics, and the sender tries again.
    async fn authenticate(&self, request: &Parts) -> Result<Access, Box<dyn Error + Send + Sync>>;
}

/// What an [`Authenticator`] decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The request may deliver a webhook.
    Granted,
    /// The answer is 401, and nothing further is looked at or kept.
    Denied,
}

#[async_trait]
impl<A: Authenticator + ?Sized> Authenticator for Arc<A> {
    async fn authenticate(&self, request: &Parts) -> Result<Access, Box<dyn Error + Send + Sync>> {
        (**self).authenticate(request).await
    }
}

/// A secret that the sender repeats with every webhook, in the URL that you gave it.
///
/// The sender takes only a URL, so the token stands in its query: `?token=…`. A proxy of yours may
/// move it to `Authorization: Bearer …`, which is accepted too. It must come exactly once.
///
/// A token is not a signature: whoever learns it can forge webhooks, and URLs are written to access
/// logs and traces. Have it replaced with [`also_accept`](Self::also_accept).
///
/// Digests are compared, in constant time. `Debug` shows nothing of the secret.
///
/// # Examples
///
/// ```
/// use qomplement_webhooks::SharedToken;
///
/// // SharedToken::from_env("WEBHOOK_TOKEN")? in a program
/// let token = SharedToken::new("4Kz0PhvXDXnKcQ9JvW5c8tqGpn7oYbRm2sLd1aTfEuI")?
///     .also_accept(SharedToken::new("Zk3QmV9nUuYb6s0aLr7pXw2TtHcJ5dEoGf8iKvN1BqM")?);
/// # let _ = token;
/// # Ok::<(), qomplement_webhooks::TokenError>(())
/// ```
#[derive(Clone)]
pub struct SharedToken {
    secret: Arc<str>,
    /// Of the secret, and of what is accepted beside it.
    digests: Vec<[u8; 32]>,
}

/// Why a text cannot be a [`SharedToken`]. Shows nothing of the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Shorter than 32 characters: it could be guessed.
    #[error("the token has {length} characters, and at least {} are needed", SharedToken::MIN_LEN)]
    TooShort {
        /// How many characters it has.
        length: usize,
    },
    /// Longer than a URL should carry.
    #[error("the token has {length} characters, and at most {} are accepted", SharedToken::MAX_LEN)]
    TooLong {
        /// How many characters it has.
        length: usize,
    },
    /// A character other than those of base64url.
    #[error("the token has a character other than A-Z, a-z, 0-9, `-` and `_` (position {position})")]
    Character {
        /// Where, counted from 0.
        position: usize,
    },
    /// The environment variable is not set.
    #[error("the environment variable {name}, which should hold the token, is not set")]
    NotSet {
        /// The variable's name.
        name: String,
    },
    /// The environment variable is not Unicode.
    #[error("the environment variable {name}, which should hold the token, is not Unicode")]
    NotUnicode {
        /// The variable's name.
        name: String,
    },
    /// The operating system gives no random numbers.
    #[error("the operating system gives no random numbers")]
    Random(#[source] getrandom::Error),
}

impl SharedToken {
    /// The fewest characters: 192 random bits.
    pub const MIN_LEN: usize = 32;
    /// The most characters.
    pub const MAX_LEN: usize = 255;

    /// Takes a token of 32 to 255 base64url characters (`A-Z`, `a-z`, `0-9`, `-`, `_`).
    ///
    /// # Errors
    ///
    /// When the text is no such token.
    pub fn new(secret: impl AsRef<str>) -> Result<Self, TokenError> {
        let secret = secret.as_ref();
        if let Some(position) =
            secret.bytes().position(|byte| !(byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'))
        {
            return Err(TokenError::Character { position });
        }
        match secret.len() {
            length @ ..Self::MIN_LEN => Err(TokenError::TooShort { length }),
            length if length > Self::MAX_LEN => Err(TokenError::TooLong { length }),
            _ => Ok(Self { secret: secret.into(), digests: vec![digest(secret)] }),
        }
    }

    /// Reads the token from an environment variable.
    ///
    /// # Errors
    ///
    /// When the variable is missing, or its value is no token.
    pub fn from_env(name: &str) -> Result<Self, TokenError> {
        match std::env::var(name) {
            Ok(secret) => Self::new(secret),
            Err(VarError::NotPresent) => Err(TokenError::NotSet { name: name.to_owned() }),
            // The error has the value in it, which is the secret.
            Err(VarError::NotUnicode(_)) => Err(TokenError::NotUnicode { name: name.to_owned() }),
        }
    }

    /// Draws a new token of 256 random bits; [`expose`](Self::expose) shows it.
    ///
    /// # Errors
    ///
    /// When the operating system gives no random numbers.
    pub fn generate() -> Result<Self, TokenError> {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        // 43 characters of six bits: a little more than 256.
        let mut random = [0; 43];
        getrandom::fill(&mut random).map_err(TokenError::Random)?;
        Self::new(String::from_iter(random.map(|byte| char::from(ALPHABET[usize::from(byte % 64)]))))
    }

    /// Accepts another token too, for as long as webhooks may still come with it.
    ///
    /// To replace a token: deploy with the new one that also accepts the old one, use the new one in
    /// the `webhook_url` of new jobs, and drop the old one when the last job started with it has
    /// ended. [`WebhookUrl`] carries the token on which this is called.
    #[must_use]
    pub fn also_accept(mut self, previous: Self) -> Self {
        self.digests.extend(previous.digests);
        self
    }

    /// The secret itself, to be shown to whoever configures the sender.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.secret
    }

    pub(crate) fn check(&self, request: &Parts) -> Access {
        let Some(given) = Given::find(request) else { return Access::Denied };
        let given = digest(&given.0);
        // Every digest is compared, whatever the first comparison says.
        let found = self.digests.iter().fold(Choice::from(0), |found, known| found | known.ct_eq(&given));
        if found.into() { Access::Granted } else { Access::Denied }
    }
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// The one token that a request gives.
struct Given<'a>(Cow<'a, str>);

impl<'a> Given<'a> {
    /// `None` when there is no token, or more than one.
    fn find(request: &'a Parts) -> Option<Self> {
        let query = request.uri.query().unwrap_or_default();
        // One parameter at a time: most need no decoding.
        let in_query = query.split('&').filter_map(|parameter| match parameter.split_once('=') {
            _ if parameter.bytes().any(|byte| matches!(byte, b'%' | b'+')) => decoded_token(parameter),
            Some(("token", value)) => Some(value.into()),
            None if parameter == "token" => Some("".into()),
            _ => None,
        });
        let in_query = in_query.map(|token| Some(Self(token)));
        let mut tokens = in_query.chain(Self::in_headers(&request.headers));
        match (tokens.next(), tokens.next()) {
            (Some(token), None) => token,
            _ => None,
        }
    }

    /// The bearer tokens; `None` within for one that is not text. Other schemes are none of ours.
    fn in_headers(headers: &'a HeaderMap) -> impl Iterator<Item = Option<Self>> {
        headers.get_all(AUTHORIZATION).iter().filter_map(|value| {
            let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
            if !scheme.eq_ignore_ascii_case(b"Bearer ") {
                return None;
            }
            Some(std::str::from_utf8(token).ok().map(|token| Self(token.trim().into())))
        })
    }
}

fn decoded_token(parameter: &str) -> Option<Cow<'_, str>> {
    form_urlencoded::parse(parameter.as_bytes()).find(|(key, _)| key == "token").map(|(_, value)| value)
}

impl fmt::Debug for SharedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedToken")
            .field("secret", &"[redacted]")
            .field("accepted", &self.digests.len())
            .finish()
    }
}

/// The URL that the sender is to post to, with the token in it: what goes into `webhook_url`.
///
/// `Debug` and `Display` leave the token out; [`expose`](Self::expose) gives the whole.
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
    /// Where the token begins: it is the last thing in the URL.
    token_at: usize,
}

/// Why a text cannot be a [`WebhookUrl`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookUrlError {
    /// Not an absolute URL.
    #[error("the webhook URL is not an absolute URL")]
    NotAbsolute,
    /// Not a URL at all.
    #[error("the webhook URL cannot be read")]
    Unreadable(#[source] http::uri::InvalidUri),
    /// Something other than https, to something other than this machine: the token could be read on
    /// the way.
    #[error("the webhook URL must begin with https:// (http:// only for a loopback address)")]
    NotHttps,
    /// It has a user name, a fragment, or a `token` of its own.
    #[error("the webhook URL must have no {0}")]
    Superfluous(&'static str),
}

impl WebhookUrl {
    /// Adds a token to the URL at which your server is reached from outside.
    ///
    /// # Errors
    ///
    /// When the URL is not an absolute https URL (http is accepted for loopback addresses), or has a
    /// user name, a fragment or a `token` in its query.
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

#[cfg(test)]
mod tests;
