//! nigh.
fn main() {}
