//! A disk in memory for tests: it counts, fails as asked, fills up, and at a power cut forgets
//! what was not synced.
//!
//! What a cut leaves is chosen by a seed. Of a file, every 512-byte sector written since its last
//! sync is kept or lost on its own; of names, a prefix of the changes since the last folder sync
//! is kept, as a journalling file system does. A failed sync drops the written bytes from what
//! will ever become durable while they still read back, as Linux does.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, Lock};

/// What is written in one piece or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

/// A call that can be counted and made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// [`Disk::create`].
    Create,
    /// [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::read_at`].
    Read,
    /// [`DiskFile::sync`].
    Sync,
    /// [`Disk::sync_dir`].
    SyncDir,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::remove`] and [`Disk::remove_dir`].
    Remove,
}

/// How often each call was made.
pub type Counts = BTreeMap<Op, u64>;

/// The disk as one life of a process sees it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct FaultyDisk {
    inner: Arc<Mutex<Inner>>,
    /// The power cuts before this life; after the next one it can do nothing any more.
    cuts: u64,
}

#[derive(Debug, Default)]
struct Inner {
    inodes: BTreeMap<u64, Inode>,
    /// Which file a name means now, and which it would mean after a cut that keeps nothing.
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    renames: Vec<(PathBuf, NameChange)>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    faults: Vec<Fault>,
    counts: Counts,
    capacity: Option<u64>,
    short_writes: bool,
    cuts: u64,
    inodes_made: u64,
}

#[derive(Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Resize(usize),
}

#[derive(Clone, Debug)]
enum NameChange {
    Put(PathBuf, u64),
    Move(PathBuf, PathBuf),
    Remove(PathBuf),
}

#[derive(Debug)]
struct Fault {
    op: Op,
    after: u64,
    errno: i32,
    lasting: bool,
}

#[derive(Debug)]
struct MemoryFile {
    disk: FaultyDisk,
    inode: u64,
}

#[derive(Debug)]
struct MemoryLock {
    disk: FaultyDisk,
    path: PathBuf,
}

impl FaultyDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the `nth` next call of this kind fail, once; 1 is the next.
    pub fn fail(&self, op: Op, nth: u64, errno: i32) {
        self.inner().faults.push(Fault { op, after: nth.max(1), errno, lasting: false });
    }

    /// Makes the `nth` next call of this kind and all after it fail until [`heal`](Self::heal).
    pub fn fail_from(&self, op: Op, nth: u64, errno: i32) {
        self.inner().faults.push(Fault { op, after: nth.max(1), errno, lasting: true });
    }

    /// Ends all faults, short writes and the limit of space.
    pub fn heal(&self) {
        let mut inner = self.inner();
        inner.faults.clear();
        inner.capacity = None;
        inner.short_writes = false;
    }

    /// Lets the disk be full at so many bytes.
    pub fn limit(&self, bytes: u64) {
        self.inner().capacity = Some(bytes);
    }

    /// Makes each write write about half of what it is given.
    pub fn write_short(&self) {
        self.inner().short_writes = true;
    }

    /// How often each call was made so far.
    pub fn counts(&self) -> Counts {
        self.inner().counts.clone()
    }

    /// The disk for the life after the last power cut.
    pub fn power_on(&self) -> Self {
        let cuts = self.inner().cuts;
        Self { inner: self.inner.clone(), cuts }
    }

    /// Cuts the power: this disk, its open files and locks are dead, faults end, what was not
    /// synced is kept or lost as the seed says. Go on with [`power_on`](Self::power_on).
    pub fn cut_power(&self, seed: u64) {
        let mut dice = Dice(seed);
        let mut inner = self.inner();
        inner.cuts += 1;
        inner.faults.clear();
        inner.locks.clear();
        for inode in inner.inodes.values_mut() {
            inode.survive(&mut dice);
        }
        let kept = dice.below(inner.renames.len() as u64 + 1);
        let changes = std::mem::take(&mut inner.renames);
        for (_, change) in changes.into_iter().take(kept as usize) {
            apply(&mut inner.durable_names, change);
        }
        inner.names = inner.durable_names.clone();
    }

    /// Another disk with the same files, as they read now and all durable.
    pub fn copy(&self) -> Self {
        let inner = self.inner();
        let inodes = inner.inodes.iter().map(|(number, inode)| {
            let bytes = inode.bytes.clone();
            let durable = bytes.clone();
            (*number, Inode { bytes, durable, pending: Vec::new() })
        });
        let copy = Inner {
            inodes: inodes.collect(),
            names: inner.names.clone(),
            durable_names: inner.names.clone(),
            dirs: inner.dirs.clone(),
            inodes_made: inner.inodes_made,
            ..Inner::default()
        };
        Self { inner: Arc::new(Mutex::new(copy)), cuts: 0 }
    }

    /// The bytes of a file as they read now.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let inner = self.inner();
        let inode = inner.names.get(path)?;
        Some(inner.inodes[inode].bytes.clone())
    }

    /// Changes a file's bytes behind everyone's back, durably.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.inner();
        let inode = inner.names[path];
        let inode = inner.inodes.get_mut(&inode).expect("every name has its inode");
        change(&mut inode.bytes);
        inode.durable = inode.bytes.clone();
        inode.pending.clear();
    }

    /// The disk, if the power was not cut since this life began.
    fn powered(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.inner();
        if inner.cuts == self.cuts { Ok(inner) } else { Err(io::Error::other("no power")) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Counts a call, and fails it if it is its turn.
    fn begin(&mut self, op: Op) -> io::Result<()> {
        *self.counts.entry(op).or_default() += 1;
        let mut errno = None;
        for fault in self.faults.iter_mut().filter(|fault| fault.op == op) {
            fault.after = fault.after.saturating_sub(1);
            if fault.after == 0 {
                errno = Some(fault.errno);
            }
        }
        self.faults.retain(|fault| fault.after > 0 || fault.lasting);
        errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    fn free(&self) -> u64 {
        let named = self.names.values().filter_map(|inode| self.inodes.get(inode));
        let used: usize = named.map(|inode| inode.bytes.len()).sum();
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(used as u64))
    }

    fn change_name(&mut self, change: NameChange) {
        let (NameChange::Put(path, _) | NameChange::Remove(path) | NameChange::Move(_, path)) =
            &change;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        apply(&mut self.names, change.clone());
        self.renames.push((folder, change));
    }
}

fn apply(names: &mut BTreeMap<PathBuf, u64>, change: NameChange) {
    match change {
        NameChange::Put(path, inode) => {
            names.insert(path, inode);
        }
        NameChange::Move(from, to) => {
            if let Some(inode) = names.remove(&from) {
                names.insert(to, inode);
            }
        }
        NameChange::Remove(path) => {
            names.remove(&path);
        }
    }
}

impl Inode {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        put(&mut self.bytes, offset, bytes);
        self.pending.push(Change::Write(offset, bytes.to_vec()));
    }

    fn resize(&mut self, len: usize) {
        self.bytes.resize(len, 0);
        self.pending.push(Change::Resize(len));
    }

    fn survive(&mut self, dice: &mut Dice) {
        // A cut keeps all, nothing, or each sector by chance.
        let mode = dice.below(3);
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Resize(len) if mode == 0 || (mode == 2 && dice.below(2) == 0) => {
                    self.durable.resize(len, 0);
                }
                Change::Resize(_) => {}
                Change::Write(offset, bytes) => {
                    let mut at = 0;
                    while at < bytes.len() {
                        let sector_end = ((offset + at) / SECTOR_BYTES + 1) * SECTOR_BYTES;
                        let end = bytes.len().min(sector_end - offset);
                        if mode == 0 || (mode == 2 && dice.below(2) == 0) {
                            put(&mut self.durable, offset + at, &bytes[at..end]);
                        }
                        at = end;
                    }
                }
            }
        }
        self.bytes = self.durable.clone();
    }
}

fn put(target: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if target.len() < end {
        target.resize(end, 0);
    }
    target[offset..end].copy_from_slice(bytes);
}

/// A small seeded generator (splitmix64), so that a cut can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

impl Disk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.powered()?;
        inner.dirs.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn create(&self, path: &Path, allocate: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.powered()?;
        inner.begin(Op::Create)?;
        if inner.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if inner.free() < allocate {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.inodes_made += 1;
        let inode = inner.inodes_made;
        let mut made = Inode::default();
        if allocate > 0 {
            made.resize(allocate as usize);
        }
        inner.inodes.insert(inode, made);
        inner.change_name(NameChange::Put(path.to_owned(), inode));
        Ok(Arc::new(MemoryFile { disk: self.clone(), inode }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.powered()?;
        let inode = *inner.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemoryFile { disk: self.clone(), inode }))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let inner = self.powered()?;
        if !inner.dirs.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let files = inner.names.keys().chain(inner.dirs.iter());
        let here = files.filter(|name| name.parent() == Some(path));
        let names = here.filter_map(|name| Some(name.file_name()?.to_string_lossy().into_owned()));
        let mut names: Vec<_> = names.collect();
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.powered()?;
        inner.begin(Op::Rename)?;
        if !inner.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.change_name(NameChange::Move(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.powered()?;
        inner.begin(Op::Remove)?;
        if !inner.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.change_name(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.powered()?;
        inner.begin(Op::Remove)?;
        let inside = inner.names.keys().filter(|name| name.starts_with(path)).cloned();
        for name in inside.collect::<Vec<_>>() {
            inner.change_name(NameChange::Remove(name));
        }
        inner.dirs.retain(|name| !name.starts_with(path));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.powered()?;
        inner.begin(Op::SyncDir)?;
        for (folder, change) in std::mem::take(&mut inner.renames) {
            if folder == path {
                apply(&mut inner.durable_names, change);
            } else {
                inner.renames.push((folder, change));
            }
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut inner = self.powered()?;
        if !inner.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemoryLock { disk: self.clone(), path: path.to_owned() }))
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut inner = self.disk.powered()?;
        inner.begin(Op::Read)?;
        let bytes = &inner.inodes[&self.inode].bytes;
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut inner = self.disk.powered()?;
        let failed = inner.begin(Op::Write).err();
        let len = inner.inodes[&self.inode].bytes.len() as u64;
        let room = len.saturating_sub(offset).saturating_add(inner.free());
        let half = inner.short_writes || failed.is_some();
        let wanted = if half { bytes.len().div_ceil(2) } else { bytes.len() };
        let written = wanted.min(usize::try_from(room).unwrap_or(usize::MAX));
        if written == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = inner.inodes.get_mut(&self.inode).expect("files are never forgotten");
        inode.write(offset as usize, &bytes[..written]);
        failed.map_or(Ok(written), Err)
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.powered()?;
        let result = inner.begin(Op::Sync);
        let inode = inner.inodes.get_mut(&self.inode).expect("files are never forgotten");
        let pending = std::mem::take(&mut inode.pending);
        result?;
        for change in pending {
            match change {
                Change::Write(offset, bytes) => put(&mut inode.durable, offset, &bytes),
                Change::Resize(len) => inode.durable.resize(len, 0),
            }
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.powered()?.inodes[&self.inode].bytes.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.disk.powered()?;
        let inode = inner.inodes.get_mut(&self.inode).expect("files are never forgotten");
        inode.resize(len as usize);
        Ok(())
    }
}

impl Lock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        if let Ok(mut inner) = self.disk.powered() {
            inner.locks.remove(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_every_cut_and_nothing_else_survives_all() {
        let (mut lost, mut kept) = (0, 0);
        for seed in 0..100 {
            let disk = FaultyDisk::new();
            let folder = Path::new("/d");
            disk.create_dir(folder).unwrap();
            let file = disk.create(&folder.join("f"), 0).unwrap();
            file.write_all_at(b"held", 0).unwrap();
            file.sync().unwrap();
            disk.sync_dir(folder).unwrap();
            file.write_all_at(b"?", 4).unwrap();
            disk.cut_power(seed);
            assert!(file.sync().is_err());
            match disk.bytes(&folder.join("f")).unwrap().as_slice() {
                b"held" => lost += 1,
                b"held?" => kept += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(lost > 10 && kept > 10, "lost {lost}, kept {kept}");
    }

    #[test]
    fn bytes_of_a_failed_sync_read_back_but_are_never_durable() {
        let disk = FaultyDisk::new();
        let folder = Path::new("/d");
        disk.create_dir(folder).unwrap();
        let file = disk.create(&folder.join("f"), 0).unwrap();
        disk.sync_dir(folder).unwrap();
        file.write_all_at(b"x", 0).unwrap();
        disk.fail(Op::Sync, 1, libc::EIO);
        assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(libc::EIO));
        file.sync().unwrap();
        assert_eq!(disk.bytes(&folder.join("f")).unwrap(), b"x");
        disk.cut_power(1);
        assert_eq!(disk.bytes(&folder.join("f")).unwrap(), b"");
    }
}
