//! A node dies with a call in it: who permits it gets an answer from another node.
//!
//! The function asks a server outside for something, which counts how often it ran and holds it
//! there while its node is killed.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use nigh_proto::v1::InvokeRequest;

use crate::harness::{App, Cluster, Layout, Needs, Seen, Server, run, wait_until};

/// Round trips in ms: from where calls enter, one allowed region is nearer than the other.
const MATRIX: &str = "\
from\\to,eu-west-1,us-east-1,ap-northeast-1
eu-west-1,0.5,20,60
us-east-1,20,0.5,50
ap-northeast-1,60,50,0.5
";
const ENTRY: usize = 0;
const NEAR: usize = 1;
const FAR: usize = 2;
/// Calls that are made until one runs on the nearest node.
const TRIES_MAX: usize = 5;

struct Bench {
    cluster: Cluster,
    outside: Server,
    path: String,
}

/// A call whose node was killed.
struct Ran<T> {
    /// What the caller got.
    answer: T,
    /// How often the function has asked outside for it.
    ran: usize,
    /// Its request id.
    id: String,
}

#[test]
fn a_post_is_tried_again_on_another_node_only_when_its_key_permits_it() {
    run(Needs::Quiet, Duration::from_secs(150), async {
        let layout = Layout::of(&["eu-west-1", "us-east-1", "ap-northeast-1"]);
        let mut cluster = Cluster::start(layout.with_matrix(MATRIX)).await;
        cluster.expect_log("openraft", "raft tells of each message that a dead member misses");
        let port = cluster.ports().spare(0);
        let outside = Server::start(port).await;
        let url = format!("http://127.0.0.1:{port}");
        let app = App::example("proxy")
            .with(format!("allow = {{ outbound = [{url:?}] }}"))
            .regions(&["us-east-1", "ap-northeast-1"]);
        cluster.deploy(ENTRY, &app).await;
        let mut bench = Bench { cluster, outside, path: format!("/proxy?url={url}/") };

        with_a_key_another_node_answers(&mut bench).await;
        without_one_it_fails_and_is_not_run_again(&mut bench).await;
        a_method_that_is_idempotent_needs_no_key(&mut bench).await;
        the_key_counts_over_grpc_too(&mut bench).await;
        bench.cluster.end().await;
    });
}

async fn with_a_key_another_node_answers(bench: &mut Bench) {
    let call = |bench: &Bench, id: &str| http(bench, Method::POST, id, Some("order-17"));
    let Ran { answer, ran, id } = bench.killed_while_it_runs("with-key", call).await;
    assert_eq!(answer.ok().text(), "from outside\n");
    let far = bench.cluster.node(FAR).name();
    assert_eq!((answer.node(), answer.forwarded()), (far, true));
    assert_eq!(ran, 2, "once where it was lost, once where it was answered");
    bench.runs_logged(&id, [0, 0, 1]).await;
}

async fn without_one_it_fails_and_is_not_run_again(bench: &mut Bench) {
    let call = |bench: &Bench, id: &str| http(bench, Method::POST, id, None);
    let Ran { answer, ran, id } = bench.killed_while_it_runs("without-key", call).await;
    let problem = answer.problem(502, "PEER_LOST");
    assert_eq!(problem.node, bench.cluster.node(NEAR).name(), "who had it is said");
    assert_eq!(ran, 1, "it may have done something: it is not run again");
    bench.runs_logged(&id, [0, 0, 0]).await;
}

async fn a_method_that_is_idempotent_needs_no_key(bench: &mut Bench) {
    let call = |bench: &Bench, id: &str| http(bench, Method::GET, id, None);
    let Ran { answer, ran, .. } = bench.killed_while_it_runs("a-get", call).await;
    assert_eq!(answer.ok().node(), bench.cluster.node(FAR).name());
    assert_eq!(ran, 2);
}

async fn the_key_counts_over_grpc_too(bench: &mut Bench) {
    for key in ["order-18", ""] {
        let call = |bench: &Bench, _: &str| {
            let mut invoker = bench.cluster.api(ENTRY).invoker();
            let request = InvokeRequest {
                function: "proxy".into(),
                method: "POST".into(),
                path: bench.path.trim_start_matches("/proxy").replacen('?', "/?", 1),
                idempotency_key: key.into(),
                ..InvokeRequest::default()
            };
            async move { invoker.invoke(request).await }
        };
        let Ran { answer, ran, .. } = bench.killed_while_it_runs("over-grpc", call).await;
        if key.is_empty() {
            let status = answer.unwrap_err();
            let reason = nigh_proto::status::reason(&status);
            assert_eq!((reason.as_deref(), ran), (Some("PEER_LOST"), 1), "{status}");
        } else {
            let answer = answer.unwrap().into_inner();
            let node = answer.execution.unwrap().node;
            assert_eq!((answer.status, node.as_str(), ran), (200, "n3", 2));
        }
    }
}

/// A call over HTTP that enters far from where it may run.
fn http(
    bench: &Bench,
    method: Method,
    id: &str,
    key: Option<&str>,
) -> impl Future<Output = crate::harness::Answer> + Send + use<> {
    let caller = bench.cluster.http(ENTRY);
    let mut request = caller.request(method, &bench.path).header("x-request-id", id);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let request = request.body(Bytes::new()).unwrap();
    async move { caller.must(request).await }
}

impl Bench {
    /// Kills the nearest node while it runs this call, whose request id begins so. The node is back
    /// when this returns.
    async fn killed_while_it_runs<C, T>(
        &mut self,
        id: &str,
        call: impl Fn(&Self, &str) -> C,
    ) -> Ran<T>
    where
        C: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        // A machine that is busy elsewhere may make a node look dead for a moment: the call goes to
        // another one then, and is made again.
        for n in 0..TRIES_MAX {
            let id = format!("{id}-{n}");
            self.runs_near().await;
            let before = self.outside.asked();
            self.outside.hold(1);
            let running = tokio::spawn(call(self, &id));
            wait_until("the function runs", Duration::from_secs(5), || async {
                Seen::when(self.outside.asked() > before, self.outside.asked())
            })
            .await;
            if self.cluster.metrics(NEAR).await.get("nigh_runtime_running") == 0.0 {
                self.outside.release();
                running.await.unwrap();
                continue;
            }
            self.cluster.kill9(NEAR);
            let answer = running.await.unwrap();
            let ran = self.outside.asked() - before;
            self.cluster.restart(NEAR);
            self.cluster.formed().await;
            return Ran { answer, ran, id };
        }
        panic!("{TRIES_MAX} times in turn, calls did not run on the nearest node");
    }

    /// Waits until calls go to the nearest node that may run them.
    async fn runs_near(&self) {
        let near = self.cluster.node(NEAR).name();
        wait_until("calls run on the nearest node", Duration::from_secs(20), || async {
            let answer = self.cluster.http(ENTRY).get(&self.path).await;
            let there = answer.status == 200 && answer.node() == near;
            Seen::when(there, (answer.status, answer.headers))
        })
        .await;
    }

    /// Waits until the nodes have logged so many runs to their end of the call.
    async fn runs_logged(&self, id: &str, wanted: [usize; 3]) {
        let field = format!("request={id} ");
        let ran = |node: usize| {
            let lines = self.cluster.log(node).into_iter();
            lines.filter(|line| line.contains("call ran") && line.contains(&field)).count()
        };
        wait_until("the log tells who ran the call", Duration::from_secs(3), || async {
            let counts = [ran(0), ran(1), ran(2)];
            Seen::when(counts == wanted, counts)
        })
        .await;
    }
}
