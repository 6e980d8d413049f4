//! A connection to a cluster: any node will do.

use std::time::Duration;

use nigh_model::Kind;
use nigh_model::limits::GRPC_MESSAGE_BYTES_MAX;
use nigh_proto::status;
use nigh_proto::v1::apps_client::AppsClient;
use nigh_proto::v1::artifacts_client::ArtifactsClient;
use nigh_proto::v1::cluster_client::ClusterClient;
use nigh_proto::v1::invoker_client::InvokerClient;
use nigh_proto::v1::logs_client::LogsClient;
use nigh_proto::v1::{App, ListAppsRequest, ListNodesRequest, Node};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::failure::{Failure, Result};

/// A node that takes longer to accept a connection is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a silent connection is asked whether it still is one, so that a watch of a node
/// that has vanished ends.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Longest wait for the answer to a question that a node answers from memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What tonic says when a call's own time limit has run out, under the code for cancelled.
const TONIC_TIMEOUT: &str = "Timeout expired";

/// How nodes word a suggestion.
const SUGGESTED: &str = "did you mean";

/// A connection to one node.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    channel: Channel,
    address: String,
}

impl Api {
    /// Connects to a node's API.
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        let channel = endpoint(address)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|error| unreachable(address, &error))?;
        Ok(Self { channel, address: address.to_owned() })
    }

    /// Deploying apps.
    pub(crate) fn apps(&self) -> AppsClient<Channel> {
        AppsClient::new(self.channel.clone())
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX)
    }

    /// Uploading components.
    pub(crate) fn artifacts(&self) -> ArtifactsClient<Channel> {
        ArtifactsClient::new(self.channel.clone())
    }

    /// Looking at the cluster.
    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone()).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
    }

    /// Calling functions.
    pub(crate) fn invoker(&self) -> InvokerClient<Channel> {
        InvokerClient::new(self.channel.clone())
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX)
    }

    /// Reading what functions print.
    pub(crate) fn logs(&self) -> LogsClient<Channel> {
        LogsClient::new(self.channel.clone())
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
            (Some(reason), _) => failure.reason(reason),
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
            .hint("write --api http://HOST:PORT, such as http://127.0.0.1:7400")
    };
    let url =
        if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let uri: http::Uri = url.parse().map_err(|error| bad(format!("{error}")))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(bad("nodes do not speak TLS yet".to_owned())),
        _ => return Err(bad("the scheme is http".to_owned())),
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(bad("it names no host".to_owned()));
    }
    Ok(Endpoint::from(uri))
}

fn unreachable(address: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(Kind::Unavailable, format!("no node answers at {address}"))
        .why(root_cause(error))
        .hint("start a cluster with `nigh up`, or name one of its nodes with --api or NIGH_API")
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

    #[test]
    fn an_address_may_leave_its_scheme_out() {
        for good in ["http://127.0.0.1:7400", "127.0.0.1:7400", "node-1:7400", "http://[::1]:7400"]
        {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "https://a:1", "ftp://a:1", "http://", "a b:1", "http://:1"] {
            let failure = endpoint(bad).map(|_| ()).unwrap_err();
            assert_eq!(failure.exit(), 2, "{bad}");
        }
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
        let api = Api { channel, address: "a:1".to_owned() };
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
        let api = Api { channel, address: "http://a:8080".to_owned() };
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
