//! Starts this node's part in consensus and keeps what is known of it up to date.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nigh_model::command::{Command, Envelope, NodeSpec};
use nigh_model::refusal::Refusal;
use nigh_model::{ClusterId, NodeId};
use nigh_storage::raft::{LogStore, Proposal, Published, RaftNode, StateMachine, TypeConfig};
use openraft::Instant as _;
use openraft::RaftMetrics as OpenRaftMetrics;
use openraft::async_runtime::WatchReceiver as _;
use openraft::{Config as RaftConfig, SnapshotPolicy};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::counts::Counts;
use super::feed::Feed;
use super::health::{Health, HealthBook, before_now};
use super::network::Network;
use super::propose::Control;
use super::raft_service::{LastHeard, RaftService};
use super::service::ControlService;
use super::{
    Absences, ELECTION_MS, HEARTBEAT_MS, Raft, compact, follow, gossip_keys, join, leader,
};
use crate::clock;
use crate::config::Config;
use crate::decided::Decided;
use crate::error::Error;
use crate::gossip::Keys;
use crate::identity::{Begun, IdentityError, Own};
use crate::peer::{Peers, Strangers};
use crate::seen::Seen;

/// A leader that no quorum has answered for this long counts as having lost it.
const QUORUM_ACK_MAX_MS: u64 = 1_500;
/// How long a leader waits, after one failed try after another, before it tries again to send entries
/// to a node that does not answer. One that is back is behind by the last of them at most.
const BACKOFF: &str = "50ms 100ms ...500ms";
/// Without a word from the leader for this long, none is known.
const LEADER_SILENCE_MAX: Duration = Duration::from_millis(ELECTION_MS.1 + 300);
/// What is known of the group is brought up to date at least this often.
const HEALTH_INTERVAL: Duration = Duration::from_millis(50);
/// A voter whose leader's connections are broken stands for election this often at most: another may
/// have heard the leader a little later, and refuse the first time.
const STAND_INTERVAL: Duration = Duration::from_millis(150);
/// Between the times at which two voters do so.
const STAGGER: Duration = Duration::from_millis(100);
/// The first node leads by then, or does not at all.
const FIRST_LEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What consensus is started from.
pub(crate) struct ControlParts {
    /// This node.
    pub(crate) own: NodeId,
    /// Its cluster.
    pub(crate) cluster: ClusterId,
    /// As it was configured.
    pub(crate) config: Arc<Config>,
    /// The Raft log and vote.
    pub(crate) log: LogStore,
    /// The state machine.
    pub(crate) machine: StateMachine,
    /// What the state machine applies, in its order.
    pub(crate) published: mpsc::UnboundedReceiver<Published>,
    /// Peer addresses of replicas for a node that knows none.
    pub(crate) hints: Vec<String>,
    /// Ways to the others.
    pub(crate) peers: Peers,
    /// The last known decision.
    pub(crate) decided: Decided,
    /// The last view.
    pub(crate) seen: Seen,
    /// Who this node is to the others.
    pub(crate) identity: Own,
    /// Counts who is turned away.
    pub(crate) strangers: Arc<Strangers>,
    /// The keys of gossip that this node holds.
    pub(crate) keys: Keys,
}

type RaftMetrics = OpenRaftMetrics<TypeConfig>;
type Loop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Consensus as it runs.
pub(crate) struct Running {
    /// For those who ask and change.
    pub(crate) control: Control,
    /// For the other members.
    pub(crate) raft_service: RaftService,
    /// For the other nodes.
    pub(crate) control_service: ControlService,
}

