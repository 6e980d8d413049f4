//! How a command changes the state. Pure: the same log gives the same state on every node.

mod access;
mod apps;
mod nodes;
mod restore;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::audit::AuditEntry;
use crate::command::{Command, Envelope, Outcome, Reply};
use crate::ids::{AppName, FunctionRef, NodeId, RequestId, RevisionId};
use crate::limits::{AUDIT_KEPT, REPLIES_KEPT};
use crate::refusal::Refusal;
use crate::state::{Assignment, Node, State};

/// What came of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The answer to the proposer.
    pub reply: Outcome,
    /// What changed; empty when nothing did.
    pub events: Vec<Event>,
}

/// A change that parts of a node may want to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The set of nodes, or what is known of one, changed.
    Nodes,
    /// A revision began to roll out.
    RolledOut(AppName, RevisionId),
    /// A revision answers the calls of its app from now on.
    Activated(AppName, RevisionId),
    /// An app is gone.
    Deleted(AppName),
    /// Assignments changed.
    Placed,
    /// Tokens or authorities changed.
    Access,
    /// The keys of gossip changed, or are to be replaced.
    Gossip,
}

/// Applies the entry of this log index. Entries come in order, each once.
pub fn apply(state: &mut State, index: u64, envelope: &Envelope) -> Applied {
    state.applied = index;
    if let Some(id) = &envelope.request_id
        && let Some(outcome) = state.replies.get(id)
    {
        return Applied { reply: outcome.as_ref().clone(), events: Vec::new() };
    }
    let mut events = Vec::new();
    let reply = carry_out(state, index, envelope, &mut events);
    note(state, index, envelope, &reply);
    if let Some(id) = &envelope.request_id {
        remember(state, index, id, &reply);
    }
    Applied { reply, events }
}

/// Notes an index that carries no command (a membership change, a leader's first entry).
pub fn apply_blank(state: &mut State, index: u64) {
    state.applied = index;
}

/// Forgets all nodes but one, as if this were the entry of this index. Not by a command: it begins
/// a new history where the majority that wrote the old one is lost for ever.
pub fn keep_only(state: &mut State, index: u64, id: NodeId) {
    let others: Vec<NodeId> = state.nodes.keys().copied().filter(|other| *other != id).collect();
    for other in others {
        nodes::forget(state, index, other);
    }
    if let Some(node) = state.nodes.get(&id).filter(|node| node.draining) {
        let node = Node { draining: false, ..node.as_ref().clone() };
        state.nodes.insert(id, Arc::new(node));
    }
    state.applied = index;
    state.plan_basis = index;
}

