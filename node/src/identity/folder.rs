//! `identity/` in the data folder: certificate and key of this node, whom it trusts, and on
//! voters the key of the authority, sealed. Everything in it is for its owner's eyes only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nigh_model::Digest;
use nigh_model::trust::{Authority, Trust};
use zeroize::Zeroizing;

use super::sealed::SealKey;
use super::{IdentityError, Signer};
use crate::clock;

const FOLDER_NAME: &str = "identity";
/// The certificate of this node, in PEM.
const CERTIFICATE_NAME: &str = "node.pem";
/// Its private key, PKCS #8 in PEM.
const KEY_NAME: &str = "node.key";
/// Whom this node trusts, for people and tools: certificates in PEM.
const AUTHORITIES_NAME: &str = "ca.pem";
/// The same with all that belongs to it, for this node.
const TRUST_NAME: &str = "trust.json";
/// What the authority's key is sealed with, where the operator gives nothing else.
const SEAL_NAME: &str = "seal.key";
const TEMPORARY_SUFFIX: &str = ".new";
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The identity folder of a node. All methods block.
#[derive(Clone)]
pub(crate) struct IdentityFolder {
    path: PathBuf,
    seal: SealKey,
}

impl IdentityFolder {
    /// Opens the folder in a data folder, made if missing. `key_file`: what the authority's key
    /// is sealed with, if not by a key beside it.
    ///
    /// # Errors
    /// What the disk answers, or the key file is none.
    pub(crate) fn open(data: &Path, key_file: Option<&Path>) -> Result<Self, IdentityError> {
        let path = data.join(FOLDER_NAME);
        if !path.exists() {
            let made = fs::DirBuilder::new().mode(FOLDER_MODE).create(&path);
            made.map_err(|source| io_error("make", &path, source))?;
            sync_folder(data)?;
        }
        let mut folder = Self { path, seal: SealKey::of(&[]) };
        folder.seal = match key_file {
            Some(file) => SealKey::of_file(file)?,
            None => match folder.read(SEAL_NAME)? {
                Some(material) => SealKey::of(&material),
                None => {
                    let material = Zeroizing::new(clock::random_bytes::<32>());
                    folder.write(SEAL_NAME, material.as_slice())?;
                    SealKey::of(material.as_slice())
                }
            },
        };
        Ok(folder)
    }

    /// The certificate and key of this node and whom it trusts; none when it has none yet.
    ///
    /// # Errors
    /// What the disk answers, or a file is damaged.
    pub(crate) fn load(&self) -> Result<Option<super::Material>, IdentityError> {
        let (Some(certificate), Some(key), Some(trust)) =
            (self.read(CERTIFICATE_NAME)?, self.read(KEY_NAME)?, self.read(TRUST_NAME)?)
        else {
            return Ok(None);
        };
        let mut certificates = self.pem(CERTIFICATE_NAME, &certificate)?.into_iter();
        let missing = || self.damaged(CERTIFICATE_NAME, "it holds no certificate and its issuer");
        let certificate = certificates.next().ok_or_else(missing)?;
        let issuer = Digest::of(&certificates.next().ok_or_else(missing)?);
        let key = self.pem(KEY_NAME, &key)?.into_iter().next();
        let key = key.ok_or_else(|| self.damaged(KEY_NAME, "it holds no key"))?;
        let trust: Trust = serde_json::from_slice(&trust)
            .map_err(|error| self.damaged(TRUST_NAME, error.to_string()))?;
        let key = Zeroizing::new(key);
        Ok(Some(super::Material { certificate, issuer, key, trust }))
    }

    /// Keeps a certificate and its key. The key first: a certificate without it is of no use.
    ///
    /// # Errors
    /// What the disk answers.
    pub(crate) fn keep(&self, material: &super::Material) -> Result<(), IdentityError> {
        self.keep_trust(&material.trust)?;
        let key = Zeroizing::new(encode("PRIVATE KEY", &material.key));
        self.write(KEY_NAME, key.as_bytes())?;
        let issuer = material.trust.authority(material.issuer);
        let issuer =
            issuer.map_or_else(String::new, |issuer| encode("CERTIFICATE", &issuer.certificate));
        let chain = encode("CERTIFICATE", &material.certificate) + &issuer;
        self.write(CERTIFICATE_NAME, chain.as_bytes())
    }

    /// Keeps whom this node trusts.
    ///
    /// # Errors
    /// What the disk answers.
    pub(crate) fn keep_trust(&self, trust: &Trust) -> Result<(), IdentityError> {
        self.write(AUTHORITIES_NAME, authorities_pem(trust).as_bytes())?;
        let json = serde_json::to_vec(trust).expect("trust is lists and strings");
        self.write(TRUST_NAME, &json)
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
        self.write(&signer_name(id), &sealed)
    }

