//! Texts in a database whose encoding may lack their characters.

use std::borrow::Cow;

use tokio_postgres::error::SqlState;

use crate::inbox::text::storable;
use crate::postgres;
use crate::store::StoreError;

/// The form in which texts for people are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Texts {
    /// In ASCII, with every other character escaped, for a database in any encoding.
    pub(super) ascii: bool,
}

impl Texts {
    pub(super) fn storable(self, text: &str) -> Cow<'_, str> {
        let text = storable(text);
        if !self.ascii || text.is_ascii() {
            return text;
        }
        let mut escaped = String::with_capacity(text.len() * 2);
        for character in text.chars() {
            if character.is_ascii() {
                escaped.push(character);
            } else {
                escaped.extend(character.escape_unicode());
            }
        }
        escaped.into()
    }
}

/// Whether a statement failed because the database's encoding lacks a character.
pub(super) fn is_untranslatable(error: &StoreError) -> bool {
    let StoreError::Unavailable(cause) = error else { return false };
    let lacks = [SqlState::UNTRANSLATABLE_CHARACTER, SqlState::CHARACTER_NOT_IN_REPERTOIRE];
    postgres::code(&**cause).is_some_and(|code| lacks.contains(code))
}
