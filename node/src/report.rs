//! Tells the others by gossip what this node has and how loaded it is.

use std::time::Duration;

use nigh_runtime::Engine;
use nigh_storage::LogStore;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::control::prefix;
use crate::gossip::{Filter, Keys, Publisher};
use crate::identity::Own;
use crate::process::Process;
use crate::seen::{DiskReport, IdentityReport, Load, Report, Room};

/// Load is told this often; what the node has is told at once.
const LOAD_INTERVAL: Duration = Duration::from_millis(500);

/// Publishes what this node says of itself, until cancelled.
pub(crate) async fn keep_reporting(
    (agent, engine, publisher): (Agent, Engine, Publisher),
    log: LogStore,
    identity: Own,
    keys: Keys,
    mut room: watch::Receiver<Option<Room>>,
    draining: CancellationToken,
    stop: CancellationToken,
) {
    let mut process = Process::new();
    let mut cpu = 0.0;
    let mut settled = agent.settled.clone();
    let mut shelf = agent.shelf.changes();
    let mut keys_changed = keys.changes();
    let mut ticks = tokio::time::interval(LOAD_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let present = agent.shelf.present();
        let done = settled.borrow_and_update().clone();
        shelf.borrow_and_update();
        keys_changed.borrow_and_update();
        publisher.publish(&Report {
            load: Load {
                running: engine.running(),
                slots: engine.slots(),
                cpu,
                memory_bytes: process.memory_bytes(),
                ready: present.ready.len() as u32,
                warm: present.warm.len() as u32,
            },
            draining: draining.is_cancelled(),
            settled: done.index,
            lag: done.lag,
            warm: Filter::of(present.warm.iter()),
            ready: Filter::of(present.ready.iter()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            identity: Some(identity_report(&identity)),
            keys: keys.ring().in_use(),
            disk: DiskReport::of(&log.health()),
            room: *room.borrow_and_update(),
        });
        tokio::select! {
            () = stop.cancelled() => return,
            changed = settled.changed() => if changed.is_err() { return },
            changed = shelf.changed() => if changed.is_err() { return },
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
