//! What `nigh deploy PATH` sends: an app's spec and the components that it is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nigh_model::limits::COMPONENT_BYTES_MAX;
use nigh_model::{AppName, AppSpec, Digest, FunctionName, FunctionSpec, Kind};
use sha2::{Digest as _, Sha256};

use crate::failure::{Failure, Result};
use crate::manifest::Manifest;

/// What every binary of WebAssembly begins with.
const WASM_MAGIC: &[u8] = b"\0asm";
/// How much of a component is read at once.
const READ_BYTES: usize = 256 << 10;
/// Longest manifest that is read: a thousand times what the largest app needs.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// An app ready to be deployed.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) app: AppName,
    /// What it is made of.
    pub(crate) spec: AppSpec,
    /// Its components by digest.
    pub(crate) components: BTreeMap<Digest, Component>,
}

/// A component to be uploaded.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    /// What it is called in messages.
    pub(crate) name: String,
    /// Its size.
    pub(crate) bytes: u64,
    /// Where it is.
    pub(crate) source: Source,
}

/// Where a component's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// In a file; it is read when it is uploaded.
    File(PathBuf),
    /// In memory.
    Memory(Bytes),
}

impl Package {
    /// Reads a component, a folder or a manifest; `name` wins over what is written there.
    pub(crate) fn read(path: &Path, name: Option<&str>) -> Result<Self> {
        let name = name.map(AppName::new).transpose();
        let name = name.map_err(|error| Failure::usage(format!("--name: {error}")))?;
        let metadata = std::fs::metadata(path).map_err(|error| no_file(path, &error))?;
        if metadata.is_dir() {
            return read_folder(path, name);
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => read_manifest(path, name),
            _ => read_bare(path, name),
        }
    }

    /// An app of functions that share one component in memory.
    pub(crate) fn of_memory(app: AppName, component: (&str, Bytes)) -> Self {
        let (name, bytes) = component;
        let digest = Digest::of(&bytes);
        let component = Component {
            name: name.to_owned(),
            bytes: bytes.len() as u64,
            source: Source::Memory(bytes),
        };
        Self { app, spec: AppSpec::default(), components: [(digest, component)].into() }
    }

    /// Reads a manifest that is embedded together with its only component.
    pub(crate) fn embedded(manifest: &str, component: (&str, Bytes)) -> Result<Self> {
        let manifest = Manifest::parse(Path::new("nigh.toml"), manifest)?;
        let app = manifest.app.ok_or_else(|| Failure::internal("an example has no name"))?;
        let mut package = Self::of_memory(app, component);
        package.spec.invoke = manifest.invoke;
        for (name, function) in manifest.functions {
            let spec = package.function_of_memory(function.spec);
            package.spec.functions.insert(name, spec);
        }
        Ok(package)
    }

    /// A function with these settings and the component of [`of_memory`](Self::of_memory).
    pub(crate) fn function_of_memory(&self, settings: FunctionSpec) -> FunctionSpec {
        let (digest, component) =
            self.components.first_key_value().expect("made with one component");
        FunctionSpec { component: *digest, component_bytes: component.bytes, ..settings }
    }

    /// Where the bytes of a component may be, as patterns: where any function made of it may run.
    /// None: anywhere.
    pub(crate) fn regions_of(&self, digest: &Digest) -> Vec<String> {
        let users = self.spec.functions.values().filter(|spec| spec.component == *digest);
        let mut regions = BTreeSet::new();
        for user in users {
            if user.placement.regions.is_empty() {
                return Vec::new();
            }
            regions
                .extend(user.placement.regions.iter().map(|pattern| pattern.as_str().to_owned()));
        }
        regions.into_iter().collect()
    }

    /// Adds a component file and returns its digest and size.
    fn add(&mut self, path: &Path, named_by: Option<&str>) -> Result<(Digest, u64)> {
        let context = |failure: Failure| match named_by {
            Some(key) => failure.why(format!("`{key}` names it")),
            None => failure,
        };
        let (digest, bytes) = hash(path).map_err(context)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let source = Source::File(path.to_owned());
        self.components.entry(digest).or_insert(Component { name, bytes, source });
        Ok((digest, bytes))
    }

    /// Checks what can be checked without the cluster.
    fn checked(self, file: &Path) -> Result<Self> {
        match self.spec.check() {
            Ok(()) => Ok(self),
            Err(bad) => {
                Err(Failure::invalid(format!("{}: `{}` is not valid", file.display(), bad.field))
                    .why(bad.why))
            }
        }
    }
}

