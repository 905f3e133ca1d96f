//! Redaction: the parts of an event that people are not shown.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use tracing::error;

use crate::execution::isolation::caught;

/// The value in the place of a hidden one.
const HIDDEN: &str = "[redacted]";

/// Hides parts of an event from the people who look at it.
///
/// It changes the JSON that is shown, and nothing else: events are stored, handled and delivered as they arrived. It is
/// for the body of an event. Errors and ids are shown as they are.
///
/// # Examples
///
/// ```
/// use qomplement_webhooks::inbox::Redaction;
///
/// let redaction = Redaction::fields(["iban", "/data/result/tables"]);
/// let body = br#"{"data": {"result": {"fields": {"IBAN": "DE02", "city": "Bonn"}, "tables": [[1, 2]]}}}"#;
/// let shown = redaction.apply(body).unwrap();
/// assert_eq!(shown["data"]["result"]["fields"]["IBAN"], "[redacted]");
/// assert_eq!(shown["data"]["result"]["fields"]["city"], "Bonn");
/// assert_eq!(shown["data"]["result"]["tables"], "[redacted]");
/// ```
#[derive(Clone)]
pub struct Redaction {
    hide: Arc<dyn Fn(&mut Value) + Send + Sync>,
}

impl Redaction {
    /// Makes a redaction from a closure that changes an event's JSON, with `job_id` and `data`, in place.
    #[must_use]
    pub fn new(hide: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self { hide: Arc::new(hide) }
    }

    /// Makes a redaction that replaces values by the text `[redacted]`. A field that begins with `/` is a JSON pointer
    /// (RFC 6901) from the root of the event. Any other is the name of a member, wherever it stands; its ASCII letters
    /// match in either case.
    #[must_use]
    pub fn fields(fields: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let (pointers, names): (Vec<String>, Vec<String>) =
            fields.into_iter().map(Into::into).partition(|field| field.starts_with('/'));
        Self::new(move |event| {
            for pointer in &pointers {
                if let Some(value) = event.pointer_mut(pointer) {
                    *value = HIDDEN.into();
                }
            }
            hide_members(event, &names);
        })
    }

    /// Returns the JSON to show for a body; `None` if nothing of the body may be shown. That is so if the body cannot be
    /// read as JSON, and if the closure panicked.
    #[must_use]
    pub fn apply(&self, body: &[u8]) -> Option<Value> {
        let mut event = serde_json::from_slice(body).ok()?;
        match caught(|| (self.hide)(&mut event)) {
            Ok(()) => Some(event),
            Err(panicked) => {
                error!(error = %panicked, "the redaction failed; nothing of the event is shown");
                None
            }
        }
    }
}

/// Hides the members with these names in a value. `serde_json` reads no value that is nested too deeply for this.
fn hide_members(value: &mut Value, names: &[String]) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if names.iter().any(|hidden| hidden.eq_ignore_ascii_case(name)) {
                    *value = HIDDEN.into();
                } else {
                    hide_members(value, names);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hide_members(item, names)),
        _ => {}
    }
}

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redaction").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_named_field_is_hidden_wherever_it_stands_and_a_pointer_hides_one_place() {
        let redaction = Redaction::fields(["iban", "/data/list/1", "/data/missing", "/a~1b", "überall"]);
        let body = json!({
            "IBAN": 1, "a/b": {"x": 2}, "überall": 3, "data": {"list": [{"iban": [4]}, "five", 6], "ibans": 7, "name": "iban"},
        });
        let shown = redaction.apply(body.to_string().as_bytes()).unwrap();
        let expected = json!({
            "IBAN": HIDDEN, "a/b": HIDDEN, "überall": HIDDEN,
            "data": {"list": [{"iban": HIDDEN}, HIDDEN, 6], "ibans": 7, "name": "iban"},
        });
        assert_eq!(shown, expected);
    }

    #[test]
    fn debug_names_the_type() {
        assert_eq!(format!("{:?}", Redaction::fields(["iban"])), "Redaction { .. }");
    }

    #[test]
    fn a_repeated_or_escaped_name_hides_nothing_from_the_redaction() {
        let redaction = Redaction::fields(["iban"]);
        let body = br#"{"iban": "one", "\u0069ban": "two", "x": {"iba\u006e": "three"}}"#;
        let shown = redaction.apply(body).unwrap().to_string();
        assert!(!["one", "two", "three"].iter().any(|value| shown.contains(value)), "{shown}");
    }

    #[test]
    fn nothing_is_shown_of_a_body_that_is_no_json_or_makes_the_closure_panic() {
        let deep = "[".repeat(1000) + &"]".repeat(1000);
        for body in ["", "{", "\"a\" b", "{}{}", "1e999", &deep] {
            assert_eq!(Redaction::fields(["x"]).apply(body.as_bytes()), None, "{body:.20}");
        }
        assert_eq!(Redaction::fields(["x"]).apply(b"\"\xff\""), None);
        let panics = Redaction::new(|event| {
            event["data"] = Value::Null;
            panic!("a bug");
        });
        assert_eq!(panics.apply(br#"{"data": "secret"}"#), None);
    }
}
