//! `nigh apps`.

use nigh_model::Kind;
use nigh_proto::v1::App;
use serde::Serialize;

use crate::api::Api;
use crate::args::{Before, Cluster};
use crate::failure::{Failure, Result};
use crate::output::{self, Format};
use crate::table::{self, Rows};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh apps
  nigh apps hello -o json

Ready: its compiled artifact is on the node's disk. Warm: it is loaded there, the next call
waits for no load.")]
pub(crate) struct Args {
    /// Only this app
    app: Option<String>,
    #[command(flatten)]
    cluster: Cluster,
}

pub(crate) async fn run(args: Args, before: Before, format: Format) -> Result {
    let api = Api::connect(&args.cluster.access(before)?).await?;
    let mut apps = api.all_apps().await?;
    if let Some(wanted) = &args.app {
        if !apps.iter().any(|app| app.name == *wanted) {
            let failure = Failure::new(Kind::NotFound, format!("no app is named `{wanted}`"));
            return Err(failure.nearest(wanted, apps.iter().map(|app| app.name.as_str())));
        }
        apps.retain(|app| app.name == *wanted);
    }
    match format {
        Format::Json => output::json(&apps.into_iter().map(Row::from).collect::<Vec<_>>()),
        Format::Table if apps.is_empty() => {
            output::note("no app is deployed yet: nigh deploy PATH");
            Ok(())
        }
        Format::Table => output::line(table_of(&apps)),
    }
}

/// An app as JSON.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    revision: Option<String>,
    functions: Vec<Function>,
}

#[derive(Debug, Serialize)]
struct Function {
    name: String,
    routes: Vec<String>,
    component: String,
    bytes: u64,
    ready_nodes: Vec<String>,
    warm_nodes: Vec<String>,
}

impl From<App> for Row {
    fn from(app: App) -> Self {
        let functions = app.functions.into_iter().map(|function| Function {
            name: function.name,
            routes: function.routes,
            component: function.component,
            bytes: function.bytes,
            ready_nodes: function.ready_nodes,
            warm_nodes: function.warm_nodes,
        });
        Self {
            name: app.name,
            revision: Some(app.revision).filter(|revision| !revision.is_empty()),
            functions: functions.collect(),
        }
    }
}

fn table_of(apps: &[App]) -> String {
    let mut rows =
        Rows::new(["APP", "REVISION", "FUNCTION", "ROUTES", ">SIZE", "READY ON", "WARM ON"]);
    for app in apps {
        let revision = match (app.revision.as_str(), app.rollout.as_str()) {
            (active, "") => active.to_owned(),
            ("", coming) => format!("({coming} coming)"),
            (active, coming) => format!("{active} ({coming} coming)"),
        };
        for function in &app.functions {
            rows.push([
                app.name.clone(),
                revision.clone(),
                function.name.clone(),
                table::names(&function.routes),
                table::bytes(function.bytes),
                table::names(&function.ready_nodes),
                table::names(&function.warm_nodes),
            ]);
        }
    }
    rows.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> App {
        let function = nigh_proto::v1::Function {
            name: "hello".into(),
            routes: vec!["/hello/...".into()],
            component: "sha256:00".into(),
            bytes: 2048,
            ready_nodes: vec!["a".into(), "b".into()],
            warm_nodes: vec![],
        };
        App {
            name: "hello".into(),
            revision: "r7".into(),
            rollout: "r9".into(),
            functions: vec![function],
            etag: String::new(),
        }
    }

    #[test]
    fn json_has_the_documented_fields() {
        let json = serde_json::to_value(Row::from(app())).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"name": "hello", "revision": "r7", "functions": [{
                "name": "hello", "routes": ["/hello/..."], "component": "sha256:00", "bytes": 2048,
                "ready_nodes": ["a", "b"], "warm_nodes": []
            }]})
        );
    }

    #[test]
    fn the_table_says_what_is_coming() {
        let text = table_of(&[app()]);
        assert!(text.contains("r7 (r9 coming)") && text.contains("a, b"), "{text}");
    }
}
