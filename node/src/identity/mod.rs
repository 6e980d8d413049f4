//! Who is who between nodes: the cluster's authority, the certificate of each node, and the TLS
//! that both ends of a peer connection speak.
//!
//! `authority` signs, `certificate` reads what was signed, `sealed` keeps the authority's key on
//! disk, `folder` holds all of it, `tls` makes configurations of it, `keeper` renews, `attest` signs
//! what a node compiled. What a node is allowed to ask is not decided here: see `peer/gate.rs`.

mod attest;
mod authority;
mod begin;
mod certificate;
mod folder;
mod keeper;
mod sealed;
#[cfg(test)]
pub(crate) mod testing;
mod tls;

pub(crate) use attest::{Attestation, Statement, Unproven};
pub(crate) use authority::{Request, Signer, Subject};
pub(crate) use begin::{Beginning, Begun, begin, begun};
pub(crate) use certificate::Leaf;
pub(crate) use folder::{IdentityFolder, authorities_pem};
pub(crate) use keeper::{Keeper, Own, hosts, subject};
pub(crate) use tls::{Material, Tls, pinned_client, provider};

use nigh_model::{ClusterId, Kind, NodeId};
use rustls::pki_types::ServerName;

/// A name that the certificate of every node carries: who does not mean a certain node asks
/// for this one.
pub(crate) const ANY_NODE: &str = "nigh.internal";

/// The name that only the certificate of this node carries.
pub(crate) fn name_of(node: NodeId, cluster: &ClusterId) -> String {
    format!("n{node}.{cluster}.{ANY_NODE}")
}

/// The name that a peer's certificate must carry: a certain node's, or any node's.
pub(crate) fn server_name(node: Option<NodeId>, cluster: &ClusterId) -> ServerName<'static> {
    let name = node.map_or_else(|| ANY_NODE.to_owned(), |node| name_of(node, cluster));
    ServerName::try_from(name).expect("letters, digits and dots are a DNS name")
}

/// The same for a cluster that is not known yet.
pub(crate) fn any_server_name() -> ServerName<'static> {
    ServerName::try_from(ANY_NODE).expect("it is a DNS name")
}

/// Why an identity cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The disk does not do what it should.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: std::path::PathBuf,
        /// What the disk said.
        source: std::io::Error,
    },
    /// The data folder does not do what it should.
    #[error(transparent)]
    Storage(#[from] nigh_storage::Error),
    /// A file is not what it should be.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: std::path::PathBuf,
        /// In what.
        why: String,
    },
    /// A certificate or key is not what it should be.
    #[error("{0}")]
    Invalid(String),
    /// Another cluster would be begun beside the first.
    #[error(
        "{path} holds a token of a cluster that was begun before, and this data folder is empty: \
         beginning here would make a second cluster. If this node's data was lost, start it with \
         --join and --join-token @{path} in place of --bootstrap; to begin anew, remove that file"
    )]
    BegunBefore {
        /// The file that is there already.
        path: std::path::PathBuf,
    },
}

impl IdentityError {
    /// What the caller should do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Storage(error) => error.kind(),
            Self::Io { .. } => Kind::Invalid,
            Self::Damaged { .. } | Self::Invalid(_) => Kind::Corrupt,
            Self::BegunBefore { .. } => Kind::Conflict,
        }
    }
}
