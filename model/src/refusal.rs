//! Why a command changed nothing, and what the caller should do about it.

use serde::{Deserialize, Serialize};

use crate::access::TokenId;
use crate::digest::Digest;
use crate::error::Kind;
use crate::gossip::GossipKeyId;
use crate::ids::{AppName, FunctionRef, NodeId, NodeName, RevisionId};

/// Why a command changed nothing. A refusal is a normal answer and is replicated as such.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// A cluster is begun once.
    #[error("the cluster is already begun")]
    AlreadyBootstrapped,
    /// Nothing can be done before a cluster is begun.
    #[error("the cluster is not begun yet")]
    NotBootstrapped,
    /// Names of nodes are unique.
    #[error("node name `{name}` is held by node {id}")]
    NodeNameTaken {
        /// The name.
        name: NodeName,
        /// Its holder.
        id: NodeId,
    },
    /// No such node.
    #[error("no node has the id {id}")]
    NoSuchNode {
        /// The id.
        id: NodeId,
    },
    /// A node keeps its name for life.
    #[error("node {id} is registered under another name")]
    NodeNameChanged {
        /// The node.
        id: NodeId,
    },
    /// No such app.
    #[error("no app is named `{app}`")]
    NoSuchApp {
        /// The name.
        app: AppName,
    },
    /// No such revision in this app.
    #[error("app `{app}` has no revision {revision}")]
    NoSuchRevision {
        /// The app.
        app: AppName,
        /// The revision.
        revision: RevisionId,
    },
    /// Another revision has been rolled out since.
    #[error("revision {revision} of app `{app}` is not being rolled out")]
    NotRollingOut {
        /// The app.
        app: AppName,
        /// The revision.
        revision: RevisionId,
    },
    /// The spec breaks a rule.
    #[error("{0}")]
    BadSpec(#[from] crate::spec::BadSpec),
    /// A route belongs to one app.
    #[error("route `{route}` of function `{function}` is held by app `{holder}`")]
    RouteTaken {
        /// The route as written.
        route: String,
        /// The function that asked for it.
        function: String,
        /// The app that has it.
        holder: AppName,
    },
    /// The plan was made on an older state.
    #[error("the plan was made on state {basis}, the state has changed at {current}")]
    StalePlan {
        /// What the plan was made on.
        basis: u64,
        /// The state's own.
        current: u64,
    },
    /// The plan assigns what may not be there.
    #[error("the plan puts {function} on node {node}: {why}")]
    BadPlan {
        /// The function.
        function: FunctionRef,
        /// The node.
        node: NodeId,
        /// Why it may not.
        why: String,
    },
    /// The command is newer than some node of the cluster.
    #[error(
        "the cluster is at feature level {level} and this needs {needed}: upgrade every node first"
    )]
    FeatureLevel {
        /// The cluster's level.
        level: u32,
        /// What the command needs.
        needed: u32,
    },
    /// The node would not know what others propose.
    #[error(
        "node `{name}` supports feature level {supports} and the cluster is at {needed}: start it \
         with a newer build"
    )]
    NodeTooOld {
        /// The node.
        name: NodeName,
        /// Its level.
        supports: u32,
        /// The level that it should have.
        needed: u32,
    },
    /// The app cannot be taken in.
    #[error("app `{app}` cannot be restored: {why}")]
    NotRestorable {
        /// The app.
        app: AppName,
        /// Why not.
        why: String,
    },
    /// No token can be made so.
    #[error("the token cannot be made: {why}")]
    BadToken {
        /// Why not.
        why: String,
    },
    /// No such token.
    #[error("there is no token {id}: it was revoked, has expired or is used up")]
    NoSuchToken {
        /// The id.
        id: TokenId,
    },
    /// The token does not admit this node.
    #[error("token {id} does not admit this node: {why}")]
    TokenRefused {
        /// The token.
        id: TokenId,
        /// Why not.
        why: String,
    },
    /// No more than a few authorities are trusted at once.
    #[error("another authority is still taking over: wait until it has")]
    AuthoritiesFull,
    /// No such authority.
    #[error("no authority has the fingerprint {id}")]
    NoSuchAuthority {
        /// The fingerprint.
        id: Digest,
    },
    /// The authority that signs is trusted.
    #[error("authority {id} is the one that signs")]
    AuthorityInUse {
        /// The fingerprint.
        id: Digest,
    },
    /// No such gossip key is accepted.
    #[error("no gossip key {id} is accepted")]
    NoSuchGossipKey {
        /// The key.
        id: GossipKeyId,
    },
    /// The key that is sent with cannot be retired.
    #[error("gossip is sent with key {id}")]
    GossipKeyInUse {
        /// The key.
        id: GossipKeyId,
    },
    /// A rotation has to end before another key is added.
    #[error("as many gossip keys are accepted as may be")]
    TooManyGossipKeys,
}

