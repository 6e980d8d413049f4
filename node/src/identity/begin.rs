//! The identity of the node that begins a cluster: it makes the authority, signs itself, and
//! writes what its operator and the other nodes need to come in.

use std::path::Path;
use std::time::Duration;

use nigh_model::access::{ApiToken, Grant, JoinToken, Role, Secret, Token};
use nigh_model::trust::{Authority, Trust};
use nigh_model::{ClusterId, NodeId};
use nigh_storage::SecretFile;

use super::folder::authorities_pem;
use super::{IdentityError, IdentityFolder, Material, Request, Signer, Subject};
use crate::clock;

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

/// Makes the authority and the first node's certificate, and writes the first credentials. What a
/// beginning has left that was cut short in here is replaced: nobody knows of it yet.
///
/// # Errors
/// [`IdentityError::BegunBefore`] when the token for others is there and nothing else is: this node
/// has lost its data, and the cluster may well be there. Else what the disk answers.
pub(crate) fn begin(
    folder: &IdentityFolder,
    beginning: &Beginning<'_>,
) -> Result<Material, IdentityError> {
    // The credentials are written before the token.
    let was_cut_short = folder.admin().read()?.is_some();
    if let Some(path) = beginning.join_token
        && !was_cut_short
        && folder.elsewhere(path).read()?.is_some()
    {
        return Err(IdentityError::BegunBefore { path: path.to_owned() });
    }
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
    folder.admin().write(credentials(beginning, &trust, &admin).as_bytes())?;
    if let Some(path) = beginning.join_token {
        let (id, secret) = clock::token();
        let token = JoinToken { id, secret, authority: issuer };
        folder.elsewhere(path).write(format!("{}\n", token.reveal()).as_bytes())?;
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
    join_token: Option<&Path>,
) -> Result<Begun, IdentityError> {
    let now_ms = clock::now_ms();
    let lost = |path: &Path, why: &str| IdentityError::Damaged {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    let text = |file: &SecretFile| -> Result<String, IdentityError> {
        let bytes = file.read()?.ok_or_else(|| lost(file.path(), "it is gone"))?;
        String::from_utf8(bytes).map_err(|_| lost(file.path(), "it is no text"))
    };
    let admin_file = folder.admin();
    let authority = folder.load()?.and_then(|material| material.trust.signer().cloned());
    let authority =
        authority.ok_or_else(|| lost(admin_file.path(), "no authority is beside it"))?;
    let admin = text(admin_file)?;
    let admin = admin.lines().find_map(|line| line.strip_prefix("token = \"")?.strip_suffix('"'));
    let admin: ApiToken = admin
        .and_then(|token| token.parse().ok())
        .ok_or_else(|| lost(admin_file.path(), "it holds no token"))?;
    let mut tokens =
        vec![token(admin.id, &admin.secret, ADMIN_TOKEN, Grant::Api { role: Role::Admin }, now_ms)];
    if let Some(path) = join_token {
        let read = text(&folder.elsewhere(path))?;
        let join: JoinToken = read.parse().map_err(|_| lost(path, "it holds no join token"))?;
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

#[cfg(test)]
mod tests {
    use nigh_storage::DataDir;
    use tempfile::tempdir;

    use super::*;

    fn beginning<'a>(cluster: &'a ClusterId, join_token: &'a Path) -> Beginning<'a> {
        Beginning {
            cluster,
            hosts: vec!["localhost".to_owned()],
            api: "localhost:7400".to_owned(),
            join_token: Some(join_token),
            life: Duration::from_secs(3_600),
        }
    }

    #[test]
    fn a_beginning_goes_on_where_it_was_cut_short_and_none_is_made_beside_a_cluster() {
        let (shared, first) = (tempdir().unwrap(), tempdir().unwrap());
        let token = shared.path().join("token");
        let cluster = clock::cluster_id();
        let asked = beginning(&cluster, &token);
        let data = DataDir::open(first.path()).unwrap();
        let folder = IdentityFolder::open(&data, None).unwrap();
        begin(&folder, &asked).unwrap();
        // As after a crash: nothing says yet that the folder belongs to a cluster.
        begin(&folder, &asked).unwrap();
        assert_eq!(begun(&folder, Some(&token)).unwrap().tokens.len(), 2);

        let emptied = tempdir().unwrap();
        let data = DataDir::open(emptied.path()).unwrap();
        let folder = IdentityFolder::open(&data, None).unwrap();
        let before = std::fs::read(&token).unwrap();
        let error = begin(&folder, &asked).err().unwrap();
        assert!(error.to_string().contains("a second cluster"), "{error}");
        assert_eq!(std::fs::read(&token).unwrap(), before);
        std::fs::remove_file(&token).unwrap();
        begin(&folder, &asked).unwrap();
    }
}
