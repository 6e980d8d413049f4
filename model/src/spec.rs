//! What a user deploys: an app's functions and what each may do.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::{FunctionName, Region};
use crate::limits as lim;
use crate::route::Route;

/// An app's immutable content: what a revision is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSpec {
    /// Its functions by name.
    pub functions: BTreeMap<FunctionName, FunctionSpec>,
    /// Who may call them. The default is left out, so that the digest of a spec from before there
    /// was a choice is the same.
    #[serde(default, skip_serializing_if = "Invoke::is_open")]
    pub invoke: Invoke,
}

/// Who may call the functions of an app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invoke {
    /// Everybody who reaches a node.
    #[default]
    Open,
    /// Who holds a token of the cluster.
    Closed,
}

impl Invoke {
    fn is_open(&self) -> bool {
        *self == Self::Open
    }
}

/// A function: code, routes, limits, scale, placement and permissions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionSpec {
    /// The component's digest.
    pub component: Digest,
    /// The component's size.
    pub component_bytes: u64,
    /// Routes besides the default one.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// What a call may use.
    #[serde(default)]
    pub limits: Limits,
    /// How it scales.
    #[serde(default)]
    pub scale: Scale,
    /// Where it may and should run.
    #[serde(default)]
    pub placement: PlacementSpec,
    /// Where it may connect to.
    #[serde(default)]
    pub outbound: Vec<OutboundRule>,
    /// Its environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// What one call may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Wall time, in ms.
    pub timeout_ms: u64,
    /// CPU time, in ms.
    pub cpu_ms: u64,
    /// Linear memory, in bytes.
    pub memory_bytes: u64,
    /// Request body, in bytes.
    pub body_bytes: u64,
    /// Calls running at once on one node.
    pub concurrency: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout_ms: lim::TIMEOUT_MS_DEFAULT,
            cpu_ms: lim::CPU_MS_DEFAULT,
            memory_bytes: lim::MEMORY_BYTES_DEFAULT,
            body_bytes: lim::BODY_BYTES_DEFAULT,
            concurrency: lim::CONCURRENCY_DEFAULT,
        }
    }
}

/// How a function scales; none of it is mandatory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    /// Nodes on which it stays warm however idle.
    pub min_warm: u32,
    /// Unloaded after this long without a call, in ms.
    pub idle_ms: u64,
    /// Whether an instance serves more than one call; none: each call has a fresh one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse: Option<Reuse>,
}

impl Default for Scale {
    fn default() -> Self {
        Self { min_warm: 0, idle_ms: lim::IDLE_MS_DEFAULT, reuse: None }
    }
}

/// How instances of a function serve one call after the other. What a call leaves in memory, the next
/// one finds: a choice for functions whose calls may know of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reuse {
    /// Calls that an instance serves before a fresh one takes its place.
    pub uses: u32,
    /// Instances that wait on a node for their next call.
    pub instances: u32,
}

impl Default for Reuse {
    fn default() -> Self {
        Self { uses: lim::REUSE_USES_DEFAULT, instances: lim::REUSE_INSTANCES_DEFAULT }
    }
}

/// Where a function may run, and on how many nodes it is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementSpec {
    /// Allowed regions; empty: all.
    pub regions: Vec<RegionPattern>,
    /// Nodes on which it is ready; 0: one of each allowed region, two at least.
    pub replicas: u32,
}

impl PlacementSpec {
    /// Whether the function, and any byte of its artifact, may be in this region.
    pub fn allows(&self, region: &Region) -> bool {
        self.regions.is_empty() || self.regions.iter().any(|pattern| pattern.matches(region))
    }
}

/// A region name, or a prefix of one followed by `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RegionPattern(String);

impl RegionPattern {
    /// Whether the region is meant.
    pub fn matches(&self, region: &Region) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => region.as_str().starts_with(prefix),
            None => self.0 == region.as_str(),
        }
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RegionPattern {
    type Error = String;
    fn try_from(pattern: String) -> Result<Self, String> {
        let name = pattern.strip_suffix('*').unwrap_or(&pattern);
        if !(name.is_empty() && pattern == "*") {
            Region::new(name).map_err(|error| error.to_string())?;
        }
        Ok(Self(pattern))
    }
}

impl From<RegionPattern> for String {
    fn from(pattern: RegionPattern) -> Self {
        pattern.0
    }
}

/// An outbound permission: `scheme://host[:port]`, where the host may begin with `*.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OutboundRule {
    scheme: String,
    host: String,
    port: u16,
    /// Whether the rule was written with its port.
    explicit_port: bool,
}

impl OutboundRule {
    /// Whether a request to this scheme, host and port is allowed.
    pub fn allows(&self, scheme: &str, host: &str, port: u16) -> bool {
        let host = host.to_ascii_lowercase();
        let host_fits = match self.host.strip_prefix('*') {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => host == self.host,
        };
        host_fits && port == self.port && scheme.eq_ignore_ascii_case(&self.scheme)
    }
}

