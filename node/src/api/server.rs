//! The API port: gRPC, and beside it what probes and Prometheus ask over plain HTTP.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use nigh_model::limits::GRPC_MESSAGE_BYTES_MAX;
use nigh_proto::v1::apps_server::AppsServer;
use nigh_proto::v1::artifacts_server::ArtifactsServer;
use nigh_proto::v1::cluster_server::ClusterServer;
use nigh_proto::v1::invoker_server::{Invoker, InvokerServer};
use nigh_proto::v1::logs_server::{Logs, LogsServer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::apps::AppsService;
use super::artifacts::ArtifactsService;
use super::cluster::ClusterService;
use super::ready::Readiness;
use crate::control::Control;
use crate::telemetry::Metrics;

/// The public services, by the names that reflection and health know them by.
const SERVICES: [&str; 5] =
    ["nigh.v1.Apps", "nigh.v1.Artifacts", "nigh.v1.Cluster", "nigh.v1.Invoker", "nigh.v1.Logs"];

/// What is served on the API port.
pub(crate) struct Api<I: Invoker, L: Logs> {
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
            .add_service(AppsServer::new(self.apps).max_decoding_message_size(max))
            .add_service(ArtifactsServer::new(self.artifacts).max_decoding_message_size(max))
            .add_service(ClusterServer::new(self.cluster))
            .add_service(self.invoker)
            .add_service(self.logs);
        match reflection.build_v1() {
            Ok(service) => routes = routes.add_service(service),
            Err(error) => tracing::error!(%error, "no reflection: the descriptors are not valid"),
        }
        let router = routes.prepare().into_axum_router().merge(plain(self.control, self.metrics));
        let router = router.fallback(no_such_path);
        let listener = listener.tap_io(|stream| {
            // Without it each call waits for a delayed acknowledgement: 41 ms.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "nagle's algorithm stays on");
            }
        });
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(async move { stop.cancelled().await })
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the API is no longer served");
        }
    }
}

/// What is asked without gRPC.
fn plain(control: Control, metrics: Metrics) -> Router {
    let control = Arc::new(control);
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(move || std::future::ready(Readiness::of(&control).answer())))
        .route(
            "/metrics",
            get(move || {
                let text = metrics.render();
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                std::future::ready(([(header::CONTENT_TYPE, kind)], text))
            }),
        )
}

/// What nobody serves: said in gRPC to who speaks it, else so that a person understands it.
async fn no_such_path(headers: HeaderMap) -> Response {
    let kind = headers.get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return tonic::Status::unimplemented("this version has no such method").into_http();
    }
    let hint = "no such path: this is the API port, which speaks gRPC and answers /healthz, \
                /readyz and /metrics; functions are called on the HTTP port\n";
    (StatusCode::NOT_FOUND, hint).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(kind: Option<&'static str>) -> Response {
        let mut headers = HeaderMap::new();
        headers.extend(kind.map(|kind| (header::CONTENT_TYPE, kind.parse().unwrap())));
        no_such_path(headers).await
    }

    #[tokio::test]
    async fn an_unknown_path_is_answered_in_the_language_of_the_asker() {
        for kind in [None, Some("application/json")] {
            let answer = answer(kind).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND);
            let body = axum::body::to_bytes(answer.into_body(), 1_000).await.unwrap();
            let line = String::from_utf8(body.to_vec()).unwrap();
            assert!(line.contains("API port") && line.lines().count() == 1, "{line}");
        }
        for kind in ["application/grpc", "application/grpc+proto"] {
            let answer = answer(Some(kind)).await;
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.headers()["grpc-status"], "12", "UNIMPLEMENTED");
        }
    }
}
