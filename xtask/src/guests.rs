//! The guest components that are committed beside their sources: rebuilt by [`rebuild`], and held
//! to their sources by [`check_lock`].
//!
//! The lock file has one line a guest: name, digest of its sources, digest of its component. It
//! does not promise that another compiler makes the same bytes, only that whoever changed a source
//! rebuilt and committed the component with it. What starts compilers is in [`build`].

mod build;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

const LOCK: &str = "examples/guests.lock";
const LOCK_HEAD: &str = "# Written by `cargo xtask guests`: guest, source digest, component digest \
                         (sha256).\n";
const EXAMPLES: &str = "examples";
const HOSTILE: &str = "tests/guests";
const TOOL: &str = "examples/tool";

/// One component, where it stands and what it is made of; all paths are relative to the root.
struct Guest {
    name: String,
    component: PathBuf,
    /// Files and whole folders.
    sources: Vec<PathBuf>,
    build: Build,
}

enum Build {
    /// A `cdylib` of its cargo workspace: the file below cargo's `release` folder.
    Rust {
        artifact: PathBuf,
    },
    /// The only C file of the guest.
    C {
        file: PathBuf,
    },
    Wat {
        file: PathBuf,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Digests {
    source: String,
    component: String,
}

/// Rebuilds every guest and writes the lock file anew.
///
/// Installs nothing: what is missing is named in the error.
///
/// # Errors
/// A missing tool, a failed build, or a file that cannot be read or written.
pub(crate) fn rebuild() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let guests = discover(&root)?;
    build::all(&root, &guests)?;
    write_lock(&root, &guests)
}

/// Checks every component against the lock file, and the lock file against the sources.
///
/// # Errors
/// Names every guest whose source changed without its component, every component that is not
/// locked, and every locked guest that is gone.
pub(crate) fn check_lock(root: &Path) -> Result<()> {
    let text =
        fs::read_to_string(root.join(LOCK)).with_context(|| format!("cannot read {LOCK}"))?;
    let locked = parse_lock(&text)?;
    let guests = discover(root)?;
    let mut actual = BTreeMap::new();
    for guest in &guests {
        actual.insert(guest.name.clone(), digests(root, guest)?);
    }
    let mut problems = differences(&locked, &actual);
    let known: BTreeSet<&Path> = guests.iter().map(|guest| guest.component.as_path()).collect();
    for component in components(root)? {
        if !known.contains(component.as_path()) {
            problems.push(format!("{}: a component without a source", component.display()));
        }
    }
    ensure!(
        problems.is_empty(),
        "guests and {LOCK} disagree; run `cargo xtask guests` and commit the result:\n  {}",
        problems.join("\n  ")
    );
    Ok(())
}

// What is decided from values alone.

/// What to say about each guest whose digests are not the locked ones.
fn differences(
    locked: &BTreeMap<String, Digests>,
    actual: &BTreeMap<String, Option<Digests>>,
) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, digests) in actual {
        let problem = match (locked.get(name), digests) {
            (_, None) => "has no component",
            (None, Some(_)) => "is not in the lock file",
            (Some(locked), Some(now)) if locked.source != now.source => {
                "its source changed since its component was built"
            }
            (Some(locked), Some(now)) if locked.component != now.component => {
                "its component is not the locked one"
            }
            _ => continue,
        };
        problems.push(format!("{name}: {problem}"));
    }
    let gone = locked.keys().filter(|name| !actual.contains_key(*name));
    problems.extend(gone.map(|name| format!("{name}: is locked, but gone")));
    problems
}

fn parse_lock(text: &str) -> Result<BTreeMap<String, Digests>> {
    let mut locked = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let [name, source, component] = line.split(' ').collect::<Vec<_>>()[..] else {
            bail!("{LOCK}: not a guest and two digests: {line}");
        };
        let digests = Digests { source: source.into(), component: component.into() };
        ensure!(locked.insert(name.to_owned(), digests).is_none(), "{LOCK}: {name} is there twice");
    }
    Ok(locked)
}

