//! Artifacts as files named by their content: components, and what was compiled from them.
//!
//! ```text
//! components/<hex>.wasm             the truth, checked against its name when read
//! compiled/<engine key>/<hex>.cwasm a cache, checked against its seal (.sum) once per process,
//!                                   and who compiled it (.att)
//! compiled.key                      with which this node seals what it compiled or accepted
//! ```
//!
//! A file has its final name only when it is whole and synced. Who needs which artifact is not
//! known here; nothing is removed unless asked.

mod compiled;
mod copied;
mod writer;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use nigh_model::{Digest, limits::COMPONENT_BYTES_MAX};
use sha2::{Digest as _, Sha256};

use crate::disk::{Disk, DiskFile, TempFile, read_file, remove_temporary, write_file};
use crate::error::{Context as _, Error};

pub use copied::{ATTESTATION_BYTES_MAX, Attested, COMPILED_BYTES_MAX, CompiledWriter};
pub use writer::Writer;

const COMPONENTS: &str = "components";
const EXTENSION: &str = ".wasm";
const KEY_NAME: &str = "compiled.key";

/// The artifacts of a node. All methods block: call them from a thread that may wait.
#[derive(Debug)]
pub struct ArtifactStore {
    disk: Arc<dyn Disk>,
    components: PathBuf,
    compiled: PathBuf,
    /// Seals compiled files: one that was not accepted, or was put here by hand, has no seal.
    key: [u8; 32],
    /// Held while a compiled file, its seal and its attestation are changed: they belong together.
    placing_compiled: Mutex<()>,
    /// Compiled files whose checksum was found right since the process began, by engine, and their
    /// length in bytes.
    checked: Mutex<HashMap<String, HashMap<Digest, u64>>>,
    temporary_names: AtomicU64,
}

impl ArtifactStore {
    /// Opens the store in a folder, made if missing, and removes what a crash left half written.
    /// `fresh_key` is random; it becomes the key of compiled artifacts when there is none yet.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn open(folder: &Path, disk: Arc<dyn Disk>, fresh_key: [u8; 32]) -> Result<Self, Error> {
        disk.create_dir(folder).on("create", folder)?;
        let key = key(&disk, &folder.join(KEY_NAME), fresh_key)?;
        let store = Self {
            components: folder.join(COMPONENTS),
            compiled: folder.join(compiled::FOLDER),
            key,
            disk,
            placing_compiled: Mutex::default(),
            checked: Mutex::default(),
            temporary_names: AtomicU64::new(0),
        };
        for folder in [&store.components, &store.compiled] {
            store.disk.create_dir(folder).on("create", folder)?;
        }
        remove_temporary(store.disk.as_ref(), &store.components)?;
        for engine in store.engines()? {
            remove_temporary(store.disk.as_ref(), &store.compiled.join(engine))?;
        }
        Ok(store)
    }

    /// Begins to write a component that arrives piece by piece.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn begin(&self) -> Result<Writer, Error> {
        let file = self.temporary(&self.components)?;
        Ok(Writer::new(file, self.components.clone(), COMPONENT_BYTES_MAX))
    }

    /// Keeps a component that is whole in memory. One that is there already stays as it is.
    ///
    /// # Errors
    /// [`Error::WrongDigest`], [`Error::TooLarge`], or what the disk answers.
    pub fn put(&self, digest: Digest, bytes: &[u8]) -> Result<(), Error> {
        if self.has(digest)? {
            return Ok(());
        }
        let mut writer = self.begin()?;
        writer.write(bytes)?;
        writer.commit(digest, None)
    }

    /// Whether the component is here.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn has(&self, digest: Digest) -> Result<bool, Error> {
        Ok(self.len(digest)?.is_some())
    }

    /// The component's length in bytes; none when it is not here.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn len(&self, digest: Digest) -> Result<Option<u64>, Error> {
        let path = self.path(digest);
        match self.disk.open(&path) {
            Ok(file) => Ok(Some(file.len().on("read", &path)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).on("open", &path),
        }
    }

    /// Reads a component and checks it against its digest.
    ///
    /// # Errors
    /// [`Error::NoSuchArtifact`]; [`Error::Corrupt`], and it should then be removed and fetched
    /// again; or what the disk answers.
    pub fn read(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        let path = self.path(digest);
        let found = read_file(self.disk.as_ref(), &path)?;
        let bytes = found.ok_or(Error::NoSuchArtifact { digest })?;
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(Error::corrupt(&path, 0, format!("its bytes have digest {found}")));
        }
        Ok(bytes)
    }

    /// Opens a component to be sent to a peer, who checks the digest too.
    ///
    /// # Errors
    /// [`Error::NoSuchArtifact`], or what the disk answers.
    pub fn open_reader(&self, digest: Digest) -> Result<Reader, Error> {
        let path = self.path(digest);
        let file = match self.disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoSuchArtifact { digest });
            }
            result => result.on("open", &path)?,
        };
        Reader::new(file, path, digest)
    }

    /// Removes a component. One that is not here is fine.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn remove(&self, digest: Digest) -> Result<(), Error> {
        self.remove_file(&self.path(digest))?;
        self.disk.sync_dir(&self.components).on("sync", &self.components)
    }

    /// The components that are here.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn list(&self) -> Result<Vec<Digest>, Error> {
        self.digests(&self.components, EXTENSION)
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.components.join(format!("{}{EXTENSION}", digest.hex()))
    }

    fn digests(&self, folder: &Path, extension: &str) -> Result<Vec<Digest>, Error> {
        let names = self.disk.list(folder).on("list", folder)?;
        let digest =
            |name: &String| format!("sha256:{}", name.strip_suffix(extension)?).parse().ok();
        Ok(names.iter().filter_map(digest).collect())
    }

    fn remove_file(&self, path: &Path) -> Result<(), Error> {
        match self.disk.remove(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.on("remove", path),
        }
    }

    fn temporary(&self, folder: &Path) -> Result<TempFile, Error> {
        let number = self.temporary_names.fetch_add(1, Ordering::Relaxed);
        TempFile::create(self.disk.clone(), folder, &format!("incoming-{number}"))
    }
}

