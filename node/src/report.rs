//! Tells the others by gossip what this node has and how loaded it is.

use std::time::Duration;

use nigh_model::NodeId;
use nigh_runtime::{Behind, Engine};
use nigh_storage::LogStore;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::control::prefix;
use crate::decided::Decided;
use crate::gossip::{Filter, Keys, Publisher};
use crate::identity::Own;
use crate::process::Process;
use crate::rest::Rest;
use crate::seen::{DiskReport, IdentityReport, Load, Report, Room};

/// Load is told this often; what the node has is told at once.
const LOAD_INTERVAL: Duration = Duration::from_millis(500);
/// Where what a node says of itself comes from, and where it goes to.
pub(crate) struct Told {
    /// This node.
    pub(crate) own: NodeId,
    /// What is decided of it.
    pub(crate) decided: Decided,
    /// What is here.
    pub(crate) agent: Agent,
    /// What runs.
    pub(crate) engine: Engine,
    /// How the disk below the log does.
    pub(crate) log: LogStore,
    /// Who the node is.
    pub(crate) identity: Own,
    /// The keys of gossip.
    pub(crate) keys: Keys,
    /// The room on the disk.
    pub(crate) room: watch::Receiver<Option<Room>>,
    /// Tells it.
    pub(crate) publisher: Publisher,
    /// Where it looks around.
    pub(crate) behind: Behind,
}

/// Publishes what this node says of itself, until cancelled. It says that it drains when that is
/// decided, and when it is about to stop.
pub(crate) async fn keep_reporting(
    told: Told,
    leaving: CancellationToken,
    stop: CancellationToken,
) {
    let Told { own, decided, agent, engine, log, identity, keys, mut room, publisher, behind } =
        told;
    let mut process = Process::new();
    let mut cpu = 0.0;
    let mut settled = agent.settled.clone();
    let mut shelf = agent.shelf.changes();
    let mut keys_changed = keys.changes();
    let mut changes = decided.changes();
    let mut left = false;
    let mut ticks = tokio::time::interval(LOAD_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let began = Instant::now();
        // Before it looks: what changes meanwhile is looked at again.
        changes.borrow_and_update();
        let done = settled.borrow_and_update().clone();
        shelf.borrow_and_update();
        keys_changed.borrow_and_update();
        let shelf_now = agent.shelf.clone();
        let looked = behind.run(move || {
            let present = shelf_now.present();
            let (warm, ready) = (Filter::of(present.warm.iter()), Filter::of(present.ready.iter()));
            (present, warm, ready)
        });
        let Some((present, warm, ready)) = looked.await else { return };
        let drains = decided.now().state.is_draining(own);
        publisher.publish(&Report {
            load: Load {
                running: engine.running(),
                slots: engine.slots(),
                cpu,
                memory_bytes: process.memory_bytes(),
                ready: present.ready.len() as u32,
                warm: present.warm.len() as u32,
            },
            draining: leaving.is_cancelled() || drains,
            settled: done.index,
            lag: done.lag,
            warm,
            ready,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            identity: Some(identity_report(&identity)),
            keys: keys.ring().in_use(),
            disk: DiskReport::of(&log.health()),
            room: *room.borrow_and_update(),
            engine: engine.fingerprint().to_owned(),
        });
        let rest = Rest::after(began);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(rest.ends) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = leaving.cancelled(), if !left => left = true,
            changed = changes.changed() => if changed.is_err() { return },
            changed = settled.changed() => if changed.is_err() { return },
            changed = rest.loads(&mut shelf) => if changed.is_err() { return },
            changed = keys_changed.changed() => if changed.is_err() { return },
            Ok(()) = room.changed() => {}
            _ = ticks.tick() => cpu = process.cpu(),
        }
    }
}

fn identity_report(own: &Own) -> IdentityReport {
    let summary = own.summary();
    IdentityReport {
        expires_ms: summary.expires_ms,
        issuer: prefix(summary.issuer),
        newest: summary.newest.map_or(0, prefix),
    }
}
