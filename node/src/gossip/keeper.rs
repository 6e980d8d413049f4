//! Holds gossip together: runs chitchat, tells it what to say, publishes what it sees.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use chitchat::{Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, spawn_chitchat};
use nigh_model::{NodeId, Region, State};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::config::GossipConfig;
use super::counters::Counters;
use super::directory::Directory;
use super::envelope::Envelope;
use super::sessions::Sessions;
use super::transport::{Inbox, Wire, overflowing};
use super::view::{Heartbeats, Incarnation, node_of, view};
use super::ways::{Detours, Ways};
use super::{delay, keys, seeds};
use crate::clock;
use crate::error::Error;
use crate::seen::{Liveness, Report, View};

/// Between two looks at what chitchat knows, when nothing calls for one earlier.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Changes that come together are looked at together.
const GATHER: Duration = Duration::from_millis(10);
/// A look this late means that this node stood still: paused, or its machine overloaded …
const STALL: Duration = Duration::from_millis(600);
/// … and nobody is given up until the others had this long to be heard again.
const LENIENCE: Duration = Duration::from_millis(1_500);
/// Peers told of an urgent change at once; each tells others with its next round …
const TOLD_AT_ONCE: usize = 3;
/// … and not more often than this.
const TELL_INTERVAL: Duration = Duration::from_millis(50);
/// Peers to whom a leaving node says goodbye itself.
const GOODBYES_MAX: usize = 32;
/// A goodbye needs three ways (ask, answer, tell) of up to 150 ms each, within these rounds.
const GOODBYE_ROUNDS: u32 = 3;
/// Wait before gossip is started again after a failure inside.
const RESTART_BACKOFF: Duration = Duration::from_millis(100);
/// Datagrams handed to the delay line and not yet taken in by it.
const PARCELS_MAX: usize = 256;
/// Addresses found and not yet tried.
const FOUND_MAX: usize = 16;
/// Keys are never deleted, so that this matters to nobody; chitchat wants to be told.
const TOMBSTONE_GRACE: Duration = Duration::from_secs(60);

/// What the handles of gossip share with the keeper.
pub(super) struct Parts {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) reports: watch::Receiver<Report>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) counters: Arc<Counters>,
    pub(super) leave: CancellationToken,
    pub(super) stop: CancellationToken,
}

struct Keeper {
    config: GossipConfig,
    reports: watch::Receiver<Report>,
    counters: Arc<Counters>,
    leave: CancellationToken,
    stop: CancellationToken,
    wire: Wire,
    carrier: JoinHandle<()>,
    chitchat: ChitchatHandle,
    generation: u64,
    changed: Arc<Notify>,
    heartbeats: Heartbeats,
    live: Vec<SocketAddr>,
    looked: Instant,
    lenient_until: Instant,
    told: Option<Instant>,
}

/// Starts gossip and its keeper.
pub(super) async fn start(config: GossipConfig, parts: Parts) -> Result<JoinHandle<()>, Error> {
    let Parts { socket, reports, inbox, counters, leave, stop } = parts;
    let (parcels, line) = mpsc::channel(PARCELS_MAX);
    let detours = Detours::default();
    let (own, moves) = watch::channel(config.advertise);
    let ways = Ways {
        listen: config.listen,
        advertised: config.advertised.clone(),
        decided: config.decided.clone(),
        peers: config.peers.clone(),
        detours: detours.clone(),
        own,
    };
    tokio::spawn(ways.keep(stop.clone()));
    let carry = delay::carry(line, socket.clone(), counters.clone(), stop.clone());
    let carrier = tokio::spawn(carry);
    let wire = Wire {
        udp: socket,
        advertise: config.advertise,
        envelope: Envelope::new(&config.cluster),
        keys: config.keys.clone(),
        sessions: Arc::new(Mutex::new(Sessions::new(clock::random()))),
        began: Instant::now(),
        link: config.link.clone(),
        peers: config.peers.clone(),
        directory: Arc::new(ArcSwap::from_pointee(Directory::new(&config.decided.state(), []))),
        detours,
        parcels,
        overflowing: overflowing(),
        inbox,
        counters: counters.clone(),
    };
    let changed = Arc::new(Notify::new());
    let report = reports.borrow().clone();
    let chitchat = open(&config, config.generation, &report, &wire, &changed).await;
    let chitchat = chitchat.map_err(|error| Error::Internal(format!("gossip: {error:#}")))?;
    let (found, finds) = mpsc::channel(FOUND_MAX);
    tokio::spawn(seeds::keep_finding(
        (config.own, config.listen),
        config.seeds.clone(),
        config.decided.clone(),
        config.seen.clone(),
        found,
        stop.clone(),
    ));
    let now = Instant::now();
    let mut keeper = Keeper {
        generation: config.generation,
        config,
        reports,
        counters,
        leave,
        stop,
        wire,
        carrier,
        chitchat,
        changed,
        heartbeats: Heartbeats::default(),
        live: Vec::new(),
        looked: now,
        lenient_until: now,
        told: None,
    };
    keeper.look().await;
    let span = tracing::info_span!("gossip", node = %keeper.config.name);
    Ok(tokio::spawn(keeper.run(finds, moves).instrument(span)))
}

