//! Snapshots as files: written aside, synced, renamed; the newest kept, checked when read.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use nigh_model::State;

use super::{SnapshotMeta, snapshot};
use crate::disk::{Disk, read_file, remove_temporary, write_file};
use crate::error::{Context as _, Error};

const EXTENSION: &str = ".snapshot";
/// The last damaged snapshot is kept under this name for a person to look at.
const BROKEN_NAME: &str = "last-damaged.broken";

/// The folder of snapshots. All methods block.
#[derive(Debug)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    current: Mutex<Option<Kept>>,
}

#[derive(Clone, Debug)]
struct Kept {
    meta: SnapshotMeta,
    path: PathBuf,
}

impl Snapshots {
    /// Opens the folder, made if missing, and answers the newest whole snapshot's state. Damaged
    /// ones are moved aside with a warning; older ones and leftovers are removed.
    ///
    /// # Errors
    /// [`Error::NewerFormat`], or what the disk answers.
    pub fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
    ) -> Result<(Self, Option<(SnapshotMeta, State)>), Error> {
        disk.create_dir(folder).on("create", folder)?;
        remove_temporary(disk.as_ref(), folder)?;
        let mut whole = Vec::new();
        let names = disk.list(folder).on("list", folder)?;
        for name in names.iter().filter(|name| name.ends_with(EXTENSION)) {
            let path = folder.join(name);
            let bytes = read_file(disk.as_ref(), &path)?.unwrap_or_default();
            if let Some((found, known)) = snapshot::newer(&bytes) {
                return Err(Error::NewerFormat { path, found, known });
            }
            match snapshot::decode(&bytes) {
                Ok((meta, state)) => whole.push((Kept { meta, path }, state)),
                Err(error) => {
                    let aside = folder.join(BROKEN_NAME);
                    tracing::warn!(path = %path.display(), %error, "moved a damaged snapshot aside");
                    disk.rename(&path, &aside).on("rename", &path)?;
                }
            }
        }
        whole.sort_by_key(|(kept, _)| kept.meta.last_log_id);
        let newest = whole.pop();
        for (older, _) in whole {
            disk.remove(&older.path).on("remove", &older.path)?;
        }
        disk.sync_dir(folder).on("sync", folder)?;
        let state = newest.as_ref().map(|(kept, state)| (kept.meta.clone(), state.clone()));
        let current = Mutex::new(newest.map(|(kept, _)| kept));
        Ok((Self { disk, folder: folder.to_owned(), current }, state))
    }

    /// Keeps a snapshot durably instead of the one before, unless that one is newer.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn save(&self, meta: &SnapshotMeta, bytes: &[u8]) -> Result<(), Error> {
        let mut current = self.current();
        if current.as_ref().is_some_and(|kept| kept.meta.last_log_id > meta.last_log_id) {
            return Ok(());
        }
        let id = meta.last_log_id.map_or_else(
            || "empty".to_owned(),
            |id| format!("{:016x}-{:x}-{:x}", id.index, id.leader_id.term, id.leader_id.node_id),
        );
        let path = self.folder.join(format!("{id}{EXTENSION}"));
        write_file(&self.disk, &path, bytes)?;
        let before = current.replace(Kept { meta: meta.clone(), path: path.clone() });
        drop(current);
        if let Some(before) = before.filter(|before| before.path != path) {
            self.disk.remove(&before.path).on("remove", &before.path)?;
            self.disk.sync_dir(&self.folder).on("sync", &self.folder)?;
        }
        Ok(())
    }

    /// Up to which entry the kept snapshot goes.
    pub fn meta(&self) -> Option<SnapshotMeta> {
        self.current().as_ref().map(|kept| kept.meta.clone())
    }

    /// Reads the kept snapshot and checks it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is not what was written, or what the disk answers.
    pub fn read(&self) -> Result<Option<(SnapshotMeta, Bytes)>, Error> {
        let current = self.current();
        let Some(kept) = current.as_ref() else { return Ok(None) };
        let bytes = read_file(self.disk.as_ref(), &kept.path)?.unwrap_or_default();
        let meta = snapshot::check(&bytes)
            .map_err(|error| Error::corrupt(&kept.path, 0, error.to_string()))?;
        if meta != kept.meta {
            return Err(Error::corrupt(&kept.path, 0, "it is another snapshot than was kept"));
        }
        Ok(Some((meta, bytes.into())))
    }

    /// Moves the kept snapshot aside, since it turned out to be damaged: another must be made.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn set_aside(&self) -> Result<(), Error> {
        let Some(kept) = self.current().take() else { return Ok(()) };
        let aside = self.folder.join(BROKEN_NAME);
        match self.disk.rename(&kept.path, &aside) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.on("rename", &kept.path),
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<Kept>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderIdExt as _;

    use super::*;
    use crate::disk::{FaultyDisk, Op};
    use crate::raft::{LogId, Membership, TypeConfig};

    const FOLDER: &str = "/snapshots";

    fn sample(index: u64) -> (SnapshotMeta, Bytes) {
        let leader = openraft::alias::LeaderIdOf::<TypeConfig>::new_committed(1, 1);
        let last_log_id = Some(LogId::new(leader, index));
        let meta = SnapshotMeta { last_log_id, last_membership: Membership::default() };
        let bytes = snapshot::encode(&meta, &State { applied: index, ..State::default() });
        (meta, bytes)
    }

    fn open(disk: &FaultyDisk) -> (Snapshots, Option<u64>) {
        let disk = Arc::new(disk.power_on());
        let (snapshots, found) = Snapshots::open(disk, Path::new(FOLDER)).unwrap();
        (snapshots, found.map(|(_, state)| state.applied))
    }

    #[test]
    fn the_newest_saved_snapshot_survives_every_power_cut() {
        for seed in 0..100 {
            let disk = FaultyDisk::new();
            let (snapshots, _) = open(&disk);
            for index in [3, 7] {
                let (meta, bytes) = sample(index);
                snapshots.save(&meta, &bytes).unwrap();
            }
            // The third is not saved whole: one of its steps fails.
            let (meta, bytes) = sample(9);
            let step = [Op::Create, Op::Write, Op::Sync, Op::Rename][seed as usize % 4];
            disk.fail(step, 1, libc::EIO);
            snapshots.save(&meta, &bytes).unwrap_err();
            disk.cut_power(seed);
            assert_eq!(open(&disk).1, Some(7), "seed {seed}");
        }
    }

    #[test]
    fn an_older_snapshot_does_not_replace_a_newer_one() {
        let disk = FaultyDisk::new();
        let (snapshots, _) = open(&disk);
        for index in [7, 3] {
            let (meta, bytes) = sample(index);
            snapshots.save(&meta, &bytes).unwrap();
        }
        assert_eq!(snapshots.read().unwrap().unwrap().0, sample(7).0);
        assert_eq!(open(&disk).1, Some(7));
    }

    #[test]
    fn a_damaged_snapshot_is_an_error_when_read_and_moved_aside_when_opened() {
        let disk = FaultyDisk::new();
        let (snapshots, _) = open(&disk);
        let (meta, bytes) = sample(7);
        snapshots.save(&meta, &bytes).unwrap();
        let path = snapshots.current().as_ref().unwrap().path.clone();
        disk.damage(&path, |bytes| bytes[40] ^= 1);
        assert!(matches!(snapshots.read(), Err(Error::Corrupt { .. })));
        assert_eq!(open(&disk).1, None);
        assert!(disk.bytes(&path).is_none());
    }
}
