//! What can be read of a node.
