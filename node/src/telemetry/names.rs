//! Every metric of a node: name, unit, help text, labels and their values. Nowhere else does one
//! of them stand in the code.
//!
//! A name is `nigh_<part>_<thing>_<unit>` in base units, `_total` at its end when it only grows.
//! Labels have small closed sets of values, never a name, an id or free text; the two that say who
//! a node is ([`Values::Own`]) have one value for its whole life. `docs/metrics.md` is this table
//! for operators; a test prints it when the two differ.

use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often a duration fell into each of [`BUCKETS_SECONDS`].
    Histogram,
    /// Always 1; its labels are what it says.
    Info,
}

/// The values that a label may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    /// These.
    Of(&'static [&'static str]),
    /// The reasons of `docs/errors.md` that calls end with.
    Reasons,
    /// One for the life of the node.
    Own,
}

/// A label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its values.
    pub(crate) values: Values,
}

/// A metric.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Metric {
    /// Its whole name, as a query has it (a histogram's without `_bucket`, `_sum`, `_count`).
    pub(crate) name: &'static str,
    /// What kind of number it is.
    pub(crate) kind: Kind,
    /// Its labels.
    pub(crate) labels: &'static [Label],
    /// What it counts or measures; no full stop.
    pub(crate) help: &'static str,
}

impl Label {
    /// All of its values; none are known of one that is a node's own.
    pub(crate) fn values(&self) -> Vec<&'static str> {
        match self.values {
            Values::Of(values) => values.to_vec(),
            Values::Reasons => crate::gateway::reason_names().collect(),
            Values::Own => Vec::new(),
        }
    }
}

impl Metric {
    /// The name without the ending that the encoder adds for its kind, and without its unit.
    pub(super) fn stem(&self) -> &'static str {
        let name = match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            Kind::Info => self.name.strip_suffix("_info").unwrap_or(self.name),
            Kind::Gauge | Kind::Histogram => self.name,
        };
        let without = UNITS.iter().find_map(|(ending, _)| name.strip_suffix(ending));
        without.unwrap_or(name)
    }

    /// The unit that the name ends with.
    pub(super) fn unit(&self) -> Option<Unit> {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        let (_, unit) = UNITS.iter().find(|(ending, _)| name.ends_with(ending))?;
        Some(unit.clone())
    }

    /// The encoder's word for the kind.
    pub(super) fn metric_type(&self) -> MetricType {
        match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        }
    }

    /// Every combination of the values of its labels, the last label's changing fastest.
    pub(super) fn combinations(&self) -> Vec<Vec<(&'static str, &'static str)>> {
        let mut all = vec![Vec::new()];
        for label in self.labels {
            let values = label.values();
            let longer = all.into_iter().flat_map(|known: Vec<_>| {
                let with = |value: &&'static str| {
                    known.iter().copied().chain([(label.name, *value)]).collect::<Vec<_>>()
                };
                values.iter().map(with).collect::<Vec<_>>()
            });
            all = longer.collect();
        }
        all
    }
}

/// The units in use: base units all.
const UNITS: [(&str, Unit); 2] = [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)];

/// The upper ends of a duration's buckets: six in each tenfold, from what a warm call takes to more
/// than most may; an estimate from them is off by a fifth.
pub(super) const BUCKETS_SECONDS: [f64; 36] = [
    50e-6, 70e-6, 100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 700e-6, 0.001, 0.0015, 0.002, 0.003,
    0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5,
    2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 30.0, 60.0,
];

/// How a call ended: its function answered, and not with a 5xx; the function failed or answered
/// with a 5xx; the call was not taken on; the platform failed; the caller went.
pub(crate) const OUTCOME: Label =
    of("outcome", &["ok", "function_error", "refused", "failed", "gone"]);
