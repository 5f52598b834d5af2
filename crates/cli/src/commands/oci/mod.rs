//! The OCI runtime command line: bundles become processes, as runc's commands say it.
//!
//! `create` leaves a process that waits, `start` lets it execute, whoever called waits for it. Only `run` in
//! the foreground stays: it forwards signals, takes the exit code and removes the container. Failures go to
//! stderr and, with `--log`, into the caller's file in the form that container engines read.

mod sockets;
mod spec;

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use clap::{ArgMatches, Command, FromArgMatches};
use hull_oci::runtime::{Spec, State};
use hull_runtime::container::{ContainerError, Containers, CreateRequest, New};
use hull_runtime::plan::Streams;
use hull_sys::signals::{self, SignalFd, send_to_pidfd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::{Context, write_stdout};
use crate::args::Verb;
use crate::args::later;
use crate::args::oci::{self, BundleArgs, ListArgs, OciArgs, OciCommand, RunBundleArgs};
use crate::args::system::LogFormat;
use crate::error::{ExitRule, Failure, exit_code, report};
use crate::output::table::columns;

/// Signals that are not forwarded: those that cannot be caught and those about our own children.
const KEPT: [i32; 5] = [9, 17, 19, 32, 33];

/// The binary called as `runc` or `hull-runc`.
pub fn main(words: Vec<OsString>) -> ExitCode {
    let command = oci::flagged(Command::new("runc").about("An OCI runtime: bundles become processes"))
        .version(concat!(env!("CARGO_PKG_VERSION"), " (Hull)"));
    let matches = match command.try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) => error.exit(),
    };
    let level = if matches.get_flag("debug") { tracing::Level::DEBUG } else { tracing::Level::WARN };
    super::tell(level, LogFormat::Text);
    match run_matches(&matches) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            report(&failure, LogFormat::Text);
            ExitCode::from(exit_code(&failure, ExitRule::Ordinary))
        }
    }
}

/// The level that `hull oci --debug` asks for.
pub fn level(verb: &Verb, matches: &ArgMatches) -> Option<tracing::Level> {
    (verb.name == "oci" && matches.get_flag("debug")).then_some(tracing::Level::DEBUG)
}

/// `hull oci`.
///
/// # Errors
/// The command's.
pub fn run(matches: &ArgMatches, _context: &Context) -> Result<u8, Failure> {
    run_matches(matches)
}

fn run_matches(matches: &ArgMatches) -> Result<u8, Failure> {
    later::refuse(matches, oci::LATER)?;
    if let Some(("create" | "run", inner)) = matches.subcommand() {
        later::refuse(inner, oci::LATER_CREATE)?;
    }
    let arguments = OciArgs::from_arg_matches(matches).map_err(|error| Failure::Arguments(error.to_string()))?;
    let result = carry_out(&arguments);
    if let (Err(failure), Some(log)) = (&result, &arguments.log) {
        write_log(log, &arguments.log_format, failure).map_err(Failure::path("write", log))?;
    }
    result
}

/// One line of the log, in the form of runc's.
fn write_log(path: &Path, format: &str, failure: &Failure) -> io::Result<()> {
    let mut text = failure.to_string();
    let mut cause = std::error::Error::source(failure);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let line = match format {
        "json" => serde_json::json!({"level": "error", "msg": text, "time": time}).to_string(),
        _ => format!("time=\"{time}\" level=error msg={text:?}"),
    };
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{line}")
}

fn carry_out(arguments: &OciArgs) -> Result<u8, Failure> {
    let containers = Containers::new(&arguments.root);
    match &arguments.command {
        OciCommand::Create(bundle) => create(&containers, bundle, true).map(|_| 0),
        OciCommand::Run(run) => run_bundle(&containers, run),
        OciCommand::Start(start) => done(containers.start(&start.id)),
        OciCommand::State(state) => print_state(&containers.state(&state.id)?),
        OciCommand::Kill(kill) => done(containers.kill(&kill.id, kill.signal.number(), kill.all)),
        OciCommand::Delete(delete) => done(containers.delete(&delete.id, delete.force).map(drop)),
        OciCommand::List(list) => list_states(&containers, list),
        OciCommand::Spec(spec) => spec::write(&spec.bundle).map(|()| 0),
    }
}

fn done(result: Result<(), ContainerError>) -> Result<u8, Failure> {
    result?;
    Ok(0)
}

fn print_state(state: &State) -> Result<u8, Failure> {
    write_stdout((serde_json::to_string_pretty(state)? + "\n").as_bytes())?;
    Ok(0)
}

