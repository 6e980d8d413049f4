//! What a guest is told about its call besides what the caller sent.
//!
//! The names are Spin's where Spin has one, so that a component made for it finds them. What a
//! caller sends under these names is removed: a guest may trust them.

use std::net::SocketAddr;

use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, request};
use nigh_model::limits::{HEADER_BYTES_MAX, HEADERS_MAX};
use nigh_model::route::{Match, Route};

use super::problem::Problem;
use super::reasons;
use super::trace::Trace;
use crate::decided::Led;

/// The path after the matched base, with its slash.
const PATH_INFO: HeaderName = HeaderName::from_static("spin-path-info");
/// Scheme, host, path and query.
const FULL_URL: HeaderName = HeaderName::from_static("spin-full-url");
/// The route that matched, as written.
const MATCHED_ROUTE: HeaderName = HeaderName::from_static("spin-matched-route");
/// The same: apps have no base of their own.
const RAW_COMPONENT_ROUTE: HeaderName = HeaderName::from_static("spin-raw-component-route");
/// The route without `/...`.
const COMPONENT_ROUTE: HeaderName = HeaderName::from_static("spin-component-route");
/// The part of the path that the route named.
const BASE_PATH: HeaderName = HeaderName::from_static("spin-base-path");
/// The caller's address.
const CLIENT_ADDR: HeaderName = HeaderName::from_static("spin-client-addr");

/// What was spoken to the platform, `http` or `https`.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Prefixes under which only this platform speaks.
const RESERVED: [&str; 2] = ["spin-", "nigh-"];

/// What a guest is told of a route, whatever path has led there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// The route as it is written.
    matched: HeaderValue,
    /// The same without `/...`.
    component: HeaderValue,
    /// The host that it is bound to.
    host: Option<Box<str>>,
}

impl Told {
    /// Of this route.
    pub(crate) fn of(route: &Route) -> Self {
        let text = route.as_str();
        // A route is visible ASCII.
        let value = |text| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("-"));
        let component = value(text.strip_suffix("/...").unwrap_or(text));
        Self { matched: value(text), component, host: route.host().map(Into::into) }
    }

    /// The host that the route is bound to.
    pub(crate) fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }
}

/// Which route matched, and what of the path it named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Matched {
    /// What is told of the route.
    pub(crate) told: Told,
    /// The part of the path that the route named, without trailing slash.
    pub(crate) base: String,
    /// The values of its parameters.
    pub(crate) params: Vec<(String, String)>,
}

impl Matched {
    /// From a match in the table of routes.
    pub(crate) fn of(found: Match<'_, Led>) -> Self {
        let params = found.params.into_iter().map(|(name, value)| (name.to_owned(), value));
        let told = found.target.told.clone();
        Self { told, base: found.base, params: params.collect() }
    }
}

/// Most headers that a guest is told besides its caller's and the parameters of its route.
const TOLD_MAX: usize = 9;

/// Removes what only this platform may say.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let reserved = |name: &&HeaderName| RESERVED.iter().any(|p| name.as_str().starts_with(p));
    let found: Vec<HeaderName> = headers.keys().filter(reserved).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Refuses more headers than a request may have. gRPC answers with the reason's status.
pub(crate) fn check_size(headers: &HeaderMap) -> Result<(), Problem> {
    let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    let bytes: usize = headers.iter().map(size).sum();
    if headers.len() <= HEADERS_MAX && bytes <= HEADER_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "{} headers of {bytes} bytes, at most {HEADERS_MAX} of {HEADER_BYTES_MAX} are allowed",
        headers.len()
    );
    let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    Err(Problem::new(reasons::INVALID_CALL, message).http_status(status))
}

/// A caller's address, as guests are told it.
pub(crate) fn address(from: SocketAddr) -> HeaderValue {
    HeaderValue::from_str(&from.to_string()).unwrap_or(HeaderValue::from_static("-"))
}

/// What a guest is told of its call in headers: which route matched, who called which URL, and by what the
/// call is known. Put into the request when somebody looks at it: a guest that runs here may never.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    /// What was asked for.
    pub(crate) uri: Uri,
    /// Which route that is.
    pub(crate) matched: Matched,
    /// The whole URL.
    pub(crate) url: String,
    /// The caller.
    pub(crate) from: Option<HeaderValue>,
    /// By what the call is known.
    pub(crate) trace: Trace,
    /// Whether the caller speaks TLS to this node.
    pub(crate) is_tls: bool,
}

impl Description {
    /// Tells it. What the caller has said in the platform's name is gone then.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        describe(headers, &self.uri, &self.matched, &self.url, self.from.as_ref());
        if self.is_tls {
            // Frameworks look at this one. Of a caller without TLS it is left as it came: a proxy in
            // front may have set it.
            headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
        }
        self.trace.write(headers);
    }
}

