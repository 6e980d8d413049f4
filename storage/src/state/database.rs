//! The sled database behind the state store, guarded: sled may panic on a damaged folder.

use std::any::Any;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use nigh_model::{State, state::FORMAT};
use serde::{Deserialize, Serialize};
use sled::{Batch, Db, Tree};

use super::rows::{self, Scalars, Sum};
use super::{Held, RaftMark, Recovered};
use crate::error::{Context as _, Error};

const TREE: &str = "state";
/// The one row that is not part of the state.
const META_KEY: &[u8] = b"!meta";
/// sled's own file that is there from the beginning.
const CONFIG_NAME: &str = "conf";
/// Damaged folders that are kept for a person to look at; the oldest goes first.
const BROKEN_KEPT: usize = 3;
/// Memory that sled may use for pages, in bytes; the state itself is in memory already.
const SLED_CACHE_BYTES: u64 = 8 << 20;

/// The materialised state on disk. All methods block.
#[derive(Debug)]
pub struct StateStore {
    folder: PathBuf,
    db: Db,
    tree: Tree,
    saved: State,
    sum: Sum,
}

/// Written with every batch: what the rows must add up to.
#[derive(Serialize, Deserialize)]
struct Meta {
    format: u32,
    scalars: Scalars,
    mark: Option<RaftMark>,
    sum: Sum,
}

/// Why a database was not opened.
enum Unusable {
    /// It must be left alone.
    Refused(Error),
    /// It can be moved aside.
    Broken(String),
}

impl StateStore {
    /// Opens the store in a folder, made if missing. One that is damaged is moved aside to
    /// `<folder>.broken-<n>` with a warning, and an empty one takes its place.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::NewerFormat`], or an empty store cannot be made either.
    pub fn open(folder: &Path) -> Result<(Self, Held), Error> {
        let why = match Self::load(folder) {
            Ok(opened) => return Ok(opened),
            Err(Unusable::Refused(error)) => return Err(error),
            Err(Unusable::Broken(why)) => why,
        };
        let aside = move_aside(folder)?;
        tracing::warn!(
            path = %folder.display(), moved_to = %aside.display(), why,
            "the state store is damaged; moved aside, its state comes again from log or peers"
        );
        match Self::load(folder) {
            Ok((store, mut held)) => {
                held.recovered = Some(Recovered { why, moved_to: Some(aside) });
                Ok((store, held))
            }
            Err(Unusable::Refused(error)) => Err(error),
            Err(Unusable::Broken(why)) => Err(Error::StateStore { path: folder.to_owned(), why }),
        }
    }

    /// Where it lies.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Saves a state: writes the rows that changed since the last one, all or none.
    ///
    /// # Errors
    /// [`Error::StateStore`]; what was saved before stays.
    pub fn save(&mut self, state: &State, mark: Option<&RaftMark>) -> Result<(), Error> {
        let changes = rows::changes(&self.saved, state);
        let mut batch = Batch::default();
        let mut sum = self.sum;
        for change in changes {
            sum.change(&change);
            match change.after {
                Some(value) => batch.insert(change.key, value),
                None => batch.remove(change.key),
            }
        }
        let meta = Meta { format: FORMAT, scalars: Scalars::of(state), mark: mark.cloned(), sum };
        batch.insert(META_KEY, encode_meta(&meta));
        self.guarded(|store| store.tree.apply_batch(batch))?;
        self.saved = state.clone();
        self.sum = sum;
        Ok(())
    }

    /// Waits until what was saved is on the medium: sled's own flush does not sync.
    ///
    /// # Errors
    /// [`Error::StateStore`].
    pub fn sync(&self) -> Result<(), Error> {
        self.guarded(|store| store.db.flush())?;
        let path = self.folder.join("db");
        let file = fs::File::open(&path).on("open", &path)?;
        file.sync_data().on("sync", &path)
    }

    /// Forgets all, since log and snapshot do not confirm it.
    ///
    /// # Errors
    /// [`Error::StateStore`].
    pub fn clear(&mut self) -> Result<(), Error> {
        self.save(&State::default(), None)
    }

    fn guarded<T>(&self, work: impl FnOnce(&Self) -> sled::Result<T>) -> Result<T, Error> {
        let done = catch_unwind(AssertUnwindSafe(|| work(self)));
        let why = match done {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic_text(panic.as_ref()),
        };
        Err(Error::StateStore { path: self.folder.clone(), why })
    }

