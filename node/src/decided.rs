//! What is decided, as this node last knew it: read by every call, without a lock.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use imbl::ordmap::DiffItem;
use nigh_model::route::{Match, Route, Table};
use nigh_model::spec::Invoke;
use nigh_model::state::Map;
use nigh_model::{
    App, AppName, FunctionName, FunctionRef, FunctionSpec, Revision, RevisionId, State,
};
use tokio::sync::watch;

use crate::gateway::Told;

/// A function that calls are routed to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The app.
    pub(crate) app: AppName,
    /// The revision and function.
    pub(crate) function: FunctionRef,
    /// What it may do, and where.
    pub(crate) spec: Arc<FunctionSpec>,
    /// All its routes, written ones first, the default one last.
    pub(crate) routes: Arc<[Route]>,
    /// Who may call it.
    pub(crate) invoke: Invoke,
}

/// What a route leads to, and what guests are told of the route.
#[derive(Clone, Debug)]
pub(crate) struct Led {
    /// The function.
    pub(crate) target: Target,
    /// Made once, as every call has it.
    pub(crate) told: Told,
}

impl Led {
    fn of(route: &Route, target: &Target) -> Self {
        Self { target: target.clone(), told: Told::of(route) }
    }
}

/// The state at one index, with what calls look up in it.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// The state.
    pub(crate) state: Arc<State>,
    routes: Table<Led>,
    by_name: Map<AppName, Arc<[Target]>>,
    /// The app of each revision that is kept.
    apps: Map<RevisionId, AppName>,
}

impl Decision {
    fn new(state: Arc<State>) -> Self {
        Self::default().next(state)
    }

    /// The same in a newer state: what belongs to apps that did not change is shared.
    fn next(&self, state: Arc<State>) -> Self {
        let Self { routes, by_name, apps, .. } = self;
        let (routes, by_name, apps) = (routes.clone(), by_name.clone(), apps.clone());
        let mut next = Self { state: state.clone(), routes, by_name, apps };
        for change in self.state.apps.diff(&state.apps) {
            let (name, old, new) = match change {
                DiffItem::Add(name, new) => (name, None, Some(new)),
                DiffItem::Update { old: (name, old), new: (_, new) } => {
                    (name, Some(old), Some(new))
                }
                DiffItem::Remove(name, old) => (name, Some(old), None),
            };
            next.change(name, old.map(Arc::as_ref), new.map(Arc::as_ref));
        }
        next
    }

    fn change(&mut self, name: &AppName, old: Option<&App>, new: Option<&App>) {
        let revisions = |app: Option<&App>| {
            app.into_iter().flat_map(|app| app.revisions.keys().copied()).collect::<Vec<_>>()
        };
        for id in revisions(old) {
            self.apps.remove(&id);
        }
        for id in revisions(new) {
            self.apps.insert(id, name.clone());
        }
        let active = |app: Option<&App>| app.and_then(App::active_revision).map(Arc::as_ptr);
        if active(old) == active(new) {
            return;
        }
        for target in self.by_name.remove(name).iter().flat_map(|targets| targets.iter()) {
            let of_app = |other: &Led| other.target.app == *name;
            target.spec.routes.iter().for_each(|route| self.routes.remove(route, of_app));
            target.routes.last().into_iter().for_each(|it| self.routes.remove_default(it, of_app));
        }
        let Some(new) = new.filter(|app| app.active_revision().is_some()) else { return };
        let targets = targets_of(new);
        for target in &*targets {
            for route in &target.spec.routes {
                self.routes.insert(route.clone(), Led::of(route, target));
            }
            if let Some(default) = target.routes.last() {
                self.routes.insert_default(default.clone(), Led::of(default, target));
            }
        }
        self.by_name.insert(name.clone(), targets);
    }

    /// A revision that is kept, and its app.
    pub(crate) fn revision(&self, id: RevisionId) -> Option<(&Arc<App>, &Arc<Revision>)> {
        let app = self.state.apps.get(self.apps.get(&id)?)?;
        Some((app, app.revisions.get(&id)?))
    }

    /// Where a request leads. `host` may carry a port; `path` carries no query.
    pub(crate) fn route(&self, host: Option<&str>, path: &str) -> Option<Match<'_, Led>> {
        self.routes.find(host, path)
    }

    /// The active functions that routes bound to a host lead to; none when they are more than `max`.
    pub(crate) fn targets_of_host(&self, host: &str, max: usize) -> Vec<Target> {
        let mut targets: Vec<Target> = Vec::new();
        for Led { target, .. } in self.routes.of_host(host) {
            if targets.iter().any(|known| known.function == target.function) {
                continue;
            }
            if targets.len() == max {
                return Vec::new();
            }
            targets.push(target.clone());
        }
        targets
    }

    /// The active functions of an app; none when there is no such app or it is not yet active.
    pub(crate) fn targets(&self, app: &str) -> &[Target] {
        self.by_name.get(app).map_or(&[], |targets| &**targets)
    }

    /// A function of any revision that is kept, active or not: what a forwarded call names.
    pub(crate) fn target_of(&self, app: &AppName, function: &FunctionRef) -> Option<Target> {
        let active = self.targets(app.as_str()).iter().find(|target| target.function == *function);
        if let Some(target) = active {
            return Some(target.clone());
        }
        let revision = self.state.apps.get(app)?.revisions.get(&function.revision)?;
        let spec = revision.spec.functions.get(&function.function)?;
        Some(Target {
            app: app.clone(),
            function: function.clone(),
            spec: Arc::new(spec.clone()),
            routes: Arc::new([]),
            invoke: revision.spec.invoke,
        })
    }
}

