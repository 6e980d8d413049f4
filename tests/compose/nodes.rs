//! What the nodes of a project say of themselves and of each other, over their published ports.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use nigh_proto::v1::StatusResponse;

use crate::harness::grpc::Api;
use crate::harness::{Caller, Credentials, Ran, Seen, output, wait_until};
use crate::project::{NODES, Project};

/// A node that was started, or came back, is a member like the others by then.
const FORM_LIMIT: Duration = Duration::from_secs(120);
/// What happens to a node is seen by the others by then.
const SEEN_LIMIT: Duration = Duration::from_secs(20);
/// Nodes agree on what is decided by then.
const AGREE_LIMIT: Duration = Duration::from_secs(30);

impl Project {
    /// The API of a node.
    pub(crate) fn grpc(&self, node: usize) -> Api {
        let credentials = Credentials::read(&self.credentials());
        Api::new(self.api(node), &credentials.expect("the host has logged in"))
    }

    /// Runs `nigh` on the host against a node.
    pub(crate) async fn nigh(&self, node: usize, args: &[&str]) -> Ran {
        let api = format!("127.0.0.1:{}", self.api(node));
        // By `env`, since the harness takes away what a developer has set.
        let mut command = Command::new("env");
        command.arg(format!("NIGH_CREDENTIALS={}", self.credentials().display()));
        command.arg(env!("CARGO_BIN_EXE_nigh")).args(["--api", &api]).args(args);
        output(command).await
    }

    /// What a node says of itself.
    pub(crate) async fn status(&self, node: usize) -> Result<StatusResponse, String> {
        self.grpc(node).status().await.map_err(|status| status.to_string())
    }

    /// The state of each node as one of them sees it.
    pub(crate) async fn seen_by(&self, node: usize) -> Result<BTreeMap<String, String>, String> {
        let nodes = self.grpc(node).nodes().await.map_err(|status| status.to_string())?;
        Ok(nodes.into_iter().map(|node| (node.name, node.state)).collect())
    }

    /// Waits until these nodes, and no others, see each other, know one leader, and as many vote as
    /// should.
    pub(crate) async fn formed(&self, nodes: &[usize]) {
        let voters = match nodes.len() {
            0..3 => 1,
            3..7 => 3,
            _ => 5,
        };
        let names: BTreeSet<&str> = nodes.iter().map(|node| NODES[*node]).collect();
        wait_until("all nodes see each other and one leader", FORM_LIMIT, || async {
            let mut leaders = BTreeSet::new();
            for node in nodes {
                let (status, seen) = match (self.status(*node).await, self.seen_by(*node).await) {
                    (Ok(status), Ok(seen)) => (status, seen),
                    (Err(why), _) | (_, Err(why)) => {
                        return Seen::NotYet(format!("{}: {why}", NODES[*node]));
                    }
                };
                let alive = seen.iter().filter(|(_, state)| *state == "alive");
                let alive: BTreeSet<&str> = alive.map(|(name, _)| name.as_str()).collect();
                if alive != names || !status.control_available {
                    return Seen::NotYet(format!("{} sees {seen:?}, {status:?}", NODES[*node]));
                }
                leaders.insert(status.leader);
            }
            let raft = match self.grpc(nodes[0]).raft().await {
                Ok(raft) => raft,
                Err(error) => return Seen::NotYet(format!("raft: {error}")),
            };
            let votes = raft.members.iter().filter(|member| member.role != "learner").count();
            Seen::when(leaders.len() == 1 && votes == voters, format!("{leaders:?} {raft:#?}"))
        })
        .await;
    }

    /// Waits until each of these sees a node in this state.
    pub(crate) async fn sees(&self, nodes: &[usize], of: usize, state: &str) {
        let name = format!("{} is {state} to the others", NODES[of]);
        wait_until(&name, SEEN_LIMIT, || async {
            let mut all = Vec::new();
            for node in nodes {
                let seen = self.seen_by(*node).await;
                all.push(seen.map(|seen| seen.get(NODES[of]).cloned().unwrap_or_default()));
            }
            Seen::when(all.iter().all(|seen| seen.as_deref() == Ok(state)), all)
        })
        .await;
    }

    /// The node that leads, by the word of one that runs.
    pub(crate) async fn leader(&self, asked: usize) -> usize {
        wait_until("a leader is known", SEEN_LIMIT, || async {
            let status = self.status(asked).await;
            let leader = status.as_ref().ok().map(|status| status.leader.clone());
            let known = NODES.iter().position(|node| leader.as_deref() == Some(*node));
            known.map_or(Seen::NotYet(status), Seen::Yes)
        })
        .await
    }

    /// The nodes that vote, by the word of one that runs.
    pub(crate) async fn voters(&self, asked: usize) -> Vec<usize> {
        let raft = self.grpc(asked).raft().await.expect("a node that runs says who votes");
        let voters = raft.members.iter().filter(|member| member.role != "learner");
        let named = |name: &str| NODES.iter().position(|node| *node == name);
        voters.map(|member| named(&member.node).expect("it is of the files")).collect()
    }

    /// Waits until a node says that the control plane is out of its reach.
    pub(crate) async fn is_alone(&self, node: usize) {
        let name = format!("{} reaches no majority", NODES[node]);
        wait_until(&name, SEEN_LIMIT, || async {
            let status = self.status(node).await;
            Seen::when(status.as_ref().is_ok_and(|status| !status.control_available), status)
        })
        .await;
    }

    /// Waits until these nodes answer a path with 200.
    pub(crate) async fn answers(&self, nodes: &[usize], path: &str) {
        for node in nodes {
            let caller = Caller::new(self.http(*node));
            let name = format!("{} answers {path}", NODES[*node]);
            wait_until(&name, FORM_LIMIT, || async {
                let request = caller.request(Method::GET, path).body(Bytes::new());
                let answer = caller.send(request.expect("a good path")).await;
                let answer = answer.map(|answer| answer.status);
                Seen::when(answer == Ok(200), answer)
            })
            .await;
        }
    }

    /// Waits until these nodes have applied the same entries and hold the same state.
    pub(crate) async fn agree(&self, nodes: &[usize]) {
        wait_until("applied index and state digest are equal", AGREE_LIMIT, || async {
            let mut seen = BTreeMap::new();
            for node in nodes {
                let state = self.status(*node).await;
                let state = state.map(|status| (status.applied_index, status.state_digest));
                seen.insert(NODES[*node], state);
            }
            let states: BTreeSet<_> = seen.values().cloned().collect();
            Seen::when(states.len() == 1 && states.iter().all(Result::is_ok), seen)
        })
        .await;
    }
}
