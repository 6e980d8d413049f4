//! Reads off the other parts of a node what stands on the page besides what `metrics` counts.
//!
//! It runs when somebody asks for the page and not before; nothing in it waits.

use std::sync::Arc;
use std::time::Duration;

use nigh_model::NodeId;
use nigh_runtime::Engine;

use super::measured::Page;
use super::names;
use crate::agent::Agent;
use crate::api::ready::Readiness;
use crate::config::Config;
use crate::control::{Control, raft_status};
use crate::gateway::{Admission, Certificates};
use crate::gossip::Counters;
use crate::peer::Strangers;
use crate::process::Figures;
use crate::seen::{Liveness, View};

/// The parts that are read. None of them may hold the metrics themselves.
pub(crate) struct Sources {
    /// This node as it was configured.
    pub(crate) config: Arc<Config>,
    /// The control plane.
    pub(crate) control: Control,
    /// What is here.
    pub(crate) agent: Agent,
    /// What runs.
    pub(crate) engine: Engine,
    /// What waits.
    pub(crate) admission: Arc<Admission>,
    /// What callers over HTTPS are shown.
    pub(crate) certificates: Option<Arc<Certificates>>,
    /// What gossip counts.
    pub(crate) gossip: Arc<Counters>,
    /// Who was turned away at the peer port.
    pub(crate) strangers: Arc<Strangers>,
}

impl Sources {
    /// Fills the page.
    pub(crate) fn fill(&self, page: &mut Page) {
        self.here(page);
        self.agent(page);
        self.gossip(page);
        self.control(page);
        self.state(page);
        self.peers(page);
        process(page);
    }

    fn here(&self, page: &mut Page) {
        page.set(&names::WAITING, self.admission.waiting().into());
        page.set(&names::TURN_SECONDS, self.admission.turn().as_secs_f64());
        if let Some(certificates) = &self.certificates {
            let counts = certificates.counts();
            let each = [counts.usable as f64, counts.refused as f64];
            page.set_each(&names::CALLER_CERTIFICATES, &each);
            if let Some(ends_ms) = counts.first_end_ms {
                let ends = Duration::from_millis(ends_ms);
                page.set(&names::CALLER_CERTIFICATE_ENDS, ends.as_secs_f64());
            }
        }
        page.set(&names::RUNNING, self.engine.running().into());
        page.set(&names::SLOTS, self.engine.slots().into());
        page.set(&names::PANICS, self.engine.panics() as f64);
        page.set(&names::NODE_READY, flag(Readiness::of(&self.control).is_ready()));
        page.say(&names::BUILD, &[env!("CARGO_PKG_VERSION")]);
        let zone = self.config.zone.as_ref().map(ToString::to_string).unwrap_or_default();
        let Config { name, region, .. } = &*self.config;
        page.say(&names::NODE_INFO, &[name.as_str(), region.as_str(), &zone]);
        let view = self.control.seen.now();
        let Some(own) = view.nodes.get(&self.control.own) else { return };
        let state = own.report.disk.state as usize;
        for (at, known) in names::LOG_STATE.values().into_iter().enumerate() {
            page.set_of(&names::LOG_STATE_OF, known, flag(at == state));
        }
        if let Some(room) = own.report.room {
            page.set(&names::DATA_BYTES, room.data_bytes as f64);
            page.set(&names::FREE_BYTES, room.free_bytes as f64);
            page.set(&names::SIZE_BYTES, room.size_bytes as f64);
        }
        if let Some(identity) = own.report.identity {
            let ends = Duration::from_millis(identity.expires_ms);
            page.set(&names::CERTIFICATE, ends.as_secs_f64());
        }
    }

    fn agent(&self, page: &mut Page) {
        let present = self.agent.shelf.present();
        page.set(&names::READY, present.ready.len() as f64);
        page.set(&names::WARM, present.warm.len() as f64);
        let memory = self.agent.shelf.memory();
        page.set(&names::LOADED_BYTES, memory.bytes as f64);
        page.set(&names::LOADED_BYTES_LIMIT, memory.bytes_max as f64);
        page.set_each(&names::UNLOADS, &self.agent.shelf.unloads().map(|count| count as f64));
        let settled = self.agent.settled.borrow().clone();
        page.set(&names::LACKING, settled.lag.len() as f64);
        page.set(&names::SETTLED, settled.index as f64);
        let counters = self.agent.stock.counters();
        let of = |ok: u64, failed: u64| [ok as f64, failed as f64];
        page.set_each(&names::FETCHES, &of(counters.fetched.get(), counters.fetch_failed.get()));
        page.set(&names::FETCHED, counters.fetched_bytes.get() as f64);
        page.set_each(
            &names::COMPILATIONS,
            &of(counters.compiled.get(), counters.compile_failed.get()),
        );
        page.durations(&names::COMPILE_SECONDS, &counters.compile);
        page.set(&names::COMPILING, self.agent.stock.compiling() as f64);
        page.set_each(&names::LOADS, &of(counters.loaded.get(), counters.load_failed.get()));
        page.set_each(&names::COPIES, &of(counters.copied.get(), counters.copy_failed.get()));
        page.set(&names::COPIED, counters.copied_bytes.get() as f64);
        let refused = counters.refusals().map(|count| count as f64);
        page.set_each(&names::COPIES_REFUSED, &refused);
    }

