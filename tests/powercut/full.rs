//! A real file system that is full: what is refused, what is kept, what goes on by itself.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nigh_model::{Digest, Kind};
use nigh_storage::Stores;
use openraft::storage::{RaftLogStorage as _, RaftSnapshotBuilder as _, RaftStateMachine as _};

use super::part;

/// Room for some segments of the log and a state.
const SIZE: &str = "size=24m";
/// What comes by itself comes by then.
const LIMIT: Duration = Duration::from_secs(30);

/// Unmounted when dropped, so that its folder can be removed.
struct Mounted<'p>(&'p Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

/// Fills a file system to its last byte; removing the file makes room again.
fn fill(file: &Path) {
    let mut ballast = fs::File::create(file).unwrap();
    for bytes in [1 << 20, 4096, 1] {
        let piece = vec![7; bytes];
        while ballast.write_all(&piece).is_ok() {}
    }
}

async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs in a mount namespace of its own.
pub(crate) async fn check() {
    let folder = tempfile::tempdir().unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(folder.path());
    let mounted = mount.status().unwrap();
    assert!(mounted.success(), "mount a tmpfs");
    let _mounted = Mounted(folder.path());
    let (data, ballast) = (folder.path().join("data"), folder.path().join("ballast"));
    let mut stores = part::open_real(&data).unwrap();
    let mut last = 0;
    let mut write = async |stores: &mut Stores| {
        last += 1;
        part::append(&mut stores.log, [part::entry(last)]).await;
        part::apply(stores, [part::entry(last)]).await;
        last
    };
    for _ in 0..20 {
        write(&mut stores).await;
    }
    fill(&ballast);

    // The log goes on in what it has reserved, and says that there is no more before it must fail.
    let began = Instant::now();
    while !stores.log.health().full {
        assert!(began.elapsed() < LIMIT, "it does not see that the disk is full");
        write(&mut stores).await;
    }
    // Raft's own small records still find room.
    stores.log.save_vote(&nigh_storage::raft::Vote::new(5, 1)).await.unwrap();
    let held = write(&mut stores).await;
    assert_eq!(stores.log.failure(), None);
    let component = vec![5; 100_000];
    let refused = stores.artifacts.put(Digest::of(&component), &component).unwrap_err();
    assert_eq!(refused.kind(), Kind::Exhausted, "{refused}");
    let mut builder = stores.machine.get_snapshot_builder().await;
    let mut building = tokio::spawn(async move { builder.build_snapshot().await });
    let waited = tokio::time::timeout(Duration::from_secs(2), &mut building).await;
    assert!(waited.is_err(), "a snapshot found room on a full disk, or gave up");

    fs::remove_file(&ballast).unwrap();
    wait_until("the log has room again", || !stores.log.health().full).await;
    building.await.unwrap().unwrap();
    stores.artifacts.put(Digest::of(&component), &component).unwrap();
    let after = write(&mut stores).await;
    let state = stores.machine.state().clone();
    drop(stores);

    // And all of it is there.
    let mut stores = part::open_real(&data).unwrap();
    let log = stores.log.get_log_state().await.unwrap();
    assert_eq!((log.last_log_id.unwrap().index, after), (after, held + 1));
    let applied = stores.machine.state().applied;
    part::apply(&mut stores, (applied + 1..=after).map(part::entry)).await;
    assert_eq!(*stores.machine.state(), state);
    assert_eq!(stores.artifacts.read(Digest::of(&component)).unwrap(), component);
}
