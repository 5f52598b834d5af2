//! `hull rm`: removes containers.

use hull_engine::{ErrorKind, RemoveOptions};

use super::{Context, each, write_stdout};
use crate::args::containers::RemoveArgs;
use crate::error::{Failure, report};

/// Removes the containers. With `--force`, one that is not there is told of and counts as removed.
///
/// # Errors
/// When one of the names failed.
pub fn run(arguments: RemoveArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    let options = RemoveOptions { force: arguments.force, volumes: arguments.volumes };
    each(&arguments.containers, context, |name| {
        match engine.remove(name, &options) {
            Err(error) if arguments.force && error.kind() == ErrorKind::NotFound => {
                report(&error.into(), context.log_format());
                return Ok(());
            }
            result => result?,
        }
        write_stdout(format!("{name}\n").as_bytes())
    })
}
