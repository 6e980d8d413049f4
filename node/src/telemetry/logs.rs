//! What guests print on this node: kept for a while, and told to those who follow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nigh_model::limits::LOG_LINES_KEPT;
use nigh_model::{AppName, FunctionRef, NodeName, RequestId};
use nigh_proto::{convert, v1};
use nigh_runtime::{LogSink, Stream};
use tokio::sync::broadcast;

use super::Metrics;
use crate::clock;

/// Most bytes of kept lines: all of them could be long.
const KEPT_BYTES_MAX: usize = 16 << 20;
/// What a line takes besides its text, in bytes.
const LINE_BYTES: usize = 160;
/// Lines that a slow follower may be behind before it misses some.
const FOLLOW_LINES_MAX: usize = 1_024;

/// The call that printed a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The app.
    pub(crate) app: AppName,
    /// The revision and function.
    pub(crate) function: FunctionRef,
    /// The call.
    pub(crate) request_id: RequestId,
}

/// A line that a guest printed.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    origin: Arc<Origin>,
    at_ms: u64,
    stream: &'static str,
    text: Box<str>,
}

impl Line {
    /// As a message of this node.
    pub(super) fn message(&self, node: &NodeName) -> v1::LogLine {
        let Origin { app, function, request_id } = &*self.origin;
        v1::LogLine {
            at: Some(convert::timestamp_ms(self.at_ms)),
            node: node.to_string(),
            app: app.to_string(),
            function: function.function.to_string(),
            revision: function.revision.to_string(),
            request_id: request_id.to_string(),
            stream: self.stream.to_owned(),
            line: self.text.to_string(),
        }
    }

    fn bytes(&self) -> usize {
        LINE_BYTES + self.text.len()
    }
}

/// Which lines are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Of this app.
    pub(super) app: String,
    /// Of this function; empty: of all.
    pub(super) function: String,
}

impl Wanted {
    /// Whether a line is wanted.
    pub(super) fn takes(&self, line: &Line) -> bool {
        let Origin { app, function, .. } = &*line.origin;
        app.as_str() == self.app
            && (self.function.is_empty() || function.function.as_str() == self.function)
    }
}

/// The lines of this node. A clone is the same book.
#[derive(Clone)]
pub(crate) struct LogBook {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeName,
    metrics: Metrics,
    kept: Mutex<Kept>,
    follow: broadcast::Sender<Arc<Line>>,
}

/// The last lines, the newest last.
#[derive(Default)]
struct Kept {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
}

impl Kept {
    fn push(&mut self, line: Arc<Line>) {
        self.bytes += line.bytes();
        self.lines.push_back(line);
        while self.lines.len() > LOG_LINES_KEPT || self.bytes > KEPT_BYTES_MAX {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.bytes();
        }
    }

    fn last(&self, wanted: &Wanted, lines: usize) -> Vec<Arc<Line>> {
        let found = self.lines.iter().rev().filter(|line| wanted.takes(line)).take(lines);
        let mut found: Vec<_> = found.cloned().collect();
        found.reverse();
        found
    }
}

impl LogBook {
    /// An empty book of this node.
    pub(crate) fn new(node: NodeName, metrics: Metrics) -> Self {
        let follow = broadcast::channel(FOLLOW_LINES_MAX).0;
        Self { inner: Arc::new(Inner { node, metrics, kept: Mutex::default(), follow }) }
    }

    /// Takes what a call prints.
    pub(crate) fn sink(&self, origin: Origin) -> Arc<dyn LogSink> {
        Arc::new(Sink { book: self.clone(), origin: Arc::new(origin) })
    }

    /// The name of the node whose lines these are.
    pub(super) fn node(&self) -> &NodeName {
        &self.inner.node
    }

