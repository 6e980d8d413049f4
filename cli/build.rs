//! Tells the binary which commit and which wasmtime it was built from.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    // Asked for when it runs: the compiled script may outlive the folder that it was made in.
    let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let root = Path::new(&own).join("..");
    println!("cargo:rustc-env=NIGH_BUILD_COMMIT={}", commit(&root));
    println!("cargo:rustc-env=NIGH_BUILD_WASMTIME={}", wasmtime(&root));
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=NIGH_COMMIT");
    for file in heads(&root) {
        println!("cargo:rerun-if-changed={}", file.display());
    }
}

/// `NIGH_COMMIT` where the sources are built without their history, else what git says.
fn commit(root: &Path) -> String {
    let given = std::env::var("NIGH_COMMIT").ok().filter(|commit| !commit.is_empty());
    given.or_else(|| git(root)).unwrap_or_else(|| "unknown".to_owned())
}

fn git(root: &Path) -> Option<String> {
    let output =
        Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).current_dir(root).output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// The version that the lock file holds; cargo has made one before it runs this.
fn wasmtime(root: &Path) -> String {
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).unwrap_or_default();
    let mut lines = lock.lines().skip_while(|line| *line != "name = \"wasmtime\"");
    let version = lines.nth(1).and_then(|line| line.strip_prefix("version = "));
    version.map_or_else(|| "unknown".to_owned(), |version| version.trim_matches('"').to_owned())
}

/// The files that change with the commit or the lock. A file that is missing must not be
/// named: cargo would then run this at every build.
fn heads(root: &Path) -> Vec<PathBuf> {
    let git = root.join(".git");
    let mut files = vec![root.join("Cargo.lock"), git.join("HEAD"), git.join("packed-refs")];
    if let Ok(head) = std::fs::read_to_string(git.join("HEAD"))
        && let Some(branch) = head.trim().strip_prefix("ref: ")
    {
        files.push(git.join(branch));
    }
    files.retain(|file| file.is_file());
    files
}
