//! What an operator sees: metrics, readiness, `nigh status`, logs as JSON.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{
    App, Cluster, Credentials, Layout, Needs, Node, Ports, Seen, Start, repository, run, wait_until,
};

/// What the parser exits with when Python has no prometheus_client.
const EXIT_SKIPPED: i32 = 77;
/// What is seen of a node that died is seen everywhere by then.
const SEEN_LIMIT: Duration = Duration::from_secs(20);

/// `nigh status -o json` and its exit status.
async fn status(cluster: &Cluster, node: usize) -> (Option<i32>, Value) {
    let ran = cluster.nigh(node, &["status", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&ran.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", ran.stdout, ran.stderr));
    // How full the disk of the machine is that runs the tests is not theirs to say.
    let exit = ran.exit.map(|exit| if exit == 7 && words(&json).is_empty() { 0 } else { exit });
    (exit, json)
}

/// What was found, but for what the disk of this machine has to do with.
fn words(status: &Value) -> BTreeSet<String> {
    let findings = status["findings"].as_array().unwrap().iter();
    let words = findings.map(|finding| finding["finding"].as_str().unwrap().to_owned());
    words.filter(|word| word != "DISK_LOW").collect()
}

#[test]
fn metrics_readiness_and_status_follow_a_deploy_a_call_and_kills() {
    run(Needs::Room, Duration::from_secs(180), async {
        let regions = ["eu-west-1", "us-east-1", "ap-northeast-1"];
        let mut cluster = Cluster::start(Layout::of(&regions)).await;
        cluster.expect_log("openraft", "raft tells of each message that a dead member ignores");
        let all = [0, 1, 2];

        // A deploy.
        let before = cluster.metrics(0).await;
        assert_eq!(before.get("nigh_state_apps"), 0.0);
        cluster.deploy(0, &App::example("hello")).await;
        cluster.answers(&all, "/hello", Duration::from_secs(10)).await;
        let after = cluster.metrics(0).await;
        let committed = "nigh_control_proposals_total{result=\"committed\"}";
        assert!(after.get(committed) > before.get(committed), "the deploy was proposed here");
        assert!(after.get("nigh_control_applied_index") > before.get("nigh_control_applied_index"));
        assert!(
            after.get("nigh_wal_sync_seconds_count") > before.get("nigh_wal_sync_seconds_count")
        );
        assert_eq!(after.get("nigh_state_apps"), 1.0);
        let (mut fetched, mut compiled, mut copied) = (0.0, 0.0, 0.0);
        for node in all {
            let page = cluster.metrics(node).await;
            assert_eq!(page.get("nigh_agent_ready"), 1.0, "one of each region has it");
            compiled += page.get("nigh_agent_compilations_total{result=\"ok\"}");
            copied += page.get("nigh_agent_copies_total{result=\"ok\"}");
            assert_eq!(page.get("nigh_agent_lacking"), 0.0);
            fetched += page.get("nigh_agent_fetches_total{result=\"ok\"}");
        }
        assert!(fetched >= 2.0, "two nodes fetched what the first had: {fetched}");
        assert_eq!((compiled, copied), (1.0, 2.0), "one compiled it for all");

        // Calls.
        let before = cluster.metrics(1).await;
        for _ in 0..5 {
            cluster.http(1).get("/hello").await.ok();
        }
        cluster.http(1).get("/nothing").await.problem(404, "NO_SUCH_APP");
        let after = cluster.metrics(1).await;
        let grown = |series: &str| after.get(series) - before.get(series);
        assert_eq!(grown("nigh_gateway_calls_total{outcome=\"ok\",place=\"here\"}"), 5.0);
        assert_eq!(grown("nigh_gateway_calls_total{outcome=\"refused\",place=\"here\"}"), 1.0);
        assert_eq!(grown("nigh_gateway_problems_total{reason=\"NO_SUCH_APP\"}"), 1.0);
        assert_eq!(grown("nigh_gateway_call_seconds_count"), 6.0);
        assert_eq!(grown("nigh_gateway_exec_seconds_count"), 5.0);
        assert_eq!(after.sum("nigh_gateway_forwarded_total"), 0.0);

        // All is well, and a strict parser reads the page.
        let mut seen = (None, Value::Null);
        wait_until("all is well on every node", SEEN_LIMIT, || async {
            let mut last = Vec::new();
            for node in all {
                last.push(status(&cluster, node).await);
            }
            Seen::when(last.iter().all(|(exit, _)| *exit == Some(0)), last)
        })
        .await;
        for node in all {
            seen = status(&cluster, node).await;
            assert_eq!(seen.1["nodes"].as_array().unwrap().len(), 3);
            assert_eq!(readyz(&cluster, node).await, (200, "ready\n".to_owned()));
        }
        assert_eq!(seen.1["well"], true, "{}", seen.1);
        assert!(seen.1["nodes"][0]["certificate_expires"].is_string(), "{}", seen.1);
        let shown = cluster.nigh(2, &["status"]).await;
        assert!(shown.succeeded().stdout.ends_with("all is well\n"), "{}", shown.stdout);
        wait_until("every node says how much room it has", SEEN_LIMIT, || async {
            let (_, status) = status(&cluster, 0).await;
            let nodes = status["nodes"].as_array().unwrap().clone();
            Seen::when(nodes.iter().all(|node| node["free_bytes"].is_u64()), status)
        })
        .await;
        let whole = cluster.metrics(0).await;
        eprintln!("a page of {} bytes came in {:?}", whole.text.len(), whole.took);
        parse(&whole.text);

        // One node dies: the others see it, and nothing else changes.
        let leader = cluster.leader().await;
        let (first, other) = ((leader + 1) % 3, (leader + 2) % 3);
        let elections = cluster.metrics(other).await.get("nigh_raft_elections_total");
        cluster.kill9(first);
        wait_until("the others see it dead", SEEN_LIMIT, || async {
            let page = cluster.metrics(other).await;
            let dead = page.get("nigh_state_nodes{liveness=\"dead\"}");
            Seen::when(dead == 1.0 && page.get("nigh_peer_ejected") == 1.0, page.text)
        })
        .await;
        let (exit, found) = status(&cluster, other).await;
        assert_eq!(exit, Some(7), "{found}");
        let expected = ["APP_NOT_READY", "NODE_DEAD", "VOTERS_DEAD"].map(str::to_owned);
        // What the dead node held moves to no other: each has its own region's.
        assert!(words(&found).is_subset(&expected.into()), "{found}");
        assert!(words(&found).contains("NODE_DEAD") && words(&found).contains("VOTERS_DEAD"));
        let one_dead = cluster.metrics(other).await;
        assert!(one_dead.get("nigh_peer_ejections_total") >= 1.0);
        assert_eq!(one_dead.get("nigh_control_available"), 1.0);
        assert_eq!(one_dead.get("nigh_raft_elections_total"), elections, "the leader lives");

        // The leader dies too: no quorum, calls go on, and both are said.
        cluster.kill9(leader);
        wait_until("no quorum is known", SEEN_LIMIT, || async {
            let page = cluster.metrics(other).await;
            Seen::when(page.get("nigh_control_available") == 0.0, page.text)
        })
        .await;
        let (exit, found) = status(&cluster, other).await;
        assert_eq!(exit, Some(8), "{found}");
        assert!(words(&found).contains("CONTROL_UNAVAILABLE"), "{found}");
        assert_eq!(found["control_available"], false);
        let (code, text) = readyz(&cluster, other).await;
        assert_eq!(code, 200, "{text}");
        assert!(text.starts_with("ready\nNO_QUORUM: "), "{text}");
        cluster.http(other).get("/hello").await.ok();
        let alone = cluster.metrics(other).await;
        assert_eq!(alone.get("nigh_node_ready"), 1.0);
        assert!(alone.get("nigh_control_quorum_lost_seconds") > 0.0);
        let refused = "nigh_control_proposals_total{result=\"unavailable\"}";
        let before = alone.get(refused);
        cluster.try_deploy(other, &App::example("echo"), &[]).await.refused(5, &[]);
        // A deploy that reads first is refused before it is proposed.
        assert!(cluster.metrics(other).await.get(refused) >= before);

        cluster.restart(leader);
        cluster.restart(first);
        cluster.formed().await;
        wait_until("all is well again", SEEN_LIMIT, || async {
            let seen = status(&cluster, other).await;
            Seen::when(seen.0 == Some(0), seen)
        })
        .await;
        let healed = cluster.metrics(other).await;
        // A leader that is back soon enough leads on in its term: then nobody was elected.
        let counted = healed.get("nigh_raft_elections_total") - elections;
        let terms = healed.get("nigh_raft_term") - one_dead.get("nigh_raft_term");
        assert_eq!(counted > 0.0, terms > 0.0, "{counted} elections, {terms} terms");
        assert_eq!(healed.get("nigh_control_quorum_lost_seconds"), 0.0);
        cluster.end().await;
    });
}

async fn readyz(cluster: &Cluster, node: usize) -> (u16, String) {
    let answer = cluster.credentials().get(cluster.node(node).api(), "/readyz", None).await;
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// What only a node says that serves HTTPS; these do not.
const ONLY_WITH_HTTPS: [&str; 2] =
    ["nigh_https_certificates", "nigh_https_certificate_expiry_timestamp_seconds"];

/// Reads a page with Prometheus' own parser, and compares it with the document.
fn parse(text: &str) {
    let script = repository().join("tests/cluster/openmetrics.py");
    let child = Command::new("python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: there is no python3");
        return;
    };
    let sent = child.stdin.take().unwrap().write_all(text.as_bytes());
    let ran = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    if ran.status.code() == Some(EXIT_SKIPPED) {
        eprintln!("skipped: {}", said.trim());
        return;
    }
    assert!(sent.is_ok() && ran.status.success(), "{said}");
    let parsed: Vec<Value> = serde_json::from_slice(&ran.stdout).unwrap();
    let document = std::fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    let rows = document.lines().filter(|line| line.starts_with("| `nigh_"));
    let documented: BTreeSet<(String, String)> = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            (cells[0].trim_matches('`').to_owned(), cells[1].to_owned())
        })
        .collect();
    let text_of = |metric: &Value, key: &str| metric[key].as_str().unwrap().to_owned();
    let read: BTreeSet<(String, String)> =
        parsed.iter().map(|metric| (text_of(metric, "name"), text_of(metric, "type"))).collect();
    let missing = documented.difference(&read).map(|(name, _)| name.as_str());
    let missing: Vec<_> = missing.filter(|name| !ONLY_WITH_HTTPS.contains(name)).collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
    let more: Vec<_> = read.difference(&documented).collect();
    assert!(more.is_empty(), "not in docs/metrics.md: {more:?}");
    for metric in &parsed {
        let name = text_of(metric, "name");
        let unit = text_of(metric, "unit");
        let stem = name.trim_end_matches("_total");
        assert!(unit.is_empty() || stem.ends_with(&unit), "{name} is in {unit}");
        assert_eq!(unit.is_empty(), !stem.ends_with("_seconds") && !stem.ends_with("_bytes"));
        assert!(text_of(metric, "help").len() > 3, "{name}");
    }
    eprintln!("{} metrics were read by Prometheus' parser", parsed.len());
}

