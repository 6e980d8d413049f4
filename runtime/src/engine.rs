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

use crate::background::Background;
use crate::config::EngineConfig;
use crate::direct;
use crate::host::{self, Host};
use crate::instance::Keepers;
use crate::threads::{Going, Threads};
use crate::ticker::{TICK, Ticker};
use crate::{ComponentInfo, Error, Failure, inspect};

/// The wasmtime that compiles and runs guests.
const WASMTIME_VERSION: &str = "48.0.8";

/// Hexadecimal digits of an engine's fingerprint: 64 bits, that no two engines share by chance.
pub const FINGERPRINT_DIGITS: usize = 16;

/// Compiles, loads and runs guests. A clone is the same engine.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) linker: Linker<Host>,
    /// For modules that run directly.
    pub(crate) modules: wasmtime::Linker<Host>,
    pub(crate) config: EngineConfig,
    pub(crate) background: Background,
    /// Instances that wait for their next call.
    pub(crate) keepers: Keepers,
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
        let modules =
            direct::linker(&wasmtime).map_err(|error| internal(format!("linker: {error:#}")))?;
        let (threads, going) = Threads::start(config.threads)?;
        let inner = Inner {
            ticker: Ticker::start(wasmtime.clone())?,
            key: key_of(&wasmtime),
            threads,
            going: Mutex::new(Some(going)),
            slots: Arc::new(Semaphore::new(config.slots as usize)),
            panics: AtomicU64::new(0),
            background: Background::default(),
            keepers: Keepers::default(),
            wasmtime,
            linker,
            modules,
            config,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Names all that decides what a component is compiled to and where that may run: wasmtime's
    /// version and settings, the target, the features of this machine's processor, and the build
    /// of nigh.
    ///
    /// Fit for a file name. An artifact may only be loaded by an engine of the same key.
    pub fn key(&self) -> &str {
        &self.inner.key
    }

    /// The same in [`FINGERPRINT_DIGITS`] hexadecimal digits.
    pub fn fingerprint(&self) -> &str {
        &self.inner.key[self.inner.key.len() - FINGERPRINT_DIGITS..]
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
        let permit = loop {
            match Arc::clone(&self.slots).try_acquire_many_owned(weight) {
                Ok(permit) => break permit,
                // What waits for a call gives way to what has one.
                Err(TryAcquireError::NoPermits) if self.keepers.let_go() => {}
                Err(TryAcquireError::NoPermits) => return Err(Failure::NoSlot),
                Err(TryAcquireError::Closed) => return Err(Failure::Stopping),
            }
        };
        self.ticker.enter();
        Ok(Slot { engine: Arc::clone(self), runs: true, _permit: permit })
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

/// Room for one instance. Held until its store is gone.
pub(crate) struct Slot {
    engine: Arc<Inner>,
    /// Whether it is counted as running.
    runs: bool,
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    /// Its instance waits for its next call.
    pub(crate) fn rest(&mut self) {
        if std::mem::take(&mut self.runs) {
            self.engine.ticker.leave();
        }
    }

    /// Its instance has a call again.
    pub(crate) fn wake(&mut self) {
        if !std::mem::replace(&mut self.runs, true) {
            self.engine.ticker.enter();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.rest();
    }
}

/// Wasmtime's hash covers its version, the target, every setting of Cranelift, and the features
/// that were found in this machine's processor. It does not know who built it: code of a debug
/// build, or of another release of nigh, is not run here.
fn key_of(engine: &wasmtime::Engine) -> String {
    let mut fingerprint = Fingerprint(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut fingerprint);
    (env!("CARGO_PKG_VERSION"), cfg!(debug_assertions)).hash(&mut fingerprint);
    let digest = hex::encode(fingerprint.0.finalize());
    let arch = std::env::consts::ARCH;
    format!("wasmtime-{WASMTIME_VERSION}-{arch}-{}", &digest[..FINGERPRINT_DIGITS])
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
        assert!(plain.key().ends_with(plain.fingerprint()));
        let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        assert!(plain.key().chars().all(safe), "{}", plain.key());
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
    fn the_key_follows_the_features_of_the_processor() {
        let native = EngineConfig { slots: 2, threads: 1, ..EngineConfig::default() }.wasmtime();
        // With a target that is named, nothing is found out about this machine: code for any.
        let mut any = native.clone();
        any.target("x86_64-unknown-linux-gnu").unwrap();
        let key = |config| key_of(&wasmtime::Engine::new(config).unwrap());
        assert_ne!(key(&native), key(&any));
        assert_eq!(key(&native), key(&native));
    }
}
