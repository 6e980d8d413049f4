//! `docs/invariants.md` against the tree: the code and the tests that it names are there.

use std::path::Path;

use anyhow::Result;

use crate::source;

const DOCUMENT: &str = "docs/invariants.md";

/// What is named and not there.
///
/// # Errors
/// The document cannot be read.
pub(super) fn problems(root: &Path) -> Result<Vec<String>> {
    let document = source::read(root, DOCUMENT)?;
    let mut problems = unstated(&document);
    for (path, test) in named(&document) {
        let Ok(text) = source::read(root, path) else {
            problems.push(format!("{DOCUMENT}: {path} is not there"));
            continue;
        };
        if let Some(test) = test.filter(|test| !text.contains(&format!("fn {test}("))) {
            problems.push(format!("{DOCUMENT}: {path} has no test `{test}`"));
        }
    }
    Ok(problems)
}

/// Files in backticks, each with the test named after `::`.
fn named(document: &str) -> Vec<(&str, Option<&str>)> {
    let quoted = document.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let split = |name| match str::split_once(name, "::") {
        Some((path, test)) => (path, Some(test)),
        None => (name, None),
    };
    let is_file = |path: &str| [".rs", ".py"].iter().any(|end| path.ends_with(end));
    quoted.map(split).filter(|(path, _)| is_file(path)).collect()
}

/// Invariants without a word on their code or their test.
fn unstated(document: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for block in document.split("\n## ").skip(1) {
        let title = block.lines().next().unwrap_or_default();
        for line in ["- Code: ", "- Test: "] {
            if !block.lines().any(|own| own.starts_with(line)) {
                problems.push(format!("{DOCUMENT}: `{title}` has no line `{line}…`"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_invariant_names_code_and_tests_that_are_there() {
        super::super::must_agree(problems);
    }

    #[test]
    fn files_and_tests_are_found_in_backticks() {
        let text = "- Test: `a/b.rs::a_holds`, `State`, `c.rs`\n";
        assert_eq!(named(text), [("a/b.rs", Some("a_holds")), ("c.rs", None)]);
    }

    #[test]
    fn an_invariant_without_code_or_test_is_named() {
        let text = "# All\n\n## one\n- Code: x\n- Test: none yet\n\n## two\n- Code: y\n";
        assert_eq!(unstated(text), ["docs/invariants.md: `two` has no line `- Test: …`"]);
    }
}
