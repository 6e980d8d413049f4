//! Who may ask the API: credentials, roles, tokens that end, closed apps, and where secrets are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nigh_proto::v1::{Artifact, RevokeTokenRequest};
use tonic::Code;

use crate::harness::{
    App, Cluster, Credentials, Layout, Needs, Raw, Seen, component, nigh, output, run, wait_until,
};

/// What was decided on one node is known on every other by then.
const SPREAD_LIMIT: Duration = Duration::from_secs(10);

/// Makes a token; its credentials file lies in the test's folder.
async fn token(cluster: &Cluster, name: &str, flags: &[&str]) -> Credentials {
    let mut words = vec!["operator", "token", "create", "--name", name];
    words.extend_from_slice(flags);
    let ran = cluster.nigh(0, &words).await;
    assert_eq!(ran.succeeded().stderr, "", "it prints the file and nothing else");
    let file = cluster.folder().join(format!("{name}.toml"));
    write_secret(&file, &ran.stdout);
    Credentials::read(&file).unwrap()
}

fn write_secret(file: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(file, text).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// The public half of a token.
fn id_of(credentials: &Credentials) -> String {
    credentials.token.split('.').nth(1).unwrap().to_owned()
}

fn reason(status: &tonic::Status) -> String {
    nigh_proto::status::reason(status).unwrap_or_default()
}

/// Waits until a node answers this token so.
async fn is_answered(cluster: &Cluster, node: usize, who: &Credentials, expected: &str) {
    let name = format!("n{} answers the token with `{expected}`", node + 1);
    wait_until(&name, SPREAD_LIMIT, || async {
        let answered = cluster.api_of(node, who).status().await;
        let reason = answered.as_ref().map_or_else(reason, |_| String::new());
        Seen::when(reason == expected, format!("{answered:?}"))
    })
    .await;
}

#[test]
fn roles_hold_on_every_node_and_changes_are_audited() {
    run(Needs::Room, Duration::from_secs(120), async {
        let cluster =
            Cluster::start(Layout::of(&["eu-west-1", "us-east-1", "ap-northeast-1"])).await;
        let viewer = token(&cluster, "looks", &["--role", "viewer"]).await;
        let deployer = token(&cluster, "ships", &["--role", "deployer"]).await;
        for who in [&viewer, &deployer] {
            is_answered(&cluster, 1, who, "").await;
        }
        nobody_is_let_in(&cluster).await;

        let (api, port) = (cluster.api_of(1, &viewer), cluster.node(1).api());
        api.nodes().await.unwrap();
        let nothing = Artifact { digest: format!("sha256:{}", "0".repeat(64)), bytes: 1 };
        let denied = refusal(&api.deploy("shop", &nothing, "deploy-1").await);
        assert_eq!(denied, (Code::PermissionDenied, "ROLE_TOO_LOW".to_owned()));
        assert!(viewer.get(port, "/metrics", Some(&viewer.bearer())).await.contains("200 OK"));

        let file = deployer.file.display().to_string();
        let folder = App::new("page", component("hello")).folder();
        let path = folder.path().display().to_string();
        nigh(["--credentials", &file, "deploy", &path]).await.succeeded();
        let denied = nigh(["--credentials", &file, "operator", "token", "list"]).await;
        denied.refused(4, &["ROLE_TOO_LOW", "deployer", "admin"]);

        revoked_and_expired(&cluster, &viewer).await;

        let other = (cluster.leader().await + 1) % 3;
        let name = cluster.node(other).name();
        cluster.nigh(0, &["operator", "transfer-leader", name]).await.succeeded();
        let path = folder.path().join("backup").display().to_string();
        cluster.nigh(0, &["operator", "backup", &path]).await.succeeded();

        let audit = cluster.nigh(1, &["-o", "json", "operator", "audit"]).await.json();
        let audit = audit.as_array().unwrap();
        let of = |action: &str, target: &str| {
            let found = audit.iter().find(|change| {
                change["action"] == action && change["target"].as_str().unwrap().contains(target)
            });
            found.unwrap_or_else(|| panic!("no {action} {target}: {audit:#?}"))
        };
        let deployed = of("deploy", "page");
        assert_eq!((&deployed["name"], &deployed["refused"]), (&"ships".into(), &().into()));
        assert_eq!(deployed["token"], id_of(&deployer));
        assert!(deployed["from"].as_str().unwrap().starts_with("127.0.0.1:"), "{deployed}");
        assert_eq!(of("revoke-token", &id_of(&viewer))["node"], "n1");
        assert!(of("bootstrap", "n1")["token"].is_null(), "the cluster did it by itself");
        for action in ["transfer-leader", "backup"] {
            assert_eq!(of(action, "")["token"], id_of(cluster.credentials()), "{action}");
        }
        let last = cluster.nigh(0, &["-o", "json", "operator", "audit", "-n", "1"]).await.json();
        assert_eq!(last.as_array().unwrap().len(), 1);
        cluster.end().await;
    });
}

fn refusal<T: std::fmt::Debug>(answer: &Result<T, tonic::Status>) -> (Code, String) {
    let status = answer.as_ref().unwrap_err();
    (status.code(), reason(status))
}

/// Those without a token of this cluster, and those who do not speak TLS.
async fn nobody_is_let_in(cluster: &Cluster) {
    let (admin, port) = (cluster.credentials(), cluster.node(1).api());
    let nobody = admin.with_token("");
    let answer = cluster.api_of(1, &nobody).status().await;
    assert_eq!(refusal(&answer), (Code::Unauthenticated, "NO_TOKEN".to_owned()));
    let foreign = admin.with_token(&format!("nigh-api.{}.{}", "0".repeat(16), "0".repeat(64)));
    let stolen = admin.with_token(&format!("nigh-api.{}.{}", id_of(admin), "0".repeat(64)));
    for wrong in [foreign, stolen, admin.with_token("hunter2")] {
        let answer = cluster.api_of(1, &wrong).status().await;
        assert_eq!(refusal(&answer), (Code::Unauthenticated, "TOKEN_INVALID".to_owned()));
    }
    assert!(admin.get(port, "/metrics", None).await.contains("401 Unauthorized"));
    assert!(admin.get(port, "/healthz", None).await.contains("200 OK"));

    let mut plain = Raw::connect(port).await;
    plain.send("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let said = plain.rest().await;
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("use https://"), "{said}");

    let counted = admin.get(port, "/metrics", Some(&admin.bearer())).await;
    assert!(counted.contains("nigh_api_refused_total{why=\"no_tls\"} 1\n"), "{counted}");
    let strangers = counted.lines().find_map(|line| {
        line.strip_prefix("nigh_api_refused_total{why=\"unauthenticated\"} ")?.parse().ok()
    });
    assert!(strangers >= Some(5_u64), "{counted}");
}

async fn revoked_and_expired(cluster: &Cluster, viewer: &Credentials) {
    let api = cluster.api(0);
    let revoke = |id: String| RevokeTokenRequest { id, request_id: String::new() };
    api.access().revoke_token(revoke(id_of(viewer))).await.unwrap();
    let at_once = cluster.api_of(0, viewer).status().await;
    assert_eq!(refusal(&at_once), (Code::Unauthenticated, "TOKEN_INVALID".to_owned()));
    is_answered(cluster, 1, viewer, "TOKEN_INVALID").await;

    let short = token(cluster, "short", &["--role", "viewer", "--ttl", "1s"]).await;
    is_answered(cluster, 0, &short, "TOKEN_EXPIRED").await;

    let last = api.access().revoke_token(revoke(id_of(cluster.credentials()))).await;
    assert_eq!(refusal(&last), (Code::FailedPrecondition, "LAST_ADMIN".to_owned()));
    let refused = cluster.nigh(0, &["operator", "token", "revoke", "0000000000000000"]).await;
    refused.refused(3, &["NO_SUCH_TOKEN"]);
}

#[test]
fn a_command_says_what_is_wrong_with_its_credentials() {
    run(Needs::Room, Duration::from_secs(90), async {
        let cluster = Cluster::start(Layout::of(&["eu-west-1"])).await;
        let home = tempfile::tempdir().unwrap();
        let ours = cluster.credentials().file.clone();
        let run = async |args: &[&str]| {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_nigh"));
            command.args(args).current_dir(home.path()).env("HOME", home.path());
            command.env_remove("XDG_CONFIG_HOME");
            output(command).await
        };
        run(&["nodes"]).await.refused(2, &["no credentials", "nigh login", ".nigh/admin.toml"]);

        let text = std::fs::read_to_string(&ours).unwrap();
        let open = home.path().join("open.toml");
        std::fs::write(&open, &text).unwrap();
        let open = open.display().to_string();
        run(&["nodes", "--credentials", &open]).await.refused(2, &["others may read", "chmod 600"]);
        // What is stored is its owner's alone, and is found from then on.
        run(&["login", &open]).await.succeeded();
        run(&["nodes"]).await.succeeded();
        std::fs::remove_file(home.path().join(".config/nigh/credentials.toml")).unwrap();
        std::fs::create_dir(home.path().join(".nigh")).unwrap();
        write_secret(&home.path().join(".nigh/admin.toml"), &text);
        run(&["nodes"]).await.succeeded();

        // Another cluster's.
        let made = rcgen::generate_simple_self_signed(vec!["nigh.internal".to_owned()]).unwrap();
        let (before, rest) = text.split_once("-----BEGIN").unwrap();
        let after = rest.rsplit_once("-----END CERTIFICATE-----").unwrap().1;
        let foreign = format!("{before}{}{after}", made.cert.pem().trim());
        let file = home.path().join("foreign.toml");
        write_secret(&file, &foreign);
        let file = file.display().to_string();
        run(&["nodes", "--credentials", &file]).await.refused(4, &["no node of your cluster"]);

        // The address of a node that is gone comes first.
        let gone = format!("https://127.0.0.1:{}", cluster.ports().spare(3));
        let several = text.replacen("api = [", &format!("api = [\"{gone}\", "), 1);
        assert_ne!(several, text);
        let file = home.path().join("several.toml");
        write_secret(&file, &several);
        run(&["nodes", "--credentials", &file.display().to_string()]).await.succeeded();
        cluster.end().await;
    });
}

#[test]
fn a_closed_app_answers_holders_of_tokens_alone() {
    run(Needs::Room, Duration::from_secs(90), async {
        let cluster = Cluster::start(Layout::of(&["eu-west-1", "us-east-1"])).await;
        let viewer = token(&cluster, "looks", &["--role", "viewer"]).await;
        is_answered(&cluster, 1, &viewer, "").await;
        cluster.deploy(0, &App::new("shut", component("echo")).closed()).await;
        cluster.deploy(0, &App::new("free", component("echo"))).await;
        for entry in [0, 1] {
            let http = cluster.http(entry);
            http.post("/free", "x").await.ok();
            let refused = http.post("/shut", "x").await;
            assert!(refused.problem(401, "NO_TOKEN").detail.contains("`shut` is closed"));
            let request = http.request(http::Method::POST, "/shut");
            let request = request.header("nigh-authorization", viewer.bearer());
            http.must(request.body("x".into()).unwrap()).await.ok();
            let request = http.request(http::Method::POST, "/shut");
            let request = request.header("nigh-authorization", "Bearer hunter2");
            let refused = http.must(request.body("x".into()).unwrap()).await;
            refused.problem(401, "TOKEN_INVALID");

            let nobody = cluster.api_of(entry, &viewer.with_token(""));
            nobody.invoke("free", "/").await.unwrap();
            let refused = nobody.invoke("shut", "/").await;
            assert_eq!(refusal(&refused), (Code::Unauthenticated, "NO_TOKEN".to_owned()));
            cluster.api_of(entry, &viewer).invoke("shut", "/").await.unwrap();
        }
        cluster.end().await;
    });
}

#[test]
fn no_secret_is_in_a_log_or_a_data_folder() {
    run(Needs::Room, Duration::from_secs(90), async {
        let cluster = Cluster::start(Layout::of(&["eu-west-1", "us-east-1"])).await;
        let deployer = token(&cluster, "ships", &["--role", "deployer"]).await;
        let join = cluster.nigh(0, &["operator", "token", "create", "--join"]).await;
        let join = join.succeeded().stdout.trim().to_owned();
        assert!(!join.contains(char::is_whitespace), "one string and nothing else: {join}");
        is_answered(&cluster, 1, &deployer, "").await;
        let file = deployer.file.display().to_string();
        let folder = App::new("page", component("hello")).folder();
        let path = folder.path().display().to_string();
        nigh(["--credentials", &file, "deploy", &path]).await.succeeded();
        let stolen = deployer.with_token(&format!("{}x", deployer.token));
        cluster.api_of(1, &stolen).status().await.unwrap_err();

        let secret = |token: &str| token.split('.').nth(2).unwrap().to_owned();
        let mut secrets: Vec<String> =
            [&cluster.credentials().token, &deployer.token, &join].map(|t| secret(t)).into();
        let shared = std::fs::read_to_string(cluster.folder().join("join-token"));
        secrets.extend(shared.ok().map(|token| secret(token.trim())));
        assert!(secrets.iter().all(|secret| secret.len() == 64), "their hexadecimal digits");
        let mut read = 0;
        for node in 0..cluster.len() {
            let mut files = files_below(cluster.node(node).data());
            files.push(cluster.node(node).log().to_owned());
            for file in files {
                let bytes = written(&file);
                read += bytes.len();
                for secret in &secrets {
                    assert!(!holds(&bytes, secret), "a secret is in {}", file.display());
                }
            }
        }
        assert!(read > 10_000, "{read} bytes were looked through");
        let admin = written(&cluster.node(0).data().join("admin.toml"));
        assert!(holds(&admin, &secrets[0]), "there, where it should be, it is found");
        cluster.end().await;
    });
}

/// What a file holds, but for the pages that were only made room for.
fn written(file: &Path) -> Vec<u8> {
    const PAGE: [u8; 4096] = [0; 4096];
    let bytes = std::fs::read(file).unwrap_or_default();
    bytes
        .chunks(PAGE.len())
        .filter(|page| *page != &PAGE[..page.len()])
        .flatten()
        .copied()
        .collect()
}

/// Whether a secret is there, as its digits or as the bytes that they stand for.
fn holds(bytes: &[u8], secret: &str) -> bool {
    let raw = hex::decode(secret).unwrap();
    bytes.windows(secret.len()).any(|window| window.eq_ignore_ascii_case(secret.as_bytes()))
        || bytes.windows(raw.len()).any(|window| window == raw)
}

/// All files but those that secrets are for: `admin.toml` and `identity/`.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && entry.file_name() != "identity" {
            found.extend(files_below(&entry.path()));
        } else if kind.is_file() && entry.file_name() != "admin.toml" {
            found.push(entry.path());
        }
    }
    found
}
