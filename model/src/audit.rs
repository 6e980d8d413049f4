//! Who changed what, and who read everything: an entry for every command that was decided, kept in the state.

use serde::{Deserialize, Serialize};

use crate::access::{Grant, TokenId};
use crate::command::{Command, Deed, Outcome};
use crate::ids::NodeId;

/// Who asked for a change, from where. None stands behind what the cluster does by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The token that was shown.
    pub token: TokenId,
    /// What the token is called.
    pub name: String,
    /// The address that it came from.
    pub from: String,
    /// The node that it came to.
    pub entry: NodeId,
}

/// A change that was asked for, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its log index.
    pub index: u64,
    /// When it was proposed, in ms since the Unix epoch by the proposer's clock.
    pub at_ms: u64,
    /// Who asked for it; none: the cluster itself.
    pub actor: Option<Actor>,
    /// What was asked for, in a word: `deploy`, `delete`, `remove-node`, …
    pub action: String,
    /// What it was done to.
    pub target: String,
    /// The reason of the refusal; none when it was done.
    pub refused: Option<String>,
}

impl AuditEntry {
    /// The entry of a command.
    pub(crate) fn of(
        index: u64,
        at_ms: u64,
        actor: Option<Actor>,
        command: &Command,
        outcome: &Outcome,
    ) -> Self {
        let (action, target) = describe(command);
        let refused = outcome.as_ref().err().map(|refusal| refusal.reason().to_owned());
        Self { index, at_ms, actor, action: action.to_owned(), target, refused }
    }
}

/// A command in a word, and what it is done to.
fn describe(command: &Command) -> (&'static str, String) {
    match command {
        Command::Bootstrap { node, .. } => ("bootstrap", node.name.to_string()),
        Command::RegisterNode { node, token, .. } => {
            let by = token.as_ref().map(|token| format!(" by token {token}"));
            ("register-node", format!("{}{}", node.name, by.unwrap_or_default()))
        }
        Command::UpdateNode { id, node } => ("update-node", format!("{} ({id})", node.name)),
        Command::RemoveNode { id } => ("remove-node", id.to_string()),
        Command::SetDraining { id, draining } => {
            (if *draining { "drain" } else { "undo-drain" }, id.to_string())
        }
        Command::PutRevision { app, .. } => ("deploy", app.to_string()),
        Command::RollOut { app, revision } => ("roll-out", format!("{app} {revision}")),
        Command::Activate { app, revision } => ("activate", format!("{app} {revision}")),
        Command::DeleteApp { app } => ("delete", app.to_string()),
        Command::Place { set, remove, .. } => {
            ("place", format!("{} set, {} ended", set.len(), remove.len()))
        }
        Command::CreateToken { token } => {
            let grant = match &token.grant {
                Grant::Join { .. } => "join".to_owned(),
                Grant::Api { role } => role.to_string(),
            };
            ("create-token", format!("{} ({grant})", token.id))
        }
        Command::RevokeToken { id } => ("revoke-token", id.to_string()),
        Command::AddAuthority { authority } => ("add-authority", authority.id().to_string()),
        Command::SignWith { id } => ("sign-with", id.to_string()),
        Command::DropAuthority { id } => ("drop-authority", id.to_string()),
        Command::AddGossipKey { id } => ("add-gossip-key", id.to_string()),
        Command::SendWithGossipKey { id } => ("send-with-gossip-key", id.to_string()),
        Command::RetireGossipKey { id } => ("retire-gossip-key", id.to_string()),
        Command::RotateGossipKeys => ("rotate-gossip-keys", String::new()),
        Command::RaiseFeatureLevel { level } => ("raise-feature-level", level.to_string()),
        Command::RestoreApp { app } => ("restore", app.name.to_string()),
        Command::Note { deed: Deed::TransferLeader { to } } => ("transfer-leader", to.to_string()),
        Command::Note { deed: Deed::Backup } => ("backup", String::new()),
    }
}
