//! What is printed: results on standard output, everything else on standard error; colours on a terminal alone.
//!
//! Everything is printed as a [`Line`], so no terminal obeys what comes from elsewhere. A reader that goes away, as
//! `head` does, ends no work: from then on nothing is printed, and the exit status still tells how the work ended.

mod line;
mod pretty;
mod text;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use clap::ValueEnum;
use serde_json::Value;

pub(crate) use self::line::Line;
pub(crate) use self::text::{clean, cut, showable};

/// For people, or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs: one JSON object a line
    Json,
}

/// The columns of a terminal that says nothing else, and of a text that must fit anywhere.
pub(crate) const COLUMNS: usize = 80;

/// Why standard output takes nothing more.
static CLOSED: OnceLock<io::Error> = OnceLock::new();

/// Prints a line of the result.
pub(crate) fn line(line: impl Into<Line>) {
    print(format!("{}\n", line.into().as_str()).as_bytes());
}

/// Prints lines of the result.
pub(crate) fn lines<'a>(lines: impl IntoIterator<Item = &'a Line>) {
    lines.into_iter().cloned().for_each(line);
}

/// Prints an object of the result.
pub(crate) fn json(value: &Value) {
    line(text::json(&value.to_string(), ' '));
}

/// Prints an object of the result with a body in it, whose members and numbers stay as they are.
pub(crate) fn json_with_body(value: &Value, body: Option<&[u8]>) {
    let body = body.and_then(pretty::text_of_json).unwrap_or("null");
    let members = value.to_string();
    let members = members.strip_suffix('}').unwrap_or(&members);
    line(text::json(&format!("{members},\"body\":{body}}}"), ' '));
}

/// Prints a body as people like to read it. `as_it_is` says how to get it byte for byte.
pub(crate) fn body(body: &[u8], as_it_is: &str) {
    let Some(pretty) = pretty::pretty(body) else {
        String::from_utf8_lossy(body).lines().for_each(|text| line(clean(text)));
        return;
    };
    line(text::json(&pretty.text, '\n'));
    if !pretty.is_whole {
        note(format_args!("the body is too deep to lay out all of it; {as_it_is} prints it as it is"));
    }
}

/// Prints a body byte for byte; on a terminal, without what a terminal would obey.
pub(crate) fn raw_body(body: &[u8]) {
    let shown = match std::str::from_utf8(body) {
        _ if !is_terminal() => return bytes(body),
        Ok(text) if pretty::text_of_json(body).is_some() => text::json(text, '\n'),
        _ => showable(&String::from_utf8_lossy(body)),
    };
    if shown.as_bytes() != body {
        note("what a terminal would obey is escaped; into a file or a pipe, it goes as it is");
    }
    line(shown);
}

/// Prints a part of the result as it is.
pub(crate) fn bytes(bytes: &[u8]) {
    print(bytes);
}

fn print(bytes: &[u8]) {
    if is_closed() {
        return;
    }
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        closed(error);
    }
}

/// Notes that standard output takes nothing more.
pub(crate) fn closed(error: io::Error) {
    // The first reason is the one that is told.
    let _ = CLOSED.set(error);
}

/// Whether standard output takes nothing more. Commands that only show can end then.
pub(crate) fn is_closed() -> bool {
    CLOSED.get().is_some()
}

/// Why a part of the result was not printed, unless its reader went away, which is no failure.
pub(crate) fn failure() -> Option<&'static io::Error> {
    CLOSED.get().filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
}

/// Tells something beside the result. If nobody can read it, that is no failure.
pub(crate) fn note(line: impl Into<Line>) {
    let _ = writeln!(io::stderr().lock(), "{}", line.into().as_str());
}

/// Asks something beside the result: the answer is typed behind it.
pub(crate) fn ask(question: impl Into<Line>) {
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{} ", question.into().as_str());
    let _ = stderr.flush();
}

/// Tells of something that is not as it should be.
pub(crate) fn warning(text: impl Display) {
    note(Line::styled("warning:", |text| text.yellow().bold().for_stderr()).and(format_args!(" {text}")));
}

pub(crate) fn error(text: impl Display) {
    note(Line::styled("error:", |text| text.red().bold().for_stderr()).and(format_args!(" {text}")));
}

/// So many of something, such as `1 row` or `2 rows`.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}
