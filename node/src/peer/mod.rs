//! What nodes say to each other: connections, their delays and their health.

mod delay;
mod health;
mod link;
mod ping;
mod pool;
mod server;

pub(crate) use link::Link;
pub(crate) use ping::keep_measuring;
pub(crate) use pool::{Lane, Peers};
pub(crate) use server::PeerServer;
