//! What a guest may call: requests that a rule allows, no longer than its own call lasts.

use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Request, Response, Uri, header};
use nigh_model::limits::OUTBOUND_REQUESTS_PER_CALL_MAX;
use nigh_model::spec::OutboundRule;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{
    Error, ForbiddenHeaderFilter, RequestOptions, Result, WasiBody, WasiHttpHooks,
};

use crate::sender::{Io, Times, send};
use crate::{headers, trust};

/// The border for outbound requests of one call.
///
/// Bounds connections: each request has one of its own, and a place from the moment the guest
/// sends it until that connection ends, which is when the response's body has been read or
/// dropped, or when the request has failed or was dropped before.
pub(crate) struct Outbound {
    rules: Arc<[OutboundRule]>,
    places: Arc<Semaphore>,
    deadline: Instant,
}

type Sending = Box<dyn Future<Output = Result<(Response<WasiBody>, Io)>> + Send>;

impl Outbound {
    pub(crate) fn new(rules: Arc<[OutboundRule]>, deadline: Instant) -> Self {
        Self { rules, places: Arc::new(Semaphore::new(OUTBOUND_REQUESTS_PER_CALL_MAX)), deadline }
    }

    /// The next call of the same instance begins, with another deadline.
    pub(crate) fn begin(&mut self, deadline: Instant) {
        self.places = Arc::new(Semaphore::new(OUTBOUND_REQUESTS_PER_CALL_MAX));
        self.deadline = deadline;
    }
}

impl WasiHttpHooks for Outbound {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        headers::forbidden(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(headers::forbidden)
    }

    fn send_request(
        &mut self,
        mut request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Box<dyn Future<Output = Result<()>> + Send>,
    ) -> Sending {
        if !allowed(&self.rules, request.uri()) {
            tracing::debug!(uri = %request.uri(), "outbound request denied");
            return Box::new(async { Err(Error::HttpRequestDenied) });
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::debug!(uri = %request.uri(), "too many outbound requests at once");
            return Box::new(async { Err(Error::ConnectionLimitReached) });
        };
        // A `host` that the guest set could name another site than the rule.
        request.headers_mut().remove(header::HOST);
        if let Some(host) = host_of(request.uri()) {
            request.headers_mut().insert(header::HOST, host);
        }
        let deadline = self.deadline;
        let times = capped(options, deadline.saturating_duration_since(Instant::now()));
        Box::new(async move {
            let sent = timeout_at(deadline, send(request, times, trust::config));
            let (response, io) = sent.await.map_err(|_| Error::ConnectionTimeout)??;
            let io = async move {
                let _place = place;
                if let Err(error) = Box::into_pin(io).await {
                    tracing::debug!(%error, "outbound connection ended");
                }
                Ok(())
            };
            Ok((response, Box::new(io) as Io))
        })
    }

    // What a guest's peer does wrong is the guest's to handle, no warning of this node.
    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        tracing::debug!(%error, "outbound request failed");
        ErrorCode::HttpProtocolError
    }

    fn p2_error_from_connect(&mut self, error: &std::io::Error) -> ErrorCode {
        tracing::debug!(%error, "outbound connection failed");
        ErrorCode::ConnectionRefused
    }

    fn p2_error_from_tls(&mut self, error: &std::io::Error) -> ErrorCode {
        tracing::debug!(%error, "outbound TLS failed");
        if is_certificate(error) {
            ErrorCode::TlsCertificateError
        } else {
            ErrorCode::TlsProtocolError
        }
    }
}

/// Whether TLS failed for the certificate of the other side.
pub(crate) fn is_certificate(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

/// Whether a rule allows a request to this address.
fn allowed(rules: &[OutboundRule], uri: &Uri) -> bool {
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else { return false };
    // `user@host` reads like a host to some; nobody needs it here.
    if authority.as_str().contains('@') {
        return false;
    }
    let port = match (authority.port(), authority.port_u16()) {
        (_, Some(port)) => port,
        (Some(_), None) => return false,
        (None, None) if *scheme == Scheme::HTTPS => 443,
        (None, None) => 80,
    };
    rules.iter().any(|rule| rule.allows(scheme.as_str(), authority.host(), port))
}

fn host_of(uri: &Uri) -> Option<HeaderValue> {
    HeaderValue::from_str(uri.authority()?.as_str()).ok()
}

/// Time-outs that end with the call at the latest.
fn capped(options: Option<RequestOptions>, left: Duration) -> Times {
    let asked = options.unwrap_or_default();
    let capped = |asked: Option<Duration>| asked.map_or(left, |asked| asked.min(left));
    Times {
        connect: capped(asked.connect_timeout),
        first_byte: capped(asked.first_byte_timeout),
        between_bytes: capped(asked.between_bytes_timeout),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn only_what_a_rule_names_is_allowed() {
        let rules: Vec<OutboundRule> =
            ["https://api.example.com", "http://127.0.0.1:8080", "http://[::1]"]
                .map(|rule| OutboundRule::try_from(rule.to_owned()).unwrap())
                .into();
        let allows = |uri: &str| allowed(&rules, &uri.parse().unwrap());
        assert!(allows("https://api.example.com/x?y"));
        assert!(allows("https://API.example.com:443/"));
        assert!(allows("http://127.0.0.1:8080/"));
        assert!(allows("http://[::1]/"));
        for denied in [
            "http://api.example.com/",
            "https://api.example.com:8443/",
            "https://api.example.com.evil.org/",
            "https://api.example.com@evil.org/",
            "https://evil.org@api.example.com/",
            "http://127.0.0.1/",
            "http://localhost:8080/",
            "/only/a/path",
        ] {
            assert!(!allows(denied), "{denied}");
        }
        assert!(!allowed(&[], &"https://api.example.com/".parse().unwrap()));
    }

    #[tokio::test]
    async fn requests_at_once_are_bounded_and_a_dropped_one_makes_room() {
        // Takes connections into its backlog, and never answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let rules = Arc::new([OutboundRule::try_from(url.clone()).unwrap()]);
        let mut outbound = Outbound::new(rules, Instant::now() + Duration::from_secs(60));
        let mut send = || {
            let body = http_body_util::Empty::new().map_err(|never| match never {});
            let request = Request::get(format!("{url}/")).body(body.boxed_unsync()).unwrap();
            Box::into_pin(outbound.send_request(request, None, Box::new(async { Ok(()) })))
        };
        let mut sent: Vec<_> = (0..OUTBOUND_REQUESTS_PER_CALL_MAX).map(|_| send()).collect();
        assert!(futures::poll!(sent[0].as_mut()).is_pending());
        assert!(matches!(send().await, Err(Error::ConnectionLimitReached)));
        sent.truncate(OUTBOUND_REQUESTS_PER_CALL_MAX - 1);
        assert!(futures::poll!(send().as_mut()).is_pending());
    }

    #[test]
    fn time_outs_end_with_the_call() {
        let second = Duration::from_secs(1);
        let asked = RequestOptions { connect_timeout: Some(second / 2), ..Default::default() };
        let capped = capped(Some(asked), second);
        assert_eq!((capped.connect, capped.first_byte), (second / 2, second));
    }
}
