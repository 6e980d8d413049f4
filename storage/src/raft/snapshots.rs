//! Snapshots as files: written aside, synced, renamed; the newest kept, checked when read.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use nigh_model::State;

use super::snapshot::{self, Unfit};
use super::{LogId, SnapshotMeta};
use crate::disk::{Disk, DiskFile, TempFile, remove_temporary};
use crate::error::{Context as _, Error};

const EXTENSION: &str = ".snapshot";
/// The last damaged snapshot is kept under this name for a person to look at.
const BROKEN_NAME: &str = "last-damaged.broken";
/// Largest snapshot taken from elsewhere.
const BYTES_MAX: u64 = 1 << 30;

/// The folder of snapshots. All methods block.
#[derive(Debug)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    current: Mutex<Option<Kept>>,
    /// Files begun so far, for names of their own.
    begun: AtomicU64,
}

#[derive(Clone, Debug)]
struct Kept {
    meta: SnapshotMeta,
    path: PathBuf,
}

/// A whole snapshot in a file. It reads on when a newer one takes the file's place.
#[derive(Debug)]
pub struct SnapshotData {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    len: u64,
    /// Goes with the value: a file that was not kept.
    _unkept: Option<TempFile>,
}

/// A snapshot that arrives piece by piece. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Incoming(TempFile);

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
        let mut newest: Option<(Kept, State)> = None;
        let names = disk.list(folder).on("list", folder)?;
        for name in names.iter().filter(|name| name.ends_with(EXTENSION)) {
            let path = folder.join(name);
            let data = SnapshotData::open(disk.as_ref(), &path)?;
            let (meta, state) = match snapshot::decode(data.reader()) {
                Ok(whole) => whole,
                Err(Unfit::Newer { found, known }) => {
                    return Err(Error::NewerFormat { path, found, known });
                }
                Err(Unfit::Unread(error)) => return Err(error).on("read", &path),
                Err(Unfit::Bad(why)) => {
                    let aside = folder.join(BROKEN_NAME);
                    tracing::warn!(path = %path.display(), why, "moved a damaged snapshot aside");
                    disk.rename(&path, &aside).on("rename", &path)?;
                    continue;
                }
            };
            let mut older = Some(path.clone());
            if newest.as_ref().is_none_or(|(kept, _)| kept.meta.last_log_id < meta.last_log_id) {
                let before = newest.replace((Kept { meta, path }, state));
                older = before.map(|(kept, _)| kept.path);
            }
            if let Some(older) = older {
                disk.remove(&older).on("remove", &older)?;
            }
        }
        disk.sync_dir(folder).on("sync", folder)?;
        let found = newest.as_ref().map(|(kept, state)| (kept.meta.clone(), state.clone()));
        let current = Mutex::new(newest.map(|(kept, _)| kept));
        let begun = AtomicU64::new(0);
        Ok((Self { disk, folder: folder.to_owned(), current, begun }, found))
    }

    /// Writes a snapshot and keeps it durably instead of the one before, unless that one is newer.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn save(&self, meta: &SnapshotMeta, state: &State) -> Result<SnapshotData, Error> {
        let mut file = self.begin("new")?;
        let path = file.path().to_owned();
        snapshot::encode(meta, state, &mut file).on("write", &path)?;
        let mut current = self.current();
        if current.as_ref().is_some_and(|kept| kept.meta.last_log_id > meta.last_log_id) {
            return Ok(SnapshotData::of(file));
        }
        let id = meta.last_log_id.as_ref().map_or_else(|| "empty".to_owned(), file_stem);
        let path = self.folder.join(format!("{id}{EXTENSION}"));
        let data =
            SnapshotData { file: file.file(), path: path.clone(), len: file.len(), _unkept: None };
        file.persist(&path)?;
        let before = current.replace(Kept { meta: meta.clone(), path: path.clone() });
        drop(current);
        if let Some(before) = before.filter(|before| before.path != path) {
            self.disk.remove(&before.path).on("remove", &before.path)?;
            self.disk.sync_dir(&self.folder).on("sync", &self.folder)?;
        }
        Ok(data)
    }

    /// Begins a snapshot that comes from elsewhere.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn receive(&self) -> Result<Incoming, Error> {
        Ok(Incoming(self.begin("incoming")?))
    }

    /// Reads the kept snapshot and checks it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is not what was written, or what the disk answers.
    pub fn read(&self) -> Result<Option<(SnapshotMeta, SnapshotData)>, Error> {
        // Opened under the lock: nobody takes the file away in between.
        let (kept, data) = {
            let current = self.current();
            let Some(kept) = current.as_ref() else { return Ok(None) };
            let data = match SnapshotData::open(self.disk.as_ref(), &kept.path) {
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    return Err(Error::corrupt(&kept.path, 0, "it is gone"));
                }
                opened => opened?,
            };
            (kept.clone(), data)
        };
        let meta = match snapshot::check(data.reader()) {
            Err(Unfit::Unread(error)) => return Err(error).on("read", &kept.path),
            checked => checked.map_err(|unfit| Error::corrupt(&kept.path, 0, unfit.to_string()))?,
        };
        if meta != kept.meta {
            return Err(Error::corrupt(&kept.path, 0, "it is another snapshot than was kept"));
        }
        Ok(Some((meta, data)))
    }

    /// Moves the kept snapshot aside, since it turned out to be damaged: another must be made.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn set_aside(&self) -> Result<(), Error> {
        let Some(kept) = self.current().take() else { return Ok(()) };
        let aside = self.folder.join(BROKEN_NAME);
        match self.disk.rename(&kept.path, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.on("rename", &kept.path),
        }
    }

    fn begin(&self, what: &str) -> Result<TempFile, Error> {
        let n = self.begun.fetch_add(1, Relaxed);
        TempFile::create(self.disk.clone(), &self.folder, &format!("{what}-{n}"))
    }

    fn current(&self) -> MutexGuard<'_, Option<Kept>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SnapshotData {
    fn open(disk: &dyn Disk, path: &Path) -> Result<Self, Error> {
        let file = disk.open(path).on("open", path)?;
        let len = file.len().on("read", path)?;
        Ok(Self { file, path: path.to_owned(), len, _unkept: None })
    }

    fn of(file: TempFile) -> Self {
        let path = file.path().to_owned();
        Self { file: file.file(), path, len: file.len(), _unkept: Some(file) }
    }

    /// Its length in bytes.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// At most `max` of its bytes from `offset` on. Blocking.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn piece(&self, offset: u64, max: usize) -> Result<Bytes, Error> {
        let len = self.len.saturating_sub(offset).min(max as u64) as usize;
        let mut piece = vec![0; len];
        let read = self.file.read_at(&mut piece, offset).on("read", &self.path)?;
        piece.truncate(read);
        Ok(piece.into())
    }

    /// Decodes it and checks all of it. Blocking.
    ///
    /// # Errors
    /// [`Error::BadSnapshot`] with what does not fit, or what the disk answers.
    pub fn decode(&self) -> Result<(SnapshotMeta, State), Error> {
        snapshot::decode(self.reader()).map_err(|unfit| unfit.refused(&self.path))
    }

    fn reader(&self) -> Reader<'_> {
        Reader { data: self, at: 0 }
    }
}

