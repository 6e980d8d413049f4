//! A cluster of several complete nodes in this process, for `nigh up`.
//!
//! The nodes share nothing but the process: what goes from one to another goes over sockets.

pub(crate) mod cluster;
pub(crate) mod folder;
pub(crate) mod layout;
pub(crate) mod ports;
