//! Moving bytes through body streams without holding a whole body.

use wasip2::http::types::{Fields, IncomingBody, OutgoingBody};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

/// The most that is read, and so held, at a time.
const CHUNK_BYTES_MAX: u64 = 64 * 1024;

/// Writes all of `bytes`, waiting whenever the reader is behind.
///
/// # Errors
/// The stream's own error: the reader went away.
pub fn write_all(stream: &OutputStream, mut bytes: &[u8]) -> Result<(), StreamError> {
    while !bytes.is_empty() {
        let room = stream.check_write()?;
        if room == 0 {
            stream.subscribe().block();
            continue;
        }
        let now = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        stream.write(&bytes[..now])?;
        bytes = &bytes[now..];
    }
    Ok(())
}

/// Writes `text` as the only content of a body, and flushes it.
///
/// # Errors
/// The stream's own error: the reader went away.
pub fn write_text(body: &OutgoingBody, text: &str) -> Result<(), StreamError> {
    let stream = body.write().expect("the stream is taken once");
    write_all(&stream, text.as_bytes())?;
    stream.blocking_flush()
}

/// Copies a stream to its end, chunk by chunk, each flushed before the next is read.
///
/// # Errors
/// The first error of either side; the end of `from` is none.
pub fn copy(from: &InputStream, to: &OutputStream) -> Result<(), StreamError> {
    loop {
        let chunk = match from.blocking_read(CHUNK_BYTES_MAX) {
            Ok(chunk) => chunk,
            Err(StreamError::Closed) => return Ok(()),
            Err(error) => return Err(error),
        };
        write_all(to, &chunk)?;
        to.blocking_flush()?;
    }
}

/// Pipes a whole body, trailers included. When either side fails, the answer is left unfinished,
/// so that its reader sees it cut and not complete.
pub fn pipe(from: IncomingBody, to: OutgoingBody) {
    let input = from.stream().expect("the stream is taken once");
    let output = to.write().expect("the stream is taken once");
    let copied = copy(&input, &output);
    drop((input, output));
    if copied.is_ok()
        && let Ok(trailers) = trailers(from)
    {
        let _ = OutgoingBody::finish(to, trailers);
    }
}

/// The trailers behind a body that was read to its end.
fn trailers(body: IncomingBody) -> Result<Option<Fields>, ()> {
    let future = IncomingBody::finish(body);
    future.subscribe().block();
    match future.get() {
        Some(Ok(Ok(Some(fields)))) => Fields::from_list(&fields.entries()).map(Some).map_err(drop),
        Some(Ok(Ok(None))) => Ok(None),
        _ => Err(()),
    }
}
