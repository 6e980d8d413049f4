//! `Expect: 100-continue`: the caller sends its body when it is told to.
//!
//! The server tells it when the body is first read, and no more once the answer's head is sent.
//! A guest that answers before it reads would leave both waiting: so its start waits for the
//! first piece of the body.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use nigh_runtime::{BodyError, RequestBody};

type Read = Option<Result<Frame<Bytes>, BodyError>>;

/// Whether the caller waits to be told to send its body.
pub(super) fn waits(headers: &HeaderMap) -> bool {
    headers.contains_key(header::EXPECT)
}

/// Begins to read the body of a caller that waits to be told so; what came is not lost.
pub(super) async fn begin(headers: &mut HeaderMap, mut body: RequestBody) -> RequestBody {
    if headers.remove(header::EXPECT).is_none() {
        return body;
    }
    let first = Some(body.frame().await);
    Begun { first, body }.boxed_unsync()
}

/// A body of which the first frame was read.
struct Begun {
    first: Option<Read>,
    body: RequestBody,
}

impl Body for Begun {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Read> {
        match self.first.take() {
            Some(first) => Poll::Ready(first),
            None => Pin::new(&mut self.body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        !matches!(self.first, Some(Some(_))) && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use http_body_util::Full;

    #[test]
    fn what_was_read_first_is_not_lost() {
        for expects in [false, true] {
            let mut headers = HeaderMap::new();
            if expects {
                headers.insert(header::EXPECT, "100-continue".parse().unwrap());
            }
            let body = Full::new(Bytes::from_static(b"abc")).map_err(|never| match never {});
            let body = begin(&mut headers, body.boxed_unsync()).now_or_never().unwrap();
            assert!(headers.is_empty() && !body.is_end_stream());
            let whole = body.collect().now_or_never().unwrap().unwrap().to_bytes();
            assert_eq!(whole, "abc");
        }
    }
}