/// Starts chitchat as one incarnation of this node.
async fn open(
    config: &GossipConfig,
    generation: u64,
    report: &Report,
    wire: &Wire,
    changed: &Arc<Notify>,
) -> anyhow::Result<ChitchatHandle> {
    let id = ChitchatId::new(config.own.to_string(), generation, config.advertise);
    let settings = ChitchatConfig {
        chitchat_id: id,
        cluster_id: config.cluster.to_string(),
        gossip_interval: config.timing.interval,
        listen_addr: config.listen,
        seed_nodes: Vec::new(),
        failure_detector_config: config.timing.failure_detector(),
        marked_for_deletion_grace_period: TOMBSTONE_GRACE,
        catchup_callback: None,
        extra_liveness_predicate: None,
    };
    let mut said = keys::fixed(&config.region, config.zone.as_ref());
    said.extend(keys::encode(report).map(|(key, value)| (key.to_owned(), value)));
    let handle = spawn_chitchat(settings, said, wire).await?;
    let changed = changed.clone();
    let every_key = "";
    let listener = handle.chitchat();
    let listener = listener.lock().await.subscribe_event(every_key, move |_| changed.notify_one());
    listener.forever();
    Ok(handle)
}

impl Keeper {
    async fn run(
        mut self,
        mut finds: mpsc::Receiver<SocketAddr>,
        mut moves: watch::Receiver<SocketAddr>,
    ) {
        let (leave, stop, changed) = (self.leave.clone(), self.stop.clone(), self.changed.clone());
        let mut reports = self.reports.clone();
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = leave.cancelled() => return self.leave().await,
                ended = self.chitchat.termination_watcher() => self.restart(ended).await,
                _ = ticks.tick() => self.look().await,
                Ok(()) = reports.changed() => self.say().await,
                Some(address) = finds.recv() => self.greet(address),
                Ok(()) = moves.changed() => {
                    let address = *moves.borrow_and_update();
                    self.move_to(address).await;
                }
                () = changed.notified() => {
                    tokio::time::sleep(GATHER).await;
                    self.look().await;
                }
            }
        }
    }

    /// Tells chitchat what this node says of itself, and some peers at once if others wait
    /// for it.
    async fn say(&mut self) {
        let pairs = keys::encode(&self.reports.borrow());
        let urgent = self.chitchat.with_chitchat(|chitchat| set(chitchat, &pairs)).await;
        let now = Instant::now();
        if urgent && self.told.is_none_or(|told| now - told >= TELL_INTERVAL) {
            self.told = Some(now);
            let first = (clock::random() as usize).checked_rem(self.live.len()).unwrap_or_default();
            let count = self.live.len().min(TOLD_AT_ONCE);
            let some: Vec<_> = self.live.iter().cycle().skip(first).take(count).copied().collect();
            some.into_iter().for_each(|peer| self.greet(peer));
        }
        self.look().await;
    }

    /// Begins to gossip with whoever is there.
    fn greet(&self, address: SocketAddr) {
        if address != self.config.advertise {
            // It fails only when chitchat has ended, and then it is started again.
            let _ = self.chitchat.gossip(address);
        }
    }

    /// Publishes what is seen if it has changed, and learns who is where.
    async fn look(&mut self) {
        let chitchat = self.chitchat.chitchat();
        let chitchat = chitchat.lock().await;
        let now = Instant::now();
        if now - self.looked > STALL {
            self.lenient_until = now + LENIENCE;
        }
        self.looked = now;
        let last = self.config.seen.now();
        let stalled = (now < self.lenient_until).then_some(&**last);
        let live: HashSet<&ChitchatId> = chitchat.live_nodes().collect();
        let heartbeats = &mut self.heartbeats;
        let incarnations = chitchat.node_states().iter().map(|(id, state)| Incarnation {
            node: &id.node_id,
            generation: id.generation_id,
            live: live.contains(id),
            silent: heartbeats.note(id, state.heartbeat().into(), now),
            keys: state.key_values().collect(),
        });
        let view = view(self.config.own, &self.reports.borrow(), incarnations, stalled);
        self.heartbeats.retain(|id| chitchat.node_state(id).is_some());
        let own = chitchat.self_chitchat_id();
        let others = live.into_iter().filter(|id| id.node_id != own.node_id);
        self.live = others.map(|id| id.gossip_advertise_addr).collect();
        let heard = chitchat.node_states().iter().filter_map(|(id, state)| {
            let region = state.get(keys::REGION).and_then(|region| Region::new(region).ok());
            Some((node_of(&id.node_id)?, id.gossip_advertise_addr, region))
        });
        let directory = Directory::new(&self.config.decided.state(), heard);
        self.wire.directory.store(Arc::new(directory));
        drop(chitchat);
        if last.nodes != view.nodes {
            tell_changes(self.config.own, &last, &view, &self.config.decided.state());
            self.config.seen.publish(view);
        }
    }

    /// chitchat has ended, which it does only by a panic over a forged message: this node goes
    /// on as a new incarnation, without what it knew.
    async fn restart(&mut self, ended: anyhow::Result<()>) {
        let reason = ended.err().map(|error| error.to_string()).unwrap_or_default();
        tracing::warn!(reason, "gossip failed inside and is started again");
        self.counters.restarts.add();
        let report = self.reports.borrow().clone();
        loop {
            tokio::time::sleep(RESTART_BACKOFF).await;
            self.generation += 1;
            let (config, generation) = (&self.config, self.generation);
            match open(config, generation, &report, &self.wire, &self.changed).await {
                Ok(chitchat) => break self.chitchat = chitchat,
                Err(error) => tracing::warn!(%error, "gossip does not start"),
            }
        }
        // It knows nobody yet; the others are not dead for that.
        self.lenient_until = Instant::now() + LENIENCE;
        std::mem::take(&mut self.live).into_iter().for_each(|peer| self.greet(peer));
    }

    /// This node's name means another address now: it goes on there as a new incarnation, as an
    /// incarnation keeps its address for life.
    async fn move_to(&mut self, address: SocketAddr) {
        let from = self.config.advertise;
        self.config.advertise = address;
        self.wire.advertise = address;
        let report = self.reports.borrow().clone();
        let generation = self.generation + 1;
        match open(&self.config, generation, &report, &self.wire, &self.changed).await {
            Ok(chitchat) => {
                self.generation = generation;
                let before = std::mem::replace(&mut self.chitchat, chitchat);
                // All that can have failed is over anyway.
                let _ = before.shutdown().await;
                tracing::info!(%from, to = %address, "this node is reached at another address now");
                self.lenient_until = Instant::now() + LENIENCE;
                std::mem::take(&mut self.live).into_iter().for_each(|peer| self.greet(peer));
            }
            // The next failure inside, or the next move, tries again.
            Err(error) => tracing::warn!(%error, "gossip does not start at the new address"),
        }
    }

    /// Says goodbye and stops.
    async fn leave(self) {
        let goodbye = [(keys::GOODBYE.0, keys::GOODBYE.1.to_owned())];
        self.chitchat.with_chitchat(|chitchat| set(chitchat, &goodbye)).await;
        self.live.iter().take(GOODBYES_MAX).for_each(|peer| self.greet(*peer));
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(GOODBYE_ROUNDS * self.config.timing.interval) => {}
        }
        // All that can have failed is over anyway.
        let _ = self.chitchat.shutdown().await;
        self.stop.cancel();
        let _ = self.carrier.await;
    }
}

/// Sets what has changed; true if others wait for any of it.
fn set(chitchat: &mut Chitchat, pairs: &[(&'static str, String)]) -> bool {
    let state = chitchat.self_node_state();
    let mut urgent = false;
    for (key, value) in pairs {
        urgent |= keys::URGENT.contains(key) && state.get(key) != Some(value.as_str());
        state.set(key, value);
    }
    urgent
}

/// Logs who came and went.
fn tell_changes(own: NodeId, before: &View, now: &View, state: &State) {
    for (id, node) in now.nodes.iter().filter(|(id, _)| **id != own) {
        let name = state.nodes.get(id).map_or("not registered", |node| node.name.as_str());
        match (before.liveness(*id), node.liveness) {
            (was, is) if was == is => {}
            (_, Liveness::Dead) => tracing::info!(peer = name, id = %id, "a node is seen as dead"),
            (Liveness::Dead, _) => tracing::info!(peer = name, id = %id, "a node is seen as alive"),
            (was, is) => tracing::debug!(peer = name, id = %id, ?was, ?is, "seen otherwise"),
        }
    }
}
