//! Ports of 127.0.0.1 that no other test has.
//!
//! A block of ports is claimed by a lock on a file, which ends with its process, and then tried:
//! something else may listen there. The blocks lie below the range from which the system takes
//! the ports of outgoing connections.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use super::turn::lock_file;

const FIRST: u16 = 20_000;
const BLOCKS: u16 = 110;
const BLOCK: u16 = 100;
/// Ports of one node, as `nigh up` deals them.
const PER_NODE: u16 = 10;
/// The part of a block that is not dealt to nodes.
const SPARE: u16 = 90;

/// A block of ports, held until the value is dropped.
#[derive(Debug)]
pub(crate) struct Ports {
    base: u16,
    #[allow(dead_code, reason = "held, not read")]
    lock: File,
}

impl Ports {
    /// Claims a block that is free.
    pub(crate) fn claim() -> Self {
        // Processes begin at different blocks, so that they rarely meet.
        let first = u16::try_from(std::process::id() % u32::from(BLOCKS)).expect("below BLOCKS");
        for n in 0..BLOCKS {
            let block = (first + n) % BLOCKS;
            let lock = lock_file(&format!("ports-{block}"));
            if lock.try_lock().is_err() {
                continue;
            }
            let base = FIRST + block * BLOCK;
            if (base..base + BLOCK).all(is_free) {
                return Self { base, lock };
            }
        }
        panic!("no {BLOCK} free ports from {FIRST} on 127.0.0.1");
    }

    /// The first port.
    pub(crate) fn base(&self) -> u16 {
        self.base
    }

    /// The first port of node `index`.
    pub(crate) fn of_node(&self, index: usize) -> u16 {
        let offset = u16::try_from(index).expect("few nodes") * PER_NODE;
        assert!(offset + PER_NODE <= SPARE, "a block has ports for {} nodes", SPARE / PER_NODE);
        self.base + offset
    }

    /// A port for something that is no node.
    pub(crate) fn spare(&self, index: u16) -> u16 {
        assert!(index < BLOCK - SPARE, "a block has {} spare ports", BLOCK - SPARE);
        self.base + SPARE + index
    }
}

fn is_free(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}
