//! A status as people read it: one line for each part, then what needs attention.

use std::collections::BTreeMap;

use nigh_proto::v1::{NodeStatus, StatusResponse};

use super::findings::{Finding, room, versions, voters};
use crate::table::{count, names};
use crate::units;

/// The states of nodes in the order in which they are shown.
const STATES: [&str; 4] = ["alive", "draining", "suspect", "dead"];
/// Room for the longest heading and a gap.
const HEADING_WIDTH: usize = 14;

/// The whole screen.
pub(super) fn text(status: &StatusResponse, found: &[Finding], now_ms: u64) -> String {
    let mut lines = vec![
        part(
            "cluster",
            format!("{} as {} in {} sees it", status.cluster_id, status.node, status.region),
        ),
        part("control", control(status)),
    ];
    for (at, region) in regions(status).into_iter().enumerate() {
        lines.push(part(if at == 0 { "regions" } else { "" }, region));
    }
    lines.push(part("apps", apps(status)));
    lines.push(part("certificates", certificates(status, now_ms)));
    lines.push(part("disks", disks(status)));
    lines.push(part("versions", shown_versions(status)));
    lines.push(String::new());
    if found.is_empty() {
        lines.push("all is well".to_owned());
    } else {
        lines.push("needs attention:".to_owned());
        lines.extend(found.iter().map(|found| format!("  {}: {}", found.finding, found.message)));
    }
    lines.join("\n")
}

fn part(heading: &str, text: String) -> String {
    format!("{heading:HEADING_WIDTH$}{text}")
}

fn control(status: &StatusResponse) -> String {
    let leads = match status.leader.as_str() {
        "" => "nobody is known to lead".to_owned(),
        leader => format!("{leader} leads"),
    };
    let (voters, alive) = voters(status);
    let takes = if status.control_available { "takes changes" } else { "takes no changes" };
    format!("{takes}; {leads} in term {}; {alive} of {} alive", status.term, count(voters, "voter"))
}

/// A line for each region: how many of its nodes are alive, and the names of the others.
fn regions(status: &StatusResponse) -> Vec<String> {
    let mut regions: BTreeMap<&str, Vec<&NodeStatus>> = BTreeMap::new();
    for node in &status.nodes {
        regions.entry(&node.region).or_default().push(node);
    }
    let width = regions.keys().map(|region| region.len()).max().unwrap_or(0);
    let line = |(region, nodes): (&str, Vec<&NodeStatus>)| {
        let states = STATES.iter().filter_map(|state| {
            let of_state = nodes.iter().filter(|node| node.state == *state);
            let of_state: Vec<String> = of_state.map(|node| node.name.clone()).collect();
            match (*state, of_state.len()) {
                (_, 0) => None,
                ("alive", number) => Some(format!("{number} alive")),
                (state, number) => Some(format!("{number} {state} ({})", names(&of_state))),
            }
        });
        format!("{region:width$}  {}", states.collect::<Vec<_>>().join(", "))
    };
    match regions.is_empty() {
        true => vec!["none known".to_owned()],
        false => regions.into_iter().map(line).collect(),
    }
}

fn apps(status: &StatusResponse) -> String {
    match (status.apps, status.apps_not_ready_total) {
        (0, _) => "none".to_owned(),
        (apps, lacking) => format!("{} of {apps} ready", apps.saturating_sub(lacking)),
    }
}

fn certificates(status: &StatusResponse, now_ms: u64) -> String {
    let known = status
        .nodes
        .iter()
        .filter_map(|node| Some((node.certificate_expires_ms?, node.name.as_str())));
    let Some((first_ms, name)) = known.clone().min() else {
        return "unknown: no node says when its certificate ends".to_owned();
    };
    let unknown = status.nodes.len() - known.count();
    // From two days on nobody counts hours, and minutes only at the very end.
    let left_ms = first_ms.saturating_sub(now_ms);
    let step = match left_ms {
        172_800_000.. => 86_400_000,
        7_200_000.. => 3_600_000,
        _ => 60_000,
    };
    let left = std::time::Duration::from_millis(left_ms / step * step);
    let ends = match left.is_zero() {
        true => "ends now, or has ended".to_owned(),
        false => format!("ends in {}", units::show(left)),
    };
    format!("the first, of {name}, {ends}{}", and_unknown(unknown))
}

fn disks(status: &StatusResponse) -> String {
    let known = status.nodes.iter().filter_map(|node| Some((node.disk?, node.name.as_str())));
    let fullest = known.clone().min_by_key(|(disk, _)| disk.free_bytes);
    let Some((disk, name)) = fullest else {
        return "unknown: no node says how much room it has".to_owned();
    };
    let unknown = status.nodes.len() - known.count();
    format!("the fullest, of {name}: {}{}", room(&disk), and_unknown(unknown))
}

fn shown_versions(status: &StatusResponse) -> String {
    let of = |version: &str| {
        let nodes = status.nodes.iter().filter(|node| node.version == version);
        format!("{version} on {}", count(nodes.count(), "node"))
    };
    let unknown = status.nodes.iter().filter(|node| node.version.is_empty()).count();
    let known: Vec<String> = versions(status).into_iter().map(of).collect();
    match known.is_empty() {
        true => "unknown".to_owned(),
        false => known.join(", ") + &and_unknown(unknown),
    }
}

fn and_unknown(nodes: usize) -> String {
    if nodes == 0 { String::new() } else { format!("; unknown of {}", count(nodes, "node")) }
}

#[cfg(test)]
mod tests {
    use super::super::findings::findings;
    use super::super::tests::well;
    use super::*;

    fn screen(status: &StatusResponse) -> String {
        text(status, &findings(status, 0), 0)
    }

    #[test]
    fn a_cluster_that_is_well_is_said_in_a_few_lines() {
        let expected = "\
cluster       00c0ffee as n1 in eu sees it
control       takes changes; n2 leads in term 4; 3 of 3 voters alive
regions       eu  2 alive
              us  1 alive
apps          2 of 2 ready
certificates  unknown: no node says when its certificate ends
disks         the fullest, of n1: 9.0 GiB of 20.0 GiB free (45 %)
versions      0.1.0 on 3 nodes

all is well";
        assert_eq!(screen(&well()), expected);
    }

    #[test]
    fn what_is_wrong_and_what_is_unknown_is_said() {
        let mut status = well();
        status.control_available = false;
        status.leader.clear();
        status.nodes[2].state = "dead".into();
        status.nodes[2].disk = None;
        status.nodes[0].certificate_expires_ms = Some(3 * 86_400_000 + 5);
        let screen = screen(&status);
        for line in [
            "control       takes no changes; nobody is known to lead in term 4; 2 of 3 voters alive",
            "              us  1 dead (n3)",
            "certificates  the first, of n1, ends in 3d; unknown of 2 nodes",
            "disks         the fullest, of n1: 9.0 GiB of 20.0 GiB free (45 %); unknown of 1 node",
            "needs attention:",
            "  NODE_DEAD: node n3 in us is dead",
        ] {
            assert!(screen.lines().any(|known| known == line), "no line `{line}` in\n{screen}");
        }
    }

    #[test]
    fn a_node_that_knows_nothing_says_that() {
        let screen = screen(&StatusResponse::default());
        for text in
            ["none known", "apps          none", "disks         unknown", "versions      unknown"]
        {
            assert!(screen.contains(text), "{screen}");
        }
    }
}
