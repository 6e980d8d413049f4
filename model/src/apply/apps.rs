//! How apps and their revisions change.

use std::sync::Arc;

use crate::apply::Event;
use crate::command::{Outcome, Reply};
use crate::ids::{AppName, RevisionId};
use crate::limits::REVISIONS_KEPT;
use crate::refusal::Refusal;
use crate::route::Route;
use crate::spec::AppSpec;
use crate::state::{App, Revision, State};

pub(super) fn put_revision(
    state: &mut State,
    index: u64,
    at_ms: u64,
    name: &AppName,
    spec: &AppSpec,
    events: &mut Vec<Event>,
) -> Outcome {
    spec.check()?;
    let digest = spec.digest();
    let known = state.apps.get(name);
    if let Some(newest) = known.and_then(|app| app.newest())
        && newest.digest == digest
    {
        return Ok(Reply::Revision { id: newest.id, changed: false });
    }
    check_routes(state, name, spec)?;

    let id = RevisionId(index + state.revision_offset);
    let mut app = known.map(|app| app.as_ref().clone()).unwrap_or_else(|| App {
        name: name.clone(),
        active: None,
        rollout: None,
        revisions: Default::default(),
        changed: index,
    });
    let revision = Revision { id, spec: spec.clone(), digest, created_ms: at_ms };
    app.revisions.insert(id, Arc::new(revision));
    app.rollout = Some(id);
    put(state, index, app);
    events.push(Event::RolledOut(name.clone(), id));
    Ok(Reply::Revision { id, changed: true })
}

fn known_revision<'s>(
    state: &'s State,
    name: &AppName,
    id: RevisionId,
) -> Result<(&'s Arc<App>, &'s Arc<Revision>), Refusal> {
    let app = state.apps.get(name).ok_or_else(|| Refusal::NoSuchApp { app: name.clone() })?;
    let revision = app.revisions.get(&id);
    let missing = || Refusal::NoSuchRevision { app: name.clone(), revision: id };
    Ok((app, revision.ok_or_else(missing)?))
}

pub(super) fn roll_out(
    state: &mut State,
    index: u64,
    name: &AppName,
    id: RevisionId,
    events: &mut Vec<Event>,
) -> Outcome {
    let (known, revision) = known_revision(state, name, id)?;
    let coming = (known.active != Some(id)).then_some(id);
    if known.rollout == coming {
        return Ok(Reply::Revision { id, changed: false });
    }
    // Another app may have got its routes since the revision was put.
    check_routes(state, name, &revision.spec)?;
    let mut app = known.as_ref().clone();
    app.rollout = coming;
    put(state, index, app);
    events.push(Event::RolledOut(name.clone(), id));
    Ok(Reply::Revision { id, changed: true })
}

pub(super) fn activate(
    state: &mut State,
    index: u64,
    name: &AppName,
    id: RevisionId,
    events: &mut Vec<Event>,
) -> Outcome {
    let (known, _) = known_revision(state, name, id)?;
    if known.active == Some(id) {
        return Ok(Reply::Revision { id, changed: false });
    }
    if known.rollout != Some(id) {
        return Err(Refusal::NotRollingOut { app: name.clone(), revision: id });
    }
    let mut app = known.as_ref().clone();
    app.active = Some(id);
    app.rollout = None;
    put(state, index, app);
    events.push(Event::Activated(name.clone(), id));
    Ok(Reply::Revision { id, changed: true })
}

/// Puts a changed app in the place of what it was.
fn put(state: &mut State, index: u64, mut app: App) {
    app.changed = index;
    retire(state, &mut app);
    state.apps.insert(app.name.clone(), Arc::new(app));
    state.plan_basis = index;
}

/// Drops the oldest revisions beyond those kept, never the active one or the one coming, and
/// ends the assignments of all that are neither.
fn retire(state: &mut State, app: &mut App) {
    let wanted = [app.active, app.rollout];
    let idle: Vec<RevisionId> =
        app.revisions.keys().copied().filter(|id| !wanted.contains(&Some(*id))).collect();
    for id in &idle {
        if let Some(revision) = app.revisions.get(id) {
            unassign(state, revision);
        }
    }
    let surplus = app.revisions.len().saturating_sub(REVISIONS_KEPT);
    for id in idle.iter().take(surplus) {
        app.revisions.remove(id);
    }
}

pub(super) fn unassign(state: &mut State, revision: &Revision) {
    for (function, _) in revision.functions() {
        state.assignments.remove(&function);
    }
}

/// A route belongs to one app: no other may hold the same one, nor one below the path that is
/// another app's by its name.
pub(super) fn check_routes(state: &State, name: &AppName, spec: &AppSpec) -> Result<(), Refusal> {
    let taken = |route: &Route, function: &str, holder: &AppName| Refusal::RouteTaken {
        route: route.to_string(),
        function: function.to_owned(),
        holder: holder.clone(),
    };
    for (function, wanted) in
        spec.functions.iter().flat_map(|(f, s)| s.routes.iter().map(move |route| (f, route)))
    {
        if let Some(first) = wanted.first_literal()
            && first != name.as_str()
            && let Some(holder) = state.apps.get(first)
        {
            return Err(taken(wanted, function.as_str(), &holder.name));
        }
        for (app, revision) in state.wanted_revisions().filter(|(app, _)| app.name != *name) {
            let mut held = revision.spec.functions.values().flat_map(|f| &f.routes);
            if held.any(|route| route.collides_with(wanted)) {
                return Err(taken(wanted, function.as_str(), &app.name));
            }
        }
    }
    let default = Route::default_of(name, None);
    for (app, revision) in state.wanted_revisions().filter(|(app, _)| app.name != *name) {
        let mut held = revision.spec.functions.values().flat_map(|f| &f.routes);
        if held.any(|route| route.first_literal() == Some(name.as_str())) {
            let function = spec.functions.keys().next().map_or("", |function| function.as_str());
            return Err(taken(&default, function, &app.name));
        }
    }
    Ok(())
}
