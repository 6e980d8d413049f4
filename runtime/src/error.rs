//! Why a component could not be inspected, compiled or loaded, or an engine not be made.

use std::path::PathBuf;

use nigh_model::Kind;

/// Why a component was refused or an engine is unusable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are no WebAssembly.
    #[error("no WebAssembly: {why}")]
    NotWasm {
        /// What was found instead.
        why: String,
    },
    /// A core module instead of a component.
    #[error(
        "a core WebAssembly module, not a component: build for wasm32-wasip2, or run \
         `wasm-tools component new` on it"
    )]
    CoreModule,
    /// The component ends in the middle or breaks the format.
    #[error("component is not valid: {why}")]
    Invalid {
        /// Where, and what is wrong.
        why: String,
    },
    /// No way to call it.
    #[error(
        "component exports no wasi:http/incoming-handler@0.2, which a function is called \
         through{}",
        exports_hint(exports)
    )]
    NoHandler {
        /// What it exports instead.
        exports: Vec<String>,
    },
    /// It needs what the host lacks.
    #[error("component imports `{name}`, which this host does not offer: {why}")]
    UnknownImport {
        /// The import.
        name: String,
        /// What the host offers near it.
        why: String,
    },
    /// It is valid but could not be compiled or linked.
    #[error("component does not compile: {why}")]
    Compile {
        /// What the compiler or linker said.
        why: String,
    },
    /// It asks for more than an engine has.
    #[error("component needs {what}, this node allows {max}")]
    TooLarge {
        /// What it needs, with the number.
        what: String,
        /// How much there is.
        max: u64,
    },
    /// A compiled file that this engine cannot use.
    #[error("compiled artifact {} cannot be loaded: {why}", path.display())]
    Artifact {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// An engine configuration that cannot work.
    #[error("engine configuration: {why}")]
    Config {
        /// What does not fit.
        why: String,
    },
    /// A defect, or a machine on which no engine can be made.
    #[error("runtime: {why}")]
    Internal {
        /// What happened.
        why: String,
    },
}

impl Error {
    /// What the caller should do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotWasm { .. }
            | Self::CoreModule
            | Self::Invalid { .. }
            | Self::NoHandler { .. }
            | Self::UnknownImport { .. }
            | Self::Compile { .. }
            | Self::TooLarge { .. }
            | Self::Config { .. } => Kind::Invalid,
            Self::Artifact { .. } => Kind::Corrupt,
            Self::Internal { .. } => Kind::Internal,
        }
    }

    /// The stable name of the reason, as in `docs/errors.md`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotWasm { .. } => "NOT_WASM",
            Self::CoreModule => "CORE_MODULE",
            Self::Invalid { .. } => "COMPONENT_INVALID",
            Self::NoHandler { .. } => "NO_HANDLER",
            Self::UnknownImport { .. } => "UNKNOWN_IMPORT",
            Self::Compile { .. } => "COMPILE_FAILED",
            Self::TooLarge { .. } => "COMPONENT_TOO_DEMANDING",
            Self::Artifact { .. } => "ARTIFACT_UNUSABLE",
            Self::Config { .. } => "ENGINE_CONFIG",
            Self::Internal { .. } => "RUNTIME_INTERNAL",
        }
    }
}

fn exports_hint(exports: &[String]) -> String {
    let worlds: Vec<&str> = exports.iter().take(3).map(String::as_str).collect();
    match worlds.as_slice() {
        [] => String::new(),
        some => format!("; it exports {}", some.join(", ")),
    }
}
