//! Servers of HTTP/1.1 and HTTP/2 whose connections and heads are bounded.

use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use nigh_model::limits::{HEADER_BYTES_MAX, HEADERS_MAX};

/// Room for a request's head: its headers and its first line.
const HEAD_BYTES_MAX: usize = HEADER_BYTES_MAX + (16 << 10);
/// Calls at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// Resets that wait to be seen by a handler before the connection is closed: bounds what rapid
/// resets (CVE-2023-44487) cost.
const RESETS_PENDING_MAX: usize = 20;
/// Bytes on the way of one HTTP/2 stream, and of a connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes of answers that wait on one HTTP/2 stream for the caller to take them.
const SEND_BUFFER_BYTES_MAX: usize = 256 << 10;
/// An HTTP/2 connection is asked for a sign of life this often, and closed without one.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How both HTTPs are served.
pub(crate) struct Servers {
    /// HTTP/1.1.
    pub(crate) http1: http1::Builder,
    /// HTTP/2.
    pub(crate) http2: http2::Builder<TokioExecutor>,
}

impl Servers {
    /// Over HTTP/1.1, the head of a request must be there within `head_wait`, if anything is given.
    pub(crate) fn new(head_wait: Option<Duration>) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(head_wait)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(HEADER_BYTES_MAX as u32)
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        Self { http1, http2 }
    }
}
