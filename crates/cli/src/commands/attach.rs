//! `hull attach`: joins this terminal to a container that runs.

use hull_engine::lifecycle::state::Action;
use hull_engine::{ContainerState, Engine};
use hull_supervisor::client::{Client, DetachKeys};
use hull_supervisor::protocol::AttachFlags;

use super::Context;
use super::foreground::{self, Streams, detach_keys};
use super::start::record;
use crate::args::containers::AttachArgs;
use crate::error::Failure;

/// Attaches.
///
/// # Errors
/// When the container does not run, or its supervisor does not answer.
pub fn run(arguments: AttachArgs, context: &Context) -> Result<u8, Failure> {
    let keys = detach_keys(&arguments.detach_keys)?;
    let engine = context.engine()?;
    let id = engine.resolve(&arguments.container)?;
    let record = record(&engine, &id)?;
    let streams = Streams { tty: record.request.tty, stdin: !arguments.no_stdin && record.request.interactive };
    streams.check()?;
    to_running(&engine, &arguments.container, streams, keys, arguments.sig_proxy, context)
}

/// Attaches to a container that is expected to run.
///
/// # Errors
/// As [`run`].
pub fn to_running(
    engine: &Engine,
    name: &str,
    streams: Streams,
    keys: DetachKeys,
    sig_proxy: bool,
    context: &Context,
) -> Result<u8, Failure> {
    let id = engine.resolve(name)?;
    let state = engine.state(&id)?;
    match &state {
        ContainerState::Paused { .. } => {
            return Err(Failure::Arguments("You cannot attach to a paused container, unpause it first".to_owned()));
        }
        state if !state.is_running() => {
            return Err(Failure::Arguments("You cannot attach to a stopped container, start it first".to_owned()));
        }
        state => engine.accept(name, state, Action::Attach)?,
    };
    let mut client = Client::connect(&engine.roots().runtime_state(id.as_str()))?;
    let flags = AttachFlags { stdin: streams.stdin, stdout: true, stderr: true, foreground: true };
    client.attach(0, flags)?;
    let mut options = streams.options(0, keys, sig_proxy);
    options.redraw = true;
    foreground::container(engine, &id, client, &options, false, context)
}
