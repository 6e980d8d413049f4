//! Following the state on nodes that are sent no Raft log: a snapshot, then every entry, from the
//! nearest replica that answers; another one when it falls silent.

use std::sync::Arc;
use std::time::Duration;

use nigh_model::{NodeId, apply, command};
use nigh_proto::peer::v1::control_client::ControlClient;
use nigh_proto::peer::v1::watch_event::Event;
use nigh_proto::peer::v1::{Entries, SnapshotPiece, WatchRequest};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::health::Health;
use super::propose::Control;
use super::start::removed;
use super::state_stream::{Arriving, Unfit};
use crate::peer::{Lane, NODE_REMOVED};

/// A replica that says nothing for this long is left: it promises a word twice a second.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// Between two rounds of asking.
const PAUSE: Duration = Duration::from_millis(200);
/// A replica that does not open the stream by then is passed over.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks whether a nearer replica has come.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// A replica is nearer when its round trip is shorter by this factor …
const NEARER_FACTOR: f64 = 2.0;
/// … and by this much, in ms: within a region it does not matter.
const NEARER_MS: f64 = 5.0;

/// Follows the state while this node holds no Raft log, until cancelled.
///
/// # Errors
/// An entry that this build does not know, or this node was removed: the node must halt, and says
/// this.
pub(crate) async fn keep_following(
    control: Control,
    hints: Vec<String>,
    stop: CancellationToken,
) -> Result<(), String> {
    loop {
        if !control.is_fed() {
            for source in sources(&control, &hints) {
                let followed = tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    followed = follow(&control, &source) => followed,
                };
                match followed {
                    Err(Left::Unknown(why)) => return Err(why),
                    Err(Left::Removed) => return Err(removed("")),
                    Err(Left::Broken(why)) => {
                        tracing::debug!(?source, why, "state stream ended");
                        // The next source says otherwise, if it can.
                        control.health.note_silence();
                    }
                    Ok(()) => break,
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Why a replica was left.
enum Left {
    /// It fell silent, stopped or is no replica.
    Broken(String),
    /// It sent what this build does not know.
    Unknown(String),
    /// It says that this node was removed.
    Removed,
}

impl From<tonic::Status> for Left {
    fn from(status: tonic::Status) -> Self {
        match nigh_proto::status::reason(&status).as_deref() {
            // The registry knows no more of it; and ids are never used again.
            Some(NODE_REMOVED) => Self::Removed,
            _ => Self::Broken(status.message().to_owned()),
        }
    }
}

impl From<Unfit> for Left {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::TooLarge | Unfit::Stopping(_) => Self::Broken(unfit.to_string()),
            Unfit::Undecodable(_) => Self::Unknown(unfit.to_string()),
        }
    }
}

/// Whom to follow.
#[derive(Clone, Debug)]
enum Source {
    /// A registered node.
    Node(NodeId),
    /// An address that was given to a node that knows nothing yet. It is left as soon as the
    /// registry is known.
    Hint(String),
}

/// Replicas as far as they are known, nearest first, then everybody else: one of them may know.
fn sources(control: &Control, hints: &[String]) -> Vec<Source> {
    let health = control.health.now();
    let others = control.decided.state();
    let others = others.nodes.keys().copied().filter(|id| *id != control.own);
    let standing = |id: &NodeId| Standing {
        replica: health.voters.contains(id) || health.learners.contains(id),
        ejected: control.peers.is_ejected(*id),
        rtt_ms: control.peers.rtt_ms(*id),
    };
    let ids = order(others.map(|id| (id, standing(&id))).collect());
    if ids.is_empty() {
        return hints.iter().cloned().map(Source::Hint).collect();
    }
    ids.into_iter().map(Source::Node).collect()
}

/// What is known of a node that may be followed.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// It is a member of the Raft group.
    replica: bool,
    /// Its connection failed.
    ejected: bool,
    rtt_ms: Option<f64>,
}

/// Whom to follow, best first: replicas before others, those that answer before those that do
/// not, near before far. Pure.
fn order(mut nodes: Vec<(NodeId, Standing)>) -> Vec<NodeId> {
    nodes.sort_by(|(_, a), (_, b)| {
        let rank = |node: &Standing| (!node.replica, node.ejected);
        let rtt = |node: &Standing| node.rtt_ms.unwrap_or(f64::MAX);
        rank(a).cmp(&rank(b)).then(rtt(a).total_cmp(&rtt(b)))
    });
    nodes.into_iter().map(|(id, _)| id).collect()
}

/// Whether another replica is so much nearer than the one that is followed that changing pays.
fn is_far_nearer(control: &Control, source: &Source) -> bool {
    let Source::Node(id) = source else { return false };
    let Some(Source::Node(best)) = sources(control, &[]).into_iter().next() else { return false };
    let (Some(now), Some(then)) = (control.peers.rtt_ms(*id), control.peers.rtt_ms(best)) else {
        return false;
    };
    best != *id && then * NEARER_FACTOR < now && now - then > NEARER_MS
}

/// Follows one replica; `Ok` when this node has become a member of the Raft group itself, or when
/// a nearer replica is there.
async fn follow(control: &Control, source: &Source) -> Result<(), Left> {
    let broken = |why: &str| Left::Broken(why.to_owned());
    let channel = match source {
        Source::Node(id) => control
            .peers
            .channel(*id, Lane::Bulk)
            .ok_or_else(|| broken("it is no longer registered"))?,
        Source::Hint(address) => control.peers.connect(address, None),
    };
    let mut client =
        ControlClient::new(channel).max_decoding_message_size(super::network::MESSAGE_BYTES_MAX);
    let request = WatchRequest {
        cluster_id: control.cluster.to_string(),
        node_id: control.own.0,
        after: control.decided.state().applied,
    };
    let opened = tokio::time::timeout(OPEN_TIMEOUT, client.watch(request)).await;
    let mut events = opened.map_err(|_| broken("it did not answer"))??.into_inner();
    let mut arriving = None;
    let mut look = Instant::now() + LOOK_INTERVAL;
    loop {
        if Instant::now() >= look {
            look = Instant::now() + LOOK_INTERVAL;
            if arriving.is_none() && is_far_nearer(control, source) {
                tracing::info!(from = ?source, "a nearer replica is there: it is followed from now on");
                return Ok(());
            }
        }
        let event = tokio::time::timeout(SILENCE_MAX, events.message()).await;
        let event = event.map_err(|_| broken("it fell silent"))??;
        let event = event.ok_or_else(|| broken("it stopped"))?;
        match event.event {
            Some(Event::Snapshot(piece)) => {
                let last = piece.last;
                take_piece(control, &mut arriving, piece).await?;
                if matches!(source, Source::Hint(_)) && last {
                    return Err(broken("the registry is known now"));
                }
            }
            Some(Event::Entries(entries)) => take_entries(control, entries)?,
            Some(Event::Health(message)) => {
                let health = Health::of_message(&message);
                if control.is_fed() {
                    return Ok(());
                }
                control.health.note(health);
            }
            None => {}
        }
    }
}

async fn take_piece(
    control: &Control,
    arriving: &mut Option<Arriving>,
    piece: SnapshotPiece,
) -> Result<(), Left> {
    let state = arriving.get_or_insert_with(Arriving::begin);
    state.add(piece.data).await?;
    if piece.last
        && let Some(arriving) = arriving.take()
    {
        let state = arriving.end().await?;
        let before = control.decided.state().applied;
        let index = state.applied;
        if before == 0 {
            tracing::debug!(index, "state taken from a snapshot");
        } else {
            tracing::info!(
                before,
                index,
                "too far behind for single entries: caught up by a snapshot"
            );
        }
        control.decided.publish(Arc::new(state));
    }
    Ok(())
}

fn take_entries(control: &Control, entries: Entries) -> Result<(), Left> {
    let mut state = (*control.decided.state()).clone();
    for entry in entries.entries {
        if entry.index <= state.applied {
            continue;
        }
        if entry.index != state.applied + 1 {
            let why = format!("entry {} does not follow {}", entry.index, state.applied);
            return Err(Left::Broken(why));
        }
        if entry.envelope.is_empty() {
            apply::apply_blank(&mut state, entry.index);
        } else {
            let envelope = command::decode(&entry.envelope)
                .map_err(|error| Left::Unknown(format!("entry {}: {error}", entry.index)))?;
            apply(&mut state, entry.index, &envelope);
        }
    }
    control.decided.publish(Arc::new(state));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_replica_that_answers_is_followed_and_the_others_are_next() {
        let node =
            |id, replica, ejected, rtt_ms| (NodeId(id), Standing { replica, ejected, rtt_ms });
        let nodes = vec![
            node(1, true, false, Some(80.0)),
            node(2, false, false, Some(0.5)),
            node(3, true, true, Some(0.2)),
            node(4, true, false, Some(2.0)),
            node(5, true, false, None),
        ];
        let order: Vec<u64> = order(nodes).into_iter().map(|id| id.0).collect();
        assert_eq!(order, [4, 1, 5, 3, 2]);
    }
}
