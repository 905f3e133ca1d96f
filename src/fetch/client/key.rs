//! The API key.

use std::env::VarError;
use std::fmt;

use http::HeaderValue;

/// The key of your account at the API. `Debug` shows nothing of the key.
#[derive(Clone)]
pub struct ApiKey(HeaderValue);

/// The reason why a text is not an [`ApiKey`]. Shows nothing of the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiKeyError {
    /// The text is empty.
    #[error("the API key is empty")]
    Empty,
    /// The text has a character that a header cannot carry, or that came along when the key was copied, such as a
    /// newline.
    #[error("the API key has a character other than visible ASCII (position {position})")]
    Character {
        /// The position of the character, from 0.
        position: usize,
    },
    /// The environment variable is not set.
    #[error("the environment variable {name}, which should hold the API key, is not set")]
    NotSet {
        /// The name of the variable.
        name: String,
    },
    /// The environment variable is not Unicode.
    #[error("the environment variable {name}, which should hold the API key, is not Unicode")]
    NotUnicode {
        /// The name of the variable.
        name: String,
    },
}

impl ApiKey {
    /// Makes a key from a text of visible ASCII characters.
    ///
    /// # Errors
    ///
    /// Returns an error if the text is empty or has another character.
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
    /// Returns an error if the variable is not set, or its value is not a key.
    pub fn from_env(name: &str) -> Result<Self, ApiKeyError> {
        match std::env::var(name) {
            Ok(key) => Self::new(key),
            Err(VarError::NotPresent) => Err(ApiKeyError::NotSet { name: name.to_owned() }),
            // The value within the error is the secret.
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
