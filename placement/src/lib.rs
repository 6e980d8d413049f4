//! Where should a function run, and who gets this call?
//!
//! Everything here is pure: values in, values out. No I/O, no async, no clock and no
//! randomness; times and salts arrive as arguments, so that a simulation drives the same
//! code as production. What is measured, gossiped or decided is passed in by the caller.
//!
//! It deliberately does not know how candidates are found, how calls are sent or how a plan
//! is committed.

pub mod demand;
pub mod distance;
pub mod error;
pub mod geo;
pub mod nearest;
pub mod pick;
pub mod plan;
pub mod rendezvous;
pub mod rtt;
pub mod voters;

pub use distance::{Distance, RttEwma};
pub use error::Error;
pub use pick::{Candidate, Choice, Start, Viewpoint, pick};
pub use plan::{Plan, Problem, plan};
pub use rtt::RttMatrix;
