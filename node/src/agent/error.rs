//! Why a component could not be brought, compiled, loaded or copied.

use std::sync::Arc;

use nigh_model::{Digest, Kind, NodeId};

/// Why a component could not be brought, compiled, loaded or copied. Cheap to clone: all who
/// wait for one piece of work get its error.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No node that answers has it.
    #[error("no node that answers has component {digest}; upload it again")]
    NowhereHeld {
        /// The component.
        digest: Digest,
    },
    /// A node did not hand it over.
    #[error("cannot fetch component {digest} from node {from}: {why}")]
    Fetch {
        /// The component.
        digest: Digest,
        /// The node asked.
        from: NodeId,
        /// What happened.
        why: String,
    },
    /// An upload did not get to a node that may hold it.
    #[error("component {digest} could not be handed on to node {to}: {why}; upload it again")]
    HandOn {
        /// The component.
        digest: Digest,
        /// The node that should have taken it.
        to: NodeId,
        /// What happened.
        why: String,
    },
    /// There is no live node in a region where its bytes may be.
    #[error("no live node is in a region where component {digest} may be")]
    NoAllowedNode {
        /// The component.
        digest: Digest,
    },
    /// Too few nodes could take a copy.
    #[error("component {digest} is on {held} of {wanted} nodes that should hold it: {why}")]
    TooFewCopies {
        /// The component.
        digest: Digest,
        /// Copies there are.
        held: usize,
        /// Copies there should be.
        wanted: usize,
        /// The last thing that went wrong.
        why: String,
    },
    /// The disk refused.
    #[error(transparent)]
    Storage(Arc<nigh_storage::Error>),
    /// The engine refused.
    #[error(transparent)]
    Runtime(#[from] nigh_runtime::Error),
    /// A defect, or the node stops.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// What the caller should do about it.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::NowhereHeld { .. } => Kind::NotFound,
            Self::Fetch { .. }
            | Self::HandOn { .. }
            | Self::NoAllowedNode { .. }
            | Self::TooFewCopies { .. } => Kind::Unavailable,
            Self::Storage(error) => error.kind(),
            Self::Runtime(error) => error.kind(),
            Self::Internal(_) => Kind::Internal,
        }
    }

    /// The stable reason of `docs/errors.md`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NowhereHeld { .. } => "NO_SUCH_COMPONENT",
            Self::Fetch { .. } => "FETCH_FAILED",
            Self::HandOn { .. } => "HAND_ON_FAILED",
            Self::NoAllowedNode { .. } => "NO_ALLOWED_NODE",
            Self::TooFewCopies { .. } => "TOO_FEW_COPIES",
            Self::Storage(error) => match error.as_ref() {
                nigh_storage::Error::WrongDigest { .. } => "DIGEST_MISMATCH",
                nigh_storage::Error::WrongLength { .. } => "UPLOAD_TRUNCATED",
                nigh_storage::Error::TooLarge { .. } => "COMPONENT_TOO_LARGE",
                nigh_storage::Error::NoSuchArtifact { .. } => "NO_SUCH_COMPONENT",
                error if error.kind() == Kind::Exhausted => "DISK_FULL",
                _ => "STORAGE",
            },
            Self::Runtime(error) => error.reason(),
            Self::Internal(_) => "INTERNAL",
        }
    }

    /// The same as a status of the API or between nodes.
    pub(crate) fn status(&self) -> tonic::Status {
        nigh_proto::status::of_kind(self.kind(), self.reason(), self.to_string())
    }

    /// Work that ended without a result: it panicked, or the node stops.
    pub(super) fn ended(error: &tokio::task::JoinError) -> Self {
        Self::Internal(format!("a piece of work ended early: {error}"))
    }
}

impl From<nigh_storage::Error> for Error {
    fn from(error: nigh_storage::Error) -> Self {
        Self::Storage(Arc::new(error))
    }
}

/// Runs what blocks (files, the compiler) on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::ended(&error)),
    }
}
