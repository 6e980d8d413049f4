//! The form of what is in `deploy/`: that each file says what keeps a cluster running and closed.
//! Whether it works is for `tests/compose`, and for those who have a Kubernetes or a systemd.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod compose;
mod images;
mod kubernetes;
mod systemd;
mod yaml;
