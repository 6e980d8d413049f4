//! Making the planned calls at their times.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::load::client::{Answer, Client, Unanswered};
use crate::load::{Entry, Planned};
use crate::rollout::request_id;

/// Records on their way to whoever counts them; a call that ends waits for room here while it
/// still counts as running.
const RECORDS_WAITING_MAX: usize = 1_024;

/// What became of a call.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Its intended start, from the start of the run.
    pub(crate) at: Duration,
    /// The same by the clock.
    pub(crate) time: SystemTime,
    /// Which entry.
    pub(crate) entry: usize,
    /// Which function.
    pub(crate) function: usize,
    /// Its request id; empty when it was never sent.
    pub(crate) request_id: String,
    /// The answer, or why there is none.
    pub(crate) outcome: Outcome,
    /// From the intended start to the end of the answer.
    pub(crate) latency: Duration,
    /// When it was really sent.
    pub(crate) sent: Instant,
    /// From then to the end of the answer.
    pub(crate) service: Duration,
}

/// The answer, or why there is none.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// It was answered, well or badly.
    Answered(Answer),
    /// It was sent and not answered.
    Unanswered(Unanswered),
    /// It was never sent: as many calls as the client may have were running.
    Dropped,
}

/// A run: where calls go, and how many may be under way.
pub(crate) struct Run {
    /// The nodes that calls enter.
    pub(crate) entries: Arc<[Entry]>,
    /// What sends them.
    pub(crate) client: Client,
    /// Most calls at once.
    pub(crate) concurrency: usize,
}

impl Run {
    /// Makes the calls, which must be in the order of their starts, and hands each record to
    /// `count`. Ends when the last one is answered.
    pub(crate) async fn make(
        self,
        calls: impl Iterator<Item = Planned> + Send + 'static,
        mut count: impl FnMut(Record),
    ) {
        let (records, mut arriving) = mpsc::channel(RECORDS_WAITING_MAX);
        let starter = tokio::spawn(self.start_all(calls, records));
        // Whoever waits for this may give up; then nothing more shall start.
        let _guard = AbortOnDrop(starter.abort_handle());
        while let Some(record) = arriving.recv().await {
            count(record);
        }
    }

    async fn start_all(
        self,
        calls: impl Iterator<Item = Planned> + Send,
        records: mpsc::Sender<Record>,
    ) {
        let places = Arc::new(Semaphore::new(self.concurrency));
        let (start, clock) = (Instant::now(), SystemTime::now());
        for call in calls {
            let intended = start + call.at;
            sleep_until(intended).await;
            let mut record = Record {
                at: call.at,
                time: clock + call.at,
                entry: call.entry,
                function: call.function,
                request_id: String::new(),
                outcome: Outcome::Dropped,
                latency: Duration::ZERO,
                sent: Instant::now(),
                service: Duration::ZERO,
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                if records.send(record).await.is_err() {
                    return;
                }
                continue;
            };
            let (client, entries) = (self.client.clone(), Arc::clone(&self.entries));
            let records = records.clone();
            tokio::spawn(async move {
                record.sent = Instant::now();
                record.request_id = request_id();
                let authority = &entries[call.entry].authority;
                let answer = client.get(authority, &call.path, &record.request_id).await;
                record.latency = intended.elapsed();
                record.service = record.sent.elapsed();
                record.outcome = match answer {
                    Ok(answer) => Outcome::Answered(answer),
                    Err(why) => Outcome::Unanswered(why),
                };
                // Nobody counts any more: the run was given up.
                let _ = records.send(record).await;
                drop(place);
            });
        }
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// A server that answers each request of each connection after a while.
    async fn slow_server(pause: Duration) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0; 4_096];
                    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                        tokio::time::sleep(pause).await;
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        authority
    }

    async fn run(concurrency: usize, pause: Duration) -> Vec<Record> {
        let entry =
            Entry { name: "a".into(), region: "eu".into(), authority: slow_server(pause).await };
        let calls: Vec<Planned> = (0..10)
            .map(|n| Planned {
                at: Duration::from_millis(n * 5),
                entry: 0,
                function: 0,
                path: "/".into(),
            })
            .collect();
        let client = Client::new(Duration::from_secs(10));
        let run = Run { entries: [entry].into(), client, concurrency };
        let mut records = Vec::new();
        run.make(calls.into_iter(), |record| records.push(record)).await;
        records
    }

    #[tokio::test]
    async fn every_call_is_made_and_timed_from_its_intended_start() {
        let records = run(100, Duration::from_millis(30)).await;
        assert_eq!(records.len(), 10);
        for record in records {
            assert!(matches!(&record.outcome, Outcome::Answered(answer) if answer.status == 200));
            assert!(record.latency >= record.service, "{record:?}");
            assert!(record.service >= Duration::from_millis(30), "{record:?}");
        }
    }

    #[tokio::test]
    async fn calls_beyond_the_bound_are_dropped_and_never_delayed() {
        let records = run(1, Duration::from_millis(500)).await;
        let dropped =
            records.iter().filter(|record| matches!(record.outcome, Outcome::Dropped)).count();
        assert_eq!((records.len(), dropped), (10, 9));
    }
}
