//! Which function a request path belongs to.
//!
//! The rules are those of Spin 2's HTTP trigger: a route is exact, or has `:param` segments
//! that match any one segment, or ends in `/...` that matches any rest; the longest wins. A
//! route may begin with a host; routes with a host are asked before those without. Routes
//! written in a manifest come before the default routes of apps.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::ids::{AppName, FunctionName};
use crate::limits::ROUTE_LENGTH_MAX;

/// One segment of a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Segment {
    Literal(String),
    /// Matches any one segment, which must not be empty.
    Param(String),
}

/// A parsed route. A clone is the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Route(Arc<Parsed>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Parsed {
    host: Option<String>,
    segments: Vec<Segment>,
    /// Ends in `/...`: any rest matches, none too.
    open: bool,
    /// As it is written.
    text: String,
}

/// Text that is no route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("route `{route}` is not valid: {why}")]
pub struct BadRoute {
    route: String,
    why: &'static str,
}

impl Route {
    /// `/<app>/...`, or `/<app>/<function>/...` where the app has several functions.
    pub fn default_of(app: &AppName, function: Option<&FunctionName>) -> Self {
        let names = std::iter::once(app.as_str()).chain(function.map(FunctionName::as_str));
        Self::of(None, names.map(|name| Segment::Literal(name.to_owned())).collect(), true)
    }

