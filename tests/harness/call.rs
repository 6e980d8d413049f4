//! Calls over HTTP.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;

/// No call of a test takes longer.
const LIMIT: Duration = Duration::from_secs(30);

/// A caller of one node.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    client: Client<HttpConnector, Full<Bytes>>,
    port: u16,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) took: Duration,
}

/// What the platform says of a call that it could not answer.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Problem {
    pub(crate) reason: String,
    pub(crate) status: u16,
    pub(crate) title: String,
    pub(crate) detail: String,
    pub(crate) request_id: String,
    pub(crate) node: String,
}

impl Caller {
    /// Calls the node whose HTTP port this is; keeps connections.
    pub(crate) fn new(port: u16) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(1)));
        Self { client: Client::builder(TokioExecutor::new()).build(connector), port }
    }

    /// The same over HTTP/2 without TLS.
    pub(crate) fn h2c(port: u16) -> Self {
        let client =
            Client::builder(TokioExecutor::new()).http2_only(true).build(HttpConnector::new());
        Self { client, port }
    }

    /// A request to fill in.
    pub(crate) fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("http://127.0.0.1:{}{path}", self.port))
    }

    /// GET; there must be an answer.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        let request = self.request(Method::GET, path).body(Bytes::new());
        self.must(request.expect("a good path")).await
    }

    /// POST; there must be an answer.
    pub(crate) async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        let request = self.request(Method::POST, path).body(body.into());
        self.must(request.expect("a good path")).await
    }

    /// Sends; there must be an answer.
    pub(crate) async fn must(&self, request: Request<Bytes>) -> Answer {
        let shown = format!("{} {}", request.method(), request.uri());
        self.send(request).await.unwrap_or_else(|why| panic!("{shown}: {why}"))
    }

    /// Sends; the error says how far it came.
    pub(crate) async fn send(&self, request: Request<Bytes>) -> Result<Answer, String> {
        let began = Instant::now();
        let answer = tokio::time::timeout(LIMIT, async {
            let response = self.client.request(request.map(Full::new)).await;
            let response = response.map_err(|error| format!("no answer: {}", innermost(&error)))?;
            let (head, body) = response.into_parts();
            let whole = body.collect().await;
            let whole = whole.map_err(|error| {
                format!("the answer {} broke off: {}", head.status, innermost(&error))
            })?;
            Ok(Answer {
                status: head.status.as_u16(),
                version: head.version,
                headers: head.headers,
                body: whole.to_bytes(),
                took: began.elapsed(),
            })
        });
        answer.await.unwrap_or_else(|_| Err(format!("no whole answer within {LIMIT:?}")))
    }
}

impl Answer {
    /// A header that must be there.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        let value = value.unwrap_or_else(|| panic!("no header {name}: {:#?}", self.headers));
        value.to_str().expect("it is text")
    }

    /// The name of the node that ran it.
    #[track_caller]
    pub(crate) fn node(&self) -> &str {
        self.header("nigh-node")
    }

    /// Whether it ran on another node than it entered.
    #[track_caller]
    pub(crate) fn forwarded(&self) -> bool {
        match self.header("nigh-forwarded") {
            "0" => false,
            "1" => true,
            other => panic!("nigh-forwarded: {other}"),
        }
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// It must be a good answer.
    #[track_caller]
    pub(crate) fn ok(&self) -> &Self {
        assert_eq!(self.status, 200, "{}", self.text());
        self
    }

    /// It must be a platform error of this status and reason, complete in form.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, reason: &str) -> Problem {
        assert_eq!(self.status, status, "expected {reason}: {}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert!(self.header("proxy-status").contains("error="), "{:?}", self.headers);
        let problem: Problem = serde_json::from_slice(&self.body).expect("problem+json");
        assert_eq!(problem.reason, reason, "{}", self.text());
        assert_eq!(problem.status, status);
        assert_eq!(problem.request_id, self.header("x-request-id"));
        assert!(!problem.title.is_empty() && !problem.detail.is_empty(), "{}", self.text());
        problem
    }
}

/// What lies under an error that only says that there was one.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
