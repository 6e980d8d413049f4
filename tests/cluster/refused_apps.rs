//! What is wrong with an app is said, and nothing is changed.

use std::time::Duration;

use nigh_model::Digest;
use nigh_proto::v1::Artifact;
use tonic::Code;

use crate::harness::{App, Cluster, Layout, Needs, component, guest, run};

#[test]
fn a_bad_app_is_refused_with_what_and_why_and_nothing_changes() {
    run(Needs::Room, Duration::from_secs(120), async {
        let cluster = Cluster::start(Layout::of(&["eu-west-1"])).await;
        let shop = App::new("shop", component("hello"))
            .with("routes = [\"/cart/...\", \"shop.example.com/...\"]");
        cluster.deploy(0, &shop).await;
        let before = cluster.nigh(0, &["-o", "json", "apps"]).await.json();
        let state = cluster.settles().await;

        bad_components(&cluster).await;
        bad_manifests(&cluster).await;
        bad_paths(&cluster).await;
        bad_uploads(&cluster).await;
        let now = cluster.api(0).status().await.unwrap();
        let same = (state.applied_index, state.state_digest);
        assert_eq!((now.applied_index, now.state_digest), same);
        // What names no app is refused by the log itself, and changes no app either.
        bad_words(&cluster).await;
        let after = cluster.nigh(0, &["-o", "json", "apps"]).await.json();
        assert_eq!(before, after);
        let caller = cluster.http(0);
        caller.get("/cart").await.ok();
        caller.get("/shop").await.ok();
        caller.get("/bad").await.problem(404, "NO_SUCH_APP");
        cluster.end().await;
    });
}

async fn bad_components(cluster: &Cluster) {
    let no_wasm = cluster.folder().join("text.wasm");
    std::fs::write(&no_wasm, "this is text").unwrap();
    let empty = cluster.folder().join("empty.wasm");
    std::fs::write(&empty, "").unwrap();
    let cut = cluster.folder().join("cut.wasm");
    let whole = std::fs::read(component("hello")).unwrap();
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    for (path, said) in [
        (no_wasm, vec!["WebAssembly"]),
        (empty, vec!["empty"]),
        (cut, vec!["valid"]),
        (guest("core-module"), vec!["component", "wasm32-wasip2"]),
        (guest("no-handler"), vec!["wasi:http/incoming-handler"]),
        (guest("unknown-import"), vec!["acme:missing/thing"]),
    ] {
        let shown = path.display().to_string();
        eprintln!("{shown}");
        let refused = cluster.try_deploy(0, &App::new("bad", path), &[]).await;
        eprintln!("{}", refused.stderr);
        refused.refused(4, &said);
    }
}

async fn bad_manifests(cluster: &Cluster) {
    let app = |line: &str| App::new("bad", component("hello")).with(line);
    for (app, said) in [
        (app("limits = { timeot = \"1s\" }"), vec!["timeot", "did you mean `timeout`?"]),
        (app("limits = { timeout = \"1 fortnight\" }"), vec!["limits.timeout"]),
        (app("limits = { memory = \"2GiB\" }"), vec!["limits.memory", "1073741824"]),
        (app("routes = [\"/cart/...\"]"), vec!["/cart/...", "`shop`"]),
        (app("routes = [\"SHOP.example.com/...\"]"), vec!["shop.example.com/...", "`shop`"]),
        (app("routes = [\"/shop/x\"]"), vec!["/shop/x", "`shop`"]),
        (app("routes = [\"/a/.../b\"]"), vec!["/a/.../b"]),
        (app("placement = { regions = [\"EU West\"] }"), vec!["EU West", "a-z"]),
        (app("placement = { regions = [\"eu-wset-1\"] }"), vec!["eu-wset-1", "`eu-west-1`"]),
        (app("allow = { outbound = [\"ftp://a\"] }"), vec!["ftp://a", "http"]),
        (App::new("Bad", component("hello")), vec!["`Bad`", "a-z"]),
        // An app of the name that another app's route begins with.
        (App::new("cart", component("hello")), vec!["`shop`"]),
        (App::new("bad", component("gone")), vec!["gone.wasm"]),
    ] {
        let exit = if said == ["gone.wasm"] { 3 } else { 4 };
        let refused = cluster.try_deploy(0, &app, &[]).await;
        eprintln!("{}", refused.stderr);
        refused.refused(exit, &said);
    }
}

