//! What runs inside of the virtual machine: each test program in turn, then a look at what they left.
//!
//! The console is the only way out, so the result stands between two marks that carry a word known only to this boot:
//!
//! ```text
//! HULL-BEGIN <nonce>
//! ... what the programs printed ...
//! left behind: ...
//! HULL-END <nonce> good|bad
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::contained::{Place, Traces};
use crate::runner::{self, Tests};
use crate::{cgroups, conformance};

/// A test program and the names of the tests it is to run.
#[derive(Serialize, Deserialize)]
pub struct Program {
    name: String,
    path: PathBuf,
    filter: Vec<String>,
    skip: Vec<String>,
}

impl Program {
    /// The program at `path` in the guest, with all its tests.
    pub fn new(name: &str, path: &str) -> Program {
        Program { name: name.into(), path: path.into(), filter: Vec::new(), skip: Vec::new() }
    }

    /// Only the tests whose names contain one of these; all when there is none.
    pub fn only(self, filter: &[String]) -> Program {
        Program { filter: filter.to_vec(), ..self }
    }

    /// Without the tests whose names contain one of these.
    pub fn without(self, skip: &[&str]) -> Program {
        Program { skip: skip.iter().map(|part| part.to_string()).collect(), ..self }
    }
}

/// Everything that one boot is to do.
#[derive(Serialize, Deserialize)]
pub struct Work {
    /// What to run, in this order.
    pub programs: Vec<Program>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Where tests make their files; empty afterwards.
    pub files: PathBuf,
    /// The validation suite, after them.
    pub conformance: Option<conformance::guest::Work>,
}

/// `xtask inside guest FILE`: does the work and prints the result between its marks.
pub fn run(file: &Path) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let (nonce, work): (String, Work) = serde_json::from_str(&text)?;
    println!("HULL-BEGIN {nonce}");
    let good = perform(&work).unwrap_or_else(|error| {
        println!("guest: {error:#}");
        false
    });
    println!("HULL-END {nonce} {}", if good { "good" } else { "bad" });
    Ok(())
}

fn perform(work: &Work) -> Result<bool> {
    let hierarchies = cgroups::hierarchies()?.into_iter().map(|hierarchy| hierarchy.mount).collect();
    let place = Place { hierarchies, folders: vec![work.files.clone(), "/run/hull".into(), "/tmp".into()] };
    let before = Traces::now(&place)?;
    let mut good = true;
    for program in &work.programs {
        println!("-- {}", program.name);
        let Program { path, filter, skip, .. } = program;
        let tests = Tests { program: path, filter, skip, env: &work.env, limit: runner::GUEST_TEST_LIMIT };
        good &= runner::run(&tests)?.failed == 0;
    }
    for left in Traces::settled(&place, &before)? {
        println!("left behind: {left}");
        good = false;
    }
    if let Some(work) = &work.conformance {
        println!("-- conformance");
        good &= conformance::guest::run(work)?;
    }
    Ok(good)
}

/// The result of a boot, as its console shows it.
#[derive(Debug, PartialEq, Eq)]
pub struct Report<'a> {
    /// What the programs printed.
    pub text: &'a str,
    /// Whether all passed and nothing was left.
    pub is_good: bool,
}

impl<'a> Report<'a> {
    /// Finds the result of the boot with that nonce.
    pub fn read(console: &'a str, nonce: &str) -> Option<Report<'a>> {
        let (_, rest) = console.split_once(&format!("HULL-BEGIN {nonce}\n"))?;
        let (text, end) = rest.split_once(&format!("HULL-END {nonce} "))?;
        Some(Report { text, is_good: end.starts_with("good\n") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_only_the_own_result() {
        let console = "boot\nHULL-BEGIN a\ntest result: ok\nHULL-END a good\noff\n";
        assert_eq!(Report::read(console, "a"), Some(Report { text: "test result: ok\n", is_good: true }));
        assert_eq!(Report::read(console, "b"), None);
        assert_eq!(Report::read("HULL-BEGIN a\nKernel panic\n", "a"), None);
        let bad = Report::read("HULL-BEGIN a\nx\nHULL-END a bad\n", "a").unwrap();
        assert!(!bad.is_good);
    }
}
