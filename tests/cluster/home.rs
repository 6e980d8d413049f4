//! Calls run where the app may run, and near their callers where that is allowed.

use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::harness::{App, Cluster, Layout, Needs, Seen, component, run, wait_until};

/// Round trips in ms.
const MATRIX: &str = "\
from\\to,eu-west-1,ap-northeast-1
eu-west-1,0.5,120
ap-northeast-1,120,0.5
";
const FAR_MS: u128 = 120;
/// The node in the far region.
const FAR: usize = 2;

#[test]
fn a_call_crosses_to_the_only_allowed_region_and_stays_home_once_that_is_allowed() {
    run(Needs::Quiet, Duration::from_secs(120), async {
        let layout = Layout::of(&["eu-west-1", "eu-west-1", "ap-northeast-1"]);
        let cluster = Cluster::start(layout.with_matrix(MATRIX)).await;
        let app = App::new("page", component("hello")).regions(&["ap-northeast-1"]);
        cluster.deploy(0, &app).await;
        cluster.answers(&[0, 1, 2], "/page", Duration::from_secs(5)).await;
        it_runs_far_away_over_one_hop(&cluster).await;

        let app = App::new("page", component("hello")).regions(&["ap-northeast-1", "eu-west-1"]);
        let deployed = cluster.deploy(FAR, &app).await;
        assert_eq!(deployed["changed"], true);
        for entry in [0, 1] {
            it_comes_home(&cluster, entry).await;
        }
        cluster.end().await;
    });
}

async fn it_runs_far_away_over_one_hop(cluster: &Cluster) {
    let far = cluster.node(FAR).name();
    for entry in [0, 1] {
        let caller = cluster.http(entry);
        for n in 0..5 {
            let id = format!("far-{entry}-{n}");
            let request =
                caller.request(Method::GET, "/page").header("x-request-id", &id).body(Bytes::new());
            let answer = caller.must(request.unwrap()).await;
            answer.ok();
            assert_eq!((answer.node(), answer.forwarded()), (far, true));
            assert!(answer.took.as_millis() >= FAR_MS, "{id} took {:?}", answer.took);
            it_ran_once_and_there(cluster, &id).await;
        }
        let answer = cluster.api(entry).invoke("page", "/").await.unwrap();
        let execution = answer.execution.unwrap();
        assert_eq!((execution.node.as_str(), execution.forwarded), (far, true));
        let hop = execution.hop.unwrap();
        let hop_ms = hop.seconds * 1_000 + i64::from(hop.nanos) / 1_000_000;
        assert!(u128::try_from(hop_ms).unwrap() >= FAR_MS - 1, "the hop took {hop:?}");
    }
    let answer = cluster.http(FAR).get("/page").await;
    assert_eq!((answer.node(), answer.forwarded()), (far, false));
    // No byte of it may be in the other region.
    let apps = cluster.api(0).app("page").await.unwrap();
    assert_eq!(apps.functions[0].ready_nodes, [far]);
}

/// The log of the far node has the call, and that of no other.
async fn it_ran_once_and_there(cluster: &Cluster, id: &str) {
    let ran = |node: usize| {
        let field = format!("request={id} ");
        let lines = cluster.log(node).into_iter();
        lines.filter(|line| line.contains("call ran") && line.contains(&field)).count()
    };
    wait_until("the node that ran the call has logged it", Duration::from_secs(2), || async {
        let counts = [ran(0), ran(1), ran(2)];
        Seen::when(counts == [0, 0, 1], format!("{id}: {counts:?}"))
    })
    .await;
}

async fn it_comes_home(cluster: &Cluster, entry: usize) {
    let caller = cluster.http(entry);
    let own = cluster.node(entry).name();
    let name = format!("{own} runs the calls itself");
    let began = std::time::Instant::now();
    let mut calls = 0;
    wait_until(&name, Duration::from_secs(20), || {
        calls += 1;
        let caller = caller.clone();
        async move {
            let answer = caller.get("/page").await;
            answer.ok();
            Seen::when(!answer.forwarded(), answer.headers)
        }
    })
    .await;
    eprintln!("{own} is warm after {calls} calls and {:?}", began.elapsed());
    for _ in 0..50 {
        let answer = caller.get("/page").await;
        answer.ok();
        assert_eq!((answer.node(), answer.forwarded()), (own, false), "{:#?}", answer.headers);
    }
    wait_until("it is told to be warm there", Duration::from_secs(5), || async {
        let app = cluster.api(FAR).app("page").await.unwrap();
        Seen::when(app.functions[0].warm_nodes.iter().any(|warm| warm == own), app)
    })
    .await;
}
