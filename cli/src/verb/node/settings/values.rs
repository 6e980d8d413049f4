//! What each setting may be, and what is said of one that may not.

use std::net::SocketAddr;
use std::time::Duration;

use nigh_model::Location;
use nigh_model::access::BadToken;
use nigh_node::{LOADED_BYTES_MAX, Start, TokenSource};

use crate::failure::{Failure, Result};
use crate::units;

/// Least memory for loaded functions, in bytes: some tens of small ones, or one large one.
const LOADED_BYTES_MIN: u64 = 16 << 20;
/// What exporters of metrics commonly use.
const METRICS_PORT_EXAMPLE: u16 = 9464;
/// Most addresses to join by.
const JOIN_MAX: usize = 64;
/// How long a node is dead before it is replaced, unless something else is said, in ms: a restart
/// takes less …
const REPLACE_AFTER_MS: u64 = 15_000;
/// … and at least and at most, in ms: less turns a stall into a move, more is no replacement.
const REPLACE_AFTER_MS_RANGE: std::ops::RangeInclusive<u64> = 3_000..=86_400_000;
/// Most hosts that a node is reached by: each is tried when it does not answer.
pub(super) const ADVERTISE_MAX: usize = 4;
/// Shortest and longest life of a certificate. Two thirds of the shortest are enough to renew it.
const CERTIFICATE_LIFE_MIN: Duration = Duration::from_secs(10);
const CERTIFICATE_LIFE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) fn required<T>(what: &str, given: Option<T>) -> Result<T> {
    given.ok_or_else(|| {
        let variable = what.to_uppercase();
        Failure::usage(format!("the node's {what} is missing"))
            .hint(format!("give --{what}, NIGH_{variable}, or `{what}` in the --config file"))
    })
}

pub(super) fn named<T, E: std::fmt::Display>(
    flag: &str,
    what: &str,
    given: String,
    new: impl Fn(String) -> std::result::Result<T, E>,
) -> Result<T> {
    new(given).map_err(|error| Failure::usage(format!("--{flag} {what}: {error}")))
}

pub(super) fn address(flag: &str, given: Option<String>, port_default: u16) -> Result<SocketAddr> {
    let Some(given) = given else { return Ok(SocketAddr::from(([127, 0, 0, 1], port_default))) };
    given.parse().map_err(|_| {
        let variable = flag.to_uppercase();
        Failure::usage(format!("--{flag} or NIGH_{variable}: `{given}` is no address to listen on"))
            .why("it takes an IP address and a port")
            .hint(format!("such as --{flag} 0.0.0.0:{port_default} for all addresses"))
    })
}

/// An address that only this machine reaches: what listens there asks for no token.
pub(super) fn loopback(given: String) -> Result<SocketAddr> {
    let metrics = address("metrics", Some(given), METRICS_PORT_EXAMPLE)?;
    if metrics.ip().is_loopback() {
        return Ok(metrics);
    }
    Err(Failure::usage(format!("--metrics or NIGH_METRICS: {metrics} is no loopback address"))
        .why("metrics are served there without TLS and to everybody")
        .hint("such as --metrics 127.0.0.1:9464; from elsewhere read /metrics of the API with a viewer's token"))
}

/// Other commands read `NIGH_API` too, as a URL: one of an address to listen on is that address.
pub(super) fn without_scheme(given: String) -> String {
    let rest = given.strip_prefix("https://").or_else(|| given.strip_prefix("http://"));
    let address = rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    match address.filter(|address| address.parse::<SocketAddr>().is_ok()) {
        Some(address) => address.to_owned(),
        None => given,
    }
}

pub(super) fn advertised(hosts: Vec<String>) -> Result<Vec<String>> {
    let fits =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']' | '_');
    if hosts.len() > ADVERTISE_MAX {
        return Err(Failure::usage(format!(
            "--advertise: {} hosts, at most {ADVERTISE_MAX}",
            hosts.len()
        ))
        .hint("one for each network that the node is in"));
    }
    for host in &hosts {
        let is_address = host.parse::<SocketAddr>().is_ok();
        let has_port = host.rsplit_once(':').is_some_and(|(name, _)| !name.contains(':'));
        if host.is_empty() || !host.chars().all(fits) || is_address || has_port {
            return Err(Failure::usage(format!("--advertise: `{host}` is no host")).hint(
                "write a name or an IP address without a port: the ports are those listened on",
            ));
        }
    }
    Ok(hosts)
}

