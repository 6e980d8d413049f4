//! All that is deployed as one file: apps with their revisions, and the components they are made
//! of. `docs/backup.md` says what it is for and how it is laid out.
//!
//! It deliberately holds nothing that belongs to a cluster and not to its apps: no nodes, keys,
//! tokens, placement or answers to requests.

mod read;
mod write;

use std::collections::BTreeMap;

use nigh_model::{App, AppName, ClusterId, Digest, State};
use serde::{Deserialize, Serialize};

pub(crate) use read::{Reading, ready};
pub(crate) use write::write;

/// The format that this build writes, and the newest that it reads.
const FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"nigh-bak";
/// Magic, format and the header's length.
const PREFIX_BYTES: usize = 16;
/// The SHA-256 at the end.
const DIGEST_BYTES: usize = 32;
/// A header names each component: far more than a cluster has.
const HEADER_BYTES_MAX: u64 = 16 << 20;
/// Apps are in memory on every node anyway.
const APPS_BYTES_MAX: u64 = 256 << 20;

type Apps = BTreeMap<AppName, App>;

/// What stands first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    /// From which cluster.
    cluster: Option<ClusterId>,
    /// The log index of its state.
    applied: u64,
    /// When, in ms since the Unix epoch by the clock of the node that made it.
    created_ms: u64,
    /// By which build.
    version: String,
    /// The length of the apps, in bytes.
    apps_bytes: u64,
    /// Their digest.
    apps_digest: Digest,
    /// The components in their order, each with its length in bytes.
    components: Vec<(Digest, u64)>,
}

/// Apps as they are in a state.
fn apps_of(state: &State) -> Apps {
    state.apps.iter().map(|(name, app)| (name.clone(), app.as_ref().clone())).collect()
}

/// Equal for equal apps: their revisions, routes and settings.
fn digest_of(apps: &Apps) -> Digest {
    let bytes = serde_json::to_vec(apps).expect("apps are maps, strings and numbers");
    Digest::of(&bytes)
}

/// The components that the apps are made of, each with its length in bytes.
fn components_of(apps: &Apps) -> BTreeMap<Digest, u64> {
    let revisions = apps.values().flat_map(|app| app.revisions.values());
    let functions = revisions.flat_map(|revision| revision.spec.functions.values());
    functions.map(|function| (function.component, function.component_bytes)).collect()
}