/// Which node answered a call: the one where it entered, or another.
pub(crate) const PLACE: Label = of("place", &["here", "there"]);
/// Why the platform answered a call.
pub(crate) const REASON: Label = Label { name: "reason", values: Values::Reasons };
/// How a piece of work ended.
pub(crate) const RESULT: Label = of("result", &["ok", "failed"]);
/// How a message of gossip travels.
pub(crate) const WAY: Label = of("way", &["datagram", "peer"]);
/// Why a message of gossip was not sent, or not taken in.
pub(crate) const DROPPED: Label = of(
    "why",
    &[
        "send_failed",
        "too_large",
        "peer_failed",
        "no_key",
        "not_ours",
        "unknown_key",
        "forged",
        "stale",
        "undecodable",
        "inbox_full",
    ],
);
/// Why somebody was turned away at the peer port.
pub(crate) const TURNED: Label =
    of("why", &["handshake", "no_certificate", "removed", "too_many", "other_sender"]);
/// Why somebody was turned away at the API's port, in the order of `ApiRefusal`.
pub(crate) const API_WHY: Label =
    of("why", &["full", "no_tls", "no_handshake", "unauthenticated", "denied"]);
/// How TLS was agreed on with a caller: from the start, or by resuming a session.
pub(crate) const HANDSHAKE: Label = of("kind", &["full", "resumed"]);
/// Why TLS was not agreed on with a caller, in the order of `Unagreed`.
pub(crate) const HTTPS_WHY: Label =
    of("why", &["no_tls", "late", "gone", "nothing_shared", "refused", "malformed"]);
/// How the first call of a connection met what was begun for it, in the order of `Preloaded`.
pub(crate) const PRELOAD_HOW: Label = of("how", &["warm", "joined"]);
/// Whether a certificate can be shown to callers.
pub(crate) const CERTIFICATE_STATE: Label = of("state", &["usable", "refused"]);
/// Why a function was unloaded, in the order of `agent::Unloads`.
pub(crate) const UNLOADED: Label = of("why", &["idle", "room"]);
/// Why a compiled artifact of another node was not taken, in the order of `agent::Counters`.
pub(crate) const COPY_REFUSED: Label =
    of("why", &["malformed", "stranger", "removed", "forged", "damaged"]);
/// How the disk below the log does, in the order of `seen::DiskState`.
pub(crate) const LOG_STATE: Label = of("state", &["fine", "full", "failed"]);
/// A node's part in the Raft group.
pub(crate) const ROLE: Label = of("role", &["leader", "voter", "learner", "none"]);
/// How the proposal of a change ended.
pub(crate) const PROPOSAL: Label = of("result", &["committed", "refused", "unavailable"]);
/// Whether a node is thought to be alive.
pub(crate) const LIVENESS: Label = of("liveness", &["alive", "suspect", "dead"]);
/// Which of the peers that answer.
pub(crate) const WHICH: Label = of("which", &["nearest", "median", "farthest"]);

const VERSION: Label = Label { name: "version", values: Values::Own };
const NODE: Label = Label { name: "node", values: Values::Own };
const REGION: Label = Label { name: "region", values: Values::Own };
const ZONE: Label = Label { name: "zone", values: Values::Own };

const fn of(name: &'static str, values: &'static [&'static str]) -> Label {
    Label { name, values: Values::Of(values) }
}

macro_rules! metrics {
    ($($constant:ident $kind:ident $name:literal $([$($label:ident),*])?: $help:literal;)*) => {
        $(
            #[doc = $help]
            pub(crate) static $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($($label),*)?],
                help: $help,
            };
        )*
        /// All of them.
        #[cfg(test)]
        pub(crate) static ALL: &[&Metric] = &[$(&$constant),*];
    };
}