impl TryFrom<String> for OutboundRule {
    type Error = String;
    fn try_from(given: String) -> Result<Self, String> {
        let bad = |why: &str| format!("outbound rule `{given}` is not valid: {why}");
        let (scheme, rest) = given
            .split_once("://")
            .ok_or_else(|| bad("write it as scheme://host or scheme://host:port"))?;
        let default_port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return Err(bad("the scheme is http or https")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, Some(port.parse().map_err(|_| bad("the port is no number up to 65535"))?))
            }
            _ => (rest, None),
        };
        let name = host.strip_prefix("*.").unwrap_or(host);
        let fits =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'[' | b']' | b':');
        if name.is_empty() || !name.bytes().all(fits) {
            return Err(bad("the host is a name or address; *. may stand before it"));
        }
        Ok(Self {
            scheme: scheme.to_owned(),
            host: host.to_ascii_lowercase(),
            port: port.unwrap_or(default_port),
            explicit_port: port.is_some(),
        })
    }
}

impl From<OutboundRule> for String {
    fn from(rule: OutboundRule) -> Self {
        let OutboundRule { scheme, host, port, explicit_port } = rule;
        if explicit_port {
            format!("{scheme}://{host}:{port}")
        } else {
            format!("{scheme}://{host}")
        }
    }
}

/// A spec that breaks a rule: which field, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{field}: {why}")]
pub struct BadSpec {
    /// The field's path as in the manifest.
    pub field: String,
    /// What is wrong, and the limit where there is one.
    pub why: String,
}

impl AppSpec {
    /// The digest of all that a revision is made of: equal specs change nothing.
    pub fn digest(&self) -> Digest {
        let bytes = serde_json::to_vec(self).expect("a spec is maps, strings and numbers");
        Digest::of(&bytes)
    }

    /// Whether a function of it reuses instances, which not every build knows.
    pub fn reuses_instances(&self) -> bool {
        self.functions.values().any(|function| function.scale.reuse.is_some())
    }

    /// The components that the app is made of.
    pub fn components(&self) -> BTreeSet<Digest> {
        self.functions.values().map(|function| function.component).collect()
    }

    /// Checks every limit.
    ///
    /// # Errors
    /// The first field that breaks its rule.
    pub fn check(&self) -> Result<(), BadSpec> {
        let bad = |field: String, why: String| Err(BadSpec { field, why });
        if self.functions.is_empty() {
            return bad("function".into(), "an app needs at least one function".into());
        }
        if self.functions.len() > lim::FUNCTIONS_PER_APP_MAX {
            return bad(
                "function".into(),
                format!("an app has at most {} functions", lim::FUNCTIONS_PER_APP_MAX),
            );
        }
        let mut routes: Vec<&Route> = Vec::new();
        for (name, function) in &self.functions {
            function.check(&format!("function.{name}"))?;
            for route in &function.routes {
                if routes.iter().any(|other| other.collides_with(route)) {
                    return bad(
                        format!("function.{name}.routes"),
                        format!("`{route}` stands twice in this app"),
                    );
                }
                routes.push(route);
            }
        }
        Ok(())
    }
}

impl FunctionSpec {
    /// A function of this component with every setting at its default.
    pub fn new(component: Digest, component_bytes: u64) -> Self {
        Self {
            component,
            component_bytes,
            routes: Vec::new(),
            limits: Limits::default(),
            scale: Scale::default(),
            placement: PlacementSpec::default(),
            outbound: Vec::new(),
            env: BTreeMap::new(),
        }
    }

