//! Several nodes that are a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nigh_proto::v1::StatusResponse;
use serde_json::Value;
use tempfile::TempDir;

use super::app::App;
use super::call::Caller;
use super::command::{self, Ran};
use super::grpc::Api;
use super::log::{self, Expected};
use super::metrics::Page;
use super::node::{Node, Start};
use super::ports::Ports;
use super::tls::Credentials;
use super::turn::is_failing;
use super::wait::{Seen, wait_until};

/// Every node has joined, and voters are chosen, by then.
const FORM_LIMIT: Duration = Duration::from_secs(40);
/// What a node knows reaches the others by then.
const SPREAD_LIMIT: Duration = Duration::from_secs(10);
/// Longer than any pause between two steps of what a leader does by itself.
const QUIET: Duration = Duration::from_millis(1_500);

/// What a cluster shall look like.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    regions: Vec<&'static str>,
    matrix: Option<&'static str>,
    args: Vec<&'static str>,
    /// Which build each node runs; the others run the one that is tested.
    programs: BTreeMap<usize, PathBuf>,
}

impl Layout {
    /// A node in each of these regions, in this order.
    pub(crate) fn of(regions: &[&'static str]) -> Self {
        Self { regions: regions.to_vec(), ..Self::default() }
    }

    /// Five nodes in three regions.
    pub(crate) fn five() -> Self {
        Self::of(&["eu-west-1", "us-east-1", "ap-northeast-1", "eu-west-1", "us-east-1"])
    }

    /// Starts every node with these flags too.
    pub(crate) fn with_args(mut self, args: &[&'static str]) -> Self {
        self.args = args.to_vec();
        self
    }

    /// Lets a node run another build.
    pub(crate) fn with_program(mut self, index: usize, program: PathBuf) -> Self {
        self.programs.insert(index, program);
        self
    }

    /// Emulates these round trips between regions.
    pub(crate) fn with_matrix(mut self, csv: &'static str) -> Self {
        self.matrix = Some(csv);
        self
    }
}

/// A cluster. Its nodes end with it, and what they logged is looked through.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    expected: Vec<Expected>,
    /// How many lines each node had logged when all were asked to stop.
    ending: Vec<usize>,
    /// Nodes that have left for good.
    gone: BTreeSet<usize>,
    ports: Ports,
    credentials: OnceLock<Credentials>,
    // Dropped last: the nodes write into it.
    folder: TempDir,
}

impl Cluster {
    /// Starts a cluster and waits until all of it is there.
    pub(crate) async fn start(layout: Layout) -> Self {
        let ports = Ports::claim();
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        let mut args: Vec<String> = layout.args.iter().map(|arg| (*arg).to_owned()).collect();
        if let Some(csv) = layout.matrix {
            let path = folder.path().join("matrix.csv");
            std::fs::write(&path, csv).expect("the test's folder is writable");
            args.extend(["--rtt-matrix".to_owned(), path.display().to_string()]);
        }
        let nodes = layout.regions.iter().enumerate().map(|(index, region)| {
            let name = format!("n{}", index + 1);
            Node::new(&name, region, ports.of_node(index), folder.path()).with(&args)
        });
        let mut expected = vec![Expected::new(
            "A message will be ignored because Leader vote changed",
            "openraft says so of its own first write when the first node comes to lead",
        )];
        expected.push(Expected::new(
            "failed to send a heartbeat: Err(Elapsed",
            "openraft waits for one no longer than its interval, and the first has to connect",
        ));
        expected.push(Expected::new(
            "Leader<_, _>::is_replication_stream_valid: target node",
            "openraft drops what a stream of replication still says when the members have just changed",
        ));
        let nodes = nodes.collect();
        let (ending, gone, credentials) = (Vec::new(), BTreeSet::new(), OnceLock::new());
        let mut cluster = Self { nodes, expected, ending, gone, ports, credentials, folder };
        let first = cluster.nodes[0].peer();
        for (index, node) in cluster.nodes.iter_mut().enumerate() {
            node.set_program(layout.programs.get(&index).cloned());
            node.start(&if index == 0 { Start::Bootstrap } else { Start::Join(first) });
        }
        cluster.formed().await;
        cluster
    }

