//! Changing what is decided, from any node: commands go to whoever leads.

use std::sync::Arc;
use std::time::Duration;

use nigh_model::audit::Actor;
use nigh_model::command::{self, Command, Envelope, Outcome};
use nigh_model::refusal::Refusal;
use nigh_model::{ClusterId, Kind, NodeId, RequestId};
use nigh_proto::peer::v1::control_client::ControlClient;
use nigh_proto::peer::v1::{ProposeRequest, ReadIndexRequest};
use nigh_storage::raft::{LogStore, Proposal};
use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;

use super::counts::{Counts, Ended};
use super::raft_service::LastHeard;
use super::{Absences, HealthBook, Raft};
use crate::clock;
use crate::decided::Decided;
use crate::gossip::Keys;
use crate::peer::{Lane, Peers};
use crate::seen::Seen;

/// A command is tried for this long: an election and a retry fit in, and who asks over a network
/// has an answer within 5 s.
const BUDGET: Duration = Duration::from_millis(4_500);
/// Once no quorum is known for this long …
const LOST_AFTER: Duration = Duration::from_secs(5);
/// … a command is tried only this long.
const BUDGET_WHEN_LOST: Duration = Duration::from_millis(700);
/// What is committed is applied here by then, or this node lags.
const APPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// First and longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(300));

/// The control plane as any node reaches it.
#[derive(Clone)]
pub(crate) struct Control {
    /// This node.
    pub(crate) own: NodeId,
    /// Its cluster.
    pub(crate) cluster: ClusterId,
    /// This node's part in consensus.
    pub(crate) raft: Raft,
    /// Its log.
    pub(crate) log: LogStore,
    /// Ways to the others.
    pub(crate) peers: Peers,
    /// The last known decision.
    pub(crate) decided: Decided,
    /// The last view.
    pub(crate) seen: Seen,
    /// The keys of gossip that this node holds.
    pub(crate) keys: Keys,
    /// Whether the control plane takes writes.
    pub(crate) health: HealthBook,
    /// When a leader last sent this node its log.
    pub(crate) heard: LastHeard,
    /// For how long nodes have been dead, while this node leads.
    pub(crate) absences: Absences,
    /// What became of proposals.
    pub(crate) counts: Arc<Counts>,
}

/// The reason that a leader without quorum gives.
const QUORUM_LOST: &str = "QUORUM_LOST";
/// The reason that a leader gives whose disk has no room for more.
const DISK_FULL: &str = "DISK_FULL";

/// Which leader a command is for.
#[derive(Clone, Copy)]
enum Reach {
    /// Whichever takes it in time.
    Anywhere,
    /// This node, or none.
    Here,
}

/// What is asked of the leader.
#[derive(Clone, Copy)]
enum Attempt<'b> {
    /// Commit this envelope.
    Write(&'b [u8]),
    /// Confirm the committed index.
    ReadIndex,
}

/// The control plane did not take a command, or did not say so in time.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Unavailable {
    message: String,
    cause: Cause,
}

/// Why the control plane did not take a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// What may be over soon.
    Passing,
    /// The leader itself says that it has had no quorum for long: asking again does not help.
    QuorumLost,
    /// The leader's disk is full; it hands over if another voter has room.
    DiskFull,
}

impl From<Unavailable> for Status {
    fn from(error: Unavailable) -> Self {
        let (kind, reason) = match error.cause {
            Cause::Passing => (Kind::Unavailable, "CONTROL_UNAVAILABLE"),
            Cause::QuorumLost => (Kind::Unavailable, QUORUM_LOST),
            Cause::DiskFull => (Kind::Exhausted, DISK_FULL),
        };
        nigh_proto::status::of_kind(kind, reason, error.message)
    }
}

impl Unavailable {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), cause: Cause::Passing }
    }

    fn quorum_lost() -> Self {
        let message = "the leader has lost its quorum".to_owned();
        Self { message, cause: Cause::QuorumLost }
    }

    pub(super) fn disk_full(node: NodeId) -> Self {
        let message = format!("the disk of node {node} has no room for its log: make space there");
        Self { message, cause: Cause::DiskFull }
    }

    /// Whether it is for want of room on a disk.
    #[cfg(test)]
    pub(crate) fn is_disk_full(&self) -> bool {
        self.cause == Cause::DiskFull
    }

    /// What a leader answered.
    fn of_leader(leader: NodeId, status: &Status) -> Self {
        let message = format!("leader {leader}: {}", status.message());
        let reason = nigh_proto::status::reason(status);
        let cause = match reason.as_deref() {
            Some(QUORUM_LOST) => Cause::QuorumLost,
            Some(DISK_FULL) => Cause::DiskFull,
            _ => Cause::Passing,
        };
        Self { message, cause }
    }
}

/// A member of the Raft group that no leader has sent anything for this long may have been let
/// go without hearing of it: its leader stops to talk to it when the change is proposed.
const FED_MAX: Duration = Duration::from_secs(3);

