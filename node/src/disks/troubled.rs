//! This machine's disk with troubles that can be switched on.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use nigh_storage::RealDisk;
use nigh_storage::disk::{Disk, DiskFile, Lock};

/// This machine's disk with troubles. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Troubled {
    troubles: Arc<Troubles>,
}

#[derive(Debug, Default)]
struct Troubles {
    full: AtomicBool,
    failing: AtomicBool,
    sync_delay_ms: AtomicU64,
}

#[derive(Debug)]
struct TroubledFile {
    file: Arc<dyn DiskFile>,
    troubles: Arc<Troubles>,
}

impl Troubled {
    /// No room for new files.
    pub(super) fn set_full(&self, full: bool) {
        self.troubles.full.store(full, Relaxed);
    }

    /// Syncs fail.
    pub(super) fn set_failing(&self, failing: bool) {
        self.troubles.failing.store(failing, Relaxed);
    }

    /// Each sync takes so much longer.
    pub(super) fn set_sync_delay(&self, delay: Duration) {
        self.troubles.sync_delay_ms.store(delay.as_millis() as u64, Relaxed);
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(TroubledFile { file, troubles: self.troubles.clone() })
    }
}

impl Disk for Troubled {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir(path)
    }

    fn create(&self, path: &Path, allocate: u64) -> io::Result<Arc<dyn DiskFile>> {
        if self.troubles.full.load(Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(self.file(RealDisk.create(path, allocate)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(RealDisk.open(path)?))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        RealDisk.lock(path)
    }
}

impl DiskFile for TroubledFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        // The delay is the trouble itself; nothing is waited for by it.
        std::thread::sleep(Duration::from_millis(self.troubles.sync_delay_ms.load(Relaxed)));
        match self.troubles.failing.load(Relaxed) {
            true => Err(io::Error::from_raw_os_error(5)),
            false => self.file.sync(),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}
