//! The one thread that writes: takes all that is queued, writes once, syncs once, answers all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Shared;
use super::head::Head;
use super::index::{Place, Ticket};
use super::record::{self, Link, RecordKind, encode, encoded_len};
use super::recover::{Found, Position};
use super::segment::{self, Header};
use super::tail::TailMark;
use crate::disk::{Disk, DiskFile, Lock};
use crate::error::{Context as _, Error};

/// While no segment can be reserved, it is tried again this often.
const RESERVE_INTERVAL: Duration = Duration::from_secs(1);
/// The tail mark is synced when nothing was written for this long …
const MARK_IDLE: Duration = Duration::from_millis(100);
/// … or when it was not for this long: how far it may lag behind after a power cut.
const MARK_INTERVAL: Duration = Duration::from_secs(1);
/// Records written with one sync, in bytes; one job may be larger.
const BATCH_BYTES_MAX: usize = 4 << 20;

type Callback = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// Called once: with success after the records are on the medium, or with the error.
pub(super) struct Done(Option<Callback>);

impl Done {
    pub(super) fn new(done: impl FnOnce(Result<(), Error>) + Send + 'static) -> Self {
        Self(Some(Box::new(done)))
    }

    pub(super) fn answer(mut self, result: Result<(), Error>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(Error::Poisoned { why: "its writer has ended".to_owned() }));
        }
    }
}

/// A record to be written.
#[derive(Debug)]
pub(super) struct Pending {
    pub kind: RecordKind,
    /// Of an entry, a truncation or a purge.
    pub index: u64,
    pub bytes: Bytes,
    /// Of an entry.
    pub ticket: Ticket,
}

impl Pending {
    fn payload_len(&self) -> usize {
        if self.has_index() { 8 + self.bytes.len() } else { self.bytes.len() }
    }

    const fn has_index(&self) -> bool {
        matches!(self.kind, RecordKind::Entry | RecordKind::Truncate | RecordKind::Purge)
    }
}

/// Records that are answered together.
pub(super) struct Job {
    pub records: Vec<Pending>,
    /// Whether the answer waits for a sync; else the records ride along with the next one.
    pub sync: bool,
    pub done: Done,
}

impl Job {
    fn len(&self) -> usize {
        self.records.iter().map(|record| encoded_len(record.payload_len())).sum()
    }
}

/// The writer's own state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    file: Arc<dyn DiskFile>,
    position: Position,
    head: Head,
    /// The highest entry written to each segment that has any.
    last_entries: BTreeMap<u64, u64>,
    segment_bytes: u64,
    /// The next segment, reserved.
    spare: Option<Arc<dyn DiskFile>>,
    mark: TailMark,
    /// Since when the tail mark says more than is certain to be on the medium.
    mark_noted: Option<Instant>,
    buffer: Vec<u8>,
    _lock: Box<dyn Lock>,
}

impl Writer {
    /// Continues a recovered log, or begins one.
    pub(super) fn open(
        shared: Arc<Shared>,
        disk: Arc<dyn Disk>,
        folder: PathBuf,
        found: Found,
        segment_bytes: u64,
        lock: Box<dyn Lock>,
    ) -> Result<Self, Error> {
        let Found { head, position, last_entries } = found;
        let (position, file) = match position {
            Some(position) => {
                let file = shared.state().segments[&position.segment].clone();
                (position, file)
            }
            None => begin_segment(disk.as_ref(), &folder, &head, None, (segment_bytes, 0), None)?,
        };
        shared.state().segments.insert(position.segment, file.clone());
        let mark = TailMark::open(&disk, &folder, position.durable)?;
        Ok(Self {
            shared,
            disk,
            folder,
            file,
            position,
            head,
            last_entries,
            segment_bytes,
            spare: None,
            mark,
            mark_noted: None,
            buffer: Vec::new(),
            _lock: lock,
        })
    }

