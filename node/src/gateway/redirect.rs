//! Where calls over plain HTTP are told to go, when a node has both and was told to redirect.
//!
//! Not told so is who asks for no host by name: an IP address or `localhost`, as health checks and what
//! runs on the same machine do, for which certificates seldom are; and who checks for a certificate's
//! authority that the host is ours (RFC 8555 §8.3).

use std::net::IpAddr;

use http::uri::Authority;

/// What an authority asks for before it signs.
const ACME_CHALLENGE: &str = "/.well-known/acme-challenge/";
/// The port that a URL need not name.
const HTTPS_PORT: u16 = 443;

/// The URL over HTTPS; none when the call is to be answered as it is. `host` may carry a port.
pub(super) fn to(host: Option<&str>, path_and_query: &str, port: u16) -> Option<String> {
    let authority: Authority = host?.parse().ok()?;
    let host = authority.host();
    let by_address = host.starts_with('[') || host.parse::<IpAddr>().is_ok();
    if by_address || host.eq_ignore_ascii_case("localhost") || host.is_empty() {
        return None;
    }
    if !path_and_query.starts_with('/') || path_and_query.starts_with(ACME_CHALLENGE) {
        return None;
    }
    Some(match port {
        HTTPS_PORT => format!("https://{host}{path_and_query}"),
        port => format!("https://{host}:{port}{path_and_query}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_redirected_with_path_and_query() {
        let to = |host, path| to(Some(host), path, 443);
        assert_eq!(to("a.test", "/x?y=1").as_deref(), Some("https://a.test/x?y=1"));
        assert_eq!(to("a.test:8080", "//b").as_deref(), Some("https://a.test//b"));
        assert_eq!(to("user@a.test", "/").as_deref(), Some("https://a.test/"));
        let moved = super::to(Some("a.test:8080"), "/", 8443);
        assert_eq!(moved.as_deref(), Some("https://a.test:8443/"));
    }

    #[test]
    fn who_names_no_host_or_checks_for_an_authority_is_answered() {
        for host in ["127.0.0.1:8080", "[::1]:8080", "localhost", "LOCALHOST:8080"] {
            assert_eq!(to(Some(host), "/", 443), None, "{host}");
        }
        assert_eq!(to(None, "/", 443), None);
        assert_eq!(to(Some("a.test"), "/.well-known/acme-challenge/x", 443), None);
        assert_eq!(to(Some("a.test"), "*", 443), None);
    }
}
