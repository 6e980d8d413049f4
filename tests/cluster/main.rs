//! What a cluster of real processes does, seen from outside: over HTTP, gRPC and the CLI.
//!
//! Each test starts the nodes that it needs and ends them. A test fails too when a node logged a
//! warning or an error that the test did not expect.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "../harness/mod.rs"]
mod harness;

mod access;
mod answering;
mod backups;
mod builds;
mod calls;
mod clients;
mod compiled;
mod disk;
mod failures;
mod gossip;
mod home;
mod hostile;
mod identity;
mod membership;
mod output;
mod refused_apps;
mod refused_nodes;
mod residency;
mod retried;
mod revisions;
mod sight;
mod up;
mod voters;
