//! Where the events of nodes are written.
//!
//! `NIGH_LOG`, else `RUST_LOG`, says which (`info`, `nigh_node=debug`, …).

use std::fs::File;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::prelude::*;

use crate::failure::{Failure, Result};

/// What a node says, and of the libraries under it only what is unexpected.
const DEFAULT: &str = "warn,nigh=info";
/// On a terminal that shows something else: what is unexpected.
const QUIET: &str = "error,nigh=warn";

/// Writes to stderr.
pub(crate) fn to_stderr() -> Result {
    let filter = filter(DEFAULT)?;
    let colour = std::io::stderr().is_terminal();
    let stderr = layer().with_writer(std::io::stderr).with_ansi(colour).with_filter(filter);
    tracing_subscriber::registry().with(stderr).init();
    Ok(())
}

/// Writes everything to a file, begun anew, and what is unexpected to stderr too; everything
/// when `verbose`.
pub(crate) fn to_file(path: &Path, verbose: bool) -> Result {
    let previous = path.with_extension("log.1");
    // There may be none to keep, and a lost old log is no reason not to start.
    let _ = std::fs::rename(path, previous);
    let file = File::create(path).map_err(|error| {
        Failure::invalid(format!("cannot write the log {}", path.display())).why(error.to_string())
    })?;
    let colour = std::io::stderr().is_terminal();
    let shown = if verbose { filter(DEFAULT)? } else { EnvFilter::new(QUIET) };
    let to_file = layer().with_writer(Mutex::new(file)).with_ansi(false);
    let to_stderr = layer().with_writer(std::io::stderr).with_ansi(colour);
    tracing_subscriber::registry()
        .with(to_file.with_filter(filter(DEFAULT)?))
        .with(to_stderr.with_filter(shown))
        .init();
    Ok(())
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
