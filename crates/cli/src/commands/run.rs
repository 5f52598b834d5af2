//! `hull run`: create, start, and in the foreground stay until the end.

use hull_engine::{ContainerId, Engine, RemoveOptions};

use super::Context;
use super::create::{CidFile, create};
use super::foreground::{self, Streams, detach_keys};
use crate::args::run::RunArgs;
use crate::args::surroundings::Process;
use crate::error::Failure;

/// Runs a container.
///
/// # Errors
/// What kept it from running; nothing is left then with `--rm`, and a container in state created without.
pub fn run(arguments: RunArgs, context: &Context) -> Result<u8, Failure> {
    let keys = detach_keys(&arguments.detach_keys)?;
    let request = arguments.container.request(&Process)?;
    let streams = Streams { tty: request.tty, stdin: request.interactive };
    if !arguments.detach {
        streams.check()?;
    }
    let cid_file = arguments.container.cidfile.as_deref().map(CidFile::reserve).transpose()?;
    let auto_remove = request.auto_remove;
    let engine = context.engine()?;
    let created = create(&engine, request, arguments.container.quiet)?;
    if let Some(file) = cid_file {
        file.write(&created.id)?;
    }
    if arguments.detach {
        engine
            .start(created.id.as_str())
            .map_err(|error| abandoned(&engine, &created.id, auto_remove, error.into()))?;
        super::write_stdout(format!("{}\n", created.id).as_bytes())?;
        return Ok(0);
    }
    let client = engine
        .start_attached(created.id.as_str())
        .map_err(|error| abandoned(&engine, &created.id, auto_remove, error.into()))?;
    let options = streams.options(0, keys, arguments.sig_proxy);
    foreground::container(&engine, &created.id, client, &options, true, context)
}

/// A container that was to be removed at its end and never began is removed now.
fn abandoned(engine: &Engine, id: &ContainerId, auto_remove: bool, failure: Failure) -> Failure {
    if auto_remove && let Err(error) = engine.remove(id.as_str(), &RemoveOptions { force: true, volumes: true }) {
        tracing::warn!(container = %id, %error, "cannot remove the container that did not start");
    }
    failure
}
