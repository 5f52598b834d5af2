//! `hull stop`, `restart`, `kill`, `pause`, `unpause` and `wait`: one act on each of several containers.

use hull_engine::StopOptions;

use super::foreground::known;
use super::{Context, each, write_stdout};
use crate::args::containers::{KillArgs, NamesArgs, StopArgs};
use crate::error::Failure;

fn options(arguments: &StopArgs) -> StopOptions {
    StopOptions { timeout_seconds: arguments.timeout, signal: arguments.signal }
}

fn print(name: &str) -> Result<(), Failure> {
    write_stdout(format!("{name}\n").as_bytes())
}

/// `stop`.
///
/// # Errors
/// When one of the names failed.
pub fn stop(arguments: StopArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    each(&arguments.containers, context, |name| {
        engine.stop(name, &options(&arguments))?;
        print(name)
    })
}

/// `restart`.
///
/// # Errors
/// When one of the names failed.
pub fn restart(arguments: StopArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    each(&arguments.containers, context, |name| {
        engine.restart(name, &options(&arguments))?;
        print(name)
    })
}

/// `kill`.
///
/// # Errors
/// When one of the names failed.
pub fn kill(arguments: KillArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    each(&arguments.containers, context, |name| {
        engine.kill(name, arguments.signal)?;
        print(name)
    })
}

/// `pause`.
///
/// # Errors
/// When one of the names failed.
pub fn pause(arguments: NamesArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    each(&arguments.containers, context, |name| {
        engine.pause(name)?;
        print(name)
    })
}

/// `unpause`.
///
/// # Errors
/// When one of the names failed.
pub fn unpause(arguments: NamesArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    each(&arguments.containers, context, |name| {
        engine.unpause(name)?;
        print(name)
    })
}

/// `wait`: prints each exit code.
///
/// # Errors
/// When one of the names failed.
pub fn wait(arguments: NamesArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    each(&arguments.containers, context, |name| {
        let code = known(engine.wait(name)?.code)?;
        write_stdout(format!("{code}\n").as_bytes())
    })
}
