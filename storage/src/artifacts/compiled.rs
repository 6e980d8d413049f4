//! What components were compiled to: a cache per engine, mapped from disk by the runtime.
//!
//! A compiled file is machine code. It is offered only when it still fits the seal that was
//! written beside it: a hash over this node's key, the engine, the component and the bytes. So
//! one that this node neither made nor accepted, is damaged or took another's name is not mapped.
//! Who copies one from another node judges it before it is sealed: what was accepted once need not
//! be judged again. What it was judged by, its *attestation*, stays beside it for others.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{MutexGuard, PoisonError};

use nigh_model::Digest;
use sha2::{Digest as _, Sha256};

use super::ArtifactStore;
use crate::disk::{TempFile, read_file, write_file};
use crate::error::{Context as _, Error};

pub(super) const FOLDER: &str = "compiled";
pub(super) const EXTENSION: &str = ".cwasm";
pub(super) const SUM_EXTENSION: &str = ".sum";
pub(super) const ATTESTATION_EXTENSION: &str = ".att";
const ENGINE_KEY_LENGTH_MAX: usize = 128;
/// Read at once while a checksum is computed, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

impl ArtifactStore {
    /// Keeps what an engine compiled from a component on this node; the digest of the bytes.
    ///
    /// # Errors
    /// [`Error::BadEngineKey`], or what the disk answers.
    pub fn put_compiled(
        &self,
        engine: &str,
        digest: Digest,
        bytes: &[u8],
    ) -> Result<Digest, Error> {
        let folder = self.engine_folder(engine)?;
        self.disk.create_dir(&folder).on("create", &folder)?;
        let mut file = self.temporary(&folder)?;
        file.write(bytes)?;
        let content = Digest::of(bytes);
        self.place_compiled((engine, digest), file, content, None)?;
        Ok(content)
    }

    /// Gives a compiled file its name, its seal and its attestation.
    pub(super) fn place_compiled(
        &self,
        (engine, digest): (&str, Digest),
        file: TempFile,
        content: Digest,
        attestation: Option<&[u8]>,
    ) -> Result<(), Error> {
        let folder = self.engine_folder(engine)?;
        let of = |extension| folder.join(format!("{}{extension}", digest.hex()));
        let (path, sum, attested) = (of(EXTENSION), of(SUM_EXTENSION), of(ATTESTATION_EXTENSION));
        let _alone = self.placing_compiled.lock().unwrap_or_else(PoisonError::into_inner);
        // Without its sum a file is not offered, so that old sum and new bytes never meet.
        self.remove_file(&sum)?;
        self.remove_file(&attested)?;
        let bytes = file.len();
        file.persist(&path)?;
        if let Some(attestation) = attestation {
            write_file(&self.disk, &attested, attestation)?;
        }
        write_file(&self.disk, &sum, self.seal(engine, digest, content).as_bytes())?;
        self.found_right(engine, digest, bytes);
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
        if self.checked_bytes(engine, &digest).is_some() {
            return Ok(Some(path));
        }
        let sum = folder.join(format!("{}{SUM_EXTENSION}", digest.hex()));
        let Some(expected) = read_file(self.disk.as_ref(), &sum)? else { return Ok(None) };
        let Some((found, bytes)) = self.checksum(&path)? else { return Ok(None) };
        if self.seal(engine, digest, found).as_bytes() != expected {
            tracing::warn!(
                path = %path.display(),
                "removed a compiled artifact that is damaged or was not sealed by this node"
            );
            self.remove_compiled(engine, digest)?;
            return Ok(None);
        }
        self.found_right(engine, digest, bytes);
        Ok(Some(path))
    }

    /// The same of one that was offered before, and its length in bytes: the disk is not asked.
    pub fn compiled_checked(&self, engine: &str, digest: Digest) -> Option<(PathBuf, u64)> {
        let bytes = self.checked_bytes(engine, &digest)?;
        let folder = self.engine_folder(engine).ok()?;
        Some((folder.join(format!("{}{EXTENSION}", digest.hex())), bytes))
    }

    /// Removes what an engine compiled from a component. None here is fine.
    ///
    /// # Errors
    /// [`Error::BadEngineKey`], or what the disk answers.
    pub fn remove_compiled(&self, engine: &str, digest: Digest) -> Result<(), Error> {
        let folder = self.engine_folder(engine)?;
        let of = |extension| folder.join(format!("{}{extension}", digest.hex()));
        let path = of(EXTENSION);
        let _alone = self.placing_compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(checked) = self.checked().get_mut(engine) {
            checked.remove(&digest);
        }
        self.remove_file(&of(SUM_EXTENSION))?;
        self.remove_file(&of(ATTESTATION_EXTENSION))?;
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

    pub(super) fn engine_folder(&self, engine: &str) -> Result<PathBuf, Error> {
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
    pub(super) fn seal(&self, engine: &str, digest: Digest, content: Digest) -> String {
        let mut hash = Sha256::new();
        hash.update(self.key);
        hash.update((engine.len() as u64).to_le_bytes());
        hash.update(engine.as_bytes());
        hash.update(digest.as_bytes());
        hash.update(content.as_bytes());
        Digest::from_bytes(hash.finalize().into()).to_string()
    }

    pub(super) fn checksum(&self, path: &std::path::Path) -> Result<Option<(Digest, u64)>, Error> {
        let file = match self.disk.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.on("open", path)?,
        };
        let mut hash = Sha256::new();
        let bytes = usize::try_from(file.len().on("read", path)?).unwrap_or(usize::MAX);
        let mut chunk = vec![0; bytes.clamp(1, CHUNK_BYTES)];
        let mut offset = 0;
        loop {
            let read = file.read_at(&mut chunk, offset).on("read", path)?;
            if read == 0 {
                return Ok(Some((Digest::from_bytes(hash.finalize().into()), offset)));
            }
            hash.update(&chunk[..read]);
            offset += read as u64;
        }
    }

    fn found_right(&self, engine: &str, digest: Digest, bytes: u64) {
        self.checked().entry(engine.to_owned()).or_default().insert(digest, bytes);
    }

    fn checked_bytes(&self, engine: &str, digest: &Digest) -> Option<u64> {
        self.checked().get(engine)?.get(digest).copied()
    }

    fn checked(&self) -> MutexGuard<'_, HashMap<String, HashMap<Digest, u64>>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
