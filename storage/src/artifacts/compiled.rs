//! What this node compiled from components: a cache per engine, mapped from disk by the runtime.
//!
//! A compiled file is machine code. It is offered only when it still fits the seal that was
//! written beside it: a hash over this node's key, the engine, the component and the bytes. So
//! one that was made elsewhere, is damaged or took another's name is not mapped.

use std::io;
use std::path::PathBuf;
use std::sync::PoisonError;

use nigh_model::Digest;
use sha2::{Digest as _, Sha256};

use super::ArtifactStore;
use crate::disk::{read_file, write_file};
use crate::error::{Context as _, Error};

pub(super) const FOLDER: &str = "compiled";
const EXTENSION: &str = ".cwasm";
const SUM_EXTENSION: &str = ".sum";
const ENGINE_KEY_LENGTH_MAX: usize = 128;
/// Read at once while a checksum is computed, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

impl ArtifactStore {
    /// Keeps what an engine compiled from a component.
    ///
    /// # Errors
    /// [`Error::BadEngineKey`], or what the disk answers.
    pub fn put_compiled(&self, engine: &str, digest: Digest, bytes: &[u8]) -> Result<(), Error> {
        let folder = self.engine_folder(engine)?;
        self.disk.create_dir(&folder).on("create", &folder)?;
        let path = folder.join(format!("{}{EXTENSION}", digest.hex()));
        let sum = folder.join(format!("{}{SUM_EXTENSION}", digest.hex()));
        // Without its sum a file is not offered, so that old sum and new bytes never meet.
        self.remove_file(&sum)?;
        let mut file = self.temporary(&folder)?;
        file.write(bytes)?;
        file.persist(&path)?;
        write_file(&self.disk, &sum, self.seal(engine, digest, Digest::of(bytes)).as_bytes())?;
        self.checked().insert(path);
        Ok(())
    }

    /// The file of what an engine compiled from a component; none when it is not here or no longer
    /// what was written (it is removed then, with a warning).
    ///
    /// # Errors
    /// [`Error::BadEngineKey`], or what the disk answers.
    pub fn compiled_path(&self, engine: &str, digest: Digest) -> Result<Option<PathBuf>, Error> {
        let folder = self.engine_folder(engine)?;
        let path = folder.join(format!("{}{EXTENSION}", digest.hex()));
        if self.checked().contains(&path) {
            return Ok(Some(path));
        }
        let sum = folder.join(format!("{}{SUM_EXTENSION}", digest.hex()));
        let Some(expected) = read_file(self.disk.as_ref(), &sum)? else { return Ok(None) };
        let Some(found) = self.checksum(&path)? else { return Ok(None) };
        if self.seal(engine, digest, found).as_bytes() != expected {
            tracing::warn!(
                path = %path.display(),
                "removed a compiled artifact that is damaged or was not made by this node"
            );
            self.remove_compiled(engine, digest)?;
            return Ok(None);
        }
        self.checked().insert(path.clone());
        Ok(Some(path))
    }

    /// Removes what an engine compiled from a component. None here is fine.
    ///
    /// # Errors
    /// [`Error::BadEngineKey`], or what the disk answers.
    pub fn remove_compiled(&self, engine: &str, digest: Digest) -> Result<(), Error> {
        let folder = self.engine_folder(engine)?;
        let path = folder.join(format!("{}{EXTENSION}", digest.hex()));
        self.checked().remove(&path);
        self.remove_file(&folder.join(format!("{}{SUM_EXTENSION}", digest.hex())))?;
        self.remove_file(&path)
    }

    /// The components that an engine compiled.
    ///
    /// # Errors
    /// [`Error::BadEngineKey`], or what the disk answers.
    pub fn list_compiled(&self, engine: &str) -> Result<Vec<Digest>, Error> {
        let folder = self.engine_folder(engine)?;
        self.disk.create_dir(&folder).on("create", &folder)?;
        self.digests(&folder, EXTENSION)
    }

    /// Removes what engines other than this one compiled: other builds' files are of no use.
    ///
    /// # Errors
    /// [`Error::BadEngineKey`], or what the disk answers.
    pub fn remove_other_engines(&self, engine: &str) -> Result<(), Error> {
        let keep = self.engine_folder(engine)?;
        for other in self.engines()? {
            let folder = self.compiled.join(other);
            if folder != keep {
                self.disk.remove_dir(&folder).on("remove", &folder)?;
            }
        }
        self.disk.sync_dir(&self.compiled).on("sync", &self.compiled)
    }

    pub(super) fn engines(&self) -> Result<Vec<String>, Error> {
        self.disk.list(&self.compiled).on("list", &self.compiled)
    }

    fn engine_folder(&self, engine: &str) -> Result<PathBuf, Error> {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let fits = (1..=ENGINE_KEY_LENGTH_MAX).contains(&engine.len())
            && engine.bytes().all(is_fit)
            && !engine.starts_with('.');
        if !fits {
            return Err(Error::BadEngineKey { key: engine.chars().take(80).collect() });
        }
        Ok(self.compiled.join(engine))
    }

    /// What stands beside a compiled file of this content. Every part has a fixed length or its
    /// length before it.
    fn seal(&self, engine: &str, digest: Digest, content: Digest) -> String {
        let mut hash = Sha256::new();
        hash.update(self.key);
        hash.update((engine.len() as u64).to_le_bytes());
        hash.update(engine.as_bytes());
        hash.update(digest.as_bytes());
        hash.update(content.as_bytes());
        Digest::from_bytes(hash.finalize().into()).to_string()
    }

    fn checksum(&self, path: &std::path::Path) -> Result<Option<Digest>, Error> {
        let file = match self.disk.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.on("open", path)?,
        };
        let mut hash = Sha256::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut offset = 0;
        loop {
            let read = file.read_at(&mut chunk, offset).on("read", path)?;
            if read == 0 {
                return Ok(Some(Digest::from_bytes(hash.finalize().into())));
            }
            hash.update(&chunk[..read]);
            offset += read as u64;
        }
    }

    fn checked(&self) -> std::sync::MutexGuard<'_, std::collections::HashSet<PathBuf>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
