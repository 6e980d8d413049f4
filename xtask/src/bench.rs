//! Measures nigh beside what it is compared with: baseline and subject are processes of their own and
//! take turns, round after round, on the same machine in the same minutes; medians are compared.
//!
//! The numbers of one run mean little, their ratios more: `docs/benchmarks.md` gets both. A slow
//! machine fails nothing here.

mod compare;
mod load;
mod report;
mod rows;
mod server;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::step::{cargo, must};
use load::Tools;

/// Where the table goes.
const PAGE: &str = "docs/benchmarks.md";

/// What to measure, and how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Groups of rows; none: all.
    names: Vec<String>,
    /// Only shows that measuring works: a debug build, one short round, and no page is written.
    quick: bool,
    /// Where to write the numbers for programs.
    json: Option<PathBuf>,
}

impl Options {
    /// From the words after `bench`; none if they are no options.
    pub(crate) fn parse(words: &[&str]) -> Option<Self> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--quick" => options.quick = true,
                "--json" => options.json = Some(words.next()?.into()),
                name if name.starts_with('-') => return None,
                name => options.names.push(name.to_owned()),
            }
        }
        Some(options)
    }
}

/// How long and how often something is measured.
#[derive(Clone, Copy, Debug)]
struct Effort {
    rounds: usize,
    each: Duration,
}

/// What every group needs.
struct Bench {
    root: PathBuf,
    /// Where the built programs are.
    programs: PathBuf,
    tools: Tools,
    effort: Effort,
}

/// Measures, prints the table and writes it.
///
/// # Errors
/// Something does not build or start, or a call of a load failed.
pub(crate) fn bench(root: &Path, options: &Options) -> Result<()> {
    let groups = rows::groups();
    if let Some(unknown) =
        options.names.iter().find(|name| !groups.iter().any(|group| group.name == **name))
    {
        let known: Vec<&str> = groups.iter().map(|group| group.name).collect();
        bail!("there is no benchmark `{unknown}`; there are: {}", known.join(", "));
    }
    let tools = Tools::find()?;
    let profile = if options.quick { "dev" } else { "bench" };
    build(root, profile)?;
    let effort = if options.quick {
        Effort { rounds: 1, each: Duration::from_secs(1) }
    } else {
        Effort { rounds: 3, each: Duration::from_secs(5) }
    };
    // Cargo puts what it builds with `bench` beside what it builds with `release`.
    let folder = if options.quick { "debug" } else { "release" };
    let programs = target_folder(root).join(folder);
    let bench = Bench { root: root.to_owned(), programs, tools, effort };
    let mut found = Vec::new();
    for group in &groups {
        if options.names.is_empty() || options.names.iter().any(|name| name == group.name) {
            println!("\n==> {}", group.name);
            let rows = (group.measure)(&bench)?;
            rows.iter().for_each(|row| println!("{}", report::line(row)));
            found.extend(rows);
        }
    }
    if let Some(path) = &options.json {
        std::fs::write(path, report::json(&found))?;
    }
    if !options.quick && options.names.is_empty() {
        std::fs::write(root.join(PAGE), report::page(&bench, &found))?;
        println!("\nwritten to {PAGE}");
    }
    Ok(())
}

fn build(root: &Path, profile: &str) -> Result<()> {
    let words = ["build", "--locked", "--workspace", "--profile", profile, "--bin", "nigh"];
    must(cargo(
        root,
        &[&words[..], &["--example", "baseline", "--example", "embedding"]].concat(),
    ))?;
    Ok(())
}

fn target_folder(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// What a command prints, if it runs.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_options_or_refused() {
        let all = Options::parse(&["hello", "--quick", "--json", "out.json", "grpc"]).unwrap();
        assert_eq!(all.names, ["hello", "grpc"]);
        assert!(all.quick);
        assert_eq!(all.json, Some("out.json".into()));
        assert_eq!(Options::parse(&["--json"]), None);
        assert_eq!(Options::parse(&["--fast"]), None);
    }
}