fn describe(
    headers: &mut HeaderMap,
    uri: &Uri,
    matched: &Matched,
    url: &str,
    from: Option<&HeaderValue>,
) {
    strip(headers);
    headers.reserve(TOLD_MAX + matched.params.len());
    let Told { matched: route, component, .. } = &matched.told;
    headers.insert(COMPONENT_ROUTE, component.clone());
    headers.insert(MATCHED_ROUTE, route.clone());
    headers.insert(RAW_COMPONENT_ROUTE, route.clone());
    let base = if matched.base.is_empty() { "/" } else { &matched.base };
    let set = [(PATH_INFO, path_info(uri, &matched.base)), (FULL_URL, url), (BASE_PATH, base)];
    for (name, value) in set {
        // A path is valid header text: hyper has parsed it.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    for (name, value) in &matched.params {
        let name = HeaderName::from_bytes(format!("spin-path-match-{name}").as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
    if let Some(from) = from {
        headers.insert(CLIENT_ADDR, from.clone());
    }
}

/// Has a guest whose caller speaks TLS see that in the scheme of the URL.
pub(crate) fn over_tls(head: &mut request::Parts, url: &str) {
    if let Ok(uri) = url.parse() {
        head.uri = uri;
    }
}

/// The whole URL as the caller wrote it, with the scheme where that is known from the connection.
pub(crate) fn full_url(uri: &Uri, scheme: Option<&Scheme>, host: Option<&str>) -> String {
    let scheme = scheme.or(uri.scheme()).unwrap_or(&Scheme::HTTP);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    [scheme.as_str(), "://", host.unwrap_or("localhost"), path].concat()
}

/// What follows the base. `/app` and `/app/` are the same: `/`.
fn path_info<'u>(uri: &'u Uri, base: &str) -> &'u str {
    match uri.path().get(base.len()..) {
        None | Some("") => "/",
        Some(rest) => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn described(uri: &str, route: &str, base: &str, sent: &[(&str, &str)]) -> HeaderMap {
        let mut request = Request::builder().uri(uri);
        for (name, value) in sent {
            request = request.header(*name, *value);
        }
        let mut head = request.body(()).unwrap().into_parts().0;
        let params = vec![("user".to_owned(), "ada".to_owned())];
        let told = Told::of(&route.parse().unwrap());
        let matched = Matched { told, base: base.into(), params };
        let url = full_url(&head.uri, None, Some("a.example:8080"));
        let from = address("10.0.0.1:5".parse().unwrap());
        describe(&mut head.headers, &head.uri, &matched, &url, Some(&from));
        head.headers
    }

    #[test]
    fn a_guest_learns_its_route() {
        let headers = described("/u/ada/posts/7?x=1", "/u/:user/posts/...", "/u/ada/posts", &[]);
        for (name, value) in [
            ("spin-path-info", "/7"),
            ("spin-full-url", "http://a.example:8080/u/ada/posts/7?x=1"),
            ("spin-matched-route", "/u/:user/posts/..."),
            ("spin-raw-component-route", "/u/:user/posts/..."),
            ("spin-component-route", "/u/:user/posts"),
            ("spin-base-path", "/u/ada/posts"),
            ("spin-path-match-user", "ada"),
            ("spin-client-addr", "10.0.0.1:5"),
        ] {
            assert_eq!(headers[name], value, "{name}");
        }
    }

    #[test]
    fn over_tls_the_scheme_is_https_whatever_the_caller_says() {
        for given in ["/x?y=1", "http://a.example/x?y=1"] {
            let request = Request::get(given).header("x-forwarded-proto", "http").body(()).unwrap();
            let mut head = request.into_parts().0;
            let url = full_url(&head.uri, Some(&Scheme::HTTPS), Some("a.example"));
            let trace = Trace::of(&head.headers);
            let told = Told::of(&"/x".parse().unwrap());
            let matched = Matched { told, base: "/x".into(), params: Vec::new() };
            let (uri, from, is_tls) = (head.uri.clone(), None, true);
            let described = Description { uri, matched, url: url.clone(), from, trace, is_tls };
            described.tell(&mut head.headers);
            over_tls(&mut head, &url);
            assert_eq!(head.uri, "https://a.example/x?y=1");
            assert_eq!(head.headers["x-forwarded-proto"], "https");
            assert!(head.headers.contains_key("traceparent"));
        }
    }

    #[test]
    fn a_route_without_rest_leaves_a_slash() {
        assert_eq!(described("/app", "/app/...", "/app", &[])["spin-path-info"], "/");
        assert_eq!(described("/app/", "/app/...", "/app", &[])["spin-path-info"], "/");
        let root = described("/x", "/...", "", &[]);
        assert_eq!(
            (&root["spin-path-info"], &root["spin-base-path"]),
            (&HeaderValue::from_static("/x"), &HeaderValue::from_static("/"),)
        );
    }

    #[test]
    fn a_caller_cannot_speak_for_the_platform() {
        let sent = [("nigh-node", "x"), ("spin-path-info", "/x"), ("spin-other", "x"), ("a", "b")];
        let headers = described("/app", "/app/...", "/app", &sent);
        assert!(!headers.contains_key("nigh-node") && !headers.contains_key("spin-other"));
        assert_eq!(headers["spin-path-info"], "/");
        assert_eq!(headers["a"], "b");
    }
}
