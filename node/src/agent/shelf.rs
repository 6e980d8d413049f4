//! What can be called on this node, now: read by every call without waiting for anybody.
//!
//! It loads what is ready when it is called. It deliberately does not decide what should be
//! here; the agent's loop does, and puts it on the shelf and takes it off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use nigh_model::{AppName, Digest, FunctionRef, FunctionSpec, NodeId, Region};
use nigh_placement::demand::Demand;
use nigh_runtime::Loaded;
use tokio::sync::watch;
use tokio::time::Instant;

use super::cache::{Cache, Gone};
use super::diff::{Memory, Warmth};
use super::error::Error;
use super::fetch::Fetcher;
use super::make::Maker;
use super::stock::Stock;
use crate::config::LOADED_BYTES_MAX;
use crate::decided::Decided;

/// A function taken to be called.
#[derive(Clone)]
pub(crate) struct Taken {
    /// What to call.
    pub(crate) loaded: Loaded,
    /// Whether the call waited for a load, fetch or compilation.
    pub(crate) cold: bool,
    /// For how long.
    pub(crate) waited: Duration,
}

/// Why a function cannot be called here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ShelfError {
    /// It is not on this node and should not be: call it elsewhere.
    #[error("the function is not on this node")]
    NotHere,
    /// It should be here but could not be brought or loaded.
    #[error("the function cannot be loaded on this node: {0}")]
    Failed(String),
}

/// What is here, for gossip.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Present {
    /// Functions that are compiled here, the loaded ones included.
    pub(crate) ready: Vec<FunctionRef>,
    /// Functions that are loaded here.
    pub(crate) warm: Vec<FunctionRef>,
}

/// What can be called on this node. A clone is the same shelf.
#[derive(Clone)]
pub(crate) struct Shelf {
    inner: Arc<Inner>,
}

struct Inner {
    own: NodeId,
    region: Region,
    decided: Decided,
    stock: Stock,
    fetcher: Fetcher,
    maker: Maker,
    cache: Cache,
    demand: Mutex<Demand>,
    /// What the agent found to be wanted here beyond the plan.
    demanded: ArcSwap<BTreeSet<FunctionRef>>,
}

