//! Small files of secrets in the data folder: only their owner reads them, and a crash leaves the
//! old one or the new one. What is in them is for those who keep them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::{Disk, TEMPORARY_SUFFIX, read_file, write_file};
use crate::error::{Context as _, Error};
use crate::identity::DataDir;

/// The folder of secrets within a data folder.
pub const SECRETS_FOLDER: &str = "identity";

/// One file of secrets.
#[derive(Clone, Debug)]
pub struct SecretFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl SecretFile {
    /// The file of this name in a data folder; its folder is made if missing. Blocking.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn open(data: &DataDir, name: &str) -> Result<Self, Error> {
        let folder = data.path().join(SECRETS_FOLDER);
        let disk = data.disk().clone();
        disk.create_private_dir(&folder).on("create", &folder)?;
        // What a crash left half written holds secrets too.
        let leftover = format!("{name}{TEMPORARY_SUFFIX}");
        if disk.list(&folder).on("list", &folder)?.contains(&leftover) {
            let leftover = folder.join(leftover);
            disk.remove(&leftover).on("remove", &leftover)?;
        }
        Ok(Self { disk, path: folder.join(name) })
    }

    /// Where it is.
    pub const fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Its content; none before it was written. Blocking.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn read(&self) -> Result<Option<Vec<u8>>, Error> {
        read_file(self.disk.as_ref(), &self.path)
    }

    /// Writes it durably. Blocking.
    ///
    /// # Errors
    /// What the disk answers; then the old content is still there.
    pub fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        write_file(&self.disk, &self.path, bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_its_owner_reads_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let file = SecretFile::open(&data, "x.keys").unwrap();
        assert_eq!(file.read().unwrap(), None);
        file.write(b"one").unwrap();
        file.write(b"two").unwrap();
        assert_eq!(file.read().unwrap().as_deref(), Some(&b"two"[..]));
        let mode =
            |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(file.path()), 0o600);
        let secrets = folder.path().join(SECRETS_FOLDER);
        assert_eq!(mode(&secrets), 0o700);
        // Also where someone has opened the folder to others.
        fs::set_permissions(&secrets, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(secrets.join("x.keys.tmp"), "left by a crash").unwrap();
        SecretFile::open(&data, "x.keys").unwrap();
        assert_eq!(mode(&secrets), 0o700);
        assert_eq!(fs::read_dir(&secrets).unwrap().count(), 1);
    }
}
