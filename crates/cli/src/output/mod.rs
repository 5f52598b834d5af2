//! What the commands print: tables and templates, sizes and durations, progress.
//!
//! Everything here is pure text from values, except `progress`, which draws on a terminal. Results go to
//! stdout, everything said about them to stderr.

pub mod progress;
pub mod table;
pub mod template;
pub mod units;
