//! What nodes log, and whether it was to be expected.

use std::fs;
use std::path::Path;

/// Lines of each log that a failing test prints.
const TAIL_LINES: usize = 60;

/// A line that may be there, and why.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    text: &'static str,
    #[allow(dead_code, reason = "for the reader of the test")]
    why: &'static str,
}

impl Expected {
    /// Lines that contain `text` are no surprise.
    pub(crate) fn new(text: &'static str, why: &'static str) -> Self {
        Self { text, why }
    }
}

/// All lines of a log.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}

/// Lines of level WARN and ERROR, and panics, that nobody expected. From line `ending` on, all
/// nodes were stopping at once: Raft tells of each message that then has nobody to go to.
pub(crate) fn unexpected(path: &Path, expected: &[Expected], ending: usize) -> Vec<String> {
    let is_bad = |line: &str| {
        let level = line.split_whitespace().nth(1).unwrap_or_default();
        matches!(level, "WARN" | "ERROR") || line.contains("panicked at")
    };
    let is_known = |at: usize, line: &str| {
        expected.iter().any(|known| line.contains(known.text))
            || at >= ending && line.contains("openraft::")
    };
    let lines = lines(path).into_iter().enumerate();
    let bad = lines.filter(|(at, line)| is_bad(line) && !is_known(*at, line));
    bad.map(|(_, line)| line).collect()
}

/// Prints the end of a log.
pub(crate) fn print_tail(title: &str, path: &Path) {
    let lines = lines(path);
    let first = lines.len().saturating_sub(TAIL_LINES);
    eprintln!(
        "--- {title}: {} (last {} of {} lines)",
        path.display(),
        lines.len() - first,
        lines.len()
    );
    for line in &lines[first..] {
        eprintln!("    {line}");
    }
}
