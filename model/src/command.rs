//! What may be proposed, and what is answered.

use serde::{Deserialize, Serialize};

use crate::access::{Token, TokenId};
use crate::audit::Actor;
use crate::digest::Digest;
use crate::gossip::GossipKeyId;
use crate::ids::{
    AppName, ClusterId, FunctionRef, NodeId, NodeName, Region, RequestId, RevisionId, Zone,
};
use crate::refusal::Refusal;
use crate::spec::AppSpec;
use crate::state::{Addresses, App, Assignment, Location};
use crate::trust::Authority;

/// The newest feature level of this build: it knows every command up to it. A new command gets the
/// next level, so that it is not proposed before every node of a cluster knows it.
pub const FEATURE_LEVEL: u32 = if cfg!(feature = "previous-build") { 1 } else { 4 };

/// The first level that knows revisions whose instances are reused.
const LEVEL_OF_REUSE: u32 = 4;

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
    /// Note for the audit log what somebody does that changes nothing here.
    Note {
        /// What it is.
        deed: Deed,
    },
}

/// What an administrator does that is no change of the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    /// Hands leadership over.
    TransferLeader {
        /// To this node.
        to: NodeId,
    },
    /// Reads everything.
    Backup,
}

impl Command {
    /// The feature level that knows it.
    pub fn level(&self) -> u32 {
        match self {
            Self::PutRevision { spec, .. } if spec.reuses_instances() => LEVEL_OF_REUSE,
            Self::RestoreApp { app } if app.reuses_instances() => LEVEL_OF_REUSE,
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
            Self::Note { .. } => 3,
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
    use crate::ids::FunctionName;
    use crate::spec::{FunctionSpec, Reuse};

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
    fn a_revision_that_older_builds_cannot_read_has_a_level_of_its_own() {
        let mut function = FunctionSpec::new(Digest::of(b"x"), 1);
        let level = |function: &FunctionSpec| {
            let functions = [(FunctionName::new("f").unwrap(), function.clone())].into();
            let spec = AppSpec { functions, ..AppSpec::default() };
            Command::PutRevision { app: AppName::new("a").unwrap(), spec }.level()
        };
        assert_eq!(level(&function), 1);
        function.scale.reuse = Some(Reuse::default());
        assert_eq!(level(&function), LEVEL_OF_REUSE);
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
