//! A JSON line per call.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::load::Entry;
use crate::load::run::{Outcome, Record};
use crate::time::rfc3339_of;

/// A file of calls.
pub(crate) struct Ledger {
    path: PathBuf,
    file: BufWriter<File>,
    failed: Option<std::io::Error>,
}

/// A line; its fields are documented and never renamed.
#[derive(Debug, Serialize)]
struct Line<'a> {
    at: String,
    entry: &'a str,
    function: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    node: Option<&'a str>,
    cold: Option<bool>,
    forwarded: Option<bool>,
    ms: f64,
}

impl Ledger {
    /// Begins a file anew.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|error| {
            Failure::usage(format!("cannot write the ledger {}", path.display()))
                .why(error.to_string())
        })?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file), failed: None })
    }

    /// Notes a call. A failure is kept for the end: the run goes on.
    pub(crate) fn note(&mut self, record: &Record, entries: &[Entry], functions: &[String]) {
        if self.failed.is_some() {
            return;
        }
        let line = line_of(record, entries, functions);
        let written = serde_json::to_writer(&mut self.file, &line)
            .map_err(std::io::Error::from)
            .and_then(|()| self.file.write_all(b"\n"));
        self.failed = written.err();
    }

    /// Writes what is left and says whether everything was written.
    pub(crate) fn close(mut self) -> Result {
        match self.failed.take().or_else(|| self.file.flush().err()) {
            None => Ok(()),
            Some(error) => {
                let what = format!("the ledger {} is not whole", self.path.display());
                Err(Failure::internal(what).why(error.to_string()))
            }
        }
    }
}

fn line_of<'a>(record: &'a Record, entries: &'a [Entry], functions: &'a [String]) -> Line<'a> {
    let mut line = Line {
        at: rfc3339_of(record.time),
        entry: &entries[record.entry].name,
        function: &functions[record.function],
        request_id: &record.request_id,
        status: None,
        error: None,
        node: None,
        cold: None,
        forwarded: None,
        ms: (record.latency.as_secs_f64() * 1e6).round() / 1e3,
    };
    match &record.outcome {
        Outcome::Answered(answer) => {
            match &answer.reason {
                Some(reason) => line.error = Some(reason),
                None => line.status = Some(answer.status),
            }
            line.node = answer.ran.node.as_deref();
            line.cold = answer.ran.cold;
            line.forwarded = Some(answer.ran.forwarded);
        }
        Outcome::Unanswered(why) => line.error = Some(why.name()),
        Outcome::Dropped => line.error = Some("client: dropped"),
    }
    line
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::load::client::Answer;
    use crate::load::timing::Ran;
    use std::time::{Duration, SystemTime};

    /// A call that was answered by this node.
    pub(crate) fn answered(entry: usize, function: usize, node: &str, cold: bool) -> Record {
        let ran = Ran { node: Some(node.to_owned()), cold: Some(cold), ..Ran::default() };
        Record {
            at: Duration::from_secs(1),
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
            entry,
            function,
            request_id: "abc".into(),
            outcome: Outcome::Answered(Answer {
                status: 200,
                reason: None,
                ran,
                body: bytes::Bytes::new(),
            }),
            latency: Duration::from_micros(1_500),
            sent: tokio::time::Instant::now(),
            service: Duration::from_micros(1_400),
        }
    }

    #[test]
    fn a_line_has_the_documented_fields() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.jsonl");
        let entry =
            Entry { name: "a".into(), region: "eu".into(), authority: "127.0.0.1:1".into() };
        let mut ledger = Ledger::create(&path).unwrap();
        let mut record = answered(0, 0, "b", false);
        ledger.note(&record, std::slice::from_ref(&entry), &["hello".to_owned()]);
        record.outcome = Outcome::Dropped;
        ledger.note(&record, std::slice::from_ref(&entry), &["hello".to_owned()]);
        ledger.close().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            r#"{"at":"1970-01-01T00:00:01.000Z","entry":"a","function":"hello","request_id":"abc","status":200,"node":"b","cold":false,"forwarded":false,"ms":1.5}"#
        );
        assert!(lines[1].contains(r#""error":"client: dropped""#) && !lines[1].contains("status"));
    }
}
