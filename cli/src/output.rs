//! The one place that prints: data on stdout, the rest on stderr.

use std::io::{ErrorKind, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::failure::{Failure, Result};

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs; fields may be added later, never renamed.
    Json,
}

/// Prints a line of data.
pub(crate) fn line(text: impl AsRef<str>) -> Result {
    let mut bytes = text.as_ref().as_bytes().to_vec();
    bytes.push(b'\n');
    raw(&bytes)
}

/// Prints one JSON document over several lines.
pub(crate) fn json(value: &impl Serialize) -> Result {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::internal(format!("cannot write JSON: {error}")))?;
    line(text)
}

/// Prints one JSON document on one line, for streams of them.
pub(crate) fn json_line(value: &impl Serialize) -> Result {
    let text = serde_json::to_string(value)
        .map_err(|error| Failure::internal(format!("cannot write JSON: {error}")))?;
    line(text)
}

/// Prints bytes as they are.
pub(crate) fn raw(bytes: &[u8]) -> Result {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::reader_gone()),
        Err(error) => Err(Failure::internal(format!("cannot write to stdout: {error}"))),
    }
}

/// Says something that is no data. Nobody may be listening, and that is no error.
pub(crate) fn note(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr(), "{}", text.as_ref());
}

/// Says why the command failed.
pub(crate) fn failure(failure: &Failure) {
    if !failure.is_silent() {
        note(failure.to_string());
    }
}

/// Whether somebody watches stderr, so that progress may be drawn there.
pub(crate) fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Makes text from elsewhere fit for a terminal: a function's output must not move the cursor.
/// A pipe gets it unchanged.
pub(crate) fn printable(text: &str) -> std::borrow::Cow<'_, str> {
    let harmful = |c: char| c.is_control() && c != '\t';
    if std::io::stdout().is_terminal() && text.contains(harmful) {
        text.chars().map(|c| if harmful(c) { '\u{fffd}' } else { c }).collect::<String>().into()
    } else {
        text.into()
    }
}