async fn bad_paths(cluster: &Cluster) {
    let empty = tempfile::tempdir().unwrap();
    let path = empty.path().display().to_string();
    cluster.nigh(0, &["deploy", &path]).await.refused(3, &["nigh.toml", ".wasm"]);
    cluster.nigh(0, &["deploy", "/nowhere/x.wasm"]).await.refused(3, &["/nowhere/x.wasm"]);
}

async fn bad_uploads(cluster: &Cluster) {
    let api = cluster.api(0);
    // Not the one that is deployed: what is known need not come again.
    let bytes = std::fs::read(component("work")).unwrap();
    let digest = Digest::of(&bytes).to_string();
    let head = |digest: &str, bytes: usize| Artifact { digest: digest.into(), bytes: bytes as u64 };
    let cut = &bytes[..bytes.len() - 1];
    let other = Digest::of(b"something else").to_string();
    for (head, sent, code, reason) in [
        (head(&digest, bytes.len()), cut, Code::InvalidArgument, "UPLOAD_TRUNCATED"),
        (head(&digest, cut.len()), &bytes[..], Code::InvalidArgument, "UPLOAD_TOO_LONG"),
        (head(&other, bytes.len()), &bytes[..], Code::InvalidArgument, "DIGEST_MISMATCH"),
        (head(&digest, cut.len()), cut, Code::InvalidArgument, "DIGEST_MISMATCH"),
        (head("md5:0", bytes.len()), &bytes[..], Code::InvalidArgument, "BAD_DIGEST"),
    ] {
        let status = api.upload_as(head, sent).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert_eq!(nigh_proto::status::reason(&status).as_deref(), Some(reason), "{status:?}");
    }
    for digest in [&digest, &other] {
        let request = nigh_proto::v1::StatRequest { digest: digest.clone(), regions: Vec::new() };
        let status = api.artifacts().stat(request).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "nothing of it was kept: {status:?}");
    }
    // A component that nobody has cannot be deployed.
    let status = api.deploy("bad", &head(&other, 10), "deploy-1").await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
}

async fn bad_words(cluster: &Cluster) {
    cluster.nigh(0, &["deplyo", "x"]).await.refused(2, &["'deploy'"]);
    cluster.nigh(0, &["deploy", "x", "--nowait"]).await.refused(2, &["'--no-wait'"]);
    cluster.nigh(0, &["invoke", "shpo"]).await.refused(3, &["`shpo`", "`shop`"]);
    cluster.nigh(0, &["delete", "shpo"]).await.refused(3, &["`shpo`", "`shop`"]);
    let refused = cluster.nigh(0, &["operator", "transfer-leader", "n11"]).await;
    refused.refused(3, &["`n11`", "`n1`"]);
    let admin = cluster.credentials().file.display().to_string();
    let at = async |api: &str| {
        crate::harness::nigh(["--credentials", &admin, "--api", api, "apps"]).await
    };
    let nobody = format!("https://127.0.0.1:{}", cluster.ports().spare(5));
    at(&nobody).await.refused(5, &[&nobody]);
    let plain = format!("http://127.0.0.1:{}", cluster.node(0).api());
    at(&plain).await.refused(2, &[&plain, "TLS", "https://"]);
    // An HTTP port is no API port.
    let http = format!("https://127.0.0.1:{}", cluster.node(0).http());
    let ran = at(&http).await;
    assert_ne!(ran.exit, Some(0));
    eprintln!("{}", ran.stderr);
}
