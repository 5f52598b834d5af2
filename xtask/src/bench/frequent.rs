//! The frequent commands, each run once under the tracer of `cargo xtask layout`.
//!
//! The first ones decide what lies together: the whole life of a container with an OCI runtime, then its single
//! commands, then `hull run` with its supervisor.

use std::path::PathBuf;

use anyhow::Result;

use super::runtime::{default_filter, make_bundle};
use super::stage::{self, Hull};
use super::{Settings, workspace};
use crate::layout::Recorder;

/// Where the linker script goes at first.
pub fn script() -> Result<PathBuf> {
    Ok(workspace::folder("bench")?.join("layout.ld"))
}

/// Runs all of them and writes the script.
pub fn record(settings: &Settings) -> Result<()> {
    let filter = default_filter(settings)?;
    let plain = make_bundle(settings, "plain", &["/bin/true"], None)?;
    let filtered = make_bundle(settings, "filtered", &["/bin/true"], Some(&filter))?;
    let sleeping = make_bundle(settings, "sleeping", &["/bin/sleep", "1000"], Some(&filter))?;
    let hull = Hull::ready(settings)?;
    let mut recorder = Recorder::new(&settings.measured.hull)?;

    let program = settings.measured.hull.display().to_string();
    let mut runtime = |words: &[&str]| {
        let own = [&program, "oci", "--root", "/run/hull-layout"];
        recorder.run(&own.iter().chain(words).map(|word| word.to_string()).collect::<Vec<_>>())
    };
    runtime(&["run", "--bundle", &plain, "run"])?;
    runtime(&["run", "--bundle", &filtered, "compiled"])?;
    runtime(&["run", "--bundle", &filtered, "cached"])?;
    runtime(&["create", "--bundle", &sleeping, "life"])?;
    runtime(&["start", "life"])?;
    runtime(&["exec", "life", "/bin/true"])?;
    runtime(&["state", "life"])?;
    runtime(&["kill", "life", "KILL"])?;
    runtime(&["delete", "--force", "life"])?;

    let mut command = |words: &[&str]| recorder.run(&hull.start(words).argv);
    command(&["run", "--rm", "--network", "none", stage::IMAGE, "true"])?;
    command(&["run", "--detach", "--name", "life", "--network", "none", stage::IMAGE, "sleep", "1000"])?;
    command(&["exec", "life", "true"])?;
    command(&["ps"])?;
    command(&["rm", "--force", "life"])?;
    recorder.finish(&script()?)
}
