//! `nigh status`: the cluster on one screen, and in one number for scripts.

mod findings;
mod screen;

use nigh_proto::v1::{StatusRequest, StatusResponse};
use serde::Serialize;

use crate::api::{Api, timed};
use crate::args::{Before, Cluster};
use crate::failure::{Failure, Result};
use crate::output::{self, Format};
use findings::{Finding, findings};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh status
  nigh status -o json --api https://127.0.0.1:7410
  until nigh status >/dev/null; do sleep 1; done

It shows what the node that is asked knows; it answers without a quorum too. What is not known
is said to be unknown, and is no finding.

Exit status:
  0 all is well · 5 the node does not answer · 7 something needs attention ·
  8 nothing can be changed: no leader with a quorum is known; calls go on")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

pub(crate) async fn run(args: Args, before: Before, format: Format) -> Result {
    let api = Api::connect(&args.cluster.access(before)?).await?;
    let answer = api.cluster().status(timed(StatusRequest {})).await;
    let status = answer.map_err(|status| api.failure(&status))?.into_inner();
    let now_ms = crate::time::now_ms();
    let found = findings(&status, now_ms);
    match format {
        Format::Json => output::json(&Document::new(&status, &found))?,
        Format::Table => output::line(screen::text(&status, &found, now_ms))?,
    }
    verdict(&status, &found)
}

/// The exit status; everything worth saying has been printed.
fn verdict(status: &StatusResponse, found: &[Finding]) -> Result {
    if !status.control_available {
        return Err(Failure::no_quorum());
    }
    if found.is_empty() { Ok(()) } else { Err(Failure::needs_attention()) }
}

/// All of it as JSON; fields may be added, none is renamed.
#[derive(Debug, Serialize)]
struct Document<'a> {
    well: bool,
    findings: &'a [Finding],
    cluster_id: &'a str,
    node: &'a str,
    region: &'a str,
    version: &'a str,
    leader: Option<&'a str>,
    term: u64,
    control_available: bool,
    quorum_lost_ms: Option<u64>,
    applied_index: u64,
    state_digest: &'a str,
    nodes: Vec<Node<'a>>,
    apps: u32,
    apps_not_ready_total: u32,
    apps_not_ready: Vec<App<'a>>,
}

#[derive(Debug, Serialize)]
struct Node<'a> {
    name: &'a str,
    id: u64,
    region: &'a str,
    zone: Option<&'a str>,
    state: &'a str,
    raft: &'a str,
    version: Option<&'a str>,
    settled_index: Option<u64>,
    certificate_expires: Option<String>,
    data_bytes: Option<u64>,
    free_bytes: Option<u64>,
    size_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct App<'a> {
    app: &'a str,
    revision: &'a str,
    rolling_out: bool,
    nodes: u32,
    nodes_ready: u32,
    nodes_lacking: &'a [String],
    functions_unplaced: &'a [String],
}

impl<'a> Document<'a> {
    fn new(status: &'a StatusResponse, findings: &'a [Finding]) -> Self {
        let nodes = status.nodes.iter().map(|node| Node {
            name: &node.name,
            id: node.id,
            region: &node.region,
            zone: said(&node.zone),
            state: &node.state,
            raft: &node.raft,
            version: said(&node.version),
            settled_index: node.settled_index,
            certificate_expires: node.certificate_expires_ms.map(crate::time::rfc3339_ms),
            data_bytes: node.disk.map(|disk| disk.data_bytes),
            free_bytes: node.disk.map(|disk| disk.free_bytes),
            size_bytes: node.disk.map(|disk| disk.size_bytes),
        });
        let apps = status.apps_not_ready.iter().map(|app| App {
            app: &app.app,
            revision: &app.revision,
            rolling_out: app.rolling_out,
            nodes: app.nodes,
            nodes_ready: app.nodes_ready,
            nodes_lacking: &app.nodes_lacking,
            functions_unplaced: &app.functions_unplaced,
        });
        Self {
            well: findings.is_empty() && status.control_available,
            findings,
            cluster_id: &status.cluster_id,
            node: &status.node,
            region: &status.region,
            version: &status.version,
            leader: said(&status.leader),
            term: status.term,
            control_available: status.control_available,
            quorum_lost_ms: status.quorum_lost_ms,
            applied_index: status.applied_index,
            state_digest: &status.state_digest,
            nodes: nodes.collect(),
            apps: status.apps,
            apps_not_ready_total: status.apps_not_ready_total,
            apps_not_ready: apps.collect(),
        }
    }
}

/// A text, if there is one.
fn said(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
pub(crate) mod tests {
    use nigh_proto::v1::{DiskStatus, NodeStatus};

    use super::*;

    /// Three nodes in two regions, all well.
    pub(crate) fn well() -> StatusResponse {
        let node = |name: &str, region: &str, raft: &str| NodeStatus {
            name: name.into(),
            region: region.into(),
            state: "alive".into(),
            raft: raft.into(),
            version: "0.1.0".into(),
            settled_index: Some(9),
            disk: Some(DiskStatus {
                data_bytes: 48 << 20,
                free_bytes: 9 << 30,
                size_bytes: 20 << 30,
            }),
            ..NodeStatus::default()
        };
        StatusResponse {
            cluster_id: "00c0ffee".into(),
            node: "n1".into(),
            region: "eu".into(),
            version: "0.1.0".into(),
            leader: "n2".into(),
            control_available: true,
            term: 4,
            nodes: vec![
                node("n1", "eu", "voter"),
                node("n2", "eu", "leader"),
                node("n3", "us", "voter"),
            ],
            apps: 2,
            ..StatusResponse::default()
        }
    }

    fn exit(status: &StatusResponse) -> u8 {
        verdict(status, &findings(status, 0)).map_or_else(|failure| failure.exit(), |()| 0)
    }

    #[test]
    fn the_exit_status_says_whether_all_is_well() {
        assert_eq!(exit(&well()), 0);
        let mut dead = well();
        dead.nodes[2].state = "dead".into();
        assert_eq!(exit(&dead), 7);
        dead.control_available = false;
        assert_eq!(exit(&dead), 8);
    }

    #[test]
    fn what_is_unknown_is_null() {
        let mut status = well();
        status.nodes[0].disk = None;
        status.nodes[1].certificate_expires_ms = Some(951_782_400_001);
        let json = serde_json::to_value(Document::new(&status, &[])).unwrap();
        assert_eq!(json["well"], true);
        assert_eq!(json["nodes"][0]["free_bytes"], serde_json::Value::Null);
        assert_eq!(json["nodes"][0]["certificate_expires"], serde_json::Value::Null);
        assert_eq!(json["nodes"][1]["certificate_expires"], "2000-02-29T00:00:00.001Z");
        assert_eq!(json["quorum_lost_ms"], serde_json::Value::Null);
    }
}
