//! What may be proposed, and what is answered.

use serde::{Deserialize, Serialize};

use crate::access::{Token, TokenId};
use crate::audit::Actor;
use crate::digest::Digest;
use crate::error::Kind;
use crate::gossip::GossipKeyId;
use crate::ids::{
    AppName, ClusterId, FunctionRef, NodeId, NodeName, Region, RequestId, RevisionId, Zone,
};
use crate::spec::AppSpec;
use crate::state::{Addresses, App, Assignment, Location};
use crate::trust::Authority;

/// The newest feature level of this build: it knows every command up to it. A new command gets the
/// next level, so that it is not proposed before every node of a cluster knows it.
pub const FEATURE_LEVEL: u32 = if cfg!(feature = "previous-build") { 1 } else { 2 };

/// A command with what makes its application a pure function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Retries carry the same id and are answered the same.
    pub request_id: Option<RequestId>,
    /// The proposer's time, in ms since the Unix epoch.
    pub at_ms: u64,
    /// Who asked for it; none: the cluster itself.
    #[serde(default)]
    pub by: Option<Actor>,
    /// What to do.
    pub command: Command,
}

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Begin a cluster; its first node gets id 1.
    Bootstrap {
        /// Drawn by the first node.
        cluster: ClusterId,
        /// The first node.
        node: NodeSpec,
        /// The authority that it has made.
        #[serde(default)]
        authority: Option<Authority>,
        /// The first tokens.
        #[serde(default)]
        tokens: Vec<Token>,
    },
    /// Admit a node; its id is the log index of this command.
    RegisterNode {
        /// The node.
        node: NodeSpec,
        /// The registered holder of the name when it is known to be dead; it is removed.
        replaces: Option<NodeId>,
        /// The token that it has shown; one use of it is taken.
        #[serde(default)]
        token: Option<TokenId>,
    },
    /// Note that a registered node has come back with other addresses or another build.
    UpdateNode {
        /// The node.
        id: NodeId,
        /// What it is now; the name must be the same.
        node: NodeSpec,
    },
    /// Forget a node and what was assigned to it.
    RemoveNode {
        /// The node.
        id: NodeId,
    },
    /// Let a node give up its work, its vote and leadership, or take them up again.
    SetDraining {
        /// The node.
        id: NodeId,
        /// To give them up.
        draining: bool,
    },
    /// Begin to roll out a revision; its id is the log index of this command.
    PutRevision {
        /// The app, made if there is none of this name.
        app: AppName,
        /// What the revision is made of.
        spec: AppSpec,
    },
    /// Begin to roll out a revision that is kept: the way back to an older one.
    RollOut {
        /// The app.
        app: AppName,
        /// The revision.
        revision: RevisionId,
    },
    /// Let the revision that is being rolled out answer the calls of its app, in all regions at
    /// once. The leader proposes this when it is ready everywhere it should be.
    Activate {
        /// The app.
        app: AppName,
        /// The revision.
        revision: RevisionId,
    },
    /// Remove an app and all its revisions.
    DeleteApp {
        /// The app.
        app: AppName,
    },
    /// Change assignments by a plan.
    Place {
        /// The state's `plan_basis` that the plan was made on.
        basis: u64,
        /// New and changed assignments.
        set: Vec<(FunctionRef, Assignment)>,
        /// Assignments that end.
        remove: Vec<FunctionRef>,
    },
    /// Keep a token.
    CreateToken {
        /// The token.
        token: Token,
    },
    /// Forget a token: what shows it is refused from now on.
    RevokeToken {
        /// The token.
        id: TokenId,
    },
    /// Trust one more authority.
    AddAuthority {
        /// The authority.
        authority: Authority,
    },
    /// Sign certificates by a trusted authority from now on.
    SignWith {
        /// The authority.
        id: Digest,
    },
    /// Trust an authority no longer.
    DropAuthority {
        /// The authority.
        id: Digest,
    },
    /// Accept a gossip key; the first one is sent with at once.
    AddGossipKey {
        /// The key, which its proposer holds on disk.
        id: GossipKeyId,
    },
    /// Send gossip with an accepted key from now on.
    SendWithGossipKey {
        /// The key.
        id: GossipKeyId,
    },
    /// Accept a gossip key no longer.
    RetireGossipKey {
        /// The key.
        id: GossipKeyId,
    },
    /// Have all gossip keys replaced that are accepted by now; the leader sees to it.
    RotateGossipKeys,
    /// Let commands of a newer level be proposed, since every registered node knows them.
    RaiseFeatureLevel {
        /// The level.
        level: u32,
    },
    /// Take in an app as it was in another cluster, its revisions with their ids.
    RestoreApp {
        /// The app.
        app: App,
    },
}

