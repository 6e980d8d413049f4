//! Calls over HTTP: from a request to an `Ask`, and from its answer to a response.

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Either, Empty, Full};
use nigh_model::{NodeName, Region};
use nigh_runtime::{BodyError, RequestBody};
use tokio::time::Instant;

use super::body::AnswerBody;
use super::call::{Answer, Ask, Execution};
use super::connection::Asked;
use super::deadline::Deadline;
use super::headers::Description;
use super::problem::Problem;
use super::tls::Preload;
use super::trace::Trace;
use super::{Gateway, find, headers, reasons, redirect};
use crate::telemetry::Place;

const NIGH_NODE: HeaderName = HeaderName::from_static("nigh-node");
const NIGH_REGION: HeaderName = HeaderName::from_static("nigh-region");
const NIGH_ENTRY: HeaderName = HeaderName::from_static("nigh-entry");
const NIGH_FORWARDED: HeaderName = HeaderName::from_static("nigh-forwarded");
const NIGH_REVISION: HeaderName = HeaderName::from_static("nigh-revision");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Most headers that a response has besides the function's own.
const SAID_MAX: usize = 9;

/// A response's body: a function's, or that of a problem.
pub(crate) type HttpBody = Either<AnswerBody, Full<Bytes>>;

/// Header values that are the same in every answer.
pub(super) struct Fixed {
    entry: HeaderValue,
    region: HeaderValue,
}

impl Fixed {
    /// Those of a node of this name and region.
    pub(super) fn new(name: &NodeName, region: &Region) -> Self {
        Self { entry: text(name.as_str()), region: text(region.as_str()) }
    }
}

/// What is the same for all calls of a connection.
pub(crate) struct Connection {
    /// The caller's address, as guests are told it.
    pub(super) from: HeaderValue,
    /// Whether TLS is spoken.
    pub(super) is_tls: bool,
    /// The port of HTTPS that callers are told to use instead.
    pub(super) redirect: Option<u16>,
    /// What was begun for the first call.
    pub(super) preload: Option<Preload>,
}

impl Gateway {
    /// Answers a request.
    pub(super) async fn http(
        &self,
        request: Request<Asked>,
        connection: &Connection,
    ) -> Response<HttpBody> {
        let began = Instant::now();
        let trace = Trace::of(request.headers());
        let is_h1 = request.version() < http::Version::HTTP_2;
        if let Some(location) = moved(&request, connection) {
            let mut response = Response::new(Either::Right(Full::default()));
            *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
            response.headers_mut().insert(header::LOCATION, location);
            response.headers_mut().insert(NIGH_ENTRY, self.core().fixed.entry.clone());
            trace.write(response.headers_mut());
            return response;
        }
        let ask = self.ask_of(request, &trace, connection, began);
        let (mut response, node) = match self.counted(ask).await {
            Ok(answer) => self.response_of(answer),
            Err(problem) => {
                let node = problem
                    .node()
                    .map_or_else(|| self.core().fixed.entry.clone(), |node| text(node.as_str()));
                let forwarded = node != self.core().fixed.entry;
                let response = problem.into_response(&self.core().name, trace.request_id.as_str());
                let mut response = response.map(|body| Either::Right(Full::new(body)));
                response.headers_mut().insert(NIGH_FORWARDED, flag(forwarded));
                (response, node)
            }
        };
        let headers = response.headers_mut();
        headers.insert(NIGH_NODE, node);
        headers.insert(NIGH_ENTRY, self.core().fixed.entry.clone());
        trace.write(headers);
        if !is_h1 {
            // Says which trailers may come; only HTTP/1.1 needs to know.
            headers.remove(header::TRAILER);
        }
        response
    }

    /// Calls a function, and counts how that ends.
    pub(crate) async fn counted(&self, ask: Result<Ask, Problem>) -> Result<Answer, Problem> {
        let counting = self.core().metrics.enter();
        let result = match ask {
            Ok(ask) => self.call(ask).await,
            Err(problem) => Err(problem),
        };
        match &result {
            Ok(answer) => counting.ends(answer.outcome(), answer.place(), None),
            Err(problem) => {
                let elsewhere = problem.node().is_some_and(|node| *node != self.core().name);
                let place = if elsewhere { Place::There } else { Place::Here };
                counting.ends(problem.reason().outcome, place, Some(problem.reason()));
            }
        }
        result
    }

