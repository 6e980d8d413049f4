//! What a cluster needs a person for. Pure: a status and the time in, findings out.
//!
//! What passes by itself is none: a node that is suspect, or draining because somebody asked for
//! it. What is not known is none either.

use std::collections::BTreeSet;

use nigh_proto::v1::{DiskStatus, NodeStatus, StatusResponse};
use serde::Serialize;

use crate::table::{self, count};

/// A certificate that ends within this long should have been renewed: nodes renew theirs at two
/// thirds of its life.
const CERTIFICATE_SOON_MS: u64 = 24 * 3_600_000;
/// A disk with less room is low: the largest component and what it compiles to do not fit twice.
const FREE_BYTES_MIN: u64 = 256 << 20;
/// A disk with a smaller share of room is low, in hundredths.
const FREE_PERCENT_MIN: u64 = 5;

/// Something that needs a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The stable word for it: a row of docs/operations.md.
    pub(super) finding: &'static str,
    /// The node or app that it is about; none when it is about the whole cluster.
    pub(super) about: Option<String>,
    /// In a line.
    pub(super) message: String,
}

/// Everything that needs a person, the gravest first.
pub(super) fn findings(status: &StatusResponse, now_ms: u64) -> Vec<Finding> {
    let mut found = Vec::new();
    control(status, &mut found);
    for node in &status.nodes {
        if node.state == "dead" {
            let message = format!("node {} in {} is dead", node.name, node.region);
            found.push(about("NODE_DEAD", &node.name, message));
        }
    }
    apps(status, &mut found);
    for node in &status.nodes {
        certificate(node, now_ms, &mut found);
    }
    for node in &status.nodes {
        if let Some(disk) = node.disk.filter(is_low) {
            let left = room(&disk);
            let message = format!("the disk of node {} is almost full: {left}", node.name);
            found.push(about("DISK_LOW", &node.name, message));
        }
    }
    let versions = versions(status);
    if versions.len() > 1 {
        let message = format!(
            "nodes run {}: finish the upgrade",
            versions.into_iter().collect::<Vec<_>>().join(" and ")
        );
        found.push(Finding { finding: "VERSIONS_MIXED", about: None, message });
    }
    found
}

/// The builds that live nodes run, as far as is known.
pub(super) fn versions(status: &StatusResponse) -> BTreeSet<&str> {
    let live = status.nodes.iter().filter(|node| node.state != "dead");
    live.map(|node| node.version.as_str()).filter(|version| !version.is_empty()).collect()
}

/// The voters, and those of them that are not dead.
pub(super) fn voters(status: &StatusResponse) -> (usize, usize) {
    let voters = status.nodes.iter().filter(|node| is_voter(node));
    let alive = voters.clone().filter(|node| node.state != "dead");
    (voters.count(), alive.count())
}

/// A disk's room in words.
pub(super) fn room(disk: &DiskStatus) -> String {
    let percent = disk.free_bytes.saturating_mul(100).checked_div(disk.size_bytes).unwrap_or(0);
    let (free, size) = (table::bytes(disk.free_bytes), table::bytes(disk.size_bytes));
    format!("{free} of {size} free ({percent} %)")
}

fn control(status: &StatusResponse, found: &mut Vec<Finding>) {
    if !status.control_available {
        let since = status.quorum_lost_ms.map(|ms| format!(" for {} s", ms / 1_000));
        let message = format!(
            "no leader with a quorum is known{}: nothing can be changed, calls go on",
            since.unwrap_or_default()
        );
        found.push(Finding { finding: "CONTROL_UNAVAILABLE", about: None, message });
    }
    let (voters, alive) = voters(status);
    if alive < voters {
        let message = format!("{alive} of {} are alive", count(voters, "voter"));
        found.push(Finding { finding: "VOTERS_DEAD", about: None, message });
    }
}

fn apps(status: &StatusResponse, found: &mut Vec<Finding>) {
    for app in &status.apps_not_ready {
        let message = match (app.rolling_out, app.functions_unplaced.as_slice()) {
            (_, [first, ..]) => {
                format!("{} of {}: function {first} is placed nowhere", app.revision, app.app)
            }
            (true, []) => format!(
                "{} of {} is being rolled out: {} of {} ready",
                app.revision,
                app.app,
                app.nodes_ready,
                count(app.nodes as usize, "node")
            ),
            (false, []) => format!(
                "{} of {} is ready on {} of {}, not on {}",
                app.revision,
                app.app,
                app.nodes_ready,
                count(app.nodes as usize, "node"),
                table::names(&app.nodes_lacking)
            ),
        };
        found.push(about("APP_NOT_READY", &app.app, message));
    }
    let more = (status.apps_not_ready_total as usize).saturating_sub(status.apps_not_ready.len());
    if more > 0 {
        let message = format!("{} more are not ready", count(more, "app"));
        found.push(Finding { finding: "APP_NOT_READY", about: None, message });
    }
}

fn certificate(node: &NodeStatus, now_ms: u64, found: &mut Vec<Finding>) {
    let Some(expires_ms) = node.certificate_expires_ms else { return };
    // A dead node renews nothing, and is a finding already.
    if node.state == "dead" {
        return;
    }
    let when = crate::time::rfc3339_ms(expires_ms);
    if expires_ms <= now_ms {
        let message = format!("the certificate of node {} has ended ({when})", node.name);
        found.push(about("CERTIFICATE_ENDED", &node.name, message));
    } else if expires_ms - now_ms < CERTIFICATE_SOON_MS {
        let message = format!("the certificate of node {} ends soon ({when})", node.name);
        found.push(about("CERTIFICATE_ENDS", &node.name, message));
    }
}

