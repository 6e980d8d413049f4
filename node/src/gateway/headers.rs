//! What a guest is told about its call besides what the caller sent.
//!
//! The names are Spin's where Spin has one, so that a component made for it finds them. What a
//! caller sends under these names is removed: a guest may trust them.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, request};
use nigh_model::limits::{HEADER_BYTES_MAX, HEADERS_MAX};
use nigh_model::route::{Match, Route};

use super::problem::Problem;
use super::reasons;

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

/// Prefixes under which only this platform speaks.
const RESERVED: [&str; 2] = ["spin-", "nigh-"];

/// Which route matched, and what of the path it named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Matched {
    /// The route.
    pub(crate) route: Route,
    /// The part of the path that the route named, without trailing slash.
    pub(crate) base: String,
    /// The values of its parameters.
    pub(crate) params: Vec<(String, String)>,
}

impl Matched {
    /// From a match in the table of routes.
    pub(crate) fn of<T>(found: &Match<'_, T>) -> Self {
        let params = found.params.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        Self { route: found.route.clone(), base: found.base.clone(), params: params.collect() }
    }
}

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

/// Tells the guest which route matched, and who called which URL.
pub(crate) fn describe(
    head: &mut request::Parts,
    matched: &Matched,
    url: &str,
    from: Option<SocketAddr>,
) {
    strip(&mut head.headers);
    let route = matched.route.as_str();
    let base = if matched.base.is_empty() { "/" } else { &matched.base };
    let set = [
        (PATH_INFO, path_info(&head.uri, &matched.base)),
        (FULL_URL, url),
        (COMPONENT_ROUTE, route.strip_suffix("/...").unwrap_or(route)),
        (MATCHED_ROUTE, route),
        (RAW_COMPONENT_ROUTE, route),
        (BASE_PATH, base),
    ];
    for (name, value) in set {
        // A path is valid header text: hyper has parsed it.
        if let Ok(value) = HeaderValue::from_str(value) {
            head.headers.insert(name, value);
        }
    }
    for (name, value) in &matched.params {
        let name = HeaderName::from_bytes(format!("spin-path-match-{name}").as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            head.headers.insert(name, value);
        }
    }
    if let Some(value) = from.and_then(|from| HeaderValue::from_str(&from.to_string()).ok()) {
        head.headers.insert(CLIENT_ADDR, value);
    }
}

/// The whole URL as the caller wrote it; there is no TLS here yet.
pub(crate) fn full_url(uri: &Uri, host: Option<&str>) -> String {
    let scheme = uri.scheme_str().unwrap_or("http");
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    format!("{scheme}://{}{path}", host.unwrap_or("localhost"))
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
        let matched = Matched { route: route.parse().unwrap(), base: base.into(), params };
        let url = full_url(&head.uri, Some("a.example:8080"));
        describe(&mut head, &matched, &url, "10.0.0.1:5".parse().ok());
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
