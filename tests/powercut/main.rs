//! Cuts the power under a writer: what it acknowledged must be there when a node opens the disk
//! again.
//!
//! `kill -9` keeps what the system has cached, so that a missing sync goes unseen. Here the
//! writer's data lies on a file system in a loop device. The writer is stopped, the device's
//! image is copied as it is, and the copy is opened: it has what reached the device and no more.
//! A round in which the device was written to during the copy does not count.
//!
//! That a check can fail is checked too: the same rounds with a disk that leaves syncs out must
//! lose something. That disk ([`forgetful`]) exists in this program alone, so that no build of
//! nigh can have it.
//!
//! Everything runs in a mount and process namespace of its own: when this ends, however that
//! comes, the kernel takes mounts, loop devices and processes away. It needs root and loop
//! devices, and says so where there are none.
//!
//! `NIGH_POWERCUT_ROUNDS=20 cargo test --test powercut -- --nocapture`

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a test fails by panicking")]

mod device;
mod forgetful;
mod full;
mod part;
mod round;
mod writer;

use std::io::Read as _;
use std::process::{Command, Stdio};

use part::Part;
use round::{Outcome, Rounds};

/// Counted rounds of each part, unless told otherwise.
const ROUNDS: u64 = 3;
/// Tries for a round that counts, on a machine whose disk is never quiet.
const TRIES_PER_ROUND: u64 = 5;
/// Rounds in which a missing sync must show.
const FORGETFUL_ROUNDS: u64 = 10;
/// Set in the process that has namespaces of its own.
const INSIDE: &str = "NIGH_POWERCUT_INSIDE";

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Runs the tests below in namespaces of their own, or says why not.
fn in_namespaces(test: &str) {
    if let Err(why) = device::usable() {
        println!("SKIPPED: power cuts need root and loop devices: {why}");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let mut inside = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(program)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        // It ends when this pipe closes: also when this process is killed.
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let held = inside.stdin.take();
    let ended = inside.wait().unwrap();
    drop(held);
    assert!(ended.success(), "see above");
}

/// Whether this is the process inside; it then ends with the one outside.
fn is_inside() -> bool {
    if std::env::var_os(INSIDE).is_none() {
        return false;
    }
    std::thread::spawn(|| {
        let mut nothing = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut nothing);
        std::process::exit(1);
    });
    true
}

/// The writer's life; does nothing unless a round starts it.
#[test]
fn writer() {
    writer::live();
}

#[test]
fn what_was_acknowledged_is_there_after_a_power_cut() {
    if !is_inside() {
        return in_namespaces("what_was_acknowledged_is_there_after_a_power_cut");
    }
    let (seed, rounds) = (seed(), variable("NIGH_POWERCUT_ROUNDS", ROUNDS));
    println!("{}", Rounds::HEAD);
    let mut lost = Vec::new();
    for part in Part::ALL {
        let mut table = Rounds::new(part.name());
        while table.counted() < rounds && table.tried() < rounds * TRIES_PER_ROUND {
            let seed = seed + table.tried();
            match round::run(part, None, seed) {
                Outcome::Lost(why) => {
                    lost.push(format!("{}, seed {seed}: {why}", part.name()));
                    table.note(&Outcome::Lost(why));
                }
                outcome => table.note(&outcome),
            }
        }
        println!("{table}");
        assert!(table.counted() >= rounds, "the device was never quiet: {table}");
    }
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}

#[test]
fn a_missing_sync_is_caught() {
    if !is_inside() {
        return in_namespaces("a_missing_sync_is_caught");
    }
    let seed = seed();
    println!("{}", Rounds::HEAD);
    for part in Part::ALL {
        let mut table = Rounds::new(&format!("{} without syncs", part.name()));
        let tries = FORGETFUL_ROUNDS * TRIES_PER_ROUND;
        while table.lost() == 0 && table.counted() < FORGETFUL_ROUNDS && table.tried() < tries {
            let outcome = round::run(part, Some(forgetful::EVERYTHING), seed + table.tried());
            table.note(&outcome);
        }
        println!("{table}");
        assert!(table.lost() > 0, "nothing was lost without syncs: the check proves nothing");
    }
}

#[test]
fn a_full_file_system_is_refused_and_nothing_acknowledged_is_lost() {
    if !is_inside() {
        return in_namespaces("a_full_file_system_is_refused_and_nothing_acknowledged_is_lost");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(full::check());
}

fn seed() -> u64 {
    let seed = variable("NIGH_TEST_SEED", u64::from(std::process::id()) * 1_000);
    println!(
        "seed {seed}; replay: NIGH_TEST_SEED={seed} cargo test --test powercut -- --nocapture"
    );
    seed
}