    /// Waits until all nodes see each other, know one leader, and voters are as many as they
    /// should be.
    pub(crate) async fn formed(&self) {
        self.formed_within(FORM_LIMIT).await;
    }

    /// The same, where something else takes its time too.
    pub(crate) async fn formed_within(&self, limit: Duration) {
        let present = self.present();
        let voters = match present.len() {
            0..3 => 1,
            3..7 => 3,
            _ => 5,
        };
        wait_until("all nodes see each other and one leader", limit, || async {
            let mut leaders = BTreeSet::new();
            if self.find_credentials().is_none() {
                return Seen::NotYet("no credentials of an admin".to_owned());
            }
            for index in &present {
                let (node, api) = (&self.nodes[*index], self.api(*index));
                let (status, seen) = match (api.status().await, api.nodes().await) {
                    (Ok(status), Ok(seen)) => (status, seen),
                    (Err(error), _) | (_, Err(error)) => {
                        return Seen::NotYet(format!("{}: {error}", node.name()));
                    }
                };
                let alive = seen.iter().filter(|seen| seen.state == "alive").count();
                if alive != present.len() || !status.control_available {
                    return Seen::NotYet(format!("{} sees {status:?} and {seen:#?}", node.name()));
                }
                leaders.insert(status.leader);
            }
            let raft = match self.api(present[0]).raft().await {
                Ok(raft) => raft,
                Err(error) => return Seen::NotYet(format!("raft: {error}")),
            };
            let votes = raft.members.iter().filter(|member| member.role != "learner").count();
            Seen::when(leaders.len() == 1 && votes == voters, format!("{leaders:?} {raft:#?}"))
        })
        .await;
    }

    /// Those that have not left for good.
    fn present(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| !self.gone.contains(index)).collect()
    }

    /// Starts one more node, in this region; it joins by the first that is there.
    pub(crate) fn add(&mut self, region: &str) {
        let index = self.nodes.len();
        let name = format!("n{}", index + 1);
        let mut node = Node::new(&name, region, self.ports.of_node(index), self.folder.path());
        node.start(&Start::Join(self.nodes[self.present()[0]].peer()));
        self.nodes.push(node);
    }

    /// Starts a node that has ended as a new one: it joins by the first that is there.
    pub(crate) fn join_again(&mut self, index: usize) {
        let first = self.nodes[self.present()[0]].peer();
        self.gone.remove(&index);
        self.nodes[index].start(&Start::Join(first));
    }

    /// A node has left for good.
    pub(crate) fn forget(&mut self, index: usize) {
        self.gone.insert(index);
    }

    /// Waits until a node that was removed has ended; how.
    pub(crate) async fn ends_by_itself(&mut self, index: usize) -> std::process::ExitStatus {
        self.gone.insert(index);
        self.nodes[index].ends(SPREAD_LIMIT).await.0
    }

    /// Nodes, running or not.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// The index of a node by its name.
    #[track_caller]
    pub(crate) fn index_of(&self, name: &str) -> usize {
        let found = self.nodes.iter().position(|node| node.name() == name);
        found.unwrap_or_else(|| panic!("no node is named `{name}`"))
    }

    pub(crate) fn ports(&self) -> &Ports {
        &self.ports
    }

    /// The folder of the test.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The HTTP ports of these nodes.
    pub(crate) fn http_ports(&self, nodes: &[usize]) -> Vec<u16> {
        nodes.iter().map(|index| self.nodes[*index].http()).collect()
    }

    /// Calls over HTTP that enter at a node.
    pub(crate) fn http(&self, index: usize) -> Caller {
        Caller::new(self.nodes[index].http())
    }

    /// The API of a node, asked by the admin.
    pub(crate) fn api(&self, index: usize) -> Api {
        self.api_of(index, self.credentials())
    }

    /// The API of a node, asked by somebody.
    pub(crate) fn api_of(&self, index: usize, credentials: &Credentials) -> Api {
        Api::new(self.nodes[index].api(), credentials)
    }

    /// What a node counts, asked by the admin.
    pub(crate) async fn metrics(&self, index: usize) -> Page {
        Page::of(self.nodes[index].api(), self.credentials()).await
    }

