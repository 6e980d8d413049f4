//! Loaded code as a cache under a budget of memory: one entry for each component, shared by all
//! functions that are made of it.
//!
//! Which function is loaded is read by every call, without a lock; who changes that takes one. What
//! makes room for what is decided by `placement::demand::room`. It deliberately loads nothing itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use nigh_model::spec::Reuse;
use nigh_model::{Digest, FunctionRef};
use nigh_placement::demand::room::{Rank, Resident, Room};
use nigh_runtime::Loaded;

use super::counters::Unloads;
use super::diff::Warmth;

/// What a function takes besides the code that it shares, in bytes: its places in the maps here.
const FUNCTION_BYTES: u64 = 512;
/// When the budget is exceeded, room is made down to this share of it: whoever is loaded next then
/// finds some, and not everyone looks through all that is loaded.
const ROOM_PERCENT: u64 = 95;

/// Components loaded at once, however small: each takes an open file and four or five of the mappings
/// of which Linux allows a process 65,530.
pub(super) const COMPONENTS_MAX: usize = 8_192;

/// What is loaded, by function. A clone costs nothing, however many there are.
pub(super) type ByFunction = imbl::HashMap<FunctionRef, Arc<Warm>>;

/// How many components are looked at before whoever loads something else has its turn: some µs.
const LOOKED_AT_ONCE: usize = 32;

/// Loaded code.
pub(super) struct Cache {
    warm: ArcSwap<ByFunction>,
    held: Mutex<Held>,
    bytes_max: AtomicU64,
    bytes: AtomicU64,
    components: AtomicUsize,
    pub(super) unloads: Unloads,
}

/// A loaded function.
pub(super) struct Warm {
    pub(super) loaded: Loaded,
    component: Digest,
    last_call_ms: AtomicU64,
}

#[derive(Default)]
struct Held {
    components: HashMap<Digest, Component>,
    bytes: u64,
    room: Room,
    /// Functions that are promised to be warm.
    steady: BTreeSet<FunctionRef>,
    /// When what was unloaded had been called last, while it is still wanted.
    rested: imbl::OrdMap<FunctionRef, u64>,
}

/// The code of a component, and the functions that are made of it.
struct Component {
    loaded: Loaded,
    functions: BTreeMap<FunctionRef, Arc<Warm>>,
    rank: Rank,
}

/// Code that is not loaded any more. Letting go of it unmaps it, which takes a while for each
/// component and more the more of them there are: on a thread that may block.
#[must_use = "dropped here it holds up whoever drops it"]
pub(super) struct Gone(Vec<Component>);

impl Gone {
    /// Whether there is nothing to let go of.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why functions are unloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Nobody called them for long, or they are not wanted here any more.
    Idle,
    /// They made room for others.
    Room,
}

