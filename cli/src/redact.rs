//! `--redact`: the fields of bodies that are not shown.

use std::borrow::Cow;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use qomplement_webhooks::inbox::Redaction;

use crate::output;

/// The name of the option, for others that exclude it.
pub(crate) const REDACT: &str = "redact";

#[derive(Args, Clone)]
pub(crate) struct RedactArgs {
    /// Hide fields of the body that is shown: names, at any depth, or JSON pointers, such as
    /// iban,/data/result/tables
    #[arg(id = REDACT, long, value_name = "FIELD", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    fields: Vec<String>,
}

impl RedactArgs {
    /// The body to show; `None`, with a note, if all of it must be hidden.
    pub(crate) fn shown<'b>(&self, body: &'b [u8]) -> Option<Cow<'b, [u8]>> {
        if self.fields.is_empty() {
            return Some(body.into());
        }
        let shown = Redaction::fields(&self.fields).apply(body);
        if shown.is_none() {
            output::note("the body is not shown: it cannot be read as JSON, so --redact hides all of it");
        }
        shown.map(|event| event.to_string().into_bytes().into())
    }
}
