//! The `hull` program: one binary with several entries, told apart by the name it is called by.
//!
//! ```text
//! hull             the command line                                   commands
//! hull-supervisor  the process that keeps a container                 hull_supervisor::supervise
//! hull-worker      short-lived work for a supervisor                  hull_engine::worker
//! hull-init        PID 1 of a container started with --init           hull_runtime::init_process
//! hello            the program of the built-in image `hello`          hull_engine::builtin
//! runc, hull-runc  the OCI runtime command line                       commands::oci
//! ```
//!
//! The hot entries are told apart before anything else happens: none of them pays for the command line.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod error;
mod output;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let called_as = arguments.next().unwrap_or_default();
    match entry(&called_as) {
        Entry::Hello => hull_engine::builtin::hello_main(),
        Entry::CommandLine => commands::main(std::iter::once(called_as).chain(arguments).collect()),
    }
}

/// What this process is to be.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Hello,
    CommandLine,
}

fn entry(called_as: &OsString) -> Entry {
    match Path::new(called_as).file_name().and_then(OsStr::to_str) {
        Some("hello") => Entry::Hello,
        _ => Entry::CommandLine,
    }
}
