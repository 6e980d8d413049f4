//! The example apps, as they are in `examples/`.

use bytes::Bytes;
use futures::future::try_join_all;
use nigh_model::Kind;

use crate::api::Api;
use crate::demo::DEPLOY_TIMEOUT;
use crate::failure::{Failure, Result};
use crate::load::client::Client;
use crate::local::layout::{Place, Ports};
use crate::package::Package;
use crate::progress::Progress;
use crate::rollout::{self, Options, request_id};
use crate::table::count;

struct Example {
    manifest: &'static str,
    component: (&'static str, &'static [u8]),
    /// What calls it.
    path: &'static str,
    /// What it answers to that: the outbound call of `proxy` is refused without a target.
    status: u16,
}

macro_rules! example {
    ($name:literal, $path:literal, $status:literal) => {
        Example {
            manifest: include_str!(concat!("../../../examples/", $name, "/nigh.toml")),
            component: (
                concat!($name, ".wasm"),
                include_bytes!(concat!("../../../examples/", $name, "/", $name, ".wasm")),
            ),
            path: $path,
            status: $status,
        }
    };
}

static EXAMPLES: [Example; 5] = [
    example!("hello", "/hello", 200),
    example!("echo", "/echo", 200),
    example!("work", "/work", 200),
    example!("proxy", "/proxy", 400),
    example!("greet-c", "/greet-c", 200),
];

/// Deploys all of them at once and names them.
pub(crate) async fn deploy(api: &Api) -> Result<Vec<String>> {
    let mut packages = Vec::new();
    for example in &EXAMPLES {
        let (file, bytes) = example.component;
        packages.push(Package::embedded(example.manifest, (file, Bytes::from_static(bytes)))?);
    }
    let mut progress = Progress::new();
    let line = progress.waiting(format!("deploying {}", count(packages.len(), "example")));
    let options = Options { wait: true, timeout: DEPLOY_TIMEOUT };
    let deploys = packages.iter().map(|package| {
        let mut silent = Progress::silent();
        Box::pin(async move { rollout::deploy(api, package, options, &mut silent).await })
    });
    let deployed = try_join_all(deploys).await;
    line.finish_and_clear();
    progress.clear();
    Ok(deployed?.into_iter().map(|deployment| deployment.app).collect())
}

/// Calls each of them once at every node: what a deployment promises.
pub(crate) async fn call_everywhere(client: &Client, names: &[String], places: &[Place]) -> Result {
    for place in places {
        let authority = Ports::address(place.ports.http).to_string();
        for (example, name) in EXAMPLES.iter().zip(names) {
            let answer = client.get(&authority, example.path, &request_id()).await;
            let why = match answer {
                Ok(answer) if answer.status == example.status && answer.reason.is_none() => {
                    continue;
                }
                Ok(answer) => answer.reason.unwrap_or_else(|| format!("status {}", answer.status)),
                Err(why) => why.name().to_owned(),
            };
            return Err(Failure::new(
                Kind::Unavailable,
                format!("`{name}` does not answer at {} though it is deployed", place.name),
            )
            .why(why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_a_valid_package() {
        for example in &EXAMPLES {
            let (file, bytes) = example.component;
            let package = Package::embedded(example.manifest, (file, Bytes::from_static(bytes)));
            let package = package.unwrap();
            package.spec.check().unwrap();
            assert_eq!(file, format!("{}.wasm", package.app));
            assert_eq!(example.path, format!("/{}", package.app));
        }
    }
}
