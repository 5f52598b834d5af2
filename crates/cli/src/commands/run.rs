//! `hull run`: create, start, and in the foreground stay until the end.

use hull_engine::{ContainerId, Engine, EngineError, RemoveOptions};
use hull_supervisor::client::Client;

use super::Context;
use super::create::{CidFile, create_by};
use super::foreground::{self, Streams, detach_keys};
use crate::args::run::RunArgs;
use crate::args::surroundings::Process;
use crate::error::Failure;

/// Runs a container.
///
/// # Errors
/// What kept it from running; nothing is left of it then.
pub fn run(arguments: RunArgs, context: &Context) -> Result<u8, Failure> {
    let keys = detach_keys(&arguments.detach_keys)?;
    let request = arguments.container.request(&Process)?;
    let streams = Streams { tty: request.tty, stdin: request.interactive };
    if !arguments.detach {
        streams.check()?;
    }
    let mut cid_file = arguments.container.cidfile.as_deref().map(CidFile::reserve).transpose()?;
    let engine = context.engine()?;
    let created = create_by(Engine::create_to_start, &engine, request, arguments.container.quiet)?;
    let id = created.id;
    let foreground = (!arguments.detach).then_some(streams);
    let client = match begin(&engine, &id, foreground, cid_file.as_mut()) {
        Ok(client) => client,
        Err(failure) => {
            discard(&engine, &id);
            return Err(failure);
        }
    };
    match client {
        None => {
            super::write_stdout(format!("{id}\n").as_bytes())?;
            Ok(0)
        }
        Some(client) => {
            let options = streams.options(0, keys, arguments.sig_proxy);
            foreground::container(&engine, &id, client, &options, true, context)
        }
    }
}

/// Writes the id's file and starts the container; the client is that of the foreground, whose streams are given.
fn begin(
    engine: &Engine,
    id: &ContainerId,
    foreground: Option<Streams>,
    cid_file: Option<&mut CidFile>,
) -> Result<Option<Client>, Failure> {
    if let Some(file) = &cid_file {
        file.write(id)?;
    }
    let client = match foreground {
        None => engine.start(id.as_str()).map(|()| None)?,
        Some(streams) => engine.start_attached(id.as_str(), streams.window()).map(Some)?,
    };
    if let Some(file) = cid_file {
        file.keep();
    }
    Ok(client)
}

/// Removes a container that was made to run and did not.
fn discard(engine: &Engine, id: &ContainerId) {
    match engine.remove(id.as_str(), &RemoveOptions { force: true, volumes: true }) {
        // With --rm its supervisor may have removed it already.
        Ok(()) | Err(EngineError::NoSuchContainer { .. }) => {}
        Err(error) => tracing::warn!(container = %id, %error, "cannot remove the container that did not start"),
    }
}
