//! `nigh up`: the local cluster, its demonstration and its end.

use std::process::Command;
use std::time::Duration;

use crate::harness::{
    App, Caller, Needs, Ports, Up, assert_log_expected, component, nigh, output, run,
};

/// Of the replay of the demonstration.
const REPLAY_SECONDS: &str = "6";

#[test]
fn the_demonstration_runs_ends_well_and_prints_a_table_without_colour_into_a_pipe() {
    run(Needs::Quiet, Duration::from_secs(120), async {
        let ports = Ports::claim();
        let folder = tempfile::tempdir().unwrap();
        let base = ports.base().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_nigh"));
        command.current_dir(folder.path()).args(["up", "--demo", "--exit", "--base-port", &base]);
        command.args(["--demo-seconds", REPLAY_SECONDS]);
        let ran = output(command).await;
        eprintln!("{}\n{}", ran.stdout, ran.stderr);
        assert_eq!(ran.exit, Some(0), "the demonstration took {:?}", ran.took);
        assert_log_expected(folder.path());
        for column in ["NODE", "REGION", "ENTERED", "FORWARDED", "COLD", "WARM"] {
            assert!(ran.stdout.contains(column), "no column {column}:\n{}", ran.stdout);
        }
        assert!(ran.stdout.lines().any(|line| line.starts_with("total")), "{}", ran.stdout);
        for text in [&ran.stdout, &ran.stderr] {
            assert!(!text.contains('\u{1b}') && !text.contains('\r'), "colour or a bar:\n{text}");
        }
    });
}

#[test]
fn a_local_cluster_stops_in_time_and_resumes_with_its_apps() {
    run(Needs::Room, Duration::from_secs(120), async {
        let ports = Ports::claim();
        let folder = tempfile::tempdir().unwrap();
        let base = ports.base().to_string();
        // Typed in another folder, commands are told where the credentials are.
        let admin = folder.path().join(".nigh/admin.toml").display().to_string();
        let flags = ["--base-port", &base, "--nodes", "3", "--regions", "eu-west-1,us-east-1"];

        let up = Up::start(folder.path(), &flags);
        up.serves().await;
        let app = App::new("page", component("hello")).folder();
        let path = app.path().display().to_string();
        nigh(["--credentials", &admin, "deploy", &path]).await.succeeded();
        Caller::new(ports.base()).get("/page").await.ok();
        // Typed in the same folder, they find them by themselves.
        let mut here = Command::new(env!("CARGO_BIN_EXE_nigh"));
        here.current_dir(folder.path()).args(["apps"]).env("HOME", folder.path());
        here.env_remove("XDG_CONFIG_HOME");
        output(here).await.succeeded();
        let nodes = nigh(["--credentials", &admin, "-o", "json", "nodes"]).await.json();
        assert_eq!(nodes.as_array().unwrap().len(), 3, "{nodes}");

        // A second one finds its ports taken, and says how to move.
        let elsewhere = tempfile::tempdir().unwrap();
        let data = elsewhere.path().display().to_string();
        let taken = nigh(["up", "--base-port", &base, "--data", &data]).await;
        eprintln!("{}", taken.stderr);
        taken.refused(4, &[&base, "--base-port"]);

        let (status, took) = up.stop().await;
        eprintln!("it stopped after {took:?}");
        assert!(status.success(), "it ended with {status}");
        assert!(took < Duration::from_secs(5), "it took {took:?} to stop");

        let up = Up::start(folder.path(), &["--base-port", &base]);
        up.serves().await;
        let apps = nigh(["--credentials", &admin, "-o", "json", "apps"]).await.json();
        assert_eq!(apps[0]["name"], "page", "{apps}");
        for node in 0..3 {
            let answer = Caller::new(ports.of_node(node)).get("/page").await;
            assert_eq!(answer.ok().text(), "Hello, nigh!\n");
        }
        up.stop().await;

        let up = Up::start(folder.path(), &["--base-port", &base, "--fresh", "--nodes", "1"]);
        up.serves().await;
        let apps = nigh(["--credentials", &admin, "-o", "json", "apps"]).await.json();
        assert_eq!(apps, serde_json::json!([]), "--fresh empties the folder");
        up.stop().await;
    });
}