metrics! {
    CALLS Counter "nigh_gateway_calls_total" [OUTCOME, PLACE]: "Calls that entered here, by how they ended and which node answered";
    PROBLEMS Counter "nigh_gateway_problems_total" [REASON]: "Calls that entered here and were answered by the platform, by reason (docs/errors.md)";
    BROKEN Counter "nigh_gateway_answers_broken_total": "Answers that broke off after their head was sent";
    FORWARDED Counter "nigh_gateway_forwarded_total": "Calls sent on to another node";
    RECEIVED Counter "nigh_gateway_received_total": "Calls received from other nodes";
    COLD Counter "nigh_gateway_cold_total": "Calls run here that waited for a load, fetch or compilation";
    RETRIES Counter "nigh_gateway_retries_total": "Further tries of calls";
    WAITING Gauge "nigh_gateway_queue_waiting": "Calls that wait for a free place here";
    TURN_SECONDS Gauge "nigh_gateway_turn_seconds": "Wait of a call that comes now for its turn on a thread that runs functions, on the slowest; beyond 0.02 for long, calls are refused";
    CONNECTIONS Gauge "nigh_gateway_connections": "Connections of HTTP callers";
    CONNECTIONS_PARKED Gauge "nigh_gateway_connections_parked": "Of these, idle ones that have given back their buffers";
    CONNECTIONS_REFUSED Counter "nigh_gateway_connections_refused_total": "Connections closed because there were too many";
    CALL_SECONDS Histogram "nigh_gateway_call_seconds": "From a call's arrival to the head of its answer, where it entered";
    QUEUE_SECONDS Histogram "nigh_gateway_queue_seconds": "Wait for a free place, where it ran";
    START_SECONDS Histogram "nigh_gateway_start_seconds": "Wait for a load, where it ran";
    EXEC_SECONDS Histogram "nigh_gateway_exec_seconds": "From the guest's start to the head of its answer, where it ran";
    HOP_SECONDS Histogram "nigh_gateway_hop_seconds": "On the way to another node and back, where it entered";
    HANDSHAKES Counter "nigh_https_handshakes_total" [HANDSHAKE]: "TLS handshakes with callers that ended well";
    HANDSHAKES_FAILED Counter "nigh_https_handshakes_failed_total" [HTTPS_WHY]: "TLS handshakes with callers that did not";
    HANDSHAKE_SECONDS Histogram "nigh_https_handshake_seconds": "From a caller's connection to the end of its handshake, the caller's part included";
    PRELOADS Counter "nigh_https_preloads_total": "Functions that began to load because a caller named their host in its handshake";
    PRELOADS_MET Counter "nigh_https_preloads_met_total" [PRELOAD_HOW]: "First calls of connections for such a function that found it loaded, or its load under way";
    CALLER_CERTIFICATES Gauge "nigh_https_certificates" [CERTIFICATE_STATE]: "Certificates for callers; absent without HTTPS";
    CALLER_CERTIFICATE_ENDS Gauge "nigh_https_certificate_expiry_timestamp_seconds": "When the first of the certificates for callers ends; absent without HTTPS";
    API_REFUSED Counter "nigh_api_refused_total" [API_WHY]: "Connections and requests turned away at the API's port";
    RUNNING Gauge "nigh_runtime_running": "Guest instances running";
    SLOTS Gauge "nigh_runtime_slots": "Guest instances that can run at once";
    PANICS Counter "nigh_runtime_panics_total": "Panics of the platform caught at a call's edge";
    LOG_LINES Counter "nigh_logs_lines_total": "Lines printed by guests";

    READY Gauge "nigh_agent_ready": "Functions whose compiled artifact is on disk";
    WARM Gauge "nigh_agent_warm": "Functions loaded";
    LOADED_BYTES Gauge "nigh_agent_loaded_bytes": "Memory that loaded functions take, by estimate";
    LOADED_BYTES_LIMIT Gauge "nigh_agent_loaded_limit_bytes": "Memory that loaded functions may take (--loaded-memory)";
    UNLOADS Counter "nigh_agent_unloads_total" [UNLOADED]: "Functions unloaded, by why: not called for long or not wanted here any more, or to make room for others";
    LACKING Gauge "nigh_agent_lacking": "Revisions of which something assigned to this node is not here yet (16 at most)";
    SETTLED Gauge "nigh_agent_settled_index": "The state index up to which everything assigned to this node was looked at";
    FETCHES Counter "nigh_agent_fetches_total" [RESULT]: "Components fetched from other nodes";
    FETCHED Counter "nigh_agent_fetched_bytes_total": "Bytes of components fetched from other nodes";
    COMPILATIONS Counter "nigh_agent_compilations_total" [RESULT]: "Components compiled";
    COMPILE_SECONDS Histogram "nigh_agent_compile_seconds": "Time that a compilation took, its wait for a turn left out";
    COMPILING Gauge "nigh_agent_compiling": "Components that are being compiled here, or wait for their turn";
    LOADS Counter "nigh_agent_loads_total" [RESULT]: "Compiled artifacts loaded: mapped and made ready to run";
    COPIES Counter "nigh_agent_copies_total" [RESULT]: "Compiled artifacts copied from the nodes that compiled them, or copied them before";
    COPIED Counter "nigh_agent_copied_bytes_total": "Bytes of compiled artifacts copied from other nodes";
    COPIES_REFUSED Counter "nigh_agent_copies_refused_total" [COPY_REFUSED]: "Compiled artifacts not taken, by why: what was signed was not by a node of this cluster, or not this";

    GOSSIP_SENT Counter "nigh_gossip_sent_total" [WAY]: "Messages of gossip sent";
    GOSSIP_RECEIVED Counter "nigh_gossip_received_total": "Messages of gossip taken in";
    GOSSIP_DROPPED Counter "nigh_gossip_dropped_total" [DROPPED]: "Messages of gossip not sent or not taken in";
    GOSSIP_QUESTIONS Counter "nigh_gossip_questions_total": "Senders asked whether they are there, at first acquaintance and when something old comes";
    GOSSIP_RESTARTS Counter "nigh_gossip_restarts_total": "Times that gossip was started again after a failure inside";

    AVAILABLE Gauge "nigh_control_available": "1 while this node knows a leader that has a quorum";
    LEADER_KNOWN Gauge "nigh_control_leader_known": "1 while this node knows who leads";
    LOST_SECONDS Gauge "nigh_control_quorum_lost_seconds": "For how long no leader with a quorum is known; 0 while one is";
    APPLIED Gauge "nigh_control_applied_index": "The last log entry that this node's state holds";
    PROPOSALS Counter "nigh_control_proposals_total" [PROPOSAL]: "Changes proposed by this node";
    PROPOSAL_SECONDS Histogram "nigh_control_proposal_seconds": "From proposing a change to its end, its application on this node included";
    ROLE_OF Gauge "nigh_raft_role" [ROLE]: "1 for this node's part in the Raft group";
    TERM Gauge "nigh_raft_term": "The term that this node knows of";
    ELECTIONS Counter "nigh_raft_elections_total": "Times that this node saw another leader or another term";
    VOTERS Gauge "nigh_raft_voters": "Voters of the Raft group";
    LEARNERS Gauge "nigh_raft_learners": "Learners of the Raft group";
    LAST_LOG Gauge "nigh_raft_last_log_index": "The last entry of this node's log; 0 where it holds none";
    COMMITTED Gauge "nigh_raft_committed_index": "The last entry that this node knows to be committed; 0 where it holds no log";
    LAG Gauge "nigh_raft_member_lag": "On the leader: entries that the member farthest behind lacks; 0 elsewhere";

    APPS Gauge "nigh_state_apps": "Apps";
    REVISIONS Gauge "nigh_state_revisions": "Revisions that are kept";
    ROLLOUTS Gauge "nigh_state_rollouts": "Apps of which a revision is being rolled out";
    NODES Gauge "nigh_state_nodes" [LIVENESS]: "Registered nodes, as this node sees them";
    DRAINING Gauge "nigh_state_nodes_draining": "Registered nodes that take no new work";

    PEER_CHANNELS Gauge "nigh_peer_channels": "Ways to other nodes, each a connection made when first used";
    PEERS_EJECTED Gauge "nigh_peer_ejected": "Peers taken out because their connection failed";
    EJECTIONS Counter "nigh_peer_ejections_total": "Times that a peer was taken out";
    STRANGERS Counter "nigh_peer_strangers_total" [TURNED]: "Connections and requests turned away at the peer port";
    RTT_SECONDS Gauge "nigh_peer_rtt_seconds" [WHICH]: "Mean round trip to a peer; absent until one is measured";

    DATA_BYTES Gauge "nigh_disk_data_bytes": "What the data folder takes on the disk; absent when not known";
    FREE_BYTES Gauge "nigh_disk_free_bytes": "Room left on the disk of the data folder; absent when not known";
    SIZE_BYTES Gauge "nigh_disk_size_bytes": "Size of the disk of the data folder; absent when not known";
    LOG_STATE_OF Gauge "nigh_wal_state" [LOG_STATE]: "1 for how the disk below the log does: fine, full, or failed until a restart";
    SYNC_SECONDS Histogram "nigh_wal_sync_seconds": "Time of an fdatasync of the log";
    SYNCS_FAILED Counter "nigh_wal_syncs_failed_total": "Syncs of the log that failed: nothing is acknowledged after one";

    NODE_READY Gauge "nigh_node_ready": "1 while this node takes calls, as /readyz says";
    CERTIFICATE Gauge "nigh_node_certificate_expiry_timestamp_seconds": "When this node's certificate ends; absent without one";
    MEMORY Gauge "nigh_process_resident_memory_bytes": "Resident memory of the process";
    CPU Counter "nigh_process_cpu_seconds_total": "CPU time of the process";
    DESCRIPTORS Gauge "nigh_process_open_descriptors": "Files and sockets that the process holds";
    DESCRIPTORS_MAX Gauge "nigh_process_max_descriptors": "Files and sockets that the process may hold";
    THREADS Gauge "nigh_process_threads": "Threads of the process";
    STARTED Gauge "nigh_process_start_timestamp_seconds": "When the process was started";
    BUILD Info "nigh_build_info" [VERSION]: "The build that runs";
    NODE_INFO Info "nigh_node_info" [NODE, REGION, ZONE]: "Which node this is; zone may be empty";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_says_part_thing_and_unit() {
        for (at, metric) in ALL.iter().enumerate() {
            let name = metric.name;
            let fits = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(name.starts_with("nigh_") && name.chars().all(fits), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            assert_eq!(name.ends_with("_info"), metric.kind == Kind::Info, "{name}");
            assert!(metric.kind != Kind::Histogram || name.ends_with("_seconds"), "{name}");
            assert!(ALL[..at].iter().all(|other| other.stem() != metric.stem()), "{name}");
            let help = metric.help;
            assert!(help.starts_with(|c: char| c.is_ascii_uppercase() || c == '1'), "{name}");
            assert!(!help.ends_with('.') && !help.contains(['|', '\n']), "{name}: {help}");
        }
    }

    #[test]
    fn labels_are_few_and_closed() {
        for metric in ALL {
            let own = metric.labels.iter().any(|label| label.values == Values::Own);
            assert!(!own || metric.kind == Kind::Info, "{}", metric.name);
            assert!(metric.labels.len() <= 3, "{}", metric.name);
            assert!(metric.combinations().len() <= 64, "{}", metric.name);
        }
    }

    #[test]
    fn buckets_rise_and_lie_close() {
        for pair in BUCKETS_SECONDS.windows(2) {
            let step = pair[1] / pair[0];
            assert!((1.3..=2.0).contains(&(step + 1e-9)) || (step - 2.0).abs() < 1e-9, "{pair:?}");
        }
    }
}
