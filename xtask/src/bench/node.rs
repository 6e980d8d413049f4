//! A node of its own process, and what is done to it: through the `nigh` command and its ports alone.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Bench;
use super::http::Connection;
use super::server::{Server, free_address};

/// What a node is waited for: to answer, to have a cluster, to come to rest.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at what is timed, and at what is only waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
const WAIT_INTERVAL: Duration = Duration::from_millis(100);
/// Voters of a cluster that has as many nodes.
const VOTERS_MIN: usize = 3;
/// What `nigh deploy` waits: many components are compiled meanwhile.
const DEPLOY_TIMEOUT: &str = "10m";

/// A node.
pub(super) struct Nigh {
    pub(super) server: Server,
    name: String,
    folder: PathBuf,
    program: PathBuf,
    args: Vec<OsString>,
    pub(super) credentials: PathBuf,
    token: PathBuf,
    pub(super) http: SocketAddr,
    pub(super) api: SocketAddr,
    peer: SocketAddr,
    metrics: SocketAddr,
}

impl Nigh {
    /// Begins a cluster, or joins the one of another node.
    ///
    /// # Errors
    /// It does not start; says what it logged.
    pub(super) fn start(
        bench: &Bench,
        folder: &Path,
        name: &str,
        region: &str,
        joins: Option<&Self>,
    ) -> Result<Self> {
        Self::start_with(bench, folder, name, region, joins, &[])
    }

