//! Measures nigh beside what it is compared with: baseline and subject are processes of their own and
//! take turns, round after round, on the same machine in the same minutes; medians are compared.
//!
//! The numbers of one run mean little, their ratios more: `docs/benchmarks.md` gets both. A slow
//! machine fails nothing here.

mod compare;
mod component;
mod fill;
mod groups;
mod http;
mod load;
mod node;
mod report;
mod rows;
mod server;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::step::{cargo, must};
use load::Tools;
use rows::{Found, Outcome, ROWS, Row};

/// Where the table goes.
const PAGE: &str = "docs/benchmarks.md";
/// The wasmtime to compare with.
const WASMTIME: &str = "48.0.8";

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

/// How long, how often and how much of something is measured.
#[derive(Clone, Copy, Debug)]
struct Effort {
    rounds: usize,
    /// How long a load lasts.
    each: Duration,
    /// Functions with a component each, for what is counted by function.
    functions: usize,
    /// Functions that are many.
    many: usize,
    /// Writes to the control plane in a round.
    writes: usize,
    /// Guests that wait at once.
    sleepers: usize,
    /// A body that is streamed.
    body_bytes: usize,
    /// How long a node is asked for too much.
    flood: Duration,
    /// How long others are looked at meanwhile, and how long a node has to come back to normal.
    probe: Duration,
    /// Callers at once, where they are many.
    callers: usize,
    /// A component that is large.
    large_bytes: usize,
    /// Components that are copied from another node.
    copies: usize,
}

const FULL: Effort = Effort {
    rounds: 3,
    each: Duration::from_secs(5),
    functions: 1_000,
    many: 10_000,
    writes: 2_000,
    sleepers: 1_000,
    body_bytes: 10 << 20,
    flood: Duration::from_secs(30),
    probe: Duration::from_secs(5),
    callers: 10_000,
    large_bytes: 18 << 20,
    copies: 50,
};
/// As little as shows that everything works.
const QUICK: Effort = Effort {
    rounds: 1,
    each: Duration::from_secs(1),
    functions: 10,
    many: 64,
    writes: 64,
    sleepers: 50,
    body_bytes: 64 << 10,
    flood: Duration::from_millis(500),
    probe: Duration::from_millis(500),
    callers: 200,
    large_bytes: 256 << 10,
    copies: 4,
};

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
    let groups = groups::all();
    if let Some(unknown) =
        options.names.iter().find(|name| !groups.iter().any(|group| group.name == **name))
    {
        let known: Vec<&str> = groups.iter().map(|group| group.name).collect();
        bail!("there is no benchmark `{unknown}`; there are: {}", known.join(", "));
    }
    // What tests have built is good enough to show that everything works; cargo puts what it builds
    // with `bench` beside what it builds with `release`.
    let (profile, folder, effort) = match options.quick {
        true => ("dev", "debug", QUICK),
        false => ("bench", "release", FULL),
    };
    build(root, profile)?;
    let programs = target_folder(root).join(folder);
    let tools = Tools::find(programs.join("nigh"));
    let bench = Bench { root: root.to_owned(), programs, tools, effort };
    println!("load: {}", bench.tools.versions());
    let (mut all, mut failed) = (Vec::new(), Vec::new());
    for group in &groups {
        if options.names.is_empty() || options.names.iter().any(|name| name == group.name) {
            println!("\n==> {}", group.name);
            let began = Instant::now();
            let rows = match (group.measure)(&bench) {
                Ok(found) => rows_of(group.name, &found)?,
                // The others are measured all the same.
                Err(error) => {
                    failed.push(group.name);
                    all_of(group.name, &Outcome::Skipped(format!("it failed: {error:#}")))
                }
            };
            // Of a debug build and one short round, whether a goal is reached says nothing.
            rows.iter().for_each(|row| println!("{}", report::line(row, !options.quick)));
            println!("{:.0} s", began.elapsed().as_secs_f64());
            all.extend(rows);
        }
    }
    if let Some(path) = &options.json {
        std::fs::write(path, report::json(&all))?;
    }
    if !options.quick && options.names.is_empty() {
        std::fs::write(root.join(PAGE), report::page(&bench, &all))?;
        println!("\nwritten to {PAGE}");
    }
    ensure!(failed.is_empty(), "could not be measured: {}", failed.join(", "));
    Ok(())
}

/// The rows of a group, all of which this became.
fn all_of(group: &str, outcome: &Outcome) -> Vec<Row> {
    let asked = ROWS.iter().filter(|row| row.group == group);
    asked.map(|asked| Row { asked, outcome: outcome.clone() }).collect()
}

/// The rows of a group in the order of the table, each with what became of it.
fn rows_of(group: &str, found: &Found) -> Result<Vec<Row>> {
    for (name, _) in found {
        ensure!(rows::asked(name).is_some_and(|row| row.group == group), "no row `{name}`");
    }
    let asked = ROWS.iter().filter(|row| row.group == group);
    asked
        .map(|asked| {
            let outcome = found.iter().find(|(name, _)| *name == asked.name);
            let (_, outcome) = outcome.with_context(|| format!("`{}` was lost", asked.name))?;
            Ok(Row { asked, outcome: outcome.clone() })
        })
        .collect()
}

fn build(root: &Path, profile: &str) -> Result<()> {
    let words = ["build", "--locked", "--workspace", "--profile", profile, "--bin", "nigh"];
    let examples = ["baseline", "clients", "embedding", "openloop"].map(|name| ["--example", name]);
    must(cargo(root, &[&words[..], &examples.concat()].concat()))?;
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

    #[test]
    fn a_group_gives_all_of_its_rows_and_no_others() {
        let skipped = |name| (name, Outcome::Skipped(String::new()));
        let names = |rows: Vec<Row>| rows.iter().map(|row| row.asked.name).collect::<Vec<_>>();
        let found = vec![skipped("stream RSS"), skipped("stream")];
        assert_eq!(names(rows_of("stream", &found).unwrap()), ["stream", "stream RSS"]);
        assert!(rows_of("stream", &found[1..].to_vec()).is_err());
        assert!(rows_of("stream", &[found, vec![skipped("hello")]].concat()).is_err());
    }
}
