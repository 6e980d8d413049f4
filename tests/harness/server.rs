//! A small HTTP server that is no node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What it answers.
pub(crate) const BODY: &str = "from outside\n";

/// Answers requests with the same text until it is dropped.
pub(crate) struct Server {
    asked: Arc<AtomicUsize>,
    held: Arc<AtomicUsize>,
    released: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens on a port of 127.0.0.1.
    pub(crate) async fn start(port: u16) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let listener = TcpListener::bind(address).await.expect("the port was claimed");
        let asked = Arc::new(AtomicUsize::new(0));
        let held = Arc::new(AtomicUsize::new(0));
        let released = Arc::new(Notify::new());
        let (counter, holds, release) = (asked.clone(), held.clone(), released.clone());
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (counter, holds, release) = (counter.clone(), holds.clone(), release.clone());
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    let read = stream.read(&mut buffer).await.unwrap_or(0);
                    if buffer[..read].starts_with(b"GET ") {
                        counter.fetch_add(1, Ordering::SeqCst);
                        let hold = |left: usize| left.checked_sub(1);
                        if holds.fetch_update(Ordering::SeqCst, Ordering::SeqCst, hold).is_ok() {
                            tokio::select! {
                                // Until whoever asked is gone.
                                _ = stream.read(&mut buffer) => return,
                                () = release.notified() => {}
                            }
                        }
                    }
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\
                         connection: close\r\n\r\n{BODY}",
                        BODY.len()
                    );
                    // Whoever speaks another protocol may have gone by now.
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self { asked, held, released, task }
    }

    /// The next GET requests, so many, are not answered until they are released.
    pub(crate) fn hold(&self, requests: usize) {
        self.held.store(requests, Ordering::SeqCst);
    }

    /// Answers those that are held now.
    pub(crate) fn release(&self) {
        self.released.notify_waiters();
    }

    /// GET requests so far.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