fn read_folder(folder: &Path, name: Option<AppName>) -> Result<Package> {
    let manifest = folder.join("nigh.toml");
    if manifest.exists() {
        return read_manifest(&manifest, name);
    }
    let entries = std::fs::read_dir(folder).map_err(|error| no_file(folder, &error))?;
    let mut components: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .collect();
    components.sort();
    match components.as_slice() {
        [only] => read_bare(only, name),
        [] => Err(Failure::new(
            Kind::NotFound,
            format!("{} holds neither a nigh.toml nor a .wasm file", folder.display()),
        )
        .hint("name the component itself: nigh deploy target/wasm32-wasip2/release/app.wasm")),
        several => Err(Failure::invalid(format!(
            "{} holds {} .wasm files and no nigh.toml",
            folder.display(),
            several.len()
        ))
        .hint(format!("name one of them, such as {}, or write a nigh.toml", several[0].display()))),
    }
}

fn read_bare(path: &Path, name: Option<AppName>) -> Result<Package> {
    // Before its name is judged: who named the wrong file needs no better name for it.
    check_magic(path)?;
    let app = match name {
        Some(name) => name,
        None => name_of(path)?,
    };
    let function = FunctionName::new(app.as_str()).expect("app and function names have one rule");
    let mut package = Package { app, spec: AppSpec::default(), components: BTreeMap::new() };
    let (digest, bytes) = package.add(path, None)?;
    package.spec.functions.insert(function, FunctionSpec::new(digest, bytes));
    package.checked(path)
}

fn read_manifest(path: &Path, name: Option<AppName>) -> Result<Package> {
    if path.file_name().is_some_and(|name| name == "spin.toml") {
        return Err(Failure::invalid(format!(
            "{}: spin.toml is not yet supported",
            path.display()
        ))
        .hint("name the component that it names: nigh deploy PATH.wasm"));
    }
    let text = read_text(path)?;
    let manifest = Manifest::parse(path, &text)?;
    let missing = || {
        Failure::invalid(format!("{}: `app.name` is missing", path.display()))
            .hint("write [app] and name = \"…\" at its top, or give --name APP")
    };
    let app = name.or(manifest.app).ok_or_else(missing)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let spec = AppSpec { invoke: manifest.invoke, ..AppSpec::default() };
    let mut package = Package { app, spec, components: BTreeMap::new() };
    for (name, function) in manifest.functions {
        let key = format!("{}: function.{name}.component", path.display());
        let (component, component_bytes) =
            package.add(&folder.join(&function.component), Some(&key))?;
        let spec = FunctionSpec { component, component_bytes, ..function.spec };
        package.spec.functions.insert(name, spec);
    }
    package.checked(path)
}

fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| no_file(path, &error))?;
    let read = file.take(MANIFEST_BYTES_MAX).read_to_string(&mut text);
    match read {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            Err(Failure::invalid(format!("{} is no text", path.display())))
        }
        Err(error) => Err(no_file(path, &error)),
    }
}

/// Refuses a file that does not begin as WebAssembly does; one that is empty or no file is
/// refused when it is hashed.
fn check_magic(path: &Path) -> Result {
    let metadata = std::fs::metadata(path).map_err(|error| no_file(path, &error))?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok(());
    }
    let file = std::fs::File::open(path).map_err(|error| no_file(path, &error))?;
    let mut head = Vec::new();
    let read = file.take(WASM_MAGIC.len() as u64).read_to_end(&mut head);
    read.map_err(|error| no_file(path, &error))?;
    if head == WASM_MAGIC {
        return Ok(());
    }
    Err(Failure::invalid(format!("{} is no WebAssembly", path.display()))
        .hint("name a component, a folder or a manifest: nigh deploy target/wasm32-wasip2/release/app.wasm"))
}

/// The app name that a file's name stands for.
fn name_of(path: &Path) -> Result<AppName> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    AppName::new(stem.as_ref()).map_err(|error| {
        let fitting: String = stem
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
            .collect();
        let fitting = fitting.trim_matches('-');
        let name = if fitting.is_empty() { "APP" } else { fitting };
        Failure::invalid(format!("the file name `{stem}` cannot be the app's name"))
            .why(error.to_string())
            .hint(format!("give a name: --name {name}"))
    })
}

/// Reads a component once for its digest and size.
fn hash(path: &Path) -> Result<(Digest, u64)> {
    let mut file = std::fs::File::open(path).map_err(|error| no_file(path, &error))?;
    let metadata = file.metadata().map_err(|error| no_file(path, &error))?;
    if !metadata.is_file() {
        return Err(Failure::invalid(format!("{} is no file", path.display())));
    }
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(|error| no_file(path, &error))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
        if bytes > COMPONENT_BYTES_MAX {
            return Err(Failure::invalid(format!("{} is too large", path.display()))
                .why(format!("a component has at most {} MiB", COMPONENT_BYTES_MAX >> 20)));
        }
    }
    if bytes == 0 {
        return Err(Failure::invalid(format!("{} is empty", path.display())));
    }
    Ok((Digest::from_bytes(hasher.finalize().into()), bytes))
}

