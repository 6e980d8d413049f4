//! What is seen: membership, load and warm sets, spread by chitchat over our own transport.
//!
//! `keys` and `view` translate between chitchat's keys and the words of this crate,
//! `envelope` is what a datagram looks like, `keyring` holds what seals it, `sessions` tells fresh
//! from old, `directory` knows who stands behind an address: all six are pure. `keystore` is where
//! keys are kept, `delay` and `transport` carry messages, `seeds` finds nodes that gossip
//! has not heard of, `ways` those that are reached elsewhere than they say, `keeper` holds it all together, `service` is the door to the others.
//!
//! It deliberately decides nothing: what follows from what is seen is for the other parts.

mod config;
mod counters;
mod delay;
mod directory;
mod envelope;
mod filter;
mod keeper;
mod keyring;
mod keys;
mod keystore;
mod seeds;
mod service;
mod sessions;
#[cfg(test)]
mod tests;
mod transport;
mod view;
mod ways;

pub(crate) use config::{GossipConfig, GossipTiming};
pub(crate) use counters::Counters;
pub(crate) use filter::Filter;
pub(crate) use keyring::{GossipKey, Keyring};
pub(crate) use keystore::Keys;
pub(crate) use service::{Gossip, Publisher};
#[cfg(test)]
pub(crate) use tests::registered;
