//! The write-ahead log: numbered entries, and beside them a vote and the last committed id.
//!
//! What is answered with success is on the medium: one thread writes all that is queued, syncs
//! once and only then answers (`writer`). Segments are reserved in advance, records are
//! checksummed and chained (`record`), and on opening a torn end is cut while damage anywhere
//! else is an error (`recover`). After any I/O error the log is poisoned: every waiting and
//! every later write is answered with an error.
//!
//! A full disk is met before it is an error: the next segment is always reserved in advance, and
//! while none can be had [`Wal::health`] says so (`health`). Who appends asks before.
//!
//! It knows nothing of Raft: entries and ids are bytes. It does not compress, encrypt or reuse
//! segments.

mod head;
mod health;
mod index;
mod record;
mod recover;
mod segment;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use crate::disk::{Disk, DiskFile};
use crate::error::{Context as _, Error};
pub use health::Health;
use index::{Found, Index, Place};
use record::RecordKind;
pub use segment::SEGMENT_BYTES;
use writer::{Done, Job, Pending, Writer};

/// The largest record, in bytes: an app with all its functions at their limits is below.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

const LOCK_NAME: &str = "lock";

/// An open log. The methods that write queue and return; `done` is called from the writer's thread
/// when the records are on the medium, or with the error, exactly once.
pub struct Wal {
    shared: Arc<Shared>,
    folder: PathBuf,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// Sizes that tests make small.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    segment_bytes: u64,
    cache_bytes_max: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        let (segment_bytes, cache_bytes_max) = (segment::SEGMENT_BYTES, index::CACHE_BYTES_MAX);
        Self { segment_bytes, cache_bytes_max }
    }
}

/// What the handle and the writer share.
struct Shared {
    state: Mutex<State>,
    /// The first I/O error; once set the log takes no more writes.
    failed: OnceLock<String>,
    gauge: health::Gauge,
}

struct State {
    index: Index,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    purged: Option<(u64, Bytes)>,
    segments: BTreeMap<u64, Arc<dyn DiskFile>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wal {
    /// Opens the log in a folder, made if missing. Blocking.
    ///
    /// # Errors
    /// [`Error::Locked`] when it is open already, [`Error::Corrupt`] when acknowledged records are
    /// not what was written, [`Error::NewerFormat`], or what the disk answers.
    pub fn open(disk: Arc<dyn Disk>, folder: &Path) -> Result<Self, Error> {
        Self::open_with(disk, folder, Sizes::default())
    }

    /// The same with segments of another length than [`SEGMENT_BYTES`].
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_sized(
        disk: Arc<dyn Disk>,
        folder: &Path,
        segment_bytes: u64,
    ) -> Result<Self, Error> {
        Self::open_with(disk, folder, Sizes { segment_bytes, ..Sizes::default() })
    }

    /// Whether a folder holds a log.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn is_there(disk: &dyn Disk, folder: &Path) -> Result<bool, Error> {
        match disk.list(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            names => {
                let names = names.on("list", folder)?;
                Ok(names.iter().any(|name| segment::number(name).is_some()))
            }
        }
    }

