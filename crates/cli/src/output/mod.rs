//! What the commands print: tables and templates, sizes and durations, progress, messages.
//!
//! Everything here is pure text from values, except `progress`, which draws on a terminal, and
//! `whole_file`, which writes what is too long to be text. Results go to
//! stdout, everything said about them to stderr.

pub mod messages;
pub mod progress;
pub mod table;
pub mod template;
pub mod units;
pub mod whole_file;
