//! TLS for those who call over HTTP: certificates by host, the handshake, and what is begun while it
//! goes on.
//!
//! `folder` finds pairs of certificate and key, `pair` reads and checks one, `certificates` hands them
//! out by host and reads them again when they change, `self_made` makes one where there is none.
//! `handshake` agrees on TLS with a caller, `plain` answers one that speaks none, `preload` begins to
//! load what the host of a ClientHello leads to.
//!
//! It has nothing to do with the TLS between nodes and of the API: that is `identity`.

mod certificates;
mod folder;
mod handshake;
mod pair;
mod plain;
mod preload;
mod self_made;

pub(crate) use certificates::{Certificates, LOOK_INTERVAL, Reader};
pub(crate) use handshake::{Handshakes, TLS_HANDSHAKE, Unagreed};
pub(crate) use plain::refuse as refuse_plain;
pub(crate) use preload::{Preload, Preloads};
pub use self_made::make as make_certificate;

#[cfg(test)]
pub(crate) use certificates::testing;

use std::path::PathBuf;

use nigh_model::Kind;

/// Why HTTPS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// The folder of certificates cannot be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is nothing in it.
    #[error(
        "{} holds no certificate: put NAME.crt and NAME.key there, or NAME/fullchain.pem and \
         NAME/privkey.pem",
        .0.display()
    )]
    Empty(PathBuf),
    /// There is too much in it.
    #[error("{} holds more than {max} certificates", path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
        /// How many may be there.
        max: usize,
    },
    /// What is there cannot be used; the first of it.
    #[error(transparent)]
    Pair(#[from] BadPair),
    /// No certificate can be made.
    #[error("no certificate can be made for {hosts}: {why}")]
    NotMade {
        /// For which hosts.
        hosts: String,
        /// Why not.
        why: String,
    },
}

impl HttpsError {
    /// What the caller should do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotMade { .. } => Kind::Internal,
            _ => Kind::Invalid,
        }
    }
}

/// A certificate and its key that cannot be used: what, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} cannot be used: {why}; {hint}", path.display())]
pub struct BadPair {
    /// The file that is wrong.
    pub path: PathBuf,
    /// In what.
    pub why: String,
    /// What to do about it.
    pub hint: String,
}
