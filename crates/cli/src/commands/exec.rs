//! `hull exec`: another process in a container that runs.

use hull_engine::ExecRequest;
use hull_supervisor::protocol::AttachFlags;

use super::Context;
use super::foreground::{self, Streams, detach_keys};
use crate::args::containers::ExecArgs;
use crate::args::env;
use crate::args::run::RequestError;
use crate::args::surroundings::Process;
use crate::error::Failure;

/// Executes the command.
///
/// # Errors
/// What kept it from running.
pub fn run(arguments: ExecArgs, context: &Context) -> Result<u8, Failure> {
    let keys = detach_keys(&arguments.detach_keys)?;
    let streams = Streams { tty: arguments.tty, stdin: arguments.interactive };
    if !arguments.detach {
        streams.check()?;
    }
    let request = request(&arguments, streams)?;
    let container = &arguments.container_and_command[0];
    let engine = context.engine()?;
    let flags = AttachFlags { stdin: streams.stdin, stdout: true, stderr: true, foreground: true };
    let attached = (!arguments.detach).then_some(flags);
    let (client, started) = engine.exec(container, &request, attached)?;
    if arguments.detach {
        return Ok(0);
    }
    foreground::session(client, &streams.options(started.session, keys, true))
}

fn request(arguments: &ExecArgs, streams: Streams) -> Result<ExecRequest, Failure> {
    let variables = env::variables(&arguments.env_file, &arguments.env, &Process).map_err(RequestError::File)?;
    Ok(ExecRequest {
        command: arguments.container_and_command[1..].to_vec(),
        // A bare name that this process does not have asks for nothing here: the container's variable stays.
        env: variables.into_iter().filter(|variable| variable.contains('=')).collect(),
        user: arguments.user.clone(),
        workdir: arguments.workdir.clone(),
        tty: arguments.tty,
        interactive: arguments.interactive,
        privileged: arguments.privileged,
        console_size: streams.window(),
    })
}
