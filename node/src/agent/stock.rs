//! What is on this node's disk: components and their compiled artifacts.
//!
//! The one place where the agent touches the store and the compiler, all of it on threads that
//! may block; `attested` is the part of it that deals with other nodes' compiled artifacts. It
//! deliberately does not decide what should be here.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use nigh_model::Digest;
use nigh_proto::peer::v1::Progress;
use nigh_runtime::{Engine, Loaded};
use nigh_storage::ArtifactStore;
use tokio::sync::{RwLock, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::counters::Counters;
use super::error::{Error, blocking};
use super::flight::Flights;
use super::incoming::Incoming;
use crate::identity::Own;

/// A component from this size on is compiled alone: compiling takes some tens of times its size
/// in memory.
const LARGE_BYTES: u64 = 4 << 20;
/// A compiled file of up to this size is mapped by the call that waits for it.
const HERE_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a component read at once …
const PIECE_BYTES: usize = 256 << 10;
/// … and pieces read ahead of who takes them.
const PIECES_AHEAD: usize = 4;

/// The components and compiled artifacts on this node's disk. A clone is the same stock.
#[derive(Clone)]
pub(crate) struct Stock {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Arc<ArtifactStore>,
    pub(super) engine: Engine,
    /// Signs what is compiled here.
    pub(super) identity: Own,
    index: Mutex<Index>,
    /// What is being compiled, or waits for its turn to be.
    working: Mutex<BTreeSet<Digest>>,
    /// Read while a component is put in place, written while one is removed: an upload of what
    /// is just being removed must not be lost.
    pub(super) placing: RwLock<()>,
    compilers: Semaphore,
    compilers_max: u32,
    compiling: Flights<Digest, ()>,
    loading: Flights<Digest, Loaded>,
    changes: watch::Sender<u64>,
    began: Instant,
    pub(super) counters: Counters,
}

/// What is where, so that no call asks the disk. A clone costs nothing, however much there is: calls wait
/// meanwhile.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// When each component was last put or asked for, in ms of [`Stock::now_ms`].
    pub(super) components: imbl::OrdMap<Digest, u64>,
    /// Components whose compiled artifact of this engine is there.
    pub(super) compiled: imbl::OrdSet<Digest>,
}

