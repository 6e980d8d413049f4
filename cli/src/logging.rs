//! Where and how the events of nodes are written.
//!
//! `NIGH_LOG`, else `RUST_LOG`, says which (`info`, `nigh_node=debug`, …). As JSON each event is one
//! line: `timestamp`, `level`, `target`, `fields` (with `message`) and `spans`, outermost first;
//! a panic is an event too.

use std::fs::File;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Mutex;

use tracing::Subscriber;
use tracing_subscriber::fmt::{MakeWriter, layer};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use crate::failure::{Failure, Result};

/// What a node says, and of the libraries under it only what is unexpected. Raft's library tells of
/// every message that a dead member does not answer; nigh says once that it is dead. The database of
/// the state tells of what a crash cut off in it; nigh says what it must build again.
const DEFAULT: &str = "warn,nigh=info,openraft=error,sled::pagecache::blob_io=error";
/// On a terminal that shows something else: what is unexpected.
const QUIET: &str = "error,nigh=warn";

/// How an event is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON document on a line.
    Json,
}

impl LogFormat {
    /// Those that there are, by name.
    pub(crate) const NAMES: [&str; 2] = ["text", "json"];
}

/// Writes to stderr.
pub(crate) fn to_stderr(format: LogFormat) -> Result {
    let filter = filter(DEFAULT)?;
    let colour = std::io::stderr().is_terminal();
    let stderr = written(format, std::io::stderr, colour).with_filter(filter);
    tracing_subscriber::registry().with(stderr).init();
    if format == LogFormat::Json {
        std::panic::set_hook(Box::new(tell_panic));
    }
    Ok(())
}

/// Writes everything to a file, begun anew, and what is unexpected to stderr too; everything
/// when `verbose`.
pub(crate) fn to_file(path: &Path, verbose: bool, format: LogFormat) -> Result {
    let previous = path.with_extension("log.1");
    // There may be none to keep, and a lost old log is no reason not to start.
    let _ = std::fs::rename(path, previous);
    let file = File::create(path).map_err(|error| {
        Failure::invalid(format!("cannot write the log {}", path.display())).why(error.to_string())
    })?;
    let colour = std::io::stderr().is_terminal();
    let shown = if verbose { filter(DEFAULT)? } else { EnvFilter::new(QUIET) };
    let to_file = written(format, Mutex::new(file), false);
    let to_stderr = written(format, std::io::stderr, colour);
    tracing_subscriber::registry()
        .with(to_file.with_filter(filter(DEFAULT)?))
        .with(to_stderr.with_filter(shown))
        .init();
    if format == LogFormat::Json {
        std::panic::set_hook(Box::new(tell_panic));
    }
    Ok(())
}

fn written<S, W>(format: LogFormat, writer: W, colour: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    match format {
        LogFormat::Text => layer().with_writer(writer).with_ansi(colour).boxed(),
        LogFormat::Json => {
            layer().json().with_current_span(false).with_writer(writer).with_ansi(false).boxed()
        }
    }
}

/// What reads the log reads every line of it as JSON.
fn tell_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let why = panic.payload_as_str().unwrap_or("no message");
    let at = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = std::backtrace::Backtrace::capture();
    tracing::error!(at, %backtrace, "panicked: {why}");
}

fn filter(default: &str) -> Result<EnvFilter> {
    for name in ["NIGH_LOG", "RUST_LOG"] {
        let Some(text) = std::env::var(name).ok().filter(|text| !text.is_empty()) else { continue };
        return EnvFilter::try_new(&text).map_err(|error| {
            Failure::usage(format!("{name} is `{text}`, which says nothing"))
                .why(error.to_string())
                .hint("write a level, or target=level, such as info or nigh_node=debug")
        });
    }
    Ok(EnvFilter::new(default))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use serde_json::Value;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, log: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let layer = written(format, move || writer.clone(), false);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn every_event_is_a_line_of_json() {
        let text = logged(LogFormat::Json, || {
            let _span = tracing::info_span!("node", node = "n1").entered();
            tracing::info!(peer = 7, "two\nlines, \"quoted\"");
            tracing::warn!("\u{1b}[31m and more");
        });
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["level"], &lines[1]["level"]), (&"INFO".into(), &"WARN".into()));
        assert_eq!(lines[0]["fields"]["message"], "two\nlines, \"quoted\"");
        assert_eq!(lines[0]["fields"]["peer"], 7);
        assert_eq!(lines[0]["spans"][0]["node"], "n1");
        for line in &lines {
            assert!(line["timestamp"].is_string() && line["target"].is_string(), "{line}");
        }
    }

    #[test]
    fn text_is_for_people() {
        let text = logged(LogFormat::Text, || tracing::info!("said"));
        assert!(text.contains(" INFO ") && text.ends_with("said\n"), "{text}");
    }

    #[test]
    fn the_formats_are_those_that_are_named() {
        for name in LogFormat::NAMES {
            assert!(<LogFormat as clap::ValueEnum>::from_str(name, false).is_ok());
        }
    }
}