/// Starts Raft and the loops around it. They stop with `stop`; `failed` hears why this node
/// cannot go on.
///
/// # Errors
/// Raft does not start from what is on disk.
pub(crate) async fn start(
    parts: ControlParts,
    stop: &CancellationToken,
    failed: mpsc::Sender<String>,
) -> Result<Running, Error> {
    let ControlParts {
        own,
        cluster,
        config,
        log,
        machine,
        published,
        hints,
        peers,
        decided,
        seen,
        identity,
        strangers,
        keys,
    } = parts;
    let network = Network { peers: peers.clone(), own, cluster: cluster.clone() };
    let raft_config = raft_config(&cluster).map_err(|error| Error::Raft(error.to_string()))?;
    let snapshots = machine.snapshots().clone();
    let raft = Raft::new(own.0, raft_config, network, log.clone(), machine)
        .await
        .map_err(|error| Error::Raft(error.to_string()))?;
    let control = Control {
        own,
        cluster: cluster.clone(),
        raft: raft.clone(),
        log: log.clone(),
        peers,
        decided: decided.clone(),
        seen,
        keys,
        health: HealthBook::new(),
        heard: LastHeard::new(),
        absences: Absences::default(),
        counts: Arc::new(Counts::new()),
    };
    let feed = Feed::new(decided.state().applied);

    let loops: [Loop; 7] = [
        Box::pin(publish(published, decided, feed.clone())),
        Box::pin(keep_health(control.clone(), stop.clone(), failed.clone())),
        Box::pin(follow_or_fail(control.clone(), hints, stop.clone(), failed.clone())),
        Box::pin(leader::lead_when_leader(
            control.clone(),
            identity.clone(),
            config.replace_after,
            stop.clone(),
        )),
        Box::pin(gossip_keys::keep_keys(control.clone(), stop.clone())),
        Box::pin(compact::keep_compact(control.clone(), stop.clone())),
        Box::pin(keep_registered(control.clone(), config.clone(), stop.clone(), failed)),
    ];
    for each in loops {
        tokio::spawn(each.in_current_span());
    }

    let heard = control.heard.clone();
    let raft_service = RaftService { raft, own, cluster, heard, strangers, log, snapshots };
    let control_service = ControlService { control: control.clone(), feed, config, identity };
    Ok(Running { control, raft_service, control_service })
}

/// Begins a cluster of which this node is the only voter; goes on where an earlier attempt was
/// cut short. Does nothing once there are other voters.
///
/// # Errors
/// Raft does not come to lead.
pub(crate) async fn bootstrap(
    control: &Control,
    config: &Config,
    begun: impl FnOnce() -> Result<Begun, IdentityError>,
) -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Raft(error.to_string());
    if !control.raft.is_initialized().await.map_err(|error| failed(&error))? {
        let members = BTreeMap::from([(control.own.0, raft_node(&join::describe(config)))]);
        control.raft.initialize(members).await.map_err(|error| failed(&error))?;
    }
    let metrics = control.raft.metrics().borrow_watched().clone();
    if metrics.membership_config.voter_ids().any(|id| id != control.own.0) {
        return Ok(());
    }
    control
        .raft
        .wait(Some(FIRST_LEAD_TIMEOUT))
        .current_leader(control.own.0, "the first node leads")
        .await
        .map_err(|error| failed(&error))?;
    let begun = begun()?;
    let command = Command::Bootstrap {
        cluster: control.cluster.clone(),
        node: join::describe(config),
        authority: Some(begun.authority),
        tokens: begun.tokens,
    };
    let envelope = Envelope { request_id: None, at_ms: clock::now_ms(), by: None, command };
    let written = control
        .raft
        .client_write(Proposal::new(&envelope))
        .await
        .map_err(|error| failed(&error))?;
    control.decided.reached(written.log_id().index).await;
    Ok(())
}

/// A node as the Raft group knows it.
pub(super) fn raft_node(spec: &NodeSpec) -> RaftNode {
    RaftNode {
        name: spec.name.to_string(),
        region: spec.region.to_string(),
        peer: spec.addresses.peer.clone(),
    }
}

