//! What a snapshot of a large state costs in memory beside the state: while it is saved, sent in
//! pieces and taken in.
//!
//! `cargo run --release -p nigh-storage --example snapshot_memory [ENTRIES]`
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program to be read")]

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use nigh_model::{RequestId, State};
use nigh_storage::raft::{LogId, Membership, SnapshotMeta, Snapshots};
use nigh_storage::{RealDisk, TypeConfig};
use openraft::vote::RaftLeaderIdExt as _;

const MIB: f64 = 1_048_576.0;
const PIECE_BYTES: usize = 256 << 10;

/// A line of `/proc/self/status`, in MiB.
fn memory(name: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}

/// How far the memory grew beyond where it began, at most.
fn peak<T>(what: &str, work: impl FnOnce() -> T) -> T {
    // Resets the peak, see proc_pid_clear_refs(5).
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, began) = (memory("VmRSS"), Instant::now());
    let made = work();
    let grown = memory("VmHWM") - before;
    println!(
        "{what:<24} {:>7.0} ms   peak {grown:>6.1} MiB above",
        began.elapsed().as_secs_f64() * 1e3
    );
    made
}

fn main() {
    let entries = std::env::args().nth(1).map_or(1_000_000, |given| given.parse().unwrap());
    let mut state = State { applied: 9, ..State::default() };
    let empty = memory("VmRSS");
    for index in 0..entries {
        let id = RequestId::new(format!("{index:064}")).unwrap();
        state.replies_by_index.insert(index, id);
    }
    println!("{entries} entries: the state takes {:.0} MiB", memory("VmRSS") - empty);

    let leader = openraft::alias::LeaderIdOf::<TypeConfig>::new_committed(1, 1);
    let last_log_id = Some(LogId::new(leader, 9));
    let meta = SnapshotMeta { last_log_id, last_membership: Membership::default() };
    let folder = tempfile::tempdir().unwrap();
    let open =
        |name: &str| Snapshots::open(Arc::new(RealDisk), &folder.path().join(name)).unwrap().0;
    let (from, to) = (open("from"), open("to"));
    let saved = peak("saved", || from.save(&meta, &state).unwrap());
    println!("{:<24} {:>7.0} MiB", "the snapshot", saved.len() as f64 / MIB);
    peak("read and checked", || from.read().unwrap());
    let arrived = peak("sent and checked", || {
        let mut incoming = to.receive().unwrap();
        let mut at = 0;
        while at < saved.len() {
            let piece = saved.piece(at, PIECE_BYTES).unwrap();
            at += piece.len() as u64;
            incoming.write(&piece).unwrap();
        }
        incoming.finish(&meta).unwrap()
    });
    let (_, taken) = peak("decoded", || arrived.decode().unwrap());
    assert_eq!(taken, state);
}
