//! Messages as gRPC lays them on a stream of bytes: each behind five bytes, of which the first says whether it is
//! compressed and the others how long it is (`Length-Prefixed-Message` of gRPC over HTTP/2).
//!
//! It deliberately does not know what the bytes travel on.

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
}

impl Messages {
    /// Messages of at most so many bytes.
    pub(crate) fn new(max: usize) -> Self {
        Self { last: Bytes::new(), begun: BytesMut::new(), max }
    }

    /// What came next; to be told when [`Self::take`] has no more.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if self.begun.is_empty() && self.last.is_empty() {
            self.last = piece;
        } else {
            self.begun.extend_from_slice(&piece);
        }
    }

    /// Whether a message has begun and not ended.
    pub(crate) fn is_midway(&self) -> bool {
        !self.begun.is_empty() || !self.last.is_empty()
    }

    /// The next message, if all of it is there.
    ///
    /// # Errors
    /// It is compressed, too long, or not of this kind.
    pub(crate) fn take<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        let Some(length) = self.length()? else {
            // The rest of it comes with the next piece.
            self.begun.extend_from_slice(&std::mem::take(&mut self.last));
            return Ok(None);
        };
        let bytes = if self.begun.is_empty() {
            self.last.split_to(AHEAD + length)
        } else {
            self.begun.split_to(AHEAD + length).freeze()
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

    fn chunk(bytes: Vec<u8>) -> CallFrame {
        CallFrame { part: Some(Part::Chunk(bytes.into())) }
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
            let (mut messages, mut taken) = (Messages::new(1_000), Vec::new());
            for cut in cuts.iter().cycle() {
                if bytes.is_empty() {
                    break;
                }
                messages.push(bytes.split_to((*cut).min(bytes.len())));
                while let Some(frame) = messages.take::<CallFrame>().unwrap() {
                    taken.push(frame);
                }
            }
            prop_assert_eq!(taken, frames);
            prop_assert!(!messages.is_midway());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let mut messages = Messages::new(100);
            messages.push(bytes.into());
            while let Ok(Some(_)) = messages.take::<CallFrame>() {}
        }
    }

    #[test]
    fn what_is_too_long_or_compressed_is_refused_before_it_is_there() {
        for (ahead, code) in [
            ([0, 0, 0, 0, 101], tonic::Code::OutOfRange),
            ([1, 0, 0, 0, 5], tonic::Code::Unimplemented),
        ] {
            let mut messages = Messages::new(100);
            messages.push(Bytes::copy_from_slice(&ahead));
            assert_eq!(messages.take::<CallFrame>().unwrap_err().code(), code);
        }
        let mut messages = Messages::new(100);
        messages.push(Bytes::from_static(&[0, 0, 0, 0, 100]));
        assert!(messages.take::<CallFrame>().unwrap().is_none() && messages.is_midway());
    }
}
