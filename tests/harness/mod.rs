//! Real nodes as processes, and what tests do with them.
//!
//! A test runs inside [`run`], which gives it a runtime, a turn on the machine and a time limit.
//! Everything it starts ends with it: by `Drop`, and when the test process itself is killed, by
//! a small process that holds the other end of a pipe (`leash`).
//!
//! Nothing sleeps for luck: what takes time is waited for by a named condition
//! ([`wait_until`]), which says on a time-out what it saw last.

mod app;
mod call;
mod cluster;
pub(crate) mod command;
pub(crate) mod grpc;
mod leash;
mod load;
mod log;
mod metrics;
mod node;
mod ports;
mod raw;
mod server;
mod sticky;
mod stranger;
mod tls;
pub(crate) mod turn;
mod up;
mod wait;

pub(crate) use app::{App, component, guest, repository};
pub(crate) use call::{Answer, Caller};
pub(crate) use cluster::{Cluster, Layout};
pub(crate) use command::{Ran, nigh, output};
pub(crate) use load::{Call, Load};
pub(crate) use metrics::Page;
pub(crate) use node::{Node, Start};
pub(crate) use ports::Ports;
pub(crate) use raw::Raw;
pub(crate) use server::Server;
pub(crate) use sticky::Sticky;
pub(crate) use stranger::{Came, Shows, babble, knock, peer_channel};
pub(crate) use tls::Credentials;
pub(crate) use turn::{Needs, run};
pub(crate) use up::{Up, assert_log_expected};
pub(crate) use wait::{Seen, wait_until};
