//! How a node comes to its cluster: it asks any member, the leader decides.

use std::time::Duration;

use nigh_model::command::{Command, FEATURE_LEVEL, NodeSpec, Reply};
use nigh_model::{ClusterId, Kind, NodeId, Region, RequestId};
use nigh_proto::peer::v1::control_client::ControlClient;
use nigh_proto::peer::v1::{IdentifyRequest, IdentifyResponse, JoinRequest, JoinResponse};
use nigh_proto::status;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Code, Status};

use super::propose::{Control, Unavailable};
use crate::clock;
use crate::config::Config;
use crate::error::Error;
use crate::peer::{Lane, Peers};
use crate::seen::Liveness;

/// One address is asked for this long.
const ASK_TIMEOUT: Duration = Duration::from_secs(8);
/// A holder of a name is asked for a sign of life for this long before it is replaced.
const SIGN_OF_LIFE_TIMEOUT: Duration = Duration::from_secs(1);
/// What may be a web server is given this long to say so.
const PLAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// First and longest pause between two rounds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What a node was told when it was admitted.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// The node's id.
    pub(crate) id: NodeId,
    /// Gossip addresses to begin with.
    pub(crate) gossip_seeds: Vec<String>,
    /// Nodes that hold the state, to begin with.
    pub(crate) replicas: Vec<String>,
}

/// What this node says of itself.
pub(crate) fn describe(config: &Config) -> NodeSpec {
    NodeSpec {
        name: config.name.clone(),
        region: config.region.clone(),
        zone: config.zone.clone(),
        location: config.location,
        addresses: nigh_model::Addresses {
            http: config.advertised(config.http),
            api: config.advertised(config.api),
            peer: config.advertised(config.peer),
            gossip: config.advertised(config.gossip),
        },
        version: env!("CARGO_PKG_VERSION").to_owned(),
        feature_level: FEATURE_LEVEL,
    }
}

/// Asks the addresses in turn until one admits this node. Refusals that will not change are
/// errors; everything else is tried again, with a line that says what is waited for.
///
/// # Errors
/// The cluster refuses this node, or an address is no nigh node.
pub(crate) async fn join(
    config: &Config,
    peers: &Peers,
    addresses: &[String],
) -> Result<Admitted, Error> {
    let request_id = clock::request_id();
    let mut pause = PAUSE.0;
    loop {
        let mut waits = Vec::new();
        for address in addresses {
            let asked = ask(config, peers, address, &request_id);
            match tokio::time::timeout(ASK_TIMEOUT, asked).await {
                Ok(Ok(admitted)) => return Ok(admitted),
                Ok(Err(Asked::Refused(error))) => return Err(error),
                Ok(Err(Asked::Later(why))) => waits.push(format!("{address}: {why}")),
                Err(_) => waits.push(format!("{address}: no answer within 8 s")),
            }
        }
        tracing::info!(waiting_for = %waits.join("; "), "waiting to be admitted");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

enum Asked {
    Later(String),
    Refused(Error),
}

/// Why an address did not say who it is.
#[derive(Debug)]
pub(crate) enum NotIdentified {
    /// Nothing answers, for now.
    Silent(String),
    /// What answers is no nigh node.
    Foreign(String),
}

/// Who answers at an address.
///
/// # Errors
/// Nothing answers, or what answers is no nigh node.
pub(crate) async fn identify(
    peers: &Peers,
    address: &str,
) -> Result<IdentifyResponse, NotIdentified> {
    let mut client = ControlClient::new(peers.connect(address, None));
    match client.identify(IdentifyRequest {}).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => {
            let why = innermost(&status);
            // A refused connection may be a node that is still starting; an answer that is no
            // gRPC, or another service's, will not become one.
            match status.code() {
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled
                    if !why.contains("http2") && !why.contains("frame") =>
                {
                    // A web server that hangs up at once looks like a node that is going down.
                    match speaks_http1(address).await {
                        true => Err(NotIdentified::Foreign("it answers as a web server".into())),
                        false => Err(NotIdentified::Silent(why)),
                    }
                }
                _ => Err(NotIdentified::Foreign(why)),
            }
        }
    }
}

/// Whether what listens there answers a plain request, which a node's peer port does not.
async fn speaks_http1(address: &str) -> bool {
    let asked = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut start = [0; 5];
        stream.read_exact(&mut start).await?;
        Ok::<_, std::io::Error>(start == *b"HTTP/")
    };
    matches!(tokio::time::timeout(PLAIN_TIMEOUT, asked).await, Ok(Ok(true)))
}

/// What lies under a status that only says "transport error".
fn innermost(status: &Status) -> String {
    let mut error: &dyn std::error::Error = status;
    while let Some(source) = error.source() {
        error = source;
    }
    match error.downcast_ref::<Status>() {
        Some(status) if status.message().is_empty() => {
            "it speaks gRPC, but not as a node to nodes: is this its API port?".to_owned()
        }
        Some(status) => status.message().to_owned(),
        None => error.to_string(),
    }
}