    /// Writes until nobody can ask any more.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            self.reserve();
            self.sync_mark(MARK_INTERVAL);
            let first = match self.next(jobs) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    self.sync_mark(MARK_IDLE);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut bytes = first.len();
            let mut batch = vec![first];
            while bytes < BATCH_BYTES_MAX
                && let Ok(job) = jobs.try_recv()
            {
                bytes += job.len();
                batch.push(job);
            }
            let result = match self.shared.failed.get() {
                Some(why) => Err(Error::Poisoned { why: why.clone() }),
                None => self.write(&batch, bytes as u64),
            };
            if let Err(error) = &result
                && self.shared.failed.set(error.to_string()).is_ok()
            {
                tracing::error!(%error, "the log cannot be written and takes no more writes");
            }
            for job in batch {
                job.done.answer(result.as_ref().map(|_| ()).map_err(Error::again));
            }
        }
        self.close();
    }

    /// Waits for a job, for ever unless there is something else to do meanwhile.
    fn next(&self, jobs: &Receiver<Job>) -> Result<Job, RecvTimeoutError> {
        if self.shared.failed.get().is_some() {
            jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else if self.mark_noted.is_some() {
            jobs.recv_timeout(MARK_IDLE)
        } else if self.spare.is_none() {
            jobs.recv_timeout(RESERVE_INTERVAL)
        } else {
            jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
        }
    }

    /// Syncs the tail mark when it was noted so long ago.
    fn sync_mark(&mut self, after: Duration) {
        if self.mark_noted.is_some_and(|noted| noted.elapsed() >= after) {
            self.mark.sync();
            self.mark_noted = None;
        }
    }

    /// Reserves the next segment. Not having it is no error yet, and is said.
    fn reserve(&mut self) {
        if self.spare.is_some() || self.shared.failed.get().is_some() {
            return;
        }
        let path = self.folder.join(segment::SPARE_NAME);
        match self.disk.create(&path, self.segment_bytes) {
            Ok(file) => {
                self.spare = Some(file);
                if self.shared.gauge.note_full(false) {
                    tracing::info!(path = %path.display(), "the log has room again");
                }
            }
            Err(error) => {
                if self.shared.gauge.note_full(true) {
                    tracing::warn!(
                        path = %path.display(), %error,
                        "no room can be reserved for the log: new entries are refused until \
                         there is space"
                    );
                }
            }
        }
    }

    fn write(&mut self, batch: &[Job], bytes: u64) -> Result<(), Error> {
        if self.position.offset + bytes > self.position.capacity {
            self.sync()?;
            let (disk, before) = (self.disk.as_ref(), Some(self.position));
            let lens = (self.segment_bytes, bytes);
            let spare = self.spare.take();
            (self.position, self.file) =
                begin_segment(disk, &self.folder, &self.head, before, lens, spare)?;
            self.shared.state().segments.insert(self.position.segment, self.file.clone());
        }
        self.buffer.clear();
        let start = self.position.offset;
        let mut end = self.position;
        let mut places = Vec::new();
        for record in batch.iter().flat_map(|job| &job.records) {
            let offset = start + self.buffer.len() as u64;
            put(&mut self.buffer, record, &mut end, &mut self.head);
            let len = (start + self.buffer.len() as u64 - offset) as u32;
            if record.kind == RecordKind::Entry {
                let last = self.last_entries.entry(end.segment).or_default();
                *last = record.index.max(*last);
                let place = Place { segment: end.segment, offset, len };
                places.push((record.index, record.ticket, place));
            }
        }
        let path = segment::path(&self.folder, end.segment);
        self.file.write_all_at(&self.buffer, start).on("write", &path)?;
        end.offset = start + self.buffer.len() as u64;
        self.position = end;
        if batch.iter().any(|job| job.sync) {
            self.sync()?;
            self.mark.note(self.position.durable);
            self.mark_noted.get_or_insert_with(Instant::now);
        }
        let mut state = self.shared.state();
        for (index, ticket, place) in places {
            state.index.placed(index, ticket, place);
        }
        drop(state);
        let shrinks =
            |record: &Pending| matches!(record.kind, RecordKind::Purge | RecordKind::Truncate);
        if batch.iter().flat_map(|job| &job.records).any(shrinks) {
            self.remove_unneeded()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        if self.position.durable < self.position.sequence {
            let path = segment::path(&self.folder, self.position.segment);
            self.shared.gauge.sync_begins();
            let synced = self.file.sync();
            self.shared.gauge.sync_ends();
            synced.on("sync", &path)?;
            self.position.durable = self.position.sequence;
        }
        Ok(())
    }

    /// Removes the oldest segments in which no entry is held. What else they said is repeated at
    /// the head of every later one.
    ///
    /// Goes by what was written: the shared index is already where the queue will lead.
    fn remove_unneeded(&mut self) -> Result<(), Error> {
        let first_held = self.head.held.map_or(u64::MAX, |(first, _)| first);
        loop {
            let mut state = self.shared.state();
            let Some(oldest) = state.segments.keys().next().copied() else { return Ok(()) };
            let needed = self.last_entries.get(&oldest).is_some_and(|last| *last >= first_held);
            if needed || oldest == self.position.segment {
                return Ok(());
            }
            state.segments.remove(&oldest);
            drop(state);
            self.last_entries.remove(&oldest);
            let path = segment::path(&self.folder, oldest);
            self.disk.remove(&path).on("remove", &path)?;
            self.disk.sync_dir(&self.folder).on("sync", &self.folder)?;
        }
    }

    fn close(mut self) {
        if self.shared.failed.get().is_some() {
            return;
        }
        match self.sync() {
            Ok(()) => {
                self.mark.note(self.position.durable);
                self.mark.sync();
            }
            Err(error) => tracing::error!(%error, "the log was not closed in order"),
        }
    }
}

/// Makes the next segment with the latest vote, committed and purged ids at its head; durable when
/// this returns. It is `len` bytes long, or more when `needed` bytes would not fit behind the head.
/// `spare` has `len` bytes and is used when they are enough.
fn begin_segment(
    disk: &dyn Disk,
    folder: &Path,
    head: &Head,
    before: Option<Position>,
    (len, needed): (u64, u64),
    spare: Option<Arc<dyn DiskFile>>,
) -> Result<(Position, Arc<dyn DiskFile>), Error> {
    let number = before.map_or(1, |before| before.segment + 1);
    let sequence = before.map_or(0, |before| before.sequence);
    let prev = before.map_or(0, |before| before.crc);
    let (first_sequence, held) = (sequence + 1, head.held);
    let mut header = Header { number, first_sequence, prev, held, head_len: 0, head_crc: 0 };
    let mut end = Position {
        segment: number,
        capacity: 0,
        offset: 0,
        sequence,
        crc: header.link(),
        durable: sequence,
    };
    let mut records = Vec::new();
    for record in head_records(head) {
        put(&mut records, &record, &mut end, &mut head.clone());
    }
    header.head_len = records.len() as u32;
    header.head_crc = crc32c::crc32c(&records);
    let buffer = [&header.encode()[..], &records[..]].concat();
    end.offset = buffer.len() as u64;
    end.capacity = len.max(end.offset + needed);

    let path = segment::path(folder, number);
    let reserved = folder.join(segment::SPARE_NAME);
    let file = match spare {
        Some(spare) if end.capacity == len => {
            disk.rename(&reserved, &path).on("rename", &reserved)?;
            spare
        }
        spare => {
            if spare.is_some() {
                disk.remove(&reserved).on("remove", &reserved)?;
            }
            disk.create(&path, end.capacity).on("create", &path)?
        }
    };
    file.write_all_at(&buffer, 0).on("write", &path)?;
    file.sync().on("sync", &path)?;
    disk.sync_dir(folder).on("sync", folder)?;
    end.durable = end.sequence;
    Ok((end, file))
}

fn head_records(head: &Head) -> Vec<Pending> {
    let plain = |kind, bytes: &Bytes| Pending { kind, index: 0, bytes: bytes.clone(), ticket: 0 };
    let mut records = vec![plain(RecordKind::Begin, &Bytes::new())];
    records.extend(head.vote.as_ref().map(|vote| plain(RecordKind::Vote, vote)));
    records.extend(head.committed.as_ref().map(|id| plain(RecordKind::Committed, id)));
    records.extend(head.purged.as_ref().map(|(index, id)| Pending {
        kind: RecordKind::Purge,
        index: *index,
        bytes: id.clone(),
        ticket: 0,
    }));
    records
}

/// Appends a record to a buffer and moves the end of the log behind it.
fn put(buffer: &mut Vec<u8>, record: &Pending, end: &mut Position, head: &mut Head) {
    let link = Link {
        segment: end.segment,
        prev: end.crc,
        sequence: end.sequence + 1,
        durable: end.durable,
    };
    let index = record.index.to_le_bytes();
    let payload: &[&[u8]] =
        if record.has_index() { &[&index, &record.bytes] } else { &[&record.bytes] };
    end.crc = encode(record.kind, payload, link, buffer);
    end.sequence += 1;
    match record.kind {
        RecordKind::Begin => {}
        RecordKind::Vote => head.vote = Some(record.bytes.clone()),
        RecordKind::Committed => head.committed = Some(record.bytes.clone()),
        RecordKind::Entry => {
            head.entry(record.index);
        }
        RecordKind::Truncate => head.truncate_from(record.index),
        RecordKind::Purge => head.purge(record.index, record.bytes.clone()),
    }
}

/// Whether a payload fits a record.
pub(super) const fn fits(len: usize) -> bool {
    len <= super::PAYLOAD_BYTES_MAX - record::HEADER_BYTES
}
