//! The API over gRPC, with deadlines: a node that is stopped answers nothing.

use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use nigh_model::limits::GRPC_MESSAGE_BYTES_MAX;
use nigh_proto::v1::access_client::AccessClient;
use nigh_proto::v1::apps_client::AppsClient;
use nigh_proto::v1::artifacts_client::ArtifactsClient;
use nigh_proto::v1::cluster_client::ClusterClient;
use nigh_proto::v1::invoker_client::InvokerClient;
use nigh_proto::v1::logs_client::LogsClient;
use nigh_proto::v1::upload_request::Part;
use nigh_proto::v1::{
    App, AppSpec, Artifact, DeployRequest, DeployResponse, FunctionSpec, GetAppRequest,
    GetRaftRequest, InvokeRequest, InvokeResponse, ListAppsRequest, ListNodesRequest, Node,
    Placement, Raft, StatusRequest, StatusResponse, UploadRequest,
};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::tls::Credentials;

/// An answer takes no longer, but for calls of functions.
const LIMIT: Duration = Duration::from_secs(8);
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// How much of a component is sent at once.
const CHUNK_BYTES: usize = 64 << 10;

/// The API of one node.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    way: Way,
}

/// How requests go out.
type Way = InterceptedService<Channel, Bearer>;

/// Shows a token with every request, if there is one.
#[derive(Clone, Debug)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(shown) = &self.0 {
            request.metadata_mut().insert("authorization", shown.clone());
        }
        Ok(request)
    }
}

impl Api {
    /// The node whose API port this is; connects when it is used.
    pub(crate) fn new(port: u16, credentials: &Credentials) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"));
        let endpoint = endpoint.expect("a good address").connect_timeout(CONNECT_LIMIT);
        let shown = Some(&credentials.token).filter(|token| !token.is_empty());
        let shown = shown.map(|_| credentials.bearer().parse().expect("tokens are ASCII"));
        let credentials = credentials.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let credentials = credentials.clone();
            async move { credentials.connect(port).await.map(TokioIo::new) }
        });
        let channel = endpoint.connect_with_connector_lazy(connector);
        Self { way: InterceptedService::new(channel, Bearer(shown)) }
    }

    pub(crate) fn access(&self) -> AccessClient<Way> {
        AccessClient::new(self.way.clone())
    }

    pub(crate) fn apps(&self) -> AppsClient<Way> {
        AppsClient::new(self.way.clone())
    }

    pub(crate) fn artifacts(&self) -> ArtifactsClient<Way> {
        ArtifactsClient::new(self.way.clone())
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Way> {
        ClusterClient::new(self.way.clone())
    }

    pub(crate) fn invoker(&self) -> InvokerClient<Way> {
        InvokerClient::new(self.way.clone())
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX)
    }

    pub(crate) fn logs(&self) -> LogsClient<Way> {
        LogsClient::new(self.way.clone())
    }

    /// The node and the control plane as it sees it.
    pub(crate) async fn status(&self) -> Result<StatusResponse, Status> {
        let mut client = self.cluster();
        within(client.status(timed(StatusRequest {}))).await
    }

    /// All nodes as this one sees them.
    pub(crate) async fn nodes(&self) -> Result<Vec<Node>, Status> {
        let mut client = self.cluster();
        Ok(within(client.list_nodes(timed(ListNodesRequest {}))).await?.nodes)
    }

    /// The Raft group.
    pub(crate) async fn raft(&self) -> Result<Raft, Status> {
        let mut client = self.cluster();
        within(client.get_raft(timed(GetRaftRequest {}))).await
    }

    /// An app.
    pub(crate) async fn app(&self, name: &str) -> Result<App, Status> {
        let mut client = self.apps();
        within(client.get(timed(GetAppRequest { app: name.to_owned() }))).await
    }

    /// All apps.
    pub(crate) async fn all_apps(&self) -> Result<Vec<App>, Status> {
        let mut client = self.apps();
        Ok(within(client.list(timed(ListAppsRequest::default()))).await?.apps)
    }

    /// A call without body.
    pub(crate) async fn invoke(
        &self,
        function: &str,
        path: &str,
    ) -> Result<InvokeResponse, Status> {
        let request = InvokeRequest {
            function: function.to_owned(),
            path: path.to_owned(),
            ..InvokeRequest::default()
        };
        Ok(self.invoker().invoke(request).await?.into_inner())
    }

    /// Uploads what `head` announces as these bytes.
    pub(crate) async fn upload_as(&self, head: Artifact, bytes: &[u8]) -> Result<Artifact, Status> {
        let chunks =
            bytes.chunks(CHUNK_BYTES).map(|part| Part::Chunk(Bytes::copy_from_slice(part)));
        let parts: Vec<UploadRequest> = std::iter::once(Part::Head(head))
            .chain(chunks)
            .map(|part| UploadRequest { part: Some(part), ..UploadRequest::default() })
            .collect();
        let mut client = self.artifacts();
        within(client.upload(tokio_stream::iter(parts))).await
    }

    /// Commits an app of one function, named like it, of an uploaded component.
    pub(crate) async fn deploy(
        &self,
        app: &str,
        component: &Artifact,
        request_id: &str,
    ) -> Result<DeployResponse, Status> {
        self.deploy_in(app, component, &[], request_id).await
    }

    /// The same in these regions only.
    pub(crate) async fn deploy_in(
        &self,
        app: &str,
        component: &Artifact,
        regions: &[&str],
        request_id: &str,
    ) -> Result<DeployResponse, Status> {
        let function = FunctionSpec {
            name: app.to_owned(),
            component: component.digest.clone(),
            component_bytes: component.bytes,
            placement: Some(Placement {
                regions: regions.iter().map(|region| (*region).to_owned()).collect(),
                ..Placement::default()
            }),
            ..FunctionSpec::default()
        };
        let request = DeployRequest {
            app: app.to_owned(),
            spec: Some(AppSpec { functions: vec![function], invoke_closed: false }),
            request_id: request_id.to_owned(),
            validate_only: false,
        };
        let mut client = self.apps();
        within(client.deploy(timed(request))).await
    }
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(LIMIT);
    request
}

async fn within<T>(
    answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(LIMIT, answer).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {LIMIT:?}"))),
    }
}
