//! The one seam to the disk: everything that must survive goes through [`Disk`].
//!
//! [`RealDisk`] is the operating system's; [`FaultyDisk`] lives in memory, fails as asked and
//! forgets at a power cut what was not synced; [`WatchedDisk`] tells how long another one's syncs
//! take. The state database (sled) is the one exception: it does its own I/O, and nothing depends
//! on it that the log and snapshots cannot rebuild.

mod faulty;
mod files;
mod real;
mod watched;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use faulty::{Counts, FaultyDisk, Op};
pub(crate) use files::{TEMPORARY_SUFFIX, TempFile, read_file, remove_temporary, write_file};
pub use real::RealDisk;
pub use watched::{OnSync, WatchedDisk};

/// Folders and files by name. Blocking: call it from a thread that may wait.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Makes a folder and those above it, durably; one that exists is fine.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes a folder that only its owner may enter, also when it exists already.
    fn create_private_dir(&self, path: &Path) -> io::Result<()> {
        self.create_dir(path)
    }

    /// Makes a file that must not exist yet, with `allocate` zero bytes reserved for it.
    ///
    /// Its name is durable after [`sync_dir`](Self::sync_dir).
    fn create(&self, path: &Path, allocate: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// The names in a folder, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Gives a file another name, replacing what had it. Durable after [`sync_dir`](Self::sync_dir).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after [`sync_dir`](Self::sync_dir).
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder and all in it. Durable after [`sync_dir`](Self::sync_dir) of its parent.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Takes the lock file of this name, made if missing, until the guard is dropped.
    ///
    /// # Errors
    /// `WouldBlock` when someone else holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
}

/// An open file. Positions are explicit, so that threads can share it.
pub trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Reads at a position; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at a position; may write fewer bytes than given.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Waits until the bytes are on the medium (fdatasync). An error is final: the bytes written
    /// since the last sync may or may not be there, whatever a second call answers.
    fn sync(&self) -> io::Result<()>;

    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Cuts it, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Whether there is no byte in it.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Writes all bytes.
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.write_at(bytes, offset)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[written..];
            offset += written as u64;
        }
        Ok(())
    }
}

/// A lock file that is held; dropping it lets go.
pub trait Lock: fmt::Debug + Send + Sync + 'static {}