    fn of(host: Option<String>, segments: Vec<Segment>, open: bool) -> Self {
        let mut text = host.clone().unwrap_or_default();
        push_base(&mut text, &segments);
        if open {
            text.push_str("/...");
        } else if segments.is_empty() {
            text.push('/');
        }
        Self(Arc::new(Parsed { host, segments, open, text }))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// The host that the route is bound to, if any.
    pub fn host(&self) -> Option<&str> {
        self.0.host.as_deref()
    }

    /// The first segment when it is literal and the route has no host: the app name whose
    /// default route the path lies under, should there be such an app.
    pub fn first_literal(&self) -> Option<&str> {
        self.first().filter(|_| self.0.host.is_none())
    }

    /// The first segment when it is literal.
    fn first(&self) -> Option<&str> {
        match self.0.segments.first() {
            Some(Segment::Literal(literal)) => Some(literal),
            _ => None,
        }
    }

    /// The path before `/...` as it is written: what a path relative to the route is put after.
    pub fn base(&self) -> String {
        let mut base = String::new();
        push_base(&mut base, &self.0.segments);
        base
    }

    /// Whether any rest may follow.
    pub fn is_open(&self) -> bool {
        self.0.open
    }

    /// Whether some path would match both with nothing to prefer one: same host, same shape.
    pub fn collides_with(&self, other: &Self) -> bool {
        self.shape() == other.shape()
    }

    fn shape(&self) -> (Option<&str>, Vec<Option<&str>>, bool) {
        let segments = self
            .0
            .segments
            .iter()
            .map(|segment| match segment {
                Segment::Literal(literal) => Some(literal.as_str()),
                Segment::Param(_) => None,
            })
            .collect();
        (self.host(), segments, self.0.open)
    }

    /// Matches a path of already split segments. The matched base is as many leading segments
    /// as the route has.
    fn matches(&self, path: &[&str]) -> bool {
        let Parsed { segments, open, .. } = &*self.0;
        let fits = if *open { path.len() >= segments.len() } else { path.len() == segments.len() };
        fits && segments.iter().zip(path).all(|(segment, given)| match segment {
            Segment::Literal(literal) => literal == given,
            Segment::Param(_) => !given.is_empty(),
        })
    }

    /// Less is preferred.
    fn preferred(&self, other: &Self) -> Ordering {
        other.rank().cmp(&self.rank()).then_with(|| self.cmp(other))
    }

    /// Higher is preferred: more segments, then more literal ones, then exact before open.
    fn rank(&self) -> (usize, usize, bool) {
        let Parsed { segments, open, .. } = &*self.0;
        let literals = segments.iter().filter(|s| matches!(s, Segment::Literal(_))).count();
        (segments.len(), literals, !open)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Writes a path of segments, each after its slash.
fn push_base(base: &mut String, segments: &[Segment]) {
    for segment in segments {
        base.push('/');
        match segment {
            Segment::Literal(literal) => base.push_str(literal),
            Segment::Param(name) => {
                base.push(':');
                base.push_str(name);
            }
        }
    }
}

impl FromStr for Route {
    type Err = BadRoute;

    fn from_str(given: &str) -> Result<Self, BadRoute> {
        let bad = |why| BadRoute { route: given.chars().take(80).collect(), why };
        if given.len() > ROUTE_LENGTH_MAX {
            return Err(bad("it is longer than 1024 bytes"));
        }
        let slash = given.find('/').ok_or_else(|| bad("it needs a / where the path begins"))?;
        let (host, path) = given.split_at(slash);
        let host = (!host.is_empty()).then(|| host.to_ascii_lowercase());
        if host.as_ref().is_some_and(|host| {
            !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        }) {
            return Err(bad("a host is letters, digits, - and ., without scheme or port"));
        }
        if path.bytes().any(|b| !b.is_ascii_graphic() || matches!(b, b'?' | b'#' | b'*' | b'\\')) {
            return Err(bad(
                "a path is visible ASCII without ?, #, * and \\; end it with /... for any rest",
            ));
        }
        let (path, open) = match path.strip_suffix("/...") {
            Some(rest) => (rest, true),
            None => (path, false),
        };
        let mut segments = Vec::new();
        for segment in split(path) {
            segments.push(match segment.strip_prefix(':') {
                _ if segment == "..." => return Err(bad("... may stand at the end only")),
                _ if segment == "." || segment == ".." => {
                    return Err(bad(". and .. are no segments"));
                }
                _ if segment.is_empty() => return Err(bad("it has an empty segment")),
                Some("") => return Err(bad("a : needs a name after it")),
                Some(name) => Segment::Param(name.to_owned()),
                None => Segment::Literal(segment.to_owned()),
            });
        }
        Ok(Self::of(host, segments, open))
    }
}

impl TryFrom<String> for Route {
    type Error = BadRoute;
    fn try_from(s: String) -> Result<Self, BadRoute> {
        s.parse()
    }
}

impl From<Route> for String {
    fn from(route: Route) -> Self {
        route.to_string()
    }
}

/// Splits a path into segments; `/app` and `/app/` are the same.
fn split(path: &str) -> Vec<&str> {
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
    if trimmed.is_empty() { Vec::new() } else { trimmed.split('/').collect() }
}

/// Where a path leads, and which part of it named the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match<'t, T> {
    /// What the matching route was inserted with.
    pub target: &'t T,
    /// The matching route.
    pub route: &'t Route,
    /// The part of the path that the route named, without trailing slash.
    pub base: String,
    /// The values of the `:param` segments, in the order of the path.
    pub params: Vec<(&'t str, String)>,
}

/// All routes of a cluster, ready to be asked. A clone costs nothing and shares what it has in common
/// with this.
#[derive(Clone, Debug)]
pub struct Table<T> {
    /// Without host under the empty string.
    by_host: OrdMap<String, Routes<T>>,
    /// Default routes: asked when no written route matches.
    defaults: Routes<T>,
}

/// Routes of one host, so that a path is compared with those alone that begin like it.
#[derive(Clone, Debug)]
struct Routes<T> {
    /// By their first segment where that is literal.
    by_first: OrdMap<String, List<T>>,
    /// All others.
    others: List<T>,
}

/// Routes, best first.
type List<T> = Arc<Vec<(Route, T)>>;

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { by_host: OrdMap::new(), defaults: Routes::default() }
    }
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self { by_first: OrdMap::new(), others: Arc::default() }
    }
}

impl<T: Clone> Routes<T> {
    /// The list that a route is in, or is to be.
    fn list(&mut self, route: &Route) -> &mut Vec<(Route, T)> {
        let list = match route.first() {
            Some(first) => self.by_first.entry(first.to_owned()).or_default(),
            None => &mut self.others,
        };
        Arc::make_mut(list)
    }

    fn insert(&mut self, route: Route, target: T) {
        let list = self.list(&route);
        let at = list.partition_point(|(other, _)| other.preferred(&route).is_le());
        list.insert(at, (route, target));
    }

    fn remove(&mut self, route: &Route, is: impl Fn(&T) -> bool) {
        let list = self.list(route);
        list.retain(|(other, target)| other != route || !is(target));
        if let Some(first) = route.first().filter(|_| list.is_empty()) {
            self.by_first.remove(first);
        }
    }

