//! Holds what the documents promise to the code: limits, error reasons, the tests of invariants,
//! and links. Each check is one function from texts to what is wrong with them.

mod errors;
mod invariants;
mod limits;
mod links;

use std::path::Path;

use anyhow::{Result, ensure};

/// Checks every document.
///
/// # Errors
/// Names everything that a document says and the code does not, or the other way round.
pub(crate) fn check(root: &Path) -> Result<()> {
    let checks = [limits::problems, errors::problems, invariants::problems, links::problems];
    let mut problems = Vec::new();
    for check in checks {
        problems.extend(check(root)?);
    }
    ensure!(problems.is_empty(), "documents and code disagree:\n  {}", problems.join("\n  "));
    Ok(())
}

#[cfg(test)]
fn must_agree(check: fn(&Path) -> Result<Vec<String>>) {
    match crate::root().and_then(|root| check(&root)) {
        Ok(problems) => assert!(problems.is_empty(), "{}", problems.join("\n")),
        Err(error) => panic!("{error:#}"),
    }
}