pub(super) fn location(text: &str) -> Result<Location> {
    let degrees = |part: &str, max: f64| {
        part.trim().parse::<f64>().ok().filter(|degrees| degrees.abs() <= max)
    };
    let read = text.split_once(',').and_then(|(latitude, longitude)| {
        Some((degrees(latitude, 90.0)?, degrees(longitude, 180.0)?))
    });
    read.map(|(latitude, longitude)| Location { latitude, longitude }).ok_or_else(|| {
        Failure::usage(format!("--location: `{text}` is no point on the earth"))
            .hint("write degrees north and east, such as --location 53.35,-6.26")
    })
}

pub(super) fn start(bootstrap: bool, join: Vec<String>) -> Result<Start> {
    if bootstrap && !join.is_empty() {
        return Err(Failure::usage("a node cannot both begin a cluster and join one")
            .why("--bootstrap and --join were both given, as flags, in the environment or in the file")
            .hint("--bootstrap belongs to one node, once; all others --join it"));
    }
    if join.len() > JOIN_MAX {
        return Err(Failure::usage(format!(
            "--join: {} addresses, at most {JOIN_MAX}",
            join.len()
        )));
    }
    for address in &join {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.and_then(|(_, port)| port.parse::<u16>().ok()).is_none_or(|port| port == 0) {
            return Err(Failure::usage(format!("--join: `{address}` is no HOST:PORT"))
                .hint("name the peer address of a node, such as 10.0.0.1:7401"));
        }
    }
    Ok(match (bootstrap, join.is_empty()) {
        (true, _) => Start::Bootstrap,
        (false, false) => Start::Join(join),
        (false, true) => Start::Resume,
    })
}

/// What is wrong with a token is said without repeating it.
pub(super) fn join_token(given: &str) -> Result<TokenSource> {
    if let Some(path) = given.strip_prefix('@') {
        return Ok(TokenSource::File(path.into()));
    }
    given.parse().map(TokenSource::Given).map_err(|error: BadToken| {
        Failure::usage("--join-token: this is no join token")
            .why(error.to_string())
            .hint("`nigh operator token create --join` prints one; @FILE reads it from a file")
    })
}

pub(super) fn certificate_life(given: &str) -> Result<Duration> {
    let bad = |why: String| {
        Failure::usage(format!("--certificate-life: `{given}` is not valid"))
            .why(why)
            .hint("write a number and s, m, h or d, such as 30d")
    };
    let life = units::duration(given).map_err(bad)?;
    if (CERTIFICATE_LIFE_MIN..=CERTIFICATE_LIFE_MAX).contains(&life) {
        Ok(life)
    } else {
        Err(bad("it is from 10 s to 365 days".to_owned()))
    }
}

pub(super) fn replace_after(given: Option<&str>) -> Result<Duration> {
    let Some(given) = given else { return Ok(Duration::from_millis(REPLACE_AFTER_MS)) };
    let bad = |why: String| {
        Failure::usage(format!("--replace-after: `{given}` is not valid"))
            .why(why)
            .hint("write a duration from 3s to 24h, such as --replace-after 15s")
    };
    match units::duration_ms(given).map_err(bad)? {
        ms if REPLACE_AFTER_MS_RANGE.contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => Err(bad("it is too short or too long".to_owned())),
    }
}

pub(super) fn loaded_memory(given: Option<&str>) -> Result<u64> {
    let Some(given) = given else { return Ok(LOADED_BYTES_MAX) };
    let bad = |why: String| {
        Failure::usage(format!("--loaded-memory: `{given}` is not valid"))
            .why(why)
            .hint("write a size of at least 16MiB, such as --loaded-memory 1GiB")
    };
    match units::size(given).map_err(bad)? {
        bytes if bytes >= LOADED_BYTES_MIN => Ok(bytes),
        _ => Err(bad("it is too small to be of use".to_owned())),
    }
}

pub(super) fn bounded(what: &str, number: u32, max: u32) -> Result<u32> {
    if (1..=max).contains(&number) {
        Ok(number)
    } else {
        Err(Failure::usage(format!("--{what}: {number} is not from 1 to {max}")))
    }
}
