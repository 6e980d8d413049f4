//! Conversions between messages and the model, with an error for what does not convert.

use bytes::{Bytes, BytesMut};
use nigh_model::ids::{BadName, FunctionName};
use nigh_model::refusal::Refusal;
use nigh_model::spec::{self, AppSpec, BadSpec, FunctionSpec, Invoke};

use crate::peer::v1 as peer;
use crate::v1;

/// A message that holds no valid value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Malformed {
    /// The field's path in the message.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

impl Malformed {
    /// Names the field and what is wrong with it.
    pub fn new(field: impl Into<String>, why: impl ToString) -> Self {
        Self { field: field.into(), why: why.to_string() }
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::BadSpec(BadSpec { field: malformed.field, why: malformed.why })
    }
}

impl TryFrom<v1::AppSpec> for AppSpec {
    type Error = Malformed;

    fn try_from(message: v1::AppSpec) -> Result<Self, Malformed> {
        let mut functions = std::collections::BTreeMap::new();
        for function in message.functions {
            let name: FunctionName = function
                .name
                .parse()
                .map_err(|error: BadName| Malformed::new("function", error))?;
            let spec = function_spec(&format!("function.{name}"), function)?;
            if functions.insert(name.clone(), spec).is_some() {
                return Err(Malformed::new(format!("function.{name}"), "the name stands twice"));
            }
        }
        let invoke = if message.invoke_closed { Invoke::Closed } else { Invoke::Open };
        Ok(Self { functions, invoke })
    }
}

fn function_spec(path: &str, message: v1::FunctionSpec) -> Result<FunctionSpec, Malformed> {
    let at = |field: &str| format!("{path}.{field}");
    let component =
        message.component.parse().map_err(|error| Malformed::new(at("component"), error))?;
    let mut function = FunctionSpec::new(component, message.component_bytes);
    for route in message.routes {
        let route = route.parse().map_err(|error| Malformed::new(at("routes"), error))?;
        function.routes.push(route);
    }
    if let Some(limits) = message.limits {
        let or = |given: u64, default: u64| if given == 0 { default } else { given };
        let default = function.limits;
        function.limits = spec::Limits {
            timeout_ms: or(limits.timeout_ms, default.timeout_ms),
            cpu_ms: or(limits.cpu_ms, default.cpu_ms),
            memory_bytes: or(limits.memory_bytes, default.memory_bytes),
            body_bytes: limits.body_bytes.unwrap_or(default.body_bytes),
            concurrency: match limits.concurrency {
                0 => default.concurrency,
                given => given,
            },
        };
    }
    if let Some(scale) = message.scale {
        function.scale.min_warm = scale.min_warm;
        if scale.idle_ms != 0 {
            function.scale.idle_ms = scale.idle_ms;
        }
        function.scale.reuse = scale.reuse.map(|reuse| {
            let or = |given: u32, default: u32| if given == 0 { default } else { given };
            let default = spec::Reuse::default();
            spec::Reuse {
                uses: or(reuse.uses, default.uses),
                instances: or(reuse.instances, default.instances),
            }
        });
    }
    if let Some(placement) = message.placement {
        function.placement.replicas = placement.replicas;
        for region in placement.regions {
            let pattern = region
                .try_into()
                .map_err(|error: String| Malformed::new(at("placement.regions"), error))?;
            function.placement.regions.push(pattern);
        }
    }
    for rule in message.outbound {
        let rule =
            rule.try_into().map_err(|error: String| Malformed::new(at("allow.outbound"), error))?;
        function.outbound.push(rule);
    }
    function.env = message.env.into_iter().collect();
    Ok(function)
}

impl From<&AppSpec> for v1::AppSpec {
    fn from(spec: &AppSpec) -> Self {
        let functions =
            spec.functions.iter().map(|(name, function)| message_of(name, function)).collect();
        Self { functions, invoke_closed: spec.invoke == Invoke::Closed }
    }
}

fn message_of(name: &FunctionName, spec: &FunctionSpec) -> v1::FunctionSpec {
    v1::FunctionSpec {
        name: name.to_string(),
        component: spec.component.to_string(),
        component_bytes: spec.component_bytes,
        routes: spec.routes.iter().map(ToString::to_string).collect(),
        limits: Some(v1::Limits {
            timeout_ms: spec.limits.timeout_ms,
            cpu_ms: spec.limits.cpu_ms,
            memory_bytes: spec.limits.memory_bytes,
            body_bytes: Some(spec.limits.body_bytes),
            concurrency: spec.limits.concurrency,
        }),
        scale: Some(v1::Scale {
            min_warm: spec.scale.min_warm,
            idle_ms: spec.scale.idle_ms,
            reuse: spec
                .scale
                .reuse
                .map(|reuse| v1::Reuse { uses: reuse.uses, instances: reuse.instances }),
        }),
        placement: Some(v1::Placement {
            regions: spec.placement.regions.iter().map(|p| p.as_str().to_owned()).collect(),
            replicas: spec.placement.replicas,
        }),
        outbound: spec.outbound.iter().cloned().map(String::from).collect(),
        env: spec.env.clone().into_iter().collect(),
    }
}

