//! `identity/` in the data folder: certificate and key of this node, whom it trusts, and on
//! voters the key of the authority, sealed. Everything in it is for its owner's eyes only.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nigh_model::Digest;
use nigh_model::trust::{Authority, Trust};
use nigh_storage::{DataDir, SecretFile, SecretFolder};
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use zeroize::Zeroizing;

use super::sealed::SealKey;
use super::{IdentityError, Material, Signer};
use crate::clock;

/// The certificate of this node, its issuer's and its private key, in PEM: one file, so that a
/// crash never leaves the one without the other.
const NODE_NAME: &str = "node.pem";
/// Whom this node trusts, for people and tools: certificates in PEM.
const AUTHORITIES_NAME: &str = "ca.pem";
/// The same with all that belongs to it, for this node.
const TRUST_NAME: &str = "trust.json";
/// What the authority's key is sealed with, where the operator gives nothing else.
const SEAL_NAME: &str = "seal.key";
/// What an admin holds, in the data folder of the node that began the cluster.
const ADMIN_NAME: &str = "admin.toml";

/// The identity folder of a node. Methods block where they say that the disk may answer.
#[derive(Clone)]
pub(crate) struct IdentityFolder {
    secrets: SecretFolder,
    seal: SealKey,
    admin: SecretFile,
    /// The authorities whose keys are here.
    held: Arc<Mutex<BTreeSet<Digest>>>,
}

impl IdentityFolder {
    /// Opens the folder in a data folder, made if missing. `key_file`: what the authority's key
    /// is sealed with, if not by a key beside it.
    ///
    /// # Errors
    /// What the disk answers, or the key file is none.
    pub(crate) fn open(data: &DataDir, key_file: Option<&Path>) -> Result<Self, IdentityError> {
        let secrets = SecretFolder::open(data)?;
        let seal = match key_file {
            Some(file) => SealKey::of_file(file)?,
            None => seal_beside(&secrets.file(SEAL_NAME))?,
        };
        let held = secrets.names()?.iter().filter_map(|name| authority_of(name)).collect();
        let admin = secrets.elsewhere(&data.path().join(ADMIN_NAME));
        Ok(Self { secrets, seal, admin, held: Arc::new(Mutex::new(held)) })
    }

    /// The file of the first admin's credentials.
    pub(super) fn admin(&self) -> &SecretFile {
        &self.admin
    }

    /// A file that is written as the secrets here are, and lies where an operator wants it.
    pub(super) fn elsewhere(&self, path: &Path) -> SecretFile {
        self.secrets.elsewhere(path)
    }

    /// The certificate and key of this node and whom it trusts; none when it has none yet.
    ///
    /// # Errors
    /// What the disk answers, or a file is damaged.
    pub(crate) fn load(&self) -> Result<Option<Material>, IdentityError> {
        let (Some(own), Some(trust)) = (self.read(NODE_NAME)?, self.read(TRUST_NAME)?) else {
            return Ok(None);
        };
        let mut certificates = Vec::new();
        let mut key = None;
        for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(&own) {
            match block.map_err(|_| self.damaged(NODE_NAME, "it is no PEM"))? {
                (SectionKind::Certificate, der) => certificates.push(der),
                (SectionKind::PrivateKey, der) => key = Some(Zeroizing::new(der)),
                _ => {}
            }
        }
        let (Ok([certificate, issuer]), Some(key)) = (<[Vec<u8>; 2]>::try_from(certificates), key)
        else {
            let why = "it does not hold a certificate, its issuer and a key";
            return Err(self.damaged(NODE_NAME, why));
        };
        let trust: Trust = serde_json::from_slice(&trust)
            .map_err(|error| self.damaged(TRUST_NAME, error.to_string()))?;
        Ok(Some(Material { certificate, issuer: Digest::of(&issuer), key, trust }))
    }

    /// Keeps a certificate and its key.
    ///
    /// # Errors
    /// What the disk answers, or the issuer is not trusted; what was kept before stays.
    pub(crate) fn keep(&self, material: &Material) -> Result<(), IdentityError> {
        let issuer = material.trust.authority(material.issuer).ok_or_else(|| {
            IdentityError::Invalid("a certificate by an authority that is not trusted".to_owned())
        })?;
        self.keep_trust(&material.trust)?;
        let own = Zeroizing::new(
            encode("CERTIFICATE", &material.certificate)
                + &encode("CERTIFICATE", &issuer.certificate)
                + &encode("PRIVATE KEY", &material.key),
        );
        Ok(self.secrets.file(NODE_NAME).write(own.as_bytes())?)
    }

    /// Keeps whom this node trusts.
    ///
    /// # Errors
    /// What the disk answers.
    pub(crate) fn keep_trust(&self, trust: &Trust) -> Result<(), IdentityError> {
        self.secrets.file(AUTHORITIES_NAME).write(authorities_pem(trust).as_bytes())?;
        let json = serde_json::to_vec(trust).expect("trust is lists and strings");
        Ok(self.secrets.file(TRUST_NAME).write(&json)?)
    }

    /// Whether the key of an authority is here. Asks no disk.
    pub(crate) fn holds(&self, id: Digest) -> bool {
        self.held().contains(&id)
    }

    /// The authorities whose keys are here. Asks no disk.
    pub(crate) fn signers(&self) -> Vec<Digest> {
        self.held().iter().copied().collect()
    }

