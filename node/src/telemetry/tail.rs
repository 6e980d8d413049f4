//! Reading what guests print: this node's lines for its peers, all nodes' lines for people.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use nigh_model::limits::LOG_LINES_KEPT;
use nigh_model::suggest::nearest;
use nigh_model::{AppName, Kind, NodeId};
use nigh_proto::peer::v1::logs_client::LogsClient;
use nigh_proto::peer::v1::logs_server as peer_server;
use nigh_proto::v1::logs_server as public_server;
use nigh_proto::v1::{LogLine, TailRequest};
use nigh_proto::{convert, status};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::logs::{LogBook, Wanted};
use crate::clock;
use crate::decided::Decided;
use crate::peer::{Lane, Peers};
use crate::seen::{Liveness, Seen};

/// Kept lines that a reader gets who does not say how many.
const LINES_DEFAULT: u32 = 100;
/// Kept lines of nodes that have not answered by then are left out.
const GATHER_WAIT_MAX: Duration = Duration::from_secs(2);
/// Lines on their way to a reader; a slow one is told by its node what it missed.
const ON_THE_WAY_MAX: usize = 256;
/// How often a follower looks for nodes that have come or come back.
const NODES_INTERVAL: Duration = Duration::from_secs(1);
/// The stream name of lines that the platform itself adds.
const OWN_STREAM: &str = "nigh";

type Lines = Pin<Box<dyn Stream<Item = Result<LogLine, Status>> + Send>>;

/// The service that other nodes read this node's lines through.
pub(crate) fn peer_logs_service(book: LogBook) -> peer_server::LogsServer<PeerLogs> {
    peer_server::LogsServer::new(PeerLogs { book })
}

/// The service that people read all lines through.
pub(crate) fn public_logs_service(
    own: NodeId,
    book: LogBook,
    decided: Decided,
    seen: Seen,
    peers: Peers,
) -> public_server::LogsServer<PublicLogs> {
    public_server::LogsServer::new(PublicLogs { own, book, decided, seen, peers })
}

/// This node's lines, for its peers.
pub(crate) struct PeerLogs {
    book: LogBook,
}

#[tonic::async_trait]
impl peer_server::Logs for PeerLogs {
    type TailStream = Lines;

    async fn tail(&self, request: Request<TailRequest>) -> Result<Response<Lines>, Status> {
        let lines = lines_of(&self.book, &request.into_inner());
        Ok(Response::new(Box::pin(lines.map(Ok))))
    }
}

/// Kept lines, then a line with an empty stream name, then new ones if they are wanted.
fn lines_of(book: &LogBook, request: &TailRequest) -> impl Stream<Item = LogLine> + Send + use<> {
    let wanted = Wanted { app: request.app.clone(), function: request.function.clone() };
    let (kept, follow) = book.tail(&wanted, count(request.lines));
    let node = book.node().clone();
    let kept: Vec<LogLine> =
        kept.iter().map(|line| line.message(&node)).chain([LogLine::default()]).collect();
    let follow = request.follow.then_some(follow);
    let new = stream::unfold(follow, move |follow| {
        let (wanted, node) = (wanted.clone(), node.clone());
        async move {
            let mut follow = follow?;
            loop {
                match follow.recv().await {
                    Ok(line) if wanted.takes(&line) => {
                        return Some((line.message(&node), Some(follow)));
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(missed)) => {
                        let line = LogLine {
                            at: Some(convert::timestamp_ms(clock::now_ms())),
                            node: node.to_string(),
                            stream: OWN_STREAM.to_owned(),
                            line: format!("this reader is slow and missed {missed} lines"),
                            ..LogLine::default()
                        };
                        return Some((line, Some(follow)));
                    }
                    Err(RecvError::Closed) => return None,
                }
            }
        }
    });
    stream::iter(kept).chain(new)
}

fn count(lines: u32) -> usize {
    let lines = if lines == 0 { LINES_DEFAULT } else { lines };
    usize::try_from(lines).unwrap_or(usize::MAX).min(LOG_LINES_KEPT)
}

