//! The supervisor: one small single-threaded process per container, and the library to speak with it.
//!
//! ```text
//! hull run ── forks ── X ── execs this binary as hull-supervisor (S)     supervise::run
//!                      └─ W clones the container's init (CLONE_PARENT),   launch
//!                         hands it to S, exits
//! hull exec/attach/stop/wait ── supervisor.sock ── S                      protocol, client
//! hull logs, ps, inspect     ── files that S writes                       log, record
//! ```
//!
//! S owns the pidfd, the standard streams, the log and the exit record of its container, and nothing else: it opens no
//! database and parses no image and no spec. Heavy work (exec set-up, clean-up) is done by other processes of the same
//! binary. It is kept small: no threads, buffers only while data flows.
#![forbid(unsafe_code)]

pub mod client;
pub mod launch;
pub mod log;
pub mod protocol;
pub mod record;
pub mod start;
mod supervise;
mod timestamp;
mod wire;

pub use supervise::run;
pub use timestamp::{InvalidTimestamp, Timestamp};
pub use wire::Malformed;