    fn gossip(&self, page: &mut Page) {
        let counted = &*self.gossip;
        let way = [&counted.sent, &counted.overflowed];
        page.set_each(&names::GOSSIP_SENT, &way.map(|count| count.get() as f64));
        page.set(&names::GOSSIP_RECEIVED, counted.received.get() as f64);
        for (why, count) in [
            ("send_failed", &counted.send_dropped),
            ("too_large", &counted.too_large),
            ("peer_failed", &counted.overflow_failed),
            ("no_key", &counted.no_key),
        ] {
            page.set_of(&names::GOSSIP_DROPPED, why, count.get() as f64);
        }
        for (why, count) in counted.refused() {
            page.set_of(&names::GOSSIP_DROPPED, why, count as f64);
        }
        page.set(&names::GOSSIP_QUESTIONS, counted.questions.get() as f64);
        page.set(&names::GOSSIP_RESTARTS, counted.restarts.get() as f64);
    }

    fn control(&self, page: &mut Page) {
        let control = &self.control;
        let health = control.health.now();
        page.set(&names::AVAILABLE, flag(health.is_available()));
        page.set(&names::LEADER_KNOWN, flag(health.leader.is_some()));
        page.set(&names::LOST_SECONDS, health.lost_for().as_secs_f64());
        page.set(&names::TERM, health.term as f64);
        page.set(&names::VOTERS, health.voters.len() as f64);
        page.set(&names::LEARNERS, health.learners.len() as f64);
        page.set(&names::ELECTIONS, control.health.elections() as f64);
        let role = health.role_of(control.own);
        for known in names::ROLE.values() {
            page.set_of(&names::ROLE_OF, known, flag(known == role));
        }
        let raft = raft_status(control);
        page.set(&names::LAST_LOG, raft.last_log as f64);
        page.set(&names::COMMITTED, raft.committed as f64);
        let behind = raft.matched.iter().filter(|member| member.node_id != control.own.0);
        let behind = behind.map(|member| raft.last_log.saturating_sub(member.index)).max();
        page.set(&names::LAG, behind.unwrap_or(0) as f64);
        let counts = &*control.counts;
        let ends = [&counts.committed, &counts.refused, &counts.unavailable];
        page.set_each(&names::PROPOSALS, &ends.map(|count| count.get() as f64));
        page.durations(&names::PROPOSAL_SECONDS, &counts.took);
    }

    fn state(&self, page: &mut Page) {
        let state = self.control.decided.state();
        page.set(&names::APPLIED, state.applied as f64);
        page.set(&names::APPS, state.apps.len() as f64);
        let revisions: usize = state.apps.values().map(|app| app.revisions.len()).sum();
        page.set(&names::REVISIONS, revisions as f64);
        let rollouts = state.apps.values().filter(|app| app.rollout.is_some()).count();
        page.set(&names::ROLLOUTS, rollouts as f64);
        let view = self.control.seen.now();
        let seen = lives(state.nodes.keys(), &view);
        page.set_each(&names::NODES, &seen.map(|nodes| nodes as f64));
        let draining = |id: &&NodeId| view.nodes.get(id).is_some_and(|node| node.report.draining);
        page.set(&names::DRAINING, state.nodes.keys().filter(draining).count() as f64);
    }

    fn peers(&self, page: &mut Page) {
        let figures = self.control.peers.figures();
        page.set(&names::PEER_CHANNELS, figures.channels as f64);
        page.set(&names::PEERS_EJECTED, figures.ejected as f64);
        page.set(&names::EJECTIONS, figures.ejections as f64);
        for (why, count) in self.strangers.counts() {
            page.set_of(&names::STRANGERS, why, count as f64);
        }
        let rtts = &figures.rtts;
        if let (Some(nearest), Some(median), Some(farthest)) =
            (rtts.first(), rtts.get(rtts.len() / 2), rtts.last())
        {
            let which = [nearest, median, farthest];
            page.set_each(&names::RTT_SECONDS, &which.map(Duration::as_secs_f64));
        }
    }
}

/// How many of these are alive, suspect and dead.
fn lives<'a>(ids: impl Iterator<Item = &'a NodeId>, view: &View) -> [usize; 3] {
    let mut counts = [0; 3];
    for id in ids {
        let at = match view.liveness(*id) {
            Liveness::Alive => 0,
            Liveness::Suspect => 1,
            Liveness::Dead => 2,
        };
        counts[at] += 1;
    }
    counts
}

fn process(page: &mut Page) {
    let figures = Figures::now();
    page.set(&names::MEMORY, figures.memory_bytes as f64);
    page.set(&names::CPU, figures.cpu_seconds);
    page.set(&names::DESCRIPTORS, figures.descriptors as f64);
    page.set(&names::DESCRIPTORS_MAX, figures.descriptors_max as f64);
    page.set(&names::THREADS, figures.threads as f64);
    page.set(&names::STARTED, figures.started);
}

fn flag(holds: bool) -> f64 {
    if holds { 1.0 } else { 0.0 }
}
