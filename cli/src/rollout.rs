//! Deploying a package: upload what is not known, commit, watch until every region serves it.

mod upload;
mod watch;

use std::collections::BTreeMap;
use std::time::Duration;

use nigh_model::Kind;
use nigh_proto::status;
use nigh_proto::v1::{AppSpec, DeployRequest, DeployResponse};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::api::{self, Api};
use crate::failure::{Failure, Result};
use crate::output;
use crate::package::Package;
use crate::progress::Progress;
use crate::units;

/// First pause before a commit is tried again; it doubles up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(2);

/// What a deployment came to. Its fields are those of `nigh deploy -o json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Deployment {
    /// The app.
    pub(crate) app: String,
    /// The revision.
    pub(crate) revision: String,
    /// False when this very spec was deployed already.
    pub(crate) changed: bool,
    /// Every route, best first.
    pub(crate) routes: Vec<String>,
    /// From the start to the end of the wait.
    pub(crate) seconds: f64,
    /// From the start until every live node of the region was ready.
    pub(crate) regions: BTreeMap<String, f64>,
}

/// How to deploy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Wait until every region serves the revision.
    pub(crate) wait: bool,
    /// At most this long for all of it.
    pub(crate) timeout: Duration,
}

/// Deploys a package.
pub(crate) async fn deploy(
    api: &Api,
    package: &Package,
    options: Options,
    progress: &mut Progress,
) -> Result<Deployment> {
    let started = Instant::now();
    let deadline = started + options.timeout;
    let uploads = async {
        for (digest, component) in &package.components {
            let regions = package.regions_of(digest);
            upload::send(api, digest, component, regions, progress).await?;
        }
        Ok(())
    };
    match tokio::time::timeout_at(deadline, uploads).await {
        Ok(uploaded) => uploaded?,
        Err(_) => {
            return Err(Failure::new(
                Kind::Timeout,
                format!("the upload took longer than {}", units::show(options.timeout)),
            )
            .hint("give it more time with --timeout; nothing was deployed"));
        }
    }

    let committed = commit(api, package, deadline).await?;
    let mut deployment = Deployment {
        app: package.app.to_string(),
        revision: committed.revision,
        changed: committed.changed,
        routes: committed.routes,
        seconds: 0.0,
        regions: BTreeMap::new(),
    };
    if options.wait {
        let watch = watch::Watch { api, deployment: &mut deployment, started, deadline };
        watch.until_served(options.timeout, progress).await?;
    }
    deployment.seconds = rounded(started.elapsed());
    Ok(deployment)
}

/// Commits the revision. The connection may break, the node may die and leaders may change on
/// the way: the same request id makes it safe to ask again.
async fn commit(api: &Api, package: &Package, deadline: Instant) -> Result<DeployResponse> {
    let request = DeployRequest {
        app: package.app.to_string(),
        spec: Some(AppSpec::from(&package.spec)),
        request_id: request_id(),
        validate_only: false,
    };
    let mut pause = RETRY_FIRST;
    loop {
        let mut attempt = tonic::Request::new(request.clone());
        let left = deadline.saturating_duration_since(Instant::now());
        attempt.set_timeout(left.max(RETRY_FIRST));
        let refused = match api.apps().deploy(attempt).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        let late = status::reason(&refused).is_none() && Instant::now() >= deadline;
        if late || api::is_timeout(&refused) {
            return Err(Failure::new(
                Kind::Timeout,
                format!("{} was not committed in the time given", package.app),
            )
            .why("the cluster did not answer; it may still commit the revision")
            .hint("the same command again changes nothing if it did; --timeout gives more time"));
        }
        if !api::is_lost(&refused) || Instant::now() + pause >= deadline {
            return Err(api.failure(&refused));
        }
        if pause == RETRY_FIRST {
            output::note(
                "the connection broke while the revision was being committed; asking again",
            );
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_LONGEST);
    }
}

/// An id that no other request has.
pub(crate) fn request_id() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

/// Seconds to the millisecond.
fn rounded(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_documented_fields() {
        let deployment = Deployment {
            app: "hello".into(),
            revision: "r7".into(),
            changed: true,
            routes: vec!["/hello/...".into()],
            seconds: rounded(Duration::from_micros(1_234_567)),
            regions: [("eu-west-1".to_owned(), 0.5)].into(),
        };
        assert_eq!(
            serde_json::to_value(&deployment).unwrap(),
            serde_json::json!({"app": "hello", "revision": "r7", "changed": true,
                "routes": ["/hello/..."], "seconds": 1.235, "regions": {"eu-west-1": 0.5}})
        );
    }
}
