//! Who may know whom: the edges between the parts of nigh, and what only one part may know.
//!
//! `docs/architecture.md` says why. This module holds it, from what `cargo metadata` says and
//! from the sources.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::source;
use crate::step::cargo;

/// The parts, and which other parts each may import; a part that is not here imports none.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("placement", &["model"]),
    ("proto", &["model"]),
    ("storage", &["model"]),
    ("runtime", &["model"]),
    ("node", &["model", "placement", "proto", "storage", "runtime"]),
    ("cli", &["model", "placement", "proto", "node"]),
];
/// Crates of others that only some parts may know; a name ending in `*` stands for all that begin
/// so.
const KNOWN_ONLY_BY: &[(&str, &[&str])] = &[
    ("sled", &["storage"]),
    ("wasmtime*", &["runtime"]),
    ("cranelift*", &["runtime"]),
    ("chitchat", &["node"]),
    ("openraft*", &["storage", "node"]),
];
/// Parts that decide and touch nothing, and crates that would let them.
const PURE: &[&str] = &["model", "placement"];
const IMPURE: &[&str] = &["tokio*", "rand*", "getrandom", "hyper*", "tonic*", "libc", "tracing*"];
/// The only part that may hold `unsafe`.
const UNSAFE_IN: &str = "runtime";
/// What is below this folder may import every part, and no part may import it.
const TESTS: &str = "tests";

/// A package of the workspace.
struct Package {
    /// Its folder, relative to the root: the name of the part.
    folder: String,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    name: String,
    /// The folder of another package of the tree, relative to the root.
    folder: Option<String>,
    /// Whether only its tests need it.
    dev: bool,
}

/// Checks all edges.
///
/// # Errors
/// Names each edge that may not be.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut problems = wrong_edges(&packages(root)?);
    problems.extend(wrong_sources(&sources(root)?));
    ensure!(
        problems.is_empty(),
        "the parts know more of each other than docs/architecture.md allows:\n  {}",
        problems.join("\n  ")
    );
    Ok(())
}

// What is decided from values alone.

fn wrong_edges(packages: &[Package]) -> Vec<String> {
    let mut problems = Vec::new();
    for package in packages {
        for dependency in &package.dependencies {
            let why = match &dependency.folder {
                Some(folder) => wrong_part(&package.folder, folder),
                None => wrong_crate(&package.folder, dependency),
            };
            if let Some(why) = why {
                problems.push(format!("{} imports {}: {why}", package.folder, dependency.name));
            }
        }
    }
    problems
}

/// Why one part may not import the other.
fn wrong_part(part: &str, other: &str) -> Option<String> {
    if is_test(part) {
        return None;
    }
    if is_test(other) {
        return Some("nobody imports tests".into());
    }
    let allowed =
        MAY_IMPORT.iter().find(|(name, _)| *name == part).map_or(&[][..], |found| found.1);
    if allowed.contains(&other) {
        return None;
    }
    Some(match allowed {
        [] => "it imports no other part".into(),
        allowed => format!("of the parts it imports {} at most", allowed.join(", ")),
    })
}

/// Why a part may not import a crate of others.
fn wrong_crate(part: &str, dependency: &Dependency) -> Option<String> {
    let named = |patterns: &[&str]| patterns.iter().any(|pattern| fits(pattern, &dependency.name));
    if PURE.contains(&part) && !dependency.dev && named(IMPURE) {
        return Some("this part is pure".into());
    }
    let (_, knowing) = KNOWN_ONLY_BY.iter().find(|(pattern, _)| named(&[pattern]))?;
    let knows = is_test(part) || knowing.contains(&part);
    (!knows).then(|| format!("only {} knows it", knowing.join(" and ")))
}

fn wrong_sources(sources: &[(PathBuf, String)]) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in sources.iter().filter(|(path, _)| !path.starts_with(UNSAFE_IN)) {
        for (at, line) in text.lines().enumerate() {
            if holds_unsafe(line) {
                let place = format!("{}:{}", path.display(), at + 1);
                problems.push(format!("{place}: `unsafe` is for {UNSAFE_IN} alone"));
            }
        }
    }
    problems
}