fn list_states(containers: &Containers, list: &ListArgs) -> Result<u8, Failure> {
    let ids = containers.ids()?;
    let text = if list.quiet {
        ids.iter().map(|id| format!("{id}\n")).collect()
    } else {
        let states: Vec<State> = ids.iter().map(|id| containers.state(id)).collect::<Result<_, _>>()?;
        match list.format.as_str() {
            "json" => serde_json::to_string(&states)? + "\n",
            _ => table(&states),
        }
    };
    write_stdout(text.as_bytes())?;
    Ok(0)
}

fn table(states: &[State]) -> String {
    let heading = "ID\tPID\tSTATUS\tBUNDLE".to_owned();
    let rows = states
        .iter()
        .map(|state| format!("{}\t{}\t{}\t{}", state.id, state.pid.unwrap_or(0), state.status, state.bundle.display()));
    columns(&std::iter::once(heading).chain(rows).collect::<Vec<_>>())
}

/// Makes the container and hands out what was asked for: pid file, terminal, pidfd.
fn create(containers: &Containers, arguments: &BundleArgs, wait_for_start: bool) -> Result<New, Failure> {
    let spec = Containers::read_spec(&arguments.bundle)?;
    let has_terminal = check_terminal(&spec, arguments)?;
    let streams = if has_terminal { None } else { Some(own_streams().map_err(Failure::stream("share the streams"))?) };
    let request = CreateRequest { id: &arguments.id, bundle: &arguments.bundle, streams, wait_for_start, new_keyring: true };
    let new = containers.create(&spec, request)?;
    if let Err(failure) = hand_out(arguments, &new) {
        if let Err(error) = containers.delete(&arguments.id, true) {
            tracing::warn!(id = arguments.id, %error, "cannot remove the container again");
        }
        return Err(failure);
    }
    Ok(new)
}

/// A terminal and a socket for it go together.
fn check_terminal(spec: &Spec, arguments: &BundleArgs) -> Result<bool, Failure> {
    let has_terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
    match (has_terminal, &arguments.console_socket) {
        (true, None) => Err(Failure::Arguments("cannot allocate a terminal without --console-socket".to_owned())),
        (false, Some(_)) => {
            Err(Failure::Arguments("--console-socket needs process.terminal in config.json".to_owned()))
        }
        (has_terminal, _) => Ok(has_terminal),
    }
}

fn own_streams() -> io::Result<Streams> {
    Ok(Streams {
        stdin: io::stdin().as_fd().try_clone_to_owned()?,
        stdout: io::stdout().as_fd().try_clone_to_owned()?,
        stderr: io::stderr().as_fd().try_clone_to_owned()?,
    })
}

fn hand_out(arguments: &BundleArgs, new: &New) -> Result<(), Failure> {
    if let (Some(path), Some(terminal)) = (&arguments.console_socket, &new.terminal) {
        sockets::send(path, b"terminal", terminal.as_fd()).map_err(Failure::path("send the terminal to", path))?;
    }
    if let Some(path) = &arguments.pidfd_socket {
        sockets::send(path, b"pidfd", new.pidfd.as_fd()).map_err(Failure::path("send the pidfd to", path))?;
    }
    if let Some(path) = &arguments.pid_file {
        fs::write(path, new.pid.to_string()).map_err(Failure::path("write", path))?;
    }
    Ok(())
}

fn run_bundle(containers: &Containers, arguments: &RunBundleArgs) -> Result<u8, Failure> {
    // Blocked before the process exists, so that none is lost between its birth and the first wait.
    let forwarded: Vec<i32> = (1..=signals::HIGHEST).filter(|signal| !KEPT.contains(signal)).collect();
    let signals = if arguments.detach { None } else { Some(SignalFd::new(&forwarded)) };
    let new = create(containers, &arguments.bundle, false)?;
    let Some(signals) = signals else { return Ok(0) };
    let _blocked = signals::block(&forwarded);
    let code = wait(&new, signals.map_err(Failure::stream("watch signals"))?).map_err(Failure::stream("wait"))?;
    if !arguments.keep {
        containers.delete(&arguments.bundle.id, true)?;
    }
    Ok(code)
}

/// Forwards signals until the process has ended; gives its exit code, or 128 and the signal that ended it.
fn wait(new: &New, signals: SignalFd) -> io::Result<u8> {
    let process: &OwnedFd = &new.pidfd;
    loop {
        let mut ready = [PollFd::new(process, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        poll(&mut ready, None)?;
        if ready[0].revents().contains(PollFlags::IN) {
            break;
        }
        while let Some(signal) = signals.take()? {
            match send_to_pidfd(process.as_fd(), signal) {
                // It has ended: the next turn sees it.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
                result => result?,
            }
        }
    }
    let status = waitpid(Pid::from_raw(new.pid), WaitOptions::empty())?.map(|(_, status)| status);
    let code = status.and_then(|status| status.exit_status().or(status.terminating_signal().map(|n| 128 + n)));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}
