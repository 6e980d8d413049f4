//! Guests that misbehave are stopped at their limits, and their neighbours do not notice.

use std::time::Duration;

use crate::harness::{App, Caller, Cluster, Layout, Load, Needs, Seen, guest, run, wait_until};

const LIMITS: &str = "limits = { timeout = \"1s\", memory = \"32MiB\" }";
/// Of a hostile call with a limit of 1 s: docs/protocol.md allows 250 ms more, a busy machine
/// needs some.
const ANSWER_LIMIT: Duration = Duration::from_millis(2_500);

/// Guest, path, status and reason.
const CASES: [(&str, &str, u16, &str); 11] = [
    ("endless-loop", "", 504, "TIME_LIMIT"),
    ("sleep-forever", "", 504, "TIME_LIMIT"),
    ("output-flood", "", 504, "TIME_LIMIT"),
    ("memory-eater", "", 500, "MEMORY_LIMIT"),
    ("deep-recursion", "", 500, "STACK_OVERFLOW"),
    ("trap", "", 500, "GUEST_TRAPPED"),
    ("never-answers", "", 502, "NO_ANSWER"),
    ("malformed", "", 502, "BAD_ANSWER"),
    ("huge-headers", "", 502, "BAD_ANSWER"),
    ("huge-headers", "/many", 502, "BAD_ANSWER"),
    ("huge-headers", "/large", 502, "BAD_ANSWER"),
];

/// All of them on the first node, so that calls that enter at the second one are forwarded.
fn zoo() -> App {
    let mut names: Vec<&str> = CASES.iter().map(|(name, ..)| *name).collect();
    names.dedup();
    names.push("half-body");
    let zoo = names.into_iter().fold(App::named("zoo"), |zoo, name| {
        zoo.and(name, guest(name)).with(LIMITS).regions(&["eu-west-1"])
    });
    let busy = "limits = { timeout = \"5s\", cpu = \"200ms\", memory = \"32MiB\" }";
    zoo.and("busy", guest("endless-loop")).with(busy).regions(&["eu-west-1"])
}

#[test]
fn hostile_guests_are_stopped_at_their_limits_and_the_neighbour_goes_on() {
    run(Needs::Quiet, Duration::from_secs(120), async {
        let cluster = Cluster::start(Layout::of(&["eu-west-1", "us-east-1"])).await;
        cluster.deploy(0, &App::example("hello")).await;
        let deployed = cluster.deploy(0, &zoo()).await;
        assert_eq!(deployed["routes"].as_array().unwrap().len(), 11, "{deployed}");
        let hello = [cluster.node(0).http(), cluster.node(1).http()];
        let neighbour = Load::start(hello.to_vec(), "/hello", 40);

        for entry in [0, 1] {
            let caller = cluster.http(entry);
            // One after the other, then all at once.
            for case in CASES {
                check(&caller, case).await;
            }
            futures::future::join_all(CASES.map(|case| check(&caller, case))).await;
            let busy = caller.get("/zoo/busy").await;
            busy.problem(500, "CPU_LIMIT");
            assert!(busy.took < ANSWER_LIMIT, "CPU_LIMIT took {:?}", busy.took);
            // The head is out before it traps: the answer breaks off and does not end well.
            let request = caller.request(http::Method::GET, "/zoo/half-body");
            let half = caller.send(request.body(Default::default()).unwrap()).await;
            let why = half.expect_err("half a body is no answer");
            assert!(why.contains("200") && why.contains("broke off"), "{why}");
            over_grpc(&cluster, entry).await;
        }
        let calls = neighbour.end().await;
        let bad: Vec<_> = calls.iter().filter(|call| !call.is_good()).collect();
        let slowest = calls.iter().map(|call| call.took).max().unwrap();
        eprintln!("{} calls of the neighbour, the slowest took {slowest:?}", calls.len());
        assert!(bad.is_empty(), "{} calls of the neighbour failed: {:#?}", bad.len(), bad.first());
        assert!(slowest < Duration::from_secs(2), "a call of the neighbour took {slowest:?}");
        nothing_is_left_running(&cluster).await;
        cluster.end().await;
    });
}

async fn check(caller: &Caller, (name, path, status, reason): (&str, &str, u16, &str)) {
    let answer = caller.get(&format!("/zoo/{name}{path}")).await;
    let problem = answer.problem(status, reason);
    assert!(answer.took < ANSWER_LIMIT, "{name} took {:?}", answer.took);
    assert!(!problem.node.is_empty());
    if reason == "TIME_LIMIT" {
        // Which limit, and where.
        assert!(problem.detail.contains("1000 ms"), "{}", problem.detail);
        assert!(problem.detail.contains(&problem.node), "{}", problem.detail);
    }
}

async fn over_grpc(cluster: &Cluster, entry: usize) {
    use tonic::Code;
    for (name, code, reason) in [
        ("trap", Code::Internal, "GUEST_TRAPPED"),
        ("never-answers", Code::Internal, "NO_ANSWER"),
        ("sleep-forever", Code::DeadlineExceeded, "TIME_LIMIT"),
    ] {
        let status = cluster.api(entry).invoke(&format!("zoo/{name}"), "/").await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert_eq!(nigh_proto::status::reason(&status).as_deref(), Some(reason));
    }
}

async fn nothing_is_left_running(cluster: &Cluster) {
    wait_until("no guest runs any more", Duration::from_secs(10), || async {
        let nodes = cluster.api(0).nodes().await.unwrap();
        let running: Vec<u32> = nodes.iter().map(|node| node.running).collect();
        Seen::when(running.iter().all(|running| *running == 0), running)
    })
    .await;
}

#[test]
fn garbage_on_every_port_harms_nothing() {
    use tokio::io::AsyncWriteExt as _;
    run(Needs::Room, Duration::from_secs(60), async {
        let cluster = Cluster::start(Layout::of(&["eu-west-1", "us-east-1"])).await;
        cluster.deploy(0, &App::example("hello")).await;
        let node = cluster.node(0);
        let noise: Vec<u8> =
            (0..4_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let sent: [&[u8]; 6] = [
            &noise,
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET /\0 HTTP/9.9\r\n",
            &[&preface[..], &noise[..]].concat(),
            &[&preface[..], &[0; 4_000][..]].concat(),
            b"",
        ];
        for bytes in sent {
            for port in [node.http(), node.api(), node.peer()] {
                let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                // It may hang up at any byte.
                let _ = stream.write_all(bytes).await;
                let _ = stream.shutdown().await;
            }
            let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            for length in [0, 1, 100, 1_400] {
                let part = &bytes[..bytes.len().min(length)];
                socket.send_to(part, ("127.0.0.1", node.gossip())).await.unwrap();
            }
        }
        for entry in [0, 1] {
            cluster.http(entry).get("/hello").await.ok();
        }
        cluster.formed().await;
        cluster.deploy(1, &App::new("after", crate::harness::component("hello"))).await;
        cluster.end().await;
    });
}
