//! The `hull` program: one binary with several entries, told apart by the name it is called by.
//!
//! ```text
//! hull             the command line                                   commands
//! hull-supervisor  the process that keeps a container                 hull_supervisor
//! hull-worker      short-lived work for a supervisor                  hull_engine::worker
//! hull-init        PID 1 of a container started with --init           hull_runtime::init_process
//! hull-resolver    the names of a network's containers                 hull_network::dns
//! hello            the program of the built-in image `hello`          hull_engine::builtin
//! runc, hull-runc  the OCI runtime command line                       oci
//! ```
//!
//! The hot entries are told apart before anything else happens: none of them pays for the command line.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod error;
mod oci;
mod output;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: hull_sys::allocator::Allocator = hull_sys::allocator::Allocator;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let called_as = arguments.next().unwrap_or_default();
    match entry(&called_as) {
        Entry::Supervisor => hull_supervisor::run(arguments),
        Entry::Worker => hull_engine::worker::run(arguments),
        Entry::Init => hull_runtime::init_process::run(arguments),
        Entry::Resolver => hull_network::dns::registration::run(arguments),
        Entry::Hello => hull_engine::hello_main(),
        Entry::Runtime => oci::main(std::iter::once(called_as).chain(arguments).collect()),
        Entry::CommandLine => command_line(std::iter::once(called_as).chain(arguments).collect()),
    }
}

/// `hull`. The OCI runtime below it is as hot as under its own names.
fn command_line(words: Vec<OsString>) -> ExitCode {
    let runtime = words.get(1).is_some_and(|word| word == "oci");
    let done = if runtime { oci::below_hull(&words[1..]) } else { None };
    done.unwrap_or_else(|| commands::main(words))
}

/// What this process is to be.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Supervisor,
    Worker,
    Init,
    Resolver,
    Hello,
    Runtime,
    CommandLine,
}

fn entry(called_as: &OsStr) -> Entry {
    match Path::new(called_as).file_name().and_then(OsStr::to_str) {
        Some("hull-supervisor") => Entry::Supervisor,
        Some("hull-worker") => Entry::Worker,
        Some("hull-init") => Entry::Init,
        Some("hull-resolver") => Entry::Resolver,
        Some("hello") => Entry::Hello,
        Some("runc" | "hull-runc") => Entry::Runtime,
        _ => Entry::CommandLine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        for (name, expected) in [
            ("hull", Entry::CommandLine),
            ("/usr/local/bin/hull", Entry::CommandLine),
            ("hull-supervisor", Entry::Supervisor),
            ("hull-worker", Entry::Worker),
            ("hull-init", Entry::Init),
            ("hull-resolver", Entry::Resolver),
            ("/hello", Entry::Hello),
            ("runc", Entry::Runtime),
            ("/usr/sbin/hull-runc", Entry::Runtime),
            ("", Entry::CommandLine),
        ] {
            assert_eq!(entry(OsStr::new(name)), expected, "{name}");
        }
    }
}
