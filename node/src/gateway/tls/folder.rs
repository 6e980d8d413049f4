//! Finds certificates in a folder, and tells whether one has changed.
//!
//! `NAME.crt` with `NAME.key` beside it, as most tools and the secrets of Kubernetes have them;
//! `NAME/fullchain.pem` with `NAME/privkey.pem`, as certbot has them. Everything else there is left
//! alone, and so is what begins with a dot.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use nigh_model::Digest;
use zeroize::Zeroizing;

use super::HttpsError;

/// Most certificates of a node: each is looked at every few seconds.
const PAIRS_MAX: usize = 1_000;
/// Most bytes of a file: a chain of the longest keys takes some 20 KiB.
pub(super) const FILE_BYTES_MAX: u64 = 256 << 10;
/// The name that comes first.
const DEFAULT: &str = "default";

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    /// The name of its file or folder.
    pub(crate) name: String,
    /// The certificate, and what leads from it to an authority.
    pub(crate) certificate: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
}

impl Pair {
    /// `NAME.crt` and `NAME.key` of a folder.
    pub(crate) fn beside(folder: &Path, name: &str) -> Self {
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        Self { name: name.to_owned(), certificate: file("crt"), key: file("key") }
    }

    /// Whether it is for those who name no host, or one of no other certificate.
    pub(crate) fn is_default(&self) -> bool {
        self.name == DEFAULT
    }

    /// Changes whenever what is in one of the files does, also behind a link.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { certificate: of_file(&self.certificate), key: of_file(&self.key) }
    }
}

/// Stands for what is in the two files. Times of files are too coarse: two writes within a few
/// milliseconds may look like one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    certificate: Option<Digest>,
    key: Option<Digest>,
}

fn of_file(path: &Path) -> Option<Digest> {
    content(path).ok().map(|content| Digest::of(&content))
}

/// What is in a file; of one that is too long, a little more than may be.
pub(super) fn content(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(Vec::new());
    fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
    Ok(content)
}

/// The pairs of a folder, the default one first, then by name.
///
/// # Errors
/// The folder cannot be read, or holds too many.
pub(crate) fn pairs(folder: &Path) -> Result<Vec<Pair>, HttpsError> {
    let unread = |source| HttpsError::Io { what: "read", path: folder.to_owned(), source };
    let mut pairs = Vec::new();
    for entry in fs::read_dir(folder).map_err(unread)? {
        let path = entry.map_err(unread)?.path();
        pairs.extend(pair_of(folder, &path));
        if pairs.len() > PAIRS_MAX {
            return Err(HttpsError::TooMany { path: folder.to_owned(), max: PAIRS_MAX });
        }
    }
    let order = |pair: &Pair| (!pair.is_default(), pair.certificate.clone());
    pairs.sort_by_key(order);
    Ok(pairs)
}

/// The pair of which this is the certificate, or the folder.
fn pair_of(folder: &Path, path: &Path) -> Option<Pair> {
    let name = path.file_name()?.to_str()?;
    if name.starts_with('.') {
        return None;
    }
    if path.extension() == Some(OsStr::new("crt")) {
        return Some(Pair::beside(folder, path.file_stem()?.to_str()?));
    }
    let (certificate, key) = (path.join("fullchain.pem"), path.join("privkey.pem"));
    certificate.exists().then(|| Pair { name: name.to_owned(), certificate, key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_both_forms_are_found_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        for name in ["shop.example", "default", ".hidden", "empty"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        for file in [
            "shop.example/fullchain.pem",
            "default/fullchain.pem",
            ".hidden/fullchain.pem",
            "a.example.crt",
            "README",
            "b.key",
            ".c.crt",
        ] {
            fs::write(path.join(file), "x").unwrap();
        }
        let pairs = pairs(path).unwrap();
        let names: Vec<&str> = pairs.iter().map(|pair| pair.name.as_str()).collect();
        assert_eq!(names, ["default", "a.example", "shop.example"]);
        assert_eq!(pairs[1].key, path.join("a.example.key"));
        assert_eq!(pairs[2].key, path.join("shop.example/privkey.pem"));
    }

    #[test]
    fn a_stamp_follows_links_as_certbot_makes_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let pair = Pair::beside(path, "x");
        for (version, text) in [("1", "old"), ("2", "new")] {
            fs::write(path.join(version), text).unwrap();
        }
        std::os::unix::fs::symlink(path.join("1"), &pair.certificate).unwrap();
        let before = pair.stamp();
        assert_eq!(before, pair.stamp());
        fs::remove_file(&pair.certificate).unwrap();
        std::os::unix::fs::symlink(path.join("2"), &pair.certificate).unwrap();
        assert_ne!(before, pair.stamp());
    }
}
