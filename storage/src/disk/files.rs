//! Whole files, replaced so that a crash leaves the old one or the new one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Disk, DiskFile};
use crate::error::{Context as _, Error};

/// Names that end so are leftovers of a crash and may be removed.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

/// A file being written under a temporary name; dropping it before `persist` removes it.
#[derive(Debug)]
pub(crate) struct TempFile {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    len: u64,
    persisted: bool,
}

impl TempFile {
    /// Begins a file in this folder. `name` must be unique among those being written.
    pub(crate) fn create(disk: Arc<dyn Disk>, folder: &Path, name: &str) -> Result<Self, Error> {
        let path = folder.join(format!("{name}{TEMPORARY_SUFFIX}"));
        let file = match disk.create(&path, 0) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                disk.remove(&path).on("remove", &path)?;
                disk.create(&path, 0)
            }
            result => result,
        };
        let file = file.on("create", &path)?;
        Ok(Self { disk, file, path, len: 0, persisted: false })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(bytes, self.len).on("write", &self.path)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// Where it is until it is kept.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What was written, whatever its name becomes.
    pub(crate) fn file(&self) -> Arc<dyn DiskFile> {
        self.file.clone()
    }

    /// Syncs the bytes, then gives them their name, then makes the name durable.
    pub(crate) fn persist(mut self, target: &Path) -> Result<(), Error> {
        self.file.sync().on("sync", &self.path)?;
        self.disk.rename(&self.path, target).on("rename", &self.path)?;
        self.persisted = true;
        let folder = target.parent().unwrap_or(Path::new("."));
        self.disk.sync_dir(folder).on("sync", folder)
    }
}

impl io::Write for TempFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(bytes, self.len)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.persisted {
            let _ = self.disk.remove(&self.path);
        }
    }
}

/// Writes or replaces a whole file durably.
pub(crate) fn write_file(disk: &Arc<dyn Disk>, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut file = TempFile::create(disk.clone(), folder, &name)?;
    file.write(bytes)?;
    file.persist(path)
}

/// Reads a whole file; none when there is none.
pub(crate) fn read_file(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let file = match disk.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.on("open", path)?,
    };
    let len = file.len().on("read", path)?;
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other).on("read", path)?];
    let read = file.read_at(&mut bytes, 0).on("read", path)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Removes what a crash left half written in a folder.
pub(crate) fn remove_temporary(disk: &dyn Disk, folder: &Path) -> Result<(), Error> {
    for name in disk.list(folder).on("list", folder)? {
        if name.ends_with(TEMPORARY_SUFFIX) {
            let path = folder.join(name);
            disk.remove(&path).on("remove", &path)?;
        }
    }
    Ok(())
}
