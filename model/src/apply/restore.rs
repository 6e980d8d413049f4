//! Taking in an app of another cluster. Pure.

use std::sync::Arc;

use super::Event;
use super::apps::check_routes;
use crate::command::{Outcome, Reply};
use crate::limits::REVISIONS_KEPT;
use crate::refusal::Refusal;
use crate::state::{App, State};

/// Keeps an app as it is, its revisions with their ids; later revisions get greater ones.
pub(super) fn restore(
    state: &mut State,
    index: u64,
    app: &App,
    events: &mut Vec<Event>,
) -> Outcome {
    if state.apps.get(&app.name).is_some_and(|known| **known == *app) {
        return Ok(Reply::Done);
    }
    check(state, app)?;
    let greatest = app.revisions.keys().map(|id| id.0).max().unwrap_or(0);
    state.revision_offset = state.revision_offset.max(greatest);
    state.apps.insert(app.name.clone(), Arc::new(app.clone()));
    state.plan_basis = index;
    let started = app.rollout.map(|id| Event::RolledOut(app.name.clone(), id));
    let active = app.active.map(|id| Event::Activated(app.name.clone(), id));
    events.extend(started.into_iter().chain(active));
    Ok(Reply::Done)
}

fn check(state: &State, app: &App) -> Result<(), Refusal> {
    let refused = |why: &str| Refusal::NotRestorable { app: app.name.clone(), why: why.to_owned() };
    if state.apps.contains_key(&app.name) {
        return Err(refused("an app of this name is here already; delete it first"));
    }
    if app.revisions.is_empty() || app.revisions.len() > REVISIONS_KEPT {
        return Err(refused("it has no revision, or more than are kept"));
    }
    for (id, revision) in &app.revisions {
        revision.spec.check()?;
        if *id != revision.id || revision.digest != revision.spec.digest() {
            return Err(refused("a revision is not what it says"));
        }
        if state.revision(*id).is_some() {
            let why = format!("revision {id} is taken; restore into a cluster without apps");
            return Err(refused(&why));
        }
    }
    for wanted in [app.active, app.rollout].into_iter().flatten() {
        let revision = app.revisions.get(&wanted);
        let revision = revision.ok_or_else(|| refused("it names a revision that it lacks"))?;
        check_routes(state, &app.name, &revision.spec)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::command::{Command, Envelope, FEATURE_LEVEL, NodeSpec};
    use crate::digest::Digest;
    use crate::ids::{AppName, ClusterId, FunctionName, NodeName, Region, RevisionId};
    use crate::spec::{AppSpec, FunctionSpec, Limits, PlacementSpec, Scale};
    use crate::state::{Addresses, Revision};

    fn node(name: &str, feature_level: u32) -> NodeSpec {
        NodeSpec {
            name: NodeName::new(name).unwrap(),
            region: Region::new("eu").unwrap(),
            zone: None,
            location: None,
            addresses: Addresses::default(),
            version: "1".to_owned(),
            feature_level,
        }
    }

    fn apply(state: &mut State, command: Command) -> Outcome {
        let envelope = Envelope { request_id: None, at_ms: 1, by: None, command };
        let index = state.applied + 1;
        crate::apply::apply(state, index, &envelope).reply
    }

    fn begun(level: u32) -> State {
        let cluster = ClusterId::new("0123456789abcdef0123456789abcdef").unwrap();
        let node = node("a", level);
        let mut state = State::default();
        let command = Command::Bootstrap { cluster, node, authority: None, tokens: Vec::new() };
        apply(&mut state, command).unwrap();
        state
    }

    fn app(name: &str, ids: &[u64]) -> App {
        let spec = sample_spec();
        let revision = |id: &u64| {
            let id = RevisionId(*id);
            let digest = spec.digest();
            (id, Arc::new(Revision { id, spec: spec.clone(), digest, created_ms: 7 }))
        };
        let revisions: BTreeMap<_, _> = ids.iter().map(revision).collect();
        let active = revisions.keys().next_back().copied();
        App { name: AppName::new(name).unwrap(), active, rollout: None, revisions, changed: 90 }
    }

    fn sample_spec() -> AppSpec {
        let function = FunctionSpec {
            component: Digest::of(b"code"),
            component_bytes: 4,
            routes: Vec::new(),
            limits: Limits::default(),
            scale: Scale::default(),
            placement: PlacementSpec::default(),
            outbound: Vec::new(),
            env: BTreeMap::new(),
        };
        AppSpec {
            functions: BTreeMap::from([(FunctionName::new("main").unwrap(), function)]),
            ..AppSpec::default()
        }
    }

    #[test]
    fn a_cluster_of_two_builds_takes_no_command_that_one_does_not_know() {
        let mut state = begun(1);
        let restored = Command::RestoreApp { app: app("shop", &[57]) };
        let refused = apply(&mut state, restored.clone()).unwrap_err();
        assert_eq!(refused, Refusal::FeatureLevel { level: 1, needed: 2 });
        let refused = apply(&mut state, Command::RaiseFeatureLevel { level: 2 }).unwrap_err();
        assert_eq!(refused.reason(), "NODE_TOO_OLD");
        let id = crate::ids::NodeId(1);
        apply(&mut state, Command::UpdateNode { id, node: node("a", FEATURE_LEVEL) }).unwrap();
        assert_eq!(state.supported_level(), FEATURE_LEVEL);
        apply(&mut state, Command::RaiseFeatureLevel { level: 2 }).unwrap();
        assert_eq!(state.level(), 2);
        // Now an older build can neither come nor come back.
        let old = Command::RegisterNode { node: node("b", 1), replaces: None, token: None };
        assert_eq!(apply(&mut state, old).unwrap_err().reason(), "NODE_TOO_OLD");
        let back = Command::UpdateNode { id, node: node("a", 1) };
        assert_eq!(apply(&mut state, back).unwrap_err().reason(), "NODE_TOO_OLD");
    }

    #[test]
    fn a_restored_app_is_what_it_was_and_ids_go_on_behind_it() {
        let mut state = begun(2);
        let shop = app("shop", &[40, 57]);
        for _ in 0..2 {
            // The same again changes nothing.
            apply(&mut state, Command::RestoreApp { app: shop.clone() }).unwrap();
        }
        assert_eq!(*state.apps[&shop.name], shop);
        let deployed =
            Command::PutRevision { app: AppName::new("blog").unwrap(), spec: sample_spec() };
        match apply(&mut state, deployed) {
            Ok(Reply::Revision { id, .. }) => assert!(id.0 > 57, "{id}"),
            other => panic!("{other:?}"),
        }
        let other = App { changed: 91, ..shop };
        let refused = apply(&mut state, Command::RestoreApp { app: other }).unwrap_err();
        assert_eq!(refused.reason(), "NOT_RESTORABLE");
        let refused = apply(&mut state, Command::RestoreApp { app: app("news", &[57]) });
        assert_eq!(refused.unwrap_err().reason(), "NOT_RESTORABLE");
    }
}
