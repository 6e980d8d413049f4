//! Reads one certificate with its key, and refuses what callers could not use.
//!
//! One that has ended, or not begun, is no error: it is served and said, as the clock may be wrong and
//! a caller may not mind.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::InconsistentKeys;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;
use zeroize::Zeroizing;

use super::BadPair;
use super::folder::{FILE_BYTES_MAX, Pair, content};
use crate::identity::provider;

/// A certificate that can be served.
#[derive(Debug)]
pub(crate) struct Certificate {
    /// It, those that lead from it to an authority, and its key.
    pub(crate) key: Arc<CertifiedKey>,
    /// The hosts that it is for, in lower case; `*.` stands for one label.
    pub(crate) hosts: Vec<String>,
    /// When it begins to hold, in ms since the Unix epoch.
    pub(crate) begins_ms: u64,
    /// When it ends, in ms since the Unix epoch.
    pub(crate) ends_ms: u64,
}

impl Certificate {
    /// Whether it holds at this time.
    pub(crate) fn holds(&self, now_ms: u64) -> bool {
        (self.begins_ms..self.ends_ms).contains(&now_ms)
    }
}

/// Reads a pair.
///
/// # Errors
/// The first file that is wrong, and in what.
pub(crate) fn read(pair: &Pair) -> Result<Certificate, BadPair> {
    let chain = chain(&pair.certificate)?;
    let bad = |why: String, hint: &str| refused(&pair.certificate, why, hint);
    let whole = "write the PEM file anew, as its authority gave it";
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0])
        .map_err(|error| bad(format!("its first certificate is none: {error}"), whole))?;
    let (hosts, named) = hosts(&leaf);
    if !named {
        return Err(bad(
            "it names no host".to_owned(),
            "callers look at the subject alternative names alone: have one made with them",
        ));
    }
    let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000);
    let validity = leaf.validity();
    let (begins_ms, ends_ms) =
        (ms(validity.not_before.timestamp()), ms(validity.not_after.timestamp()));
    let key = key(&pair.key)?;
    let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => refused(
            &pair.key,
            format!("it is not the key of the first certificate in {}", pair.certificate.display()),
            "put the certificate of the host first and what signed it after it, or the right key here",
        ),
        error => refused(
            &pair.key,
            format!("the key cannot be used: {error}"),
            "RSA from 2048 bits, ECDSA on P-256 or P-384, and Ed25519 can",
        ),
    })?;
    Ok(Certificate { key: Arc::new(key), hosts, begins_ms, ends_ms })
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, BadPair> {
    let text = bytes(path)?;
    let hint = "a PEM file begins with -----BEGIN CERTIFICATE-----";
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| refused(path, format!("it is no PEM: {error}"), hint))?;
    if chain.is_empty() {
        return Err(refused(path, "it holds no certificate".to_owned(), hint));
    }
    Ok(chain)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, BadPair> {
    let text = bytes(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound if contains(&text, b"ENCRYPTED") => refused(
            path,
            "the key is encrypted".to_owned(),
            "nobody is there to type its password: openssl pkey -in FILE -out NAME.key",
        ),
        pem::Error::NoItemsFound => refused(
            path,
            "it holds no private key".to_owned(),
            "a PEM file of one begins with -----BEGIN PRIVATE KEY-----",
        ),
        error => refused(path, format!("it is no PEM: {error}"), "write the file anew"),
    })
}

fn bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, BadPair> {
    let bytes = content(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => refused(
            path,
            "there is no such file".to_owned(),
            "a certificate and its key lie side by side: NAME.crt and NAME.key, or \
             NAME/fullchain.pem and NAME/privkey.pem",
        ),
        io::ErrorKind::PermissionDenied => {
            refused(path, error.to_string(), "let the user that nigh runs as read it")
        }
        _ => refused(path, error.to_string(), "look at the file and its disk"),
    })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let why = format!("it is longer than {} KiB", FILE_BYTES_MAX >> 10);
        return Err(refused(path, why, "leave in it what callers need: one chain, or one key"));
    }
    Ok(bytes)
}

/// The names of hosts, and whether it names any host at all, be it by its IP address.
fn hosts(leaf: &X509Certificate<'_>) -> (Vec<String>, bool) {
    let Ok(Some(names)) = leaf.subject_alternative_name() else { return (Vec::new(), false) };
    let names = &names.value.general_names;
    let hosts = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    let hosts: Vec<String> = hosts.collect();
    let by_address = names.iter().any(|name| matches!(name, GeneralName::IPAddress(_)));
    let named = by_address || !hosts.is_empty();
    (hosts, named)
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

fn refused(path: &Path, why: String, hint: &str) -> BadPair {
    BadPair { path: path.to_owned(), why, hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Made, made};
    use super::*;

    fn said(folder: &Path, certificate: &str, key: &str) -> String {
        let pair = Pair {
            name: "x".to_owned(),
            certificate: folder.join("x.crt"),
            key: folder.join("x.key"),
        };
        std::fs::write(&pair.certificate, certificate).unwrap();
        std::fs::write(&pair.key, key).unwrap();
        read(&pair).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_what_why_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let Made { certificate, key, .. } = made(&["a.example"]);
        let other = made(&["a.example"]);
        let nameless = made(&[]);
        for (given, its_key, parts) in [
            ("", key.as_str(), ["x.crt", "holds no certificate", "BEGIN CERTIFICATE"]),
            ("-----BEGIN CERTIFICATE-----\n!\n", &key, ["x.crt", "no PEM", "BEGIN CERTIFICATE"]),
            (&certificate, "", ["x.key", "holds no private key", "BEGIN PRIVATE KEY"]),
            (&certificate, &other.key, ["x.key", "not the key of the first", "right key"]),
            (&nameless.certificate, &nameless.key, ["x.crt", "names no host", "alternative"]),
            (
                &certificate,
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                ["x.key", "encrypted", "openssl pkey"],
            ),
        ] {
            let said = said(path, given, its_key);
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        }
        let long = "x".repeat(FILE_BYTES_MAX as usize + 1);
        assert!(said(path, &long, &key).contains("longer than 256 KiB"));
    }

    #[test]
    fn a_chain_is_read_with_the_hosts_of_its_first() {
        let folder = tempfile::tempdir().unwrap();
        let Made { certificate, key, .. } = made(&["A.example", "*.b.example"]);
        let pair = Pair {
            name: "x".to_owned(),
            certificate: folder.path().join("x.crt"),
            key: folder.path().join("x.key"),
        };
        let chain = format!("{certificate}{}", made(&["authority"]).certificate);
        std::fs::write(&pair.certificate, chain).unwrap();
        std::fs::write(&pair.key, key).unwrap();
        let read = read(&pair).unwrap();
        assert_eq!(read.hosts, ["a.example", "*.b.example"]);
        assert_eq!(read.key.cert.len(), 2);
        assert!(read.holds(read.begins_ms) && !read.holds(read.ends_ms));
    }
}
