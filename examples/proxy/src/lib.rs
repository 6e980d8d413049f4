//! Fetches the URL in the query's `url` and streams its status and body back.
//!
//! Shows outbound HTTP: what the app may reach stands under `allow.outbound` in `nigh.toml`, and a
//! refused or failed request is answered as 502 with the host's error code.

use support::target::Target;
use support::{answer, body, start};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, IncomingResponse, OutgoingBody, OutgoingRequest,
    ResponseOutparam, Scheme,
};

const TEXT: &str = "text/plain; charset=utf-8";

struct Proxy;

impl Guest for Proxy {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        let Some(outgoing) = target.get("url").and_then(get_request) else {
            return answer(out, 400, TEXT, "give an http or https URL in the query: ?url=…\n");
        };
        match fetch(outgoing) {
            Ok(response) => relay(response, out),
            Err(code) => answer(out, 502, TEXT, &format!("outbound request failed: {code:?}\n")),
        }
    }
}

wasip2::http::proxy::export!(Proxy);

/// A GET request for `url`, or nothing if it is no HTTP URL.
fn get_request(url: &str) -> Option<OutgoingRequest> {
    let (scheme, rest) = match url.split_once("://")? {
        ("http", rest) => (Scheme::Http, rest),
        ("https", rest) => (Scheme::Https, rest),
        _ => return None,
    };
    let rest = rest.split('#').next()?;
    let split = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(split);
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };

    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&scheme)).ok()?;
    request.set_authority(Some(authority)).ok()?;
    request.set_path_with_query(Some(&path)).ok()?;
    (!authority.is_empty()).then_some(request)
}

fn fetch(request: OutgoingRequest) -> Result<IncomingResponse, ErrorCode> {
    let body = request.body().expect("the body is taken once");
    let future = outgoing_handler::handle(request, None)?;
    OutgoingBody::finish(body, None)?;
    future.subscribe().block();
    future.get().expect("the future is ready").expect("the answer is taken once")
}

/// Streams an answer back with its status and `content-type`.
fn relay(response: IncomingResponse, out: ResponseOutparam) {
    let headers = Fields::new();
    let content_type = response.headers().get("content-type");
    let _ = headers.set("content-type", &content_type);
    let incoming = response.consume().expect("the body is taken once");
    let outgoing = start(out, response.status(), headers);
    body::pipe(incoming, outgoing);
}
