//! `nigh nodes`.

use nigh_proto::v1::Node;
use serde::Serialize;

use crate::api::Api;
use crate::args::{Before, Cluster};
use crate::failure::Result;
use crate::output::{self, Format};
use crate::table::{self, Rows};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  nigh nodes
  nigh nodes -o json --api https://127.0.0.1:7410

The round trip is measured from the node that is asked.")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
}

pub(crate) async fn run(args: Args, before: Before, format: Format) -> Result {
    let api = Api::connect(&args.cluster.access(before)?).await?;
    let nodes = api.nodes().await?;
    match format {
        Format::Json => output::json(&nodes.into_iter().map(Row::from).collect::<Vec<_>>()),
        Format::Table => output::line(table_of(&nodes)),
    }
}

/// A node as JSON.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    id: u64,
    region: String,
    zone: Option<String>,
    state: String,
    raft: String,
    http: String,
    api: String,
    peer: String,
    ready: u32,
    warm: u32,
    running: u32,
    cpu: f64,
    memory_bytes: u64,
    rtt_ms: Option<f64>,
    version: String,
}

impl From<Node> for Row {
    fn from(node: Node) -> Self {
        Self {
            name: node.name,
            id: node.id,
            region: node.region,
            zone: Some(node.zone).filter(|zone| !zone.is_empty()),
            state: node.state,
            raft: node.raft,
            http: node.http,
            api: node.api,
            peer: node.peer,
            ready: node.ready,
            warm: node.warm,
            running: node.running,
            cpu: node.cpu,
            memory_bytes: node.memory_bytes,
            rtt_ms: node.rtt_ms,
            version: node.version,
        }
    }
}

fn table_of(nodes: &[Node]) -> String {
    let mut rows = Rows::new([
        "NAME", "REGION", "STATE", "RAFT", ">READY", ">WARM", ">RUNNING", ">CPU", ">MEMORY",
        ">RTT", "HTTP", "API", "VERSION",
    ]);
    for node in nodes {
        rows.push([
            node.name.clone(),
            match node.zone.as_str() {
                "" => node.region.clone(),
                zone => format!("{}/{zone}", node.region),
            },
            node.state.clone(),
            node.raft.clone(),
            node.ready.to_string(),
            node.warm.to_string(),
            node.running.to_string(),
            format!("{:.0} %", node.cpu * 100.0),
            table::bytes(node.memory_bytes),
            node.rtt_ms.map_or_else(|| "-".to_owned(), table::millis),
            node.http.clone(),
            node.api.clone(),
            node.version.clone(),
        ]);
    }
    rows.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        Node {
            name: "eu-west-1-a".into(),
            id: 1,
            region: "eu-west-1".into(),
            state: "alive".into(),
            raft: "leader".into(),
            http: "127.0.0.1:8080".into(),
            api: "127.0.0.1:7400".into(),
            peer: "127.0.0.1:7401".into(),
            cpu: 0.25,
            memory_bytes: 64 << 20,
            version: "0.1.0".into(),
            ..Node::default()
        }
    }

    #[test]
    fn json_has_every_field_by_its_documented_name() {
        let json = serde_json::to_value(Row::from(node())).unwrap();
        let mut names: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "api",
                "cpu",
                "http",
                "id",
                "memory_bytes",
                "name",
                "peer",
                "raft",
                "ready",
                "region",
                "rtt_ms",
                "running",
                "state",
                "version",
                "warm",
                "zone"
            ]
        );
        assert_eq!(
            (&json["zone"], &json["rtt_ms"]),
            (&serde_json::Value::Null, &serde_json::Value::Null)
        );
    }

    #[test]
    fn the_table_has_a_line_per_node() {
        let text = table_of(&[node()]);
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("25 %") && text.contains("64.0 MiB"), "{text}");
    }
}
