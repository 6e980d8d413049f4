//! The cluster of `deploy/compose.yaml` on a real container engine: what operators do to it and what
//! happens to it, while it is called from the host all the while.
//!
//! Needs an engine, a compose, and the image `nigh:local` of this very build; says what is missing
//! and passes where one of them is. What it starts has names, ports and networks of its own, and
//! goes with the test however that ends (`project`).

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with tests that need more of it")]
mod harness;

mod calls;
mod cut;
mod engine;
mod faults;
mod files;
mod nodes;
mod project;
mod walk;
