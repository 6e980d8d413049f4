//! Which build this is.

/// What `nigh --version` says: the release, the commit and the engine.
pub(crate) const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("NIGH_BUILD_COMMIT"),
    ", wasmtime ",
    env!("NIGH_BUILD_WASMTIME"),
    ")"
);
