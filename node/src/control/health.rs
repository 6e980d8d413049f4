//! Whether the control plane takes writes, as far as this node knows.

use std::sync::Arc;
use std::time::Duration;

use nigh_model::NodeId;
use nigh_proto::peer::v1 as peer;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::count::Count;

/// What this node knows of the Raft group.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    /// Who leads, if anyone is known to.
    pub(crate) leader: Option<NodeId>,
    /// The term that this is known of.
    pub(crate) term: u64,
    /// Who votes.
    pub(crate) voters: Vec<NodeId>,
    /// Who is sent the log without voting.
    pub(crate) learners: Vec<NodeId>,
    /// Since when no leader with a quorum is known; none while there is one.
    pub(crate) lost_since: Option<Instant>,
    /// When this was learnt.
    pub(crate) told: Instant,
}

impl Health {
    /// For how long no leader with a quorum is known.
    pub(crate) fn lost_for(&self) -> Duration {
        self.lost_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether changes can be made, as far as this node knows.
    pub(crate) fn is_available(&self) -> bool {
        self.leader.is_some() && self.lost_since.is_none()
    }

    /// The node's part in the Raft group: `leader`, `voter`, `learner` or `none`.
    pub(crate) fn role_of(&self, id: NodeId) -> &'static str {
        if self.leader == Some(id) && self.voters.contains(&id) {
            "leader"
        } else if self.voters.contains(&id) {
            "voter"
        } else if self.learners.contains(&id) {
            "learner"
        } else {
            "none"
        }
    }

    /// As it is told to others.
    pub(crate) fn to_message(&self, applied: u64) -> peer::ControlHealth {
        peer::ControlHealth {
            leader: self.leader.map_or(0, |id| id.0),
            term: self.term,
            voters: self.voters.iter().map(|id| id.0).collect(),
            learners: self.learners.iter().map(|id| id.0).collect(),
            quorum_lost_ms: self.lost_for().as_millis() as u64,
            applied,
        }
    }

    /// As another told it.
    pub(crate) fn of_message(message: &peer::ControlHealth) -> Self {
        let lost = Duration::from_millis(message.quorum_lost_ms);
        Self {
            leader: (message.leader != 0).then_some(NodeId(message.leader)),
            term: message.term,
            voters: message.voters.iter().copied().map(NodeId).collect(),
            learners: message.learners.iter().copied().map(NodeId).collect(),
            told: Instant::now(),
            lost_since: (!lost.is_zero()).then(|| before_now(lost)),
        }
    }
}

/// The moment so long ago, or now where the clock does not reach back so far.
pub(super) fn before_now(ago: Duration) -> Instant {
    let now = Instant::now();
    now.checked_sub(ago).unwrap_or(now)
}

/// The last known health, handed to all parts of a node.
#[derive(Clone)]
pub(crate) struct HealthBook {
    current: Arc<watch::Sender<Health>>,
    elections: Arc<Count>,
}

impl HealthBook {
    /// Nothing is known yet: no leader since now.
    pub(crate) fn new() -> Self {
        let health = Health {
            leader: None,
            term: 0,
            voters: Vec::new(),
            learners: Vec::new(),
            lost_since: Some(Instant::now()),
            told: Instant::now(),
        };
        Self { current: Arc::new(watch::channel(health).0), elections: Arc::default() }
    }

    /// What is known now.
    pub(crate) fn now(&self) -> Health {
        self.current.borrow().clone()
    }

    /// Notes what is known now. The time of a loss that goes on stays the earliest known.
    pub(crate) fn note(&self, health: Health) {
        self.current.send_if_modified(|current| {
            // What a node learns first is no election that it saw.
            if health.term > current.term && current.term > 0 {
                self.elections.add();
            }
            let lost_since = match (current.lost_since, health.lost_since) {
                (Some(before), Some(now)) => Some(before.min(now)),
                (_, now) => now,
            };
            let changed = current.leader != health.leader
                || current.term != health.term
                || current.voters != health.voters
                || current.learners != health.learners
                || current.lost_since.is_some() != lost_since.is_some();
            *current = Health { lost_since, ..health };
            changed
        });
    }

    /// Notes that nobody tells anything any more: what was known is lost since it was told.
    pub(crate) fn note_silence(&self) {
        self.current.send_if_modified(|current| {
            let changed = current.leader.take().is_some() || current.lost_since.is_none();
            current.lost_since.get_or_insert(current.told);
            changed
        });
    }

    /// How often the term rose, as far as was noted here: elections, won or not.
    pub(crate) fn elections(&self) -> u64 {
        self.elections.get()
    }

    /// Follows what is known.
    pub(crate) fn changes(&self) -> watch::Receiver<Health> {
        self.current.subscribe()
    }
}
