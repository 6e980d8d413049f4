//! Measures round trips and notices when a peer that was taken out answers again.

use std::time::Duration;

use nigh_model::NodeId;
use nigh_proto::peer::v1::PingRequest;
use nigh_proto::peer::v1::control_client::ControlClient;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::pool::{Lane, Peers};
use crate::decided::Decided;

/// Between two pings of one peer.
const INTERVAL: Duration = Duration::from_millis(500);
/// A ping not answered by then failed.
const TIMEOUT: Duration = Duration::from_millis(1_500);

/// Pings every other registered node until cancelled.
pub(crate) async fn keep_measuring(
    own: NodeId,
    decided: Decided,
    peers: Peers,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut round = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        while round.try_join_next().is_some() {}
        let state = decided.state();
        peers.retain(|id| state.nodes.contains_key(&id));
        // A round may still wait for slow peers; they are asked again when it is over.
        if round.is_empty() {
            for id in state.nodes.keys().copied().filter(|id| *id != own) {
                round.spawn(ping(peers.clone(), id));
            }
        }
    }
}

async fn ping(peers: Peers, to: NodeId) {
    let Some(channel) = peers.channel(to, Lane::Control) else { return };
    let began = Instant::now();
    let mut client = ControlClient::new(channel);
    match tokio::time::timeout(TIMEOUT, client.ping(PingRequest {})).await {
        Ok(Ok(_)) => {
            if peers.health(to).answered(began.elapsed()) {
                tracing::info!(peer = %to, "peer answers again");
            }
        }
        Ok(Err(_)) | Err(_) => peers.failed(to),
    }
}
