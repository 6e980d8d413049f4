//! Calls over gRPC: the same way as over HTTP, from messages instead of requests.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use nigh_model::NodeName;
use nigh_model::limits::{GRPC_MESSAGE_BYTES_MAX, HEADER_BYTES_MAX, REQUEST_ID_LENGTH_MAX};
use nigh_proto::v1::invoker_server::{Invoker, InvokerServer};
use nigh_proto::{convert, v1};
use nigh_runtime::RequestBody;
use tokio::time::Instant;
use tonic::{Response, Status, Streaming};

use super::call::{Answer, Ask, Execution};
use super::deadline::Deadline;
use super::headers::Description;
use super::problem::Problem;
use super::retry::IDEMPOTENCY_KEY;
use super::stream::{self, Answers};
use super::trace::{TRACEPARENT, Trace, X_REQUEST_ID};
use super::{Gateway, callers, find, headers, reasons};
use crate::access::{self, Denied, Shown};

/// What a message holds besides a body, in bytes.
const ENVELOPE_BYTES_MAX: usize = HEADER_BYTES_MAX + (64 << 10);
/// Largest body of a unary answer.
const UNARY_BODY_BYTES_MAX: usize = GRPC_MESSAGE_BYTES_MAX - ENVELOPE_BYTES_MAX;
/// A caller's deadline is taken to be shorter by this share, so that our word on it arrives
/// before the caller, or the transport, gives up without one …
const DEADLINE_MARGIN_SHARE: u32 = 20;
/// … and by this at most.
const DEADLINE_MARGIN_MAX: Duration = Duration::from_millis(50);

/// The service that clients call functions through.
pub(crate) fn public_invoke_service(gateway: Gateway) -> InvokerServer<PublicInvoker> {
    InvokerServer::new(PublicInvoker { gateway })
        .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX)
}

/// Calls functions for clients.
pub(crate) struct PublicInvoker {
    pub(super) gateway: Gateway,
}

#[tonic::async_trait]
impl Invoker for PublicInvoker {
    type InvokeStreamStream = Answers;

    async fn invoke(
        &self,
        request: tonic::Request<v1::InvokeRequest>,
    ) -> Result<Response<v1::InvokeResponse>, Status> {
        let caller = Caller::of(&request);
        let mut message = request.into_inner();
        let body = std::mem::take(&mut message.body);
        let length = body.len();
        let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
        let ask = self.gateway.ask_over_grpc(message, &caller, body, Some(length));
        let answer = self.gateway.counted(ask).await.map_err(Problem::into_status)?;
        let entry = &self.gateway.core().name;
        unary(answer, &caller.trace, entry).await.map(Response::new).map_err(Problem::into_status)
    }

    async fn invoke_stream(
        &self,
        request: tonic::Request<Streaming<v1::InvokeStreamRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let caller = Caller::of(&request);
        let (head, body) = stream::opened(request.into_inner()).await?;
        let ask = self.gateway.ask_over_grpc(head, &caller, body, None);
        let answer = self.gateway.counted(ask).await.map_err(Problem::into_status)?;
        let Answer { response, execution } = answer;
        let execution = message_of(&execution, &caller.trace, &self.gateway.core().name);
        Ok(Response::new(stream::answers(response, execution)))
    }
}

/// What the metadata of a call says.
struct Caller {
    trace: Trace,
    timeout: Option<Duration>,
    from: Option<SocketAddr>,
    shown: Result<access::Caller, Denied>,
    began: Instant,
}

impl Caller {
    fn of<T>(request: &tonic::Request<T>) -> Self {
        let metadata = request.metadata();
        let mut headers = HeaderMap::new();
        for name in [X_REQUEST_ID, TRACEPARENT] {
            for value in metadata.get_all(name.as_str()) {
                if let Ok(value) = HeaderValue::from_bytes(value.as_encoded_bytes()) {
                    headers.append(name.clone(), value);
                }
            }
        }
        let timeout = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok());
        Self {
            trace: Trace::of(&headers),
            timeout: timeout.and_then(parse_timeout).map(with_margin),
            from: request.remote_addr(),
            shown: match request.extensions().get::<Shown>() {
                Some(Shown(shown)) => shown.clone(),
                None => Err(Denied::NoToken),
            },
            began: Instant::now(),
        }
    }
}

