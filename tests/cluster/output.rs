//! What functions print, from every node, and what they may reach.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{App, Cluster, Layout, Needs, Seen, Server, component, run, wait_until};

#[test]
fn logs_come_from_every_node_with_node_and_request_id() {
    run(Needs::Room, Duration::from_secs(90), async {
        let cluster =
            Cluster::start(Layout::of(&["eu-west-1", "us-east-1", "ap-northeast-1"])).await;
        cluster.deploy(0, &App::example("echo")).await;
        let all = [0, 1, 2];
        cluster.answers(&all, "/echo/x", Duration::from_secs(5)).await;
        let mut wanted = Vec::new();
        for node in all {
            let answer = cluster.http(node).get(&format!("/echo/log?msg=said-{node}")).await;
            assert!(!answer.ok().forwarded(), "one node of each region has it");
            let id = answer.header("x-request-id").to_owned();
            for stream in ["stdout", "stderr"] {
                let line = format!("{stream}: said-{node}");
                wanted.push((answer.node().to_owned(), id.clone(), stream.to_owned(), line));
            }
        }
        wanted.sort();
        for node in all {
            wait_until(
                "each line is told, with its node and call",
                Duration::from_secs(5),
                || async {
                    let printed = cluster.nigh(node, &["-o", "json", "logs", "echo"]).await;
                    let mut lines = lines_of(&printed.succeeded().stdout);
                    lines.sort();
                    Seen::when(lines == wanted, lines)
                },
            )
            .await;
        }
        let text = cluster.nigh(1, &["logs", "echo/echo"]).await;
        for (node, id, _, line) in &wanted {
            let told = |printed: &&str| {
                printed.contains(node) && printed.contains(id) && printed.contains(line)
            };
            assert!(text.stdout.lines().find(told).is_some(), "{line}: {}", text.stdout);
        }
        cluster.nigh(0, &["logs", "eco"]).await.refused(3, &["`eco`", "`echo`"]);
        new_lines_follow(&cluster).await;
        cluster.end().await;
    });
}

fn lines_of(json_lines: &str) -> Vec<(String, String, String, String)> {
    let text = |line: &Value, field: &str| line[field].as_str().unwrap().to_owned();
    json_lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .map(|line: Value| {
            assert_eq!(line["app"], "echo");
            (
                text(&line, "node"),
                text(&line, "request_id"),
                text(&line, "stream"),
                text(&line, "line"),
            )
        })
        .collect()
}

async fn new_lines_follow(cluster: &Cluster) {
    let request = nigh_proto::v1::TailRequest {
        app: "echo".into(),
        follow: true,
        lines: 1,
        ..Default::default()
    };
    let mut lines = cluster.api(0).logs().tail(request).await.unwrap().into_inner();
    // Until the others are followed too, what they say may be missed: say it again.
    let mut missing: Vec<&str> = vec!["n1", "n2", "n3"];
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let mut say = tokio::time::interval(Duration::from_millis(300));
    while !missing.is_empty() {
        tokio::select! {
            line = lines.message() => {
                let line = line.unwrap().expect("it goes on");
                if line.line.ends_with("followed") {
                    missing.retain(|node| *node != line.node);
                }
            }
            _ = say.tick() => for node in [0, 1, 2] {
                cluster.http(node).get("/echo/log?msg=followed").await.ok();
            },
            () = tokio::time::sleep_until(deadline) => panic!("no line came from {missing:?}"),
        }
    }
}

#[test]
fn a_function_reaches_what_it_may_and_nothing_else() {
    run(Needs::Room, Duration::from_secs(60), async {
        let cluster = Cluster::start(Layout::of(&["eu-west-1"])).await;
        let (allowed, denied) = (cluster.ports().spare(0), cluster.ports().spare(1));
        let (inside, outside) = (Server::start(allowed).await, Server::start(denied).await);
        let rule = format!("allow = {{ outbound = [\"http://127.0.0.1:{allowed}\"] }}");
        cluster.deploy(0, &App::example("proxy").with(rule)).await;
        cluster.deploy(0, &App::new("shut-in", component("proxy"))).await;

        let caller = cluster.http(0);
        let answer = caller.get(&format!("/proxy?url=http://127.0.0.1:{allowed}/x")).await;
        assert_eq!(answer.ok().text(), "from outside\n");
        assert_eq!(inside.asked(), 1);
        for (app, url) in [
            ("proxy", format!("http://127.0.0.1:{denied}/")),
            ("proxy", format!("http://localhost:{allowed}/")),
            ("proxy", format!("https://127.0.0.1:{allowed}/")),
            ("shut-in", format!("http://127.0.0.1:{allowed}/")),
        ] {
            let answer = caller.get(&format!("/{app}?url={url}")).await;
            assert_eq!(answer.status, 502, "{url}: {}", answer.text());
            assert!(answer.text().contains("Denied"), "{url}: {}", answer.text());
        }
        assert_eq!((inside.asked(), outside.asked()), (1, 0), "nobody was asked who may not be");
        cluster.end().await;
    });
}
