//! The life of a container, one file per command on it.
//!
//! [`state`] decides what is accepted; the other files do it.

pub mod state;