/// All nodes' lines, for people.
#[derive(Clone)]
pub(crate) struct PublicLogs {
    own: NodeId,
    book: LogBook,
    decided: Decided,
    seen: Seen,
    peers: Peers,
}

#[tonic::async_trait]
impl public_server::Logs for PublicLogs {
    type TailStream = Lines;

    async fn tail(&self, request: Request<TailRequest>) -> Result<Response<Lines>, Status> {
        let request = request.into_inner();
        let state = self.decided.state();
        if !state.apps.contains_key(request.app.as_str()) {
            let names = state.apps.keys().map(AppName::as_str);
            let near = nearest(&request.app, names);
            let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            let message = format!("no app is named `{}`{hint}", request.app.escape_debug());
            return Err(status::of_kind(Kind::NotFound, "NO_SUCH_APP", message));
        }
        let (out, lines) = mpsc::channel(ON_THE_WAY_MAX);
        // Ends when the reader goes: nobody takes from the channel then.
        tokio::spawn(gather(self.clone(), request, out));
        Ok(Response::new(Box::pin(ReceiverStream::new(lines))))
    }
}

/// What one node says.
enum Told {
    Line(LogLine),
    /// Its kept lines are told, or it cannot tell any.
    KeptEnd,
}

type Out = mpsc::Sender<Result<LogLine, Status>>;

/// Brings the lines of all nodes together: kept ones by time, new ones as they come.
async fn gather(logs: PublicLogs, request: TailRequest, out: Out) {
    let (tell, mut told) = mpsc::channel(ON_THE_WAY_MAX);
    let mut readers = JoinSet::new();
    let mut read = BTreeSet::new();
    let mut open = 0;
    for id in logs.living() {
        read.insert(id);
        open += 1;
        readers.spawn(read_node(logs.clone(), id, request.clone(), tell.clone()));
    }
    let mut kept = Vec::new();
    let until = Instant::now() + GATHER_WAIT_MAX;
    while open > 0 {
        match tokio::time::timeout_at(until, told.recv()).await {
            Ok(Some(Told::Line(line))) => kept.push(line),
            Ok(Some(Told::KeptEnd)) => open -= 1,
            Ok(None) | Err(_) => break,
        }
    }
    for line in newest(kept, count(request.lines)) {
        if out.send(Ok(line)).await.is_err() {
            return;
        }
    }
    if !request.follow {
        return;
    }
    let mut ticks = tokio::time::interval(NODES_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            next = told.recv() => match next {
                Some(Told::Line(line)) => if out.send(Ok(line)).await.is_err() { return },
                Some(Told::KeptEnd) => {}
                None => return,
            },
            () = out.closed() => return,
            _ = ticks.tick() => {
                while readers.try_join_next().is_some() {}
                for id in logs.living() {
                    if read.insert(id) {
                        readers.spawn(read_node(logs.clone(), id, request.clone(), tell.clone()));
                    }
                }
            }
        }
    }
}

/// The last lines of all, by time.
fn newest(mut lines: Vec<LogLine>, count: usize) -> Vec<LogLine> {
    lines.sort_by_key(at);
    lines.split_off(lines.len().saturating_sub(count))
}

fn at(line: &LogLine) -> (i64, i32) {
    line.at.as_ref().map_or((0, 0), |at| (at.seconds, at.nanos))
}

