//! The process whose power is cut: writes without end, and says what it was told is held.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use nigh_storage::{Disk, RealDisk};

use super::forgetful::Forgetful;
use super::part::Part;

/// Which part it writes.
pub(crate) const PART: &str = "NIGH_POWERCUT_PART";
/// Where.
pub(crate) const FOLDER: &str = "NIGH_POWERCUT_FOLDER";
/// What it draws sizes from.
pub(crate) const SEED: &str = "NIGH_POWERCUT_SEED";
/// Syncs that it leaves out.
pub(crate) const WITHOUT: &str = "NIGH_POWERCUT_WITHOUT";
/// With what a line of what is held begins.
pub(crate) const HELD: &str = "held ";

/// Writes until it is killed.
pub(crate) fn live() {
    let Ok(part) = std::env::var(PART) else { return };
    let part = Part::ALL.into_iter().find(|each| each.name() == part).unwrap();
    let folder = std::env::var(FOLDER).unwrap();
    let without = std::env::var(WITHOUT).ok();
    let disk: Arc<dyn Disk> = match &without {
        Some(what) => Arc::new(Forgetful::new(what)),
        None => Arc::new(RealDisk),
    };
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(part.write(Path::new(&folder), disk, without.is_none(), seed));
}

/// Says that this is held.
pub(crate) fn held(what: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{HELD}{what}").unwrap();
    out.flush().unwrap();
}
