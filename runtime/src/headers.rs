//! Headers at the border: what concerns one connection only stays outside, and sizes are held.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request;
use http::uri::{Authority, Scheme};
use nigh_model::limits::{HEADER_BYTES_MAX, HEADERS_MAX};

/// Headers about one connection (RFC 9110 §7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Whether a guest may not set this header.
///
/// `host` is not among them, so that a guest that passes on what it got does not fail:
/// it is dropped from answers, and replaced in outbound requests.
pub(crate) fn forbidden(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
}

/// Makes a request's head what a guest should see: no hop-by-hop headers, and a `host`.
pub(crate) fn accept(head: &mut request::Parts) {
    strip_hop_by_hop(&mut head.headers);
    let stated = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let stated_well = stated.is_some_and(|host| host.parse::<Authority>().is_ok());
    if stated_well {
        return;
    }
    let known =
        head.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    head.headers.insert(header::HOST, known.unwrap_or(HeaderValue::from_static("localhost")));
}

/// The scheme a guest sees.
pub(crate) fn is_https(head: &request::Parts) -> bool {
    head.uri.scheme() == Some(&Scheme::HTTPS)
}

/// Removes hop-by-hop headers, those that `connection` names too. `te: trailers` stays: it is
/// about the call's end.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most have none.
    if !headers.keys().any(|name| *name == header::TE || HOP_BY_HOP.contains(name)) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| *name != header::HOST && *name != header::TE)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
    }
}

/// Checks a guest's headers or trailers against the limits.
pub(crate) fn check_size(headers: &HeaderMap) -> Result<(), String> {
    let count = headers.len();
    if count > HEADERS_MAX {
        return Err(format!("{count} headers, at most {HEADERS_MAX} are allowed"));
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > HEADER_BYTES_MAX {
        return Err(format!("{bytes} bytes of headers, at most {HEADER_BYTES_MAX} are allowed"));
    }
    Ok(())
}

/// What a length is declared with that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoLength;

/// The length that a head declares: digits alone (RFC 9110 §8.6), and once.
pub(crate) fn declared_length(headers: &HeaderMap) -> Result<Option<u64>, NoLength> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digits = value.to_str().map_err(|_| NoLength)?;
    if values.next().is_some() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(NoLength);
    }
    digits.parse().map(Some).map_err(|_| NoLength)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut head = request.body(()).unwrap().into_parts().0;
        accept(&mut head);
        head
    }

    #[test]
    fn what_concerns_a_connection_stays_outside() {
        let head = accepted(
            "/",
            &[
                ("host", "a.example"),
                ("connection", "close, x-private"),
                ("x-private", "1"),
                ("transfer-encoding", "chunked"),
                ("te", "gzip"),
                ("x-kept", "1"),
            ],
        );
        let names: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["host", "x-kept"]);
        assert_eq!(accepted("/", &[("te", "trailers")]).headers["te"], "trailers");
    }

    #[test]
    fn connection_cannot_take_host_away() {
        assert_eq!(accepted("/", &[("host", "a"), ("connection", "host")]).headers["host"], "a");
    }

    #[test]
    fn a_host_is_always_there() {
        assert_eq!(accepted("http://b.example:81/x", &[]).headers["host"], "b.example:81");
        assert_eq!(accepted("/x", &[("host", "b c")]).headers["host"], "localhost");
        assert_eq!(accepted("/x", &[]).headers["host"], "localhost");
    }

    #[test]
    fn a_length_is_digits_and_said_once() {
        let declares = |values: &[&'static str]| {
            let values = values.iter().map(|value| HeaderValue::from_static(value));
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_LENGTH, value);
            }
            declared_length(&headers)
        };
        assert_eq!(declares(&[]), Ok(None));
        assert_eq!(declares(&["12"]), Ok(Some(12)));
        for wrong in [&["+1"][..], &["1", "1"], &[""], &["1 "], &["99999999999999999999"]] {
            assert_eq!(declares(wrong), Err(NoLength), "{wrong:?}");
        }
    }

    #[test]
    fn too_many_and_too_large_headers_are_told() {
        let mut headers = HeaderMap::new();
        headers.insert("a", HeaderValue::from_str(&"x".repeat(HEADER_BYTES_MAX - 1)).unwrap());
        assert!(check_size(&headers).is_ok());
        headers.insert("b", HeaderValue::from_static(""));
        assert!(check_size(&headers).unwrap_err().contains("bytes of headers"));
        let mut headers = HeaderMap::new();
        for _ in 0..=HEADERS_MAX {
            headers.append("a", HeaderValue::from_static("x"));
        }
        assert!(check_size(&headers).unwrap_err().contains("129 headers"));
    }
}
