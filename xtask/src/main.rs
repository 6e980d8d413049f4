//! The house's own tasks: `cargo xtask TASK`.
//!
//! Needs nothing but cargo (`image`: Docker too). A task that checks changes no source file; a task that changes
//! source files is named for it.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a task speaks to whoever started it"
)]

mod bench;
mod count;
mod deny;
mod documents;
mod edges;
mod guests;
mod image;
mod source;
mod step;
mod verify;
#[cfg(test)]
mod watching;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

const USAGE: &str = "\
Usage: cargo xtask TASK

  verify [--skip-tests]  check everything that must hold before a change lands
  fix                    format, and let clippy repair what it can
  guests                 rebuild the guest components from their sources
  bench [NAME…] [--quick] [--json FILE]
                         measure nigh beside its baselines; wants wrk, h2load, wasmtime and etcd
  count [--write|--quick]
                         count the instructions of a warm call and a pick; needs valgrind
  image [--context]      build the container image nigh:local, or only the folder it is made of
";
/// What a misused command line ends with, as `nigh` itself.
const USAGE_STATUS: u8 = 2;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["verify"] => root().and_then(|root| verify::verify(&root, verify::Tests::Run)),
        ["verify", "--skip-tests"] => {
            root().and_then(|root| verify::verify(&root, verify::Tests::Skip))
        }
        ["fix"] => root().and_then(|root| verify::fix(&root)),
        ["guests"] => guests::rebuild(),
        ["image"] => root().and_then(|root| image::build(&root, image::Until::Image)),
        ["image", "--context"] => {
            root().and_then(|root| image::build(&root, image::Until::Context))
        }
        ["bench", ref words @ ..] => {
            let Some(options) = bench::Options::parse(words) else {
                eprint!("{USAGE}");
                return ExitCode::from(USAGE_STATUS);
            };
            root().and_then(|root| bench::bench(&root, &options))
        }
        ["count"] => root().and_then(|root| count::count(&root, count::Then::Compare)),
        ["count", "--write"] => root().and_then(|root| count::count(&root, count::Then::Write)),
        ["count", "--quick"] => root().and_then(|root| count::count(&root, count::Then::Quick)),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(USAGE_STATUS);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository, wherever the task was started.
fn root() -> Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .context("cannot find the root of the repository")
}