/// Headers of a message as HTTP headers.
///
/// # Errors
/// The first name or value that HTTP does not allow.
pub fn header_map(headers: &[v1::Header]) -> Result<http::HeaderMap, Malformed> {
    mapped(headers.iter().map(|header| (header.name.as_bytes(), &header.value)))
}

/// The same of what another node sends.
///
/// # Errors
/// As those.
pub fn peer_header_map(headers: &[peer::Header]) -> Result<http::HeaderMap, Malformed> {
    mapped(headers.iter().map(|header| (&header.name[..], &header.value)))
}

fn mapped<'h>(
    headers: impl ExactSizeIterator<Item = (&'h [u8], &'h Bytes)>,
) -> Result<http::HeaderMap, Malformed> {
    let mut map = http::HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let name = http::HeaderName::from_bytes(name).map_err(|error| {
            let name = String::from_utf8_lossy(name);
            Malformed::new("headers", format!("`{name}`: {error}"))
        })?;
        let value = http::HeaderValue::from_maybe_shared(value.clone())
            .map_err(|error| Malformed::new("headers", format!("`{name}`: {error}")))?;
        map.append(name, value);
    }
    Ok(map)
}

/// HTTP headers as they stand in a message.
pub fn headers(map: &http::HeaderMap) -> Vec<v1::Header> {
    map.iter()
        .map(|(name, value)| v1::Header {
            name: name.as_str().to_owned(),
            value: Bytes::copy_from_slice(value.as_bytes()),
        })
        .collect()
}

/// The same for another node: all of them in one piece of memory.
pub fn peer_headers(map: &http::HeaderMap) -> Vec<peer::Header> {
    let length =
        |(name, value): (&http::HeaderName, &http::HeaderValue)| name.as_str().len() + value.len();
    let mut all = BytesMut::with_capacity(map.iter().map(length).sum());
    for (name, value) in map {
        all.extend_from_slice(name.as_str().as_bytes());
        all.extend_from_slice(value.as_bytes());
    }
    let mut all = all.freeze();
    map.iter()
        .map(|(name, value)| peer::Header {
            name: all.split_to(name.as_str().len()),
            value: all.split_to(value.len()),
        })
        .collect()
}

/// A duration as a message.
pub fn duration(duration: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: duration.as_secs() as i64,
        nanos: duration.subsec_nanos() as i32,
    }
}

/// A time in ms since the Unix epoch as a message.
pub fn timestamp_ms(ms: u64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: (ms / 1_000) as i64, nanos: (ms % 1_000) as i32 * 1_000_000 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nigh_model::Digest;

    #[test]
    fn headers_for_other_nodes_are_the_same_bytes_and_come_back() {
        use prost::Message as _;
        let mut map = http::HeaderMap::new();
        for (name, value) in [("accept", "a"), ("x-own", ""), ("accept", "b"), ("x-other", "c")] {
            let name: http::HeaderName = name.parse().unwrap();
            map.append(name, http::HeaderValue::from_str(value).unwrap());
        }
        let theirs = peer_headers(&map);
        assert_eq!(peer_header_map(&theirs).unwrap(), map);
        let bytes = |header: &peer::Header| header.encode_to_vec();
        let own: Vec<_> = headers(&map).iter().map(|header| header.encode_to_vec()).collect();
        assert_eq!(theirs.iter().map(bytes).collect::<Vec<_>>(), own);
        let bad = peer::Header { name: "x".into(), value: "a\nb".into() };
        assert!(peer_header_map(&[bad]).unwrap_err().why.starts_with("`x`"));
        let bad = peer::Header { name: "a b".into(), value: "".into() };
        assert!(peer_header_map(&[bad]).unwrap_err().why.starts_with("`a b`"));
    }

    #[test]
    fn a_spec_survives_the_wire() {
        let mut function = FunctionSpec::new(Digest::of(b"x"), 10);
        function.routes = vec!["/a/:b/...".parse().unwrap()];
        function.limits.timeout_ms = 5_000;
        function.placement.regions = vec!["eu-*".to_owned().try_into().unwrap()];
        function.outbound = vec!["https://api.example.com".to_owned().try_into().unwrap()];
        function.env.insert("LOG".into(), "info".into());
        let functions: std::collections::BTreeMap<_, _> =
            [(FunctionName::new("f").unwrap(), function)].into();
        for invoke in [Invoke::Open, Invoke::Closed] {
            let spec = AppSpec { functions: functions.clone(), invoke };
            assert_eq!(AppSpec::try_from(v1::AppSpec::from(&spec)).unwrap(), spec);
        }
    }

    #[test]
    fn a_bad_field_is_named() {
        let function = v1::FunctionSpec { name: "f".into(), ..Default::default() };
        let message = v1::AppSpec { functions: vec![function], invoke_closed: false };
        let error = AppSpec::try_from(message).unwrap_err();
        assert_eq!(error.field, "function.f.component");
    }
}
