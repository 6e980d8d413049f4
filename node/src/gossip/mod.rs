//! What is seen: membership, load and warm sets, spread by chitchat over our own transport.

mod filter;

pub(crate) use filter::Filter;