impl Control {
    /// Whether this node gets the log itself, as a leader or from one. A node that does not
    /// follows others, and is followed by nobody.
    pub(crate) fn is_fed(&self) -> bool {
        let metrics = self.raft.metrics().borrow_watched().clone();
        if metrics.running_state.is_err() {
            return false;
        }
        let member = metrics.membership_config.membership().get_node(&self.own.0).is_some();
        let leads = metrics.current_leader == Some(self.own.0);
        member && (leads || self.heard.ago() < FED_MAX)
    }

    /// Proposes a command and waits until its outcome is applied here too, so that the caller
    /// reads what it wrote. Retries carry the same request id and are answered the same.
    ///
    /// # Errors
    /// No leader with a quorum took it in time. It may still be carried out later.
    pub(crate) async fn propose(
        &self,
        request_id: Option<RequestId>,
        command: Command,
    ) -> Result<(u64, Outcome), Unavailable> {
        self.propose_by(None, request_id, command).await
    }

    /// The same for somebody, whom the audit log shall name.
    ///
    /// # Errors
    /// As [`propose`](Self::propose).
    pub(crate) async fn propose_by(
        &self,
        by: Option<Actor>,
        request_id: Option<RequestId>,
        command: Command,
    ) -> Result<(u64, Outcome), Unavailable> {
        self.carried_out(Reach::Anywhere, by, request_id, command).await
    }

    /// Proposes what follows from the state as this node sees it while it leads, once. A node that
    /// leads no more proposes nothing: the next leader looks for itself, and would be told what
    /// followed from a state that is past.
    ///
    /// # Errors
    /// This node does not lead, or has lost its quorum. It may still be carried out later.
    pub(crate) async fn propose_as_leader(
        &self,
        command: Command,
    ) -> Result<(u64, Outcome), Unavailable> {
        self.carried_out(Reach::Here, None, None, command).await
    }

    async fn carried_out(
        &self,
        reach: Reach,
        by: Option<Actor>,
        request_id: Option<RequestId>,
        command: Command,
    ) -> Result<(u64, Outcome), Unavailable> {
        let began = Instant::now();
        let request_id = Some(request_id.unwrap_or_else(clock::request_id));
        let envelope = Envelope { request_id, at_ms: clock::now_ms(), by, command };
        let proposed = self.carried_out_uncounted(reach, &envelope).await;
        let ended = match &proposed {
            Ok((_, Ok(_))) => Ended::Committed,
            Ok((_, Err(_))) => Ended::Refused,
            Err(_) => Ended::Unavailable,
        };
        self.counts.note(ended, began.elapsed());
        proposed
    }

    async fn carried_out_uncounted(
        &self,
        reach: Reach,
        envelope: &Envelope,
    ) -> Result<(u64, Outcome), Unavailable> {
        if let Some(refusal) = self.not_yet(&envelope.command) {
            return Ok((self.decided.state().applied, Err(refusal)));
        }
        let bytes = command::encode(envelope);
        let deadline = Instant::now() + self.budget();
        let (index, outcome) = match reach {
            Reach::Anywhere => {
                let (index, outcome) = self.try_until(deadline, Attempt::Write(&bytes)).await?;
                (index, outcome.ok_or_else(|| Unavailable::new("a command got no outcome"))?)
            }
            Reach::Here => tokio::time::timeout_at(deadline, self.write_here(bytes))
                .await
                .map_err(|_| Unavailable::new("the command was not committed in time"))??,
        };
        // The caller reads what it wrote.
        if tokio::time::timeout(APPLY_TIMEOUT, self.decided.reached(index)).await.is_err() {
            tracing::info!(index, "committed, but not yet applied on this node");
        }
        Ok((index, outcome))
    }

    /// Why a command may not be in the log yet: some node would not know it, and halt.
    pub(crate) fn not_yet(&self, command: &Command) -> Option<Refusal> {
        let state = self.decided.state();
        let level = match command {
            // It is itself the step from one to the next.
            Command::RaiseFeatureLevel { .. } => state.supported_level(),
            _ => state.level(),
        };
        let needed = command.level();
        // Nothing is known before the first entry, and the first one has no level above it.
        let begun = state.cluster.is_some();
        (begun && needed > level).then_some(Refusal::FeatureLevel { level, needed })
    }

    /// Waits until everything that was committed before this call is applied here.
    ///
    /// # Errors
    /// No leader with a quorum confirmed an index in time.
    pub(crate) async fn read_barrier(&self) -> Result<(), Unavailable> {
        let deadline = Instant::now() + self.budget();
        let (index, _) = self.try_until(deadline, Attempt::ReadIndex).await?;
        tokio::time::timeout_at(deadline, self.decided.reached(index))
            .await
            .map_err(|_| Unavailable::new(format!("this node did not reach index {index} in time")))
    }

    /// Waits until a leader's state holds all that was committed before it led: until then it would
    /// decide by what is past.
    ///
    /// # Errors
    /// This node does not lead, or did not get there in time.
    pub(crate) async fn caught_up_as_leader(&self) -> Result<(), Unavailable> {
        let caught_up = async {
            let index = self.read_index_here().await?;
            self.decided.reached(index).await;
            Ok(())
        };
        tokio::time::timeout(self.budget(), caught_up)
            .await
            .map_err(|_| Unavailable::new("what was committed is not applied on this node yet"))?
    }

