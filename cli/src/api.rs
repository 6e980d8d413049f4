//! A connection to a cluster: any node will do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nigh_model::Kind;
use nigh_model::limits::GRPC_MESSAGE_BYTES_MAX;
use nigh_proto::status;
use nigh_proto::v1::access_client::AccessClient;
use nigh_proto::v1::apps_client::AppsClient;
use nigh_proto::v1::artifacts_client::ArtifactsClient;
use nigh_proto::v1::cluster_client::ClusterClient;
use nigh_proto::v1::invoker_client::InvokerClient;
use nigh_proto::v1::logs_client::LogsClient;
use nigh_proto::v1::{App, ListAppsRequest, ListNodesRequest, Node};
use rustls::ClientConfig;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::credentials::Credentials;
use crate::failure::{Failure, Result};
use crate::tls;

/// Where a node's API is unless something else is said.
pub(crate) const API_DEFAULT: &str = "https://127.0.0.1:7400";
/// A node that takes longer to accept a connection is not there …
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// … or is not waited for any longer when there is another address to try.
const CONNECT_TIMEOUT_NOT_LAST: Duration = Duration::from_secs(2);
/// How often a silent connection is asked whether it still is one, so that a watch of a node
/// that has vanished ends.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Longest wait for the answer to a question that a node answers from memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What tonic says when a call's own time limit has run out, under the code for cancelled.
const TONIC_TIMEOUT: &str = "Timeout expired";

/// How nodes word a suggestion.
const SUGGESTED: &str = "did you mean";

/// Where a cluster is, and what it knows its user by.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// URLs of APIs, to be tried in turn.
    pub(crate) addresses: Vec<String>,
    /// What the cluster knows its user by.
    pub(crate) credentials: Credentials,
    /// Where that stands.
    pub(crate) file: PathBuf,
}

impl Access {
    /// What a file says, but for the address where one is given.
    pub(crate) fn of(file: PathBuf, address: Option<String>) -> Result<Self> {
        // A malformed address is the nearer mistake.
        address.as_deref().map(endpoint).transpose()?;
        let credentials = Credentials::read(&file)?;
        let addresses = match address {
            Some(address) => vec![address],
            None if credentials.api.is_empty() => vec![API_DEFAULT.to_owned()],
            None => credentials.api.clone(),
        };
        Ok(Self { addresses, credentials, file })
    }

    /// The same at another address.
    pub(crate) fn at(&self, address: String) -> Self {
        Self { addresses: vec![address], ..self.clone() }
    }
}

/// Shows the token with every request.
#[derive(Clone, Debug)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    fn of(credentials: &Credentials) -> Self {
        let shown = credentials.token.as_ref().map(|token| format!("Bearer {}", token.reveal()));
        let mut shown: Option<MetadataValue<Ascii>> = shown.and_then(|shown| shown.parse().ok());
        if let Some(shown) = &mut shown {
            // Neither in a header table that others share nor in a debug line.
            shown.set_sensitive(true);
        }
        Self(shown)
    }
}

impl Interceptor for Bearer {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> std::result::Result<tonic::Request<()>, Status> {
        if let Some(shown) = &self.0 {
            request.metadata_mut().insert("authorization", shown.clone());
        }
        Ok(request)
    }
}

/// How requests go out.
type Way = InterceptedService<Channel, Bearer>;

/// A connection to one node.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    way: Way,
    address: String,
    file: PathBuf,
}

impl Api {
    /// Connects to the first node that accepts it.
    pub(crate) async fn connect(access: &Access) -> Result<Self> {
        let tls = tls::client(&access.credentials.ca)?;
        let mut failures = Vec::new();
        for (at, address) in access.addresses.iter().enumerate() {
            let timeout = match at + 1 == access.addresses.len() {
                true => CONNECT_TIMEOUT,
                false => CONNECT_TIMEOUT_NOT_LAST,
            };
            match Self::connect_to(access, address, &tls, timeout).await {
                Ok(api) => return Ok(api),
                Err(failure) => failures.push(failure),
            }
        }
        Err(none_answers(access, failures))
    }

    async fn connect_to(
        access: &Access,
        address: &str,
        tls: &Arc<ClientConfig>,
        timeout: Duration,
    ) -> Result<Self> {
        let tls = Arc::clone(tls);
        let connector = tower::service_fn(move |to: http::Uri| tls::connect(Arc::clone(&tls), to));
        let channel = endpoint(address)?
            .connect_timeout(timeout)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .connect_with_connector(connector)
            .await
            .map_err(|error| {
                tls::failure(address, &error).unwrap_or_else(|| unreachable(address, &error))
            })?;
        let way = InterceptedService::new(channel, Bearer::of(&access.credentials));
        Ok(Self { way, address: address.to_owned(), file: access.file.clone() })
    }