/// The key kept in a file. One that is not whole is replaced: what it sealed is compiled again.
fn key(disk: &Arc<dyn Disk>, path: &Path, fresh: [u8; 32]) -> Result<[u8; 32], Error> {
    let kept = read_file(disk.as_ref(), path)?;
    if let Some(key) = kept.as_deref().and_then(|bytes| bytes.try_into().ok()) {
        return Ok(key);
    }
    if kept.is_some() {
        tracing::warn!(path = %path.display(), "the key of compiled artifacts is damaged; replaced");
    }
    write_file(disk, path, &fresh)?;
    Ok(fresh)
}

/// A component or a compiled file being sent.
#[derive(Debug)]
pub struct Reader {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    digest: Digest,
    hash: Sha256,
    offset: u64,
    len: u64,
}

impl Reader {
    fn new(file: Arc<dyn DiskFile>, path: PathBuf, digest: Digest) -> Result<Self, Error> {
        let len = file.len().on("read", &path)?;
        Ok(Self { file, path, digest, hash: Sha256::new(), offset: 0, len })
    }

    /// Its length in bytes.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The next bytes, at most so many; none at the end.
    ///
    /// # Errors
    /// [`Error::Corrupt`] at the end, when what was read is not what was opened; or what the disk
    /// answers.
    pub fn next(&mut self, bytes_max: usize) -> Result<Option<Bytes>, Error> {
        let rest = self.len - self.offset;
        let mut bytes = vec![0; bytes_max.min(usize::try_from(rest).unwrap_or(usize::MAX))];
        let read = self.file.read_at(&mut bytes, self.offset).on("read", &self.path)?;
        bytes.truncate(read);
        self.offset += read as u64;
        self.hash.update(&bytes);
        if read == 0 {
            let found = Digest::from_bytes(self.hash.clone().finalize().into());
            if found != self.digest {
                let why = format!("its bytes have digest {found}");
                return Err(Error::corrupt(&self.path, 0, why));
            }
        }
        Ok((read > 0).then(|| bytes.into()))
    }
}
