//! What is decided, as this node last knew it: read by every call, without a lock.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use nigh_model::route::{Match, Route, Table};
use nigh_model::spec::Invoke;
use nigh_model::{AppName, FunctionName, FunctionRef, FunctionSpec, State};
use tokio::sync::watch;

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

/// The state at one index, with what calls look up in it.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// The state.
    pub(crate) state: Arc<State>,
    routes: Table<Target>,
    by_name: std::collections::BTreeMap<AppName, Vec<Target>>,
}

impl Decision {
    fn new(state: Arc<State>) -> Self {
        let mut written = Vec::new();
        let mut defaults = Vec::new();
        let mut by_name = std::collections::BTreeMap::new();
        for app in state.apps.values() {
            let Some(revision) = app.active_revision() else { continue };
            let alone = revision.spec.functions.len() == 1;
            let mut targets = Vec::new();
            for (function, spec) in revision.functions() {
                let name = (!alone).then_some(&function.function);
                let default = Route::default_of(&app.name, name);
                let mut routes = spec.routes.clone();
                routes.push(default.clone());
                let target = Target {
                    app: app.name.clone(),
                    function,
                    spec: Arc::new(spec.clone()),
                    routes: routes.into(),
                    invoke: revision.spec.invoke,
                };
                written.extend(spec.routes.iter().map(|route| (route.clone(), target.clone())));
                defaults.push((default, target.clone()));
                targets.push(target);
            }
            by_name.insert(app.name.clone(), targets);
        }
        Self { state, routes: Table::new(written, defaults), by_name }
    }

    /// Where a request leads. `host` may carry a port; `path` carries no query.
    pub(crate) fn route(&self, host: Option<&str>, path: &str) -> Option<Match<'_, Target>> {
        self.routes.find(host, path)
    }

    /// The active functions of an app; none when there is no such app or it is not yet active.
    pub(crate) fn targets(&self, app: &str) -> &[Target] {
        self.by_name.get(app).map_or(&[], Vec::as_slice)
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
                let last = self.current.load_full();
                let same = last.state.apps.ptr_eq(&state.apps);
                let decision = if same { last.with_state(state) } else { Decision::new(state) };
                self.current.store(Arc::new(decision));
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

impl Decision {
    /// The same apps in a newer state.
    fn with_state(&self, state: Arc<State>) -> Self {
        Self { state, routes: self.routes.clone(), by_name: self.by_name.clone() }
    }
}
