//! The secret that opens the API.

use std::env::VarError;
use std::fmt;

use http::HeaderValue;

/// The key of your account at the API. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct ApiKey(HeaderValue);

/// Why a text cannot be an [`ApiKey`]. Shows nothing of the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiKeyError {
    /// It is empty.
    #[error("the API key is empty")]
    Empty,
    /// It has a character that a header cannot carry, or that a copy has brought along, such as a line's end.
    #[error("the API key has a character other than visible ASCII (position {position})")]
    Character {
        /// Where, counted from 0.
        position: usize,
    },
    /// The environment variable is not set.
    #[error("the environment variable {name}, which should hold the API key, is not set")]
    NotSet {
        /// The variable's name.
        name: String,
    },
    /// The environment variable is not Unicode.
    #[error("the environment variable {name}, which should hold the API key, is not Unicode")]
    NotUnicode {
        /// The variable's name.
        name: String,
    },
}

impl ApiKey {
    /// Takes a key of visible ASCII characters.
    ///
    /// # Errors
    ///
    /// When the text is no such key.
    pub fn new(key: impl AsRef<str>) -> Result<Self, ApiKeyError> {
        let key = key.as_ref();
        if key.is_empty() {
            return Err(ApiKeyError::Empty);
        }
        if let Some(position) = key.bytes().position(|byte| !byte.is_ascii_graphic()) {
            return Err(ApiKeyError::Character { position });
        }
        let header = HeaderValue::try_from(format!("Bearer {key}"));
        let mut header = header.map_err(|_| ApiKeyError::Character { position: 0 })?;
        header.set_sensitive(true);
        Ok(Self(header))
    }

    /// Reads the key from an environment variable.
    ///
    /// # Errors
    ///
    /// When the variable is missing, or its value is no key.
    pub fn from_env(name: &str) -> Result<Self, ApiKeyError> {
        match std::env::var(name) {
            Ok(key) => Self::new(key),
            Err(VarError::NotPresent) => Err(ApiKeyError::NotSet { name: name.to_owned() }),
            // The error has the value in it, which is the secret.
            Err(VarError::NotUnicode(_)) => Err(ApiKeyError::NotUnicode { name: name.to_owned() }),
        }
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey([redacted])")
    }
}