fn format_lock(locked: &BTreeMap<String, Digests>) -> String {
    let lines = locked.iter().map(|(name, d)| format!("{name} {} {}\n", d.source, d.component));
    format!("{LOCK_HEAD}{}", lines.collect::<String>())
}

/// One digest of many named contents; moving a byte from one to the next changes it.
fn digest_all<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut sha = Sha256::new();
    for (name, content) in files {
        for part in [name.as_bytes(), content] {
            sha.update((part.len() as u64).to_le_bytes());
            sha.update(part);
        }
    }
    hex(&sha.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a file in a guest's folder goes into its component.
fn is_source(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let built = name.ends_with(".wasm") || name == "target" || name.starts_with('.');
    !built && name != "README.md" && name != "nigh.toml"
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|own| own == extension)
}

// What reads the tree.

/// All guests: each folder of the examples with a manifest, each source of the hostile ones.
fn discover(root: &Path) -> Result<Vec<Guest>> {
    let mut guests = Vec::new();
    for folder in entries(root, Path::new(EXAMPLES))? {
        if root.join(&folder).join("nigh.toml").exists() {
            guests.push(example(root, &folder)?);
        }
    }
    for file in entries(root, &Path::new(HOSTILE).join("src"))? {
        guests.extend(hostile(&file));
    }
    Ok(guests)
}

fn example(root: &Path, folder: &Path) -> Result<Guest> {
    let name = stem(folder);
    let c_file = entries(root, folder)?.into_iter().find(|file| has_extension(file, "c"));
    let mut sources = vec![folder.to_owned()];
    sources.extend(["Cargo.toml", "Cargo.lock"].map(|file| Path::new(EXAMPLES).join(file)));
    let build = if root.join(folder).join("Cargo.toml").exists() {
        sources.push(Path::new(EXAMPLES).join("support"));
        Build::Rust { artifact: artifact(&name) }
    } else if let Some(file) = c_file {
        sources.push(TOOL.into());
        Build::C { file }
    } else {
        bail!("{}: neither a Cargo.toml nor a C file to build it from", folder.display());
    };
    let component = folder.join(format!("{name}.wasm"));
    Ok(Guest { name: format!("{EXAMPLES}/{name}"), component, sources, build })
}

