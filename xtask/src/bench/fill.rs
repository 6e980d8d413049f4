//! Many functions on a cluster, each component different from the others by a custom section.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, ensure};

use super::component::variant;
use super::node::Nigh;

/// Functions of an app: few deploys for many functions, and far below what an app may have.
const PER_APP: usize = 50;

/// Deploys so many functions, each of a component of its own; the paths that call them.
///
/// `settings` are further keys of a function in the manifest, by its number and its path.
///
/// # Errors
/// A deploy fails.
pub(super) fn fill(
    node: &Nigh,
    component: &Path,
    folder: &Path,
    functions: usize,
    settings: impl Fn(usize, &str) -> String,
) -> Result<Vec<String>> {
    let bytes = std::fs::read(component)?;
    let all: Vec<usize> = (0..functions).collect();
    let mut paths = Vec::new();
    for (app, functions) in all.chunks(PER_APP).enumerate() {
        // With one function alone, an app's default route is another.
        ensure!(functions.len() > 1, "an app needs two functions at least");
        let place = folder.join(format!("fill-{app}"));
        std::fs::create_dir(&place)?;
        let mut manifest = format!("[app]\nname = \"fill-{app}\"\n");
        let from = paths.len();
        for n in functions {
            std::fs::write(place.join(format!("f{n}.wasm")), variant(&bytes, *n))?;
            let path = format!("/fill-{app}/f{n}");
            let settings = settings(*n, &path);
            let _ = write!(manifest, "[function.f{n}]\ncomponent = \"f{n}.wasm\"\n{settings}\n");
            paths.push(path);
        }
        std::fs::write(place.join("nigh.toml"), manifest)?;
        node.deploy(&place, &paths[from])?;
    }
    Ok(paths)
}
