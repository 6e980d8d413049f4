//! From what a caller names to a function, or to the nearest right name.

use http::Uri;
use nigh_model::route::Route;
use nigh_model::suggest::nearest;

use super::headers::{Matched, Told};
use super::problem::Problem;
use super::reasons;
use crate::decided::{Decision, Target};

/// When to ask again for an app that is still being rolled out.
const ROLLOUT_RETRY_AFTER: std::time::Duration = std::time::Duration::from_secs(1);
/// How much of a wrong name an error repeats, in characters.
const GIVEN_CHARS_MAX: usize = 80;

/// The function that a path leads to.
pub(crate) fn by_path(
    decision: &Decision,
    host: Option<&str>,
    path: &str,
) -> Result<(Target, Matched), Problem> {
    if let Some(found) = decision.route(host, path) {
        return Ok((found.target.target.clone(), Matched::of(found)));
    }
    let mut segments = path.trim_start_matches('/').split('/');
    let app = segments.next().unwrap_or_default();
    match app_of(decision, app) {
        Ok(targets) => {
            let function = segments.next().unwrap_or_default();
            let names = targets.iter().map(|target| target.function.function.as_str());
            let hint = nearest(function, names).map(|near| format!("try /{app}/{near}"));
            let message = format!("no route of app `{app}` leads anywhere from `{}`", short(path));
            Err(Problem::new(reasons::NO_SUCH_ROUTE, message).hint(hint))
        }
        Err(_) if app.is_empty() => {
            let message = format!("no route leads anywhere from `{}`", short(path));
            let hint = "call /<app>/, see `nigh apps`".to_owned();
            Err(Problem::new(reasons::NO_SUCH_ROUTE, message).hint(Some(hint)))
        }
        Err(problem) => Err(problem),
    }
}

/// The function that is named `app` or `app/function`.
pub(crate) fn by_name(decision: &Decision, name: &str) -> Result<Target, Problem> {
    let (app, function) = match name.split_once('/') {
        Some((app, function)) => (app, Some(function)),
        None => (name, None),
    };
    let targets = app_of(decision, app)?;
    let names = || targets.iter().map(|target| target.function.function.as_str());
    match function {
        None => match targets {
            [alone] => Ok(alone.clone()),
            _ => {
                let message = format!("app `{app}` has several functions");
                let choice: Vec<&str> = names().take(8).collect();
                let hint = format!("name one as {app}/FUNCTION: {}", choice.join(", "));
                Err(Problem::new(reasons::NO_SUCH_FUNCTION, message).hint(Some(hint)))
            }
        },
        Some(function) => {
            let found = targets.iter().find(|target| target.function.function.as_str() == function);
            found.cloned().ok_or_else(|| {
                let message = format!("app `{app}` has no function `{}`", short(function));
                Problem::new(reasons::NO_SUCH_FUNCTION, message)
                    .hint(did_you_mean(function, names()))
            })
        }
    }
}

/// The active functions of an app.
fn app_of<'d>(decision: &'d Decision, app: &str) -> Result<&'d [Target], Problem> {
    let targets = decision.targets(app);
    if !targets.is_empty() {
        return Ok(targets);
    }
    if decision.state.apps.contains_key(app) {
        let message = format!("app `{app}` is being rolled out for the first time");
        return Err(Problem::new(reasons::NOT_ACTIVE, message).retry_after(ROLLOUT_RETRY_AFTER));
    }
    let names = decision.state.apps.keys().map(nigh_model::AppName::as_str);
    let hint = did_you_mean(app, names);
    Err(Problem::new(reasons::NO_SUCH_APP, format!("no app is named `{}`", short(app))).hint(hint))
}

fn did_you_mean<'n>(given: &str, names: impl IntoIterator<Item = &'n str>) -> Option<String> {
    nearest(given, names).map(|near| format!("did you mean `{near}`?"))
}

/// The beginning of what a caller wrote.
fn short(given: &str) -> String {
    given.chars().take(GIVEN_CHARS_MAX).collect()
}

/// The path and query to call, and the route that they are put after: the function's first
/// route, or its default one where the first cannot take the path.
pub(crate) fn relative(target: &Target, path: &str) -> Result<(Uri, Matched), Problem> {
    let bad =
        |why: String| Problem::new(reasons::INVALID_CALL, format!("path `{}`: {why}", short(path)));
    let path = if path.is_empty() { "/" } else { path };
    if !path.starts_with('/') {
        return Err(bad("begin it with /".into()));
    }
    let rest_is_empty = path == "/" || path.starts_with("/?");
    let takes = |route: &&Route| !route.base().contains("/:") && (route.is_open() || rest_is_empty);
    let route = target.routes.first().filter(takes).or(target.routes.last());
    let route = route.ok_or_else(|| bad("the function has no route".into()))?;
    let base = route.base();
    // `/app` and `/app/` are the same; with nothing behind it, a path ends without a slash.
    let whole = match path.strip_prefix('/') {
        Some("") if !route.is_open() && !base.is_empty() => base.clone(),
        Some(query) if query.starts_with('?') && !route.is_open() => format!("{base}{query}"),
        _ => format!("{base}{path}"),
    };
    let uri = whole.parse().map_err(|error| bad(format!("{error}")))?;
    Ok((uri, Matched { told: Told::of(route), base, params: Vec::new() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nigh_model::{AppName, Digest, FunctionName, FunctionRef, FunctionSpec, RevisionId};

    fn target(routes: &[&str]) -> Target {
        Target {
            app: AppName::new("shop").unwrap(),
            function: FunctionRef {
                revision: RevisionId(1),
                function: FunctionName::new("f").unwrap(),
            },
            spec: FunctionSpec::new(Digest::of(b"x"), 1).into(),
            routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
            invoke: nigh_model::spec::Invoke::Open,
        }
    }

    fn whole(routes: &[&str], path: &str) -> String {
        relative(&target(routes), path).unwrap().0.to_string()
    }

    #[test]
    fn a_path_is_put_after_the_first_route() {
        assert_eq!(whole(&["/a/...", "/shop/..."], ""), "/a/");
        assert_eq!(whole(&["/a/...", "/shop/..."], "/x?y=1"), "/a/x?y=1");
        assert_eq!(whole(&["/...", "/shop/..."], "/x"), "/x");
        assert_eq!(whole(&["shop.example.com/b/...", "/shop/..."], "/x"), "/b/x");
    }

    #[test]
    fn a_route_that_cannot_take_the_path_gives_way_to_the_default_one() {
        assert_eq!(whole(&["/a", "/shop/..."], "/"), "/a");
        assert_eq!(whole(&["/a", "/shop/..."], "/?q"), "/a?q");
        assert_eq!(whole(&["/a", "/shop/..."], "/x"), "/shop/x");
        assert_eq!(whole(&["/u/:user/...", "/shop/..."], "/x"), "/shop/x");
    }

    #[test]
    fn a_path_that_is_none_is_refused() {
        for bad in ["x", "http://a/x", "/a b"] {
            let problem = relative(&target(&["/shop/..."]), bad).unwrap_err();
            assert_eq!(problem.reason(), reasons::INVALID_CALL, "{bad}");
        }
    }
}
