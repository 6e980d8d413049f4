//! Small files of secrets in the data folder: only their owner reads them, and a crash leaves the
//! old one or the new one. What is in them is for those who keep them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, read_file, remove_temporary, write_file};
use crate::error::{Context as _, Error};
use crate::identity::DataDir;

/// The folder of secrets within a data folder.
pub const SECRETS_FOLDER: &str = "identity";

/// The folder of secrets.
#[derive(Clone, Debug)]
pub struct SecretFolder {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl SecretFolder {
    /// The folder within a data folder, made if missing. Blocking.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn open(data: &DataDir) -> Result<Self, Error> {
        let path = data.path().join(SECRETS_FOLDER);
        let disk = data.disk().clone();
        disk.create_private_dir(&path).on("create", &path)?;
        // What a crash left half written holds secrets too.
        remove_temporary(disk.as_ref(), &path)?;
        Ok(Self { disk, path })
    }

    /// The file of this name.
    pub fn file(&self, name: &str) -> SecretFile {
        self.elsewhere(&self.path.join(name))
    }

    /// A file that is written as those here are, and lies elsewhere.
    pub fn elsewhere(&self, path: &Path) -> SecretFile {
        SecretFile { disk: self.disk.clone(), path: path.to_owned() }
    }

    /// The names of the files here, sorted. Blocking.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        self.disk.list(&self.path).on("list", &self.path)
    }
}

/// One file of secrets.
#[derive(Clone, Debug)]
pub struct SecretFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl SecretFile {
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

    /// Removes it durably. Blocking.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn remove(&self) -> Result<(), Error> {
        self.disk.remove(&self.path).on("remove", &self.path)?;
        let folder = self.path.parent().unwrap_or(&self.path);
        self.disk.sync_dir(folder).on("sync", folder)
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
        let folder_of_secrets = SecretFolder::open(&data).unwrap();
        let file = folder_of_secrets.file("x.keys");
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
        let again = SecretFolder::open(&data).unwrap();
        assert_eq!(mode(&secrets), 0o700);
        assert_eq!(again.names().unwrap(), ["x.keys"]);
        let elsewhere = again.elsewhere(&folder.path().join("y"));
        elsewhere.write(b"three").unwrap();
        assert_eq!(mode(elsewhere.path()), 0o600);
        file.remove().unwrap();
        assert_eq!(again.names().unwrap(), [""; 0]);
    }
}