    /// What the admin is known by.
    pub(crate) fn credentials(&self) -> &Credentials {
        self.find_credentials().expect("the first node has begun the cluster")
    }

    /// The same, if the first node has written it. What was read once stays, whatever becomes of
    /// that node's folder.
    fn find_credentials(&self) -> Option<&Credentials> {
        if self.credentials.get().is_none() {
            let written = self.nodes[0].data().join("admin.toml");
            let own = self.folder.path().join("admin.toml");
            Credentials::read(&written)?;
            std::fs::copy(written, &own).expect("the test's folder is writable");
            let _ = self.credentials.set(Credentials::read(&own)?);
        }
        self.credentials.get()
    }

    /// Runs `nigh` against a node.
    pub(crate) async fn nigh(&self, index: usize, args: &[&str]) -> Ran {
        let api = format!("https://127.0.0.1:{}", self.nodes[index].api());
        let file = self.credentials().file.display().to_string();
        let mut words = vec!["--credentials", &file, "--api", &api];
        words.extend_from_slice(args);
        command::nigh(words).await
    }

    /// Runs `nigh deploy` of an app against a node, with more flags.
    pub(crate) async fn try_deploy(&self, index: usize, app: &App, more: &[&str]) -> Ran {
        let folder = app.folder();
        let path = folder.path().display().to_string();
        let mut words = vec!["-o", "json", "deploy", &path];
        words.extend_from_slice(more);
        self.nigh(index, &words).await
    }

    /// Deploys an app through a node; it must succeed. What `nigh deploy` printed.
    pub(crate) async fn deploy(&self, index: usize, app: &App) -> Value {
        self.try_deploy(index, app, &[]).await.json()
    }

    /// Waits until these nodes answer a path with 200.
    pub(crate) async fn answers(&self, nodes: &[usize], path: &str, limit: Duration) {
        for index in nodes {
            let caller = self.http(*index);
            let name = format!("{} answers {path}", self.nodes[*index].name());
            wait_until(&name, limit, || async {
                let request = caller.request(http::Method::GET, path).body(Default::default());
                match caller.send(request.expect("a good path")).await {
                    Ok(answer) => Seen::when(
                        answer.status == 200,
                        format!("{}: {}", answer.status, answer.text()),
                    ),
                    Err(why) => Seen::NotYet(why),
                }
            })
            .await;
        }
    }

    /// The node that leads, by the word of a running node; waits until there is one.
    pub(crate) async fn leader(&self) -> usize {
        let name = wait_until("a leader is known", SPREAD_LIMIT, || async {
            let running = self.nodes.iter().position(Node::runs).expect("one runs");
            match self.api(running).status().await {
                Ok(status) if !status.leader.is_empty() => Seen::Yes(status.leader),
                other => Seen::NotYet(other),
            }
        });
        self.index_of(&name.await)
    }

    /// The nodes that have a vote.
    pub(crate) async fn voters(&self) -> Vec<usize> {
        let leader = self.leader().await;
        let raft = self.api(leader).raft().await.expect("the leader knows");
        let voters = raft.members.iter().filter(|member| member.role != "learner");
        voters.map(|member| self.index_of(&member.node)).collect()
    }

    /// Waits until nothing has been decided for a while: all that follows from what was asked
    /// is done.
    pub(crate) async fn settles(&self) -> StatusResponse {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        let mut last: Option<(StatusResponse, Instant)> = None;
        loop {
            let now = self.agree(&all, SPREAD_LIMIT).await;
            match &last {
                Some((before, since)) if before.applied_index == now.applied_index => {
                    if since.elapsed() > QUIET {
                        return now;
                    }
                }
                _ => last = Some((now, Instant::now())),
            }
        }
    }

    /// Waits until these nodes have applied the same entries and hold the same state.
    pub(crate) async fn agree(&self, nodes: &[usize], limit: Duration) -> StatusResponse {
        wait_until("applied index and state digest are equal", limit, || async {
            let mut seen = Vec::new();
            for index in nodes {
                match self.api(*index).status().await {
                    Ok(status) => seen.push(status),
                    Err(error) => {
                        return Seen::NotYet(vec![format!(
                            "{}: {error}",
                            self.nodes[*index].name()
                        )]);
                    }
                }
            }
            let same = seen.windows(2).all(|pair| {
                pair[0].applied_index == pair[1].applied_index
                    && pair[0].state_digest == pair[1].state_digest
                    && pair[0].cluster_id == pair[1].cluster_id
            });
            if same {
                return Seen::Yes(seen.swap_remove(0));
            }
            let shown =
                seen.iter().map(|s| format!("{}: {} {}", s.node, s.applied_index, s.state_digest));
            Seen::NotYet(shown.collect())
        })
        .await
    }

