//! `hull start`: begins containers that do not run, or one of them in the foreground.

use hull_engine::{ContainerRecord, Engine, EngineError};

use super::foreground::{self, Streams, detach_keys};
use super::{Context, attach, each, write_stdout};
use crate::args::containers::StartArgs;
use crate::error::Failure;

/// Starts the containers.
///
/// # Errors
/// In the foreground, what kept the container from running; else when one of the names failed.
pub fn run(arguments: StartArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    if !arguments.attach && !arguments.interactive {
        return each(&arguments.containers, context, |name| {
            match engine.start(name) {
                // Docker's manner: what runs already is started.
                Err(EngineError::AlreadyStarted { .. }) => {}
                result => result?,
            }
            write_stdout(format!("{name}\n").as_bytes())
        });
    }
    let [name] = arguments.containers.as_slice() else {
        return Err(Failure::Arguments("you cannot start and attach multiple containers at once".to_owned()));
    };
    let keys = detach_keys(&arguments.detach_keys)?;
    let id = engine.resolve(name)?;
    let record = record(&engine, &id)?;
    let streams = Streams { tty: record.request.tty, stdin: arguments.interactive && record.request.interactive };
    streams.check()?;
    if engine.state(&id)?.is_running() {
        return attach::to_running(&engine, name, streams, keys, true, context);
    }
    let client = engine.start_attached(name, streams.window())?;
    foreground::container(&engine, &id, client, &streams.options(0, keys, true), true, context)
}

/// What a container was asked to be.
///
/// # Errors
/// When its record cannot be read.
pub fn record(engine: &Engine, id: &hull_engine::ContainerId) -> Result<ContainerRecord, Failure> {
    let folder = engine.roots().container(id.as_str());
    Ok(ContainerRecord::read(&folder).map_err(hull_engine::EngineError::from)?)
}