/// Whether a line opens an unsafe block or item, or switches the lint off.
fn holds_unsafe(line: &str) -> bool {
    let code = source::without_comment(line);
    let opens = |after: &str| {
        let after = after.trim_start();
        ["{", "fn ", "impl ", "trait ", "extern "].iter().any(|start| after.starts_with(start))
    };
    let keyword = "unsafe";
    let block = source::has_word(code, keyword)
        && code.split(keyword).skip(1).any(|after| after.trim().is_empty() || opens(after));
    let allowed = code.contains("allow(") && source::has_word(code, &format!("{keyword}_code"));
    block || allowed
}

fn is_test(part: &str) -> bool {
    Path::new(part).starts_with(TESTS)
}

fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

// What reads the tree.

fn packages(root: &Path) -> Result<Vec<Package>> {
    let args = ["metadata", "--format-version", "1", "--no-deps", "--locked"];
    let output = cargo(root, &args).output().context("cannot start cargo metadata")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim_end());
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let listed = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    listed.iter().map(|package| read(root, package)).collect()
}

fn read(root: &Path, package: &Value) -> Result<Package> {
    let manifest = package["manifest_path"].as_str().context("a package without a manifest")?;
    let folder = Path::new(manifest).parent().context("a manifest without a folder")?;
    let mut dependencies = Vec::new();
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let name = dependency["name"].as_str().context("a dependency without a name")?.to_owned();
        let folder = dependency["path"].as_str().map(|path| relative(root, Path::new(path)));
        dependencies.push(Dependency { name, folder, dev: dependency["kind"] == "dev" });
    }
    Ok(Package { folder: relative(root, folder), dependencies })
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

fn sources(root: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut sources = Vec::new();
    for path in source::files(root, "rs")? {
        let text = source::read(root, &path.to_string_lossy())?;
        sources.push((path, text));
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_keeps_its_edges() {
        if let Err(error) = check(&crate::root().unwrap()) {
            panic!("{error:#}");
        }
    }

    fn package(folder: &str, dependencies: &[(&str, Option<&str>, bool)]) -> Package {
        let dependencies = dependencies.iter().map(|&(name, folder, dev)| Dependency {
            name: name.into(),
            folder: folder.map(Into::into),
            dev,
        });
        Package { folder: folder.into(), dependencies: dependencies.collect() }
    }

    #[test]
    fn every_wrong_edge_is_named() {
        let packages = [
            package("placement", &[("nigh-model", Some("model"), false)]),
            package("storage", &[("nigh-runtime", Some("runtime"), false), ("sled", None, false)]),
            package("model", &[("nigh-proto", Some("proto"), false), ("rand", None, true)]),
            package("cli", &[("nigh-storage", Some("storage"), false)]),
            package("node", &[("harness", Some("tests/harness"), true), ("sled", None, false)]),
            package("tests/cluster", &[("nigh-storage", Some("storage"), false)]),
            package("placement", &[("tokio", None, false), ("wasmtime-wasi", None, true)]),
        ];
        assert_eq!(
            wrong_edges(&packages),
            [
                "storage imports nigh-runtime: of the parts it imports model at most",
                "model imports nigh-proto: it imports no other part",
                "cli imports nigh-storage: of the parts it imports model, placement, proto, node \
                 at most",
                "node imports harness: nobody imports tests",
                "node imports sled: only storage knows it",
                "placement imports tokio: this part is pure",
                "placement imports wasmtime-wasi: only runtime knows it",
            ]
        );
    }

    #[test]
    fn unsafe_is_found_in_code_and_not_in_words() {
        let keyword = "unsafe";
        for code in ["let a = KEY { b() };", "KEY fn a() {}", "KEY impl A for B {}", "a(KEY"] {
            assert!(holds_unsafe(&code.replace("KEY", keyword)), "{code}");
        }
        assert!(holds_unsafe(&format!("#[allow({keyword}_code, reason = \"\")]")));
        for words in ["// KEY { }", "a(\"the KEY word\")", "let KEYly = 1;", "KEY_code = \"deny\""]
        {
            assert!(!holds_unsafe(&words.replace("KEY", keyword)), "{words}");
        }
    }

    #[test]
    fn unsafe_outside_its_part_is_named_with_its_line() {
        let keyword = "unsafe";
        let text = format!("fn a() {{\n    {keyword} {{ b() }}\n}}\n");
        let sources = [("runtime/src/a.rs".into(), text.clone()), ("node/src/a.rs".into(), text)];
        assert_eq!(wrong_sources(&sources), ["node/src/a.rs:2: `unsafe` is for runtime alone"]);
    }
}
