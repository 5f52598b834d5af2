//! `hull completion SHELL`: a completion script made from the table of commands.

use super::{Context, VERBS, write_stdout};
use crate::args::system::CompletionArgs;
use crate::args::{Purpose, tree};
use crate::error::Failure;

/// Prints the script.
///
/// # Errors
/// When stdout cannot be written to.
pub fn run(arguments: CompletionArgs, _context: &Context) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut tree(VERBS, Purpose::Document), "hull", &mut script);
    write_stdout(&script)?;
    Ok(0)
}
