//! `cargo xtask layout`: which functions of `hull` the frequent commands execute, and in which order.
//!
//! ```text
//! link      hull as it is released, with the linker's map of it
//! map       which input section (a function, or a file of libc) lies where
//! tracer    runs commands with a breakpoint at the start of every function
//! script    the sections that were reached, in the order of their first execution, as a linker script
//! ```
//!
//! The scripts are `crates/cli/layout/x86_64-LIBC.ld`, of which `crates/cli/build.rs` gives one to the linker. Crates'
//! hashes in symbol names are wildcards there, so that it stays good when dependencies or the compiler change.

mod map;
mod tracer;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::musl::Musl;
use crate::workspace;
use map::Map;
use tracer::Tracer;

/// Where the linker scripts are.
const SCRIPTS: &str = "crates/cli/layout";
/// What `crates/cli/build.rs` takes the name of the map from.
const MAP_VARIABLE: &str = "HULL_LINK_MAP";
/// What stands above the sections.
const SCRIPT_HEAD: &str =
    "/* Made by `cargo xtask layout`: the functions of the frequent commands, in the order in which
   they are first executed. See crates/cli/build.rs. */
SECTIONS
{
  .text.frequent :
  {
";
const SCRIPT_TAIL: &str = "  }
}
INSERT BEFORE .text;
";

/// Builds hull, with musl as releases are or else with glibc, and a map beside it.
pub fn link(musl: Option<Musl>) -> Result<PathBuf> {
    let map = map_file()?;
    // Only a link makes a map.
    let _ = fs::remove_file(&map);
    let hull = match musl {
        Some(musl) => musl.hull_with(&[(MAP_VARIABLE, &map)])?,
        None => {
            let made = workspace::build_with(&["build", "--release", "--package", "hull"], &[(MAP_VARIABLE, &map)])?;
            made.into_iter().find(|program| program.name == "hull").context("cargo built no hull")?.path
        }
    };
    if !map.exists() {
        bail!("the linker made no map: touch crates/cli/build.rs");
    }
    Ok(hull)
}

/// Where the map is.
fn map_file() -> Result<PathBuf> {
    Ok(workspace::folder("xtask")?.join("hull.map"))
}

/// Traces commands and keeps what they executed in a file, for the linker script.
pub struct Recorder {
    tracer: Tracer,
}

impl Recorder {
    /// Reads the map.
    pub fn new(hull: &Path) -> Result<Recorder> {
        let map = Map::read(&map_file()?)?;
        if map.sections.is_empty() {
            bail!("the linker's map names no functions");
        }
        Ok(Recorder { tracer: Tracer::new(hull, map)? })
    }

    /// Runs one command to its end; what it leaves running is traced on while the next commands run.
    pub fn run(&mut self, argv: &[String]) -> Result<()> {
        self.tracer.run(argv)
    }

    /// Waits for everything that still runs, and writes the script.
    pub fn finish(mut self, script: &Path) -> Result<()> {
        self.tracer.wait_for_all()?;
        let mut text = SCRIPT_HEAD.to_string();
        for pattern in self.tracer.executed() {
            writeln!(text, "    {pattern}")?;
        }
        text.push_str(SCRIPT_TAIL);
        fs::write(script, text)?;
        Ok(())
    }
}

/// Puts a new script in its place in the tree: that of the build with this C library.
pub fn install(script: &Path, libc: &str) -> Result<()> {
    let name = format!("{SCRIPTS}/{}-{libc}.ld", std::env::consts::ARCH);
    let target = workspace::root().join(&name);
    fs::copy(script, &target)?;
    let lines = fs::read_to_string(&target)?.lines().count();
    println!("{name}: {lines} lines");
    Ok(())
}