    /// The same with further flags.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub(super) fn start_with(
        bench: &Bench,
        folder: &Path,
        name: &str,
        region: &str,
        joins: Option<&Self>,
        flags: &[&str],
    ) -> Result<Self> {
        let program = bench.programs.join("nigh");
        let (http, api, peer) = (free_address()?, free_address()?, free_address()?);
        let (gossip, metrics) = (free_address()?, free_address()?);
        let data = folder.join(name);
        let token = folder.join("join-token");
        let mut command = Command::new(&program);
        command.args(["node", "--name", name, "--region", region, "--data"]).arg(&data);
        command.args(flags);
        for (flag, address) in [
            ("--http", http),
            ("--api", api),
            ("--peer", peer),
            ("--gossip", gossip),
            ("--metrics", metrics),
        ] {
            command.args([flag, &address.to_string()]);
        }
        match joins {
            None => command.arg("--bootstrap").arg("--write-join-token").arg(&token),
            Some(first) => {
                let token = format!("@{}", first.token.display());
                command.args(["--join", &first.peer.to_string(), "--join-token", &token])
            }
        };
        let args = command.get_args().map(ToOwned::to_owned).collect();
        let server = Server::start(name, command, folder, http)?;
        let credentials =
            joins.map_or_else(|| data.join("admin.toml"), |first| first.credentials.clone());
        let (name, folder) = (name.to_owned(), folder.to_owned());
        let node = Self {
            server,
            name,
            folder,
            program,
            args,
            credentials,
            token,
            http,
            api,
            peer,
            metrics,
        };
        // It listens first, and belongs to a cluster a moment later.
        node.until("has a cluster", || Ok(data.join("identity/node.pem").exists()))?;
        Ok(node)
    }

    /// A cluster of as many nodes as regions, three of them voters at least where there are so many.
    ///
    /// # Errors
    /// A node does not start.
    pub(super) fn cluster(bench: &Bench, folder: &Path, regions: &[&str]) -> Result<Vec<Self>> {
        let mut nodes: Vec<Self> = Vec::new();
        for (at, region) in regions.iter().enumerate() {
            let name = format!("n{}", at + 1);
            nodes.push(Self::start(bench, folder, &name, region, nodes.first())?);
        }
        // Below that number there is one voter.
        if regions.len() >= VOTERS_MIN {
            nodes[0].reaches("nigh_raft_voters", |now| now >= VOTERS_MIN as f64)?;
        }
        for node in &nodes {
            let alive = "nigh_state_nodes{liveness=\"alive\"}";
            node.reaches(alive, |now| now >= regions.len() as f64)?;
        }
        Ok(nodes)
    }

    /// Kills the node and starts it again; how long it took from there until it answers a path.
    ///
    /// # Errors
    /// It does not come back.
    pub(super) fn restart(&mut self, path: &str) -> Result<Duration> {
        self.server.end();
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        let began = Instant::now();
        self.server = Server::start(&self.name, command, &self.folder, self.http)?;
        self.answers(path)?;
        Ok(began.elapsed())
    }

    /// Deploys an app, once the nodes that it is for are seen, and waits until this node answers a
    /// path.
    ///
    /// # Errors
    /// It is refused for long, or never answers.
    pub(super) fn deploy(&self, app: &Path, path: &str) -> Result<()> {
        self.deploy_only(app)?;
        self.answers(path)
    }

    /// The same for what answers nobody.
    ///
    /// # Errors
    /// It is refused for long.
    pub(super) fn deploy_only(&self, app: &Path) -> Result<()> {
        let began = Instant::now();
        loop {
            let output = self.deploying(app).output()?;
            if output.status.success() {
                return Ok(());
            }
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(began.elapsed() < LIMIT, "nigh deploy: {said}; {}", self.server.logged());
            std::thread::sleep(WAIT_INTERVAL);
        }
    }

    /// The command that deploys an app.
    pub(super) fn deploying(&self, app: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--credentials").arg(&self.credentials);
        command.args(["--api", &format!("https://{}", self.api)]);
        command.args(["deploy", "--timeout", DEPLOY_TIMEOUT]).arg(app);
        command
    }

    /// Where it keeps what it has compiled.
    pub(super) fn compiled(&self) -> PathBuf {
        self.folder.join(&self.name).join("artifacts/compiled")
    }

    /// Waits until the node answers a path well.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn answers(&self, path: &str) -> Result<()> {
        let began = Instant::now();
        loop {
            let answer = Connection::open(self.http).and_then(|mut made| made.get(path));
            if matches!(&answer, Ok(answer) if answer.status == 200) {
                return Ok(());
            }
            ensure!(began.elapsed() < LIMIT, "{path} is not answered: {answer:?}");
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// A metric, all its labels together.
    ///
    /// # Errors
    /// The node does not answer, or has no such metric.
    pub(super) fn metric(&self, name: &str) -> Result<f64> {
        let page = Connection::open(self.metrics)?.get("/metrics")?.body;
        sum(&page, name).with_context(|| format!("{} has no metric {name}", self.name))
    }

    /// Waits until a metric is as it should be.
    ///
    /// # Errors
    /// It never is; says what it was last.
    pub(super) fn reaches(&self, name: &str, enough: impl Fn(f64) -> bool) -> Result<()> {
        let last = self.last(name, LIMIT, &enough);
        let log = || self.server.logged();
        ensure!(enough(last), "{}: {name} was {last} at last; {}", self.name, log());
        Ok(())
    }

    /// The same, and what it is then or when the time is over.
    pub(super) fn last(&self, name: &str, limit: Duration, enough: impl Fn(f64) -> bool) -> f64 {
        let began = Instant::now();
        loop {
            // A node that has just started serves no metrics yet.
            let last = self.metric(name).unwrap_or(f64::NAN);
            if enough(last) || began.elapsed() > limit {
                return last;
            }
            std::thread::sleep(WAIT_INTERVAL);
        }
    }

    /// Waits until something is as it should be.
    ///
    /// # Errors
    /// It never is.
    pub(super) fn until(&self, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let began = Instant::now();
        while !done()? {
            let log = || self.server.logged();
            ensure!(began.elapsed() < LIMIT, "{}: waited in vain: {what}; {}", self.name, log());
            std::thread::sleep(WAIT_INTERVAL);
        }
        Ok(())
    }
}

/// The sum of all lines of a metric.
fn sum(page: &str, name: &str) -> Option<f64> {
    let lines = page.lines().filter_map(|line| line.strip_prefix(name));
    let values = lines.filter(|rest| rest.starts_with(['{', ' ']));
    let values = values.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok());
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_of_its_lines_and_of_no_others() {
        let page = "# HELP a x\na{b=\"c d\"} 2\na{b=\"e\"} 3\nab 7\nf 1.5\n";
        assert_eq!(sum(page, "a"), Some(5.0));
        assert_eq!(sum(page, "f"), Some(1.5));
        assert_eq!(sum(page, "g"), None);
    }
}