fn carry_out(
    state: &mut State,
    index: u64,
    envelope: &Envelope,
    events: &mut Vec<Event>,
) -> Outcome {
    let begins = matches!(envelope.command, Command::Bootstrap { .. });
    if state.cluster.is_none() && !begins {
        return Err(Refusal::NotBootstrapped);
    }
    // Raising the level is the one command that comes before it; it is checked itself.
    let raises = matches!(envelope.command, Command::RaiseFeatureLevel { .. });
    let (level, needed) = (state.level(), envelope.command.level());
    if needed > level && !raises {
        return Err(Refusal::FeatureLevel { level, needed });
    }
    match &envelope.command {
        Command::Bootstrap { cluster, node, authority, tokens } => {
            if state.cluster.is_some() {
                return Err(Refusal::AlreadyBootstrapped);
            }
            let mut begun = state.clone();
            begun.cluster = Some(cluster.clone());
            if node.feature_level > 1 {
                begun.feature_level = node.feature_level;
            }
            if let Some(authority) = authority {
                access::add_authority(&mut begun, authority)?;
                access::sign_with(&mut begun, authority.id())?;
            }
            for token in tokens {
                access::create_token(&mut begun, envelope.at_ms, token)?;
            }
            *state = begun;
            nodes::register(state, index, NodeId(1), node, events)
        }
        Command::RegisterNode { node, replaces, token } => {
            nodes::check_level(node, level)?;
            let holder = state.node_named(node.name.as_str()).map(|holder| holder.id);
            if let Some(token) = token {
                access::check_join(state, envelope.at_ms, token, node, holder.is_some())?;
            }
            if let Some(id) = holder {
                if Some(id) != *replaces {
                    return Err(Refusal::NodeNameTaken { name: node.name.clone(), id });
                }
                nodes::forget(state, index, id);
            }
            if let Some(token) = token {
                access::burn(state, envelope.at_ms, token);
            }
            nodes::register(state, index, NodeId(index), node, events)
        }
        Command::UpdateNode { id, node } => {
            nodes::check_level(node, level)?;
            let known = state.nodes.get(id).ok_or(Refusal::NoSuchNode { id: *id })?;
            if known.name != node.name {
                return Err(Refusal::NodeNameChanged { id: *id });
            }
            nodes::register(state, index, *id, node, events)
        }
        Command::RemoveNode { id } => {
            if !state.nodes.contains_key(id) {
                return Err(Refusal::NoSuchNode { id: *id });
            }
            nodes::forget(state, index, *id);
            state.plan_basis = index;
            events.push(Event::Nodes);
            Ok(Reply::Done)
        }
        Command::SetDraining { id, draining } => {
            let known = state.nodes.get(id).ok_or(Refusal::NoSuchNode { id: *id })?;
            if known.draining != *draining {
                let node = Node { draining: *draining, ..known.as_ref().clone() };
                state.nodes.insert(*id, Arc::new(node));
                state.plan_basis = index;
                events.push(Event::Nodes);
            }
            Ok(Reply::Done)
        }
        Command::PutRevision { app, spec } => {
            apps::put_revision(state, index, envelope.at_ms, app, spec, events)
        }
        Command::RollOut { app, revision } => apps::roll_out(state, index, app, *revision, events),
        Command::Activate { app, revision } => apps::activate(state, index, app, *revision, events),
        Command::DeleteApp { app } => {
            let gone =
                state.apps.remove(app).ok_or_else(|| Refusal::NoSuchApp { app: app.clone() })?;
            for revision in gone.revisions.values() {
                apps::unassign(state, revision);
            }
            state.plan_basis = index;
            events.push(Event::Deleted(app.clone()));
            Ok(Reply::Done)
        }
        Command::Place { basis, set, remove } => place(state, index, *basis, set, remove, events),
        Command::RaiseFeatureLevel { level: raised } => {
            let too_old = state.nodes.values().find(|node| node.feature_level < *raised);
            if let Some(node) = too_old {
                let (name, supports) = (node.name.clone(), node.feature_level);
                return Err(Refusal::NodeTooOld { name, supports, needed: *raised });
            }
            state.feature_level = level.max(*raised);
            events.push(Event::Nodes);
            Ok(Reply::Done)
        }
        Command::RestoreApp { app } => restore::restore(state, index, app, events),
        Command::CreateToken { .. }
        | Command::RevokeToken { .. }
        | Command::AddAuthority { .. }
        | Command::SignWith { .. }
        | Command::DropAuthority { .. } => {
            let reply = access::carry_out(state, envelope)?;
            events.push(Event::Access);
            Ok(reply)
        }
        Command::AddGossipKey { id } => keys_changed(state.gossip.add(*id, index), events),
        Command::SendWithGossipKey { id } => keys_changed(state.gossip.send_with(*id), events),
        Command::RetireGossipKey { id } => keys_changed(state.gossip.retire(*id), events),
        // The audit log has it; that is all.
        Command::Note { .. } => Ok(Reply::Done),
        Command::RotateGossipKeys => {
            state.gossip.stale = index;
            keys_changed(Ok(true), events)
        }
    }
}

fn note(state: &mut State, index: u64, envelope: &Envelope, reply: &Outcome) {
    let Envelope { at_ms, by, command, .. } = envelope;
    let entry = AuditEntry::of(index, *at_ms, by.clone(), command, reply);
    let kept = if by.is_some() { &mut state.audit } else { &mut state.upkeep };
    kept.insert(index, Arc::new(entry));
    while kept.len() > AUDIT_KEPT {
        let Some((oldest, _)) = kept.get_min().cloned() else { break };
        kept.remove(&oldest);
    }
}