    fn ask_of(
        &self,
        request: Request<Asked>,
        trace: &Trace,
        connection: &Connection,
        began: Instant,
    ) -> Result<Ask, Problem> {
        let (mut head, body) = request.into_parts();
        if head.method == Method::CONNECT {
            let message = "CONNECT makes a tunnel, and a function is none";
            return Err(Problem::new(reasons::METHOD_NOT_SUPPORTED, message));
        }
        // The HTTP/1 parser counts headers itself, HTTP/2's knows bytes only.
        headers::check_size(&head.headers)?;
        let host = host_of(&head.uri, &head.headers);
        let decision = self.core().decided.now();
        let (target, matched) = find::by_path(&decision, host.as_deref(), head.uri.path())?;
        if let Some(preload) = &connection.preload {
            self.preload_met(preload, &target.function);
        }
        self.let_in(&target, &head.headers)?;
        let scheme = connection.is_tls.then_some(Scheme::HTTPS);
        let url = headers::full_url(&head.uri, scheme.as_ref(), host.as_deref());
        let description = Description {
            uri: head.uri.clone(),
            matched,
            url,
            from: Some(connection.from.clone()),
            trace: trace.clone(),
            is_tls: connection.is_tls,
        };
        if connection.is_tls {
            headers::over_tls(&mut head, &description.url);
        }
        let deadline = Deadline::new(began, target.spec.limits.timeout_ms, None);
        Ok(Ask {
            target,
            request: Request::from_parts(head, body_of(body)),
            description,
            request_id: trace.request_id.clone(),
            began,
            deadline,
        })
    }

    fn response_of(&self, answer: Answer) -> (Response<HttpBody>, HeaderValue) {
        let Answer { response, execution } = answer;
        let Execution { node, region, revision, cold, forwarded, timings } = &execution;
        let fixed = &self.core().fixed;
        let (node, region) = match forwarded {
            true => (text(node.as_str()), text(region.as_str())),
            false => (fixed.entry.clone(), fixed.region.clone()),
        };
        let mut response = response.map(Either::Left);
        let headers = response.headers_mut();
        headers.reserve(SAID_MAX);
        headers.insert(NIGH_REGION, region);
        headers.insert(NIGH_FORWARDED, flag(*forwarded));
        headers.insert(NIGH_REVISION, text(&revision.to_string()));
        // A function may time itself as well.
        headers.append(SERVER_TIMING, timings.header(*cold));
        (response, node)
    }
}

/// Where the caller is told to go instead.
fn moved(request: &Request<Asked>, connection: &Connection) -> Option<HeaderValue> {
    let port = connection.redirect?;
    let host = host_of(request.uri(), request.headers());
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    HeaderValue::try_from(redirect::to(host.as_deref(), path, port)?).ok()
}

/// The host that a caller asked for, if that is one.
fn host_of(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    if let Some(authority) = uri.authority() {
        return Some(authority.as_str().to_owned());
    }
    let host = headers.get(header::HOST)?.to_str().ok()?;
    host.parse::<Authority>().is_ok().then(|| host.to_owned())
}

fn body_of(body: Asked) -> RequestBody {
    if body.is_end_stream() {
        return Empty::new().map_err(|never| match never {}).boxed_unsync();
    }
    body.map_err(|error| BodyError::Aborted(error.to_string())).boxed_unsync()
}

fn flag(set: bool) -> HeaderValue {
    HeaderValue::from_static(if set { "1" } else { "0" })
}

/// Names are visible ASCII by their own rules.
fn text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(uri: &str, host: &str) -> Option<String> {
        let request = Request::builder().uri(uri).header("host", host).body(()).unwrap();
        host_of(request.uri(), request.headers())
    }

    #[test]
    fn the_host_is_that_of_the_url_or_the_header_if_it_is_one() {
        assert_eq!(host("/x", "a.example:80").as_deref(), Some("a.example:80"));
        assert_eq!(host("http://b.example/x", "a.example").as_deref(), Some("b.example"));
        assert_eq!(host("/x", "a b"), None);
    }
}
