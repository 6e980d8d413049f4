//! A writer killed with SIGKILL at any moment restarts with all that it acknowledged.
//!
//! The test runs itself again as the writer, which appends to a log and prints each index once it
//! is held. `kill -9` keeps what the system has cached, so this says nothing about power cuts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::Bytes;
use nigh_storage::RealDisk;
use nigh_storage::wal::Wal;

const FOLDER: &str = "NIGH_TEST_KILL_FOLDER";
const ROUNDS: u64 = 12;
/// Enough that every round is killed in the middle.
const ENTRIES: u64 = 1_000_000;

fn bytes(index: u64) -> Bytes {
    let len = (index * 7919 % 3000) as usize;
    format!("{index}:{}", "x".repeat(len)).into()
}

/// The writer's life; does nothing unless this test starts it.
#[test]
fn writer() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let wal = Wal::open(Arc::new(RealDisk), Path::new(&folder)).unwrap();
    let next = wal.range().map_or(1, |(_, last)| last + 1);
    let (held, is_held) = channel();
    std::thread::spawn(move || {
        let mut out = std::io::stdout().lock();
        for what in is_held {
            writeln!(out, "held {what}").unwrap();
            out.flush().unwrap();
        }
    });
    for index in next..next + ENTRIES {
        let (done, turn) = (held.clone(), channel::<()>());
        let acknowledge = move |result: Result<(), _>| {
            if result.is_ok() {
                let _ = done.send(index);
            }
            drop(turn.0);
        };
        wal.append(vec![(index, bytes(index))], acknowledge).unwrap();
        if index % 100 == 0 {
            wal.purge(index - 50, Bytes::from_static(b"id"), |_| ()).unwrap();
        }
        // Now and then wait, so that batches differ in size.
        if index % 5 == 0 {
            let _ = turn.1.recv();
        }
    }
}

#[test]
fn all_that_was_acknowledged_is_there_after_a_kill() {
    let seed = std::env::var("NIGH_TEST_SEED")
        .map_or_else(|_| u64::from(std::process::id()), |seed| seed.parse().unwrap());
    println!("seed {seed}; replay: NIGH_TEST_SEED={seed} cargo test -p nigh-storage --test kill");
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("log");
    let mut dice = seed;
    for round in 0..ROUNDS {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let lines = 1 + (dice >> 33) % 150;
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["writer", "--exact", "--nocapture"])
            .env(FOLDER, &folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(writer.stdout.take().unwrap());
        let mut last = 0;
        let mut seen = 0;
        for line in out.lines() {
            let Ok(line) = line else { break };
            if let Some(index) = line.strip_prefix("held ").and_then(|index| index.parse().ok()) {
                last = index;
                seen += 1;
            }
            // Lines that the writer printed before it died count too: read to the end.
            if seen == lines {
                writer.kill().unwrap();
            }
        }
        writer.wait().unwrap();
        assert!(seen >= lines, "round {round}: the writer ended by itself");
        let wal = Wal::open(Arc::new(RealDisk), &folder).unwrap();
        let (first, end) = wal.range().unwrap();
        assert!(end >= last, "round {round}: {last} was acknowledged and the log ends at {end}");
        for (index, found) in wal.read(first, end + 1, usize::MAX).unwrap() {
            assert_eq!(found, bytes(index), "round {round}: entry {index}");
        }
    }
}
