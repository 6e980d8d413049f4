//! What nodes say to each other: connections, their delays and their health.

mod accept;
mod at_once;
mod delay;
mod dial;
mod farewell;
mod gate;
mod health;
mod link;
mod ping;
mod pool;
mod server;
mod strangers;

pub(crate) use gate::{NODE_REMOVED, caller, is_member};
pub(crate) use link::Link;
pub(crate) use ping::keep_measuring;
pub(crate) use pool::{Lane, Peers};
pub(crate) use server::PeerServer;
pub(crate) use strangers::{Strangers, Turned};