    fn check(&self, path: &str) -> Result<(), BadSpec> {
        let Limits { timeout_ms, cpu_ms, memory_bytes, body_bytes, concurrency } = self.limits;
        let reuse = self.scale.reuse.unwrap_or_default();
        let ranges = [
            ("limits.timeout", timeout_ms, 1, lim::TIMEOUT_MS_MAX, "ms"),
            ("limits.cpu", cpu_ms, 1, lim::TIMEOUT_MS_MAX, "ms"),
            ("limits.memory", memory_bytes, lim::MEMORY_BYTES_MIN, lim::MEMORY_BYTES_MAX, "bytes"),
            ("limits.body", body_bytes, 0, lim::BODY_BYTES_MAX, "bytes"),
            ("limits.concurrency", concurrency.into(), 1, lim::CONCURRENCY_MAX.into(), "calls"),
            (
                "placement.replicas",
                self.placement.replicas.into(),
                0,
                lim::REPLICAS_MAX.into(),
                "nodes",
            ),
            ("scale.min_warm", self.scale.min_warm.into(), 0, lim::REPLICAS_MAX.into(), "nodes"),
            ("scale.reuse.uses", reuse.uses.into(), 1, lim::REUSE_USES_MAX.into(), "calls"),
            (
                "scale.reuse.instances",
                reuse.instances.into(),
                1,
                lim::REUSE_INSTANCES_MAX.into(),
                "instances",
            ),
            ("component", self.component_bytes, 1, lim::COMPONENT_BYTES_MAX, "bytes"),
        ];
        for (field, value, min, max, unit) in ranges {
            if !(min..=max).contains(&value) {
                return Err(BadSpec {
                    field: format!("{path}.{field}"),
                    why: format!("{value} {unit} is outside {min} to {max} {unit}"),
                });
            }
        }
        let counts = [
            ("routes", self.routes.len(), lim::ROUTES_PER_FUNCTION_MAX),
            ("env", self.env.len(), lim::ENV_VARS_MAX),
            ("allow.outbound", self.outbound.len(), lim::OUTBOUND_RULES_MAX),
            ("placement.regions", self.placement.regions.len(), lim::OUTBOUND_RULES_MAX),
        ];
        for (field, count, max) in counts {
            if count > max {
                return Err(BadSpec {
                    field: format!("{path}.{field}"),
                    why: format!("{count} entries, at most {max} are allowed"),
                });
            }
        }
        let env_bytes: usize = self.env.iter().map(|(k, v)| k.len() + v.len()).sum();
        let bad_name = |name: &String| name.is_empty() || name.contains(['=', '\0']);
        if env_bytes > lim::ENV_BYTES_MAX || self.env.keys().any(bad_name) {
            return Err(BadSpec {
                field: format!("{path}.env"),
                why: format!(
                    "names are not empty and hold no =, names and values have at most {} bytes together",
                    lim::ENV_BYTES_MAX
                ),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> OutboundRule {
        OutboundRule::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn outbound_rules_bind_scheme_host_and_port() {
        assert!(rule("https://api.example.com").allows("https", "API.example.com", 443));
        assert!(!rule("https://api.example.com").allows("https", "api.example.com", 8443));
        assert!(!rule("https://api.example.com").allows("http", "api.example.com", 443));
        assert!(rule("http://*.example.com:8080").allows("http", "a.example.com", 8080));
        assert!(!rule("http://*.example.com:8080").allows("http", "example.com", 8080));
        assert!(!rule("http://*.example.com:8080").allows("http", "evilexample.com", 8080));
        for bad in ["api.example.com", "ftp://a", "http://", "http://a:99999", "http://a/b"] {
            assert!(OutboundRule::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn region_patterns_match_by_name_or_prefix() {
        let eu = Region::new("eu-west-1").unwrap();
        let allows =
            |pattern: &str| RegionPattern::try_from(pattern.to_owned()).unwrap().matches(&eu);
        assert!(allows("eu-west-1") && allows("eu-*") && allows("*"));
        assert!(!allows("eu-west") && !allows("us-*"));
        assert!(RegionPattern::try_from("EU*".to_owned()).is_err());
    }

    #[test]
    fn a_spec_without_a_choice_of_callers_is_what_it_was() {
        let open = AppSpec::default();
        assert_eq!(serde_json::to_string(&open).unwrap(), "{\"functions\":{}}");
        assert_eq!(serde_json::from_str::<AppSpec>("{\"functions\":{}}").unwrap(), open);
        let closed = AppSpec { invoke: Invoke::Closed, ..open.clone() };
        assert_ne!(closed.digest(), open.digest());
        let text = serde_json::to_string(&closed).unwrap();
        assert_eq!(serde_json::from_str::<AppSpec>(&text).unwrap(), closed);
    }

    #[test]
    fn a_spec_without_reuse_is_what_it_was() {
        let mut function = FunctionSpec::new(Digest::of(b"x"), 1);
        let text = serde_json::to_string(&function).unwrap();
        assert!(!text.contains("reuse"), "{text}");
        assert_eq!(serde_json::from_str::<FunctionSpec>(&text).unwrap(), function);
        function.scale.reuse = Some(Reuse { uses: 7, instances: 2 });
        let text = serde_json::to_string(&function).unwrap();
        assert_eq!(serde_json::from_str::<FunctionSpec>(&text).unwrap(), function);
        function.scale.reuse = Some(Reuse { uses: 0, instances: 2 });
        assert_eq!(function.check("f").unwrap_err().field, "f.scale.reuse.uses");
    }

    #[test]
    fn a_value_beyond_its_limit_is_named() {
        let mut function = FunctionSpec::new(Digest::of(b"x"), 1);
        function.limits.memory_bytes = 2 << 30;
        let functions = [(FunctionName::new("f").unwrap(), function)].into();
        let spec = AppSpec { functions, ..AppSpec::default() };
        let error = spec.check().unwrap_err();
        assert_eq!(error.field, "function.f.limits.memory");
        assert!(error.why.contains("1073741824"), "{error}");
    }
}