impl Cache {
    /// Nothing is loaded yet; at most so many bytes shall be.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            warm: ArcSwap::default(),
            held: Mutex::default(),
            bytes_max: AtomicU64::new(bytes_max),
            bytes: AtomicU64::new(0),
            components: AtomicUsize::new(0),
            unloads: Unloads::default(),
        }
    }

    /// The functions that are loaded, as they are now.
    pub(super) fn functions(&self) -> arc_swap::Guard<Arc<ByFunction>> {
        self.warm.load()
    }

    /// A loaded function, to be called now.
    pub(super) fn take(&self, function: &FunctionRef, now_ms: u64) -> Option<Loaded> {
        let warm = self.warm.load();
        let warm = warm.get(function)?;
        warm.last_call_ms.store(now_ms, Relaxed);
        Some(warm.loaded.clone())
    }

    /// The code of a component, if a function that is made of it is loaded.
    pub(super) fn code(&self, component: &Digest) -> Option<Loaded> {
        self.held().components.get(component).map(|held| held.loaded.clone())
    }

    /// Adds a function that is made of this code; makes room for it. What the function is called
    /// with from now on: the code of its component that is here already, if there is one; and what
    /// made room.
    pub(super) fn add(
        &self,
        function: &FunctionRef,
        component: Digest,
        loaded: Loaded,
        reuse: Option<Reuse>,
        now_ms: u64,
    ) -> (Loaded, Gone) {
        let mut held = self.held();
        held.rested.remove(function);
        let mut more = 0;
        let shared = held.components.entry(component).or_insert_with(|| {
            more += loaded.bytes();
            Component { loaded, functions: BTreeMap::new(), rank: Rank::default() }
        });
        let loaded = match shared.functions.get(function) {
            Some(warm) => warm.loaded.clone(),
            None => {
                more += FUNCTION_BYTES;
                // Code is shared, instances are not.
                let loaded = match reuse {
                    Some(Reuse { uses, instances }) => shared.loaded.reusing(uses, instances),
                    None => shared.loaded.clone(),
                };
                let last_call_ms = AtomicU64::new(now_ms);
                let warm = Arc::new(Warm { loaded: loaded.clone(), component, last_call_ms });
                shared.functions.insert(function.clone(), warm.clone());
                self.change(|functions| {
                    functions.insert(function.clone(), warm);
                });
                loaded
            }
        };
        held.bytes += more;
        let gone = self.make_room(&mut held, component);
        self.tell(&held);
        (loaded, Gone(gone))
    }

    /// Removes a function, if it is loaded. Calls that run go on.
    pub(super) fn remove(&self, function: &FunctionRef) -> Option<Gone> {
        let warm = self.warm.load().get(function).cloned()?;
        let mut held = self.held();
        let shared = held.components.get_mut(&warm.component)?;
        shared.functions.remove(function)?;
        held.bytes -= FUNCTION_BYTES;
        let last = held.components.get(&warm.component).is_some_and(|c| c.functions.is_empty());
        let gone = if last { held.components.remove(&warm.component) } else { None };
        held.bytes -= gone.as_ref().map_or(0, |gone| gone.loaded.bytes());
        held.rested.insert(function.clone(), warm.last_call_ms.load(Relaxed));
        self.change(|functions| {
            functions.remove(function);
        });
        self.tell(&held);
        self.unloads.count(Why::Idle, 1);
        Some(Gone(gone.into_iter().collect()))
    }

    /// How each function that is loaded is used. Loads wait for a few of them at a time, and not for all.
    pub(super) fn warmth(&self, now_ms: u64) -> BTreeMap<FunctionRef, Warmth> {
        let functions = self.warm.load_full();
        let mut sharing: HashMap<Digest, usize> = HashMap::new();
        for warm in functions.values() {
            *sharing.entry(warm.component).or_default() += 1;
        }
        let components: Vec<Digest> = sharing.keys().copied().collect();
        for some in components.chunks(LOOKED_AT_ONCE) {
            let mut held = self.held();
            let Held { components, room, .. } = &mut *held;
            for component in some {
                if let Some(shared) = components.get_mut(component) {
                    let mut resident = shared.resident(false);
                    room.look(&mut resident);
                    shared.rank = resident.rank;
                }
            }
        }
        let warmth = |(function, warm): (&FunctionRef, &Arc<Warm>)| {
            let component = warm.component;
            // Its component holds the code, each function of it, and each call that runs.
            let is_called = warm.loaded.holders() > sharing[&component] + 1;
            let last_call_ms = if is_called { now_ms } else { warm.last_call_ms.load(Relaxed) };
            (function.clone(), Warmth { component, last_call_ms })
        };
        functions.iter().map(warmth).collect()
    }

    /// When what was unloaded had been called last; forgets what need not be remembered.
    pub(super) fn rested(&self, keep: impl Fn(&FunctionRef) -> bool) -> BTreeMap<FunctionRef, u64> {
        let all = self.held().rested.clone();
        let (kept, gone): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(function, _)| keep(function));
        if !gone.is_empty() {
            let mut held = self.held();
            for (function, _) in &gone {
                held.rested.remove(function);
            }
        }
        kept.into_iter().collect()
    }

    /// Says which functions are promised to be warm: they make no room for others.
    pub(super) fn set_steady(&self, steady: BTreeSet<FunctionRef>) {
        self.held().steady = steady;
    }

    /// Changes the budget; room is made when something is loaded next.
    pub(super) fn set_bytes_max(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Relaxed);
    }

    /// Most bytes that loaded code shall take.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max.load(Relaxed)
    }

    /// Components that are loaded.
    pub(super) fn components(&self) -> usize {
        self.components.load(Relaxed)
    }

    /// What loaded code takes, by estimate.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Lets components go while more is loaded than the budget; never the one that was just loaded,
    /// since a call waits for it.
    fn make_room(&self, held: &mut Held, just_loaded: Digest) -> Vec<Component> {
        let bytes_max = match held.components.len() {
            ..=COMPONENTS_MAX => self.bytes_max(),
            _ => self.bytes_max().min(held.bytes.saturating_sub(1)),
        };
        if held.bytes <= bytes_max {
            return Vec::new();
        }
        let Held { components, bytes, room, steady, rested } = held;
        let mut digests = Vec::with_capacity(components.len());
        let mut residents = Vec::with_capacity(components.len());
        for (digest, shared) in components.iter() {
            let promised = || shared.functions.keys().any(|function| steady.contains(function));
            let keep = *digest == just_loaded || shared.is_called() || promised();
            digests.push(*digest);
            residents.push(shared.resident(keep));
        }
        let mut out = Vec::new();
        room.make(&mut residents, bytes_max / 100 * ROOM_PERCENT, &mut out);
        for (digest, resident) in digests.iter().zip(&residents) {
            if let Some(shared) = components.get_mut(digest) {
                shared.rank = resident.rank;
            }
        }
        let gone: Vec<Component> =
            out.into_iter().filter_map(|at| components.remove(&digests[at])).collect();
        let mut count = 0;
        self.change(|functions| {
            for (function, warm) in gone.iter().flat_map(|shared| &shared.functions) {
                functions.remove(function);
                rested.insert(function.clone(), warm.last_call_ms.load(Relaxed));
                count += 1;
            }
        });
        *bytes -= gone.iter().map(Component::bytes).sum::<u64>();
        self.unloads.count(Why::Room, count);
        gone
    }

    /// Changes what is read by calls. Only called with the lock held.
    fn change(&self, change: impl FnOnce(&mut ByFunction)) {
        let mut functions = ByFunction::clone(&self.warm.load());
        change(&mut functions);
        self.warm.store(Arc::new(functions));
    }

    fn tell(&self, held: &Held) {
        self.bytes.store(held.bytes, Relaxed);
        self.components.store(held.components.len(), Relaxed);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Component {
    /// Whether calls run: they hold the code, as do each of its functions and this.
    fn is_called(&self) -> bool {
        self.loaded.holders() > self.functions.len() + 1
    }

    fn bytes(&self) -> u64 {
        self.loaded.bytes() + self.functions.len() as u64 * FUNCTION_BYTES
    }

    fn resident(&self, keep: bool) -> Resident {
        let calls = self.functions.values().map(|warm| warm.last_call_ms.load(Relaxed));
        let last_call_ms = calls.max().unwrap_or_default();
        Resident { bytes: self.bytes(), last_call_ms, keep, rank: self.rank }
    }
}
