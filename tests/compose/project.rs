//! A compose project of the test's own, and its end.
//!
//! It ends with its value; when the test process is killed, by a small shell that holds the other
//! end of a pipe; and when that is killed too, by the next test. So that the next one can tell, the
//! name of a project says when it began and which process began it. Tests of other machines or
//! containers may use the same engine: what is not known to be dead is left alone until it is older
//! than a test can be.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::engine::{Compose, IMAGE, docker, docker_now};
use crate::harness::turn::is_failing;
use crate::harness::{Ports, Ran, repository};

/// What the names of all projects of tests begin with.
const PREFIX: &str = "nigh-test-";
/// No test lives longer.
const AGE_MAX: Duration = Duration::from_secs(45 * 60);
/// What compose marks everything with that it makes.
const LABEL: &str = "com.docker.compose.project";
/// Lines of each log that a failing test prints.
const TAIL_LINES: &str = "60";

/// The nodes of the files, in the order of their ports.
pub(crate) const NODES: [&str; 7] = ["eu-1", "us-1", "ap-1", "eu-2", "us-2", "ap-2", "eu-3"];

/// The regions of the first five, and who is in them.
pub(crate) const REGIONS: [(&str, &[usize]); 3] =
    [("eu-west-1", &[0, 3]), ("us-east-1", &[1, 4]), ("ap-northeast-1", &[2])];

/// A project that may run.
pub(crate) struct Project {
    name: String,
    compose: Compose,
    ports: Ports,
    guard: Child,
    folder: TempDir,
}

impl Project {
    /// Makes a name and claims ports; starts nothing yet. Removes what dead tests left.
    pub(crate) fn new(compose: Compose) -> Self {
        for name in projects() {
            if is_stale(&name) {
                eprintln!("an earlier test left {name} behind");
                remove(&name);
            }
        }
        let name = format!("{PREFIX}{}-{}-{}", now(), namespace(), std::process::id());
        let guard = guard(&name);
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        Self { name, compose, ports: Ports::claim(), guard, folder }
    }

    /// What the first node knows its admin by, once it was fetched.
    pub(crate) fn credentials(&self) -> PathBuf {
        self.folder.path().join("admin.toml")
    }

    /// Fetches that, as an operator does.
    pub(crate) async fn log_in(&self) {
        let from = format!("{}:/data/admin.toml", self.container(0).await);
        let to = self.credentials();
        docker(&["cp", &from, &to.display().to_string()]).await;
        std::fs::set_permissions(&to, Permissions::from_mode(0o600)).unwrap();
    }

    /// The HTTP port of a node on the host.
    pub(crate) fn http(&self, node: usize) -> u16 {
        self.ports.of_node(node)
    }

    /// The HTTP ports of nodes on the host.
    pub(crate) fn https(&self, nodes: &[usize]) -> Vec<u16> {
        nodes.iter().map(|node| self.http(*node)).collect()
    }

    /// The API port of a node on the host.
    pub(crate) fn api(&self, node: usize) -> u16 {
        self.ports.of_node(node) + 1
    }

    /// Runs compose over the base file and these.
    pub(crate) async fn compose(&self, over: &[&str], args: &[&str]) -> Ran {
        let deploy = repository().join("deploy");
        let path = |file: &str| deploy.join(file).display().to_string();
        let mut words = vec!["-p".to_owned(), self.name.clone()];
        for file in std::iter::once(&"compose.yaml").chain(over) {
            words.extend(["-f".to_owned(), path(file)]);
        }
        let words: Vec<&str> =
            words.iter().map(String::as_str).chain(args.iter().copied()).collect();
        self.compose.run(&self.env(), &words).await
    }

    /// The container of a node.
    pub(crate) async fn container(&self, node: usize) -> String {
        let service = format!("label=com.docker.compose.service={}", NODES[node]);
        let project = format!("label={LABEL}={}", self.name);
        let id = docker(&["ps", "-aq", "--filter", &project, "--filter", &service]).await;
        assert!(!id.is_empty() && !id.contains('\n'), "{} has containers `{id}`", NODES[node]);
        id
    }

    /// The containers of nodes.
    pub(crate) async fn containers(&self, nodes: &[usize]) -> Vec<String> {
        let mut containers = Vec::new();
        for node in nodes {
            containers.push(self.container(*node).await);
        }
        containers
    }

    /// The network that the nodes are on.
    pub(crate) fn network(&self) -> String {
        format!("{}_nodes", self.name)
    }

    /// The address of a node on that network.
    pub(crate) async fn address(&self, node: usize) -> String {
        self.address_of(&self.container(node).await).await
    }

    pub(crate) async fn address_of(&self, container: &str) -> String {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        docker(&["inspect", "--format", format, container]).await
    }

