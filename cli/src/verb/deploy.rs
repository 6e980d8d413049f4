//! `nigh deploy`.

use std::path::PathBuf;
use std::time::Duration;

use crate::api::Api;
use crate::args::{Before, Cluster};
use crate::failure::{Failure, Result};
use crate::output::{self, Format};
use crate::package::Package;
use crate::progress::Progress;
use crate::rollout::{self, Deployment, Options};
use crate::units;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh deploy target/wasm32-wasip2/release/hello.wasm
  nigh deploy examples/hello
  nigh deploy shop/nigh.toml --name shop-test --timeout 2m

Returns when every live node that should be ready is, and the revision is active. Deploying
the same bytes and configuration again changes nothing.")]
pub(crate) struct Args {
    /// A .wasm component, a nigh.toml, or a folder that holds one of them
    path: PathBuf,
    /// Name of the app [default: the manifest's, else the file's]
    #[arg(long, value_name = "APP")]
    name: Option<String>,
    /// Return when the revision is committed
    #[arg(long)]
    no_wait: bool,
    /// Wait at most this long; the rollout goes on
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = units::duration)]
    timeout: Duration,
    #[command(flatten)]
    cluster: Cluster,
}

pub(crate) async fn run(args: Args, before: Before, format: Format) -> Result {
    let package = Package::read(&args.path, args.name.as_deref())?;
    let api = Api::connect(&args.cluster.access(before)?).await?;
    let options = Options { wait: !args.no_wait, timeout: args.timeout };
    let mut progress = Progress::new();
    let deployment = tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted(format!(
            "stopped waiting for {}", package.app
        )).hint("if it was committed, the rollout goes on: nigh apps shows how far it is")),
        done = Box::pin(rollout::deploy(&api, &package, options, &mut progress)) => done,
    };
    progress.clear();
    let deployment = deployment?;
    match format {
        Format::Json => output::json(&deployment),
        Format::Table => output::line(text_of(&deployment, args.no_wait)),
    }
}

fn text_of(deployment: &Deployment, no_wait: bool) -> String {
    let Deployment { app, revision, changed, routes, seconds, regions } = deployment;
    let first = match (changed, no_wait) {
        (false, _) => format!("{app} {revision} is unchanged: this very content is deployed"),
        (true, true) => format!("{app} {revision} is committed after {seconds:.2} s"),
        (true, false) => format!("{app} {revision} is served after {seconds:.2} s"),
    };
    let mut lines = vec![first];
    if *changed {
        lines.extend(regions.iter().map(|(region, at)| format!("  {region:<20} {at:.2} s")));
    }
    lines.extend(routes.iter().map(|route| format!("  {route}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_whether_anything_changed() {
        let mut deployment = Deployment {
            app: "hello".into(),
            revision: "r7".into(),
            changed: true,
            routes: vec!["/hello/...".into()],
            seconds: 1.5,
            regions: [("eu".to_owned(), 0.5)].into(),
        };
        let text = text_of(&deployment, false);
        assert!(text.starts_with("hello r7 is served after 1.50 s"), "{text}");
        assert!(text.contains("0.50 s") && text.contains("/hello/..."), "{text}");
        assert!(text_of(&deployment, true).contains("is committed after"));
        deployment.changed = false;
        assert!(text_of(&deployment, false).contains("is unchanged"));
    }
}
