//! The table: for a terminal, for programs, and as a page.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use super::Bench;
use super::compare::Reached;
use super::rows::Row;

/// A row in one line.
pub(super) fn line(row: &Row) -> String {
    let Row { name, what, value, made_of, .. } = row;
    format!("{name:<18} {value:>7.2}  {:<12} {what} ({made_of})", word(row))
}

/// How far it is, in a word.
fn word(row: &Row) -> &'static str {
    match row.target.map(|target| target.reached(row.value)) {
        None => "",
        Some(Reached::Goal) => "goal",
        Some(Reached::Floor) => "floor",
        Some(Reached::Neither) => "NOT REACHED",
    }
}

/// All rows for programs.
pub(super) fn json(rows: &[Row]) -> String {
    let rows = rows.iter().map(|row| {
        let numbers = row.target.map(super::compare::Target::numbers);
        json!({
            "name": row.name,
            "what": row.what,
            "value": row.value,
            "floor": numbers.map(|(floor, _)| floor),
            "goal": numbers.map(|(_, goal)| goal),
            "reached": row.target.map(|_| word(row)),
            "made_of": row.made_of,
        })
    });
    format!("{:#}\n", serde_json::Value::Array(rows.collect()))
}

/// The page of the documentation.
pub(super) fn page(bench: &Bench, rows: &[Row]) -> String {
    let mut page = "# Benchmarks\n\nWritten by `cargo xtask bench`. Baseline and subject are processes of \
                    their own that take turns on the same\nmachine; a number is the ratio of their medians \
                    over the rounds. Absolute numbers are this machine's.\n\n"
        .to_owned();
    let _ = writeln!(page, "- Machine: {}", machine());
    let _ = writeln!(page, "- Load: {}", bench.tools.versions());
    let rustc = super::said("rustc", &["--version"]).unwrap_or_default();
    let _ = writeln!(page, "- Built with {rustc}, profile bench (thin LTO, one codegen unit)");
    let _ = writeln!(
        page,
        "- {} rounds of {} s each\n",
        bench.effort.rounds,
        bench.effort.each.as_secs()
    );
    page.push_str("| row | what | measured | floor | goal | reached | made of |\n");
    page.push_str("|---|---|---|---|---|---|---|\n");
    for row in rows {
        let numbers = row.target.map(super::compare::Target::numbers);
        let show = |number: Option<f64>| number.map_or_else(|| "–".to_owned(), |n| n.to_string());
        let (floor, goal) = (show(numbers.map(|n| n.0)), show(numbers.map(|n| n.1)));
        let Row { name, what, value, made_of, .. } = row;
        let _ = writeln!(
            page,
            "| {name} | {what} | {value:.2} | {floor} | {goal} | {} | {made_of} |",
            word(row)
        );
    }
    page
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