    /// Starts a node of a cluster of its own on the same network.
    pub(crate) async fn start_stranger(&self) -> String {
        let (label, network) = (format!("{LABEL}={}", self.name), self.network());
        let mut args = vec!["run", "--detach", "--label", &label, "--network", &network];
        args.extend(["--env", "NIGH_NAME=stranger", "--env", "NIGH_REGION=eu-west-1"]);
        args.extend(["--env", "NIGH_ADVERTISE=stranger", "--env", "NIGH_BOOTSTRAP=true"]);
        args.extend(["--memory", "512m", IMAGE]);
        docker(&args).await
    }

    /// What moves the ports of the files.
    fn env(&self) -> Vec<String> {
        let mut env = Vec::new();
        for (index, node) in NODES.iter().enumerate() {
            let node = node.to_uppercase().replace('-', "_");
            env.push(format!("NIGH_{node}_HTTP={}", self.http(index)));
            env.push(format!("NIGH_{node}_API={}", self.api(index)));
        }
        env
    }

    /// What the nodes logged, by container.
    pub(crate) fn logs(&self, tail: &str) -> Vec<(String, String)> {
        let mut logs = Vec::new();
        for id in listed("ps -aq", &self.name) {
            let name = docker_now(&["inspect", "--format", "{{.Name}}", &id]).unwrap_or_default();
            // Through a shell, since a node logs to stderr.
            let mut command = Command::new("timeout");
            command.args(["-k", "5", "20", "sh", "-c", "docker logs --tail \"$1\" \"$2\" 2>&1"]);
            let text = crate::engine::asks(command.args(["sh", tail, &id]));
            logs.push((name, text.unwrap_or_else(|why| why)));
        }
        logs
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if is_failing() {
            for (name, log) in self.logs(TAIL_LINES) {
                eprintln!("--- {name}\n{log}");
            }
        }
        remove(&self.name);
        // The shell ends with it; it may be gone already.
        if let Some(mut pipe) = self.guard.stdin.take() {
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.guard.wait();
        let left = [listed("ps -aq", &self.name), listed("network ls -q", &self.name)].concat();
        let left = [left, listed("volume ls -q", &self.name)].concat();
        assert!(is_failing() || left.is_empty(), "{} leaves {left:?} behind", self.name);
    }
}

/// Containers, networks or volumes of a project.
fn listed(what: &str, project: &str) -> Vec<String> {
    let filter = format!("label={LABEL}={project}");
    let args: Vec<&str> = what.split(' ').chain(["--filter", &filter]).collect();
    let listed = docker_now(&args).unwrap_or_default();
    listed.lines().map(str::to_owned).collect()
}

/// Removes everything of a project; what is gone already is no failure.
fn remove(project: &str) {
    for (list, remove) in [
        ("ps -aq", "rm --force --volumes"),
        ("network ls -q", "network rm"),
        ("volume ls -q", "volume rm --force"),
    ] {
        let found = listed(list, project);
        if !found.is_empty() {
            let args: Vec<&str> =
                remove.split(' ').chain(found.iter().map(String::as_str)).collect();
            if let Err(why) = docker_now(&args) {
                eprintln!("docker {remove}: {why}");
            }
        }
    }
}

/// The projects of tests that the engine knows anything of.
fn projects() -> Vec<String> {
    let label = format!("{{{{.Label \"{LABEL}\"}}}}");
    let mut names = Vec::new();
    for what in [&["ps", "-a"][..], &["network", "ls"], &["volume", "ls"]] {
        let args: Vec<&str> = what.iter().copied().chain(["--format", &label]).collect();
        let listed = docker_now(&args).unwrap_or_default();
        names.extend(listed.lines().filter(|name| name.starts_with(PREFIX)).map(str::to_owned));
    }
    names.sort();
    names.dedup();
    names
}

/// Whether the test of this project is known to be over.
fn is_stale(project: &str) -> bool {
    let mut parts = project[PREFIX.len()..].split('-');
    let mut part = || parts.next().unwrap_or_default();
    let (began, space, process) = (part(), part(), part());
    let age = now().saturating_sub(began.parse().unwrap_or(0));
    let is_ours = space == namespace();
    age > AGE_MAX.as_secs() || is_ours && !Path::new("/proc").join(process).exists()
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// Names the processes that this one can see.
fn namespace() -> String {
    let link = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    link.to_string_lossy().chars().filter(char::is_ascii_digit).collect()
}

/// A shell that removes the project when this process has ended without a word.
fn guard(project: &str) -> Child {
    let script = r#"
read -r word
[ "$word" = done ] && exit 0
for kind in "ps -aq|rm --force --volumes" "network ls -q|network rm" "volume ls -q|volume rm --force"; do
    found="$(timeout -k 5 20 docker ${kind%|*} --filter "label=$1=$2")"
    [ -z "$found" ] || timeout -k 5 60 docker ${kind#*|} $found
done
"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", LABEL, project]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Ctrl-C in a terminal must not end it before its work is done, and whoever looks for processes
    // that outlived a test shall let it finish: it is bounded.
    command.process_group(0).env_remove("NIGH_CI_RUN");
    command.spawn().expect("there is a shell")
}
