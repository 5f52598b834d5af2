//! `hull help [COMMAND...]`: the same text as `hull COMMAND --help`.

use clap::Args;

use super::{Context, VERBS, write_stdout};
use crate::args;
use crate::error::Failure;

/// `help`.
#[derive(Debug, Args)]
pub struct HelpArgs {
    /// Words of a command
    #[arg(value_name = "COMMAND", hide = true)]
    pub words: Vec<String>,
}

/// Prints the help of the command that the words name.
///
/// # Errors
/// When stdout cannot be written to.
pub fn run(arguments: HelpArgs, _context: &Context) -> Result<u8, Failure> {
    let words: Vec<&str> = arguments.words.iter().map(String::as_str).collect();
    write_stdout(args::help(VERBS, &words).to_string().as_bytes())?;
    Ok(0)
}