impl Command {
    /// The feature level that knows it.
    pub const fn level(&self) -> u32 {
        match self {
            Self::Bootstrap { .. }
            | Self::RegisterNode { .. }
            | Self::UpdateNode { .. }
            | Self::RemoveNode { .. }
            | Self::PutRevision { .. }
            | Self::RollOut { .. }
            | Self::Activate { .. }
            | Self::DeleteApp { .. }
            | Self::Place { .. }
            | Self::CreateToken { .. }
            | Self::RevokeToken { .. }
            | Self::AddAuthority { .. }
            | Self::SignWith { .. }
            | Self::DropAuthority { .. }
            | Self::AddGossipKey { .. }
            | Self::SendWithGossipKey { .. }
            | Self::RetireGossipKey { .. }
            | Self::RotateGossipKeys => 1,
            Self::RaiseFeatureLevel { .. } | Self::RestoreApp { .. } | Self::SetDraining { .. } => {
                2
            }
        }
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Its name.
    pub name: NodeName,
    /// Its region.
    pub region: Region,
    /// Its zone.
    pub zone: Option<Zone>,
    /// Where it stands.
    pub location: Option<Location>,
    /// Where it is reached.
    pub addresses: Addresses,
    /// The version of its build.
    pub version: String,
    /// The newest feature level of its build.
    pub feature_level: u32,
}

/// The answer to a command.
pub type Outcome = Result<Reply, Refusal>;

/// What a command that was carried out answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// The node is registered under this id.
    Node(NodeId),
    /// The revision, and whether the command changed anything.
    Revision {
        /// The revision that is rolled out or active.
        id: RevisionId,
        /// False when the same spec was there already.
        changed: bool,
    },
}

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

/// Bytes that hold no command that this build knows.
///
/// The node that meets them in its log must halt: to skip a command is to diverge.
#[derive(Debug, thiserror::Error)]
#[error("this build does not know the command ({0}); a newer one wrote it")]
pub struct UnknownCommand(String);

/// Encodes an envelope for the log: MessagePack with field names, so that fields can be added.
pub fn encode(envelope: &Envelope) -> Vec<u8> {
    rmp_serde::to_vec_named(envelope).expect("an envelope is maps, strings and numbers")
}

/// Decodes an envelope of the log.
///
/// # Errors
/// The bytes hold no command that this build knows: halt.
pub fn decode(bytes: &[u8]) -> Result<Envelope, UnknownCommand> {
    let envelope: Envelope =
        rmp_serde::from_slice(bytes).map_err(|error| UnknownCommand(error.to_string()))?;
    match envelope.command.level() {
        level if level > FEATURE_LEVEL => Err(UnknownCommand(format!("feature level {level}"))),
        _ => Ok(envelope),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_command_is_an_error_and_not_skipped() {
        #[derive(Serialize)]
        enum Newer {
            Teleport { to: u64 },
        }
        #[derive(Serialize)]
        struct NewerEnvelope {
            request_id: Option<String>,
            at_ms: u64,
            command: Newer,
        }
        let newer =
            NewerEnvelope { request_id: None, at_ms: 1, command: Newer::Teleport { to: 2 } };
        let error = decode(&rmp_serde::to_vec_named(&newer).unwrap()).unwrap_err();
        assert!(error.to_string().contains("Teleport"), "{error}");
    }

    #[test]
    fn an_envelope_reads_back() {
        let envelope = Envelope {
            request_id: Some(RequestId::new("a").unwrap()),
            at_ms: 7,
            by: None,
            command: Command::DeleteApp { app: AppName::new("shop").unwrap() },
        };
        assert_eq!(decode(&encode(&envelope)).unwrap(), envelope);
    }
}
