//! How a node comes to its cluster: it asks any member, the leader decides.

use std::sync::Arc;
use std::time::Duration;

use nigh_model::access::{Grant, JoinToken, Secret, Token};
use nigh_model::command::{Command, FEATURE_LEVEL, NodeSpec, Reply};
use nigh_model::trust::Trust;
use nigh_model::{ClusterId, Kind, Node, NodeId, RequestId, State};
use nigh_proto::peer::v1::control_client::ControlClient;
use nigh_proto::peer::v1::{IdentifyRequest, IdentifyResponse, JoinRequest, JoinResponse};
use nigh_proto::status;
use subtle::ConstantTimeEq as _;
use tonic::Status;

use super::acquaint::{self, NotMet};
use super::gossip_keys::{keys_of, messages_of};
use super::propose::{Control, Unavailable};
use crate::clock;
use crate::config::{Config, TokenError, TokenSource};
use crate::error::Error;
use crate::gossip::GossipKey;
use crate::identity::{self, Leaf, Material, Own};
use crate::peer::{Lane, Peers};
use crate::seen::Liveness;

/// One address is asked for this long.
const ASK_TIMEOUT: Duration = Duration::from_secs(8);
/// A holder of a name is asked for a sign of life for this long before it is replaced.
const SIGN_OF_LIFE_TIMEOUT: Duration = Duration::from_secs(1);
/// A name passes on when its holder has been dead for this long.
const NAME_PASSES_AFTER: Duration = Duration::from_secs(30);
/// First and longest pause between two rounds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What a node was told when it was admitted.
pub(crate) struct Admitted {
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// The node's id.
    pub(crate) id: NodeId,
    /// Gossip addresses to begin with.
    pub(crate) gossip_seeds: Vec<String>,
    /// Nodes that hold the state, to begin with.
    pub(crate) replicas: Vec<String>,
    /// Its certificate, and whom to trust.
    pub(crate) material: Material,
    /// The keys of gossip, the one to send with last.
    pub(crate) gossip_keys: Vec<GossipKey>,
}

