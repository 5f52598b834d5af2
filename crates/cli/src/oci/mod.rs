//! The OCI runtime command line: bundles become processes, as runc's commands say it.
//!
//! `create` leaves a process that waits, `start` lets it execute, whoever called waits for it. Only `run` in
//! the foreground stays: it forwards signals, takes the exit code and removes the container. Failures go to
//! stderr and, with `--log`, into the caller's file in the form that container engines read; the exit code is then 1.

pub mod args;
mod checkpoint;
mod create;
mod events;
mod exec;
mod foreground;
mod frequent;
mod inherited;
mod list;
mod ps;
mod readiness;
mod report;
mod sockets;
mod spec;
mod update;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, FromArgMatches};
use hull_engine::Signal;
use hull_runtime::container::Containers;

use self::args::{KillArgs, OciArgs, OciCommand};
use self::report::{Gravity, Log};
use crate::args::system::LogFormat;
use crate::args::{Verb, later};
use crate::commands::{Context, write_stdout};
use crate::error::Failure;
use crate::output::messages;

/// What these commands need of the stack and of the heap, or nearly.
const STACK_BYTES: usize = 64 * 1024;
const HEAP_BYTES: usize = 80 * 1024;
/// Exit code of a failure.
const FAILED: u8 = 1;
/// Exit code of an exec that failed, which is none of the process's own.
const EXEC_FAILED: u8 = 255;
/// Exit code for a command that there is not.
const NO_COMMAND: u8 = 3;

/// The binary called as `runc` or `hull-runc`.
pub fn main(words: Vec<OsString>) -> ExitCode {
    let name = words.first().and_then(|word| Path::new(word).file_name());
    let name = if name.is_some_and(|name| name == "runc") { "runc" } else { "hull-runc" };
    if let Some(arguments) = frequent::read(&words) {
        return begin(arguments, name);
    }
    match args::tree(name).try_get_matches_from(&words) {
        Ok(matches) => {
            tell_what_is_done(matches.get_flag("debug"));
            ExitCode::from(understand_and_carry_out(&matches, name))
        }
        Err(error) => without_command(&error, &words),
    }
}

/// `hull oci`, as far as it needs nothing of the rest of the command line; `words` begin with `oci`.
pub fn below_hull(words: &[OsString]) -> Option<ExitCode> {
    frequent::read(words).map(|arguments| begin(arguments, "hull oci"))
}

fn begin(arguments: OciArgs, name: &str) -> ExitCode {
    hull_sys::memory::populate_stack(STACK_BYTES);
    hull_sys::memory::populate_heap(HEAP_BYTES);
    tell_what_is_done(arguments.front.debug);
    ExitCode::from(carry_out_and_tell(&arguments, name))
}

fn tell_what_is_done(debug: bool) {
    messages::tell(if debug { tracing::Level::DEBUG } else { tracing::Level::WARN }, LogFormat::Text);
}

