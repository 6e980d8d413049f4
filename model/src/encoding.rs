//! The state as bytes, piece by piece: MessagePack with field names, in snapshots and on its way to a
//! node that follows.
//!
//! Writers and readers are trait objects: what is made for each of their types is some hundred KiB
//! of code.

use std::io::{self, Read, Write};

use crate::state::State;

/// Why bytes are no state.
#[derive(Debug, thiserror::Error)]
#[error("the state does not decode: {0}")]
pub struct Undecodable(String);

/// Writes the state.
///
/// # Errors
/// What `out` answers.
pub fn write_state(state: &State, out: &mut dyn Write) -> io::Result<()> {
    // The encoder wraps the error of its writer many times over: it is kept aside.
    let mut out = Told { out, error: None };
    let encoded = rmp_serde::encode::write_named(&mut out, state);
    match out.error {
        Some(error) => Err(error),
        None => encoded.map_err(io::Error::other),
    }
}

/// Reads a state to its end.
///
/// # Errors
/// The bytes are none, or cannot be read.
pub fn read_state(source: &mut dyn Read) -> Result<State, Undecodable> {
    rmp_serde::from_read(source).map_err(|error| Undecodable(error.to_string()))
}

/// Keeps the error of what goes through it.
struct Told<'w> {
    out: &'w mut dyn Write,
    error: Option<io::Error>,
}

impl Write for Told<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes).map_err(|error| {
            let kind = error.kind();
            self.error = Some(error);
            kind.into()
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reads_back_and_half_of_it_does_not() {
        let state = State { applied: 7, plan_basis: 5, ..State::default() };
        let mut bytes = Vec::new();
        write_state(&state, &mut bytes).unwrap();
        assert_eq!(read_state(&mut &bytes[..]).unwrap(), state);
        assert!(read_state(&mut &bytes[..bytes.len() / 2]).is_err());
    }

    #[test]
    fn what_the_writer_answers_is_said() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::new(io::ErrorKind::StorageFull, "no room"))
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = write_state(&State::default(), &mut Full).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::StorageFull, "no room")
        );
    }
}
