//! Measures an append to the log against a bare write and fdatasync, one after the other in turn,
//! since the disk's own speed changes from second to second.
//!
//! `cargo run --release -p nigh-storage --example append_latency [FOLDER]`
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring tool")]

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nigh_storage::wal::Wal;
use nigh_storage::{Disk, RealDisk};

const ENTRY_BYTES: usize = 512;
const APPENDS: u64 = 300;
const ROUNDS: u64 = 5;
/// Callers that append at once in the last measurement.
const CALLERS: u64 = 16;

fn main() {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let folder = Path::new(&folder).join("append-latency");
    RealDisk.create_dir(&folder).unwrap();
    let wal = Arc::new(Wal::open(Arc::new(RealDisk), &folder.join("log")).unwrap());
    let _ = RealDisk.remove(&folder.join("bare"));
    let bare = RealDisk.create(&folder.join("bare"), 16 << 20).unwrap();
    let mut offset = 0;
    for round in 1..=ROUNDS {
        let (mut direct, mut logged) = (Vec::new(), Vec::new());
        for _ in 0..APPENDS {
            direct.push(time(|| {
                bare.write_all_at(&[7; ENTRY_BYTES], offset).unwrap();
                bare.sync().unwrap();
            }));
            offset += ENTRY_BYTES as u64;
            logged.push(time(|| append(&wal, 1)));
        }
        let (direct, logged) = (percentiles(direct), percentiles(logged));
        let began = Instant::now();
        for _ in 0..APPENDS / CALLERS {
            append(&wal, CALLERS);
        }
        let batched = began.elapsed() / u32::try_from(APPENDS / CALLERS * CALLERS).unwrap();
        println!(
            "round {round}: bare p50 {:?} p99 {:?} · log p50 {:?} p99 {:?} · ratio {:.2} · \
             {CALLERS} at once: {batched:?} per append",
            direct.0,
            direct.1,
            logged.0,
            logged.1,
            logged.0.as_secs_f64() / direct.0.as_secs_f64()
        );
    }
    drop(wal);
    RealDisk.remove_dir(&folder).unwrap();
}

/// Appends so many entries at once and waits for all.
fn append(wal: &Wal, count: u64) {
    let (done, held) = channel();
    for _ in 0..count {
        let index = wal.range().map_or(1, |(_, last)| last + 1);
        let done = done.clone();
        let entry = (index, Bytes::from_static(&[7; ENTRY_BYTES]));
        wal.append(vec![entry], move |result| done.send(result).unwrap()).unwrap();
    }
    drop(done);
    held.iter().for_each(|result| result.unwrap());
}

fn time(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

/// The median and the 99th percentile.
fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
