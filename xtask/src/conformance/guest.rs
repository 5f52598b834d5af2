//! The suite inside of the virtual machine: the programs that do not read cgroup v1, one after the other, each in a mount
//! namespace of its own.
//!
//! The machine has the suite on a disk of its own. What the programs leave behind ends with the machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::expected::{self, Place};
use super::tap::Results;
use super::{Ended, PROGRAM_LIMIT, judge, suite};
use crate::program;

/// What the guest is told.
#[derive(Serialize, Deserialize)]
pub struct Work {
    /// Where the suite is.
    pub suite: PathBuf,
    /// What it runs.
    pub runtime: PathBuf,
    /// Parts of program names; all when there is none.
    pub filter: Vec<String>,
}

/// Runs the programs and prints their ends. Returns whether all ended as expected.
pub fn run(work: &Work) -> Result<bool> {
    let wanted = |name: &String| work.filter.is_empty() || work.filter.iter().any(|part| name.contains(part.as_str()));
    let mut ended = BTreeMap::new();
    for name in suite::programs(&work.suite)?.into_iter().filter(wanted) {
        if expected::fits(&name, Place::Guest) {
            let end = one(work, &name).unwrap_or_else(|error| Ended::broken(&error));
            ended.insert(name, end);
        }
    }
    let (text, is_good) = judge(&ended, Place::Guest);
    print!("{text}");
    Ok(is_good)
}

fn one(work: &Work, name: &str) -> Result<Ended> {
    let bundles = PathBuf::from("/var/tmp/conformance").join(name);
    fs::create_dir_all(&bundles).with_context(|| bundles.display().to_string())?;
    let log = bundles.with_extension("log");
    File::create(&log)?;
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", "mount --make-rprivate / && exec \"./$0\"", name]).current_dir(&work.suite);
    command.env("RUNTIME", &work.runtime).env("TMPDIR", &bundles);
    let began = Instant::now();
    let status = program::logged(&mut command, &log, PROGRAM_LIMIT * 2)?;
    let text = program::text(&log)?;
    let complaint = Results::read(&text).complaint(status.success());
    if complaint.is_some() && expected::of(name, Place::Guest) == expected::Expected::Pass {
        println!("-- {name}\n{}", text.lines().take(60).map(|line| format!("    {line}\n")).collect::<String>());
    }
    fs::remove_dir_all(&bundles).with_context(|| bundles.display().to_string())?;
    Ok(Ended { complaint, left: Vec::new(), seconds: began.elapsed().as_secs_f64() })
}
