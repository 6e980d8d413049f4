//! Which nodes are warm for which function while calls run, as the nodes themselves say.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use nigh_model::AppName;
use nigh_proto::v1::GetAppRequest;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::api::{Access, Api, timed};
use crate::failure::Result;
use crate::load::trace::Trace;
use crate::local::layout::Place;

/// How often every node is asked: often enough to see a node become warm, seldom enough to
/// cost a fraction of the calls.
const POLL_EVERY: Duration = Duration::from_millis(500);

/// What all nodes said at one time.
#[derive(Clone, Debug)]
pub(crate) struct Poll {
    begun: Instant,
    ended: Instant,
    /// By function: the nodes that are warm for it.
    warm: Vec<BTreeSet<usize>>,
}

/// All polls, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timeline {
    polls: Vec<Poll>,
}

impl Timeline {
    /// The nodes that were warm for a function at a time for certain: both in the last poll
    /// before it and in the first one after it.
    pub(crate) fn surely_warm(&self, function: usize, at: Instant) -> BTreeSet<usize> {
        let before = self.polls.iter().rev().find(|poll| poll.ended <= at);
        let after = self.polls.iter().find(|poll| poll.begun >= at);
        match (before, after) {
            (Some(before), Some(after)) => &before.warm[function] & &after.warm[function],
            _ => BTreeSet::new(),
        }
    }
}

/// A task that asks until it is told to end.
pub(crate) struct Watch {
    /// Ends the task when it is dropped.
    stop: DropGuard,
    task: JoinHandle<Timeline>,
}

impl Watch {
    /// Begins to ask; the first poll is complete when this returns.
    pub(crate) async fn start(
        access: &Access,
        places: &[Place],
        app: &AppName,
        trace: &Trace,
    ) -> Result<Self> {
        let mut nodes = Vec::new();
        for place in places {
            nodes.push((place.name.to_string(), Api::connect(&access.at(place.api_url())).await?));
        }
        let functions: Vec<String> =
            trace.functions.iter().map(|function| function.name.to_string()).collect();
        let app = app.to_string();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let mut timeline = Timeline { polls: vec![poll(&nodes, &app, &functions).await] };
        let task = tokio::spawn(async move {
            let mut ticks = interval(POLL_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while stopped.run_until_cancelled(ticks.tick()).await.is_some() {
                timeline.polls.push(poll(&nodes, &app, &functions).await);
            }
            timeline.polls.push(poll(&nodes, &app, &functions).await);
            timeline
        });
        Ok(Self { stop: stop.drop_guard(), task })
    }

    /// Asks a last time and hands over everything.
    pub(crate) async fn end(self) -> Timeline {
        drop(self.stop);
        self.task.await.unwrap_or_default()
    }
}

/// Asks every node, and believes each only about itself: what it knows of others is older.
async fn poll(nodes: &[(String, Api)], app: &str, functions: &[String]) -> Poll {
    let begun = Instant::now();
    let answers = join_all(nodes.iter().map(|(_, api)| async {
        let mut apps = api.apps();
        let answer = apps.get(timed(GetAppRequest { app: app.to_owned() })).await;
        // A node that does not answer is not counted as warm.
        answer.map(tonic::Response::into_inner).unwrap_or_default()
    }))
    .await;
    let mut warm = vec![BTreeSet::new(); functions.len()];
    for (index, ((name, _), answer)) in nodes.iter().zip(answers).enumerate() {
        for function in answer.functions.iter().filter(|f| f.warm_nodes.contains(name)) {
            if let Some(position) = functions.iter().position(|known| *known == function.name) {
                warm[position].insert(index);
            }
        }
    }
    Poll { begun, ended: Instant::now(), warm }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One function, with the nodes that are warm at 0 s, 1 s, 2 s, … after `start`.
    pub(crate) fn timeline(start: Instant, warm: &[&[usize]]) -> Timeline {
        let polls = warm.iter().zip(0..).map(|(nodes, second)| {
            let at = start + Duration::from_secs(second);
            Poll { begun: at, ended: at, warm: vec![nodes.iter().copied().collect()] }
        });
        Timeline { polls: polls.collect() }
    }

    #[test]
    fn a_node_that_is_becoming_warm_is_not_counted_yet() {
        let start = Instant::now();
        let timeline = timeline(start, &[&[0], &[0, 1], &[1]]);
        let at = |ms| timeline.surely_warm(0, start + Duration::from_millis(ms));
        assert_eq!(at(500), [0].into());
        assert_eq!(at(1_000), [0, 1].into());
        assert_eq!(at(1_500), [1].into());
        assert_eq!(at(2_500), [].into(), "nothing was asked after it");
    }
}
