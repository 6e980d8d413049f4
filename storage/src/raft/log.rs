//! Raft's log and vote over the write-ahead log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use openraft::OptionalSend;
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, oneshot};

use super::{Entry, LogId, TypeConfig, Vote};
use crate::error::Error;
use crate::wal::{Health, Wal};

/// Entries that may wait for a sync, in bytes; then appending waits.
const UNSYNCED_BYTES_MAX: u32 = 64 << 20;
/// Entries that are read at once for a peer, in bytes: well below the largest gRPC message.
const READ_BYTES_MAX: usize = 4 << 20;

/// The log. Clones share it and read what any of them wrote.
#[derive(Clone, Debug)]
pub struct LogStore {
    wal: Arc<Wal>,
    unsynced: Arc<Semaphore>,
}

impl LogStore {
    /// Makes Raft's log of an open write-ahead log.
    pub fn new(wal: Wal) -> Self {
        let unsynced = Arc::new(Semaphore::new(UNSYNCED_BYTES_MAX as usize));
        Self { wal: Arc::new(wal), unsynced }
    }

    /// The first I/O error, after which nothing more is written.
    pub fn failure(&self) -> Option<String> {
        self.wal.failure()
    }

    /// How the disk below it does.
    pub fn health(&self) -> Health {
        self.wal.health()
    }

    /// The first and last index held.
    pub fn range(&self) -> Option<(u64, u64)> {
        self.wal.range()
    }

    /// All entries held, in bytes.
    pub fn bytes(&self) -> u64 {
        self.wal.bytes()
    }

    /// The first index from which on the entries held are at most so many and so many bytes.
    pub fn newest(&self, entries_max: usize, bytes_max: u64) -> u64 {
        self.wal.newest(entries_max, bytes_max)
    }

    /// The id of the entry of this index, if the log holds it or it was purged last.
    ///
    /// # Errors
    /// The entry cannot be read.
    pub fn log_id(&self, index: u64) -> Result<Option<LogId>, Error> {
        if let Some((_, bytes)) = self.wal.read(index, index + 1, 0)?.pop() {
            return Ok(Some(decode::<Entry>(&bytes)?.log_id()));
        }
        let purged = self.purged()?;
        Ok(purged.filter(|purged| purged.index == index))
    }

    /// The id of the entry purged last.
    ///
    /// # Errors
    /// The stored id cannot be decoded.
    pub fn purged(&self) -> Result<Option<LogId>, Error> {
        self.wal.purged().map(|(_, id)| decode(&id)).transpose()
    }

    /// The vote saved last.
    ///
    /// # Errors
    /// It does not decode.
    pub fn vote(&self) -> Result<Option<Vote>, Error> {
        self.wal.vote().map(|vote| decode(&vote)).transpose()
    }

    /// The id of the last entry known to be committed.
    ///
    /// # Errors
    /// It does not decode.
    pub fn committed(&self) -> Result<Option<LogId>, Error> {
        self.wal.committed().map(|id| decode(&id)).transpose()
    }

    /// All entries after this index. Blocking.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn entries_after(&self, index: u64) -> Result<Vec<Entry>, Error> {
        let Some((first, last)) = self.wal.range() else { return Ok(Vec::new()) };
        let from = first.max(index + 1);
        let found = self.wal.read(from, last + 1, usize::MAX)?;
        found.iter().map(|(_, bytes)| decode(bytes)).collect()
    }

    /// Makes an empty log one that goes on after this entry, with this vote. Blocking.
    ///
    /// # Errors
    /// What the disk answers.
    pub fn begin_after(&self, vote: &Vote, last: LogId) -> Result<(), Error> {
        let (answer, answered) = std::sync::mpsc::channel();
        let told = answer.clone();
        self.wal.save_vote(encode(vote), move |result| _ = told.send(result))?;
        self.wal.purge(last.index, encode(&last), move |result| _ = answer.send(result))?;
        answered.iter().collect()
    }

    /// Reads entries off the caller's thread when they are no longer in memory.
    async fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let found = match self.wal.read_cached(from, to, bytes_max) {
            Some(found) => found,
            None => {
                let wal = self.wal.clone();
                let read = move || wal.read(from, to, bytes_max);
                tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??
            }
        };
        found.iter().map(|(_, bytes)| Ok(decode(bytes)?)).collect()
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (from, to) = half_open(&range);
        self.read(from, to, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, READ_BYTES_MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.wal.vote().map(|vote| decode(&vote)).transpose()?)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let last_purged_log_id = self.purged()?;
        let last_log_id = match self.wal.range() {
            Some((_, last)) => {
                self.read(last, last + 1, usize::MAX).await?.pop().map(|entry| entry.log_id())
            }
            None => last_purged_log_id,
        };
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = encode(vote);
        synced(|done| self.wal.save_vote(vote, done)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.wal.save_committed(encode(&committed))?;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.wal.committed().map(|id| decode(&id)).transpose()?)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<(u64, Bytes)> =
            entries.into_iter().map(|entry| (entry.index(), encode(&entry))).collect();
        let bytes: usize = entries.iter().map(|(_, bytes)| bytes.len()).sum();
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX).min(UNSYNCED_BYTES_MAX);
        let unsynced = self.unsynced.clone();
        let permit = unsynced.acquire_many_owned(permits).await.map_err(io::Error::other)?;
        self.wal.append(entries, move |result| {
            drop(permit);
            callback.io_completed(result.map_err(io::Error::from));
        })?;
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index + 1);
        if self.wal.range().is_none_or(|(_, last)| last < from) {
            return Ok(());
        }
        synced(|done| self.wal.truncate_from(from, done)).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let id = encode(&upto);
        synced(|done| self.wal.purge(upto.index, id, done)).await
    }
}

/// Waits until what was asked for is on the medium.
async fn synced<F>(write: F) -> io::Result<()>
where
    F: FnOnce(Box<dyn FnOnce(Result<(), Error>) + Send>) -> Result<(), Error>,
{
    let (answer, answered) = oneshot::channel();
    write(Box::new(move |result| {
        let _ = answer.send(result);
    }))?;
    let result = answered.await.map_err(io::Error::other)?;
    Ok(result?)
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    rmp_serde::to_vec_named(value).expect("raft's types are maps, numbers and bytes").into()
}

/// The log's checksum fits, so bytes that do not decode were written by another build.
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    rmp_serde::from_slice(bytes).map_err(|error| Error::Unreadable { why: error.to_string() })
}

fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}