/// Help, version, and command lines that are none.
fn without_command(error: &clap::Error, words: &[OsString]) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match write_stdout(error.to_string().as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(FAILED),
        },
        kind => {
            let text = error.to_string();
            let paragraph = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
            let line: Vec<&str> = paragraph.split_whitespace().collect();
            Log::of_words(words).tell(Gravity::Error, &line.join(" "));
            ExitCode::from(if kind == ErrorKind::InvalidSubcommand { NO_COMMAND } else { FAILED })
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
/// None: what fails is told here.
pub fn run(matches: &ArgMatches, _context: &Context) -> Result<u8, Failure> {
    Ok(understand_and_carry_out(matches, "hull oci"))
}

fn understand_and_carry_out(matches: &ArgMatches, program: &str) -> u8 {
    let arguments = refuse_later(matches)
        .and_then(|()| OciArgs::from_arg_matches(matches).map_err(|error| Failure::Arguments(error.to_string())));
    match arguments {
        Ok(arguments) => carry_out_and_tell(&arguments, program),
        Err(failure) => tell_failure(&Log::of_matches(matches), program, matches.subcommand_name(), &failure),
    }
}

fn carry_out_and_tell(arguments: &OciArgs, program: &str) -> u8 {
    let log = Log::of(&arguments.front);
    match carry_out(arguments, &log) {
        Ok(code) => code,
        Err(failure) => tell_failure(&log, program, arguments.command.introduced(), &failure),
    }
}

fn tell_failure(log: &Log, program: &str, command: Option<&str>, failure: &Failure) -> u8 {
    let failure = report::line(failure);
    let (text, code) = match command {
        Some(command @ ("create" | "run")) => (format!("{program} {command} failed: {failure}"), FAILED),
        Some("exec") => (format!("exec failed: {failure}"), EXEC_FAILED),
        _ => (failure, FAILED),
    };
    log.tell(Gravity::Error, &text);
    code
}

fn refuse_later(matches: &ArgMatches) -> Result<(), Failure> {
    if let Some((name, inner)) = matches.subcommand() {
        later::refuse(inner, args::later(name))?;
    }
    Ok(())
}

fn carry_out(arguments: &OciArgs, log: &Log) -> Result<u8, Failure> {
    if arguments.front.criu.is_some() {
        eprintln!("WARNING: --criu ignored (criu binary from $PATH is used); do not use");
    }
    let containers = Containers::new(arguments.front.state_root())
        .with_systemd(arguments.front.systemd_cgroup)
        .without_cgroup(arguments.front.without_cgroup());
    match &arguments.command {
        OciCommand::Create(bundle) => create::create(&containers, bundle)?,
        OciCommand::Run(run) => return create::run(&containers, run, log),
        OciCommand::Start(start) => create::start(&containers, &start.id)?,
        OciCommand::State(state) => list::state(&containers, &state.id)?,
        OciCommand::Kill(kill) => send(&containers, kill)?,
        OciCommand::Delete(delete) => remove(&containers, &delete.id, delete.force, log)?,
        OciCommand::List(list) => list::list(&containers, list)?,
        OciCommand::Exec(process) => return exec::exec(&containers, process),
        OciCommand::Ps(ps) => ps::ps(&containers, ps)?,
        OciCommand::Pause(pause) => containers.pause(&pause.id)?,
        OciCommand::Resume(resume) => containers.resume(&resume.id)?,
        OciCommand::Update(limits) => update::update(&containers, limits, log)?,
        OciCommand::Events(events) => events::events(&containers, events, log)?,
        OciCommand::Checkpoint(checkpoint) => checkpoint::checkpoint(&containers, checkpoint, log)?,
        OciCommand::Restore(restore) => return checkpoint::restore(&containers, restore, log),
        OciCommand::Spec(spec) => spec::write(&spec.bundle, spec.rootless)?,
        OciCommand::Features => features()?,
    }
    Ok(0)
}

fn send(containers: &Containers, arguments: &KillArgs) -> Result<(), Failure> {
    let number = match arguments.signal.as_str() {
        // kill(2): only looks whether the process is there.
        "0" => 0,
        text => {
            let signal: Result<Signal, _> = text.parse();
            signal.map_err(|_| Failure::Arguments(format!("unknown signal {text:?}")))?.number()
        }
    };
    Ok(containers.kill(&arguments.id, number, arguments.all)?)
}

/// Removes a container and tells of poststop hooks that failed.
fn remove(containers: &Containers, id: &str, force: bool, log: &Log) -> Result<(), Failure> {
    for error in containers.delete(id, force)? {
        log.tell(Gravity::Warning, &error.to_string());
    }
    Ok(())
}

fn features() -> Result<(), Failure> {
    write_stdout((serde_json::to_string_pretty(&hull_runtime::features::features())? + "\n").as_bytes())
}

#[cfg(test)]
mod tests;
