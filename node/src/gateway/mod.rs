//! What is asked, now.