/// The functions of an app's active revision.
fn targets_of(app: &App) -> Arc<[Target]> {
    let Some(revision) = app.active_revision() else { return Arc::new([]) };
    let alone = revision.spec.functions.len() == 1;
    let target = |(function, spec): (FunctionRef, &FunctionSpec)| {
        let mut routes = spec.routes.clone();
        routes.push(Route::default_of(&app.name, (!alone).then_some(&function.function)));
        Target {
            app: app.name.clone(),
            function,
            spec: Arc::new(spec.clone()),
            routes: routes.into(),
            invoke: revision.spec.invoke,
        }
    };
    revision.functions().map(target).collect()
}

/// The routes by which a function is called, best first, as people write them.
pub(crate) fn routes_of(
    app: &AppName,
    spec: &nigh_model::AppSpec,
    function: &FunctionName,
) -> Vec<String> {
    let alone = spec.functions.len() == 1;
    let written = spec.functions.get(function).into_iter().flat_map(|spec| &spec.routes);
    let default = Route::default_of(app, (!alone).then_some(function));
    let mut routes: Vec<String> = written.map(ToString::to_string).collect();
    let default = default.to_string();
    if !routes.contains(&default) {
        routes.push(default);
    }
    routes
}

/// The last known decision, handed to all parts of a node.
#[derive(Clone)]
pub(crate) struct Decided {
    current: Arc<ArcSwap<Decision>>,
    applied: Arc<watch::Sender<u64>>,
}

impl Decided {
    /// Starts from the state that was on disk.
    pub(crate) fn new(state: Arc<State>) -> Self {
        let applied = state.applied;
        Self {
            current: Arc::new(ArcSwap::from_pointee(Decision::new(state))),
            applied: Arc::new(watch::channel(applied).0),
        }
    }

    /// The decision as it is now; keep it only for a moment.
    pub(crate) fn now(&self) -> Guard<Arc<Decision>> {
        self.current.load()
    }

    /// The state as it is now.
    pub(crate) fn state(&self) -> Arc<State> {
        self.current.load().state.clone()
    }

    /// Publishes a newer state. An older one changes nothing: the applied index never goes back.
    pub(crate) fn publish(&self, state: Arc<State>) {
        self.applied.send_if_modified(|applied| {
            let newer = state.applied > *applied || self.current.load().state.cluster.is_none();
            if newer {
                *applied = state.applied;
                let next = self.current.load().next(state);
                self.current.store(Arc::new(next));
            }
            newer
        });
    }

    /// Follows the applied index.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Waits until an index is applied here.
    pub(crate) async fn reached(&self, index: u64) {
        let mut changes = self.changes();
        // The sender lives as long as self.
        let _ = changes.wait_for(|applied| *applied >= index).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use nigh_model::{AppSpec, Digest};
    use proptest::prelude::*;

    use super::*;

    /// An app whose revision, if it has one, is active or not, and has these functions.
    fn app(name: &AppName, id: u64, active: bool, functions: &[(u8, Option<u8>)]) -> App {
        let mut spec = AppSpec::default();
        for (function, route) in functions {
            let mut made = FunctionSpec::new(Digest::of(&[*function]), 1);
            // Two apps never have the same route.
            made.routes = route.iter().map(|r| format!("/{r}/{name}").parse().unwrap()).collect();
            let function = FunctionName::new(format!("f{function}")).unwrap();
            spec.functions.insert(function, made);
        }
        let (id, digest) = (RevisionId(id), spec.digest());
        let revision = Arc::new(Revision { id, spec, digest, created_ms: 0 });
        App {
            name: name.clone(),
            active: active.then_some(id),
            rollout: None,
            revisions: BTreeMap::from([(id, revision)]),
            changed: id.0,
        }
    }

    proptest! {
        #[test]
        fn what_follows_a_decision_is_what_would_be_made_of_its_state_alone(
            steps in proptest::collection::vec(
                (
                    0..4_u8,
                    proptest::option::of((any::<bool>(), proptest::collection::vec(
                        (0..3_u8, proptest::option::of(0..3_u8)), 1..4))),
                ),
                1..20,
            ),
        ) {
            let mut state = State::default();
            let mut decision = Decision::default();
            for (at, (name, made)) in steps.into_iter().enumerate() {
                let (id, name) = (at as u64 + 1, AppName::new(format!("a{name}")).unwrap());
                match made {
                    Some((active, functions)) => {
                        let app = app(&name, id, active, &functions);
                        state.apps.insert(name, Arc::new(app));
                    }
                    None => drop(state.apps.remove(&name)),
                }
                decision = decision.next(Arc::new(state.clone()));
                let fresh = Decision::new(Arc::new(state.clone()));
                prop_assert_eq!(format!("{decision:?}"), format!("{fresh:?}"));
            }
        }
    }
}
