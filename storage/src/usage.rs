//! How much room a data folder takes, and how much is left on its disk.
//!
//! It looks and changes nothing; what vanishes while it looks is not counted.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Unit of [`MetadataExt::blocks`](std::os::unix::fs::MetadataExt::blocks), whatever the disk's own
/// (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// Room taken and left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What the folder takes on the disk, in bytes: preallocated room counts, holes do not.
    pub data_bytes: u64,
    /// What this process may still write on that disk.
    pub free_bytes: u64,
    /// The size of that disk.
    pub size_bytes: u64,
}

/// Looks at a data folder. Blocks for as long as it takes to list it.
///
/// # Errors
/// The folder or its disk cannot be looked at.
pub fn usage(folder: &Path) -> io::Result<Usage> {
    let stats = fs4::statvfs(folder)?;
    let mut data_bytes = 0_u64;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            // Of a link itself, not of what it leads to.
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            data_bytes = data_bytes.saturating_add(metadata.blocks().saturating_mul(BLOCK_BYTES));
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(Usage { data_bytes, free_bytes: stats.available_space(), size_bytes: stats.total_space() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_folder_and_below_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let empty = usage(folder.path()).unwrap();
        fs::create_dir(folder.path().join("below")).unwrap();
        let file = fs::File::create(folder.path().join("below/file")).unwrap();
        io::Write::write_all(&mut &file, &[7; 300_000]).unwrap();
        // Blocks are given out when the bytes reach the disk.
        file.sync_all().unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("link")).unwrap();
        let full = usage(folder.path()).unwrap();
        let grown = full.data_bytes - empty.data_bytes;
        assert!((300_000..400_000).contains(&grown), "{grown}");
        assert!(full.free_bytes <= full.size_bytes && full.size_bytes > 0, "{full:?}");
    }

    #[test]
    fn a_folder_that_is_not_there_has_no_usage() {
        assert!(usage(Path::new("/none/such")).is_err());
    }
}
