//! A node whose disk is full, and is not any more.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::{App, Cluster, Layout, Needs, Seen, command, component, run, wait_until};

/// Room on the small disk: two segments of the log, the state and one compiled artifact fit.
const DISK_MIB: u64 = 64;
const LIMIT: Duration = Duration::from_secs(30);
/// What an app may say in its environment at most, less its names.
const ENV_BYTES: usize = 60_000;
/// Large apps after which the log has begun another segment, twice over.
const APPS_MAX: usize = 300;

/// A program that gives the node that it starts a small disk of its own, which goes with the node.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Needs the right to mount.
    fn new() -> Result<Self, String> {
        let mounts = ["--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"];
        let tried = std::process::Command::new("unshare").args(mounts).output();
        let tried = tried.map_err(|error| format!("no unshare: {error}"))?;
        if !tried.status.success() {
            return Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned());
        }
        let disk = Self { folder: tempfile::tempdir().unwrap() };
        let mut file = std::fs::File::create(disk.program()).unwrap();
        let nigh = command::program();
        write!(
            file,
            "#!/bin/sh\nset -eu\nlast=\nfor word; do\n    [ \"$last\" = --data ] && data=$word\n    \
             last=$word\ndone\nmkdir -p \"$data\"\nexec unshare --mount sh -c '\n    \
             mount -t tmpfs -o size={DISK_MIB}m,mode=700 tmpfs \"$0\"\n    exec {nigh} \"$@\"\n' \
             \"$data\" \"$@\"\n",
        )
        .unwrap();
        file.set_permissions(Permissions::from_mode(0o755)).unwrap();
        Ok(disk)
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("nigh")
    }
}

/// Takes all room on the disk that this folder is on.
fn fill(folder: &Path) -> PathBuf {
    let ballast = folder.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    let piece = vec![0x5a; 1 << 16];
    for _ in 0..DISK_MIB << 4 {
        if let Err(error) = file.write_all(&piece) {
            assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
            return ballast;
        }
    }
    panic!("{} MiB fit on a disk of as many", DISK_MIB);
}

#[test]
fn a_leader_whose_disk_is_full_hands_over_serves_on_and_comes_back_by_itself() {
    let small = match SmallDisk::new() {
        Ok(small) => small,
        Err(why) => return eprintln!("SKIPPED: a small disk cannot be mounted: {why}"),
    };
    run(Needs::Room, Duration::from_secs(240), async {
        let layout = Layout::of(&["eu-west-1", "us-east-1", "ap-northeast-1"]);
        let mut cluster = Cluster::start(layout.with_program(1, small.program())).await;
        cluster.expect_log("no disk for a leader", "its disk is full");
        cluster.expect_log("No space left on device", "its disk is full");
        cluster.expect_log("has no room for its log", "its disk is full");
        cluster.deploy(0, &App::new("page", component("hello"))).await;
        cluster.answers(&[0, 1, 2], "/page", LIMIT).await;
        if cluster.leader().await != 1 {
            cluster.nigh(0, &["operator", "transfer-leader", "n2"]).await.succeeded();
        }
        wait_until("n2 leads", LIMIT, || async {
            let leader = cluster.leader().await;
            Seen::when(leader == 1, leader)
        })
        .await;

        let ballast = fill(&cluster.node(1).data_as_it_sees_it());
        let (mut taken, mut refused) = (0, Vec::new());
        for n in 0..APPS_MAX {
            let env = format!("env = {{ FILLER = \"{}\" }}", "x".repeat(ENV_BYTES));
            let mut app = App::named(&format!("large-{n}"));
            for function in ["a", "b", "c", "d"] {
                app = app.and(function, component("hello")).with(env.clone());
            }
            let ran = cluster.try_deploy(0, &app, &["--timeout", "5s"]).await;
            if ran.exit == Some(0) {
                taken += 1;
            } else {
                refused.push(ran.stderr);
            }
            assert_eq!(cluster.http(1).get("/page").await.status, 200);
            if cluster.leader().await != 1 {
                break;
            }
        }
        let leader = cluster.leader().await;
        assert_ne!(leader, 1, "{taken} were taken and n2 leads on");
        eprintln!("{taken} apps were taken, refused: {refused:#?}");
        // Others take what is deployed now; whoever waits for the full one is told for whom.
        let elsewhere = App::new("elsewhere", component("hello"));
        let elsewhere = elsewhere.regions(&["eu-west-1", "ap-northeast-1"]);
        let late = cluster.try_deploy(0, &elsewhere, &["--timeout", "3s"]).await;
        assert_eq!(late.exit, Some(6), "{late:?}");
        assert!(late.stderr.contains("not known yet to n2"), "{late:?}");
        cluster.answers(&[0, 2], "/elsewhere", LIMIT).await;
        assert_eq!(cluster.http(1).get("/page").await.status, 200);

        std::fs::remove_file(ballast).unwrap();
        cluster.answers(&[0, 1, 2], "/elsewhere", LIMIT).await;
        cluster.agree(&[0, 1, 2], LIMIT).await;
        cluster.end().await;
    });
}
