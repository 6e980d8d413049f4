//! Compiled artifacts on their way between nodes: how one is written that comes, how one is read
//! that goes, and the attestation that travels with it.
//!
//! What an attestation says, and whether it is believed, is not known here.

use std::io;
use std::sync::PoisonError;

use nigh_model::Digest;
use nigh_model::limits::COMPONENT_BYTES_MAX;
use sha2::{Digest as _, Sha256};

use super::compiled::{ATTESTATION_EXTENSION, SUM_EXTENSION};
use super::{ArtifactStore, Reader};
use crate::disk::{TempFile, read_file, write_file};
use crate::error::{Context as _, Error};

/// Most bytes of a compiled file that comes from elsewhere: four times what it may be made of, and
/// more than any that was seen.
pub const COMPILED_BYTES_MAX: u64 = 4 * COMPONENT_BYTES_MAX;
/// Most bytes of an attestation: a certificate and a signature have about one thousand.
pub const ATTESTATION_BYTES_MAX: usize = 16 << 10;

/// What an engine compiled elsewhere, arriving. Dropped before it is committed, it leaves nothing.
#[derive(Debug)]
pub struct CompiledWriter {
    file: TempFile,
    hash: Sha256,
}

/// What was attested of a compiled file.
#[derive(Clone, Copy, Debug)]
pub struct Attested<'a> {
    /// The digest of its bytes.
    pub content: Digest,
    /// How many there are.
    pub bytes: u64,
    /// By whom and how, for those who copy it from here.
    pub attestation: &'a [u8],
}

impl CompiledWriter {
    /// Adds bytes. Blocking.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond [`COMPILED_BYTES_MAX`], or what the disk answers.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let len = self.file.len() + bytes.len() as u64;
        if len > COMPILED_BYTES_MAX {
            return Err(Error::TooLarge { len, max: COMPILED_BYTES_MAX });
        }
        self.file.write(bytes)?;
        self.hash.update(bytes);
        Ok(())
    }
}

impl ArtifactStore {
    /// Begins to write what an engine of this key compiled elsewhere.
    ///
    /// # Errors
    /// [`Error::BadEngineKey`], or what the disk answers.
    pub fn begin_compiled(&self, engine: &str) -> Result<CompiledWriter, Error> {
        let folder = self.engine_folder(engine)?;
        self.disk.create_dir(&folder).on("create", &folder)?;
        Ok(CompiledWriter { file: self.temporary(&folder)?, hash: Sha256::new() })
    }

    /// Keeps what came, with the attestation by which the caller has judged it: from now on it is
    /// offered as what this node compiled. It is durable when this returns.
    ///
    /// # Errors
    /// [`Error::WrongLength`], [`Error::WrongDigest`]: it is not what was attested, and nothing is
    /// left behind; or what the disk answers.
    pub fn commit_compiled(
        &self,
        engine: &str,
        digest: Digest,
        writer: CompiledWriter,
        attested: Attested<'_>,
    ) -> Result<(), Error> {
        let CompiledWriter { file, hash } = writer;
        let Attested { content, bytes, attestation } = attested;
        if file.len() != bytes {
            return Err(Error::WrongLength { expected: bytes, received: file.len() });
        }
        let found = Digest::from_bytes(hash.finalize().into());
        if found != content {
            return Err(Error::WrongDigest { expected: content, found });
        }
        self.place_compiled((engine, digest), file, content, Some(attestation))
    }

    /// Keeps the attestation of what this node compiled, with which others may copy it; `content`
    /// is what it was made for.
    ///
    /// # Errors
    /// [`Error::NoSuchArtifact`] when something else stands there by now, or what the disk answers.
    pub fn put_attestation(
        &self,
        engine: &str,
        digest: Digest,
        content: Digest,
        attestation: &[u8],
    ) -> Result<(), Error> {
        let folder = self.engine_folder(engine)?;
        let of = |extension| folder.join(format!("{}{extension}", digest.hex()));
        let _alone = self.placing_compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = read_file(self.disk.as_ref(), &of(SUM_EXTENSION))?;
        if sum.as_deref() != Some(self.seal(engine, digest, content).as_bytes()) {
            return Err(Error::NoSuchArtifact { digest });
        }
        write_file(&self.disk, &of(ATTESTATION_EXTENSION), attestation)
    }

    /// The attestation of a compiled file; none when there is none that can be read.
    ///
    /// # Errors
    /// [`Error::BadEngineKey`], or what the disk answers.
    pub fn attestation(&self, engine: &str, digest: Digest) -> Result<Option<Vec<u8>>, Error> {
        let folder = self.engine_folder(engine)?;
        let path = folder.join(format!("{}{ATTESTATION_EXTENSION}", digest.hex()));
        let found = read_file(self.disk.as_ref(), &path)?;
        Ok(found.filter(|bytes| bytes.len() <= ATTESTATION_BYTES_MAX))
    }

    /// Opens a compiled file of this content to be sent to a peer.
    ///
    /// # Errors
    /// [`Error::NoSuchArtifact`] when it is not offered, or what the disk answers.
    pub fn open_compiled(
        &self,
        engine: &str,
        digest: Digest,
        content: Digest,
    ) -> Result<Reader, Error> {
        let path = self.compiled_path(engine, digest)?.ok_or(Error::NoSuchArtifact { digest })?;
        let file = match self.disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoSuchArtifact { digest });
            }
            result => result.on("open", &path)?,
        };
        Reader::new(file, path, content)
    }
}
