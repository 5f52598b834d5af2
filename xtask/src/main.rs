//! Hull's tasks: `cargo xtask ci` runs every check and test; the others are its parts, and the measurements.
//!
//! Everything is made below `target/`. What a task needs from Debian (peers, kernels, an emulator) it fetches with apt
//! and unpacks there; nothing is installed. Privileged parts run in namespaces and cgroups of their own.

#![forbid(unsafe_code)]

mod apt;
mod bench;
mod cgroups;
mod ci;
mod conformance;
mod contained;
mod count;
mod images;
mod layers;
mod layout;
mod musl;
mod peers;
mod program;
mod runner;
mod vm;
mod workspace;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use ci::Step;

/// Hull's build, test and measurement tasks.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Every check and every test; the last line counts them.
    Ci {
        /// Steps to leave out.
        #[arg(long, value_delimiter = ',')]
        skip: Vec<Step>,
    },
    /// The same, or only the given steps, or only tests whose names contain FILTER.
    Test {
        /// Steps to run; all when none is given.
        steps: Vec<Step>,
        /// Parts of test names.
        #[arg(last = true)]
        filter: Vec<String>,
    },
    /// Checks which crate uses which, file headers, and that unsafe code stays in one place.
    Layers,
    /// Unpacks the programs that Hull is compared with, and makes the test images.
    Peers,
    /// Runs one of those programs: cargo xtask peer -- runc --version.
    Peer {
        /// The program and its arguments.
        #[arg(last = true)]
        words: Vec<String>,
    },
    /// Runs a program in namespaces and cgroups like those of the system tests.
    Contained {
        /// The program and its arguments.
        #[arg(last = true)]
        words: Vec<String>,
    },
    /// Boots a kernel with cgroup v2 only and runs the privileged tests in it.
    Vm(vm::Args),
    /// Switches a virtual machine off while it works on a store, again and again.
    Cuts(vm::cuts::Args),
    /// Runs the OCI runtime validation suite against Hull, or against another runtime.
    Conformance(conformance::Args),
    /// Builds hull with musl, as releases are, and says where it is.
    Musl,
    /// Measures Hull beside its peers.
    Bench(bench::Args),
    /// Records which functions the frequent commands execute, for the linker to put side by side.
    Layout {
        /// Of the build with glibc instead of the one with musl.
        #[arg(long)]
        glibc: bool,
    },
    /// What this program runs itself as.
    #[command(hide = true, subcommand)]
    Inside(Inside),
}

#[derive(Subcommand)]
enum Inside {
    Join { plan: PathBuf },
    Run { plan: PathBuf },
    Guest { plan: PathBuf },
    Tests { program: PathBuf, filter: Vec<String> },
    Bench { plan: PathBuf },
    Worker { plan: Option<PathBuf> },
}

fn main() -> ExitCode {
    match run(Args::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let fine = |fine| if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    match task {
        Task::Ci { skip } => ci::run(&[], &skip, &[]).map(fine),
        Task::Test { steps, filter } => ci::run(&steps, &[], &filter).map(fine),
        Task::Layers => layers::check().map(|()| ExitCode::SUCCESS),
        Task::Peers => peers::prepare().map(|()| ExitCode::SUCCESS),
        Task::Peer { words } => peers::run(&words).map(ExitCode::from),
        Task::Contained { words } => ci::by_hand(&words).map(fine),
        Task::Vm(args) => vm::run(&args).map(fine),
        Task::Cuts(args) => vm::cuts::run(&args).map(fine),
        Task::Conformance(args) => conformance::run(&args).map(fine),
        Task::Musl => {
            println!("{}", musl::Musl::ready()?.hull()?.display());
            Ok(ExitCode::SUCCESS)
        }
        Task::Bench(args) => bench::run(&args).map(|()| ExitCode::SUCCESS),
        Task::Layout { glibc } => bench::layout(glibc).map(|()| ExitCode::SUCCESS),
        Task::Inside(Inside::Join { plan }) => contained::join(&plan).map(|()| ExitCode::SUCCESS),
        Task::Inside(Inside::Run { plan }) => contained::inside(&plan).map(ExitCode::from),
        Task::Inside(Inside::Guest { plan }) => vm::guest::run(&plan).map(|()| ExitCode::SUCCESS),
        Task::Inside(Inside::Tests { program, filter }) => {
            let env = BTreeMap::new();
            let (program, filter, limit) = (&program, &filter, runner::TEST_LIMIT);
            let tests = runner::Tests { program, filter, skip: &[vm::systemd::FILTER.to_string()], env: &env, limit };
            runner::run(&tests).map(|count| fine(count.failed == 0))
        }
        Task::Inside(Inside::Bench { plan }) => bench::inside(&plan).map(|()| ExitCode::SUCCESS),
        Task::Inside(Inside::Worker { plan }) => bench::worker::run(plan.as_deref()).map(|()| ExitCode::SUCCESS),
    }
}
