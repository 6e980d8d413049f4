//! One HTTP/1.1 call over a kept connection.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as Pool, Error as PoolError};
use hyper_util::rt::TokioExecutor;

use crate::load::timing::Ran;

/// A node that takes longer to accept a connection is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of an answer's body is kept to look at; the rest is read and dropped.
const BODY_KEPT_BYTES: usize = 4 << 10;

/// Sends calls.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pool: Pool<HttpConnector, Empty<Bytes>>,
    timeout: Duration,
}

/// An answer, whatever its status.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The reason of a platform error; none when the function answered.
    pub(crate) reason: Option<String>,
    /// Where and how it ran.
    pub(crate) ran: Ran,
    /// The beginning of its body.
    pub(crate) body: Bytes,
}

/// Why there is no answer, as a word that errors are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// No connection was made.
    Connect,
    /// The connection broke before the answer's end.
    Broken,
    /// The time was over.
    Timeout,
    /// The path is no path.
    BadTarget,
}

impl Unanswered {
    /// The word.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connect => "client: no connection",
            Self::Broken => "client: connection broken",
            Self::Timeout => "client: timed out",
            Self::BadTarget => "client: bad target",
        }
    }
}

impl Client {
    /// A client that gives a call up after `timeout`.
    pub(crate) fn new(timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Self { pool: Pool::builder(TokioExecutor::new()).build(connector), timeout }
    }

    /// Calls and reads the answer to its end.
    ///
    /// # Errors
    /// Why there is no whole answer.
    pub(crate) async fn get(
        &self,
        authority: &str,
        path: &str,
        request_id: &str,
    ) -> Result<Answer, Unanswered> {
        let request = Request::get(format!("http://{authority}{path}"))
            .header("x-request-id", request_id)
            .header("user-agent", HeaderValue::from_static("nigh-load"))
            .body(Empty::new())
            .map_err(|_| Unanswered::BadTarget)?;
        let call = async {
            let answer = self.pool.request(request).await.map_err(|error| why(&error))?;
            read(answer).await
        };
        tokio::time::timeout(self.timeout, call).await.unwrap_or(Err(Unanswered::Timeout))
    }
}

fn why(error: &PoolError) -> Unanswered {
    if error.is_connect() { Unanswered::Connect } else { Unanswered::Broken }
}

async fn read(answer: http::Response<Incoming>) -> Result<Answer, Unanswered> {
    let (head, mut body) = answer.into_parts();
    let mut kept = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Unanswered::Broken)?;
        if let Some(data) = frame.data_ref() {
            let room = BODY_KEPT_BYTES.saturating_sub(kept.len());
            kept.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    let is_problem = head
        .headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/problem+json"));
    Ok(Answer {
        status: head.status.as_u16(),
        reason: is_problem.then(|| reason(head.status, &kept)),
        ran: Ran::of(&head.headers),
        body: kept.into(),
    })
}

fn reason(status: StatusCode, problem: &[u8]) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_slice(problem).ok();
    let reason = problem.as_ref().and_then(|problem| problem.get("reason")?.as_str());
    reason.map_or_else(|| format!("HTTP {}", status.as_u16()), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_counted_by_its_reason() {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(reason(status, br#"{"reason":"NO_CAPACITY","title":"x"}"#), "NO_CAPACITY");
        assert_eq!(reason(status, b"no json"), "HTTP 503");
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_no_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        drop(listener);
        let client = Client::new(Duration::from_secs(5));
        assert_eq!(client.get(&authority, "/", "id").await, Err(Unanswered::Connect));
        assert_eq!(client.get(&authority, " /", "id").await, Err(Unanswered::BadTarget));
    }
}
