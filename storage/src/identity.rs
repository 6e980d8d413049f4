//! The data folder: whose it is, which format it has, and that only one process uses it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nigh_model::{ClusterId, NodeId, NodeName};
use serde::{Deserialize, Serialize};

use crate::disk::{
    Disk, Lock, RealDisk, TEMPORARY_SUFFIX, read_file, remove_temporary, write_file,
};
use crate::error::{Context as _, Error};

/// The format of the folder that this build writes, and the newest that it reads.
pub const FORMAT: u64 = 1;

const LOCK_NAME: &str = "lock";
const FORMAT_NAME: &str = "format";
/// The file of a data folder that says which node it belongs to.
pub const NODE_NAME: &str = "node.json";
/// At the root of a file system of its own.
const LOST_AND_FOUND: &str = "lost+found";

/// Who a node is, once it belongs to a cluster. An id belongs to a log: it goes when that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node's id in it.
    pub node: NodeId,
    /// The node's name in it.
    pub name: NodeName,
}

/// An identity as it lies in its file: with a checksum, since a changed digit would be an id too.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    cluster: ClusterId,
    node: NodeId,
    name: NodeName,
    /// None in files of the format before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crc32c: Option<u32>,
}

impl Written {
    fn new(identity: &Identity) -> Self {
        let Identity { cluster, node, name } = identity.clone();
        let crc32c = Some(identity.checksum());
        Self { cluster, node, name, crc32c }
    }

    fn check(self) -> Result<Identity, &'static str> {
        let Self { cluster, node, name, crc32c } = self;
        let identity = Identity { cluster, node, name };
        match crc32c {
            Some(crc) if crc != identity.checksum() => Err("it does not fit its checksum"),
            _ => Ok(identity),
        }
    }
}

impl Identity {
    fn checksum(&self) -> u32 {
        crc32c::crc32c(format!("{} {} {}", self.cluster, self.node, self.name).as_bytes())
    }
}

/// A data folder that this process holds until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    _lock: Box<dyn Lock>,
}

impl DataDir {
    /// Opens a data folder on this machine's disk, made if missing. Blocking.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::NewerFormat`], [`Error::Foreign`] when the folder holds other
    /// files, or what the disk answers.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_on(Arc::new(RealDisk), path)
    }

    /// Opens a data folder on a disk of choice.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, Error> {
        disk.create_dir(path).on("create", path)?;
        let format = path.join(FORMAT_NAME);
        let written = read_file(disk.as_ref(), &format)?;
        if written.is_none() {
            check_empty(disk.as_ref(), path)?;
        }
        let lock = disk.lock(&path.join(LOCK_NAME)).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => Error::Locked { path: path.to_owned() },
            _ => Error::Io { what: "lock", path: path.to_owned(), source },
        })?;
        remove_temporary(disk.as_ref(), path)?;
        match read_file(disk.as_ref(), &format)? {
            Some(bytes) => check_format(path, &format, &bytes)?,
            None => write_file(&disk, &format, format!("{FORMAT}\n").as_bytes())?,
        }
        Ok(Self { path: path.to_owned(), disk, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The disk it is on.
    pub const fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Who the node is; none before it belongs to a cluster. Blocking.
    ///
    /// # Errors
    /// [`Error::Corrupt`], or what the disk answers.
    pub fn identity(&self) -> Result<Option<Identity>, Error> {
        let path = self.path.join(NODE_NAME);
        let Some(bytes) = read_file(self.disk.as_ref(), &path)? else { return Ok(None) };
        let corrupt = |why: String| Error::corrupt(&path, 0, why);
        let written: Written =
            serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        Ok(Some(written.check().map_err(|why| corrupt(why.to_owned()))?))
    }

    /// Writes durably who the node is. Blocking.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn set_identity(&self, identity: &Identity) -> Result<(), Error> {
        let mut text =
            serde_json::to_vec_pretty(&Written::new(identity)).expect("strings and numbers");
        text.push(b'\n');
        write_file(&self.disk, &self.path.join(NODE_NAME), &text)
    }
}

fn check_empty(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    let names = disk.list(path).on("list", path)?;
    let is_ours = |name: &str| {
        name == LOCK_NAME || name == LOST_AND_FOUND || name.ends_with(TEMPORARY_SUFFIX)
    };
    match names.into_iter().find(|name| !is_ours(name)) {
        Some(found) => Err(Error::Foreign { path: path.to_owned(), found }),
        None => Ok(()),
    }
}

fn check_format(folder: &Path, file: &Path, bytes: &[u8]) -> Result<(), Error> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    match text.trim_end().parse::<u64>() {
        Ok(found) if found > FORMAT => {
            Err(Error::NewerFormat { path: folder.to_owned(), found, known: FORMAT })
        }
        Ok(1..) => Ok(()),
        Ok(0) | Err(_) => Err(Error::corrupt(file, 0, "it holds no version number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: ClusterId::new("0123456789abcdef0123456789abcdef").unwrap(),
            node: NodeId(7),
            name: NodeName::new("eu-1").unwrap(),
        }
    }

    #[test]
    fn an_identity_survives_and_a_second_process_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let data = DataDir::open(&path).unwrap();
        assert_eq!(data.identity().unwrap(), None);
        data.set_identity(&identity()).unwrap();
        let error = DataDir::open(&path).unwrap_err();
        assert!(matches!(error, Error::Locked { .. }));
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        drop(data);
        assert_eq!(DataDir::open(&path).unwrap().identity().unwrap(), Some(identity()));
    }

    #[test]
    fn a_newer_format_is_refused_with_both_versions() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("format"), "9\n").unwrap();
        let error = DataDir::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("format 9") && error.contains("up to 1"), "{error}");
    }

    #[test]
    fn a_folder_with_other_files_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("thesis.txt"), "mine").unwrap();
        let error = DataDir::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains("thesis.txt"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_identity_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        std::fs::write(folder.path().join("node.json"), "{").unwrap();
        let error = data.identity().unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("node.json"), "{error}");
    }

    #[test]
    fn no_flipped_bit_makes_another_identity_and_the_format_before_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        data.set_identity(&identity()).unwrap();
        let path = folder.path().join("node.json");
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bytes).unwrap();
            if let Ok(found) = data.identity() {
                assert_eq!(found, Some(identity()), "bit {bit}");
            }
        }
        let before = serde_json::to_vec(&identity()).unwrap();
        std::fs::write(&path, before).unwrap();
        assert_eq!(data.identity().unwrap(), Some(identity()));
    }
}
