//! `nigh drain`.

use std::time::Duration;

use nigh_model::Kind;
use nigh_proto::v1::{DrainRequest, DrainResponse};
use serde::Serialize;
use tokio::time::Instant;

use crate::api::{Api, is_lost, timed};
use crate::args::{Before, Cluster};
use crate::failure::{Failure, Result};
use crate::output::{self, Format};
use crate::progress::Progress;
use crate::units;

/// How long `--wait` waits unless something else is said.
const WAIT_DEFAULT: &str = "10m";
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// Looks that may fail in a row, as when the node asked is the one that restarts.
const LOST_MAX: u32 = 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh drain us-east-1-a --wait && nigh remove us-east-1-a
  nigh drain us-east-1-a --undo

A node that drains gets no new work. What it has is made warm elsewhere before it is taken away,
its calls run to their end, and leadership and its vote pass to others. It goes on serving what
enters at it, by sending it on. That is decided, and outlives restarts: --undo takes it back.")]
pub(crate) struct Args {
    /// The node
    node: String,
    /// Return when nothing is left on it
    #[arg(long, conflicts_with = "undo")]
    wait: bool,
    /// Longest wait
    #[arg(long, value_name = "DURATION", default_value = WAIT_DEFAULT, requires = "wait")]
    timeout: String,
    /// Let the node take up work again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    cluster: Cluster,
}

pub(crate) async fn run(args: Args, before: Before, format: Format) -> Result {
    let limit = units::duration_ms(&args.timeout)
        .map_err(|why| Failure::usage(format!("--timeout: `{}`", args.timeout)).why(why))?;
    let api = Api::connect(&args.cluster.clone().access(before)?).await?;
    let request = DrainRequest { node: args.node.clone(), undo: args.undo };
    let mut now = match api.cluster().drain(timed(request.clone())).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Err(api.failure_about_node(&status, &args.node).await),
    };
    if args.wait {
        now = wait(&api, request, now, Duration::from_millis(limit)).await?;
    }
    match format {
        Format::Json => output::json(&Left::from(now)),
        Format::Table => output::line(text_of(&now)),
    }
}

/// Looks until nothing is left.
async fn wait(
    api: &Api,
    request: DrainRequest,
    mut now: DrainResponse,
    limit: Duration,
) -> Result<DrainResponse> {
    let end = Instant::now() + limit;
    let mut progress = Progress::new();
    let line = progress.waiting(text_of(&now));
    let mut lost = 0;
    loop {
        if now.drained {
            line.finish_and_clear();
            progress.clear();
            return Ok(now);
        }
        // Nothing but the functions that may be nowhere else: that does not end by waiting.
        let stuck = !now.stuck.is_empty()
            && now.moving.is_empty()
            && now.running == 0
            && !now.leader
            && !now.voter;
        if stuck || Instant::now() >= end {
            line.finish_and_clear();
            progress.clear();
            let (kind, what, hint) = if stuck {
                let hint = "add a node in their regions, or `nigh remove --force` to give them up";
                (Kind::Conflict, "cannot be drained", hint)
            } else {
                (Kind::Timeout, "is not drained yet", "it goes on; ask again with `nigh drain`")
            };
            let failure = Failure::new(kind, format!("node `{}` {what}", now.node));
            return Err(failure.why(left_of(&now)).hint(hint));
        }
        tokio::time::sleep(INTERVAL).await;
        match api.cluster().drain(timed(request.clone())).await {
            Ok(answer) => {
                now = answer.into_inner();
                lost = 0;
                line.set_message(text_of(&now));
            }
            Err(status) if is_lost(&status) && lost < LOST_MAX => lost += 1,
            Err(status) => return Err(api.failure(&status)),
        }
    }
}

/// What a node still has, as JSON.
#[derive(Debug, Serialize)]
struct Left {
    node: String,
    draining: bool,
    drained: bool,
    leader: bool,
    voter: bool,
    running: u32,
    moving: Vec<String>,
    stuck: Vec<String>,
}

impl From<DrainResponse> for Left {
    fn from(now: DrainResponse) -> Self {
        let DrainResponse { node, draining, drained, leader, voter, running, moving, stuck } = now;
        Self { node, draining, drained, leader, voter, running, moving, stuck }
    }
}

fn text_of(now: &DrainResponse) -> String {
    match (now.draining, now.drained) {
        (false, _) => format!("{} takes work", now.node),
        (true, true) => format!("{} is drained", now.node),
        (true, false) => format!("{} drains: {}", now.node, left_of(now)),
    }
}

fn left_of(now: &DrainResponse) -> String {
    let mut parts = Vec::new();
    if now.leader {
        parts.push("it leads".to_owned());
    }
    if now.voter {
        parts.push("it votes".to_owned());
    }
    if now.running > 0 {
        parts.push(format!("{} running", crate::table::count(now.running as usize, "call")));
    }
    if !now.moving.is_empty() {
        parts.push(format!("moving {}", now.moving.join(", ")));
    }
    if !now.stuck.is_empty() {
        parts.push(format!("no other live node may have {}", now.stuck.join(", ")));
    }
    match parts.is_empty() {
        true => "nothing is left".to_owned(),
        false => parts.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_is_left() {
        let mut now = DrainResponse { node: "a".into(), ..DrainResponse::default() };
        assert_eq!(text_of(&now), "a takes work");
        now.draining = true;
        now.leader = true;
        now.running = 2;
        now.stuck = vec!["shop/pay".into()];
        let text = text_of(&now);
        assert_eq!(
            text,
            "a drains: it leads; 2 calls running; no other live node may have shop/pay"
        );
        now =
            DrainResponse { node: "a".into(), draining: true, drained: true, ..Default::default() };
        assert_eq!(text_of(&now), "a is drained");
    }
}
