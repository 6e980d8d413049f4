//! `docs/errors.md` against the code: every reason that a user can be given is described, and
//! every one described is one that the code gives.
//!
//! Reasons of calls stand in one table of the gateway, whose own test holds status and meaning to
//! the document. Other reasons are what functions named `reason` answer and what statuses are made
//! with.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;

use crate::source;

const DOCUMENT: &str = "docs/errors.md";
const TABLE: &str = "node/src/gateway/reasons.rs";
/// The parts whose reasons reach users.
const PARTS: &[&str] = &["model", "storage", "runtime", "node", "proto"];

/// What makes a gRPC status from a reason.
const STATUS_MAKERS: &[&str] = &["of_kind(", "status::of(", "with_retry(", "invalid("];

/// What the document and the code disagree on.
///
/// # Errors
/// A file cannot be read.
pub(super) fn problems(root: &Path) -> Result<Vec<String>> {
    let mut given = BTreeSet::new();
    let mut written = BTreeSet::new();
    for path in source::files(root, "rs")? {
        if !PARTS.iter().any(|part| path.starts_with(part)) {
            continue;
        }
        let text = source::read(root, &path.to_string_lossy())?;
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        given.extend(answered(code).into_iter().map(str::to_owned));
        written.extend(source::upper_names(code, '"').into_iter().map(str::to_owned));
    }
    let table = tabled(&source::read(root, TABLE)?);
    given.extend(table.iter().cloned());
    written.extend(table);
    Ok(differences(&given, &written, &source::read(root, DOCUMENT)?))
}

/// `given`: what surely reaches a user. `written`: whatever the code has in quotes.
fn differences(
    given: &BTreeSet<String>,
    written: &BTreeSet<String>,
    document: &str,
) -> Vec<String> {
    let described = described(document);
    let missing = given.iter().filter(|reason| !described.contains(reason.as_str()));
    let mut problems: Vec<_> =
        missing.map(|reason| format!("{DOCUMENT}: not a word on {reason}")).collect();
    let gone = described.iter().filter(|reason| !written.contains(**reason));
    problems.extend(gone.map(|reason| format!("{DOCUMENT}: the code never says {reason}")));
    problems
}

/// The reasons that are described: by a heading `### REASON` or `### REASON · STATUS`, or in the
/// first cell of a table's row.
fn described(document: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for line in document.lines() {
        if let Some(head) = line.strip_prefix("### ") {
            found.extend(head.split_whitespace().next());
        } else if let Some(row) = line.strip_prefix("| ") {
            found.extend(source::upper_names(row.split('|').next().unwrap_or_default(), '`'));
        }
    }
    found
}

/// The rows of the gateway's table: `NAME status Kind …;`.
fn tabled(code: &str) -> Vec<String> {
    let rows = code.split_once("\nreasons! {").map_or("", |(_, rest)| rest);
    let rows = rows.split_once("\n}").map_or("", |(rows, _)| rows);
    let starts_row = |line: &&str| {
        let mut words = line.split_whitespace();
        let name = words.next().is_some_and(|word| word == word.to_ascii_uppercase());
        name && words.next().is_some_and(|status| status.parse::<u16>().is_ok())
    };
    let name = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    rows.lines().filter(starts_row).map(name).collect()
}

/// The names that functions called `reason` answer, and that statuses are made with.
fn answered(code: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("fn reason(") {
        names.extend(source::upper_names(enclosed(&code[at..], '{', '}'), '"'));
    }
    for line in code.lines().filter(|line| line.contains(" REASON: &str =")) {
        names.extend(source::upper_names(line, '"'));
    }
    for maker in STATUS_MAKERS {
        for (at, _) in code.match_indices(maker) {
            names.extend(source::upper_names(enclosed(&code[at..], '(', ')'), '"'));
        }
    }
    names
}

/// From the start of the text to the mark that closes what is opened first.
fn enclosed(text: &str, open: char, close: char) -> &str {
    let mut depth = 0_u32;
    for (at, c) in text.char_indices() {
        if c == open {
            depth += 1;
        } else if c == close {
            if depth <= 1 {
                return &text[..at];
            }
            depth -= 1;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_described_and_every_one_described_is_given() {
        super::super::must_agree(problems);
    }

    #[test]
    fn the_rows_of_the_table_are_read() {
        let code = "macro { A 1 }\nreasons! {\n    NO_APP 404 NotFound \"x\": \"No.\";\n    \
                    NO_ROOM 503\n        Exhausted;\n}\nOTHER 1\n";
        assert_eq!(tabled(code), ["NO_APP", "NO_ROOM"]);
    }

    #[test]
    fn what_the_code_answers_is_read() {
        let code = "fn reason(&self) -> &str { match self { Self::A { .. } => \"A_ONE\", \
                    Self::B => \"B_TWO\" } }\nfn other() -> &str { \"C_THREE\" }\n\
                    status::of(kind(1), \"D_FOUR\", \"E\")";
        assert_eq!(answered(code), ["A_ONE", "B_TWO", "D_FOUR"]);
    }

    #[test]
    fn every_difference_is_named() {
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let document =
            "### A_ONE · 404\n\n| `B_TWO`, `E_FIVE` | not `F_SIX` |\n\n### D_FOUR · 500\n";
        assert_eq!(
            differences(
                &set(&["A_ONE", "C_THREE"]),
                &set(&["A_ONE", "B_TWO", "C_THREE"]),
                document
            ),
            [
                "docs/errors.md: not a word on C_THREE",
                "docs/errors.md: the code never says D_FOUR",
                "docs/errors.md: the code never says E_FIVE",
            ]
        );
    }
}
