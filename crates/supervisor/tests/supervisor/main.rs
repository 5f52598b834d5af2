//! The supervisor as a process, with plain shell commands in place of containers (see `testbed/main.rs`).
//!
//! Each test has its own root and state folder. What is asserted is what a client, the log or the records show, never
//! how long something took; waits have a generous limit only so that a failure ends.
#![forbid(unsafe_code)]

mod adoption;
mod attaching;
mod bed;
mod endings;
mod execs;
mod memory;
mod streams;
