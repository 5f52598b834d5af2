//! `hull cp`: files between a container and this machine, also as a tar stream.

use hull_engine::{CopyEnd, CopyRequest};

use super::Context;
use crate::args::containers::CopyArgs;
use crate::error::Failure;
use crate::output::units::human_size;

/// Copies.
///
/// # Errors
/// When both or neither end is a container, or the copy fails.
pub fn run(arguments: CopyArgs, context: &Context) -> Result<u8, Failure> {
    let (from, to) = (CopyEnd::parse(&arguments.from), CopyEnd::parse(&arguments.to));
    let inside = |end: &CopyEnd| matches!(end, CopyEnd::Container { .. });
    match (inside(&from), inside(&to)) {
        (true, true) => return Err(Failure::Arguments("copying between containers is not supported".to_owned())),
        (false, false) => {
            return Err(Failure::Arguments("must specify at least one container source".to_owned()));
        }
        _ => {}
    }
    let to_stream = matches!(to, CopyEnd::Stream);
    if to_stream && hull_kernel::terminal::is_terminal(std::io::stdout()) {
        return Err(Failure::Arguments("cowardly refusing to write a tar archive to a terminal".to_owned()));
    }
    let request = CopyRequest { from, to, archive: arguments.archive, follow_link: arguments.follow_link };
    let engine = context.engine()?;
    let copied = engine.copy(&request, &mut std::io::stdin(), &mut std::io::stdout())?;
    if !arguments.quiet && !to_stream && hull_kernel::terminal::is_terminal(std::io::stderr()) {
        eprintln!("Successfully copied {} to {}", human_size(copied.bytes, 3), arguments.to);
    }
    Ok(0)
}