impl Stock {
    /// Looks at what is on disk. Blocks.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub(crate) fn open(
        store: Arc<ArtifactStore>,
        engine: Engine,
        identity: Own,
        compile_threads: usize,
    ) -> Result<Self, Error> {
        store.remove_other_engines(engine.key())?;
        let index = Index {
            components: store.list()?.into_iter().map(|digest| (digest, 0_u64)).collect(),
            compiled: store.list_compiled(engine.key())?.into_iter().collect(),
        };
        let compilers_max = u32::try_from(compile_threads).unwrap_or(u32::MAX).clamp(1, 1 << 16);
        let inner = Inner {
            store,
            engine,
            identity,
            index: Mutex::new(index),
            working: Mutex::default(),
            placing: RwLock::new(()),
            compilers: Semaphore::new(compilers_max as usize),
            compilers_max,
            compiling: Flights::default(),
            loading: Flights::default(),
            changes: watch::channel(0).0,
            began: Instant::now(),
            counters: Counters::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The agent's clock: ms since the node's start, never going back.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.inner.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What was brought and made.
    pub(crate) fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Follows changes of what is here, on disk or loaded.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Whether the component is here.
    pub(crate) fn holds(&self, digest: &Digest) -> bool {
        self.index().components.contains_key(digest)
    }

    /// The same for one that is about to be used: if it is here, it stays for a grace.
    pub(crate) fn holds_for_use(&self, digest: &Digest) -> bool {
        let now_ms = self.now_ms();
        match self.index().components.get_mut(digest) {
            Some(asked_ms) => {
                *asked_ms = now_ms;
                true
            }
            None => false,
        }
    }

    /// Whether the compiled artifact is here.
    pub(crate) fn is_compiled(&self, digest: &Digest) -> bool {
        self.index().compiled.contains(digest)
    }

    /// The component's size; none when it is not here.
    pub(crate) async fn size_of(&self, digest: Digest) -> Result<Option<u64>, Error> {
        if !self.holds_for_use(&digest) {
            return Ok(None);
        }
        let store = self.inner.store.clone();
        blocking(move || Ok(store.len(digest)?)).await
    }

    /// What is where.
    pub(super) fn snapshot(&self) -> Index {
        self.index().clone()
    }

    /// Begins to take in a component; it must have exactly `bytes` when they were announced.
    pub(crate) fn receive(&self, digest: Digest, bytes: Option<u64>) -> Incoming {
        Incoming::begin(self.clone(), digest, bytes)
    }

    /// A component's bytes, their digest checked.
    pub(crate) async fn read(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        let store = self.inner.store.clone();
        let read = blocking(move || Ok(store.read(digest)?)).await;
        if let Err(Error::Storage(error)) = &read {
            self.forget_if_broken(digest, error).await?;
        }
        read
    }

    /// A component's bytes in pieces, their digest checked at the end.
    pub(crate) fn stream(&self, digest: Digest) -> BoxStream<'static, Result<Bytes, Error>> {
        let (pieces, coming) = mpsc::channel(PIECES_AHEAD);
        let store = self.inner.store.clone();
        tokio::task::spawn_blocking(move || {
            let read = || -> Result<(), nigh_storage::Error> {
                let mut reader = store.open_reader(digest)?;
                while let Some(piece) = reader.next(PIECE_BYTES)? {
                    if pieces.blocking_send(Ok(piece)).is_err() {
                        return Ok(());
                    }
                }
                Ok(())
            };
            if let Err(error) = read() {
                let _ = pieces.blocking_send(Err(Error::from(error)));
            }
        });
        ReceiverStream::new(coming).boxed()
    }

    /// Compiles a component that is here, unless it is compiled; single flight.
    pub(crate) async fn compile(&self, digest: Digest) -> Result<(), Error> {
        if self.is_compiled(&digest) {
            return Ok(());
        }
        let stock = self.clone();
        self.inner.compiling.join(digest, || stock.compile_now(digest)).await
    }

    async fn compile_now(self, digest: Digest) -> Result<(), Error> {
        let _working = Working::begin(&self, digest);
        let stopping = |_| Error::Internal("the node stops".into());
        let bytes = self.size_of(digest).await?.unwrap_or_default();
        let share = if bytes >= LARGE_BYTES { self.inner.compilers_max } else { 1 };
        let _some_of_few = self.inner.compilers.acquire_many(share).await.map_err(stopping)?;
        if self.is_compiled(&digest) {
            return Ok(());
        }
        let began = Instant::now();
        let counters = &self.inner.counters;
        tracing::debug!(component = %digest, bytes, "compiling");
        if let Err(error) = self.compile_alone(digest).await {
            counters.compile_failed.add();
            return Err(error);
        }
        counters.compiled.add();
        counters.compile.observe(began.elapsed());
        self.compiled(digest);
        tracing::info!(component = %digest, ms = began.elapsed().as_millis(), "compiled");
        Ok(())
    }

    async fn compile_alone(&self, digest: Digest) -> Result<(), Error> {
        let wasm = self.read(digest).await?;
        let stock = self.clone();
        blocking(move || {
            let Inner { store, engine, .. } = &*stock.inner;
            let artifact = engine.compile(&wasm)?;
            let content = store.put_compiled(engine.key(), digest, &artifact)?;
            stock.attest(digest, content, artifact.len() as u64);
            Ok(())
        })
        .await
    }

    /// How far this node is with compiling a component.
    pub(super) fn progress(&self, digest: &Digest) -> Progress {
        if self.is_compiled(digest) {
            Progress::Compiled
        } else if self.working().contains(digest) {
            Progress::Compiling
        } else {
            Progress::None
        }
    }

    /// Components that are being compiled, or wait for their turn to be.
    pub(crate) fn compiling(&self) -> usize {
        self.working().len()
    }

    /// A compiled artifact was put in place.
    pub(super) fn compiled(&self, digest: Digest) {
        self.index().compiled.insert(digest);
        self.changed();
    }

    /// Maps the compiled artifact of a component; single flight.
    ///
    /// # Errors
    /// An artifact that cannot be used is removed: it must be compiled again.
    pub(crate) async fn load(&self, digest: Digest) -> Result<Loaded, Error> {
        let stock = self.clone();
        self.inner.loading.join(digest, || stock.load_elsewhere(digest)).await
    }

    /// The same for a call that waits. A file that is not large, and was looked at before, is mapped
    /// on this thread: that takes less than another thread takes to wake up.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) async fn load_now(&self, digest: Digest) -> Result<Loaded, Error> {
        let inner = &self.inner;
        let known = inner.store.compiled_checked(inner.engine.key(), digest);
        if let Some((path, _)) = known.filter(|(_, bytes)| *bytes <= HERE_BYTES_MAX)
            && let Ok(loaded) = inner.loading.join_here(digest, || self.load_here(&path)).await
        {
            return Ok(loaded);
        }
        // What is wrong with it is found out there, and what follows done.
        self.load(digest).await
    }

    /// Counted when it is good: what is not is tried once more, elsewhere.
    fn load_here(&self, path: &Path) -> Result<Loaded, Error> {
        let loaded = self.inner.engine.load(path)?;
        self.inner.counters.loaded.add();
        Ok(loaded)
    }

    async fn load_elsewhere(self, digest: Digest) -> Result<Loaded, Error> {
        let inner = self.inner.clone();
        let loaded = blocking(move || {
            let path = inner.store.compiled_path(inner.engine.key(), digest)?;
            let path = path.ok_or(nigh_storage::Error::NoSuchArtifact { digest })?;
            Ok(inner.engine.load(&path)?)
        })
        .await;
        let counters = &self.inner.counters;
        let ended = if loaded.is_ok() { &counters.loaded } else { &counters.load_failed };
        ended.add();
        // A removed one is no surprise, its file is gone and so is its place in the index.
        if let Err(error) = &loaded
            && !matches!(error, Error::Internal(_))
            && self.is_compiled(&digest)
        {
            tracing::warn!(component = %digest, %error, "a compiled artifact is unusable");
            self.remove_compiled(digest).await?;
        }
        loaded
    }

    /// Removes the compiled artifact.
    pub(crate) async fn remove_compiled(&self, digest: Digest) -> Result<(), Error> {
        self.index().compiled.remove(&digest);
        let inner = self.inner.clone();
        let remove = move || Ok(inner.store.remove_compiled(inner.engine.key(), digest)?);
        let removed = blocking(remove).await;
        // Not before: who brings it again must not have that removed.
        self.changed();
        removed
    }

    /// Removes a component, unless it was put or asked for after `asked_ms`.
    pub(crate) async fn remove(&self, digest: Digest, asked_ms: u64) -> Result<(), Error> {
        let _alone = self.inner.placing.write().await;
        {
            let mut index = self.index();
            if index.components.get(&digest).is_some_and(|ms| *ms > asked_ms) {
                return Ok(());
            }
            index.components.remove(&digest);
        }
        let store = self.inner.store.clone();
        blocking(move || Ok(store.remove(digest)?)).await
    }

    /// A component was put in place.
    pub(super) fn placed(&self, digest: Digest) {
        let now_ms = self.now_ms();
        self.index().components.insert(digest, now_ms);
        self.changed();
    }

    /// Tells those who follow that something is here or gone.
    pub(super) fn changed(&self) {
        self.inner.changes.send_modify(|version| *version += 1);
    }

    /// What turned out to be lost or damaged must be fetched again.
    pub(super) async fn forget_if_broken(
        &self,
        digest: Digest,
        error: &nigh_storage::Error,
    ) -> Result<(), Error> {
        use nigh_storage::Error::{Corrupt, NoSuchArtifact};
        if matches!(error, NoSuchArtifact { .. } | Corrupt { .. }) && self.holds(&digest) {
            tracing::warn!(component = %digest, %error, "a component is lost on this node");
            self.remove(digest, u64::MAX).await?;
            self.changed();
        }
        Ok(())
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.inner.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn working(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.inner.working.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Others are told that this node compiles, until this is dropped.
pub(super) struct Working {
    stock: Stock,
    digest: Digest,
}

impl Working {
    pub(super) fn begin(stock: &Stock, digest: Digest) -> Self {
        stock.working().insert(digest);
        stock.changed();
        Self { stock: stock.clone(), digest }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.stock.working().remove(&self.digest);
        self.stock.changed();
    }
}
