//! Counts the instructions of one warm call and of one pick, and holds them to those of the change
//! before: a number that a busy machine does not move, where a time would be lost in it.
//!
//! Each program runs twice under callgrind, doing its thing a different number of times; the
//! difference is what the thing itself takes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::step::{cargo, must};

/// Where the numbers are kept.
const KEPT: &str = "docs/instructions.toml";
/// How much more may go by without a word, as a share: layout and inlining move a number by this much.
const TOLERANCE: f64 = 0.03;
/// How often something is done in the two runs.
const TIMES: (u64, u64) = (50, 250);
const TIMES_QUICK: (u64, u64) = (2, 6);

/// What to do with the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Compare them with those that are kept.
    Compare,
    /// Keep them.
    Write,
    /// Only show that counting works: a debug build, whose numbers are compared with nothing.
    Quick,
}

/// What is counted.
const COUNTED: [Counted; 2] = [
    Counted { name: "warm_call", example: "warm_calls" },
    Counted { name: "pick_of_100", example: "picks" },
];

struct Counted {
    name: &'static str,
    example: &'static str,
}

/// Counts, prints and compares or writes.
///
/// # Errors
/// A program does not build or run, or a number has grown too much.
pub(crate) fn count(root: &Path, then: Then) -> Result<()> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("NOT COUNTED: valgrind is not installed (Debian: valgrind)");
        return Ok(());
    }
    let (profile, folder, times) = match then {
        Then::Quick => ("dev", "debug", TIMES_QUICK),
        Then::Compare | Then::Write => ("bench", "release", TIMES),
    };
    let words = ["build", "--locked", "--workspace", "--profile", profile];
    let examples: Vec<&str> =
        COUNTED.iter().flat_map(|counted| ["--example", counted.example]).collect();
    must(cargo(root, &[&words[..], &examples].concat()))?;
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| root.join("target"), PathBuf::from);
    let programs = target.join(folder).join("examples");
    let place = tempfile::tempdir()?;
    let mut numbers = Vec::new();
    for Counted { name, example } in COUNTED {
        let program = programs.join(example);
        let before = before(example, root, place.path());
        if let Some(words) = &before.once {
            under_valgrind("none", &program, words)?;
        }
        let run = |times: u64| {
            let words = [&before.always[..], &[times.to_string()]].concat();
            instructions(&under_valgrind("callgrind", &program, &words)?)
        };
        let each = each(times, (run(times.0)?, run(times.1)?));
        println!("{name:<12} {each} instructions");
        numbers.push((name.to_owned(), each));
    }
    let kept = root.join(KEPT);
    match then {
        Then::Quick => Ok(()),
        Then::Write => Ok(std::fs::write(kept, text(&numbers))?),
        Then::Compare => match std::fs::read_to_string(kept) {
            Err(_) => {
                println!("nothing to compare with: `cargo xtask count --write` keeps them");
                Ok(())
            }
            Ok(kept) => compare(&parse(&kept)?, &numbers),
        },
    }
}

/// The words before the number of times, and those of a run before all others.
struct Before {
    once: Option<Vec<String>>,
    always: Vec<String>,
}

fn before(example: &str, root: &Path, place: &Path) -> Before {
    if example != "warm_calls" {
        return Before { once: None, always: Vec::new() };
    }
    let show = |path: PathBuf| path.to_string_lossy().into_owned();
    let component = show(root.join("examples/hello/hello.wasm"));
    let artifact = show(place.join("hello.compiled"));
    Before {
        once: Some(vec!["compile".to_owned(), component, artifact.clone()]),
        always: vec!["call".to_owned(), artifact],
    }
}

/// Runs it; what valgrind said.
fn under_valgrind(tool: &str, program: &Path, words: &[String]) -> Result<String> {
    let mut command = Command::new("valgrind");
    command.arg(format!("--tool={tool}")).stdin(Stdio::null());
    if tool == "callgrind" {
        command.arg("--callgrind-out-file=/dev/null");
    }
    let output = command.arg(program).args(words).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    Ok(said)
}

/// The whole count in what callgrind says.
fn instructions(said: &str) -> Result<u64> {
    let found = said.lines().find_map(|line| line.split_once("Collected :"));
    let (_, count) = found.with_context(|| format!("callgrind counted nothing: {said}"))?;
    Ok(count.trim().parse()?)
}

/// What one takes, of two runs.
fn each(times: (u64, u64), counts: (u64, u64)) -> u64 {
    counts.1.saturating_sub(counts.0) / (times.1 - times.0)
}

type Numbers = Vec<(String, u64)>;

fn text(numbers: &[(String, u64)]) -> String {
    let mut text =
        "# Instructions of one warm call of examples/hello in process, and of one pick among \
                    100 nodes,\n# in a build with the profile bench. Written by `cargo xtask count \
                    --write`; `cargo xtask count`\n# compares. What grows by more than 3 % is \
                    explained in CHANGELOG.md.\n"
            .to_owned();
    for (name, number) in numbers {
        text += &format!("{name} = {number}\n");
    }
    text
}

fn parse(text: &str) -> Result<Numbers> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (name, number) =
                line.split_once(" = ").with_context(|| format!("{KEPT}: `{line}`"))?;
            let number = number.parse().with_context(|| format!("{KEPT}: `{line}`"))?;
            Ok((name.to_owned(), number))
        })
        .collect()
}

/// Says how each number has changed.
fn compare(kept: &[(String, u64)], now: &[(String, u64)]) -> Result<()> {
    let mut grown = Vec::new();
    for (name, now) in now {
        let kept = kept.iter().find(|(known, _)| known == name);
        let (_, kept) = kept.with_context(|| format!("{KEPT} lacks {name}"))?;
        let change = (*now as f64 - *kept as f64) / *kept as f64;
        let shown = format!("{name}: {kept} before, {now} now: {:+.1} %", change * 100.0);
        println!("{shown}");
        if change > TOLERANCE {
            grown.push(shown);
        }
    }
    if !grown.is_empty() {
        bail!(
            "more instructions than before; if that has a good reason, say it in CHANGELOG.md and keep \
             them with `cargo xtask count --write`:\n  {}",
            grown.join("\n  ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_the_difference_of_two_runs_and_the_start_of_the_program_cancels() {
        let said = "==7== Events    : Ir\n==7== Collected : 126637\n==7== \n";
        assert_eq!(instructions(said).unwrap(), 126_637);
        assert!(instructions("valgrind: no such file").is_err());
        assert_eq!(each((50, 250), (1_050_000, 1_250_000)), 1_000);
    }

    #[test]
    fn what_is_kept_reads_back() {
        let numbers = vec![("warm_call".to_owned(), 60_000), ("pick_of_100".to_owned(), 9_000)];
        assert_eq!(parse(&text(&numbers)).unwrap(), numbers);
        assert!(parse("warm_call 3").is_err());
    }

    #[test]
    fn only_what_grows_beyond_the_tolerance_fails() {
        let of = |number| [("warm_call".to_owned(), number)];
        assert!(compare(&of(1_000), &of(1_030)).is_ok());
        assert!(compare(&of(1_000), &of(500)).is_ok());
        let error = compare(&of(1_000), &of(1_031)).unwrap_err().to_string();
        assert!(error.contains("warm_call: 1000 before, 1031 now"), "{error}");
        assert!(compare(&[], &of(1)).is_err());
    }
}