    /// The URL that is asked.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Tokens, and the record of changes.
    pub(crate) fn access(&self) -> AccessClient<Way> {
        AccessClient::new(self.way.clone())
    }

    /// Deploying apps.
    pub(crate) fn apps(&self) -> AppsClient<Way> {
        AppsClient::new(self.way.clone())
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX)
    }

    /// Uploading components.
    pub(crate) fn artifacts(&self) -> ArtifactsClient<Way> {
        ArtifactsClient::new(self.way.clone())
    }

    /// Looking at the cluster.
    pub(crate) fn cluster(&self) -> ClusterClient<Way> {
        ClusterClient::new(self.way.clone()).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
    }

    /// Calling functions.
    pub(crate) fn invoker(&self) -> InvokerClient<Way> {
        InvokerClient::new(self.way.clone())
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX)
    }

    /// Reading what functions print.
    pub(crate) fn logs(&self) -> LogsClient<Way> {
        LogsClient::new(self.way.clone())
    }

    /// All nodes, by name.
    pub(crate) async fn nodes(&self) -> Result<Vec<Node>> {
        let answer = self.cluster().list_nodes(timed(ListNodesRequest {})).await;
        Ok(answer.map_err(|status| self.failure(&status))?.into_inner().nodes)
    }

    /// All apps, by name.
    pub(crate) async fn all_apps(&self) -> Result<Vec<App>> {
        let mut apps = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = timed(ListAppsRequest { page_size: 0, page_token });
            let answer = self.apps().list(request).await;
            let page = answer.map_err(|status| self.failure(&status))?.into_inner();
            apps.extend(page.apps);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(apps);
            }
        }
    }

    /// What a refusal by the node says to the user.
    pub(crate) fn failure(&self, status: &Status) -> Failure {
        let failure = Failure::new(status::kind(status), message(status));
        match (status::reason(status), status.code()) {
            (Some(reason), _) => match self.hint_of(&reason) {
                Some(hint) => failure.reason(reason).hint(hint),
                None => failure.reason(reason),
            },
            (None, Code::Unimplemented | Code::Internal) if is_plain_http(status) => {
                Failure::invalid(format!("{} is no API address", self.address))
                    .why("it answers HTTP and not gRPC, as the HTTP port of a node does")
                    .hint(
                        "functions are called there, with curl; --api takes the API address of \
                         the node, port 7400 beside 8080 unless they were moved",
                    )
            }
            (None, Code::Unimplemented | Code::Internal) => Failure::invalid(format!(
                "{} is no API of a nigh node of this version",
                self.address
            ))
            .why(message(status))
            .hint("--api takes the API address of a node, port 7400 unless it was moved"),
            (None, _) if is_timeout(status) => {
                Failure::new(Kind::Timeout, format!("{} did not answer in time", self.address))
                    .why(message(status))
            }
            (None, _) if is_lost(status) => {
                Failure::new(Kind::Unavailable, format!("lost the connection to {}", self.address))
                    .why(message(status))
                    .hint("ask another node with --api")
            }
            (None, _) => failure,
        }
    }

    /// What to do about a refusal at the door.
    fn hint_of(&self, reason: &str) -> Option<String> {
        let file = self.file.display();
        match reason {
            "NO_TOKEN" => Some(format!("{file} holds none: ask an admin for a file that does")),
            "TOKEN_INVALID" | "TOKEN_EXPIRED" => Some(format!(
                "{file} holds it; an admin makes another with `nigh operator token create`"
            )),
            "ROLE_TOO_LOW" => Some("ask an admin, or name another file with --credentials".into()),
            _ => None,
        }
    }

    /// The same, and when it was the node that is not there, the nearest that is.
    pub(crate) async fn failure_about_node(&self, status: &Status, named: &str) -> Failure {
        let failure = self.failure(status);
        if status.code() != Code::NotFound || status.message().contains(SUGGESTED) {
            return failure;
        }
        let nodes = self.nodes().await.unwrap_or_default();
        failure.nearest(named, nodes.iter().map(|node| node.name.as_str()))
    }

    /// The same, and when it was the app or function that is not there, the nearest that is.
    pub(crate) async fn failure_about(&self, status: &Status, named: &str) -> Failure {
        let failure = self.failure(status);
        // A node that knows the nearest name has said it.
        if status.code() != Code::NotFound || status.message().contains(SUGGESTED) {
            return failure;
        }
        let Ok(apps) = self.all_apps().await else { return failure };
        if apps.is_empty() {
            return failure.hint("no app is deployed yet: nigh deploy PATH");
        }
        let known = callable_names(&apps, named.contains('/'));
        failure.nearest(named, known.iter().map(String::as_str))
    }
}

