//! Who is let in: members by their certificates, which renew by themselves, and nobody else.

use std::collections::BTreeSet;
use std::time::Duration;

use http::Method;
use nigh_model::trust::Trust;
use nigh_proto::peer::v1::control_client::ControlClient;
use nigh_proto::peer::v1::raft_client::RaftClient;
use nigh_proto::peer::v1::{AuthorityKeyRequest, IdentifyRequest, RaftMessage};
use nigh_proto::status;
use rand::{RngCore as _, SeedableRng as _};
use tonic::Code;

use crate::harness::{
    App, Call, Came, Cluster, Layout, Load, Needs, Node, Seen, Shows, Start, babble, knock, output,
    peer_channel, run, wait_until,
};

#[test]
fn strangers_come_no_further_than_the_door() {
    run(Needs::Room, Duration::from_secs(150), async {
        let cluster = Cluster::start(Layout::of(&["eu-west-1", "us-east-1"])).await;
        let other = Cluster::start(Layout::of(&["eu-west-1"])).await;
        let before = cluster.settles().await;
        let port = cluster.node(0).peer();

        // What is no TLS, and what begins like it.
        let seed: u64 = rand::random();
        eprintln!("seed {seed}");
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        for bytes in [1, 5, 100, 20_000] {
            let mut noise = vec![0; bytes];
            random.fill_bytes(&mut noise);
            babble(port, &noise).await;
            noise[0] = 0x16;
            babble(port, &noise).await;
        }
        babble(port, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        babble(port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;

        // Certificates that this cluster has not signed. Its own is let in: the check can fail.
        let name = format!("n1.{}.nigh.internal", before.cluster_id);
        assert_eq!(knock(port, Shows::Own(name)).await, Came::Refused);
        let foreign = Shows::those_of(other.node(0).data());
        assert_eq!(knock(port, foreign).await, Came::Refused);
        assert_eq!(knock(port, Shows::those_of(cluster.node(1).data())).await, Came::In);

        // Without a certificate one may ask to be admitted, and nothing else.
        let channel = peer_channel(port, Shows::Nothing).await;
        let refused = ControlClient::new(channel).identify(IdentifyRequest {}).await.unwrap_err();
        assert_eq!(status::reason(&refused).as_deref(), Some("NO_CERTIFICATE"), "{refused}");

        // A member speaks for itself only.
        let channel = peer_channel(port, Shows::those_of(cluster.node(1).data())).await;
        let message = RaftMessage {
            cluster_id: before.cluster_id.clone(),
            from: 1,
            to: 1,
            payload: Vec::new().into(),
        };
        let refused = RaftClient::new(channel.clone()).vote(message).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        // Two nodes have one voter: the other one does not get the authority's key.
        let request = AuthorityKeyRequest { authority: vec![0; 32].into() };
        let refused = ControlClient::new(channel).authority_key(request).await.unwrap_err();
        assert_eq!(status::reason(&refused).as_deref(), Some("NOT_A_VOTER"), "{refused}");
        assert_eq!(keys_of_authorities(cluster.node(0)), 1);
        assert_eq!(keys_of_authorities(cluster.node(1)), 0);

        let after = cluster.settles().await;
        assert_eq!(after.applied_index, before.applied_index, "nothing was decided");
        cluster.deploy(1, &App::example("hello")).await;
        other.end().await;
        cluster.end().await;
    });
}

#[test]
fn a_node_is_admitted_by_a_token_of_its_cluster_only() {
    run(Needs::Room, Duration::from_secs(120), async {
        let cluster = Cluster::start(Layout::of(&["eu-west-1"])).await;
        let other = Cluster::start(Layout::of(&["eu-west-1"])).await;
        let peer = cluster.node(0).peer();
        let folder = tempfile::tempdir().unwrap();
        let port = cluster.ports().of_node(1);
        let new = || Node::new("n2", "eu-west-1", port, folder.path());
        let attempt = async |node: Node| output(node.command(&Start::Join(peer))).await;

        let theirs = attempt(new().admitted_like(other.node(0))).await;
        theirs.refused(4, &["is no nigh node", "join token"]);
        // Right in all but the secret.
        let token = std::fs::read_to_string(cluster.node(0).join_token()).unwrap();
        let parts: Vec<&str> = token.trim().split('.').collect();
        let forged = format!("{}.{}.{}.{}", parts[0], parts[1], "0".repeat(64), parts[3]);
        std::fs::write(new().join_token(), &forged).unwrap();
        let refused = attempt(new()).await;
        refused.refused(4, &["does not admit this node", "join token"]);
        assert!(!refused.stderr.contains(&"0".repeat(64)), "{}", refused.stderr);
        std::fs::write(new().join_token(), "nonsense").unwrap();
        attempt(new()).await.refused(4, &["join token"]);

        let nodes = cluster.api(0).nodes().await.unwrap();
        assert_eq!(nodes.len(), 1, "nobody was admitted: {nodes:#?}");
        let mut right = new().admitted_like(cluster.node(0));
        right.start(&Start::Join(peer));
        wait_until("the right token admits it", Duration::from_secs(15), || async {
            let nodes = cluster.api(0).nodes().await.unwrap();
            Seen::when(nodes.iter().any(|node| node.name == "n2"), nodes)
        })
        .await;
        let (ended, took) = right.stop().await;
        assert!(ended.success(), "{ended} after {took:?}");
        other.end().await;
        cluster.end().await;
    });
}

#[test]
fn certificates_renew_and_the_authority_is_replaced_without_a_failed_call() {
    run(Needs::Quiet, Duration::from_secs(180), async {
        let layout = Layout::of(&["eu-west-1", "us-east-1", "ap-northeast-1"]);
        let layout = layout.with_args(&["--certificate-life", "12s"]);
        let mut cluster = Cluster::start(layout).await;
        let all = [0, 1, 2];
        // Two of three callers reach it over a connection between nodes.
        cluster.deploy(1, &App::example("hello").regions(&["eu-west-1"])).await;
        cluster.answers(&all, "/hello", Duration::from_secs(10)).await;
        let first: Vec<_> = all.iter().map(|n| certificate(cluster.node(*n))).collect();
        let shown = Shows::those_of(cluster.node(2).data());
        let old = authorities(cluster.node(0));
        assert_eq!(old.len(), 1);

        let ports = all.iter().map(|n| cluster.node(*n).http()).collect();
        let requests = [(Method::GET, "/hello"), (Method::POST, "/hello")];
        let load = Load::of(ports, &requests, 100);
        for (n, first) in first.iter().enumerate() {
            let mut seen = BTreeSet::from([first.clone()]);
            wait_until("the certificate is renewed twice", Duration::from_secs(40), || {
                seen.insert(certificate(cluster.node(n)));
                std::future::ready(Seen::when(seen.len() >= 3, seen.len()))
            })
            .await;
        }
        // What was shown first has ended by now.
        assert_eq!(knock(cluster.node(0).peer(), shown).await, Came::Refused, "it has expired");

        cluster.nigh(2, &["operator", "rotate-authority"]).await.succeeded();
        wait_until("all trust the new authority alone", Duration::from_secs(30), || async {
            let known: Vec<_> = all.iter().map(|n| authorities(cluster.node(*n))).collect();
            let done = known.iter().all(|known| known.len() == 1 && *known != old);
            Seen::when(done, known)
        })
        .await;
        let calls = load.end().await;
        let failed: Vec<&Call> = calls.iter().filter(|call| !call.is_good()).collect();
        eprintln!("{} calls, {} failed", calls.len(), failed.len());
        assert!(failed.is_empty(), "{failed:#?}");
        let forwarded = calls.iter().filter(|call| call.entry != 0).count();
        assert!(forwarded > 100, "{forwarded}");

        // A node comes back with what it was given by the new authority.
        cluster
            .expect_log("openraft", "raft tells of what a member that is stopped does not answer");
        cluster.stop(2).await;
        cluster.restart(2);
        cluster.formed().await;
        cluster.answers(&all, "/hello", Duration::from_secs(10)).await;
        cluster.end().await;
    });
}

fn certificate(node: &Node) -> Vec<u8> {
    std::fs::read(node.data().join("identity/node.pem")).unwrap()
}

/// The fingerprints of the authorities that a node trusts.
fn authorities(node: &Node) -> Vec<String> {
    let text = std::fs::read(node.data().join("identity/trust.json")).unwrap();
    let trust: Trust = serde_json::from_slice(&text).unwrap();
    trust.authorities.iter().map(|authority| authority.id().to_string()).collect()
}

/// How many keys of authorities lie on a node's disk.
fn keys_of_authorities(node: &Node) -> usize {
    let files = std::fs::read_dir(node.data().join("identity")).unwrap();
    let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("authority-")).count()
}
