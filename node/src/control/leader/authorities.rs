//! One authority takes over from another: all trust both, then the new one signs, then all have
//! its signature, then the old one is trusted no more.

use nigh_model::command::Command;
use nigh_model::trust::{Authority, Trust};
use nigh_model::{Digest, NodeId, State};

use super::grace::Grace;
use crate::control::propose::Control;
use crate::identity::Own;
use crate::seen::{IdentityReport, View};

/// Takes the next step of a change of authorities, if one is under way.
pub(super) async fn step(control: &Control, grace: &Grace, identity: &Own) {
    let state = control.decided.state();
    let command = {
        let view = control.seen.now();
        let said = |id: NodeId| view_of(&view, id);
        next(&state, said, |id| grace.answers(id), |id| identity.holds(id))
    };
    let Some(command) = command else { return };
    match control.propose_as_leader(command).await {
        Ok((_, Ok(_))) => tracing::info!("the change of authorities has come a step further"),
        Ok((_, Err(refusal))) => tracing::debug!(%refusal, "authorities unchanged"),
        Err(error) => tracing::debug!(%error, "authorities unchanged"),
    }
}

fn view_of(view: &View, id: NodeId) -> Option<IdentityReport> {
    view.nodes.get(&id)?.report.identity
}

/// What is to be done next. `said` is what a node says of its identity, `answers` whether it is
/// there at all: one that is not does not hold up the new authority, but keeps the old one,
/// without which it could not come back. `holds` is whether this node, which leads, holds the key
/// of an authority: what nobody holds shall not sign.
fn next(
    state: &State,
    said: impl Fn(NodeId) -> Option<IdentityReport>,
    answers: impl Fn(NodeId) -> bool,
    holds: impl Fn(Digest) -> bool,
) -> Option<Command> {
    let Trust { authorities, signing } = state.trust.as_ref();
    let [old, new] = authorities.as_slice() else { return None };
    let (old, new) = (old.id(), Authority::id(new));
    let mut nodes = state.nodes.keys().copied();
    if *signing == Some(old) {
        let trusts = |id: NodeId| said(id).is_some_and(|said| said.newest == prefix(new));
        let all = nodes.all(|id| !answers(id) || trusts(id));
        return (all && holds(new)).then_some(Command::SignWith { id: new });
    }
    let renewed = |id: NodeId| said(id).is_some_and(|said| said.issuer == prefix(new));
    nodes.all(renewed).then_some(Command::DropAuthority { id: old })
}

/// As much of a fingerprint as gossip tells.
pub(crate) fn prefix(id: Digest) -> u32 {
    let [a, b, c, d, ..] = *id.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use nigh_model::{Addresses, Node};

    fn authority(n: u8) -> Authority {
        Authority { certificate: vec![n], cross: None, expires_ms: 1 }
    }

    fn state(signing: u8) -> State {
        let mut state = State::default();
        for id in [1, 2, 3] {
            let node = Node {
                id: NodeId(id),
                name: format!("n{id}").parse().unwrap(),
                region: "r".parse().unwrap(),
                zone: None,
                location: None,
                addresses: Addresses::default(),
                version: String::new(),
                feature_level: 1,
                draining: false,
            };
            state.nodes.insert(NodeId(id), node.into());
        }
        let authorities = vec![authority(1), authority(2)];
        state.trust = Trust { authorities, signing: Some(authority(signing).id()) }.into();
        state
    }

    fn said(newest: u8, issuer: u8) -> Option<IdentityReport> {
        let prefix = |n| prefix(authority(n).id());
        Some(IdentityReport { expires_ms: 9, newest: prefix(newest), issuer: prefix(issuer) })
    }

    #[test]
    fn the_new_authority_signs_once_all_who_answer_trust_it() {
        let sign = Some(Command::SignWith { id: authority(2).id() });
        let late = |id: NodeId| if id.0 == 3 { said(1, 1) } else { said(2, 1) };
        let held = |_| true;
        assert_eq!(next(&state(1), late, |_| true, held), None);
        assert_eq!(next(&state(1), |_| said(2, 1), |_| true, held), sign);
        let rest = next(&state(1), late, |id| id.0 != 3, held);
        assert_eq!(rest, sign, "a dead node holds nothing up");
        assert_eq!(next(&state(1), |_| said(2, 1), |_| true, |_| false), None, "it has no key");
    }

    #[test]
    fn the_old_authority_goes_once_every_registered_node_has_renewed() {
        let drop = Some(Command::DropAuthority { id: authority(1).id() });
        let late = |id: NodeId| if id.0 == 3 { said(2, 1) } else { said(2, 2) };
        let held = |_| true;
        assert_eq!(next(&state(2), late, |_| true, held), None);
        let rest = next(&state(2), late, |id| id.0 != 3, held);
        assert_eq!(rest, None, "a dead node must find its way");
        assert_eq!(next(&state(2), |_| said(2, 2), |_| true, held), drop);
    }

    #[test]
    fn one_authority_is_left_as_it_is() {
        let mut one = state(1);
        one.trust = Trust { authorities: vec![authority(1)], ..(*one.trust).clone() }.into();
        assert_eq!(next(&one, |_| said(1, 1), |_| true, |_| true), None);
    }
}