    fn load(folder: &Path) -> Result<(Self, Held), Unusable> {
        catch_unwind(AssertUnwindSafe(|| Self::load_unguarded(folder)))
            .unwrap_or_else(|panic| Err(Unusable::Broken(panic_text(panic.as_ref()))))
    }

    fn load_unguarded(folder: &Path) -> Result<(Self, Held), Unusable> {
        let is_new = !folder.join(CONFIG_NAME).exists();
        let config = sled::Config::new().path(folder).cache_capacity(SLED_CACHE_BYTES);
        let db = config.open().map_err(|error| unusable(folder, &error))?;
        let tree = db.open_tree(TREE).map_err(|error| unusable(folder, &error))?;
        let broken = |why: &str| Unusable::Broken(why.to_owned());
        let meta = tree.get(META_KEY).map_err(|error| unusable(folder, &error))?;
        let empty = Meta {
            format: FORMAT,
            scalars: Scalars::of(&State::default()),
            mark: None,
            sum: Sum::default(),
        };
        let meta = match meta {
            Some(bytes) => decode_meta(&bytes).ok_or_else(|| broken("its head is not whole"))?,
            None if is_new => empty,
            None => return Err(broken("its head is gone")),
        };
        if meta.format > FORMAT {
            let (found, known) = (u64::from(meta.format), u64::from(FORMAT));
            let path = folder.to_owned();
            return Err(Unusable::Refused(Error::NewerFormat { path, found, known }));
        }
        let mut state = meta.scalars.into_state();
        let mut sum = Sum::default();
        for row in &tree {
            let (key, value) = row.map_err(|error| unusable(folder, &error))?;
            if key == META_KEY {
                continue;
            }
            sum.add(&key, &value);
            if !rows::insert(&mut state, &key, &value) {
                return Err(broken("it holds a row that this build cannot read"));
            }
        }
        if sum != meta.sum {
            return Err(broken("its rows do not add up"));
        }
        let held = Held { state: state.clone(), mark: meta.mark, recovered: None };
        let mut store = Self { folder: folder.to_owned(), db, tree, saved: state, sum };
        if is_new {
            let begun = store.clear().and_then(|()| store.sync());
            begun.map_err(Unusable::Refused)?;
        }
        Ok((store, held))
    }
}

fn unusable(folder: &Path, error: &sled::Error) -> Unusable {
    let why = error.to_string();
    if why.contains("could not acquire lock") {
        return Unusable::Refused(Error::Locked { path: folder.to_owned() });
    }
    match error {
        sled::Error::Io(error) if is_no_damage(error) => {
            let source = io::Error::new(error.kind(), why);
            Unusable::Refused(Error::Io { what: "open", path: folder.to_owned(), source })
        }
        _ => Unusable::Broken(why),
    }
}

/// Whether an error says nothing of what is on the disk: the same folder opens once there is room,
/// or the right to it.
fn is_no_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem | PermissionDenied)
}

fn encode_meta(meta: &Meta) -> Vec<u8> {
    let mut bytes = rmp_serde::to_vec_named(meta).expect("a head is maps, strings and numbers");
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode_meta(bytes: &[u8]) -> Option<Meta> {
    let (bytes, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(bytes) != u32::from_le_bytes(*crc) {
        return None;
    }
    rmp_serde::from_slice(bytes).ok()
}

fn move_aside(folder: &Path) -> Result<PathBuf, Error> {
    let parent = folder.parent().unwrap_or(Path::new("."));
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!("{name}.broken-");
    let mut kept = Vec::new();
    for entry in fs::read_dir(parent).on("list", parent)? {
        let entry = entry.on("list", parent)?.file_name();
        let entry = entry.to_string_lossy();
        kept.extend(entry.strip_prefix(&prefix).and_then(|n| n.parse::<u64>().ok()));
    }
    kept.sort_unstable();
    let next = kept.last().map_or(1, |last| last + 1);
    let aside = |number: u64| parent.join(format!("{prefix}{number}"));
    while kept.len() >= BROKEN_KEPT {
        let oldest = aside(kept.remove(0));
        fs::remove_dir_all(&oldest).on("remove", &oldest)?;
    }
    fs::rename(folder, aside(next)).on("rename", folder)?;
    Ok(aside(next))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the database panicked: {}", text.unwrap_or("without a word"))
}
