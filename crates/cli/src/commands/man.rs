//! `hull man DIR`: one man page for `hull` and one for each command, in section 1.

use std::fs;
use std::path::Path;

use clap::Command;

use super::{Context, VERBS};
use crate::args::system::ManArgs;
use crate::args::{Purpose, tree};
use crate::error::Failure;

/// Writes the pages.
///
/// # Errors
/// When the folder or a page cannot be written.
pub fn run(arguments: ManArgs, _context: &Context) -> Result<u8, Failure> {
    fs::create_dir_all(&arguments.folder).map_err(Failure::path("make", &arguments.folder))?;
    let mut command = tree(VERBS, Purpose::Document);
    command.build();
    write_pages(&arguments.folder, &command, "hull")?;
    Ok(0)
}

fn write_pages(folder: &Path, command: &Command, name: &str) -> Result<(), Failure> {
    let mut page = Vec::new();
    let path = folder.join(format!("{name}.1"));
    let named = command.clone().display_name(name);
    clap_mangen::Man::new(named).render(&mut page).map_err(Failure::path("write", &path))?;
    fs::write(&path, page).map_err(Failure::path("write", &path))?;
    for inner in command.get_subcommands() {
        write_pages(folder, inner, &format!("{name}-{}", inner.get_name()))?;
    }
    Ok(())
}
