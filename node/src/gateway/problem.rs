//! A typed platform error, and how it looks over HTTP, over gRPC and between nodes.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use nigh_model::NodeName;
use nigh_proto::{peer::v1 as peer, status};
use nigh_runtime::Failure;
use tonic::Status;

use super::reasons::{self, Reason};

/// What the body of such an answer is (RFC 9457).
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
/// Longest detail in `Proxy-Status`, in bytes: it is a hint, the body says it all.
const DETAILS_BYTES_MAX: usize = 200;

/// Why a call is not answered by its function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Problem {
    reason: &'static Reason,
    message: String,
    hint: Option<String>,
    retry_after: Option<Duration>,
    /// The status over HTTP where that has a better one than the reason's.
    http_status: Option<StatusCode>,
    /// The node on which it came up; none: where the call entered.
    node: Option<NodeName>,
}

impl Problem {
    /// A problem; the message says what, in lower case and without a full stop.
    pub(crate) fn new(reason: &'static Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            hint: None,
            retry_after: None,
            http_status: None,
            node: None,
        }
    }

    /// Adds what the caller may do.
    pub(crate) fn hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    /// Adds when to try again.
    pub(crate) fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Chooses the status over HTTP for a problem of the node that the call enters: between
    /// nodes it is not told.
    pub(crate) fn http_status(mut self, status: StatusCode) -> Self {
        self.http_status = Some(status);
        self
    }

    /// Names the node on which it came up.
    pub(crate) fn at(mut self, node: &NodeName) -> Self {
        self.node.get_or_insert_with(|| node.clone());
        self
    }

    /// Its reason.
    pub(crate) fn reason(&self) -> &'static Reason {
        self.reason
    }

    /// The node on which it came up, when that is not where the call entered.
    pub(crate) fn node(&self) -> Option<&NodeName> {
        self.node.as_ref()
    }

    /// The answer over HTTP of the node `entry`, but for the headers that all answers have.
    pub(crate) fn into_response(self, entry: &NodeName, request_id: &str) -> Response<Bytes> {
        let Self { reason, message, hint, retry_after, http_status, node } = &self;
        let status = http_status.or_else(|| StatusCode::from_u16(reason.status).ok());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut body = serde_json::json!({
            "type": format!("urn:nigh:error:{}", reason.name),
            "title": reason.meaning,
            "status": status.as_u16(),
            "detail": message,
            "reason": reason.name,
            "request_id": request_id,
            "node": node.as_ref().unwrap_or(entry).as_str(),
        });
        if let Some(hint) = hint {
            body["hint"] = hint.as_str().into();
        }
        let mut bytes = body.to_string();
        bytes.push('\n');
        let mut response = Response::new(Bytes::from(bytes));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        if let Some(after) = retry_after {
            headers.insert(header::RETRY_AFTER, whole_seconds(*after).into());
        }
        if let Ok(value) = HeaderValue::from_str(&self.proxy_status(entry)) {
            headers.insert("proxy-status", value);
        }
        response
    }

    /// `Proxy-Status` (RFC 9209): the hop that failed first, then those nearer to the caller.
    fn proxy_status(&self, entry: &NodeName) -> String {
        let Self { reason, message, node, .. } = self;
        let at = node.as_ref().unwrap_or(entry);
        let mut value =
            format!("\"{at}\";error={};details=\"{}\"", reason.proxy_error, quotable(message));
        if at != entry {
            value.push_str(&format!(", \"{entry}\";next-hop=\"{at}\""));
        }
        value
    }

    /// The gRPC status.
    pub(crate) fn into_status(self) -> Status {
        let message = match &self.hint {
            Some(hint) => format!("{}; {hint}", self.message),
            None => self.message,
        };
        let code = match self.reason.status {
            // Who may not at all and who has not shown that they may are of one kind.
            401 => tonic::Code::Unauthenticated,
            _ => status::code(self.reason.kind),
        };
        status::with_retry(code, self.reason.name, message, self.retry_after)
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::new(reasons::named(failure.reason()), failure.to_string())
    }
}

impl From<&Problem> for peer::Problem {
    fn from(problem: &Problem) -> Self {
        let retry_after_ms = problem.retry_after.unwrap_or_default().as_millis();
        Self {
            reason: problem.reason.name.to_owned(),
            message: problem.message.clone(),
            http_status: problem.reason.status.into(),
            retry_after_ms: u64::try_from(retry_after_ms).unwrap_or(u64::MAX),
        }
    }
}

impl From<peer::Problem> for Problem {
    fn from(message: peer::Problem) -> Self {
        let after = Duration::from_millis(message.retry_after_ms);
        Self {
            http_status: None,
            reason: reasons::named(&message.reason),
            message: message.message,
            hint: None,
            retry_after: (!after.is_zero()).then_some(after),
            node: None,
        }
    }
}

/// Whole seconds, at least one: a zero would invite a storm.
fn whole_seconds(after: Duration) -> u64 {
    (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1)
}

/// Text as it may stand in a quoted string of a structured field (RFC 9651 §3.3.3).
fn quotable(text: &str) -> String {
    let visible =
        |c: char| if matches!(c, ' '..='~') && !matches!(c, '"' | '\\') { c } else { '\'' };
    text.chars().take(DETAILS_BYTES_MAX).map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    #[test]
    fn a_problem_says_over_http_what_happened_where() {
        let problem = Problem::new(reasons::CONCURRENCY_LIMIT, "100 calls of `a \"b\"` run")
            .retry_after(Duration::from_millis(1_200))
            .hint(Some("raise it".into()))
            .at(&node("far"));
        let response = problem.into_response(&node("near"), "id-1");
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(
            response.headers()["proxy-status"],
            "\"far\";error=connection_limit_reached;details=\"100 calls of `a 'b'` run\", \
             \"near\";next-hop=\"far\""
        );
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["reason"], "CONCURRENCY_LIMIT");
        assert_eq!(body["status"], 429);
        assert_eq!(body["node"], "far");
        assert_eq!(body["request_id"], "id-1");
        assert_eq!(body["hint"], "raise it");
    }

    #[test]
    fn a_problem_says_the_same_over_grpc() {
        let problem =
            Problem::new(reasons::NO_CAPACITY, "full").retry_after(Duration::from_secs(1));
        let status = problem.into_status();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(status::reason(&status).as_deref(), Some("NO_CAPACITY"));
    }

    #[test]
    fn a_problem_survives_the_way_between_nodes() {
        let problem = Problem::new(reasons::NOT_HERE, "no").retry_after(Duration::from_secs(1));
        assert_eq!(Problem::from(peer::Problem::from(&problem)), problem);
        let newer = peer::Problem { reason: "FROM_THE_FUTURE".into(), ..Default::default() };
        assert_eq!(Problem::from(newer).reason(), reasons::RUNTIME_INTERNAL);
    }
}
