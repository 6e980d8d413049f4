//! Waiting until every live node that should have a revision has it, and it is active.

use std::collections::BTreeMap;
use std::time::Duration;

use nigh_model::Kind;
use nigh_proto::v1::{Rollout, RolloutNode, WatchRolloutRequest};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Streaming};

use crate::api::Api;
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::rollout::{Deployment, RETRY_FIRST, RETRY_LONGEST, rounded};
use crate::units;

/// A wait for a rollout.
pub(crate) struct Watch<'a> {
    /// Where to ask.
    pub(crate) api: &'a Api,
    /// What is rolled out; its regions are filled in.
    pub(crate) deployment: &'a mut Deployment,
    /// When the deployment began.
    pub(crate) started: Instant,
    /// When to give up waiting.
    pub(crate) deadline: Instant,
}

impl Watch<'_> {
    /// Waits. The rollout goes on whether somebody waits or not.
    pub(crate) async fn until_served(self, timeout: Duration, progress: &mut Progress) -> Result {
        let mut last = Rollout::default();
        let deadline = self.deadline;
        let app = format!("{} {}", self.deployment.app, self.deployment.revision);
        let waited = timeout_at(deadline, self.follow(&mut last, progress)).await;
        progress.clear();
        match waited {
            Ok(done) => done,
            Err(_) => Err(late(&app, timeout, &last)),
        }
    }

    async fn follow(self, last: &mut Rollout, progress: &mut Progress) -> Result {
        let mut pause = RETRY_FIRST;
        loop {
            let refused = match self.open().await {
                Ok(mut stream) => loop {
                    match stream.message().await {
                        Ok(Some(rollout)) => {
                            pause = RETRY_FIRST;
                            *last = rollout;
                            for (region, progressed) in regions(&last.nodes) {
                                progress.region(region, progressed.ready, progressed.nodes);
                                if progressed.is_done() {
                                    let elapsed = rounded(self.started.elapsed());
                                    let seconds = &mut self.deployment.regions;
                                    seconds.entry(region.to_owned()).or_insert(elapsed);
                                }
                            }
                            if is_served(last) {
                                return Ok(());
                            }
                            if last.superseded {
                                return Err(superseded(self.deployment));
                            }
                        }
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                },
                Err(status) => Some(status),
            };
            let lost = |code| matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled);
            if let Some(status) = refused.filter(|status| !lost(status.code())) {
                return Err(self.api.failure(&status));
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_LONGEST);
        }
    }

    async fn open(&self) -> std::result::Result<Streaming<Rollout>, tonic::Status> {
        let request = WatchRolloutRequest {
            app: self.deployment.app.clone(),
            revision: self.deployment.revision.clone(),
        };
        Ok(self.api.apps().watch_rollout(request).await?.into_inner())
    }
}

/// How far a region is; the dead are not waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Region {
    ready: usize,
    nodes: usize,
}

impl Region {
    fn is_done(self) -> bool {
        self.ready == self.nodes
    }
}

fn regions(nodes: &[RolloutNode]) -> BTreeMap<&str, Region> {
    let mut regions: BTreeMap<&str, Region> = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.alive) {
        let region = regions.entry(&node.region).or_default();
        region.nodes += 1;
        region.ready += usize::from(node.ready);
    }
    regions
}

fn is_served(rollout: &Rollout) -> bool {
    rollout.active && rollout.nodes.iter().all(|node| node.ready || !node.alive)
}

fn superseded(deployment: &Deployment) -> Failure {
    Failure::new(
        Kind::Conflict,
        format!("{} of {} will not become active", deployment.revision, deployment.app),
    )
    .why("a newer revision or a deletion took its place meanwhile")
    .hint("nigh apps shows what is active")
}

fn late(app: &str, timeout: Duration, last: &Rollout) -> Failure {
    let lagging: Vec<String> = last
        .nodes
        .iter()
        .filter(|node| node.alive && !node.ready)
        .map(|node| format!("{} ({})", node.node, node.region))
        .collect();
    let why = match (lagging.is_empty(), last.active) {
        (false, _) => format!("not ready: {}", lagging.join(", ")),
        (true, true) => "the node asked has not said how far the others are".to_owned(),
        (true, false) if !last.unaware.is_empty() => {
            format!("it is active, but not known yet to {}", last.unaware.join(", "))
        }
        (true, false) => "it is not active yet".to_owned(),
    };
    Failure::new(
        Kind::Timeout,
        format!("{app} is committed, but not served everywhere after {}", units::show(timeout)),
    )
    .why(why)
    .hint("nothing is lost, the rollout goes on: watch it with nigh apps")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, region: &str, ready: bool, alive: bool) -> RolloutNode {
        RolloutNode { node: name.into(), region: region.into(), ready, alive }
    }

    #[test]
    fn the_dead_are_not_waited_for() {
        let nodes = vec![node("a", "eu", true, true), node("b", "eu", false, false)];
        assert_eq!(regions(&nodes)["eu"], Region { ready: 1, nodes: 1 });
        let mut rollout = Rollout { nodes, ..Rollout::default() };
        assert!(!is_served(&rollout), "not active");
        rollout.active = true;
        assert!(is_served(&rollout));
        rollout.nodes.push(node("c", "us", false, true));
        assert!(!is_served(&rollout), "c is not ready");
    }

    #[test]
    fn a_late_rollout_names_who_lags() {
        let nodes = vec![node("a", "eu", true, true), node("c", "us", false, true)];
        let last = Rollout { nodes, ..Rollout::default() };
        let failure = late("hello r7", Duration::from_secs(60), &last);
        assert_eq!(failure.exit(), 6);
        let text = failure.to_string();
        assert!(text.contains("after 1m") && text.contains("not ready: c (us)"), "{text}");
        assert!(text.contains("goes on"), "{text}");
        let nodes = vec![node("a", "eu", true, true)];
        let last = Rollout { nodes, unaware: vec!["d".into()], ..Rollout::default() };
        let text = late("hello r7", Duration::from_secs(60), &last).to_string();
        assert!(text.contains("not known yet to d"), "{text}");
    }
}