impl Refusal {
    /// What the caller should do about it.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::AlreadyBootstrapped
            | Self::NodeNameTaken { .. }
            | Self::NodeNameChanged { .. }
            | Self::NotRollingOut { .. }
            | Self::RouteTaken { .. }
            | Self::AuthoritiesFull
            | Self::FeatureLevel { .. }
            | Self::NodeTooOld { .. }
            | Self::NotRestorable { .. }
            | Self::AuthorityInUse { .. }
            | Self::StalePlan { .. }
            | Self::GossipKeyInUse { .. }
            | Self::TooManyGossipKeys => Kind::Conflict,
            Self::TokenRefused { .. } => Kind::Denied,
            Self::NotBootstrapped => Kind::Unavailable,
            Self::NoSuchNode { .. }
            | Self::NoSuchApp { .. }
            | Self::NoSuchToken { .. }
            | Self::NoSuchAuthority { .. }
            | Self::NoSuchGossipKey { .. }
            | Self::NoSuchRevision { .. } => Kind::NotFound,
            Self::BadSpec(_) | Self::BadPlan { .. } | Self::BadToken { .. } => Kind::Invalid,
        }
    }

    /// The stable reason of `docs/errors.md`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::AlreadyBootstrapped => "ALREADY_BOOTSTRAPPED",
            Self::NotBootstrapped => "NOT_BOOTSTRAPPED",
            Self::NodeNameTaken { .. } => "NODE_NAME_TAKEN",
            Self::NodeNameChanged { .. } => "NODE_NAME_CHANGED",
            Self::NoSuchNode { .. } => "NO_SUCH_NODE",
            Self::NoSuchApp { .. } => "NO_SUCH_APP",
            Self::NoSuchRevision { .. } => "NO_SUCH_REVISION",
            Self::NotRollingOut { .. } => "NOT_ROLLING_OUT",
            Self::BadSpec(_) => "BAD_SPEC",
            Self::RouteTaken { .. } => "ROUTE_TAKEN",
            Self::StalePlan { .. } => "STALE_PLAN",
            Self::BadPlan { .. } => "BAD_PLAN",
            Self::FeatureLevel { .. } => "FEATURE_LEVEL",
            Self::NodeTooOld { .. } => "NODE_TOO_OLD",
            Self::NotRestorable { .. } => "NOT_RESTORABLE",
            Self::BadToken { .. } => "BAD_TOKEN",
            Self::NoSuchToken { .. } => "NO_SUCH_TOKEN",
            Self::TokenRefused { .. } => "TOKEN_REFUSED",
            Self::AuthoritiesFull => "AUTHORITIES_FULL",
            Self::NoSuchAuthority { .. } => "NO_SUCH_AUTHORITY",
            Self::AuthorityInUse { .. } => "AUTHORITY_IN_USE",
            Self::NoSuchGossipKey { .. } => "NO_SUCH_GOSSIP_KEY",
            Self::GossipKeyInUse { .. } => "GOSSIP_KEY_IN_USE",
            Self::TooManyGossipKeys => "TOO_MANY_GOSSIP_KEYS",
        }
    }
}
