//! The life of a container, one file per command on it.
//!
//! [`state`] decides what is accepted; [`create`], [`prepare`] and [`start`] lead to a running process, [`stop`],
//! [`pause`] and [`remove`] away from it, and [`cleanup`] takes up what a run has left. [`update`] changes limits on
//! the way.

pub mod cleanup;
pub mod create;
pub mod external;
pub mod pause;
pub mod prepare;
pub mod remove;
pub mod start;
pub mod state;
pub mod stop;
pub mod update;
pub mod wiring;