impl Gateway {
    /// The call that a message asks for. `length`: the body is whole and has so many bytes.
    fn ask_over_grpc(
        &self,
        message: v1::InvokeRequest,
        caller: &Caller,
        body: RequestBody,
        length: Option<usize>,
    ) -> Result<Ask, Problem> {
        let bad = |why: String| Problem::new(reasons::INVALID_CALL, why);
        let target = find::by_name(&self.core().decided.now(), &message.function)?;
        callers::check(&target, || caller.shown.clone())?;
        let (uri, matched) = find::relative(&target, &message.path)?;
        let mut headers = convert::header_map(&message.headers).map_err(|e| bad(e.to_string()))?;
        headers::check_size(&headers)?;
        let method = match message.method.as_str() {
            "" if length == Some(0) => Method::GET,
            "" => Method::POST,
            given => Method::from_bytes(given.as_bytes())
                .map_err(|_| bad(format!("method `{}` is none", given.escape_debug())))?,
        };
        if method == Method::CONNECT {
            let why = "CONNECT makes a tunnel, and a function is none";
            return Err(Problem::new(reasons::METHOD_NOT_SUPPORTED, why));
        }
        if !message.idempotency_key.is_empty() {
            headers.insert(IDEMPOTENCY_KEY, idempotency_key(&message.idempotency_key)?);
        }
        match length {
            Some(0) => drop(headers.remove(header::CONTENT_LENGTH)),
            Some(length) => drop(headers.insert(header::CONTENT_LENGTH, length.into())),
            None => {}
        }
        let given = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = given.or(matched.told.host()).unwrap_or("localhost").to_owned();
        let url = headers::full_url(&uri, None, Some(&host));
        let mut request = Request::builder()
            .method(method)
            .uri(&url)
            .body(body)
            .map_err(|error| bad(format!("`{}` is no URL: {error}", url.escape_debug())))?;
        *request.headers_mut() = headers;
        let description = Description {
            uri: request.uri().clone(),
            matched,
            url,
            from: caller.from.map(headers::address),
            trace: caller.trace.clone(),
            is_tls: false,
        };
        let timeout_ms = target.spec.limits.timeout_ms;
        Ok(Ask {
            deadline: Deadline::new(caller.began, timeout_ms, caller.timeout),
            target,
            request,
            description,
            request_id: caller.trace.request_id.clone(),
            began: caller.began,
        })
    }
}

/// A whole answer in one message.
async fn unary(
    answer: Answer,
    trace: &Trace,
    entry: &NodeName,
) -> Result<v1::InvokeResponse, Problem> {
    let Answer { response, execution } = answer;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, UNARY_BODY_BYTES_MAX).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let message = format!(
                "the answer has more than {UNARY_BODY_BYTES_MAX} bytes, one message holds no more"
            );
            return Problem::new(reasons::ANSWER_TOO_LARGE, message)
                .hint(Some("call InvokeStream".to_owned()));
        }
        match error.downcast::<Problem>() {
            Ok(problem) => *problem,
            Err(error) => Problem::new(reasons::RUNTIME_INTERNAL, error.to_string()),
        }
    })?;
    Ok(v1::InvokeResponse {
        status: head.status.as_u16().into(),
        headers: convert::headers(&head.headers),
        body: body.to_bytes(),
        execution: Some(message_of(&execution, trace, entry)),
    })
}

fn message_of(execution: &Execution, trace: &Trace, entry: &NodeName) -> v1::Execution {
    let Execution { node, region, revision, cold, forwarded, timings } = execution;
    v1::Execution {
        node: node.to_string(),
        region: region.to_string(),
        revision: revision.to_string(),
        cold: *cold,
        forwarded: *forwarded,
        request_id: trace.request_id.to_string(),
        route: Some(convert::duration(timings.route)),
        queue: Some(convert::duration(timings.queue)),
        start: Some(convert::duration(timings.start)),
        exec: Some(convert::duration(timings.exec)),
        hop: Some(convert::duration(timings.hop)),
        entry: entry.to_string(),
    }
}

fn idempotency_key(key: &str) -> Result<HeaderValue, Problem> {
    let fits = key.len() <= REQUEST_ID_LENGTH_MAX;
    fits.then(|| HeaderValue::from_str(key).ok()).flatten().ok_or_else(|| {
        let message =
            format!("idempotency_key: use 1 to {REQUEST_ID_LENGTH_MAX} visible ASCII characters");
        Problem::new(reasons::INVALID_CALL, message)
    })
}

/// `grpc-timeout`: at most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

fn with_margin(timeout: Duration) -> Duration {
    timeout.saturating_sub((timeout / DEADLINE_MARGIN_SHARE).min(DEADLINE_MARGIN_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let ms = Duration::from_millis;
        for (text, expected) in [
            ("1H", Some(ms(3_600_000))),
            ("2M", Some(ms(120_000))),
            ("3S", Some(ms(3_000))),
            ("250m", Some(ms(250))),
            ("1000u", Some(ms(1))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("", None),
            ("S", None),
            ("123456789m", None),
            ("-1S", None),
            ("1x", None),
            ("1é", None),
        ] {
            assert_eq!(parse_timeout(text), expected, "{text}");
        }
    }

    #[test]
    fn our_word_on_a_deadline_comes_before_it() {
        assert_eq!(with_margin(Duration::from_millis(200)), Duration::from_millis(190));
        assert_eq!(with_margin(Duration::from_secs(30)), Duration::from_millis(29_950));
    }

    #[test]
    fn a_key_that_is_none_is_refused() {
        assert!(idempotency_key("a-1").is_ok());
        assert!(idempotency_key("a\n").is_err());
        assert!(idempotency_key(&"x".repeat(129)).is_err());
    }
}
