//! A certificate that has signed itself, for where there is no other: a cluster on one machine, a first
//! try. Who calls must be given it to trust it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, SerialNumber};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::folder::Pair;
use super::{HttpsError, pair};
use crate::clock;

/// Its name in the folder.
const NAME: &str = "self-made";
/// It lives this long: what browsers take at most of one that they were told to trust is 825 days.
const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// One that ends sooner than this is made anew at a start.
const RENEWED_BEFORE: Duration = Duration::from_secs(60 * 24 * 3600);
/// It begins this long before it is made: clocks differ.
const BACKDATED: Duration = Duration::from_secs(2 * 3600);
/// The hosts that it is always for.
const HERE: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Makes a certificate for this machine and these hosts, names or IP addresses, unless one is there
/// that holds on; where it is.
///
/// # Errors
/// The folder cannot be written, or a host is none.
pub fn make(folder: &Path, hosts: &[String]) -> Result<PathBuf, HttpsError> {
    let mut all: Vec<String> = HERE.iter().map(|host| (*host).to_owned()).collect();
    for host in hosts.iter().map(|host| host.trim_matches(['[', ']'])) {
        if !all.iter().any(|known| known == host) {
            all.push(host.to_owned());
        }
    }
    let pair = Pair::beside(folder, NAME);
    let now_ms = clock::now_ms();
    if is_good(&pair, &all, now_ms) {
        return Ok(pair.certificate);
    }
    let not_made = |why: String| HttpsError::NotMade { hosts: all.join(", "), why };
    let (certificate, key) = sign(&all, now_ms).map_err(|error| not_made(error.to_string()))?;
    fs::create_dir_all(folder).map_err(|source| unwritten(folder, source))?;
    // The key first: a certificate that is found has one beside it.
    put(&pair.key, key.as_bytes(), 0o600)?;
    put(&pair.certificate, certificate.as_bytes(), 0o644)?;
    Ok(pair.certificate)
}

/// Whether there is one for all these names that does not end soon.
fn is_good(pair: &Pair, hosts: &[String], now_ms: u64) -> bool {
    let Ok(certificate) = pair::read(pair) else { return false };
    let soon_ms = now_ms + RENEWED_BEFORE.as_millis() as u64;
    let is_address = |host: &String| host.parse::<std::net::IpAddr>().is_ok();
    let names = || hosts.iter().filter(|host| !is_address(host));
    let has = |host: &String| certificate.hosts.contains(&host.to_ascii_lowercase());
    certificate.ends_ms > soon_ms && names().all(has)
}

/// The certificate and its key, in PEM.
fn sign(hosts: &[String], now_ms: u64) -> Result<(String, Zeroizing<String>), rcgen::Error> {
    let now = now_ms / 1_000;
    let at = |seconds: u64| {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| rcgen::Error::Time)
    };
    let mut params = CertificateParams::new(hosts.to_vec())?;
    params.not_before = at(now.saturating_sub(BACKDATED.as_secs()))?;
    params.not_after = at(now + LIFE.as_secs())?;
    let mut serial = clock::random_bytes::<16>();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name.push(DnType::CommonName, "nigh, signed by itself");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    Ok((certificate, Zeroizing::new(key.serialize_pem())))
}

/// Writes a file as a whole: under another name first.
fn put(path: &Path, content: &[u8], mode: u32) -> Result<(), HttpsError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let write = || {
        let _ = fs::remove_file(&new);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|source| unwritten(path, source))
}

fn unwritten(path: &Path, source: io::Error) -> HttpsError {
    HttpsError::Io { what: "write", path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_made_once_and_again_for_another_host() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("https");
        let hosts = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let made = make(&path, &hosts(&["a.test", "10.0.0.1"])).unwrap();
        let first = fs::read(&made).unwrap();
        assert_eq!(make(&path, &hosts(&["a.test", "10.0.0.1"])).unwrap(), made);
        assert_eq!(fs::read(&made).unwrap(), first, "it stays");
        make(&path, &hosts(&["b.test"])).unwrap();
        assert_ne!(fs::read(&made).unwrap(), first);
        let read = pair::read(&Pair::beside(&path, NAME)).unwrap();
        assert_eq!(read.hosts, ["localhost", "b.test"]);
        let mode = fs::metadata(path.join("self-made.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = make(&file.path().join("https"), &[]).unwrap_err().to_string();
        assert!(error.starts_with("cannot write ") && error.contains("https"), "{error}");
    }
}