    /// The key of an authority, if it is here.
    ///
    /// # Errors
    /// What the disk answers, or another key sealed it.
    pub(crate) fn signer(&self, authority: &Authority) -> Result<Option<Signer>, IdentityError> {
        let id = authority.id();
        let name = signer_name(id);
        let Some(sealed) = self.read(&name)? else { return Ok(None) };
        let key = self.seal.open(&sealed, id.as_bytes());
        let key = key.map_err(|error| self.damaged(&name, error.to_string()))?;
        Ok(Some(Signer::from_parts(authority, &key)?))
    }

    /// Keeps the key of an authority, sealed.
    ///
    /// # Errors
    /// What the disk answers.
    pub(crate) fn keep_signer(&self, signer: &Signer) -> Result<(), IdentityError> {
        let id = signer.authority().id();
        let sealed = self.seal.seal(&signer.key(), id.as_bytes())?;
        self.secrets.file(&signer_name(id)).write(&sealed)?;
        self.held().insert(id);
        Ok(())
    }

    /// Forgets the key of an authority.
    ///
    /// # Errors
    /// What the disk answers.
    pub(crate) fn forget_signer(&self, id: Digest) -> Result<(), IdentityError> {
        if self.held().remove(&id) {
            self.secrets.file(&signer_name(id)).remove()?;
        }
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
        Ok(self.secrets.file(name).read()?.map(Zeroizing::new))
    }

    fn damaged(&self, name: &str, why: impl Into<String>) -> IdentityError {
        let path = self.secrets.file(name).path().clone();
        IdentityError::Damaged { path, why: why.into() }
    }
}

/// The certificates of all trusted authorities, in PEM.
pub(crate) fn authorities_pem(trust: &Trust) -> String {
    trust.authorities.iter().map(|known| encode("CERTIFICATE", &known.certificate)).collect()
}

/// The key that lies in the folder itself, made if missing.
fn seal_beside(file: &SecretFile) -> Result<SealKey, IdentityError> {
    if let Some(material) = file.read()? {
        return Ok(SealKey::of(&Zeroizing::new(material)));
    }
    let material = Zeroizing::new(clock::random_bytes::<32>());
    file.write(material.as_slice())?;
    Ok(SealKey::of(material.as_slice()))
}

fn signer_name(id: Digest) -> String {
    format!("authority-{}.key", id.hex())
}

fn authority_of(name: &str) -> Option<Digest> {
    let id = name.strip_prefix("authority-")?.strip_suffix(".key")?;
    format!("sha256:{id}").parse().ok()
}

/// A block of PEM (RFC 7468).
fn encode(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Request, Subject};
    use nigh_model::{ClusterId, NodeId};
    use nigh_storage::secret::SECRETS_FOLDER;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    fn material() -> (Signer, Material) {
        let cluster = ClusterId::new("0123456789abcdef0123456789abcdef").unwrap();
        let signer = Signer::new(&cluster, clock::now_ms()).unwrap();
        let asked = Request::new().unwrap();
        let subject = Subject { node: NodeId(1), cluster, hosts: Vec::new() };
        let life = Duration::from_secs(60);
        let certificate = signer.sign(&asked.request, &subject, clock::now_ms(), life).unwrap();
        let authority = signer.authority();
        let issuer = authority.id();
        let trust = Trust { authorities: vec![authority], signing: Some(issuer) };
        (signer, Material { certificate, issuer, key: asked.key, trust })
    }

    #[test]
    fn what_was_kept_is_loaded_and_nobody_else_may_read_it() {
        let place = tempfile::tempdir().unwrap();
        let data = DataDir::open(place.path()).unwrap();
        let folder = IdentityFolder::open(&data, None).unwrap();
        assert!(folder.load().unwrap().is_none());
        let (signer, kept) = material();
        folder.keep(&kept).unwrap();
        folder.keep_signer(&signer).unwrap();

        let again = IdentityFolder::open(&data, None).unwrap();
        let loaded = again.load().unwrap().unwrap();
        assert_eq!(loaded.certificate, kept.certificate);
        assert_eq!(loaded.issuer, kept.issuer);
        assert_eq!(loaded.key.as_slice(), kept.key.as_slice());
        assert_eq!(loaded.trust, kept.trust);
        let known = again.signer(&signer.authority()).unwrap().unwrap();
        assert_eq!(known.key().as_slice(), signer.key().as_slice());
        assert_eq!(again.signers(), [signer.authority().id()]);

        let identity = data.path().join(SECRETS_FOLDER);
        assert_eq!(fs::metadata(&identity).unwrap().permissions().mode() & 0o777, 0o700);
        for entry in fs::read_dir(&identity).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", path.display());
        }
        again.forget_signer(signer.authority().id()).unwrap();
        assert!(again.signer(&signer.authority()).unwrap().is_none());
        assert!(!again.holds(signer.authority().id()));
    }

    #[test]
    fn the_key_of_the_authority_is_sealed_and_opens_only_with_the_operators_key() {
        let place = tempfile::tempdir().unwrap();
        let (own, other) = (place.path().join("own"), place.path().join("other"));
        let data = DataDir::open(&place.path().join("data")).unwrap();
        fs::write(&own, [1; 32]).unwrap();
        fs::write(&other, [2; 32]).unwrap();
        let (signer, _) = material();
        let folder = IdentityFolder::open(&data, Some(&own)).unwrap();
        folder.keep_signer(&signer).unwrap();
        let path = data.path().join(SECRETS_FOLDER).join(signer_name(signer.authority().id()));
        let bytes = fs::read(path).unwrap();
        assert!(!bytes.windows(16).any(|window| signer.key().windows(16).any(|key| key == window)));
        let folder = IdentityFolder::open(&data, Some(&other)).unwrap();
        let error = folder.signer(&signer.authority()).err().unwrap().to_string();
        assert!(error.contains("another key"), "{error}");
    }
}