/// Whether the time given to the call ran out, and no node says more about it.
pub(crate) fn is_timeout(status: &Status) -> bool {
    let expired = match status.code() {
        Code::DeadlineExceeded => true,
        Code::Cancelled => status.message() == TONIC_TIMEOUT,
        _ => false,
    };
    expired && status::reason(status).is_none()
}

/// Whether what answered is no gRPC at all, but what a web server says to a path that it lacks.
fn is_plain_http(status: &Status) -> bool {
    let signs = ["invalid compression flag", "mapped from HTTP status"];
    signs.iter().any(|sign| status.message().contains(sign))
}

/// Whether asking again may help: the connection broke, or the node is going away. A refusal
/// that names its reason is final: the node has itself tried as long as that made sense.
pub(crate) fn is_lost(status: &Status) -> bool {
    let lost = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
    lost && !is_timeout(status) && status::reason(status).is_none()
}

/// A request that does not wait for ever.
pub(crate) fn timed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(ANSWER_TIMEOUT);
    request
}

/// `app` or, where that is asked for, `app/function`.
fn callable_names(apps: &[App], with_functions: bool) -> Vec<String> {
    let mut names = Vec::new();
    for app in apps {
        if with_functions {
            names.extend(app.functions.iter().map(|f| format!("{}/{}", app.name, f.name)));
        } else {
            names.push(app.name.clone());
        }
    }
    names
}

fn message(status: &Status) -> String {
    match status.message() {
        "" => format!("{:?}", status.code()),
        message => message.to_owned(),
    }
}

/// Reads the address of an API; the scheme may be left out.
fn endpoint(address: &str) -> Result<Endpoint> {
    let bad = |why: String| {
        Failure::usage(format!("`{address}` is no API address"))
            .why(why)
            .hint(format!("write https://HOST:PORT, such as {API_DEFAULT}"))
    };
    let url =
        if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
    let uri: http::Uri = url.parse().map_err(|error| bad(format!("{error}")))?;
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") => return Err(bad("the API is served over TLS alone".to_owned())),
        _ => return Err(bad("the scheme is https".to_owned())),
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(bad("it names no host".to_owned()));
    }
    // TLS is the connector's; to the layers above the connection is as good as a plain one.
    let mut parts = uri.clone().into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    let plain = http::Uri::from_parts(parts).map_err(|error| bad(format!("{error}")))?;
    Ok(Endpoint::from(plain).origin(uri))
}

fn unreachable(address: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(Kind::Unavailable, format!("no node answers at {address}"))
        .why(root_cause(error))
        .hint("start a cluster with `nigh up`, or name one of its nodes with --api or NIGH_API")
}

/// One failure of several: the one that says more than that nobody answers.
fn none_answers(access: &Access, failures: Vec<Failure>) -> Failure {
    let silent = Kind::Unavailable.exit_status();
    let all = access.addresses.join(", ");
    let several = failures.len() > 1;
    let telling = failures.iter().find(|failure| failure.exit() != silent).cloned();
    let failure = telling.or_else(|| failures.into_iter().next_back());
    match failure {
        Some(failure) if several && failure.exit() == silent => Failure::new(
            Kind::Unavailable,
            format!("no node answers at any of {all}"),
        )
        .why(format!("these are the addresses of {}", access.file.display()))
        .hint("start the cluster with `nigh up`, or name one of its nodes with --api or NIGH_API"),
        Some(failure) => failure,
        None => Failure::usage(format!("{} names no address", access.file.display())),
    }
}

