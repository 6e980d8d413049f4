//! A component that arrives piece by piece: hashed on the way, named when it proved whole.

use std::path::PathBuf;

use nigh_model::Digest;
use sha2::{Digest as _, Sha256};

use super::EXTENSION;
use crate::disk::TempFile;
use crate::error::Error;

/// Writes one component. Dropping it before [`commit`](Self::commit) leaves nothing behind.
#[derive(Debug)]
pub struct Writer {
    file: TempFile,
    folder: PathBuf,
    hash: Sha256,
    bytes_max: u64,
}

impl Writer {
    pub(super) fn new(file: TempFile, folder: PathBuf, bytes_max: u64) -> Self {
        Self { file, folder, hash: Sha256::new(), bytes_max }
    }

    /// Adds bytes. Blocking.
    ///
    /// # Errors
    /// [`Error::TooLarge`], or what the disk answers.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let len = self.file.len() + bytes.len() as u64;
        if len > self.bytes_max {
            return Err(Error::TooLarge { len, max: self.bytes_max });
        }
        self.file.write(bytes)?;
        self.hash.update(bytes);
        Ok(())
    }

    /// How many bytes came so far.
    pub const fn len(&self) -> u64 {
        self.file.len()
    }

    /// Whether none came yet.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends it: the component is durable when this returns. Blocking.
    ///
    /// # Errors
    /// [`Error::WrongLength`] when a length was announced and another came, [`Error::WrongDigest`],
    /// or what the disk answers. Nothing is left behind then.
    pub fn commit(self, expected: Digest, announced: Option<u64>) -> Result<(), Error> {
        let received = self.file.len();
        if let Some(announced) = announced
            && announced != received
        {
            return Err(Error::WrongLength { expected: announced, received });
        }
        let found = Digest::from_bytes(self.hash.finalize().into());
        if found != expected {
            return Err(Error::WrongDigest { expected, found });
        }
        self.file.persist(&self.folder.join(format!("{}{EXTENSION}", expected.hex())))
    }
}
