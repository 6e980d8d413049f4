//! Messages as gRPC lays them on a stream of bytes: each behind five bytes, of which the first says whether it is
//! compressed and the others how long it is (`Length-Prefixed-Message` of gRPC over HTTP/2).
//!
//! It deliberately does not know what the bytes travel on.

use std::task::{Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;
use tonic::Status;

/// Length of what is ahead of a message.
const AHEAD: usize = 5;

/// Lays a message behind what is there.
pub(crate) fn put(message: &impl Message, into: &mut BytesMut) {
    let length = message.encoded_len();
    into.reserve(AHEAD + length);
    into.put_u8(0);
    // What is sent is bounded far below.
    into.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(into);
}

/// Messages out of pieces of any length.
#[derive(Debug)]
pub(crate) struct Messages {
    /// What came last, as it came: most pieces hold whole messages, which need no copy.
    last: Bytes,
    /// Before it, a message that has begun.
    begun: BytesMut,
    /// No message may be longer, in bytes.
    max: usize,
    /// The last one was taken, or what came was none.
    ended: bool,
}

impl Messages {
    /// Messages of at most so many bytes.
    pub(crate) fn new(max: usize) -> Self {
        Self { last: Bytes::new(), begun: BytesMut::new(), max, ended: false }
    }

    /// The next message; `more` is asked for what comes next, none at its end. After an error there is nothing more.
    pub(crate) fn poll<M: Message + Default>(
        &mut self,
        mut more: impl FnMut() -> Poll<Result<Option<Bytes>, Status>>,
    ) -> Poll<Option<Result<M, Status>>> {
        while !self.ended {
            let next = match self.take() {
                Ok(None) => match ready!(more()) {
                    Ok(Some(piece)) => {
                        self.push(piece);
                        continue;
                    }
                    Ok(None) if self.begun.is_empty() => None,
                    Ok(None) => Some(Err(Status::internal("it ends within a message"))),
                    Err(status) => Some(Err(status)),
                },
                taken => taken.transpose(),
            };
            self.ended = !matches!(next, Some(Ok(_)));
            return Poll::Ready(next);
        }
        Poll::Ready(None)
    }

    /// What came next, when [`Self::take`] has no more.
    fn push(&mut self, piece: Bytes) {
        if self.begun.is_empty() {
            self.last = piece;
        } else {
            self.begun.extend_from_slice(&piece);
        }
    }

    /// The next message, if all of it is there.
    fn take<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        let Some(length) = self.length()? else {
            // The rest of it comes with the next piece.
            self.begun.extend_from_slice(&std::mem::take(&mut self.last));
            return Ok(None);
        };
        let whole = AHEAD + length;
        let bytes = match self.begun.is_empty() {
            true => self.last.split_to(whole),
            false => self.begun.split_to(whole).freeze(),
        };
        match M::decode(bytes.slice(AHEAD..)) {
            Ok(message) => Ok(Some(message)),
            Err(error) => Err(Status::internal(format!("a message cannot be read: {error}"))),
        }
    }

    /// The length of the next message, if all of it is there.
    fn length(&self) -> Result<Option<usize>, Status> {
        let mut bytes = if self.begun.is_empty() { &self.last[..] } else { &self.begun[..] };
        if bytes.len() < AHEAD {
            return Ok(None);
        }
        if bytes.get_u8() != 0 {
            return Err(Status::unimplemented("a message is compressed, which was not agreed on"));
        }
        let length = bytes.get_u32() as usize;
        if length > self.max {
            let message = format!("a message of {length} bytes, of at most {}", self.max);
            return Err(Status::out_of_range(message));
        }
        Ok((bytes.len() >= length).then_some(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nigh_proto::peer::v1::{CallFrame, call_frame::Part};
    use proptest::prelude::*;

    type Taken = Vec<Result<CallFrame, tonic::Code>>;

    fn chunk(bytes: Vec<u8>) -> CallFrame {
        CallFrame { part: Some(Part::Chunk(bytes.into())) }
    }

    /// All that comes of these pieces, with nothing to come each time between two.
    fn taken(max: usize, pieces: impl IntoIterator<Item = Bytes>) -> Taken {
        let (mut messages, mut pieces) = (Messages::new(max), pieces.into_iter());
        let (mut taken, mut is_there) = (Vec::new(), false);
        loop {
            let next = messages.poll(|| {
                is_there = !is_there;
                if is_there { Poll::Ready(Ok(pieces.next())) } else { Poll::Pending }
            });
            match next {
                Poll::Ready(Some(next)) => taken.push(next.map_err(|status| status.code())),
                Poll::Ready(None) => return taken,
                Poll::Pending => {}
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_put_is_taken_however_it_is_cut(
            lengths in prop::collection::vec(0_usize..300, 0..8),
            cuts in prop::collection::vec(1_usize..200, 1..60),
        ) {
            let frames: Vec<_> =
                lengths.iter().zip(0..).map(|(length, n)| chunk(vec![n; *length])).collect();
            let mut bytes = BytesMut::new();
            frames.iter().for_each(|frame| put(frame, &mut bytes));
            let mut bytes = bytes.freeze();
            let mut pieces = Vec::new();
            for cut in cuts.iter().cycle() {
                if bytes.is_empty() {
                    break;
                }
                pieces.push(bytes.split_to((*cut).min(bytes.len())));
            }
            let expected: Taken = frames.into_iter().map(Ok).collect();
            prop_assert_eq!(taken(1_000, pieces), expected);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let taken = taken(100, [bytes.into()]);
            prop_assert!(taken.iter().rev().skip(1).all(Result::is_ok), "{:?}", taken);
        }
    }

    #[test]
    fn what_is_too_long_compressed_or_cut_short_is_refused() {
        for (bytes, code) in [
            (&[0, 0, 0, 0, 101][..], tonic::Code::OutOfRange),
            (&[1, 0, 0, 0, 5], tonic::Code::Unimplemented),
            (&[0, 0, 0, 0, 100], tonic::Code::Internal),
            (&[0, 0], tonic::Code::Internal),
        ] {
            let behind = Bytes::from_static(&[0, 0, 0, 0, 0]);
            let whole = if code == tonic::Code::Internal { None } else { Some(behind) };
            let pieces = [Some(Bytes::copy_from_slice(bytes)), whole];
            assert_eq!(taken(100, pieces.into_iter().flatten()), [Err(code)], "{bytes:?}");
        }
    }
}
