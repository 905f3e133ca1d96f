//! The token that authenticates the sender.

use std::borrow::Cow;
use std::env::VarError;
use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use subtle::{Choice, ConstantTimeEq};

use super::authenticator::Access;
use crate::error::BoxError;

/// A secret in the webhook URL, which the sender repeats with every delivery.
///
/// The sender stores only a URL, so the token stands in the URL's query: `?token=…`. A proxy may move
/// it to `Authorization: Bearer …`, which is accepted too. A request must carry exactly one token.
///
/// A token is not a signature: anyone who learns it can forge webhooks, and URLs are written to access
/// logs and traces. Rotate it with [`also_accept`](Self::also_accept).
///
/// The comparison takes the same time for every presented token of the right length, so it tells nothing but the
/// length. `Debug` shows nothing of the secret.
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
/// # Ok::<(), qomplement_webhooks::auth::TokenError>(())
/// ```
#[derive(Clone)]
pub struct SharedToken {
    secret: Arc<str>,
    /// The other accepted tokens.
    previous: Vec<Arc<str>>,
}

/// The error of a text that cannot be a [`SharedToken`]. Shows nothing of the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Shorter than 32 characters, and so too easy to guess.
    #[error("the token has {length} characters, and at least {} are needed", SharedToken::MIN_LEN)]
    TooShort {
        /// The number of characters.
        length: usize,
    },
    /// Longer than a URL should carry.
    #[error("the token has {length} characters, and at most {} are accepted", SharedToken::MAX_LEN)]
    TooLong {
        /// The number of characters.
        length: usize,
    },
    /// A character other than those of base64url.
    #[error("the token has a character other than A-Z, a-z, 0-9, `-` and `_` (position {position})")]
    Character {
        /// The character's position, counted from 0.
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
    /// The operating system's random number generator failed.
    #[error("the operating system's random number generator failed")]
    Random(#[source] BoxError),
}

impl SharedToken {
    /// The length of the shortest token, in characters: 192 random bits.
    pub const MIN_LEN: usize = 32;
    /// The length of the longest token, in characters.
    pub const MAX_LEN: usize = 255;

    /// Makes a token from 32 to 255 base64url characters (`A-Z`, `a-z`, `0-9`, `-`, `_`).
    ///
    /// # Errors
    ///
    /// Returns an error if the text is shorter ([`TokenError::TooShort`]), longer
    /// ([`TokenError::TooLong`]), or has another character ([`TokenError::Character`]).
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
            _ => Ok(Self { secret: secret.into(), previous: Vec::new() }),
        }
    }

    /// Reads the token from an environment variable.
    ///
    /// # Errors
    ///
    /// Returns an error if the variable is not set ([`TokenError::NotSet`]) or not Unicode
    /// ([`TokenError::NotUnicode`]), or [`new`](Self::new)'s error for its value.
    pub fn from_env(name: &str) -> Result<Self, TokenError> {
        match std::env::var(name) {
            Ok(secret) => Self::new(secret),
            Err(VarError::NotPresent) => Err(TokenError::NotSet { name: name.to_owned() }),
            // The error is dropped because it contains the value, which is the secret.
            Err(VarError::NotUnicode(_)) => Err(TokenError::NotUnicode { name: name.to_owned() }),
        }
    }

    /// Generates a token of 256 random bits; [`expose`](Self::expose) shows it.
    ///
    /// # Errors
    ///
    /// Returns [`TokenError::Random`] if the operating system's random number generator fails.
    pub fn generate() -> Result<Self, TokenError> {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        // 43 characters of six bits are the fewest that hold 256 bits.
        let mut random = [0; 43];
        getrandom::fill(&mut random).map_err(|error| TokenError::Random(error.into()))?;
        Self::new(String::from_iter(random.map(|byte| char::from(ALPHABET[usize::from(byte % 64)]))))
    }

    /// Accepts the previous token too, while webhooks with it may still arrive.
    ///
    /// To rotate a token: deploy the new one with `.also_accept(old)`, use the new one in the
    /// `webhook_url` of new jobs, and remove the old one after the last job that was started with it
    /// has ended. [`WebhookUrl`](super::WebhookUrl) carries the new token: the one that this method is
    /// called on.
    #[must_use]
    pub fn also_accept(mut self, previous: Self) -> Self {
        self.previous.push(previous.secret);
        self.previous.extend(previous.previous);
        self
    }

    /// The secret itself, for the configuration of the sender.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.secret
    }

    pub(crate) fn check(&self, request: &Parts) -> Access {
        let Some(presented) = PresentedToken::find(request) else { return Access::Denied };
        let presented = &*presented.0;
        // No early return: the time must not tell which token matched.
        let matches = |known: &Arc<str>| same_bytes(known.as_bytes(), presented);
        let found = self.previous.iter().fold(matches(&self.secret), |found, known| found | matches(known));
        if found.into() { Access::Granted } else { Access::Denied }
    }
}

/// Compares eight bytes at a time, in a time that tells no more than the lengths.
fn same_bytes(left: &[u8], right: &[u8]) -> Choice {
    let ((left, left_rest), (right, right_rest)) = (left.as_chunks(), right.as_chunks());
    if left.len() != right.len() {
        return Choice::from(0);
    }
    let eights = left.iter().zip(right);
    let eights = eights.map(|(left, right)| u64::from_ne_bytes(*left).ct_eq(&u64::from_ne_bytes(*right)));
    eights.fold(left_rest.ct_eq(right_rest), |same, eight| same & eight)
}

/// The one token that a request carries.
struct PresentedToken<'a>(Cow<'a, [u8]>);

impl<'a> PresentedToken<'a> {
    /// Finds the token; `None` if the request has no token, or more than one.
    fn find(request: &'a Parts) -> Option<Self> {
        let query = request.uri.query().unwrap_or_default();
        // Decodes only a query that needs it: most do not.
        let has_escapes = query.bytes().fold(false, |found, byte| found | matches!(byte, b'%' | b'+'));
        let in_query = |parameter: &'a str| match parameter.as_bytes().strip_prefix(b"token") {
            _ if has_escapes => decoded_token(parameter.as_bytes()),
            Some([]) => Some(Cow::Borrowed(&b""[..])),
            Some([b'=', token @ ..]) => Some(Cow::Borrowed(token)),
            _ => None,
        };
        let mut found = None;
        for token in query.split('&').filter_map(in_query).chain(Self::in_headers(&request.headers)) {
            if found.replace(Self(token)).is_some() {
                return None;
            }
        }
        found
    }

    /// The bearer tokens. Other schemes are ignored.
    fn in_headers(headers: &'a HeaderMap) -> impl Iterator<Item = Cow<'a, [u8]>> {
        headers.get_all(AUTHORIZATION).iter().filter_map(|value| {
            let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then(|| Cow::Borrowed(token.trim_ascii()))
        })
    }
}

fn decoded_token(parameter: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (_, token) = form_urlencoded::parse(parameter).find(|(key, _)| key == "token")?;
    Some(match token {
        Cow::Borrowed(token) => Cow::Borrowed(token.as_bytes()),
        Cow::Owned(token) => Cow::Owned(token.into_bytes()),
    })
}

impl fmt::Debug for SharedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedToken")
            .field("secret", &"[redacted]")
            .field("accepted", &(1 + self.previous.len()))
            .finish()
    }
}
