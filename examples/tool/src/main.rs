//! Makes components of guests that are not written in Rust:
//!
//! - `guest-tool bindings DIR`: C bindings of the world `wasi:http/proxy` into `DIR`;
//! - `guest-tool encode CORE OUT`: a component of a core module that speaks WASI preview 1;
//! - `guest-tool wat TEXT OUT`: the binary of a WAT file, validated.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_bindgen_core::{Files, wit_parser};
use wit_component::ComponentEncoder;
use wit_parser::{Resolve, WorldId};

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bindings", dir] => bindings(Path::new(dir)),
        ["encode", core, out] => encode(Path::new(core), Path::new(out)),
        ["wat", text, out] => assemble(Path::new(text), Path::new(out)),
        _ => bail!("usage: guest-tool bindings DIR | encode CORE OUT | wat TEXT OUT"),
    }
}

fn bindings(dir: &Path) -> Result<()> {
    let mut resolve = Resolve::default();
    resolve.push_path(wit_folder()?)?;
    let world = proxy_world(&resolve)?;
    let mut files = Files::default();
    wit_bindgen_c::Opts::default().build().generate(&mut resolve, world, &mut files)?;
    fs::create_dir_all(dir)?;
    for (name, content) in files.iter() {
        write(&dir.join(name), content)?;
    }
    Ok(())
}

/// The WIT files that the Rust examples were bound to, so that all guests agree on one version.
fn wit_folder() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let output = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["metadata", "--locked", "--format-version", "1", "--manifest-path"])
        .arg(manifest)
        .output()?;
    ensure!(output.status.success(), "cargo metadata of the examples failed");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("no packages in the metadata")?;
    let wasip2 = packages.iter().find(|package| package["name"] == "wasip2");
    let manifest = wasip2.and_then(|package| package["manifest_path"].as_str());
    let manifest = Path::new(manifest.context("the examples do not use wasip2")?);
    Ok(manifest.with_file_name("wit"))
}

fn proxy_world(resolve: &Resolve) -> Result<WorldId> {
    let http = resolve
        .packages
        .iter()
        .find(|(_, package)| package.name.namespace == "wasi" && package.name.name == "http");
    let world = http.and_then(|(_, package)| package.worlds.get("proxy"));
    world.copied().context("no world wasi:http/proxy in the WIT files")
}

fn encode(core: &Path, out: &Path) -> Result<()> {
    let component = ComponentEncoder::default()
        .module(&fs::read(core)?)?
        .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?
        .validate(true)
        .encode()?;
    write(out, &component)
}

fn assemble(text: &Path, out: &Path) -> Result<()> {
    write(out, &wat::parse_file(text)?)
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}