    fn budget(&self) -> Duration {
        if self.health.now().lost_for() >= LOST_AFTER { BUDGET_WHEN_LOST } else { BUDGET }
    }

    /// Tries until it succeeds or the time is over; says then what the last try met.
    async fn try_until(
        &self,
        deadline: Instant,
        attempt: Attempt<'_>,
    ) -> Result<(u64, Option<Outcome>), Unavailable> {
        let mut pause = PAUSE.0;
        let mut last = Unavailable::new("no leader is known");
        loop {
            match tokio::time::timeout_at(deadline, self.try_once(attempt)).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => {
                    last = error;
                    if last.cause == Cause::QuorumLost {
                        break;
                    }
                }
                Err(_) => break,
            }
            if Instant::now() + pause >= deadline {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
        let lost = self.health.now().lost_for();
        let since = match lost.is_zero() {
            true => String::new(),
            false => format!(" (no quorum for {:.1} s)", lost.as_secs_f64()),
        };
        let message = format!("the control plane takes no changes now{since}: {last}");
        let cause = match last.cause {
            Cause::DiskFull => Cause::DiskFull,
            Cause::Passing | Cause::QuorumLost => Cause::Passing,
        };
        Err(Unavailable { message, cause })
    }

    async fn try_once(&self, attempt: Attempt<'_>) -> Result<(u64, Option<Outcome>), Unavailable> {
        let leader = self.health.now().leader;
        let leader = leader.ok_or_else(|| Unavailable::new("no leader is known"))?;
        if leader == self.own {
            return match attempt {
                Attempt::Write(bytes) => {
                    let (index, outcome) = self.write_here(bytes.to_vec()).await?;
                    Ok((index, Some(outcome)))
                }
                Attempt::ReadIndex => Ok((self.read_index_here().await?, None)),
            };
        }
        let said = |status: Status| Unavailable::of_leader(leader, &status);
        let mut client = self.client(leader)?;
        let cluster_id = self.cluster.to_string();
        match attempt {
            Attempt::Write(bytes) => {
                let request = ProposeRequest { cluster_id, envelope: bytes.to_vec().into() };
                let answer = client.propose(request).await.map_err(said)?.into_inner();
                let outcome = rmp_serde::from_slice(&answer.outcome).map_err(|error| {
                    Unavailable::new(format!("leader {leader} answered rubbish: {error}"))
                })?;
                Ok((answer.index, Some(outcome)))
            }
            Attempt::ReadIndex => {
                let answer = client.read_index(ReadIndexRequest { cluster_id }).await;
                Ok((answer.map_err(said)?.into_inner().index, None))
            }
        }
    }

    /// Commits a command on this node, which must lead.
    ///
    /// # Errors
    /// This node does not lead or has lost its quorum.
    pub(crate) async fn write_here(&self, bytes: Vec<u8>) -> Result<(u64, Outcome), Unavailable> {
        self.check_quorum()?;
        // Beyond this the log is kept free for what Raft itself must write.
        if self.log.health().full {
            return Err(Unavailable::disk_full(self.own));
        }
        match self.raft.client_write(Proposal(bytes.into())).await {
            Ok(written) => {
                let index = written.log_id().index;
                let outcome = written.response().0.clone().ok_or_else(|| {
                    Unavailable::new("the command was committed without an outcome")
                })?;
                Ok((index, outcome))
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                let to = to.leader_id.map_or("nobody".to_owned(), |id| format!("node {id}"));
                Err(Unavailable::new(format!("node {} does not lead ({to} does)", self.own)))
            }
            Err(error) => Err(Unavailable::new(error.to_string())),
        }
    }

    /// The committed index, confirmed by a quorum; this node must lead.
    ///
    /// # Errors
    /// This node does not lead or no quorum confirms it.
    pub(crate) async fn read_index_here(&self) -> Result<u64, Unavailable> {
        self.check_quorum()?;
        let read = self.raft.get_read_log_id(ReadPolicy::ReadIndex).await;
        let (read, _) = read.map_err(|error| Unavailable::new(error.to_string()))?;
        Ok(read.index())
    }

    /// A leader without quorum would let a command wait in its log, and a read for ever.
    fn check_quorum(&self) -> Result<(), Unavailable> {
        let health = self.health.now();
        let lost = health.leader == Some(self.own) && health.lost_for() >= LOST_AFTER;
        if lost { Err(Unavailable::quorum_lost()) } else { Ok(()) }
    }

    fn client(&self, to: NodeId) -> Result<ControlClient<Channel>, Unavailable> {
        let channel = self.peers.channel(to, Lane::Control);
        let channel =
            channel.ok_or_else(|| Unavailable::new(format!("leader {to} is not registered")))?;
        Ok(ControlClient::new(channel))
    }
}
