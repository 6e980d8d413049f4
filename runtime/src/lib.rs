//! Runs a guest: one WebAssembly component, one call, one fresh instance.
//!
//! The only crate that knows wasmtime, and the only one that may hold `unsafe`. It decides
//! nothing about where a call runs, keeps no queue and opens no listener: a caller hands in a
//! request with its limits and gets an answer or a typed [`Failure`].
//!
//! The way of a component: [`Engine::inspect`] (is it one we can run?) → [`Engine::compile`]
//! (at deploy) → a file that the caller keeps → [`Engine::load`] → [`Loaded::call`].

mod answer;
mod background;
mod behind;
mod body;
mod call;
mod clock;
mod config;
mod direct;
mod engine;
mod error;
mod failure;
mod fair;
mod gather;
mod headers;
mod host;
mod inspect;
mod instance;
mod limiter;
mod load;
mod memory;
mod meter;
mod outbound;
mod output;
mod pipe;
mod sender;
mod slice;
mod task;
mod threads;
mod ticker;
mod trust;
mod turns;

pub use behind::Behind;
pub use body::{BodyError, RequestBody, ResponseBody};
pub use call::{Call, Describe};
pub use config::EngineConfig;
pub use engine::{Engine, FINGERPRINT_DIGITS};
pub use error::Error;
pub use failure::Failure;
pub use fair::{Fair, Waiting};
pub use gather::{Gathered, Mover, gathers};
pub use inspect::ComponentInfo;
pub use load::Loaded;
pub use memory::give_back;
pub use meter::{Usage, guest_time};
pub use output::{LogSink, Stream};
pub use threads::{Seat, Threads};
