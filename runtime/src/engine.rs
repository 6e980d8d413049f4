//! The engine: owns what all guests of a node share, and lets in no more than fit.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use wasmtime::component::Linker;

use crate::config::EngineConfig;
use crate::host::{self, Host};
use crate::threads::{Going, Threads};
use crate::ticker::{TICK, Ticker};
use crate::{ComponentInfo, Error, Failure, inspect};

/// The wasmtime that compiles and runs guests.
const WASMTIME_VERSION: &str = "48.0.8";

/// Compiles, loads and runs guests. A clone is the same engine.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) linker: Linker<Host>,
    pub(crate) config: EngineConfig,
    key: String,
    ticker: Ticker,
    threads: Threads,
    going: Mutex<Option<Going>>,
    slots: Arc<Semaphore>,
    panics: AtomicU64,
}

impl Engine {
    /// The wasmtime version that this build holds.
    pub const WASMTIME_VERSION: &str = WASMTIME_VERSION;

    /// Makes an engine, its guest threads and its ticker.
    ///
    /// # Errors
    /// The configuration cannot work, or the machine lacks address space or threads.
    pub fn new(config: EngineConfig) -> Result<Self, Error> {
        config.check()?;
        let internal = |why: String| Error::Internal { why };
        let wasmtime = wasmtime::Engine::new(&config.wasmtime())
            .map_err(|error| internal(format!("wasmtime engine: {error:#}")))?;
        let linker =
            host::linker(&wasmtime).map_err(|error| internal(format!("linker: {error:#}")))?;
        let (threads, going) = Threads::start(config.threads)?;
        let inner = Inner {
            ticker: Ticker::start(wasmtime.clone())?,
            key: key_of(&wasmtime),
            threads,
            going: Mutex::new(Some(going)),
            slots: Arc::new(Semaphore::new(config.slots as usize)),
            panics: AtomicU64::new(0),
            wasmtime,
            linker,
            config,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Names the wasmtime version, the target and every setting that changes compiled code.
    ///
    /// Fit for a file name. An artifact may only be loaded by an engine of the same key.
    pub fn key(&self) -> &str {
        &self.inner.key
    }

    /// Looks at a component without compiling it: is it one that can be a function?
    ///
    /// # Errors
    /// No WebAssembly, a core module, broken, no handler, or an import that the host lacks.
    pub fn inspect(&self, wasm: &[u8]) -> Result<ComponentInfo, Error> {
        inspect::inspect(wasm)
    }

    /// Instances running now.
    pub fn running(&self) -> u32 {
        self.inner.ticker.running()
    }

    /// Instances that may run at once.
    pub fn slots(&self) -> u32 {
        self.inner.config.slots
    }

    /// Host panics caught at the edge of a call or compilation since the engine was made.
    pub fn panics(&self) -> u64 {
        self.inner.panics.load(Ordering::Relaxed)
    }

    /// The threads that run guests. Who calls a function there runs it on the spot: a server whose
    /// connections live there hands no call to another task.
    pub fn threads(&self) -> &Threads {
        &self.inner.threads
    }

    /// Starts no more guests; those still running after `grace` are cut off. Does not block.
    pub fn shutdown(&self, grace: Duration) {
        self.inner.slots.close();
        let Some(going) = self.inner.stop() else { return };
        let ends = Instant::now() + grace;
        let inner = Arc::clone(&self.inner);
        let wait = move || {
            while inner.ticker.running() > 0 && Instant::now() < ends {
                thread::sleep(TICK);
            }
            drop(going);
        };
        if let Err(error) = thread::Builder::new().name("guest-shutdown".into()).spawn(wait) {
            tracing::warn!(%error, "no thread for an orderly shutdown, guests are cut off");
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("key", &self.inner.key).finish_non_exhaustive()
    }
}

impl Inner {
    /// Takes room for an instance, or refuses at once: waiting is the caller's business.
    pub(crate) fn admit(self: &Arc<Self>, weight: u32) -> Result<Slot, Failure> {
        let permit = match Arc::clone(&self.slots).try_acquire_many_owned(weight) {
            Ok(permit) => permit,
            Err(TryAcquireError::NoPermits) => return Err(Failure::NoSlot),
            Err(TryAcquireError::Closed) => return Err(Failure::Stopping),
        };
        self.ticker.enter();
        Ok(Slot { engine: Arc::clone(self), _permit: permit })
    }

    /// Where guests run.
    pub(crate) const fn threads(&self) -> &Threads {
        &self.threads
    }

    /// Counts a host panic and says what it was.
    pub(crate) fn caught(&self, panic: &(dyn std::any::Any + Send)) -> String {
        self.panics.fetch_add(1, Ordering::Relaxed);
        let text = panic.downcast_ref::<&str>().copied();
        let message = text
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        format!("panic: {message}")
    }

    /// What keeps the threads going, to be dropped.
    fn stop(&self) -> Option<Going> {
        self.going.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Room for one running instance. Held until its store is gone.
pub(crate) struct Slot {
    engine: Arc<Inner>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.engine.ticker.leave();
    }
}

fn key_of(engine: &wasmtime::Engine) -> String {
    let mut fingerprint = Fingerprint(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut fingerprint);
    let digest = hex::encode(fingerprint.0.finalize());
    format!("wasmtime-{WASMTIME_VERSION}-{}-{}", std::env::consts::ARCH, &digest[..16])
}

/// A hasher whose result is the same in every process.
struct Fingerprint(Sha256);

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_wasmtime_is_the_one_that_is_built_in() {
        let manifest = include_str!("../../Cargo.toml");
        assert!(manifest.contains(&format!("wasmtime = {{ version = \"={WASMTIME_VERSION}\"")));
    }

    #[test]
    fn the_key_follows_what_changes_code() {
        let engine = |change: fn(&mut EngineConfig)| {
            let mut config = EngineConfig { slots: 2, threads: 1, ..EngineConfig::default() };
            change(&mut config);
            Engine::new(config).unwrap()
        };
        let plain = engine(|_| ());
        assert_eq!(plain.key(), engine(|config| config.slots = 3).key());
        assert_ne!(plain.key(), engine(|config| config.memory_reservation_bytes = 2 << 30).key());
        let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        assert!(plain.key().chars().all(safe), "{}", plain.key());
    }
}
