//! Staying with a session: the terminal or the pipes of this process joined to it, until one side ends.
//!
//! Used by `run`, `start -a`, `attach` and `exec`. The exit code of the command is the process's own; who
//! detaches leaves with 0, and a container whose supervisor was killed is waited for by other means.

use hull_engine::{ContainerId, Engine};
use hull_supervisor::client::attach::{self, AttachEnd, AttachOptions};
use hull_supervisor::client::{Client, DetachKeys};

use super::Context;
use crate::error::Failure;

/// Exit code of a program whose output nobody reads any more: as if SIGPIPE had ended it.
const OUTPUT_CLOSED: u8 = 141;

/// What attaching depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// The session has a terminal.
    pub tty: bool,
    /// Our stdin goes to it.
    pub stdin: bool,
}

impl Streams {
    /// Refuses a terminal for the container that this process does not have itself.
    ///
    /// # Errors
    /// In docker's words.
    pub fn check(self) -> Result<(), Failure> {
        if self.tty && self.stdin && !hull_kernel::terminal::is_terminal(std::io::stdin()) {
            return Err(Failure::Arguments("the input device is not a TTY".to_owned()));
        }
        Ok(())
    }

    /// Rows and columns that the session's terminal begins with.
    pub fn window(self) -> Option<(u16, u16)> {
        let size = if self.tty { attach::own_window_size() } else { None };
        size.map(|size| (size.rows, size.columns))
    }

    /// How to attach to a session with such streams.
    pub fn options(self, session: u32, detach_keys: DetachKeys, forward_signals: bool) -> AttachOptions {
        AttachOptions { session, tty: self.tty, stdin: self.stdin, detach_keys, forward_signals, redraw: false }
    }
}

/// Reads `--detach-keys`.
///
/// # Errors
/// Names the key that there is not.
pub fn detach_keys(text: &str) -> Result<DetachKeys, Failure> {
    text.parse().map_err(|error| Failure::Arguments(format!("invalid detach keys ({text}): {error}")))
}

/// Stays with the container's own process; `owned` commands clean up after its end.
///
/// # Errors
/// When the container could not be started, or the connection was lost and its end cannot be seen.
pub fn container(
    engine: &Engine,
    id: &ContainerId,
    mut client: Client,
    options: &AttachOptions,
    owned: bool,
    context: &Context,
) -> Result<u8, Failure> {
    let end = attach::run(&mut client, options)?;
    let ended = matches!(end, AttachEnd::Exited(_) | AttachEnd::Failed { .. });
    // Without the grant somebody else cleans up, and the container may even run again: hands off.
    if owned
        && ended
        && let Some(_lock) = client.begin_cleanup()?
    {
        if let Err(error) = engine.finish(id) {
            // The exit code is the container's; what stays behind is swept by the next command.
            crate::error::report(&error.into(), context.log_format());
        }
        // A supervisor that is gone already needs no word.
        let _ = client.cleanup_done();
    }
    drop(client);
    if owned && ended {
        hull_engine::reap_supervisors();
    }
    match end {
        AttachEnd::Lost => {
            let status = engine.wait(id.as_str())?;
            known(status.code)
        }
        end => code(end),
    }
}

/// Stays with a process that `exec` has added.
///
/// # Errors
/// When it could not be started, or the connection was lost.
pub fn session(mut client: Client, options: &AttachOptions) -> Result<u8, Failure> {
    match attach::run(&mut client, options)? {
        AttachEnd::Lost => Err(Failure::Client(hull_supervisor::client::ClientError::Ended)),
        end => code(end),
    }
}

fn code(end: AttachEnd) -> Result<u8, Failure> {
    match end {
        AttachEnd::Exited(exited) => known(exited.exit_code),
        AttachEnd::Failed { exit_code, text } => {
            Err(Failure::NotStarted { text, code: u8::try_from(exit_code).unwrap_or(125) })
        }
        AttachEnd::Detached => Ok(0),
        AttachEnd::OutputClosed => Ok(OUTPUT_CLOSED),
        AttachEnd::Dropped(reason) => Err(Failure::Client(hull_supervisor::client::ClientError::Dropped(reason))),
        AttachEnd::Lost => Err(Failure::Client(hull_supervisor::client::ClientError::Ended)),
        AttachEnd::Interrupted(signal) => Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
    }
}

/// The exit code as this process's own.
///
/// # Errors
/// When nobody saw how the container ended.
pub fn known(exit_code: Option<i32>) -> Result<u8, Failure> {
    match exit_code {
        Some(code) => Ok(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        None => Err(Failure::ExitUnknown),
    }
}