fn is_low(disk: &DiskStatus) -> bool {
    let percent_of_size = disk.size_bytes / 100 * FREE_PERCENT_MIN;
    disk.free_bytes < FREE_BYTES_MIN || disk.free_bytes < percent_of_size
}

fn is_voter(node: &NodeStatus) -> bool {
    matches!(node.raft.as_str(), "leader" | "voter")
}

fn about(finding: &'static str, name: &str, message: String) -> Finding {
    Finding { finding, about: Some(name.to_owned()), message }
}

#[cfg(test)]
mod tests {
    use nigh_proto::v1::AppStatus;

    use super::super::tests::well;
    use super::*;

    const DOCS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md"));
    const NOW_MS: u64 = 1_000 * CERTIFICATE_SOON_MS;

    /// The words for what is found after a change.
    fn found(change: impl Fn(&mut StatusResponse)) -> Vec<&'static str> {
        let mut status = well();
        change(&mut status);
        let found = findings(&status, NOW_MS);
        for finding in &found {
            let row = format!("| `nigh status`: `{}`", finding.finding);
            assert!(DOCS.contains(&row), "docs/operations.md has no row `{row}…`");
        }
        found.into_iter().map(|finding| finding.finding).collect()
    }

    #[test]
    fn nothing_is_found_where_all_is_well_or_passes_by_itself_or_is_unknown() {
        assert_eq!(found(|_| ()), [""; 0]);
        assert_eq!(found(|status| status.nodes[1].state = "suspect".into()), [""; 0]);
        assert_eq!(found(|status| status.nodes[1].state = "draining".into()), [""; 0]);
        assert_eq!(found(|status| status.nodes[0].disk = None), [""; 0]);
        assert_eq!(found(|status| status.nodes[0].version.clear()), [""; 0]);
    }

    #[test]
    fn a_dead_voter_is_two_findings_and_a_lost_quorum_comes_first() {
        let dead = |status: &mut StatusResponse| status.nodes[2].state = "dead".into();
        assert_eq!(found(dead), ["VOTERS_DEAD", "NODE_DEAD"]);
        let lost = |status: &mut StatusResponse| {
            status.control_available = false;
            status.quorum_lost_ms = Some(7_100);
        };
        assert_eq!(found(lost), ["CONTROL_UNAVAILABLE"]);
        let mut status = well();
        lost(&mut status);
        assert!(findings(&status, 0)[0].message.contains("for 7 s"));
    }

    #[test]
    fn apps_that_are_not_ready_say_what_they_lack() {
        let app = AppStatus {
            app: "shop".into(),
            revision: "r42".into(),
            nodes: 2,
            nodes_ready: 1,
            nodes_lacking: vec!["n3".into()],
            ..AppStatus::default()
        };
        let mut status = well();
        status.apps_not_ready_total = 5;
        status.apps_not_ready = vec![
            app.clone(),
            AppStatus { rolling_out: true, ..app.clone() },
            AppStatus { functions_unplaced: vec!["pay".into()], ..app },
        ];
        let messages: Vec<String> = findings(&status, 0).into_iter().map(|f| f.message).collect();
        assert_eq!(
            messages,
            [
                "r42 of shop is ready on 1 of 2 nodes, not on n3",
                "r42 of shop is being rolled out: 1 of 2 nodes ready",
                "r42 of shop: function pay is placed nowhere",
                "2 apps more are not ready",
            ]
        );
        assert_eq!(found(|given| given.apps_not_ready.clone_from(&status.apps_not_ready)).len(), 3);
    }

    #[test]
    fn certificates_that_end_or_have_ended_are_found() {
        let ends = |at: u64| found(move |status| status.nodes[0].certificate_expires_ms = Some(at));
        assert_eq!(ends(NOW_MS + CERTIFICATE_SOON_MS), [""; 0]);
        assert_eq!(ends(NOW_MS + CERTIFICATE_SOON_MS - 1), ["CERTIFICATE_ENDS"]);
        assert_eq!(ends(NOW_MS), ["CERTIFICATE_ENDED"]);
        assert_eq!(ends(0), ["CERTIFICATE_ENDED"]);
    }

    #[test]
    fn full_disks_and_mixed_versions_are_found() {
        let disk = |free_bytes, size_bytes| {
            found(move |status| {
                status.nodes[0].disk = Some(DiskStatus { data_bytes: 1, free_bytes, size_bytes });
            })
        };
        assert_eq!(disk(1 << 30, 10 << 30), [""; 0]);
        assert_eq!(disk(1 << 30, 100 << 30), ["DISK_LOW"]);
        assert_eq!(disk(255 << 20, 1 << 30), ["DISK_LOW"]);
        assert_eq!(found(|status| status.nodes[0].version = "0.2.0".into()), ["VERSIONS_MIXED"]);
        // What a dead node ran matters to nobody.
        let dead = |status: &mut StatusResponse| {
            status.nodes[2].version = "0.0.9".into();
            status.nodes[2].state = "dead".into();
        };
        assert_eq!(found(dead), ["VOTERS_DEAD", "NODE_DEAD"]);
    }
}