    /// The authorities whose keys are here.
    ///
    /// # Errors
    /// What the disk answers.
    pub(crate) fn signers(&self) -> Result<Vec<Digest>, IdentityError> {
        let list = |source| io_error("list", &self.path, source);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(list)? {
            let name = entry.map_err(list)?.file_name();
            let id: Option<Digest> = name.to_str().and_then(|name| {
                let id = name.strip_prefix("authority-")?.strip_suffix(".key")?;
                format!("sha256:{id}").parse().ok()
            });
            found.extend(id);
        }
        Ok(found)
    }

    /// Forgets the key of an authority.
    ///
    /// # Errors
    /// What the disk answers.
    pub(crate) fn forget_signer(&self, id: Digest) -> Result<(), IdentityError> {
        let path = self.path.join(signer_name(id));
        match fs::remove_file(&path) {
            Ok(()) => sync_folder(&self.path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(io_error("remove", &path, source)),
        }
    }

    /// Writes a secret file of this folder, durably: all of it or nothing.
    ///
    /// # Errors
    /// What the disk answers.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), IdentityError> {
        write_secret(&self.path.join(name), bytes)
    }

    /// Reads a file of this folder; none if there is none.
    ///
    /// # Errors
    /// What the disk answers.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("read", &path, source)),
        }
    }

    fn pem(&self, name: &str, text: &[u8]) -> Result<Vec<Vec<u8>>, IdentityError> {
        let blocks = rustls_pem(text);
        blocks.ok_or_else(|| self.damaged(name, "it is no PEM"))
    }

    fn damaged(&self, name: &str, why: impl Into<String>) -> IdentityError {
        IdentityError::Damaged { path: self.path.join(name), why: why.into() }
    }
}

/// The certificates of all trusted authorities, in PEM.
pub(crate) fn authorities_pem(trust: &Trust) -> String {
    trust.authorities.iter().map(|known| encode("CERTIFICATE", &known.certificate)).collect()
}

/// Writes a file that only its owner may read, durably: all of it or nothing.
///
/// # Errors
/// What the disk answers.
pub(super) fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(TEMPORARY_SUFFIX);
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        // One that a crash left behind may have other rights.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    written.map_err(|source| io_error("write", path, source))?;
    sync_folder(path.parent().unwrap_or(path))
}

fn sync_folder(path: &Path) -> Result<(), IdentityError> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(|source| io_error("sync", path, source))
}

fn signer_name(id: Digest) -> String {
    format!("authority-{}.key", id.hex())
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Io { what, path: path.to_owned(), source }
}

fn encode(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}

/// The contents of the blocks of a PEM file (RFC 7468).
fn rustls_pem(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    use rustls::pki_types::pem::{PemObject as _, SectionKind};
    let blocks = <(SectionKind, Vec<u8>)>::pem_slice_iter(text);
    blocks.map(|block| Some(block.ok()?.1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Material, Request, Subject};
    use nigh_model::{ClusterId, NodeId};
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
        let data = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::open(data.path(), None).unwrap();
        assert!(folder.load().unwrap().is_none());
        let (signer, kept) = material();
        folder.keep(&kept).unwrap();
        folder.keep_signer(&signer).unwrap();

        let again = IdentityFolder::open(data.path(), None).unwrap();
        let loaded = again.load().unwrap().unwrap();
        assert_eq!(loaded.certificate, kept.certificate);
        assert_eq!(loaded.issuer, kept.issuer);
        assert_eq!(loaded.key.as_slice(), kept.key.as_slice());
        assert_eq!(loaded.trust, kept.trust);
        let known = again.signer(&signer.authority()).unwrap().unwrap();
        assert_eq!(known.key().as_slice(), signer.key().as_slice());
        assert_eq!(again.signers().unwrap(), [signer.authority().id()]);

        let identity = data.path().join(FOLDER_NAME);
        assert_eq!(fs::metadata(&identity).unwrap().permissions().mode() & 0o777, 0o700);
        for entry in fs::read_dir(&identity).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", path.display());
        }
        again.forget_signer(signer.authority().id()).unwrap();
        assert!(again.signer(&signer.authority()).unwrap().is_none());
    }

    #[test]
    fn the_key_of_the_authority_is_sealed_and_opens_only_with_the_operators_key() {
        let data = tempfile::tempdir().unwrap();
        let (own, other) = (data.path().join("own"), data.path().join("other"));
        fs::write(&own, [1; 32]).unwrap();
        fs::write(&other, [2; 32]).unwrap();
        let (signer, _) = material();
        let folder = IdentityFolder::open(data.path(), Some(&own)).unwrap();
        folder.keep_signer(&signer).unwrap();
        let path = data.path().join(FOLDER_NAME).join(signer_name(signer.authority().id()));
        let bytes = fs::read(path).unwrap();
        assert!(!bytes.windows(16).any(|window| signer.key().windows(16).any(|key| key == window)));
        let folder = IdentityFolder::open(data.path(), Some(&other)).unwrap();
        let error = folder.signer(&signer.authority()).err().unwrap().to_string();
        assert!(error.contains("another key"), "{error}");
    }
}