fn no_file(path: &Path, error: &std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::NotFound => {
            Failure::new(Kind::NotFound, format!("there is no file {}", path.display()))
        }
        _ => Failure::invalid(format!("cannot read {}", path.display())).why(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, content: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    #[test]
    fn a_bare_component_is_an_app_of_one_function() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "hello.wasm", "\0asm");
        let package = Package::read(&path, None).unwrap();
        assert_eq!(package.app.as_str(), "hello");
        assert_eq!(package.spec.functions["hello"].component, Digest::of(b"\0asm"));
        assert_eq!(package.components[&Digest::of(b"\0asm")].name, "hello.wasm");
        assert_eq!(Package::read(&path, Some("other")).unwrap().app.as_str(), "other");
    }

    #[test]
    fn the_bytes_of_a_component_may_be_where_any_function_of_it_may_run() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a.wasm", "\0asm");
        write(folder.path(), "b.wasm", "\0asm\x01");
        let text = r#"
            [app]
            name = "shop"
            [function.near]
            component = "a.wasm"
            placement = { regions = ["eu-*", "us-1"] }
            [function.far]
            component = "a.wasm"
            placement = { regions = ["us-1", "ap-1"] }
            [function.bound]
            component = "b.wasm"
            placement = { regions = ["eu-1"] }
            [function.free]
            component = "b.wasm"
        "#;
        write(folder.path(), "nigh.toml", text);
        let package = Package::read(folder.path(), None).unwrap();
        let regions = |component: &[u8]| package.regions_of(&Digest::of(component));
        assert_eq!(regions(b"\0asm"), ["ap-1", "eu-*", "us-1"]);
        assert!(regions(b"\0asm\x01").is_empty(), "anywhere");
    }

    #[test]
    fn a_file_name_that_is_no_app_name_asks_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "Hello_World.wasm", "\0asm");
        let failure = Package::read(&path, None).unwrap_err().to_string();
        assert!(failure.contains("`Hello_World`"), "{failure}");
        assert!(failure.contains("--name hello-world"), "{failure}");
        assert_eq!(Package::read(&path, Some("A B")).unwrap_err().exit(), 2);
    }

    #[test]
    fn a_file_that_is_no_webassembly_is_refused_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["NOTES.md", "notes.wasm"] {
            let path = write(folder.path(), name, "# Notes");
            let failure = Package::read(&path, None).unwrap_err();
            assert!(failure.to_string().contains("is no WebAssembly"), "{failure}");
            assert_eq!(failure.exit(), 4);
        }
    }

    #[test]
    fn a_folder_is_its_manifest_or_its_only_component() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Package::read(folder.path(), None).unwrap_err().exit(), 3);
        write(folder.path(), "one.wasm", "\0asm");
        assert_eq!(Package::read(folder.path(), None).unwrap().app.as_str(), "one");
        write(folder.path(), "two.wasm", "2");
        let failure = Package::read(folder.path(), None).unwrap_err();
        assert!(failure.to_string().contains("2 .wasm files"), "{failure}");
        let manifest = "[app]\nname = \"three\"\n[function.f]\ncomponent = \"two.wasm\"";
        write(folder.path(), "nigh.toml", manifest);
        let package = Package::read(folder.path(), None).unwrap();
        assert_eq!(package.app.as_str(), "three");
        assert_eq!(package.spec.functions["f"].component, Digest::of(b"2"));
    }

    #[test]
    fn a_component_that_is_missing_empty_or_too_large_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = write(
            folder.path(),
            "nigh.toml",
            "[app]\nname = \"a\"\n[function.f]\ncomponent = \"gone.wasm\"",
        );
        let failure = Package::read(&manifest, None).unwrap_err();
        assert_eq!(failure.exit(), 3);
        assert!(failure.to_string().contains("function.f.component"), "{failure}");
        let empty = write(folder.path(), "empty.wasm", "");
        assert!(Package::read(&empty, None).unwrap_err().to_string().contains("is empty"));
        assert_eq!(Package::read(&folder.path().join("none"), None).unwrap_err().exit(), 3);
    }

    #[test]
    fn two_functions_of_one_component_upload_it_once() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "c.wasm", "c");
        let text = "[app]\nname = \"a\"\n[function.f]\ncomponent = \"c.wasm\"\n\
                    [function.g]\ncomponent = \"c.wasm\"\nlimits = { memory = \"2GiB\" }";
        let manifest = write(folder.path(), "nigh.toml", text);
        let failure = Package::read(&manifest, None).unwrap_err().to_string();
        assert!(failure.contains("`function.g.limits.memory`"), "{failure}");
        write(folder.path(), "nigh.toml", &text.replace("2GiB", "1GiB"));
        let package = Package::read(&manifest, None).unwrap();
        assert_eq!((package.components.len(), package.spec.functions.len()), (1, 2));
    }
}