fn keys_changed(changed: Result<bool, Refusal>, events: &mut Vec<Event>) -> Outcome {
    if changed? {
        events.push(Event::Gossip);
    }
    Ok(Reply::Done)
}

fn remember(state: &mut State, index: u64, id: &RequestId, reply: &Outcome) {
    state.replies.insert(id.clone(), Arc::new(reply.clone()));
    state.replies_by_index.insert(index, id.clone());
    while state.replies_by_index.len() > REPLIES_KEPT {
        let Some((oldest, id)) = state.replies_by_index.get_min().cloned() else { break };
        state.replies_by_index.remove(&oldest);
        state.replies.remove(&id);
    }
}

fn place(
    state: &mut State,
    index: u64,
    basis: u64,
    set: &[(FunctionRef, Assignment)],
    remove: &[FunctionRef],
    events: &mut Vec<Event>,
) -> Outcome {
    if basis != state.plan_basis {
        return Err(Refusal::StalePlan { basis, current: state.plan_basis });
    }
    for (function, assignment) in set {
        check_assignment(state, function, assignment)?;
    }
    for (function, assignment) in set {
        state.assignments.insert(function.clone(), Arc::new(assignment.clone()));
    }
    let removed: BTreeSet<_> = remove.iter().collect();
    for function in removed {
        state.assignments.remove(function);
    }
    state.plan_basis = index;
    events.push(Event::Placed);
    Ok(Reply::Done)
}

/// Every assigned revision exists, on registered nodes within the function's allowed regions.
fn check_assignment(
    state: &State,
    function: &FunctionRef,
    assignment: &Assignment,
) -> Result<(), Refusal> {
    let bad = |node: NodeId, why: &str| Refusal::BadPlan {
        function: function.clone(),
        node,
        why: why.to_owned(),
    };
    let spec = state
        .revision(function.revision)
        .and_then(|(_, revision)| revision.spec.functions.get(&function.function));
    let Some(spec) = spec else {
        return Err(bad(NodeId(0), "there is no such function"));
    };
    for id in assignment.nodes.keys() {
        let node = state.nodes.get(id).ok_or_else(|| bad(*id, "there is no such node"))?;
        if !spec.placement.allows(&node.region) {
            return Err(bad(*id, "its region is not allowed"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::NodeSpec;
    use crate::ids::{ClusterId, NodeName, Region};
    use crate::state::Addresses;

    fn spec(version: &str) -> NodeSpec {
        NodeSpec {
            name: NodeName::new("a").unwrap(),
            region: Region::new("eu").unwrap(),
            zone: None,
            location: None,
            addresses: Addresses::default(),
            version: version.to_owned(),
            feature_level: crate::command::FEATURE_LEVEL,
        }
    }

    #[test]
    fn a_node_drains_through_restarts_until_that_is_undone() {
        let mut state = State::default();
        let mut does = |index, command| {
            let envelope = Envelope { request_id: None, at_ms: 1, by: None, command };
            apply(&mut state, index, &envelope).reply.unwrap();
            (state.is_draining(NodeId(1)), state.plan_basis)
        };
        let cluster = ClusterId::new("0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(
            does(
                1,
                Command::Bootstrap {
                    cluster,
                    node: spec("1"),
                    authority: None,
                    tokens: Vec::new()
                }
            ),
            (false, 1)
        );
        let id = NodeId(1);
        assert_eq!(does(2, Command::SetDraining { id, draining: true }), (true, 2));
        assert_eq!(does(3, Command::SetDraining { id, draining: true }), (true, 2), "no change");
        assert_eq!(does(4, Command::UpdateNode { id, node: spec("2") }), (true, 4));
        assert_eq!(does(5, Command::SetDraining { id, draining: false }), (false, 5));
    }
}
