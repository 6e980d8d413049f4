//! Starts and stops the parts of a node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nigh_model::NodeId;
use nigh_runtime::{Behind, Engine, EngineConfig};
use nigh_storage::raft::Published;
use nigh_storage::stores::{LOG_FOLDER, Options};
use nigh_storage::wal::SEGMENT_BYTES;
use nigh_storage::{Disk, RealDisk, StateSaver, Stores, WatchedDisk};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::agent::{Agent, Setup, keep_copies_elsewhere};
use crate::api::access::AccessService;
use crate::api::apps::AppsService;
use crate::api::artifacts::ArtifactsService;
use crate::api::cluster::ClusterService;
use crate::api::server::{Api, serve_metrics};
use crate::clock;
use crate::config::Config;
use crate::control::{self, Control, ControlParts};
use crate::decided::Decided;
use crate::error::Error;
use crate::gateway::{
    Certificates, Gateway, GatewayParts, Handshakes, LOOK_INTERVAL, Reader, Transport,
    keep_giving_back, make_certificate, peer_invoke_service, public_invoke_service, serve_http,
};
use crate::gossip::{Gossip, GossipConfig, GossipTiming, Keys};
use crate::identity;
use crate::listeners::Listeners;
use crate::membership::{self, Membership};
use crate::peer::{Link, PeerServer, Peers, Strangers, keep_measuring};
use crate::process::raise_file_limit;
use crate::report::{Told, keep_reporting};
use crate::room;
use crate::seen::Seen;
use crate::stopping::Stopping;
use crate::telemetry::{LogBook, Metrics, Sources, peer_logs_service, public_logs_service};

/// Of the time given for a shutdown, what the parts after the servers get.
const AFTER_SERVERS: Duration = Duration::from_millis(1_500);
/// Guests still running when the servers have stopped get this long.
const GUEST_GRACE: Duration = Duration::from_millis(200);

/// The id of the node that began the cluster.
const FIRST_NODE: NodeId = NodeId(1);

/// A running node.
pub struct Node {
    config: Arc<Config>,
    pub(crate) control: Control,
    pub(crate) engine: Engine,
    gossip: Gossip,
    pub(crate) metrics: Metrics,
    /// Servers and loops.
    tasks: JoinSet<()>,
    /// How far it has come in stopping.
    pub(crate) stopping: Stopping,
    /// Everything ends.
    stop: CancellationToken,
    failed: Mutex<mpsc::Receiver<String>>,
    pub(crate) span: tracing::Span,
}

impl Node {
    /// Starts a node; returns when it belongs to a cluster and serves. What it logs is in the
    /// span that this is called in.
    ///
    /// # Errors
    /// An address or the data folder cannot be used, or the cluster does not admit the node.
    pub async fn start(config: Config) -> Result<Self, Error> {
        Self::start_on(config, Arc::new(RealDisk), SEGMENT_BYTES).await
    }

    /// The same with the data folder on this disk, and the log in segments of this length: tests
    /// give a disk that is slow, full or fails.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub(crate) async fn start_on(
        config: Config,
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
    ) -> Result<Self, Error> {
        let disk = (disk, segment_bytes);
        Box::pin(start(Arc::new(config), disk, tracing::Span::current())).await
    }

    /// The control plane as this node reaches it.
    #[cfg(test)]
    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// What it was told at its start.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Everything that it counts and measures, as `/metrics` shows it.
    pub fn metrics(&self) -> String {
        self.metrics.render()
    }

    /// Waits until the node knows the state of its cluster and is registered in it.
    pub async fn ready(&self) {
        let mut changes = self.control.decided.changes();
        while !self.control.decided.state().nodes.contains_key(&self.control.own) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until the node cannot go on; why.
    pub async fn failed(&self) -> String {
        let failed = self.failed.lock().await.recv().await;
        failed.unwrap_or_else(|| "its tasks have ended".to_owned())
    }

    /// Stops: no new calls, running ones finish within the grace, then everything ends. To lose no
    /// call, [`drain`](Self::drain) it first.
    pub async fn shutdown(self, grace: Duration) {
        let span = self.span.clone();
        async move {
            tracing::info!("stopping");
            self.stopping.at_once();
            let Self { mut tasks, stop, gossip, control, engine, metrics, .. } = self;
            let all = async { while tasks.join_next().await.is_some() {} };
            let ended = timeout(grace.saturating_sub(AFTER_SERVERS), all).await;
            // Other nodes may hold their streams to the end: that is no call.
            if ended.is_err() && (metrics.calls_under_way() > 0 || engine.running() > 0) {
                tracing::info!("calls still running are cut off");
            }
            stop.cancel();
            let rest = async { tokio::join!(gossip.shutdown(), control.raft.shutdown()) };
            if let Ok(((), Err(error))) = timeout(AFTER_SERVERS, rest).await {
                tracing::debug!(%error, "raft did not stop in order");
            }
            tasks.shutdown().await;
            engine.shutdown(GUEST_GRACE);
            tracing::info!("stopped");
        }
        .instrument(span)
        .await;
    }
}