    fn open_with(disk: Arc<dyn Disk>, folder: &Path, sizes: Sizes) -> Result<Self, Error> {
        disk.create_dir(folder).on("create", folder)?;
        let lock = disk.lock(&folder.join(LOCK_NAME)).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => Error::Locked { path: folder.to_owned() },
            _ => Error::Io { what: "lock", path: folder.to_owned(), source },
        })?;
        crate::disk::remove_temporary(disk.as_ref(), folder)?;
        let recovered = recover::recover(disk.as_ref(), folder, sizes.cache_bytes_max)?;
        let head = &recovered.found.head;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                vote: head.vote.clone(),
                committed: head.committed.clone(),
                purged: head.purged.clone(),
                index: recovered.index,
                segments: recovered.segments,
            }),
            failed: OnceLock::new(),
            gauge: health::Gauge::new(),
        });
        let (found, len) = (recovered.found, sizes.segment_bytes);
        let writer = Writer::open(shared.clone(), disk, folder.to_owned(), found, len, lock)?;
        let (jobs, queue) = channel();
        let thread = thread::Builder::new()
            .name("nigh-wal".to_owned())
            .spawn(move || writer.run(&queue))
            .on("start the writer of", folder)?;
        let folder = folder.to_owned();
        Ok(Self { shared, folder, jobs: Some(jobs), thread: Some(thread) })
    }

    /// Appends entries. They can be read when this returns; they are held when `done` is called.
    ///
    /// # Errors
    /// An entry leaves a gap or is too large (nothing is appended then), or the log is poisoned.
    /// `done` is called with the same error.
    pub fn append(
        &self,
        entries: Vec<(u64, Bytes)>,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) -> Result<(), Error> {
        let done = Done::new(done);
        let mut state = self.shared.state();
        if let Err(error) = self.check(&state, &entries) {
            drop(state);
            done.answer(Err(error.again()));
            return Err(error);
        }
        let records = entries.into_iter().map(|(index, bytes)| {
            let ticket = state.index.push(index, bytes.clone(), None);
            Pending { kind: RecordKind::Entry, index, bytes, ticket }
        });
        let job = Job { records: records.collect(), sync: true, done };
        self.send(state, job)
    }

    /// Drops the entries from this index on.
    ///
    /// # Errors
    /// The log is poisoned.
    pub fn truncate_from(
        &self,
        from: u64,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) -> Result<(), Error> {
        let mut state = self.shared.state();
        state.index.truncate_from(from);
        let record =
            Pending { kind: RecordKind::Truncate, index: from, bytes: Bytes::new(), ticket: 0 };
        self.send(state, Job { records: vec![record], sync: true, done: Done::new(done) })
    }

    /// Drops the entries up to this index, inclusive, and keeps the bytes of its id. Purging less
    /// than before changes nothing.
    ///
    /// # Errors
    /// The log is poisoned.
    pub fn purge(
        &self,
        upto: u64,
        id: Bytes,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) -> Result<(), Error> {
        let mut state = self.shared.state();
        if state.purged.as_ref().is_some_and(|(purged, _)| *purged >= upto) {
            drop(state);
            Done::new(done).answer(Ok(()));
            return Ok(());
        }
        state.index.purge(upto);
        state.purged = Some((upto, id.clone()));
        let record = Pending { kind: RecordKind::Purge, index: upto, bytes: id, ticket: 0 };
        self.send(state, Job { records: vec![record], sync: true, done: Done::new(done) })
    }

    /// Keeps the vote.
    ///
    /// # Errors
    /// The log is poisoned.
    pub fn save_vote(
        &self,
        vote: Bytes,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) -> Result<(), Error> {
        let mut state = self.shared.state();
        state.vote = Some(vote.clone());
        let record = Pending { kind: RecordKind::Vote, index: 0, bytes: vote, ticket: 0 };
        self.send(state, Job { records: vec![record], sync: true, done: Done::new(done) })
    }

    /// Keeps the id of the last committed entry. It is written at once and synced with whatever
    /// comes next: losing it costs a node only that it learns it again.
    ///
    /// # Errors
    /// The log is poisoned.
    pub fn save_committed(&self, id: Bytes) -> Result<(), Error> {
        let mut state = self.shared.state();
        state.committed = Some(id.clone());
        let record = Pending { kind: RecordKind::Committed, index: 0, bytes: id, ticket: 0 };
        self.send(state, Job { records: vec![record], sync: false, done: Done::new(|_| ()) })
    }

    /// The vote saved last.
    pub fn vote(&self) -> Option<Bytes> {
        self.shared.state().vote.clone()
    }

    /// The committed id saved last.
    pub fn committed(&self) -> Option<Bytes> {
        self.shared.state().committed.clone()
    }

    /// The last purged index and the bytes of its id.
    pub fn purged(&self) -> Option<(u64, Bytes)> {
        self.shared.state().purged.clone()
    }

    /// The first and last index held.
    pub fn range(&self) -> Option<(u64, u64)> {
        self.shared.state().index.range()
    }

    /// The entries of `from..to` that are held, until `bytes_max` is exceeded, at least one. May
    /// read from the disk.
    ///
    /// # Errors
    /// The segment is damaged or cannot be read.
    pub fn read(&self, from: u64, to: u64, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, Error> {
        let state = self.shared.state();
        let found = state.index.find(from, to, bytes_max);
        let with_file = found.into_iter().map(|(index, found)| {
            let file = match &found {
                Found::At(place) => state.segments.get(&place.segment).cloned(),
                Found::Cached(_) => None,
            };
            (index, found, file)
        });
        let found: Vec<_> = with_file.collect();
        drop(state);
        let read = |(index, found, file): (u64, Found, Option<Arc<dyn DiskFile>>)| {
            let bytes = match found {
                Found::Cached(bytes) => bytes,
                Found::At(place) => self.read_record(index, place, file.as_deref())?,
            };
            Ok((index, bytes))
        };
        found.into_iter().map(read).collect()
    }

    /// The same when all of it is in memory, else none.
    pub fn read_cached(&self, from: u64, to: u64, bytes_max: usize) -> Option<Vec<(u64, Bytes)>> {
        let found = self.shared.state().index.find(from, to, bytes_max);
        let cached = found.into_iter().map(|(index, found)| match found {
            Found::Cached(bytes) => Some((index, bytes)),
            Found::At(_) => None,
        });
        cached.collect()
    }

    /// All entries held, in bytes.
    pub fn bytes(&self) -> u64 {
        self.shared.state().index.bytes()
    }

    /// The first index from which on the entries held are at most so many and so many bytes.
    pub fn newest(&self, entries_max: usize, bytes_max: u64) -> u64 {
        self.shared.state().index.newest(entries_max, bytes_max)
    }

    /// How the disk below it does.
    pub fn health(&self) -> Health {
        self.shared.gauge.read(self.failure())
    }

    /// The first I/O error, after which the log takes no more writes.
    pub fn failure(&self) -> Option<String> {
        self.shared.failed.get().cloned()
    }

    fn check(&self, state: &State, entries: &[(u64, Bytes)]) -> Result<(), Error> {
        let last = state.index.range().map(|(_, last)| last);
        let mut expected =
            last.or(state.purged.as_ref().map(|(purged, _)| *purged)).map(|last| last + 1);
        for (index, bytes) in entries {
            if expected.is_some_and(|expected| expected != *index) {
                let why = format!("entry {} must come next", expected.unwrap_or_default());
                return Err(Error::OutOfOrder { index: *index, why });
            }
            expected = Some(index + 1);
            if !writer::fits(bytes.len()) {
                let (len, max) = (bytes.len() as u64, PAYLOAD_BYTES_MAX as u64);
                return Err(Error::TooLarge { len, max });
            }
        }
        self.check_alive()
    }

    fn check_alive(&self) -> Result<(), Error> {
        match self.shared.failed.get() {
            Some(why) => Err(Error::Poisoned { why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Queues a job under the state's lock, so that jobs lie in the queue in the order in which
    /// the state changed.
    fn send(&self, state: MutexGuard<'_, State>, job: Job) -> Result<(), Error> {
        if let Err(error) = self.check_alive() {
            drop(state);
            job.done.answer(Err(error.again()));
            return Err(error);
        }
        let gone = || Error::Poisoned { why: "its writer has ended".to_owned() };
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        let sent = jobs.send(job);
        drop(state);
        sent.map_err(|_| gone())
    }

    fn read_record(
        &self,
        index: u64,
        place: Place,
        file: Option<&dyn DiskFile>,
    ) -> Result<Bytes, Error> {
        let path = segment::path(&self.folder, place.segment);
        let Some(file) = file else {
            return Err(Error::corrupt(&path, place.offset, "the segment is gone"));
        };
        let mut bytes = vec![0; place.len as usize];
        let read = file.read_at(&mut bytes, place.offset).on("read", &path)?;
        let record = record::decode(&bytes[..read], place.segment);
        let entry = record.and_then(|record| record::split_index(record.payload));
        match entry {
            Some((found, bytes)) if found == index => Ok(Bytes::copy_from_slice(bytes)),
            _ => {
                let why = format!("entry {index} is not what was written");
                Err(Error::corrupt(&path, place.offset, why))
            }
        }
    }
}

impl Drop for Wal {
    /// Waits until what is queued is written and the log is closed in order.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.thread.take()
            && writer.thread().id() != thread::current().id()
        {
            let _ = writer.join();
        }
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = self.range();
        f.debug_struct("Wal").field("folder", &self.folder).field("range", &range).finish()
    }
}