async fn ask(
    config: &Config,
    peers: &Peers,
    address: &str,
    request_id: &RequestId,
) -> Result<Admitted, Asked> {
    let known = identify(peers, address).await.map_err(|error| match error {
        NotIdentified::Silent(why) => Asked::Later(why),
        NotIdentified::Foreign(why) => {
            Asked::Refused(Error::NoNode { address: address.to_owned(), why })
        }
    })?;
    if known.protocol.abs_diff(nigh_proto::PEER_PROTOCOL) > 1 {
        return Err(Asked::Refused(Error::NotAdmitted {
            reason: format!(
                "{address} speaks peer protocol {}, this build {}: upgrade one release at a time",
                known.protocol,
                nigh_proto::PEER_PROTOCOL
            ),
            kind: Kind::Conflict,
        }));
    }
    let region: Option<Region> = known.region.parse().ok();
    let mut client = ControlClient::new(peers.connect(address, region.as_ref()));
    let node = rmp_serde::to_vec_named(&describe(config))
        .map_err(|error| Asked::Refused(Error::Internal(error.to_string())))?;
    let request = JoinRequest {
        node: node.into(),
        protocol: nigh_proto::PEER_PROTOCOL,
        node_id: 0,
        cluster_id: String::new(),
        request_id: request_id.to_string(),
        forwarded: false,
    };
    let answer = client.join(request).await.map_err(|status| {
        let kind = status::kind(&status);
        let reason = status.message().to_owned();
        match kind {
            Kind::Conflict | Kind::Invalid | Kind::Denied => {
                Asked::Refused(Error::NotAdmitted { reason, kind })
            }
            _ => Asked::Later(reason),
        }
    })?;
    let answer = answer.into_inner();
    let cluster = ClusterId::new(&answer.cluster_id)
        .map_err(|error| Asked::Later(format!("it answered rubbish: {error}")))?;
    Ok(Admitted {
        cluster,
        id: NodeId(answer.node_id),
        gossip_seeds: answer.gossip_seeds,
        replicas: answer.replicas,
    })
}

/// Admits a node: here when this node leads, else by asking the leader, once.
pub(super) async fn admit(control: &Control, request: JoinRequest) -> Result<JoinResponse, Status> {
    let bad = |why: String| status::of_kind(Kind::Invalid, "BAD_JOIN", why);
    let node: NodeSpec = rmp_serde::from_slice(&request.node)
        .map_err(|error| bad(format!("the node's description does not decode: {error}")))?;
    let request_id = RequestId::new(&request.request_id).map_err(|error| bad(error.to_string()))?;
    match control.health.now().leader {
        Some(leader) if leader == control.own => {}
        Some(leader) if !request.forwarded => {
            let channel = control.peers.channel(leader, Lane::Control).ok_or_else(no_leader)?;
            let request = JoinRequest { forwarded: true, ..request };
            return Ok(ControlClient::new(channel).join(request).await?.into_inner());
        }
        _ => return Err(no_leader()),
    }
    let state = control.decided.state();
    let replaces = match state.node_named(node.name.as_str()) {
        None => None,
        // A retry: the command answers what it answered before.
        Some(holder) if state.replies.contains_key(&request_id) => Some(holder.id),
        Some(holder) if is_alive(control, holder.id).await => {
            let message = format!(
                "node name `{}` is held by a live node at {}: give this one another --name",
                holder.name, holder.addresses.peer
            );
            return Err(status::of_kind(Kind::Conflict, "NODE_NAME_TAKEN", message));
        }
        Some(holder) => {
            tracing::info!(name = %holder.name, id = %holder.id, "a dead node's name passes on");
            Some(holder.id)
        }
    };
    let command = Command::RegisterNode { node, replaces, token: None };
    let (_, outcome) = control.propose(Some(request_id), command).await?;
    let id = match outcome {
        Ok(Reply::Node(id)) => id,
        Ok(_) => return Err(Status::internal("registering a node answered something else")),
        Err(refusal) => {
            return Err(status::of_kind(refusal.kind(), refusal.reason(), refusal.to_string()));
        }
    };
    let state = control.decided.state();
    let voters = control.health.now().voters;
    let replicas = voters.iter().filter_map(|id| state.nodes.get(id));
    Ok(JoinResponse {
        cluster_id: control.cluster.to_string(),
        node_id: id.0,
        gossip_seeds: state.nodes.values().map(|node| node.addresses.gossip.clone()).collect(),
        replicas: replicas.map(|node| node.addresses.peer.clone()).collect(),
    })
}

fn no_leader() -> Status {
    Unavailable::new("no leader is known").into()
}

/// By gossip, and by its own word where gossip has given it up.
async fn is_alive(control: &Control, id: NodeId) -> bool {
    if control.seen.now().liveness(id) == Liveness::Alive {
        return true;
    }
    let Some(channel) = control.peers.channel(id, Lane::Control) else { return false };
    let mut client = ControlClient::new(channel);
    let answer = tokio::time::timeout(SIGN_OF_LIFE_TIMEOUT, client.identify(IdentifyRequest {}));
    matches!(answer.await, Ok(Ok(known)) if known.get_ref().node_id == id.0)
}