impl Incoming {
    /// Adds bytes. Blocking.
    ///
    /// # Errors
    /// [`Error::TooLarge`], or what the disk answers.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let len = self.0.len() + bytes.len() as u64;
        if len > BYTES_MAX {
            return Err(Error::TooLarge { len, max: BYTES_MAX });
        }
        self.0.write(bytes)
    }

    /// Ends it and checks that it is the snapshot that was announced. Blocking.
    ///
    /// # Errors
    /// [`Error::BadSnapshot`] with what does not fit, or what the disk answers.
    pub fn finish(self, announced: &SnapshotMeta) -> Result<SnapshotData, Error> {
        let data = SnapshotData::of(self.0);
        let meta = snapshot::check(data.reader()).map_err(|unfit| unfit.refused(&data.path))?;
        if meta != *announced {
            return Err(Error::BadSnapshot { why: format!("it is of {meta}, not of {announced}") });
        }
        Ok(data)
    }
}

/// Reads a snapshot's file from its beginning.
struct Reader<'d> {
    data: &'d SnapshotData,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.data.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.data.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Names of files in the order of what is in them.
fn file_stem(id: &LogId) -> String {
    format!("{:016x}-{:x}-{:x}", id.index, id.leader_id.term, id.leader_id.node_id)
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderIdExt as _;

    use super::*;
    use crate::disk::{FaultyDisk, Op};
    use crate::raft::{Membership, TypeConfig};

    const FOLDER: &str = "/snapshots";

    fn sample(index: u64) -> (SnapshotMeta, State) {
        let leader = openraft::alias::LeaderIdOf::<TypeConfig>::new_committed(1, 1);
        let last_log_id = Some(LogId::new(leader, index));
        let meta = SnapshotMeta { last_log_id, last_membership: Membership::default() };
        (meta, State { applied: index, ..State::default() })
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
                let (meta, state) = sample(index);
                snapshots.save(&meta, &state).unwrap();
            }
            // The third is not saved whole: one of its steps fails.
            let (meta, state) = sample(9);
            let step = [Op::Create, Op::Write, Op::Sync, Op::Rename][seed as usize % 4];
            disk.fail(step, 1, libc::EIO);
            snapshots.save(&meta, &state).unwrap_err();
            disk.cut_power(seed);
            assert_eq!(open(&disk).1, Some(7), "seed {seed}");
        }
    }

    #[test]
    fn an_older_snapshot_does_not_replace_a_newer_one() {
        let disk = FaultyDisk::new();
        let (snapshots, _) = open(&disk);
        for index in [7, 3] {
            let (meta, state) = sample(index);
            snapshots.save(&meta, &state).unwrap();
        }
        assert_eq!(snapshots.read().unwrap().unwrap().0, sample(7).0);
        assert_eq!(open(&disk).1, Some(7));
    }

    #[test]
    fn a_damaged_snapshot_is_an_error_when_read_and_moved_aside_when_opened() {
        let disk = FaultyDisk::new();
        let (snapshots, _) = open(&disk);
        let (meta, state) = sample(7);
        snapshots.save(&meta, &state).unwrap();
        let path = snapshots.current().as_ref().unwrap().path.clone();
        disk.damage(&path, |bytes| bytes[40] ^= 1);
        assert!(matches!(snapshots.read(), Err(Error::Corrupt { .. })));
        assert_eq!(open(&disk).1, None);
        assert!(disk.bytes(&path).is_none());
    }

    #[test]
    fn a_snapshot_reads_on_while_a_newer_one_takes_its_place() {
        let disk = FaultyDisk::new();
        let (snapshots, _) = open(&disk);
        let (meta, state) = sample(3);
        let sent = snapshots.save(&meta, &state).unwrap();
        let (newer, state) = sample(7);
        snapshots.save(&newer, &state).unwrap();

        let mut incoming = snapshots.receive().unwrap();
        let mut at = 0;
        while at < sent.len() {
            let piece = sent.piece(at, 100).unwrap();
            incoming.write(&piece).unwrap();
            at += piece.len() as u64;
        }
        let arrived = incoming.finish(&meta).unwrap();
        assert_eq!(arrived.decode().unwrap().1.applied, 3);
        // An older one is not kept, and is whole for whoever asked for it.
        let (older, state) = sample(5);
        let unkept = snapshots.save(&older, &state).unwrap();
        assert_eq!(unkept.decode().unwrap().1.applied, 5);
        drop((sent, arrived, unkept));
        assert_eq!(disk.list(Path::new(FOLDER)).unwrap().len(), 1);
        assert_eq!(open(&disk).1, Some(7));
    }

    #[test]
    fn what_arrives_damaged_or_is_another_one_is_refused_and_leaves_nothing() {
        let disk = FaultyDisk::new();
        let (snapshots, _) = open(&disk);
        let (meta, state) = sample(3);
        let sent = snapshots.save(&meta, &state).unwrap();
        let whole = sent.piece(0, usize::MAX).unwrap();
        let mut flipped = whole.to_vec();
        flipped[40] ^= 1;
        let arrives =
            [(&whole[..whole.len() - 1], &meta), (&flipped[..], &meta), (&whole[..], &sample(7).0)];
        for (bytes, announced) in arrives {
            let mut incoming = snapshots.receive().unwrap();
            incoming.write(bytes).unwrap();
            let error = incoming.finish(announced).unwrap_err();
            assert!(matches!(error, Error::BadSnapshot { .. }), "{error}");
        }
        assert_eq!(disk.list(Path::new(FOLDER)).unwrap().len(), 1);
    }
}
