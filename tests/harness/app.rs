//! Apps to deploy: a manifest in a folder of its own, made for the test.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The root of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the CLI lies in the repository").into()
}

/// The component of an example.
pub(crate) fn component(example: &str) -> PathBuf {
    repository().join("examples").join(example).join(format!("{example}.wasm"))
}

/// The component of a guest that misbehaves.
pub(crate) fn guest(name: &str) -> PathBuf {
    repository().join("tests/guests").join(format!("{name}.wasm"))
}

/// A function of an app: its name, its component and the rest of its section.
#[derive(Clone, Debug)]
struct Function {
    name: String,
    component: PathBuf,
    lines: Vec<String>,
}

/// A manifest.
#[derive(Clone, Debug)]
pub(crate) struct App {
    name: String,
    closed: bool,
    functions: Vec<Function>,
}

impl App {
    /// An app of one function, named like it, with every setting at its default.
    pub(crate) fn new(name: &str, component: PathBuf) -> Self {
        Self::named(name).and(name, component)
    }

    /// An app that has no function yet.
    pub(crate) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), closed: false, functions: Vec::new() }
    }

    /// An example under its own name.
    pub(crate) fn example(name: &str) -> Self {
        Self::new(name, component(name))
    }

    /// Only holders of a token may call it.
    pub(crate) fn closed(self) -> Self {
        Self { closed: true, ..self }
    }

    /// Adds a function.
    pub(crate) fn and(mut self, name: &str, component: PathBuf) -> Self {
        self.functions.push(Function { name: name.to_owned(), component, lines: Vec::new() });
        self
    }

    /// Adds a line to the section of the function added last.
    pub(crate) fn with(mut self, line: impl Into<String>) -> Self {
        let last = self.functions.last_mut().expect("an app is made with a function");
        last.lines.push(line.into());
        self
    }

    /// The function added last may run in these regions only.
    pub(crate) fn regions(self, regions: &[&str]) -> Self {
        self.with(format!("placement = {{ regions = {regions:?} }}"))
    }

    /// The manifest.
    pub(crate) fn manifest(&self) -> String {
        let mut text = format!("[app]\nname = \"{}\"\n", self.name);
        if self.closed {
            text.push_str("invoke = \"closed\"\n");
        }
        for Function { name, component, lines } in &self.functions {
            let component = component.display().to_string();
            let _ = write!(text, "\n[function.{name}]\ncomponent = {component:?}\n");
            for line in lines {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }

    /// Writes the manifest into a folder, which goes with the value.
    pub(crate) fn folder(&self) -> TempDir {
        let folder = tempfile::tempdir().expect("there is room for temporary files");
        std::fs::write(folder.path().join("nigh.toml"), self.manifest()).expect("it is writable");
        folder
    }
}
