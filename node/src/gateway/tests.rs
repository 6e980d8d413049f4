//! Placeholder while the parts come together.
