//! Starts and stops the parts of a node.

use crate::config::Config;

/// A running node.
pub struct Node {
    config: Config,
}

impl Node {
    /// What it was told at its start.
    pub fn config(&self) -> &Config {
        &self.config
    }
}
