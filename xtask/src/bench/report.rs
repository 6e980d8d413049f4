//! The table: for a terminal, for programs, and as a page.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use super::compare::{Reached, Target};
use super::rows::{Number, Outcome, Row};
use super::{Bench, said};

/// A row in one line; `judged`: with how far it is.
pub(super) fn line(row: &Row, judged: bool) -> String {
    let (name, what) = (row.asked.name, row.asked.what);
    let measured = matches!(row.outcome, Outcome::Measured(_));
    let word = if measured && !judged { "" } else { word(row) };
    match &row.outcome {
        Outcome::Measured(Number { value, made_of, .. }) => {
            format!("{name:<18} {value:>8.2}  {word:<12} {what} ({made_of})")
        }
        Outcome::Skipped(why) => format!("{name:<18} {:>8}  {word:<12} {what}: {why}", "-"),
    }
}

/// How far it is, in a word.
fn word(row: &Row) -> &'static str {
    let Outcome::Measured(number) = &row.outcome else { return "SKIPPED" };
    match row.asked.target.map(|target| target.reached(number.value)) {
        None => "",
        Some(Reached::Goal) => "goal",
        Some(Reached::Floor) => "floor",
        Some(Reached::Neither) => "NOT REACHED",
    }
}

/// All rows for programs.
pub(super) fn json(rows: &[Row]) -> String {
    let rows = rows.iter().map(|row| {
        let numbers = row.asked.target.map(Target::numbers);
        let (number, skipped) = match &row.outcome {
            Outcome::Measured(number) => (Some(number), None),
            Outcome::Skipped(why) => (None, Some(why)),
        };
        json!({
            "name": row.asked.name,
            "what": row.asked.what,
            "value": number.map(|number| number.value),
            "spread": number.and_then(|number| number.spread),
            "made_of": number.map(|number| &number.made_of),
            "skipped": skipped,
            "floor": numbers.map(|(floor, _)| floor),
            "goal": numbers.map(|(_, goal)| goal),
            "reached": word(row),
        })
    });
    format!("{:#}\n", serde_json::Value::Array(rows.collect()))
}

/// The page of the documentation.
pub(super) fn page(bench: &Bench, rows: &[Row]) -> String {
    let mut page =
        "# Benchmarks\n\nWritten by `cargo xtask bench`. Baseline and subject are processes \
                    of their own that take turns on the same\nmachine; a ratio is that of their \
                    medians over the rounds. Absolute numbers are this machine's, and\nclients and \
                    servers share its cores.\n\n"
            .to_owned();
    conditions(bench, &mut page);
    page.push_str("## Numbers\n\nSpread: the least and the most over the rounds.\n\n");
    table(rows, &mut page);
    page.push_str("\n## What limits them\n\n");
    for row in rows {
        let _ = writeln!(page, "- **{}**: {}", row.asked.name, row.asked.limited_by);
    }
    page
}

/// Under which conditions they came about.
fn conditions(bench: &Bench, page: &mut String) {
    let first = |program: &str, args: &[&str]| {
        let text = said(program, args).unwrap_or_default();
        text.lines().next().unwrap_or_default().to_owned()
    };
    let _ = writeln!(page, "- Machine: {}", machine());
    let nigh = bench.programs.join("nigh");
    let built = "profile bench (thin LTO, one codegen unit)";
    let nigh = first(&nigh.to_string_lossy(), &["--version"]);
    let _ = writeln!(page, "- {nigh}, built with {}, {built}", first("rustc", &["--version"]));
    let _ = writeln!(page, "- Load: {}", bench.tools.versions());
    for (program, name) in [("wasmtime", "wasmtime"), ("etcd", "etcd")] {
        let version = first(program, &["--version"]);
        let version = if version.is_empty() { "not installed" } else { &version };
        let _ = writeln!(page, "- Beside {name}: {version}");
    }
    let effort = &bench.effort;
    let _ = writeln!(
        page,
        "- {} rounds; a load lasts {} s; {} functions, {} where they are many; {} writes a round; {} \
         sleepers; {} s of overload; {} callers where they are many",
        effort.rounds,
        effort.each.as_secs(),
        effort.functions,
        effort.many,
        effort.writes,
        effort.sleepers,
        effort.flood.as_secs(),
        effort.callers,
    );
    page.push_str(
        "\nAgain: `cargo xtask bench`, or `cargo xtask bench NAME…` for some groups, which prints them \
         only.\n\n",
    );
}

fn table(rows: &[Row], page: &mut String) {
    page.push_str("| row | what | measured | spread | floor | goal | reached | made of |\n");
    page.push_str("|---|---|---|---|---|---|---|---|\n");
    for row in rows {
        let numbers = row.asked.target.map(Target::numbers);
        let show = |number: Option<f64>| number.map_or_else(|| "–".to_owned(), |n| n.to_string());
        let (floor, goal) = (show(numbers.map(|n| n.0)), show(numbers.map(|n| n.1)));
        let (measured, spread, made_of) = match &row.outcome {
            Outcome::Measured(Number { value, spread, made_of }) => {
                let spread = spread.map(|(least, most)| format!("{least:.2} to {most:.2}"));
                (format!("{value:.2}"), spread, made_of)
            }
            Outcome::Skipped(why) => ("–".to_owned(), None, why),
        };
        let spread = spread.unwrap_or_else(|| "–".to_owned());
        let (name, what, word) = (row.asked.name, row.asked.what, word(row));
        let _ = writeln!(
            page,
            "| {name} | {what} | {measured} | {spread} | {floor} | {goal} | {word} | {made_of} |"
        );
    }
}

/// Processor, cores, memory and kernel.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let value = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let cpu = value(&read("/proc/cpuinfo"), "model name").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = value(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cpu}, {cores} cores, {memory} of memory, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::asked;

    fn rows() -> Vec<Row> {
        let number = Number { value: 0.5, spread: Some((0.4, 0.6)), made_of: "1 ÷ 2".to_owned() };
        let of = |name, outcome| Row { asked: asked(name).unwrap(), outcome };
        vec![
            of("hello", Outcome::Measured(number)),
            of("grpc", Outcome::Skipped("no h2load".to_owned())),
        ]
    }

    #[test]
    fn a_row_is_a_line_of_the_table_with_its_spread_or_why_there_is_none() {
        let mut page = String::new();
        table(&rows(), &mut page);
        let lines: Vec<&str> = page.lines().skip(2).collect();
        assert!(
            lines[0].contains("| 0.50 | 0.40 to 0.60 | 0.4 | 0.55 | floor | 1 ÷ 2 |"),
            "{page}"
        );
        assert!(lines[1].contains("| – | – | 0.45 | 0.6 | SKIPPED | no h2load |"), "{page}");
        assert!(
            line(&rows()[0], true).contains("floor") && !line(&rows()[0], false).contains("floor")
        );
        assert!(line(&rows()[1], false).contains("SKIPPED"));
    }

    #[test]
    fn programs_are_told_the_same() {
        let rows: serde_json::Value = serde_json::from_str(&json(&rows())).unwrap();
        assert_eq!(rows[0]["value"], 0.5);
        assert_eq!(rows[0]["spread"][1], 0.6);
        assert_eq!(rows[1]["skipped"], "no h2load");
        assert!(rows[1]["value"].is_null());
    }
}
