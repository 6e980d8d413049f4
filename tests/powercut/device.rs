//! File systems in loop devices.
//!
//! `mount -o loop` lets the kernel free the device when the file system is unmounted, and the
//! file system is unmounted when the last process of its mount namespace has gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The size of a file system: room for some segments of the log.
const IMAGE_BYTES: u64 = 192 << 20;
/// A device whose writes have not ended by then is broken.
const QUIET_LIMIT: Duration = Duration::from_secs(20);

/// A file system on a file.
pub(crate) struct Device {
    pub(crate) image: PathBuf,
    pub(crate) mounted: PathBuf,
    /// Its name below `/sys/block`.
    name: String,
}

/// Runs a command that must succeed; its output.
fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let ran = Command::new(program).args(args).stdin(Stdio::null()).output();
    let ran = ran.map_err(|error| format!("{program}: {error}"))?;
    match ran.status.success() {
        true => Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned()),
        false => {
            Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&ran.stderr).trim()))
        }
    }
}

/// Whether there are root, namespaces and loop devices.
pub(crate) fn usable() -> Result<(), String> {
    if run("id", &["-u"])? != "0" {
        return Err("this is not root".to_owned());
    }
    run("unshare", &["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "true"])?;
    run("mkfs.ext4", &["-V"])?;
    run("losetup", &["--find"]).map(|_| ())
}

impl Device {
    /// A new file system, mounted.
    pub(crate) fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let image = folder.join("image");
        fs::File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        // What is put off would be written at any time.
        let options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        run("mkfs.ext4", &["-q", "-F", "-E", options, image.to_str().unwrap()]).unwrap();
        Self::mount(image, folder.join("mounted"))
    }

    fn mount(image: PathBuf, mounted: PathBuf) -> Self {
        fs::create_dir_all(&mounted).unwrap();
        let (from, to) = (image.to_str().unwrap(), mounted.to_str().unwrap());
        run("mount", &["-o", "loop", from, to]).unwrap();
        let listed = run("losetup", &["--noheadings", "--output", "NAME", "--associated", from]);
        let name = listed.unwrap().trim_start_matches("/dev/").to_owned();
        Self { image, mounted, name }
    }

    /// A copy of what is on the device, mounted; none when the device was written to meanwhile.
    pub(crate) fn copy(&self, folder: &Path) -> Option<Self> {
        fs::create_dir_all(folder).unwrap();
        self.wait_until_quiet();
        let before = self.writes();
        let image = folder.join("image");
        let (from, to) = (self.image.to_str().unwrap(), image.to_str().unwrap());
        run("cp", &["--sparse=always", from, to]).unwrap();
        if self.writes() != before || self.inflight() != 0 {
            return None;
        }
        Some(Self::mount(image, folder.join("mounted")))
    }

    fn wait_until_quiet(&self) {
        let began = Instant::now();
        while self.inflight() != 0 {
            assert!(began.elapsed() < QUIET_LIMIT, "{} is never quiet", self.name);
            std::thread::yield_now();
        }
    }

    fn inflight(&self) -> u64 {
        self.numbers("inflight").into_iter().sum()
    }

    /// Writes that the device has completed, and sectors of them.
    fn writes(&self) -> (u64, u64) {
        let stat = self.numbers("stat");
        (stat[4], stat[6])
    }

    fn numbers(&self, file: &str) -> Vec<u64> {
        let path = Path::new("/sys/block").join(&self.name).join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        text.split_whitespace().map(|number| number.parse().unwrap()).collect()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // What still holds it goes with the namespace.
        let _ = run("umount", &["--lazy", self.mounted.to_str().unwrap()]);
        let _ = fs::remove_file(&self.image);
    }
}