    fn is_empty(&self) -> bool {
        self.by_first.is_empty() && self.others.is_empty()
    }
}

impl<T> Routes<T> {
    fn targets(&self) -> impl Iterator<Item = &T> {
        let lists = self.by_first.values().chain([&self.others]);
        lists.flat_map(|list| list.iter()).map(|(_, target)| target)
    }

    /// The best route that matches.
    fn find(&self, path: &[&str]) -> Option<&(Route, T)> {
        let first = path.first().and_then(|first| self.by_first.get(*first));
        let lists = [first, Some(&self.others)].into_iter().flatten();
        let found = lists.filter_map(|list| list.iter().find(|(route, _)| route.matches(path)));
        found.min_by(|(a, _), (b, _)| a.preferred(b))
    }
}

impl<T: Clone> Table<T> {
    /// Makes a table of routes written in manifests and of default routes of apps.
    pub fn new(
        written: impl IntoIterator<Item = (Route, T)>,
        defaults: impl IntoIterator<Item = (Route, T)>,
    ) -> Self {
        let mut table = Self::default();
        written.into_iter().for_each(|(route, target)| table.insert(route, target));
        defaults.into_iter().for_each(|(route, target)| table.insert_default(route, target));
        table
    }

    /// Adds a route that is written in a manifest.
    pub fn insert(&mut self, route: Route, target: T) {
        let host = route.host().unwrap_or_default().to_owned();
        self.by_host.entry(host).or_default().insert(route, target);
    }

    /// Adds an app's default route.
    pub fn insert_default(&mut self, route: Route, target: T) {
        self.defaults.insert(route, target);
    }

    /// Removes a written route, where it leads to one of these targets.
    pub fn remove(&mut self, route: &Route, is: impl Fn(&T) -> bool) {
        let host = route.host().unwrap_or_default();
        let Some(routes) = self.by_host.get_mut(host) else { return };
        routes.remove(route, is);
        if routes.is_empty() {
            self.by_host.remove(host);
        }
    }

    /// Removes an app's default route, where it leads to one of these targets.
    pub fn remove_default(&mut self, route: &Route, is: impl Fn(&T) -> bool) {
        self.defaults.remove(route, is);
    }
}

