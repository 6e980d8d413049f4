//! HTTP/1.1 as bytes, for what no client lets one see or do.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Nothing that is read for takes longer.
const LIMIT: Duration = Duration::from_secs(15);

/// A connection.
pub(crate) struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Raw {
    /// Connects.
    pub(crate) async fn connect(port: u16) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect(address).await.expect("the node listens");
        stream.set_nodelay(true).expect("a socket has the option");
        Self { stream, received: Vec::new() }
    }

    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).await.expect("the node reads");
    }

    /// Sends bytes to a node that may have hung up.
    pub(crate) async fn try_send(&mut self, bytes: &str) {
        // What it said before is still to be read.
        let _ = self.stream.write_all(bytes.as_bytes()).await;
    }

    /// Reads until `end` came; gives what came up to its end and keeps the rest.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        let read = timeout(LIMIT, async {
            loop {
                let found =
                    self.received.windows(end.len()).position(|part| part == end.as_bytes());
                if let Some(at) = found {
                    let rest = self.received.split_off(at + end.len());
                    return std::mem::replace(&mut self.received, rest);
                }
                let mut buffer = [0; 4096];
                let read = self.stream.read(&mut buffer).await.expect("the connection holds");
                assert!(read > 0, "the connection ended before `{end}` came: {}", self.seen());
                self.received.extend_from_slice(&buffer[..read]);
            }
        });
        let Ok(bytes) = read.await else {
            panic!("no `{end}` within {LIMIT:?}: {}", self.seen());
        };
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads all that comes before the other side closes, in order or not.
    pub(crate) async fn rest(&mut self) -> String {
        let read = timeout(LIMIT, async {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = self.stream.read(&mut buffer).await {
                self.received.extend_from_slice(&buffer[..read]);
            }
        });
        assert!(read.await.is_ok(), "the connection did not end within {LIMIT:?}: {}", self.seen());
        let text = self.seen();
        self.received.clear();
        text
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }
}