fn hostile(file: &Path) -> Option<Guest> {
    let name = stem(file);
    let (build, shared) = if has_extension(file, "wat") {
        (Build::Wat { file: file.to_owned() }, vec![TOOL.into()])
    } else if has_extension(file, "rs") && name != "lib" {
        let artifact = Path::new("examples").join(artifact(&name));
        let shared = ["Cargo.toml", "Cargo.lock", "src/lib.rs"];
        let shared = shared.map(|file| Path::new(HOSTILE).join(file)).to_vec();
        (Build::Rust { artifact }, shared)
    } else {
        return None;
    };
    let component = Path::new(HOSTILE).join(format!("{name}.wasm"));
    let sources = [vec![file.to_owned()], shared].concat();
    Some(Guest { name: format!("{HOSTILE}/{name}"), component, sources, build })
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The file that cargo makes of a `cdylib` of this name.
fn artifact(name: &str) -> PathBuf {
    format!("{}.wasm", name.replace('-', "_")).into()
}

/// The digests of a guest, or nothing while it has no component.
fn digests(root: &Path, guest: &Guest) -> Result<Option<Digests>> {
    let mut files = BTreeMap::new();
    for source in &guest.sources {
        collect(root, source, &mut files)?;
    }
    let source = digest_all(files.iter().map(|(name, content)| (name.as_str(), &content[..])));
    Ok(match fs::read(root.join(&guest.component)) {
        Ok(component) => Some(Digests { source, component: hex(&Sha256::digest(component)) }),
        Err(_) => None,
    })
}

/// Reads a file, or every source below a folder, under names with `/` on every system.
fn collect(root: &Path, path: &Path, files: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    if root.join(path).is_dir() {
        for entry in entries(root, path)?.iter().filter(|entry| is_source(entry)) {
            collect(root, entry, files)?;
        }
    } else {
        let content = fs::read(root.join(path));
        let content = content.with_context(|| format!("cannot read {}", path.display()))?;
        files.insert(path.to_string_lossy().replace('\\', "/"), content);
    }
    Ok(())
}

/// The committed components, with or without a source.
fn components(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = entries(root, Path::new(HOSTILE))?;
    for folder in entries(root, Path::new(EXAMPLES))? {
        if root.join(&folder).is_dir() {
            found.extend(entries(root, &folder)?);
        }
    }
    found.retain(|file| has_extension(file, "wasm"));
    Ok(found)
}

/// What a folder holds, sorted, relative to the root as the folder itself is.
fn entries(root: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    let listing = fs::read_dir(root.join(folder));
    let listing = listing.with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = Vec::new();
    for entry in listing {
        paths.push(folder.join(entry?.file_name()));
    }
    paths.sort();
    Ok(paths)
}

fn write_lock(root: &Path, guests: &[Guest]) -> Result<()> {
    let mut locked = BTreeMap::new();
    for guest in guests {
        let digests = digests(root, guest)?;
        let digests = digests.with_context(|| format!("{} has no component", guest.name))?;
        locked.insert(guest.name.clone(), digests);
    }
    fs::write(root.join(LOCK), format_lock(&locked))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    fn one(source: &str, component: &str) -> Digests {
        Digests { source: source.into(), component: component.into() }
    }

    #[test]
    fn every_component_matches_its_source() {
        if let Err(error) = check_lock(&root()) {
            panic!("{error:#}");
        }
    }

    #[test]
    fn every_difference_names_its_guest() {
        let locked =
            [("same", "1"), ("source", "1"), ("component", "1"), ("gone", "1"), ("bare", "1")];
        let locked = locked.map(|(name, d)| (name.to_owned(), one(d, d))).into();
        let actual = [
            ("same", Some(one("1", "1"))),
            ("source", Some(one("2", "1"))),
            ("component", Some(one("1", "2"))),
            ("new", Some(one("1", "1"))),
            ("bare", None),
        ];
        let actual = actual.map(|(name, digests)| (name.to_owned(), digests)).into();
        assert_eq!(
            differences(&locked, &actual),
            [
                "bare: has no component",
                "component: its component is not the locked one",
                "new: is not in the lock file",
                "source: its source changed since its component was built",
                "gone: is locked, but gone",
            ]
        );
    }

    #[test]
    fn a_lock_file_reads_back_as_written() -> Result<()> {
        let locked = [("a".to_owned(), one("1", "2")), ("b/c".to_owned(), one("3", "4"))].into();
        assert_eq!(parse_lock(&format_lock(&locked))?, locked);
        Ok(())
    }

    #[test]
    fn a_broken_lock_line_is_refused() {
        assert!(parse_lock("examples/echo 12\n").is_err());
        assert!(parse_lock("a 1 2\na 1 2\n").is_err());
    }

    #[test]
    fn moving_a_byte_between_files_changes_the_digest() {
        let digest = |a, b| digest_all([("a", a), ("b", b)]);
        assert_ne!(digest(&b"xy"[..], &b"z"[..]), digest(&b"x"[..], &b"yz"[..]));
    }

    #[test]
    fn built_and_descriptive_files_are_no_sources() {
        for name in ["echo.wasm", "README.md", "nigh.toml", "target", ".cargo"] {
            assert!(!is_source(&Path::new("examples/echo").join(name)), "{name}");
        }
        assert!(is_source(Path::new("examples/echo/src/lib.rs")));
    }
}