fn raft_config(cluster: &ClusterId) -> Result<Arc<RaftConfig>, openraft::ConfigError> {
    let config = RaftConfig {
        cluster_name: cluster.to_string(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS.0,
        election_timeout_max: ELECTION_MS.1,
        enable_pre_vote: Some(true),
        // `compact` says when, and what is kept then.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: compact::ENTRIES_KEPT as u64,
        max_payload_entries: 256,
        install_snapshot_timeout: 60_000,
        backoff: BACKOFF.to_owned(),
        ..RaftConfig::default()
    };
    Ok(Arc::new(config.validate()?))
}

/// Hands on what the state machine applies, in its order.
async fn publish(mut published: mpsc::UnboundedReceiver<Published>, decided: Decided, feed: Feed) {
    while let Some(Published { state, entries }) = published.recv().await {
        let applied = state.applied;
        decided.publish(state);
        feed.push(applied, entries);
    }
}

/// Follows the state while this node holds no log; what it cannot follow ends the node.
async fn follow_or_fail(
    control: Control,
    hints: Vec<String>,
    stop: CancellationToken,
    failed: mpsc::Sender<String>,
) {
    if let Err(why) = follow::keep_following(control, hints, stop).await {
        let _ = failed.send(why).await;
    }
}

/// Whether this voter should stand for election without waiting for its timer: the leader's
/// lease is over and its connections are broken, which tells more than silence does. Voters
/// stagger by their rank, so that the first one usually has no rival.
fn should_stand(control: &Control, metrics: &RaftMetrics, silent_for: Duration) -> bool {
    let own = control.own.0;
    let Some(leader) = metrics.current_leader.filter(|leader| *leader != own) else { return false };
    let voters = metrics.membership_config.voter_ids().filter(|id| *id != leader);
    let Some(rank) = voters.into_iter().position(|id| id == own) else { return false };
    let lease = Duration::from_millis(ELECTION_MS.1) + STAGGER * rank as u32;
    silent_for > lease && control.peers.is_ejected(NodeId(leader))
}

/// Keeps what is known of the Raft group up to date from Raft's own metrics, while this node
/// is a member of it; and notices when Raft has stopped.
async fn keep_health(control: Control, stop: CancellationToken, failed: mpsc::Sender<String>) {
    let own = control.own.0;
    let heard = &control.heard;
    let mut metrics = control.raft.metrics();
    let mut stood = Instant::now();
    loop {
        let now = metrics.borrow_and_update().clone();
        if let Err(fatal) = &now.running_state
            && !stop.is_cancelled()
        {
            // What is deployed is served on, and the others' decisions are followed.
            if let Some(why) = control.log.failure() {
                tracing::error!(
                    why,
                    "this node's log cannot be written: it takes no part in the control plane until \
                     it is restarted, and goes on serving"
                );
                control.health.note_silence();
                return;
            }
            let _ = failed.send(format!("raft has stopped: {fatal}")).await;
            return;
        }
        let membership = now.membership_config.membership();
        // A member that is sent nothing any more hears from those that it follows.
        if control.is_fed() {
            let leads = now.current_leader == Some(own);
            let lost = if leads {
                let alone = membership.voter_ids().count() == 1;
                let ack_ms = now.last_quorum_acked.map_or(0, |at| at.elapsed().as_millis() as u64);
                (!alone && ack_ms > QUORUM_ACK_MAX_MS).then(|| Duration::from_millis(ack_ms))
            } else {
                let ago = heard.ago();
                (now.current_leader.is_none() || ago > LEADER_SILENCE_MAX).then_some(ago)
            };
            control.health.note(Health {
                leader: now.current_leader.filter(|_| leads || lost.is_none()).map(NodeId),
                term: now.current_term,
                voters: membership.voter_ids().map(NodeId).collect(),
                learners: membership.learner_ids().map(NodeId).collect(),
                lost_since: lost.map(before_now),
                told: Instant::now(),
            });
        }
        if should_stand(&control, &now, heard.ago()) && stood.elapsed() > STAND_INTERVAL {
            stood = Instant::now();
            // With a pre-vote: who still hears the leader refuses, and nothing is disturbed.
            if let Err(error) = control.raft.trigger().elect(true).await {
                tracing::debug!(%error, "no election");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = metrics.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(HEALTH_INTERVAL) => {}
        }
    }
}

/// What is said by a node that its cluster has let go.
pub(super) fn removed(more: &str) -> String {
    format!(
        "this node was removed from its cluster{more}: start it with an empty data folder to join \
         anew"
    )
}

/// Tells the cluster when this node has come back with other addresses or another build.
async fn keep_registered(
    control: Control,
    config: Arc<Config>,
    stop: CancellationToken,
    failed: mpsc::Sender<String>,
) {
    let spec = join::describe(&config);
    let mut changes = control.decided.changes();
    loop {
        changes.borrow_and_update();
        let state = control.decided.state();
        // Ids are log indexes: from its own on, the registry knows this node, or has let it go.
        if state.cluster.is_some()
            && state.applied >= control.own.0
            && !state.nodes.contains_key(&control.own)
        {
            let holder = state.node_named(config.name.as_str());
            let holder = holder.map(|node| format!("; its name is held by node {} now", node.id));
            let _ = failed.send(removed(&holder.unwrap_or_default())).await;
            return;
        }
        let same = state.nodes.get(&control.own).is_none_or(|node| {
            node.addresses == spec.addresses
                && node.region == spec.region
                && node.zone == spec.zone
                && node.location == spec.location
                && node.version == spec.version
                && node.feature_level == spec.feature_level
        });
        if !same {
            let command = Command::UpdateNode { id: control.own, node: spec.clone() };
            match control.propose(None, command).await {
                Ok((_, Ok(_))) => tracing::info!("registered anew with changed addresses or build"),
                Ok((_, Err(refusal @ Refusal::NodeTooOld { .. }))) => {
                    let _ = failed.send(refusal.to_string()).await;
                    return;
                }
                Ok((_, Err(refusal))) => {
                    tracing::error!(%refusal, "the cluster refuses what this node says of itself");
                    return;
                }
                // Tried again at once: proposing has waited long enough.
                Err(error) => {
                    tracing::debug!(%error, "not yet registered anew");
                    if stop.is_cancelled() {
                        return;
                    }
                    continue;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}
