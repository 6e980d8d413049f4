//! What nodes say to each other: connections, their delays and their health.

mod accept;
mod answering;
mod at_once;
mod connect;
mod delay;
mod dial;
mod farewell;
mod gate;
mod health;
mod line;
mod link;
mod messages;
mod ping;
mod pool;
mod server;
mod strangers;

pub(crate) use answering::{Call, response};
pub(crate) use gate::{NODE_REMOVED, caller, is_member};
pub(crate) use line::Answer;
pub(crate) use link::Link;
pub(crate) use ping::keep_measuring;
pub(crate) use pool::{Lane, Peers};
pub(crate) use server::PeerServer;
pub(crate) use strangers::{Strangers, Turned};