async fn start(
    config: Arc<Config>,
    disk: (Arc<dyn Disk>, u64),
    span: tracing::Span,
) -> Result<Node, Error> {
    raise_file_limit();
    let listeners = Listeners::bind(&config).await?;
    let metrics = Metrics::new();
    let (stores, published) = open_stores(&config, disk, &metrics).await?;
    let https = open_certificates(&config).await?;
    let decided = Decided::new(stores.state.clone());
    let link = Link::new(config.region.clone(), config.rtt.clone());
    let keys = Keys::open(&stores.data)?;
    keys.follow(&decided.state().gossip).await?;
    let mut membership = membership::establish(&config, &stores.data, &keys).await?;
    let peers = Peers::new(decided.clone(), link.clone(), membership.own.tls.clone());
    membership::look_around(&config, &mut membership, &peers).await?;
    let Membership { identity, own: own_identity, folder, gossip_seeds, hints } = membership;
    let (own, cluster) = (identity.node, identity.cluster.clone());
    let seen = Seen::default();
    let strangers = Arc::new(Strangers::default());
    let engine = Engine::new(EngineConfig {
        slots: config.slots,
        threads: config.guest_threads,
        ..EngineConfig::default()
    })?;

    let stop = CancellationToken::new();
    let stopping = Stopping::default();
    let (fail, failed) = mpsc::channel(1);
    let parts = ControlParts {
        own,
        cluster: cluster.clone(),
        config: config.clone(),
        log: stores.log,
        machine: stores.machine,
        published,
        hints,
        peers: peers.clone(),
        decided: decided.clone(),
        seen: seen.clone(),
        identity: own_identity.clone(),
        strangers: strangers.clone(),
        keys: keys.clone(),
    };
    let running = control::start(parts, &stop, fail).await?;
    let control = running.control.clone();

    let behind = Behind::start("behind").map_err(|error| Error::Internal(error.to_string()))?;
    let setup = Setup {
        own,
        region: config.region.clone(),
        decided: decided.clone(),
        seen: seen.clone(),
        peers: peers.clone(),
        store: stores.artifacts.clone(),
        engine: engine.clone(),
        identity: own_identity.clone(),
        compile_threads: config.compile_threads,
        behind: behind.clone(),
    };
    let made = {
        let stop = stop.clone();
        tokio::task::spawn_blocking(move || Agent::new(setup, stop)).await
    };
    let (agent, agent_loop) = made
        .map_err(|error| Error::Internal(error.to_string()))?
        .map_err(|error| Error::Internal(error.to_string()))?;

    agent.shelf.set_memory(config.loaded_bytes_max);
    let gossip = Gossip::start(GossipConfig {
        own,
        name: config.name.clone(),
        region: config.region.clone(),
        zone: config.zone.clone(),
        cluster: cluster.clone(),
        keys: keys.clone(),
        listen: config.gossip,
        socket: Some(listeners.gossip),
        advertise: gossip_address(&config).await?,
        advertised: config.advertised(config.gossip),
        generation: clock::now_ms(),
        seeds: gossip_seeds,
        link,
        peers: peers.clone(),
        decided: decided.clone(),
        seen: seen.clone(),
        timing: GossipTiming::default(),
    })
    .await?;

    let logs = LogBook::new(config.name.clone(), metrics.clone());
    let gateway = Gateway::new(GatewayParts {
        own,
        name: config.name.clone(),
        region: config.region.clone(),
        cluster,
        decided: decided.clone(),
        seen: seen.clone(),
        peers: peers.clone(),
        shelf: agent.shelf.clone(),
        engine: engine.clone(),
        logs: logs.clone(),
        metrics: metrics.clone(),
        slots: config.slots,
    });

    let sources = Sources {
        config: config.clone(),
        control: control.clone(),
        agent: agent.clone(),
        engine: engine.clone(),
        admission: gateway.admission(),
        certificates: https.as_ref().map(|(certificates, _)| certificates.clone()),
        gossip: gossip.counters(),
        strangers: strangers.clone(),
    };
    metrics.measure(move |page| sources.fill(page));

    let peer_server = PeerServer {
        raft: running.raft_service,
        control: running.control_service,
        artifacts: agent.peer_service.clone(),
        gossip: gossip.service(),
        invoke: peer_invoke_service(gateway.clone()),
        logs: peer_logs_service(logs.clone()),
        tls: own_identity.tls.clone(),
        decided: decided.clone(),
        strangers,
        threads: engine.threads().clone(),
    };
    let api = Api {
        access: AccessService { control: control.clone() },
        apps: AppsService {
            control: control.clone(),
            copies: agent.copies.clone(),
            stock: agent.stock.clone(),
        },
        artifacts: ArtifactsService::new(&agent),
        cluster: ClusterService {
            control: control.clone(),
            config: config.clone(),
            fetcher: agent.fetcher.clone(),
            stock: agent.stock.clone(),
            copies: agent.copies.clone(),
        },
        invoker: public_invoke_service(gateway.clone()),
        logs: public_logs_service(own, logs, decided.clone(), seen.clone(), peers.clone()),
        control: control.clone(),
        metrics: metrics.clone(),
        tls: {
            let tls = own_identity.tls.clone();
            Arc::new(move || tls.api_server())
        },
        threads: engine.threads().clone(),
    };
    let mut tasks = JoinSet::new();
    let publisher = gossip.publisher();
    let (looked, room) = watch::channel(None);
    let report = Told {
        own,
        decided: decided.clone(),
        agent: agent.clone(),
        engine: engine.clone(),
        log: control.log.clone(),
        publisher,
        identity: own_identity.clone(),
        keys,
        room,
        behind,
    };
    tasks.spawn(
        peer_server.serve(listeners.peer, stopping.parting.clone()).instrument(span.clone()),
    );
    if let Some(listener) = listeners.metrics {
        let served = serve_metrics(listener, metrics.clone(), stopping.closing.clone());
        tasks.spawn(served.instrument(span.clone()));
    }
    tasks.spawn(api.serve(listeners.api, stopping.closing.clone()).instrument(span.clone()));
    let redirect = config.https.as_ref().and_then(|https| https.redirect);
    let served = |listener, transport| {
        serve_http(listener, transport, gateway.clone(), stopping.clone()).instrument(span.clone())
    };
    tasks.spawn(served(listeners.http, Transport::Plain { redirect }));
    if let (Some(listener), Some((certificates, reader))) = (listeners.https, https) {
        let handshakes = Handshakes::new(certificates.clone(), metrics.clone())
            .map_err(|error| Error::Internal(error.to_string()))?;
        tasks.spawn(served(listener, Transport::Tls(Arc::new(handshakes))));
        let reading = certificates.keep_reading(reader, LOOK_INTERVAL, stop.clone());
        tokio::spawn(reading.instrument(span.clone()));
    }
    for background in [
        Box::pin(agent_loop) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
        Box::pin(keep_measuring(own, decided.clone(), peers.clone(), stop.clone())),
        Box::pin(keep_copies_elsewhere(own, decided.clone(), agent.copies.clone(), stop.clone())),
        Box::pin(keep_reporting(report, stopping.leaving.clone(), stop.clone())),
        Box::pin(keep_giving_back(metrics.clone(), stop.clone())),
        Box::pin(room::keep_looking(config.data.clone(), looked, stop.clone())),
        Box::pin(
            identity::Keeper { own: own_identity, control: control.clone() }.keep(stop.clone()),
        ),
        Box::pin(membership::keep_acquainted(
            config.clone(),
            identity.cluster,
            peers.clone(),
            decided.clone(),
            stop.clone(),
        )),
        Box::pin(keep_saving(control.clone(), stores.saver, stores.data, stop.clone())),
    ] {
        tokio::spawn(background.instrument(span.clone()));
    }
    if own == FIRST_NODE && decided.state().cluster.is_none() {
        let told = config.write_join_token.as_deref();
        let begun = || identity::begun(&folder, told);
        control::bootstrap(&control, &config, begun).await?;
    }
    let started = Node {
        config,
        control,
        engine,
        gossip,
        metrics,
        tasks,
        stopping,
        stop,
        failed: Mutex::new(failed),
        span,
    };
    Ok(started)
}

