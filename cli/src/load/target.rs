//! What `nigh load` calls: a function by its name, a path at any node, or a URL.

use std::sync::Arc;

use nigh_model::Kind;
use nigh_proto::v1::{App, Function, Node};

use crate::failure::{Failure, Result};
use crate::load::Entry;

/// What is called, and where calls enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// What it is called in reports.
    pub(crate) name: String,
    /// Path and query.
    pub(crate) path: Arc<str>,
    /// The only place where calls enter, `host:port`; none: any node.
    pub(crate) authority: Option<String>,
}

impl Target {
    /// Reads `app[/function][?query]`, `/path[?query]` or `http://host:port/path[?query]`.
    pub(crate) fn read(text: &str, apps: &[App]) -> Result<Self> {
        if text.contains("://") {
            return of_url(text);
        }
        if text.starts_with('/') {
            return Ok(Self { name: text.to_owned(), path: text.into(), authority: None });
        }
        let (name, query) = match text.split_once('?') {
            Some((name, query)) => (name, format!("?{query}")),
            None => (text, String::new()),
        };
        let function = function_named(name, apps)?;
        let base = base_path(function).ok_or_else(|| {
            Failure::invalid(format!("`{name}` has no route without a host or a :param")).hint(
                "name a path or a URL instead, such as /shop/42 or http://127.0.0.1:8080/shop/42",
            )
        })?;
        let path = format!("{base}{query}").into();
        Ok(Self { name: name.to_owned(), path, authority: None })
    }
}

/// The nodes that calls enter: those named, else all that are alive.
pub(crate) fn entries(nodes: &[Node], named: &[String]) -> Result<Vec<Entry>> {
    for name in named {
        if !nodes.iter().any(|node| node.name == *name) {
            let failure = Failure::new(Kind::NotFound, format!("no node is named `{name}`"));
            return Err(failure.nearest(name, nodes.iter().map(|node| node.name.as_str())));
        }
    }
    let entries: Vec<Entry> = nodes
        .iter()
        .filter(|node| match named.is_empty() {
            true => node.state == "alive",
            false => named.contains(&node.name),
        })
        .map(|node| Entry {
            name: node.name.clone(),
            region: node.region.clone(),
            authority: node.http.clone(),
        })
        .collect();
    if entries.is_empty() {
        return Err(Failure::new(Kind::Unavailable, "no node is alive that calls could enter"));
    }
    Ok(entries)
}

fn of_url(text: &str) -> Result<Target> {
    let bad = |why: String| Failure::usage(format!("`{text}` is no target")).why(why);
    let uri: http::Uri = text.parse().map_err(|error| bad(format!("{error}")))?;
    if uri.scheme_str() != Some("http") {
        return Err(bad("only http:// is spoken".to_owned()));
    }
    let host = uri.host().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| bad("it names no host".to_owned()))?;
    let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok(Target { name: text.to_owned(), path: path.into(), authority: Some(authority) })
}

fn function_named<'a>(name: &str, apps: &'a [App]) -> Result<&'a Function> {
    let (app_name, function_name) = match name.split_once('/') {
        Some((app, function)) => (app, Some(function)),
        None => (name, None),
    };
    let Some(app) = apps.iter().find(|app| app.name == app_name) else {
        let failure = Failure::new(Kind::NotFound, format!("no app is named `{app_name}`"));
        return Err(failure.nearest(app_name, apps.iter().map(|app| app.name.as_str())));
    };
    let names = app.functions.iter().map(|function| function.name.as_str());
    match (function_name, app.functions.as_slice()) {
        (None, [only]) => Ok(only),
        (None, _) => {
            Err(Failure::usage(format!("`{app_name}` has several functions")).hint(format!(
                "name one: {}",
                names.map(|f| format!("{app_name}/{f}")).collect::<Vec<_>>().join(", ")
            )))
        }
        (Some(wanted), functions) => {
            functions.iter().find(|function| function.name == wanted).ok_or_else(|| {
                Failure::new(Kind::NotFound, format!("`{app_name}` has no function `{wanted}`"))
                    .nearest(wanted, names)
            })
        }
    }
}

/// The path of the first route that is a path and nothing else.
fn base_path(function: &Function) -> Option<String> {
    let plain = |route: &&String| route.starts_with('/') && !route.contains("/:");
    let route = function.routes.iter().find(plain)?;
    let base = route.strip_suffix("/...").unwrap_or(route);
    Some(if base.is_empty() { "/".to_owned() } else { base.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps() -> Vec<App> {
        let function = |name: &str, routes: &[&str]| Function {
            name: name.into(),
            routes: routes.iter().map(|route| (*route).to_owned()).collect(),
            ..Function::default()
        };
        let app = |name: &str, functions| App { name: name.into(), functions, ..App::default() };
        vec![
            app("hello", vec![function("hello", &["/hello/..."])]),
            app(
                "shop",
                vec![
                    function("pay", &["shop.example.com/...", "/shop/:id", "/shop/pay/..."]),
                    function("root", &["/..."]),
                    function("host", &["a.example.com/..."]),
                ],
            ),
        ]
    }

    fn read(text: &str) -> Result<Target> {
        Target::read(text, &apps())
    }

    #[test]
    fn a_target_is_a_function_a_path_or_a_url() {
        assert_eq!(&*read("hello?a=1").unwrap().path, "/hello?a=1");
        assert_eq!(&*read("shop/pay").unwrap().path, "/shop/pay");
        assert_eq!(&*read("shop/root").unwrap().path, "/");
        assert_eq!(&*read("/any/path?x").unwrap().path, "/any/path?x");
        let url = read("http://127.0.0.1:8080/a?b").unwrap();
        assert_eq!((&*url.path, url.authority.as_deref()), ("/a?b", Some("127.0.0.1:8080")));
        assert_eq!(
            read("http://example.com").unwrap().authority.as_deref(),
            Some("example.com:80")
        );
    }

    #[test]
    fn what_is_not_there_is_answered_with_the_nearest() {
        let said = |text| read(text).unwrap_err().to_string();
        assert!(said("helo").contains("did you mean `hello`?"));
        assert!(said("shop/payy").contains("did you mean `pay`?"));
        assert!(said("shop").contains("shop/pay, shop/root"));
        assert!(said("shop/host").contains("no route"));
        assert!(said("https://a/").contains("only http://"));
    }

    #[test]
    fn calls_enter_at_live_nodes_or_those_named() {
        let node = |name: &str, state: &str| Node {
            name: name.into(),
            state: state.into(),
            ..Node::default()
        };
        let nodes = [node("a", "alive"), node("b", "dead")];
        let names = |named: &[String]| -> Vec<String> {
            entries(&nodes, named).unwrap().into_iter().map(|entry| entry.name).collect()
        };
        assert_eq!(names(&[]), ["a"]);
        assert_eq!(names(&["b".to_owned()]), ["b"]);
        assert_eq!(entries(&nodes, &["c".to_owned()]).unwrap_err().exit(), 3);
        assert_eq!(entries(&nodes[1..], &[]).unwrap_err().exit(), 5);
    }
}