/// The innermost cause: what the system said.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let ca = rcgen_ca();
        let credentials = Credentials { api: Vec::new(), cluster: "c".into(), ca, token: None };
        Access { addresses: Vec::new(), credentials, file: "c.toml".into() }
    }

    /// The certificate of some authority.
    fn rcgen_ca() -> String {
        let made = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap();
        made.cert.pem()
    }

    #[test]
    fn an_address_may_leave_its_scheme_out_and_is_https() {
        for good in
            ["https://127.0.0.1:7400", "127.0.0.1:7400", "node-1:7400", "https://[::1]:7400"]
        {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "http://a:1", "ftp://a:1", "https://", "a b:1", "https://:1"] {
            let failure = endpoint(bad).map(|_| ()).unwrap_err();
            assert_eq!(failure.exit(), 2, "{bad}");
        }
        let plain = endpoint("http://a:1").map(|_| ()).unwrap_err().to_string();
        assert!(plain.contains("TLS") && plain.contains("https://"), "{plain}");
    }

    #[tokio::test]
    async fn every_address_is_tried_and_all_are_named() {
        let nobody =
            |port| Access { addresses: vec![format!("https://127.0.0.1:{port}")], ..access() };
        let failure = Api::connect(&nobody(1)).await.unwrap_err();
        assert_eq!(failure.exit(), 5, "{failure}");
        let addresses = vec!["https://127.0.0.1:1".to_owned(), "https://127.0.0.1:2".to_owned()];
        let failure = Api::connect(&Access { addresses, ..access() }).await.unwrap_err();
        let said = failure.to_string();
        assert!(said.contains("127.0.0.1:1") && said.contains("127.0.0.1:2"), "{said}");
        assert_eq!(Api::connect(&access()).await.unwrap_err().exit(), 2);
    }

    #[tokio::test]
    async fn what_speaks_no_tls_is_said_to_be_no_api() {
        use tokio::io::AsyncWriteExt as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            stream.shutdown().await.unwrap();
            std::future::pending::<()>().await;
        });
        let failure = Api::connect(&access().at(address)).await.unwrap_err();
        assert!(failure.to_string().contains("does not speak TLS"), "{failure}");
    }

    #[test]
    fn only_what_passes_is_tried_again() {
        let of = |code, reason| status::of(code, reason, "x");
        assert!(is_lost(&Status::unavailable("connection refused")));
        assert!(!is_lost(&of(Code::Unavailable, "CONTROL_UNAVAILABLE")));
        assert!(!is_lost(&of(Code::InvalidArgument, "BAD_SPEC")));
        assert!(!is_lost(&of(Code::FailedPrecondition, "ROUTE_TAKEN")));
    }

    #[tokio::test]
    async fn time_that_has_run_out_is_no_lost_connection() {
        let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let way = InterceptedService::new(channel, Bearer(None));
        let api = Api { way, address: "a:1".to_owned(), file: "c.toml".into() };
        for late in [Status::cancelled(TONIC_TIMEOUT), Status::deadline_exceeded("too late")] {
            assert!(is_timeout(&late) && !is_lost(&late), "{late}");
            let failure = api.failure(&late);
            assert_eq!(failure.exit(), 6, "{failure}");
        }
        let lost = Status::cancelled("operation was canceled");
        assert!(is_lost(&lost) && !is_timeout(&lost));
        assert_eq!(api.failure(&lost).exit(), 5);
    }

    #[tokio::test]
    async fn what_answers_http_and_not_grpc_is_called_so() {
        let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let api = Api {
            way: InterceptedService::new(channel, Bearer(None)),
            address: "a:1".to_owned(),
            file: "c.toml".into(),
        };
        // What tonic makes of a problem of JSON, and of a status without a body of its own.
        for said in [
            "protocol error: received message with invalid compression flag: 123 (valid flags \
             are 0 and 1) while receiving response with status: 404 Not Found",
            "grpc-status header missing, mapped from HTTP status code 404",
        ] {
            for code in [Code::Internal, Code::Unimplemented] {
                let failure = api.failure(&Status::new(code, said));
                assert_eq!(failure.exit(), 4);
                let text = failure.to_string();
                assert!(text.contains("HTTP port") && !text.contains("compression"), "{text}");
            }
        }
        let other = api.failure(&Status::unimplemented("")).to_string();
        assert!(!other.contains("HTTP port"), "{other}");
    }

    #[test]
    fn names_are_offered_in_the_form_they_were_asked_for() {
        let functions = vec![nigh_proto::v1::Function { name: "pay".into(), ..Default::default() }];
        let apps = [App { name: "shop".into(), functions, ..Default::default() }];
        assert_eq!(callable_names(&apps, false), ["shop"]);
        assert_eq!(callable_names(&apps, true), ["shop/pay"]);
    }
}