/// What this node says of itself.
pub(crate) fn describe(config: &Config) -> NodeSpec {
    NodeSpec {
        name: config.name.clone(),
        region: config.region.clone(),
        zone: config.zone.clone(),
        location: config.location,
        addresses: config.addresses(),
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
    token: &TokenSource,
    addresses: &[String],
) -> Result<Admitted, Error> {
    let request_id = clock::request_id();
    let asked = identity::Request::new()?;
    let mut pause = PAUSE.0;
    loop {
        let mut waits = Vec::new();
        let token = match token.read() {
            Ok(token) => Some(token),
            Err(error @ TokenError::Missing(_)) => {
                waits.push(error.to_string());
                None
            }
            Err(error) => return Err(Error::BadJoinToken(error.to_string())),
        };
        for (address, token) in addresses.iter().zip(token.iter().cycle()) {
            let asking = ask(config, token, &asked, address, &request_id);
            match tokio::time::timeout(ASK_TIMEOUT, asking).await {
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

/// Who answers at an address: a node of this cluster, by its certificate.
///
/// # Errors
/// Nothing answers, or what answers is no node of this cluster.
pub(crate) async fn identify(peers: &Peers, address: &str) -> Result<IdentifyResponse, Status> {
    let mut client = ControlClient::new(peers.connect(address, None));
    Ok(client.identify(IdentifyRequest {}).await?.into_inner())
}

async fn ask(
    config: &Config,
    token: &JoinToken,
    asked: &identity::Request,
    address: &str,
    request_id: &RequestId,
) -> Result<Admitted, Asked> {
    let channel =
        acquaint::connect(address, token.authority).await.map_err(|error| match error {
            NotMet::Silent(why) => Asked::Later(why),
            NotMet::Foreign(why) => {
                Asked::Refused(Error::NoNode { address: address.to_owned(), why })
            }
        })?;
    let node = rmp_serde::to_vec_named(&describe(config))
        .map_err(|error| Asked::Refused(Error::Internal(error.to_string())))?;
    let request = JoinRequest {
        node: node.into(),
        protocol: nigh_proto::PEER_PROTOCOL,
        request_id: request_id.to_string(),
        forwarded: false,
        token_id: token.id.to_string(),
        token_secret: token.secret.as_bytes().to_vec().into(),
        certificate_request: asked.request.clone().into(),
    };
    let answer = ControlClient::new(channel).join(request).await.map_err(|status| {
        let kind = status::kind(&status);
        let reason = status.message().to_owned();
        match kind {
            Kind::Conflict | Kind::Invalid | Kind::Denied | Kind::NotFound => {
                Asked::Refused(Error::NotAdmitted { reason, kind })
            }
            _ => Asked::Later(reason),
        }
    })?;
    let rubbish = |why: String| Asked::Later(format!("it answered rubbish: {why}"));
    let answer = answer.into_inner();
    let cluster = ClusterId::new(&answer.cluster_id).map_err(|error| rubbish(error.to_string()))?;
    let trust: Trust =
        rmp_serde::from_slice(&answer.trust).map_err(|error| rubbish(error.to_string()))?;
    let issuer = trust.signing.ok_or_else(|| rubbish("no authority signs".to_owned()))?;
    let material = Material {
        certificate: answer.certificate.to_vec(),
        issuer,
        key: asked.key.clone(),
        trust,
    };
    let leaf = Leaf::read(&material.certificate).map_err(|error| rubbish(error.to_string()))?;
    if leaf.node.0 != answer.node_id || leaf.cluster != cluster {
        return Err(rubbish("a certificate for another node".to_owned()));
    }
    Ok(Admitted {
        cluster,
        id: leaf.node,
        gossip_seeds: answer.gossip_seeds,
        replicas: answer.replicas,
        material,
        gossip_keys: keys_of(answer.gossip_keys),
    })
}

/// Admits a node: here when this node leads, else by asking the leader, once.
pub(super) async fn admit(
    control: &Control,
    identity: &Own,
    request: JoinRequest,
) -> Result<JoinResponse, Status> {
    let bad = |why: String| status::of_kind(Kind::Invalid, "BAD_JOIN", why);
    let node: NodeSpec = rmp_serde::from_slice(&request.node)
        .map_err(|error| bad(format!("the node's description does not decode: {error}")))?;
    let request_id = RequestId::new(&request.request_id).map_err(|error| bad(error.to_string()))?;
    if request.protocol.abs_diff(nigh_proto::PEER_PROTOCOL) > 1 {
        let (own, other) = (nigh_proto::PEER_PROTOCOL, request.protocol);
        let why = format!(
            "it speaks peer protocol {other}, the cluster {own}: upgrade one release at a time"
        );
        return Err(status::of_kind(Kind::Conflict, "BAD_JOIN", why));
    }
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
    if state.cluster.is_none() {
        return Err(Unavailable::new("the cluster has not begun yet").into());
    }
    let token = shown_token(&state, &request)?;
    // Nothing is spent while nobody here can sign.
    if !identity.can_sign(&state.trust) {
        return Err(Unavailable::new("the leader does not hold the authority's key yet").into());
    }
    let replaces = match state.node_named(node.name.as_str()) {
        None => None,
        // A retry: the command answers what it answered before.
        Some(holder) if state.replies.contains_key(&request_id) => Some(holder.id),
        Some(holder) => {
            pass_on(control, holder, &token).await?;
            Some(holder.id)
        }
    };
    let command = Command::RegisterNode { node, replaces, token: Some(token.id.clone()) };
    let (_, outcome) = control.propose(Some(request_id), command).await?;
    let id = match outcome {
        Ok(Reply::Node(id)) => id,
        Ok(_) => return Err(Status::internal("registering a node answered something else")),
        Err(refusal) => {
            return Err(status::of_kind(refusal.kind(), refusal.reason(), refusal.to_string()));
        }
    };
    let state = control.decided.state();
    let subject = identity::subject(control, id).ok_or_else(no_leader)?;
    let signed = identity.sign(&state.trust, &request.certificate_request, &subject).await;
    let (certificate, _) = signed.map_err(|error| bad(error.to_string()))?.ok_or_else(no_leader)?;
    let trust = rmp_serde::to_vec_named(&*state.trust)
        .map_err(|error| Status::internal(error.to_string()))?;
    let voters = control.health.now().voters;
    let replicas = voters.iter().filter_map(|id| state.nodes.get(id));
    Ok(JoinResponse {
        cluster_id: control.cluster.to_string(),
        node_id: id.0,
        gossip_seeds: state.nodes.values().flat_map(|node| node.addresses.gossips()).collect(),
        replicas: replicas.flat_map(|node| node.addresses.peers()).collect(),
        certificate: certificate.into(),
        trust: trust.into(),
        gossip_keys: messages_of(&control.keys.ring().for_a_new_node()),
    })
}

/// The join token that was shown. Whether there is none of this id or its secret is another is
/// not told.
fn shown_token(state: &State, request: &JoinRequest) -> Result<Arc<Token>, Status> {
    let refused = || {
        let message = "the join token is not known: it was revoked, has expired, is used up, or is \
                       another cluster's";
        status::of_kind(Kind::Denied, "TOKEN_REFUSED", message)
    };
    let token = state.tokens.get(request.token_id.as_str()).ok_or_else(refused)?;
    let secret: [u8; 32] = request.token_secret.as_ref().try_into().map_err(|_| refused())?;
    let shown = Secret::from_bytes(secret).digest();
    let same: bool = shown.as_bytes().ct_eq(token.digest.as_bytes()).into();
    if same && matches!(token.grant, Grant::Join { .. }) {
        Ok(token.clone())
    } else {
        Err(refused())
    }
}

/// Whether the name of a registered node may pass on to another: its holder must have been dead
/// for a while, and the token must be bound to the name.
async fn pass_on(control: &Control, holder: &Node, token: &Token) -> Result<(), Status> {
    let taken = |message: String| status::of_kind(Kind::Conflict, "NODE_NAME_TAKEN", message);
    let (name, id, address) = (&holder.name, holder.id, &holder.addresses.peer);
    if is_alive(control, id).await {
        let message = format!(
            "node name `{name}` is held by a live node at {address}: give this one another --name"
        );
        return Err(taken(message));
    }
    let bound = matches!(&token.grant, Grant::Join { node: Some(bound), .. } if bound == name);
    if !bound {
        let message = format!(
            "node name `{name}` is held by node {id}, which is down: if this is the same machine \
             without its disk, use a token bound to the name \
             (`nigh operator token create --join --name {name}`), else another --name"
        );
        return Err(taken(message));
    }
    let dead_for = control.absences.dead_for(id);
    if dead_for < NAME_PASSES_AFTER {
        let message = format!(
            "node name `{name}` is held by node {id}, dead for {} s: it passes on after {} s",
            dead_for.as_secs(),
            NAME_PASSES_AFTER.as_secs()
        );
        return Err(Unavailable::new(message).into());
    }
    tracing::info!(%name, %id, "a dead node's name passes on");
    Ok(())
}

fn no_leader() -> Status {
    Unavailable::new("no leader is known").into()
}

/// By gossip, and by its own word where gossip has given it up.
pub(super) async fn is_alive(control: &Control, id: NodeId) -> bool {
    if control.seen.now().liveness(id) == Liveness::Alive {
        return true;
    }
    let Some(channel) = control.peers.channel(id, Lane::Control) else { return false };
    let mut client = ControlClient::new(channel);
    let answer = tokio::time::timeout(SIGN_OF_LIFE_TIMEOUT, client.identify(IdentifyRequest {}));
    matches!(answer.await, Ok(Ok(known)) if known.get_ref().node_id == id.0)
}
