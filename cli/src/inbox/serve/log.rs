//! The library's log on standard error: each action on the page, and each fault behind it.

use std::fmt::{Debug, Write};
use std::time::SystemTime;

use humantime::format_rfc3339_seconds;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::output;

/// Prints the library's events from `INFO` up.
pub(super) struct Log;

impl Log {
    /// Prints them from now on.
    pub(super) fn start() {
        // An error would say that there is a subscriber; no other command sets one.
        let _ = tracing::subscriber::set_global_default(Self);
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("qomplement_webhooks")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn event(&self, event: &Event<'_>) {
        let level = *event.metadata().level();
        if level > Level::INFO {
            return;
        }
        let mut line = Text::default();
        event.record(&mut line);
        let text = format!("{} {}{}", format_rfc3339_seconds(SystemTime::now()), line.message, line.fields);
        // One event is one line.
        let text = output::clean(&text);
        match level {
            Level::ERROR => output::error(text),
            Level::WARN => output::warning(text),
            _ => output::note(text),
        }
    }

    // No span is enabled.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The text of an event.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
