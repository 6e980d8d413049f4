//! The identity of the node that begins a cluster: it makes the authority, signs itself, and
//! writes what its operator and the other nodes need to come in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nigh_model::access::{ApiToken, Grant, JoinToken, Role, Secret, Token};
use nigh_model::trust::{Authority, Trust};
use nigh_model::{ClusterId, NodeId};

use super::folder::{authorities_pem, write_secret};
use super::{IdentityError, IdentityFolder, Material, Request, Signer, Subject};
use crate::clock;

/// What an admin holds, in the data folder of the node that began.
pub(super) const ADMIN_NAME: &str = "admin.toml";
/// The name of the first admin's token.
const ADMIN_TOKEN: &str = "first admin";
/// The name of the token by which the first nodes join.
const JOIN_TOKEN: &str = "written at bootstrap";

/// What the first node tells the cluster when it begins it.
pub(crate) struct Begun {
    /// The authority.
    pub(crate) authority: Authority,
    /// The first tokens.
    pub(crate) tokens: Vec<Token>,
}

/// What is asked for of a beginning.
pub(crate) struct Beginning<'a> {
    /// The data folder.
    pub(crate) data: &'a Path,
    /// The cluster.
    pub(crate) cluster: &'a ClusterId,
    /// Hosts by which the first node is reached.
    pub(crate) hosts: Vec<String>,
    /// `host:port` of its API.
    pub(crate) api: String,
    /// Where to write a token by which any number of nodes may join.
    pub(crate) join_token: Option<&'a Path>,
    /// How long certificates live.
    pub(crate) life: Duration,
}

/// Makes the authority and the first node's certificate, and writes the first credentials.
/// Nothing is overwritten that a beginning cut short has left: it is begun again from there.
///
/// # Errors
/// What the disk answers.
pub(crate) fn begin(
    folder: &IdentityFolder,
    beginning: &Beginning<'_>,
) -> Result<Material, IdentityError> {
    let now_ms = clock::now_ms();
    let signer = Signer::new(beginning.cluster, now_ms)?;
    let authority = signer.authority();
    let issuer = authority.id();
    let asked = Request::new()?;
    let subject = Subject {
        node: NodeId(1),
        cluster: beginning.cluster.clone(),
        hosts: beginning.hosts.clone(),
    };
    let certificate = signer.sign(&asked.request, &subject, now_ms, beginning.life)?;
    let trust = Trust { authorities: vec![authority], signing: Some(issuer) };

    let (id, secret) = clock::token();
    let admin = ApiToken { id, secret };
    write_secret(&admin_path(beginning.data), credentials(beginning, &trust, &admin).as_bytes())?;
    if let Some(path) = beginning.join_token {
        let (id, secret) = clock::token();
        let token = JoinToken { id, secret, authority: issuer };
        write_secret(path, format!("{}\n", token.reveal()).as_bytes())?;
    }
    folder.keep_signer(&signer)?;
    let material = Material { certificate, issuer, key: asked.key, trust };
    folder.keep(&material)?;
    Ok(material)
}

/// What the cluster is told by the node that begins it: read from what [`begin`] wrote, so that
/// a beginning cut short is told the same when it goes on.
///
/// # Errors
/// What was written is gone or damaged.
pub(crate) fn begun(
    folder: &IdentityFolder,
    data: &Path,
    join_token: Option<&Path>,
) -> Result<Begun, IdentityError> {
    let now_ms = clock::now_ms();
    let lost = |path: PathBuf, why: &str| IdentityError::Damaged { path, why: why.to_owned() };
    let material = folder.load()?;
    let authority = material.and_then(|material| material.trust.signer().cloned());
    let authority = authority.ok_or_else(|| lost(data.to_owned(), "it holds no authority"))?;
    let path = admin_path(data);
    let text = std::fs::read_to_string(&path).map_err(|source| IdentityError::Io {
        what: "read",
        path: path.clone(),
        source,
    })?;
    let admin = text.lines().find_map(|line| line.strip_prefix("token = \"")?.strip_suffix('"'));
    let admin: ApiToken = admin
        .and_then(|token| token.parse().ok())
        .ok_or_else(|| lost(path, "it holds no token"))?;
    let mut tokens =
        vec![token(admin.id, &admin.secret, ADMIN_TOKEN, Grant::Api { role: Role::Admin }, now_ms)];
    if let Some(path) = join_token {
        let read = std::fs::read_to_string(path).map_err(|source| IdentityError::Io {
            what: "read",
            path: path.to_owned(),
            source,
        })?;
        let join: JoinToken =
            read.parse().map_err(|_| lost(path.to_owned(), "it holds no join token"))?;
        let grant = Grant::Join { uses_left: None, node: None, region: None };
        tokens.push(token(join.id, &join.secret, JOIN_TOKEN, grant, now_ms));
    }
    Ok(Begun { authority, tokens })
}

fn token(
    id: nigh_model::access::TokenId,
    secret: &Secret,
    name: &str,
    grant: Grant,
    created_ms: u64,
) -> Token {
    let digest = secret.digest();
    Token { id, digest, name: name.to_owned(), grant, created_ms, expires_ms: None }
}

fn admin_path(data: &Path) -> PathBuf {
    data.join(ADMIN_NAME)
}

/// A credentials file.
fn credentials(beginning: &Beginning<'_>, trust: &Trust, token: &ApiToken) -> String {
    format!(
        "# What the holder of this file may do with the cluster: everything. Keep it secret.\n\
         api = [\"https://{}\"]\n\
         cluster = \"{}\"\n\
         token = \"{}\"\n\
         ca = '''\n{}'''\n",
        beginning.api,
        beginning.cluster,
        token.reveal(),
        authorities_pem(trust)
    )
}
