//! What can go wrong between nigh and its disk.

use std::io;
use std::path::{Path, PathBuf};

use nigh_model::{Digest, Kind};

/// An error of the storage layer. Each names the file and, where a person can act, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// Stored bytes are not what was written.
    #[error(
        "{} is damaged at byte {offset}: {why}; move this node's data folder aside and let it \
         join again, or restore the file", path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What does not fit.
        why: String,
    },
    /// An earlier I/O error ended all writing; what was answered before it stands.
    #[error("the log takes no more writes since an earlier error: {why}; restart the node")]
    Poisoned {
        /// The first error.
        why: String,
    },
    /// A record is whole and means nothing to this build.
    #[error("this build cannot read a record of the log ({why}); use the build that wrote it")]
    Unreadable {
        /// What does not fit.
        why: String,
    },
    /// The caller broke the log's order. A defect of nigh.
    #[error("the log refuses entry {index}: {why}")]
    OutOfOrder {
        /// The entry.
        index: u64,
        /// What does not fit.
        why: String,
    },
    /// An entry or artifact is larger than its limit.
    #[error("{len} bytes are more than the limit of {max}")]
    TooLarge {
        /// Its length in bytes, as far as it is known.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// Another process, or another part of this one, has it open.
    #[error("{} is in use by another nigh process; stop that one or choose another folder", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// A newer build wrote it.
    #[error(
        "{} has format {found}, this build knows up to {known}; use the newer build that wrote it",
        path.display()
    )]
    NewerFormat {
        /// The file or folder.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest format that this build reads.
        known: u64,
    },
    /// The folder holds something else.
    #[error("{} holds `{found}` and is no data folder of nigh; choose an empty folder", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What is in it.
        found: String,
    },
    /// The folder belongs to no cluster.
    #[error("{} belongs to no cluster; name the data folder of a node", path.display())]
    NoIdentity {
        /// The folder.
        path: PathBuf,
    },
    /// What is on the disk does not know the node whose disk it is.
    #[error("the state on this disk does not know node `{name}`; use the data of another survivor")]
    NotRegistered {
        /// The node.
        name: String,
    },
    /// The bytes are not those that were named.
    #[error("the bytes have digest {found}, not {expected}; send them again")]
    WrongDigest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// More or fewer bytes came than were announced.
    #[error("{received} bytes of {expected} arrived; send them again")]
    WrongLength {
        /// What was announced, in bytes.
        expected: u64,
        /// What came, in bytes.
        received: u64,
    },
    /// An engine key names a folder and must be fit for one.
    #[error(
        "engine key `{key}` is not valid: use 1 to 128 of a-z, A-Z, 0-9, ., _ and -, not beginning with a dot"
    )]
    BadEngineKey {
        /// The key.
        key: String,
    },
    /// There is no such artifact on this node.
    #[error("artifact {digest} is not on this node")]
    NoSuchArtifact {
        /// Its digest.
        digest: Digest,
    },
    /// Bytes that came from elsewhere hold no snapshot that fits.
    #[error("the snapshot is refused: {why}")]
    BadSnapshot {
        /// What does not fit.
        why: String,
    },
    /// The materialised state cannot be written.
    #[error("cannot write the state store {}: {why}", path.display())]
    StateStore {
        /// Its folder.
        path: PathBuf,
        /// What the database said.
        why: String,
    },
}

impl Error {
    /// What the caller should do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Kind::Exhausted
            }
            Self::Io { .. } | Self::Poisoned { .. } | Self::StateStore { .. } => Kind::Unavailable,
            Self::Corrupt { .. } | Self::Unreadable { .. } => Kind::Corrupt,
            Self::OutOfOrder { .. } => Kind::Internal,
            Self::Locked { .. } => Kind::Conflict,
            Self::NewerFormat { .. }
            | Self::Foreign { .. }
            | Self::NoIdentity { .. }
            | Self::NotRegistered { .. }
            | Self::TooLarge { .. }
            | Self::WrongDigest { .. }
            | Self::WrongLength { .. }
            | Self::BadEngineKey { .. }
            | Self::BadSnapshot { .. } => Kind::Invalid,
            Self::NoSuchArtifact { .. } => Kind::NotFound,
        }
    }

    /// The same error for one more waiter.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Io { what, path, source } => {
                let source = source
                    .raw_os_error()
                    .map_or_else(|| io::Error::from(source.kind()), io::Error::from_raw_os_error);
                Self::Io { what, path: path.clone(), source }
            }
            Self::OutOfOrder { index, why } => Self::OutOfOrder { index: *index, why: why.clone() },
            Self::TooLarge { len, max } => Self::TooLarge { len: *len, max: *max },
            Self::Poisoned { why } => Self::Poisoned { why: why.clone() },
            other => Self::Poisoned { why: other.to_string() },
        }
    }

    pub(crate) fn corrupt(path: &Path, offset: u64, why: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), offset, why: why.into() }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Io { source, .. } => source.kind(),
            Error::Corrupt { .. } | Error::BadSnapshot { .. } => io::ErrorKind::InvalidData,
            Error::NoSuchArtifact { .. } => io::ErrorKind::NotFound,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Says what was tried on which file when the operating system refuses.
pub(crate) trait Context<T> {
    fn on(self, what: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> Context<T> for io::Result<T> {
    fn on(self, what: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { what, path: path.to_owned(), source })
    }
}
