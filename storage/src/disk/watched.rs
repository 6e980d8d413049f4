//! A disk that tells how long its syncs take.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Disk, DiskFile, Lock};

/// Hears of each sync: how long it took, and whether it succeeded.
pub type OnSync = Arc<dyn Fn(Duration, bool) + Send + Sync>;

/// Another disk, with an ear at the syncs of the files below one folder. It changes nothing.
pub struct WatchedDisk {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    on_sync: OnSync,
}

struct WatchedFile {
    file: Arc<dyn DiskFile>,
    on_sync: OnSync,
}

impl WatchedDisk {
    /// Tells `on_sync` of the syncs of files below `folder`.
    pub fn new(disk: Arc<dyn Disk>, folder: PathBuf, on_sync: OnSync) -> Self {
        Self { disk, folder, on_sync }
    }

    fn watched(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        if path.starts_with(&self.folder) {
            Arc::new(WatchedFile { file, on_sync: self.on_sync.clone() })
        } else {
            file
        }
    }
}

impl Disk for WatchedDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn create_private_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_private_dir(path)
    }

    fn create(&self, path: &Path, allocate: u64) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.watched(path, self.disk.create(path, allocate)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.watched(path, self.disk.open(path)?))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.disk.lock(path)
    }
}

impl DiskFile for WatchedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        let began = Instant::now();
        let synced = self.file.sync();
        (self.on_sync)(began.elapsed(), synced.is_ok());
        synced
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

impl fmt::Debug for WatchedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedDisk").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl fmt::Debug for WatchedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedFile").field("file", &self.file).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::disk::{FaultyDisk, Op};

    #[test]
    fn syncs_below_the_folder_are_told_with_their_end() {
        let told: Arc<Mutex<Vec<bool>>> = Arc::default();
        let hears = told.clone();
        let faulty = Arc::new(FaultyDisk::new());
        let on_sync: OnSync = Arc::new(move |_, ok| hears.lock().unwrap().push(ok));
        let disk = WatchedDisk::new(faulty.clone(), "/log".into(), on_sync);
        for folder in ["/log", "/other"] {
            disk.create_dir(Path::new(folder)).unwrap();
        }
        let log = disk.create(Path::new("/log/1"), 0).unwrap();
        let other = disk.create(Path::new("/other/1"), 0).unwrap();
        log.sync().unwrap();
        other.sync().unwrap();
        faulty.fail(Op::Sync, 1, libc::EIO);
        assert!(log.sync().is_err());
        assert_eq!(*told.lock().unwrap(), [true, false]);
    }
}