impl<T> Table<T> {
    /// The route that a request belongs to: host before path, written before default, longest
    /// first. `host` may carry a port; `path` carries no query.
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<Match<'_, T>> {
        let segments = split(path);
        let with_host = || {
            let host = without_port(host?).to_ascii_lowercase();
            self.by_host.get(&host).filter(|_| !host.is_empty())?.find(&segments)
        };
        let without_host = || self.by_host.get("")?.find(&segments);
        let found = with_host().or_else(without_host);
        let (route, target) = found.or_else(|| self.defaults.find(&segments))?;
        let named = &segments[..route.0.segments.len()];
        let mut base = String::new();
        for segment in named {
            base.push('/');
            base.push_str(segment);
        }
        let params = route.0.segments.iter().zip(named);
        let params = params.filter_map(|(segment, given)| match segment {
            Segment::Param(name) => Some((name.as_str(), (*given).to_owned())),
            Segment::Literal(_) => None,
        });
        Some(Match { target, route, base, params: params.collect() })
    }

    /// What the routes bound to a host lead to, once for each of them. `host` carries no port.
    pub fn of_host(&self, host: &str) -> impl Iterator<Item = &T> {
        let host = host.to_ascii_lowercase();
        let routes = if host.is_empty() { None } else { self.by_host.get(&host) };
        routes.into_iter().flat_map(Routes::targets)
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.ends_with(':') && port.bytes().all(|b| b.is_ascii_digit()) => {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Route {
        text.parse().unwrap()
    }

    fn table(written: &[&'static str], defaults: &[&'static str]) -> Table<&'static str> {
        Table::new(
            written.iter().map(|text| (route(text), *text)),
            defaults.iter().map(|text| (route(text), *text)),
        )
    }

    #[test]
    fn a_route_prints_as_it_was_written() {
        for text in ["/", "/...", "/a", "/a/...", "/a/:b/c", "shop.example.com/...", "h.x/a/:b"] {
            assert_eq!(route(text).to_string(), text);
        }
        assert_eq!(route("/a/").to_string(), "/a");
    }

    #[test]
    fn bad_routes_say_why() {
        for bad in ["", "a", "/a//b", "/.../a", "/a/../b", "/:", "/a?b", "/*", "ht tp/a", "a:80/x"]
        {
            assert!(bad.parse::<Route>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_parameter_and_a_name_in_front_are_weighed_like_all_others() {
        let table = table(&["/:x/b", "/a/...", "/...", "/:x/:y/c", "/a/:y/c"], &[]);
        let found = |path| table.find(None, path).map(|found| *found.target);
        assert_eq!(found("/a/b"), Some("/:x/b"));
        assert_eq!(found("/a/d"), Some("/a/..."));
        assert_eq!(found("/z/d"), Some("/..."));
        assert_eq!(found("/z/y/c"), Some("/:x/:y/c"));
        assert_eq!(found("/a/y/c"), Some("/a/:y/c"));
        assert_eq!(found("/"), Some("/..."));
    }

    #[test]
    fn longest_wins_and_exact_before_open() {
        let table = table(&["/...", "/a/...", "/a/b", "/a/:x", "/a/b/..."], &[]);
        let found = |path| *table.find(None, path).unwrap().target;
        assert_eq!(found("/"), "/...");
        assert_eq!(found("/z/1"), "/...");
        assert_eq!(found("/a"), "/a/...");
        assert_eq!(found("/a/"), "/a/...");
        assert_eq!(found("/a/b"), "/a/b");
        assert_eq!(found("/a/b/"), "/a/b");
        assert_eq!(found("/a/c"), "/a/:x");
        assert_eq!(found("/a/b/c"), "/a/b/...");
        assert_eq!(found("/a/c/d"), "/a/...");
    }

    #[test]
    fn host_comes_before_path_and_written_before_default() {
        let table = table(&["shop.example.com/...", "/hello/x"], &["/hello/..."]);
        let found = |host, path| table.find(host, path).map(|m| *m.target);
        assert_eq!(found(Some("Shop.Example.com:8080"), "/hello/x"), Some("shop.example.com/..."));
        assert_eq!(found(Some("localhost:8080"), "/hello/x"), Some("/hello/x"));
        assert_eq!(found(Some("[::1]:8080"), "/hello/y"), Some("/hello/..."));
        assert_eq!(found(None, "/helloo"), None);
        assert_eq!(found(None, "/"), None);
    }

    #[test]
    fn what_a_host_leads_to_is_what_is_bound_to_it() {
        let table = table(&["a.example/x", "a.example/...", "b.example/...", "/..."], &["/c/..."]);
        let of = |host| table.of_host(host).copied().collect::<Vec<_>>();
        assert_eq!(of("A.example"), ["a.example/x", "a.example/..."]);
        assert_eq!(of("b.example"), ["b.example/..."]);
        assert!(of("c.example").is_empty() && of("").is_empty());
    }

    #[test]
    fn what_is_removed_leads_nowhere_and_leaves_nothing() {
        let mut table = table(&["a.example/x", "/a/:y", "/:x", "/a/b"], &["/a/..."]);
        let before = table.clone();
        table.remove(&route("/a/b"), |target| *target == "another's");
        assert_eq!(table.find(None, "/a/b").map(|found| *found.target), Some("/a/b"));
        for text in ["/a/b", "a.example/x", "/:x", "/a/:y", "/never"] {
            table.remove(&route(text), |_| true);
        }
        assert_eq!(table.find(None, "/a/b").map(|found| *found.target), Some("/a/..."));
        table.remove_default(&route("/a/..."), |_| true);
        assert_eq!(format!("{table:?}"), format!("{:?}", Table::<&str>::default()));
        assert_eq!(before.find(None, "/a/b").map(|found| *found.target), Some("/a/b"));
    }

    #[test]
    fn a_match_names_its_base_and_params() {
        let table = table(&["/u/:user/posts/..."], &[]);
        let found = table.find(None, "/u/ada/posts/7").unwrap();
        assert_eq!(found.base, "/u/ada/posts");
        assert_eq!(found.params, vec![("user", "ada".to_owned())]);
    }
}