    /// The last lines of those wanted, oldest first, and the lines that come from then on.
    pub(super) fn tail(
        &self,
        wanted: &Wanted,
        lines: usize,
    ) -> (Vec<Arc<Line>>, broadcast::Receiver<Arc<Line>>) {
        // Under one lock with `print`: no line is missed or told twice.
        let kept = self.kept();
        (kept.last(wanted, lines), self.inner.follow.subscribe())
    }

    fn print(&self, line: Line) {
        self.inner.metrics.printed();
        let line = Arc::new(line);
        let mut kept = self.kept();
        kept.push(Arc::clone(&line));
        // Nobody need follow.
        let _ = self.inner.follow.send(line);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Sink {
    book: LogBook,
    origin: Arc<Origin>,
}

impl Sink {
    fn print(&self, stream: &'static str, text: &str) {
        let Origin { app, function, request_id } = &*self.origin;
        tracing::debug!(
            target: "nigh::guest",
            request = %request_id,
            %app,
            %function,
            node = %self.book.inner.node,
            stream,
            line = text,
            "guest printed"
        );
        let origin = Arc::clone(&self.origin);
        self.book.print(Line { origin, at_ms: clock::now_ms(), stream, text: text.into() });
    }
}

impl LogSink for Sink {
    fn line(&self, stream: Stream, line: &str) {
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        self.print(stream, line);
    }

    fn dropped(&self, bytes: u64) {
        self.print("nigh", &format!("{bytes} bytes beyond the limits of this call were dropped"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nigh_model::{FunctionName, RevisionId};

    fn book() -> LogBook {
        LogBook::new(NodeName::new("n1").unwrap(), Metrics::new())
    }

    fn sink(book: &LogBook, app: &str) -> Arc<dyn LogSink> {
        book.sink(Origin {
            app: AppName::new(app).unwrap(),
            function: FunctionRef {
                revision: RevisionId(3),
                function: FunctionName::new("f").unwrap(),
            },
            request_id: RequestId::new("r").unwrap(),
        })
    }

    fn wanted(app: &str) -> Wanted {
        Wanted { app: app.into(), function: String::new() }
    }

    fn texts(lines: &[Arc<Line>]) -> Vec<&str> {
        lines.iter().map(|line| &*line.text).collect()
    }

    #[test]
    fn a_reader_gets_the_last_lines_and_then_each_new_one() {
        let book = book();
        let (a, b) = (sink(&book, "a"), sink(&book, "b"));
        for n in 0..5 {
            a.line(Stream::Stdout, &format!("a{n}"));
            b.line(Stream::Stderr, &format!("b{n}"));
        }
        let (kept, mut follow) = book.tail(&wanted("a"), 2);
        assert_eq!(texts(&kept), ["a3", "a4"]);
        a.line(Stream::Stdout, "new");
        assert_eq!(&*follow.try_recv().unwrap().text, "new");
        let message = kept[0].message(book.node());
        assert_eq!((&*message.node, &*message.revision, &*message.stream), ("n1", "r3", "stdout"));
    }

    #[test]
    fn what_is_kept_is_bounded_in_lines_and_bytes() {
        let book = book();
        let sink = sink(&book, "a");
        for n in 0..LOG_LINES_KEPT + 10 {
            sink.line(Stream::Stdout, &n.to_string());
        }
        assert_eq!(book.kept().lines.len(), LOG_LINES_KEPT);
        let long = "x".repeat(8 << 10);
        for _ in 0..LOG_LINES_KEPT {
            sink.line(Stream::Stdout, &long);
        }
        let kept = book.kept();
        assert!(kept.bytes <= KEPT_BYTES_MAX);
        assert_eq!(kept.bytes, kept.lines.iter().map(|line| line.bytes()).sum::<usize>());
    }

    #[test]
    fn a_function_is_told_apart() {
        let book = book();
        sink(&book, "a").dropped(7);
        let one = |function: &str| Wanted { app: "a".into(), function: function.into() };
        assert_eq!(book.tail(&one("f"), 9).0.len(), 1);
        assert_eq!(book.tail(&one("g"), 9).0.len(), 0);
    }
}
