//! Clients that are not made of this code.

use std::process::Command;
use std::time::Duration;

use crate::harness::{App, Cluster, Layout, Needs, component, output, repository, run};

/// What the example exits with when Python has no grpcio.
const EXIT_SKIPPED: i32 = 77;

#[test]
fn a_stock_python_client_deploys_calls_streams_and_reads_errors() {
    let example = repository().join("sdk/python/example.py");
    if !example.exists() || Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: there is no {} or no python3", example.display());
        return;
    }
    run(Needs::Room, Duration::from_secs(120), async {
        let cluster = Cluster::start(Layout::of(&["eu-west-1", "us-east-1"])).await;
        let mut command = Command::new("python3");
        command.arg(&example).arg("--credentials").arg(&cluster.credentials().file);
        command.arg("--api").arg(format!("127.0.0.1:{}", cluster.node(1).api()));
        command.arg("--component").arg(component("echo")).arg("--selftest");
        let ran = output(command).await;
        if ran.exit == Some(EXIT_SKIPPED) {
            eprintln!("skipped: {}", ran.stderr.trim());
        } else {
            eprintln!("{}{}", ran.stdout, ran.stderr);
            assert_eq!(ran.exit, Some(0), "{}{}", ran.stdout, ran.stderr);
        }
        cluster.end().await;
    });
}

#[test]
fn the_command_line_calls_over_grpc_and_shows_where_it_ran() {
    run(Needs::Room, Duration::from_secs(60), async {
        let cluster = Cluster::start(Layout::of(&["eu-west-1"])).await;
        cluster.deploy(0, &App::example("echo")).await;
        let said = cluster.nigh(0, &["invoke", "echo", "-d", "sent"]).await;
        assert_eq!(said.succeeded().stdout, "sent");
        let told = cluster
            .nigh(
                0,
                &["-o", "json", "invoke", "echo", "--path", "/status/202", "-H", "x-echo-a: b"],
            )
            .await
            .json();
        assert_eq!((&told["status"], &told["node"]), (&202.into(), &"n1".into()), "{told}");
        for field in [
            "headers",
            "region",
            "entry",
            "revision",
            "cold",
            "forwarded",
            "request_id",
            "timing_ms",
        ] {
            assert!(told.get(field).is_some(), "no {field}: {told}");
        }
        for part in ["route", "queue", "hop", "start", "exec", "total"] {
            assert!(told["timing_ms"][part].is_number(), "no {part}: {told}");
        }
        // The function's own error is not nigh's.
        let said = cluster.nigh(0, &["invoke", "echo", "--path", "/status/503", "-i"]).await;
        assert_eq!(said.exit, Some(22), "{}", said.stderr);
        assert!(said.stdout.contains("503"), "{}", said.stdout);
        cluster.end().await;
    });
}