#[test]
fn a_node_logs_one_json_document_a_line_to_its_end() {
    run(Needs::Room, Duration::from_secs(60), async {
        let folder = tempfile::tempdir().unwrap();
        let ports = Ports::claim();
        let json = ["--log-format".to_owned(), "json".to_owned()];
        let mut node = Node::new("n1", "eu-west-1", ports.of_node(0), folder.path()).with(&json);
        node.start(&Start::Bootstrap);
        let api = node.api();
        wait_until("the node is ready", SEEN_LIMIT, || async {
            let Some(admin) = Credentials::read(&node.data().join("admin.toml")) else {
                return Seen::NotYet("it has not begun".to_owned());
            };
            match admin.try_get(api, "/readyz", None).await {
                Ok(answer) => Seen::when(answer.starts_with("HTTP/1.1 200"), answer),
                Err(error) => Seen::NotYet(error.to_string()),
            }
        })
        .await;
        // Another one on the same folder fails, and says so in the same form.
        let second = Node::new("n1", "eu-west-1", ports.of_node(1), folder.path()).with(&json);
        let refused = crate::harness::output(second.command(&Start::Resume)).await;
        assert_eq!(refused.exit, Some(4), "{}", refused.stderr);
        let (status, _) = node.stop().await;
        assert!(status.success(), "{status}");
        let log = std::fs::read_to_string(node.log()).unwrap();
        for (of, text) in [("the node", &log), ("the second", &refused.stderr)] {
            assert!(!text.is_empty(), "{of} logged nothing");
            for line in text.lines() {
                let event: Value = serde_json::from_str(line)
                    .unwrap_or_else(|error| panic!("{of}: {error}: {line}"));
                let level = event["level"].as_str().unwrap();
                assert!(["DEBUG", "INFO", "WARN", "ERROR"].contains(&level), "{line}");
                assert!(event["fields"]["message"].is_string(), "{line}");
                assert!(event["timestamp"].is_string() && event["target"].is_string(), "{line}");
            }
        }
        assert!(log.lines().any(|line| line.contains("\"node\":\"n1\"")), "{log}");
        assert!(log.contains("\"message\":\"stopped\""), "{log}");
        assert!(refused.stderr.contains("in use by another nigh process"), "{}", refused.stderr);
    });
}
