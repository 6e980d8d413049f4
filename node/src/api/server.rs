//! What is served on the API port: gRPC, and beside it what probes and Prometheus ask.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get};
use nigh_model::limits::GRPC_MESSAGE_BYTES_MAX;
use nigh_proto::v1::access_server::AccessServer;
use nigh_proto::v1::apps_server::AppsServer;
use nigh_proto::v1::artifacts_server::ArtifactsServer;
use nigh_proto::v1::cluster_server::ClusterServer;
use nigh_proto::v1::invoker_server::{Invoker, InvokerServer};
use nigh_proto::v1::logs_server::{Logs, LogsServer};
use nigh_runtime::Threads;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::access::AccessService;
use super::apps::AppsService;
use super::artifacts::ArtifactsService;
use super::authorize::{Door, authorize};
use super::cluster::ClusterService;
use super::listen::{self, Calls, ServerTls};
use super::ready::Readiness;
use super::roles::METRICS;
use crate::control::Control;
use crate::telemetry::Metrics;

/// The public services, by the names that reflection and health know them by.
pub(super) const SERVICES: [&str; 6] = [
    "nigh.v1.Access",
    "nigh.v1.Apps",
    "nigh.v1.Artifacts",
    "nigh.v1.Cluster",
    "nigh.v1.Invoker",
    "nigh.v1.Logs",
];

/// What is served on the API port.
pub(crate) struct Api<I: Invoker, L: Logs> {
    /// Letting in.
    pub(crate) access: AccessService,
    /// Deploying.
    pub(crate) apps: AppsService,
    /// Uploading.
    pub(crate) artifacts: ArtifactsService,
    /// Looking.
    pub(crate) cluster: ClusterService,
    /// Calling.
    pub(crate) invoker: InvokerServer<I>,
    /// Reading output.
    pub(crate) logs: LogsServer<L>,
    /// For readiness.
    pub(crate) control: Control,
    /// For Prometheus.
    pub(crate) metrics: Metrics,
    /// What TLS is served with.
    pub(crate) tls: ServerTls,
    /// Where calls run.
    pub(crate) threads: Threads,
}

impl<I: Invoker, L: Logs> Api<I, L> {
    /// Serves until cancelled; then lets running calls finish.
    pub(crate) async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let (reporter, health) = tonic_health::server::health_reporter();
        for service in SERVICES {
            reporter.set_service_status(service, tonic_health::ServingStatus::Serving).await;
        }
        let mut reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(nigh_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        for service in SERVICES.into_iter().chain(["grpc.health.v1.Health"]) {
            reflection = reflection.with_service_name(service);
        }
        let max = GRPC_MESSAGE_BYTES_MAX;
        let mut routes = Routes::new(health)
            .add_service(AccessServer::new(self.access))
            .add_service(AppsServer::new(self.apps).max_decoding_message_size(max))
            .add_service(ArtifactsServer::new(self.artifacts).max_decoding_message_size(max))
            .add_service(ClusterServer::new(self.cluster))
            .add_service(self.logs);
        match reflection.build_v1() {
            Ok(service) => routes = routes.add_service(service),
            Err(error) => tracing::error!(%error, "no reflection: the descriptors are not valid"),
        }
        let decided = self.control.decided.clone();
        let door = Arc::new(Door { decided, metrics: self.metrics.clone() });
        let router = routes
            .prepare()
            .into_axum_router()
            .merge(plain(self.control, self.metrics.clone()))
            .layer(from_fn_with_state(Arc::clone(&door), authorize));
        let calls = Calls { door, invoker: self.invoker, threads: self.threads };
        listen::serve(listener, self.tls, router, calls, self.metrics, stop).await;
    }
}

/// Serves what is counted, and nothing else, to whoever reaches this listener: a scraper on the
/// same machine needs neither TLS nor a token.
pub(crate) async fn serve_metrics(
    listener: TcpListener,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let router = Router::new().route(METRICS, counted(metrics));
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the metrics are no longer served");
    }
}

/// What is asked without gRPC.
fn plain(control: Control, metrics: Metrics) -> Router {
    let control = Arc::new(control);
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(move || std::future::ready(Readiness::of(&control).answer())))
        .route(METRICS, counted(metrics))
}

fn counted(metrics: Metrics) -> MethodRouter {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    get(move || std::future::ready(([(header::CONTENT_TYPE, kind)], metrics.render())))
}
