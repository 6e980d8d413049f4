//! Why a node does not start or cannot go on.

use std::path::PathBuf;

use nigh_model::{ClusterId, Kind, NodeName};

/// Why a node does not start or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the address.
    #[error("{what} address {address} is in use by another process")]
    AddressInUse {
        /// `http`, `https`, `api`, `peer`, `gossip` or `metrics`: also the name of the flag that moves it.
        what: &'static str,
        /// The address.
        address: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen for {what} on {address}: {source}")]
    Listen {
        /// `http`, `https`, `api`, `peer`, `gossip` or `metrics`.
        what: &'static str,
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The data folder cannot be used.
    #[error(transparent)]
    Storage(#[from] nigh_storage::Error),
    /// The guest engine does not start.
    #[error(transparent)]
    Runtime(#[from] nigh_runtime::Error),
    /// Calls over HTTPS cannot be served.
    #[error("HTTPS cannot be served: {0}")]
    Https(#[from] crate::gateway::HttpsError),
    /// The data folder belongs to no cluster and none was named.
    #[error(
        "{} belongs to no cluster: begin one with --bootstrap or join one with --join HOST:PORT",
        .0.display()
    )]
    NoCluster(PathBuf),
    /// Nothing was given to be admitted with.
    #[error(
        "joining a cluster takes a token: make one with `nigh operator token create --join` and \
         give it with --join-token"
    )]
    NoJoinToken,
    /// What was given to be admitted with is no token.
    #[error("the join token cannot be used: {0}")]
    BadJoinToken(String),
    /// The node's certificate, key or folder of them cannot be used.
    #[error("the identity of this node cannot be used: {0}")]
    Identity(#[from] crate::identity::IdentityError),
    /// The data folder belongs to a cluster, and its identity is gone.
    #[error(
        "{} has no certificate for the cluster that it belongs to: start with an empty data \
         folder and a token bound to this node's name \
         (`nigh operator token create --join --name NODE`)",
        .0.display()
    )]
    NoIdentity(PathBuf),
    /// The data folder belongs to another cluster than the one to be joined.
    #[error(
        "the data folder belongs to cluster {own}, {address} to another one: \
         use another --data folder, or name nodes of its own cluster"
    )]
    OtherCluster {
        /// The data folder's cluster.
        own: ClusterId,
        /// The node asked.
        address: String,
    },
    /// The data folder belongs to a node of another name.
    #[error(
        "the data folder belongs to node `{own}` and not to `{given}`: \
         a node keeps its name; use another --data folder for a new node"
    )]
    OtherName {
        /// The data folder's node.
        own: NodeName,
        /// The name given.
        given: NodeName,
    },
    /// The cluster does not admit the node.
    #[error("the cluster does not admit this node: {reason}")]
    NotAdmitted {
        /// Why.
        reason: String,
        /// What the caller should do.
        kind: Kind,
    },
    /// What was to be joined is no nigh node.
    #[error(
        "{address} is no nigh node ({why}): --join takes peer addresses (port 7401 by default)"
    )]
    NoNode {
        /// The address.
        address: String,
        /// What it answered.
        why: String,
    },
    /// A quorum is not lost while others answer.
    #[error(
        "{} answer{}: {}", .answering.join(", "), if .answering.len() == 1 { "s" } else { "" },
        if *.voters {
            "the quorum is not lost for ever; start the other voters again"
        } else {
            "stop the nodes that follow first, or they go on with what was"
        }
    )]
    NotLost {
        /// Who answers, and where.
        answering: Vec<String>,
        /// Whether they vote.
        voters: bool,
    },
    /// Consensus does not start or has stopped.
    #[error("the control plane of this node has stopped: {0}")]
    Raft(String),
    /// A defect.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// What the caller should do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::AddressInUse { .. }
            | Self::OtherCluster { .. }
            | Self::OtherName { .. }
            | Self::NotLost { .. } => Kind::Conflict,
            Self::Listen { .. }
            | Self::NoCluster(_)
            | Self::NoJoinToken
            | Self::BadJoinToken(_)
            | Self::NoIdentity(_)
            | Self::NoNode { .. } => Kind::Invalid,
            Self::Identity(error) => error.kind(),
            Self::Https(error) => error.kind(),
            Self::Storage(error) => error.kind(),
            Self::Runtime(error) => error.kind(),
            Self::NotAdmitted { kind, .. } => *kind,
            Self::Raft(_) | Self::Internal(_) => Kind::Internal,
        }
    }
}