async fn open_stores(
    config: &Config,
    (disk, segment_bytes): (Arc<dyn Disk>, u64),
    metrics: &Metrics,
) -> Result<(Stores, mpsc::UnboundedReceiver<Published>), Error> {
    // Unbounded, as entries must not wait; what comes in is bounded by what Raft applies.
    let (publish, published) = mpsc::unbounded_channel();
    let publisher = Arc::new(move |news: Published| {
        let _ = publish.send(news);
    });
    let path = config.data.clone();
    let metrics = metrics.clone();
    let on_sync = Arc::new(move |took, ok| metrics.synced(took, ok));
    let disk = Arc::new(WatchedDisk::new(disk, path.join(LOG_FOLDER), on_sync));
    let options = Options::new(publisher, clock::random_bytes());
    let options = Options { disk, segment_bytes, ..options };
    let opened = tokio::task::spawn_blocking(move || Stores::open(&path, options))
        .await
        .map_err(|error| Error::Internal(error.to_string()))?;
    Ok((opened?, published))
}

/// What callers over HTTPS are shown, and what reads it again.
async fn open_certificates(config: &Config) -> Result<Option<(Arc<Certificates>, Reader)>, Error> {
    let Some(https) = config.https.clone() else { return Ok(None) };
    let mut hosts = vec![config.name.to_string()];
    hosts.extend(config.advertise.iter().cloned());
    let opened = tokio::task::spawn_blocking(move || {
        if https.self_made {
            make_certificate(&https.certificates, &hosts)?;
        }
        Certificates::open(https.certificates)
    });
    let opened = opened.await.map_err(|error| Error::Internal(error.to_string()))?;
    Ok(Some(opened?))
}

/// Where others send gossip to: chitchat wants an IP address.
async fn gossip_address(config: &Config) -> Result<SocketAddr, Error> {
    let advertised = config.advertised(config.gossip);
    let listen = |source| Error::Listen { what: "gossip", address: advertised.clone(), source };
    let mut found = tokio::net::lookup_host(&advertised).await.map_err(listen)?;
    found.next().ok_or_else(|| listen(std::io::ErrorKind::AddrNotAvailable.into()))
}

/// Saves the state that this node follows without holding the log, and holds the data folder
/// until the node stops.
async fn keep_saving(
    control: Control,
    saver: StateSaver,
    data: nigh_storage::DataDir,
    stop: CancellationToken,
) {
    let mut changes = control.decided.changes();
    loop {
        let applied = *changes.borrow_and_update();
        if applied > 0 && !control.is_fed() {
            saver.save((*control.decided.state()).clone(), None);
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = changes.changed() => if changed.is_err() { break },
        }
    }
    drop(data);
}