    /// SIGKILL.
    pub(crate) fn kill9(&mut self, index: usize) {
        self.nodes[index].kill9();
    }

    /// SIGTERM; the node must end in order, and soon when no call runs on it for long.
    pub(crate) async fn stop(&mut self, index: usize) {
        let (status, _) = self.nodes[index].stop().await;
        assert!(status.success(), "{} ended with {status}", self.nodes[index].name());
    }

    /// The same for a node that may take longer; how it ended, and how long that took.
    pub(crate) async fn stop_within(
        &mut self,
        index: usize,
        limit: Duration,
    ) -> (std::process::ExitStatus, Duration) {
        self.nodes[index].stop_within(limit).await
    }

    /// Sends a node a signal.
    pub(crate) fn signal(&self, index: usize, name: &str) {
        self.nodes[index].signal(name);
    }

    /// SIGSTOP.
    pub(crate) fn pause(&self, index: usize) {
        self.nodes[index].pause();
    }

    /// SIGCONT.
    pub(crate) fn unpause(&self, index: usize) {
        self.nodes[index].unpause();
    }

    /// Starts a node that has ended, with the same folder and addresses.
    pub(crate) fn restart(&mut self, index: usize) {
        self.nodes[index].start(&Start::Resume);
    }

    /// Starts a node that has ended as a new one of its name: its disk is lost.
    ///
    /// It is admitted by a token bound to its name, once its old self has been dead long enough.
    pub(crate) async fn rejoin(&mut self, index: usize, by: usize) {
        let name = self.nodes[index].name().to_owned();
        let asked = ["operator", "token", "create", "--join", "--name", &name];
        let made = self.nigh(by, &asked).await;
        made.succeeded();
        let token = self.folder.path().join(format!("join-token-{name}"));
        std::fs::write(&token, &made.stdout).expect("the test's folder is writable");
        let peer = self.nodes[by].peer();
        std::fs::remove_dir_all(self.nodes[index].data()).expect("the test's folder is writable");
        self.nodes[index].admit_by(&token);
        self.nodes[index].start(&Start::Join(peer));
    }

    /// The same with another build; none: the one that is tested.
    pub(crate) fn restart_as(&mut self, index: usize, program: Option<PathBuf>) {
        self.nodes[index].set_program(program);
        self.restart(index);
    }

    /// Lines with this text may be in the logs, of any level; `why` is for the reader.
    pub(crate) fn expect_log(&mut self, text: &'static str, why: &'static str) {
        self.expected.push(Expected::new(text, why));
    }

    /// The lines that a node logged.
    pub(crate) fn log(&self, index: usize) -> Vec<String> {
        log::lines(self.nodes[index].log())
    }

    /// Stops all nodes at once, in order. Logs are looked through when the value goes.
    pub(crate) async fn end(mut self) {
        self.ending = self.nodes.iter().map(|node| log::lines(node.log()).len()).collect();
        let running = self.nodes.iter_mut().filter(|node| node.runs());
        let stops = running.map(|node| async {
            let (status, took) = node.stop().await;
            assert!(status.success(), "{} ended with {status} after {took:?}", node.name());
        });
        futures::future::join_all(stops).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.kill9();
        }
        if is_failing() {
            for node in &self.nodes {
                log::print_tail(node.name(), node.log());
            }
            return;
        }
        let mut unexpected = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let ending = self.ending.get(index).copied().unwrap_or(usize::MAX);
            let lines = log::unexpected(node.log(), &self.expected, ending);
            unexpected.extend(lines.into_iter().map(|line| format!("{}: {line}", node.name())));
        }
        assert!(unexpected.is_empty(), "unexpected in the logs:\n{}", unexpected.join("\n"));
    }
}
