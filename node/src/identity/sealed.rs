//! Keeps a secret on disk in sealed form: XChaCha20-Poly1305 under a key that is kept elsewhere.

use std::path::Path;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::IdentityError;
use crate::clock;

/// What a sealed secret begins with: its format.
const FORMAT: u8 = 1;
const NONCE_BYTES: usize = 24;
/// Least length of what an operator gives as a key: random bytes, not a password.
const KEY_FILE_BYTES_MIN: usize = 32;
/// A larger file is no key.
const KEY_FILE_BYTES_MAX: u64 = 64 << 10;

/// The key under which secrets are sealed.
#[derive(Clone)]
pub(super) struct SealKey(Zeroizing<[u8; 32]>);

impl SealKey {
    /// The key of these bytes, which are random.
    pub(super) fn of(material: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"nigh identity seal 1");
        hash.update(material);
        Self(Zeroizing::new(hash.finalize().into()))
    }

    /// The key of a file that an operator keeps outside the data folder.
    ///
    /// # Errors
    /// The file cannot be read, or holds less than 32 bytes.
    pub(super) fn of_file(path: &Path) -> Result<Self, IdentityError> {
        let io = |source| IdentityError::Io { what: "read", path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(io)?.len();
        if bytes > KEY_FILE_BYTES_MAX {
            let why = format!("{} is no key: it has {bytes} bytes", path.display());
            return Err(IdentityError::Invalid(why));
        }
        let material = Zeroizing::new(std::fs::read(path).map_err(io)?);
        if material.len() < KEY_FILE_BYTES_MIN {
            let why = format!(
                "{} holds {} bytes: a key has at least {KEY_FILE_BYTES_MIN} random ones",
                path.display(),
                material.len()
            );
            return Err(IdentityError::Invalid(why));
        }
        Ok(Self::of(&material))
    }

    /// Seals a secret; `about` is bound to it and must be given again to open it.
    pub(super) fn seal(&self, secret: &[u8], about: &[u8]) -> Result<Vec<u8>, IdentityError> {
        let nonce = clock::random_bytes::<NONCE_BYTES>();
        let sealed = self
            .cipher()
            .encrypt(XNonce::from_slice(&nonce), Payload { msg: secret, aad: about })
            .map_err(|_| IdentityError::Invalid("a secret cannot be sealed".to_owned()))?;
        let mut out = vec![FORMAT];
        out.extend(nonce);
        out.extend(sealed);
        Ok(out)
    }

    /// Opens what was sealed.
    ///
    /// # Errors
    /// Another key sealed it, it is about something else, or it is damaged.
    pub(super) fn open(
        &self,
        sealed: &[u8],
        about: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
        let bad = || {
            IdentityError::Invalid(
                "it does not open: another key sealed it, or it is damaged".to_owned(),
            )
        };
        let (format, rest) = sealed.split_first().ok_or_else(bad)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_BYTES).ok_or_else(bad)?;
        if *format != FORMAT {
            return Err(bad());
        }
        let payload = Payload { msg: sealed, aad: about };
        let opened = self.cipher().decrypt(XNonce::from_slice(nonce), payload);
        opened.map(Zeroizing::new).map_err(|_| bad())
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(Key::from_slice(self.0.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_key_and_its_subject_open_a_secret() {
        let key = SealKey::of(&[1; 32]);
        let sealed = key.seal(b"secret", b"ca").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(key.open(&sealed, b"ca").unwrap().as_slice(), b"secret");
        assert!(key.open(&sealed, b"other").is_err());
        assert!(SealKey::of(&[2; 32]).open(&sealed, b"ca").is_err());
        for cut in [0, 1, 20, sealed.len() - 1] {
            assert!(key.open(&sealed[..cut], b"ca").is_err());
        }
    }

    #[test]
    fn a_short_key_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "password").unwrap();
        let error = SealKey::of_file(&path).err().unwrap().to_string();
        assert!(error.contains("8 bytes"), "{error}");
    }
}
