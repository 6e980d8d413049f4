//! What this node must do to match the decision.
