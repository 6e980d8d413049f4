//! What must hold before a change lands, and what can be repaired by itself.

use std::path::Path;

use anyhow::Result;

use crate::step::{End, Steps, cargo, must};
use crate::{deny, documents, edges, guests};

/// Every cargo workspace of the tree: guests have their own, since they compile for WebAssembly.
const WORKSPACES: &[&str] =
    &["Cargo.toml", "examples/Cargo.toml", "examples/tool/Cargo.toml", "tests/guests/Cargo.toml"];

/// Whether to run the tests too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tests {
    /// Run them.
    Run,
    /// Whoever calls has run them.
    Skip,
}

/// Checks everything, cheapest first, and names all that failed.
///
/// # Errors
/// A step failed.
pub(crate) fn verify(root: &Path, tests: Tests) -> Result<()> {
    let mut steps = Steps::default();
    steps.run("fmt", || format(root, &["--check"]));
    steps.run("edges", || edges::check(root).map(|()| End::Passed));
    steps.run("documents", || documents::check(root).map(|()| End::Passed));
    steps.run("guests", || guests::check_lock(root).map(|()| End::Passed));
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    steps.run("clippy", || must(cargo(root, &clippy)));
    if tests == Tests::Run {
        steps.run("test", || must(cargo(root, &["test", "--workspace", "--locked"])));
    }
    steps.run("doc", || {
        let mut doc = cargo(root, &["doc", "--workspace", "--no-deps", "--locked"]);
        doc.env("RUSTDOCFLAGS", "-D warnings");
        must(doc)
    });
    steps.run("deny install", || deny::install(root));
    steps.run("deny", || deny::rules(root));
    steps.run("advisories", || deny::advisories(root));
    steps.finish()
}

/// Formats everything and applies clippy's own repairs.
///
/// # Errors
/// A step failed.
pub(crate) fn fix(root: &Path) -> Result<()> {
    let mut steps = Steps::default();
    let clippy = ["clippy", "--fix", "--allow-dirty", "--allow-staged", "--workspace"];
    steps.run("clippy", || must(cargo(root, &[&clippy[..], &["--all-targets"]].concat())));
    steps.run("fmt", || format(root, &[]));
    steps.finish()
}

fn format(root: &Path, args: &[&str]) -> Result<End> {
    let mut end = Ok(End::Passed);
    for workspace in WORKSPACES {
        let command = ["fmt", "--all", "--manifest-path", workspace];
        let this = must(cargo(root, &[&command[..], args].concat()));
        end = end.and(this);
    }
    end
}
