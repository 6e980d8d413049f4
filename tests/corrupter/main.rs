//! Damages a node's data folder in every way and place that a seed can think of, and opens it.
//!
//! What must come of it: a torn end of the log is cut; other damage is found, and the part is set
//! aside or asked for again, or the node does not start and says why and what to do. What opens
//! must be what was written. Nothing is accepted in silence, and nothing panics.
//!
//! It does not cut the power (`tests/powercut` does) and does not start nodes.
//!
//! `NIGH_CORRUPTER_CASES=20000 NIGH_TEST_SEED=7 cargo test --test corrupter -- --nocapture`

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a test fails by panicking")]

mod damage;
mod judge;
mod sample;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use damage::{Damage, Dice, Part};
use judge::Verdict;
use sample::Sample;

/// Cases, unless told otherwise.
const CASES: u64 = 2_000;
/// A folder that has not opened by then never will.
const CASE_LIMIT: Duration = Duration::from_secs(60);

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// A folder in memory where the system has one: there are thousands of cases.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

#[test]
fn damage_is_found_or_without_effect_and_never_accepted() {
    let seed = variable("NIGH_TEST_SEED", u64::from(std::process::id()));
    let cases = variable("NIGH_CORRUPTER_CASES", CASES);
    println!("seed {seed}; replay: NIGH_TEST_SEED={seed} cargo test --test corrupter");
    // The state database panics on some damage and is guarded; its words are not for here.
    std::panic::set_hook(Box::new(|_| ()));
    let folder = scratch();
    let samples = [sample::closed(&folder.path().join("closed")), sample::killed(folder.path())];
    let began = Instant::now();
    let mut table: BTreeMap<(Part, &str), BTreeMap<Verdict, u64>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in 0..cases {
        let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(case));
        let sample = &samples[usize::from(dice.below(4) == 0)];
        let damage = Damage::draw(sample, &mut dice);
        let work = folder.path().join(format!("case-{case}"));
        match run(sample, &damage, &work) {
            Ok(verdict) => {
                *table
                    .entry((damage.part, damage.kind()))
                    .or_default()
                    .entry(verdict)
                    .or_default() += 1;
            }
            Err(why) => wrong.push(format!("case {case}, {damage}: {why}")),
        }
        std::fs::remove_dir_all(&work).unwrap();
    }
    drop(std::panic::take_hook());
    print_table(&table, cases, began.elapsed());
    assert!(wrong.is_empty(), "{} of {cases}, seed {seed}:\n{}", wrong.len(), wrong.join("\n"));
    let of = |verdict| table.values().filter_map(|row| row.get(&verdict)).sum::<u64>();
    assert!(
        cases < 1_000
            || [Verdict::Refused, Verdict::Rebuilt, Verdict::Cut].map(of).iter().all(|n| *n > 0)
    );
}

/// One case, on a thread of its own, so that one that hangs is named.
fn run(sample: &Sample, damage: &Damage, work: &Path) -> Result<Verdict, String> {
    sample.copy_to(work);
    damage.apply(work);
    let (sample, folder): (_, PathBuf) = (sample.expected.clone(), work.to_owned());
    let (done, answer) = channel();
    std::thread::spawn(move || {
        let judged = catch_unwind(AssertUnwindSafe(|| judge::judge(&folder, &sample)));
        let _ = done.send(judged.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err(format!("it panicked: {}", text.unwrap_or_default()))
        }));
    });
    answer.recv_timeout(CASE_LIMIT).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => Err(format!("not opened within {CASE_LIMIT:?}")),
        RecvTimeoutError::Disconnected => Err("its thread died".to_owned()),
    })
}

fn print_table(table: &BTreeMap<(Part, &str), BTreeMap<Verdict, u64>>, cases: u64, took: Duration) {
    let verdicts = [Verdict::Harmless, Verdict::Rebuilt, Verdict::Cut, Verdict::Refused];
    println!("{cases} cases in {:.0} s", took.as_secs_f64());
    println!(
        "{:12} {:10} {:>9} {:>9} {:>9} {:>9}",
        "part", "damage", "harmless", "rebuilt", "cut", "refused"
    );
    for ((part, kind), row) in table {
        let counts = verdicts.map(|verdict| row.get(&verdict).copied().unwrap_or(0));
        let [harmless, rebuilt, cut, refused] = counts;
        println!("{:12} {kind:10} {harmless:>9} {rebuilt:>9} {cut:>9} {refused:>9}", part.name());
    }
}
