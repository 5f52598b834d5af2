//! `hull diff`, `commit` and `export`: what a container made of its image, told, kept as an image, or written as a tar.

use std::io;
use std::os::unix::ffi::OsStrExt;

use hull_engine::CommitRequest;
use hull_image::NoProgress;

use super::{Context, write_stdout};
use crate::args::containers::{CommitArgs, DiffArgs, ExportArgs};
use crate::error::Failure;
use crate::output::whole_file;

/// `diff`: a letter and a path for each change.
///
/// # Errors
/// The engine's.
pub fn diff(arguments: DiffArgs, context: &Context) -> Result<u8, Failure> {
    let mut text = Vec::new();
    for (kind, path) in context.engine()?.diff(&arguments.container)? {
        text.extend_from_slice(format!("{} ", kind.letter()).as_bytes());
        text.extend_from_slice(path.as_os_str().as_bytes());
        text.push(b'\n');
    }
    write_stdout(&text)?;
    Ok(0)
}

/// `commit`: makes an image of a container and prints its id.
///
/// # Errors
/// The engine's.
pub fn commit(arguments: CommitArgs, context: &Context) -> Result<u8, Failure> {
    let request = CommitRequest {
        reference: arguments.name,
        author: arguments.author,
        message: arguments.message,
        changes: arguments.change,
        pause: arguments.pause && !arguments.no_pause,
    };
    let image = context.engine()?.commit(&arguments.container, &request, &NoProgress)?;
    write_stdout(format!("{}\n", image.id).as_bytes())?;
    Ok(0)
}

/// `export`: writes a container's files as a tar to a file or stdout.
///
/// # Errors
/// When stdout is a terminal, and the engine's; a file that was begun is gone then.
pub fn export(arguments: ExportArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    let name = &arguments.container;
    match &arguments.output {
        Some(path) => whole_file::write(path, |file| Ok(engine.export(name, file).map(drop)?))?,
        None if hull_kernel::terminal::is_terminal(io::stdout()) => {
            return Err(Failure::Arguments(
                "cowardly refusing to save to a terminal: use the -o flag or redirect".to_owned(),
            ));
        }
        None => _ = engine.export(name, &mut io::stdout().lock())?,
    }
    Ok(0)
}
