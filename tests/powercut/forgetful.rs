//! This machine's disk without some of its syncs: what a node would be that forgot them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use nigh_storage::RealDisk;
use nigh_storage::disk::{Disk, DiskFile, Lock};

/// Leaves every sync out.
pub(crate) const EVERYTHING: &str = "files,folders";

/// This machine's disk; some syncs only say that they were done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forgetful {
    files: bool,
    folders: bool,
}

#[derive(Debug)]
struct ForgetfulFile(Arc<dyn DiskFile>);

impl Forgetful {
    /// Leaves out what is named: `files`, `folders` or both.
    pub(crate) fn new(what: &str) -> Self {
        Self { files: what.contains("files"), folders: what.contains("folders") }
    }

    fn file(self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        if self.files { Arc::new(ForgetfulFile(file)) } else { file }
    }
}

impl Disk for Forgetful {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir(path)
    }

    fn create(&self, path: &Path, allocate: u64) -> io::Result<Arc<dyn DiskFile>> {
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
        if self.folders { Ok(()) } else { RealDisk.sync_dir(path) }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        RealDisk.lock(path)
    }
}

impl DiskFile for ForgetfulFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}