/// Tells the lines of one node; comes back to it when its connection breaks.
async fn read_node(logs: PublicLogs, id: NodeId, request: TailRequest, tell: mpsc::Sender<Told>) {
    let mut last = (0, 0);
    // Each node's end counts once: the others are waited for.
    let mut told_end = false;
    loop {
        let lines = if id == logs.own {
            let lines: Lines = Box::pin(lines_of(&logs.book, &request).map(Ok));
            Some(lines)
        } else {
            logs.ask(id, &request).await
        };
        if let Some(mut lines) = lines {
            // Lines told before the connection broke are told again; they are not passed on.
            let told_before = last;
            let mut old = true;
            while let Some(Ok(line)) = lines.next().await {
                let told = if line.stream.is_empty() {
                    old = false;
                    if std::mem::replace(&mut told_end, true) {
                        continue;
                    }
                    Told::KeptEnd
                } else if old && told_before != (0, 0) && at(&line) <= told_before {
                    continue;
                } else {
                    last = last.max(at(&line));
                    Told::Line(line)
                };
                if tell.send(told).await.is_err() {
                    return;
                }
            }
        }
        // A node that cannot be asked must not be waited for.
        let ended = std::mem::replace(&mut told_end, true);
        if !ended && tell.send(Told::KeptEnd).await.is_err() || !request.follow {
            return;
        }
        tokio::time::sleep(NODES_INTERVAL).await;
    }
}

impl PublicLogs {
    /// This node and all that are thought to be alive.
    fn living(&self) -> Vec<NodeId> {
        let (state, view) = (self.decided.state(), self.seen.now());
        let lives = |id: &NodeId| *id == self.own || view.liveness(*id) != Liveness::Dead;
        state.nodes.keys().copied().filter(lives).collect()
    }

    async fn ask(&self, id: NodeId, request: &TailRequest) -> Option<Lines> {
        let channel = self.peers.channel(id, Lane::Control)?;
        match LogsClient::new(channel).tail(request.clone()).await {
            Ok(lines) => Some(Box::pin(lines.into_inner())),
            Err(status) => {
                tracing::debug!(peer = %id, %status, "a node's lines cannot be read");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Metrics, Origin};
    use nigh_model::{FunctionName, FunctionRef, NodeName, RequestId, RevisionId};
    use nigh_runtime::Stream as Printed;

    fn book_with(lines: &[&str]) -> LogBook {
        let book = LogBook::new(NodeName::new("n1").unwrap(), Metrics::new());
        print(&book, lines);
        book
    }

    fn print(book: &LogBook, lines: &[&str]) {
        let sink = book.sink(Origin {
            app: AppName::new("a").unwrap(),
            function: FunctionRef {
                revision: RevisionId(3),
                function: FunctionName::new("f").unwrap(),
            },
            request_id: RequestId::new("r").unwrap(),
        });
        for line in lines {
            sink.line(Printed::Stdout, line);
        }
    }

    fn request(follow: bool) -> TailRequest {
        TailRequest { app: "a".into(), function: String::new(), follow, lines: 0 }
    }

    #[tokio::test]
    async fn kept_lines_end_with_a_mark_and_the_stream_without_follow() {
        let lines: Vec<LogLine> =
            lines_of(&book_with(&["x", "y"]), &request(false)).collect().await;
        let texts: Vec<&str> = lines.iter().map(|line| &*line.line).collect();
        assert_eq!(texts, ["x", "y", ""]);
        assert!(lines[2].stream.is_empty());
    }

    #[tokio::test]
    async fn a_slow_follower_is_told_what_it_missed() {
        let book = book_with(&[]);
        let mut lines = Box::pin(lines_of(&book, &request(true)));
        assert!(lines.next().await.unwrap().stream.is_empty());
        let many: Vec<String> = (0..2_000).map(|n| n.to_string()).collect();
        print(&book, &many.iter().map(String::as_str).collect::<Vec<_>>());
        let told = lines.next().await.unwrap();
        assert_eq!(told.stream, OWN_STREAM);
        assert!(told.line.contains("missed 976 lines"), "{}", told.line);
        assert_eq!(lines.next().await.unwrap().line, "976");
    }

    #[test]
    fn the_newest_lines_of_all_nodes_stand_in_the_order_of_time() {
        let line = |ms| LogLine { at: Some(convert::timestamp_ms(ms)), ..LogLine::default() };
        let found = newest(vec![line(5), line(3_000), line(1)], 2);
        assert_eq!(found, [line(5), line(3_000)]);
        assert_eq!(newest(vec![line(1)], 2).len(), 1);
    }
}
