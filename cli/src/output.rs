//! Output: results on standard output, everything else on standard error, colours on a terminal alone.
//!
//! All output passes through [`Line`], which escapes control characters in foreign text. After a reader such as `head`
//! has closed the pipe, commands print nothing more, finish their work, and keep their exit status.

mod line;
mod pretty;
mod text;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use clap::ValueEnum;
use serde_json::Value;

pub(crate) use self::line::Line;
pub(crate) use self::text::{clean, cut, printable};

/// The output format of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text for people
    Text,
    /// One JSON object per line
    Json,
}

/// The columns that text must fit in: those of a terminal of the usual size.
pub(crate) const COLUMNS: usize = 80;

/// The error that closed standard output.
static CLOSED: OnceLock<io::Error> = OnceLock::new();

/// Prints a line of the result.
pub(crate) fn line(line: impl Into<Line>) {
    print(format!("{}\n", line.into().as_str()).as_bytes());
}

/// Prints lines of the result.
pub(crate) fn lines<'a>(lines: impl IntoIterator<Item = &'a Line>) {
    lines.into_iter().cloned().for_each(line);
}

/// Prints a JSON object of the result.
pub(crate) fn json(value: &Value) {
    line(text::json(&value.to_string(), ' '));
}

/// Prints a JSON object of the result with a `body` member, whose members and numbers keep their text.
pub(crate) fn json_with_body(value: &Value, body: Option<&[u8]>) {
    let body = body.and_then(pretty::text_of_json).unwrap_or("null");
    let members = value.to_string();
    let members = members.strip_suffix('}').unwrap_or(&members);
    line(text::json(&format!("{members},\"body\":{body}}}"), ' '));
}

/// Prints a body indented. `raw_option` names the option that prints the body unchanged.
pub(crate) fn body(body: &[u8], raw_option: &str) {
    let Some(pretty) = pretty::pretty(body) else {
        String::from_utf8_lossy(body).lines().for_each(|text| line(clean(text)));
        return;
    };
    line(text::json(&pretty.text, '\n'));
    if !pretty.is_whole {
        note(format_args!(
            "the body is nested too deeply to indent all of it\n  {raw_option} prints it unchanged"
        ));
    }
}

/// Prints a body byte for byte; on a terminal, with control characters escaped.
pub(crate) fn raw_body(body: &[u8]) {
    let shown = match std::str::from_utf8(body) {
        _ if !is_terminal() => return bytes(body),
        Ok(text) if pretty::text_of_json(body).is_some() => text::json(text, '\n'),
        _ => printable(&String::from_utf8_lossy(body)),
    };
    if shown.as_bytes() != body {
        note("control characters are escaped here; a file or a pipe gets the exact bytes");
    }
    line(shown);
}

/// Prints a part of the result unchanged.
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

/// Records that standard output is closed.
pub(crate) fn closed(error: io::Error) {
    // The first error is the one to report.
    let _ = CLOSED.set(error);
}

/// Whether standard output is closed. A command that only shows data can end then.
pub(crate) fn is_closed() -> bool {
    CLOSED.get().is_some()
}

/// The error that lost a part of the result; `None` if the reader closed the pipe, which is not an error.
pub(crate) fn write_error() -> Option<&'static io::Error> {
    CLOSED.get().filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
}

/// Prints a note on standard error. A closed standard error is ignored.
pub(crate) fn note(line: impl Into<Line>) {
    let _ = writeln!(io::stderr().lock(), "{}", line.into().as_str());
}

/// Prints a question on standard error. The cursor stays behind it.
pub(crate) fn ask(question: impl Into<Line>) {
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{} ", question.into().as_str());
    let _ = stderr.flush();
}

/// Prints a warning on standard error.
pub(crate) fn warning(text: impl Display) {
    note(Line::styled("warning:", |text| text.yellow().bold().for_stderr()).and(format_args!(" {text}")));
}

/// Prints an error on standard error.
pub(crate) fn error(text: impl Display) {
    note(Line::styled("error:", |text| text.red().bold().for_stderr()).and(format_args!(" {text}")));
}

/// A number with its noun, such as `1 row` or `2 rows`.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}