impl Shelf {
    /// An empty shelf.
    pub(crate) fn new(
        own: NodeId,
        region: Region,
        decided: Decided,
        stock: Stock,
        (fetcher, maker): (Fetcher, Maker),
    ) -> Self {
        let inner = Inner {
            own,
            region,
            decided,
            stock,
            fetcher,
            maker,
            cache: Cache::new(LOADED_BYTES_MAX),
            demand: Mutex::default(),
            demanded: ArcSwap::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Whether the function is loaded: the next call waits for nothing.
    pub(crate) fn is_warm(&self, function: &FunctionRef) -> bool {
        self.inner.cache.functions().contains_key(function)
    }

    /// Whether the function is compiled here and may run here.
    pub(crate) fn is_ready(&self, function: &FunctionRef) -> bool {
        if self.is_warm(function) {
            return true;
        }
        let decision = self.inner.decided.now();
        let revision = decision.revision(function.revision);
        let spec =
            revision.and_then(|(_, revision)| revision.spec.functions.get(&function.function));
        spec.is_some_and(|spec| {
            spec.placement.allows(&self.inner.region)
                && self.inner.stock.is_compiled(&spec.component)
        })
    }

    /// Whether the function should be here: by the plan, or because calls keep asking for it.
    pub(crate) fn is_wanted(&self, function: &FunctionRef) -> bool {
        let decision = self.inner.decided.now();
        let assignment = decision.state.assignments.get(function);
        assignment.is_some_and(|assignment| assignment.nodes.contains_key(&self.inner.own))
            || self.inner.demanded.load().contains(function)
    }

    /// Takes a function to be called. Warm: at once. Ready: after it is loaded. Should be here
    /// but its artifact is lost: after it is copied from the nearest node that has it compiled, or
    /// fetched and compiled.
    ///
    /// # Errors
    /// It is not here, or could not be brought.
    pub(crate) async fn take(
        &self,
        app: &AppName,
        function: &FunctionRef,
        spec: &FunctionSpec,
    ) -> Result<Taken, ShelfError> {
        if let Some(loaded) = self.inner.cache.take(function, self.inner.stock.now_ms()) {
            return Ok(Taken { loaded, cold: false, waited: Duration::ZERO });
        }
        let ready = self.inner.stock.is_compiled(&spec.component);
        if !spec.placement.allows(&self.inner.region) || !(ready || self.is_wanted(function)) {
            return Err(ShelfError::NotHere);
        }
        let began = Instant::now();
        match self.bring_and_load(function, spec.component).await {
            Ok(loaded) => Ok(Taken { loaded, cold: true, waited: began.elapsed() }),
            Err(error) => {
                tracing::debug!(%app, %function, %error, "a function could not be taken");
                Err(ShelfError::Failed(error.to_string()))
            }
        }
    }

    /// Takes note that a call of the function was forwarded to another node.
    pub(crate) fn forwarded(&self, function: &FunctionRef) {
        let now_ms = self.inner.stock.now_ms();
        self.demand().forwarded(function, now_ms);
    }

    /// What is here.
    pub(crate) fn present(&self) -> Present {
        let compiled = self.inner.stock.snapshot().compiled;
        let warm: Vec<_> = self.inner.cache.functions().keys().cloned().collect();
        let mut ready = warm.clone();
        let decision = self.inner.decided.now();
        for (_, revision) in decision.state.wanted_revisions() {
            let here = revision.functions().filter(|(_, spec)| {
                spec.placement.allows(&self.inner.region) && compiled.contains(&spec.component)
            });
            ready.extend(here.map(|(function, _)| function));
        }
        ready.sort_unstable();
        ready.dedup();
        Present { ready, warm }
    }

    /// Follows changes of what is here, on disk or loaded.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.inner.stock.changes()
    }

    /// Loads a function whose component is compiled here; the same again changes nothing.
    pub(crate) async fn load(
        &self,
        function: &FunctionRef,
        component: Digest,
    ) -> Result<Loaded, Error> {
        let loaded = match self.inner.cache.code(&component) {
            Some(loaded) => loaded,
            None => self.inner.stock.load(component).await?,
        };
        Ok(self.loaded(function, component, loaded))
    }

    /// The same for a call that waits: on this thread, where that is quick.
    async fn load_now(&self, function: &FunctionRef, component: Digest) -> Result<Loaded, Error> {
        let loaded = match self.inner.cache.code(&component) {
            Some(loaded) => loaded,
            None => self.inner.stock.load_now(component).await?,
        };
        Ok(self.loaded(function, component, loaded))
    }

    fn loaded(&self, function: &FunctionRef, component: Digest, loaded: Loaded) -> Loaded {
        let now_ms = self.inner.stock.now_ms();
        let decision = self.inner.decided.now();
        let revision = decision.revision(function.revision).map(|(_, revision)| revision);
        let spec = revision.and_then(|revision| revision.spec.functions.get(&function.function));
        let reuse = spec.and_then(|spec| spec.scale.reuse);
        let (loaded, gone) = self.inner.cache.add(function, component, loaded, reuse, now_ms);
        let_go(gone);
        self.inner.stock.changed();
        loaded
    }

    /// Unloads a function; calls that run go on.
    pub(super) fn unload(&self, function: &FunctionRef) {
        if let Some(gone) = self.inner.cache.remove(function) {
            let_go(gone);
            self.inner.stock.changed();
        }
    }

    /// Loaded code may take so many bytes from now on.
    pub(crate) fn set_memory(&self, bytes_max: u64) {
        self.inner.cache.set_bytes_max(bytes_max);
    }

    /// What loaded code takes, and may take.
    pub(crate) fn memory(&self) -> Memory {
        let cache = &self.inner.cache;
        Memory {
            bytes: cache.bytes(),
            bytes_max: cache.bytes_max(),
            components: cache.components(),
        }
    }

    /// Functions unloaded since the start, by why, in the order of the label.
    pub(crate) fn unloads(&self) -> [u64; 2] {
        self.inner.cache.unloads.each()
    }

    /// What is loaded.
    pub(super) fn warmth(&self) -> BTreeMap<FunctionRef, Warmth> {
        self.inner.cache.warmth(self.inner.stock.now_ms())
    }

    /// When what was unloaded had been called last; forgets what need not be remembered.
    pub(super) fn rested_of(
        &self,
        keep: impl Fn(&FunctionRef) -> bool,
    ) -> BTreeMap<FunctionRef, u64> {
        self.inner.cache.rested(keep)
    }

    /// Says which functions are promised to be warm here.
    pub(super) fn set_steady(&self, steady: BTreeSet<FunctionRef>) {
        self.inner.cache.set_steady(steady);
    }

    /// Functions whose calls are forwarded again and again. Each is named until it is given to
    /// [`no_longer_asked_for`](Self::no_longer_asked_for) or its calls cease.
    pub(super) fn asked_for(&self) -> Vec<FunctionRef> {
        self.demand().wanted(self.inner.stock.now_ms())
    }

    /// Forgets the forwards of a function.
    pub(super) fn no_longer_asked_for(&self, function: &FunctionRef) {
        self.demand().forget(function);
    }

    /// Says what is wanted here beyond the plan.
    pub(super) fn set_demanded(&self, demanded: BTreeSet<FunctionRef>) {
        self.inner.demanded.store(Arc::new(demanded));
    }

    async fn bring_and_load(
        &self,
        function: &FunctionRef,
        component: Digest,
    ) -> Result<Loaded, Error> {
        if self.inner.stock.is_compiled(&component) {
            match self.load_now(function, component).await {
                Err(_) if self.is_wanted(function) => {}
                done => return done,
            }
        }
        // A call does not wait for others to compile.
        if !self.inner.maker.copy(component).await {
            if !self.inner.stock.holds(&component) {
                self.inner.fetcher.fetch(component).await?;
            }
            self.inner.stock.compile(component).await?;
        }
        self.load(function, component).await
    }

    fn demand(&self) -> MutexGuard<'_, Demand> {
        self.inner.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody waits for code to be unmapped.
fn let_go(gone: Gone) {
    if !gone.is_empty() {
        tokio::task::spawn_blocking(move || drop(gone));
    }
}
