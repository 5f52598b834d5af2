//! Runs a libtest program one process per test, as cargo-nextest does: a test that crashes or hangs takes no other with
//! it, and none finds what another left in its memory.
//!
//! Names come from `--list`, each test runs as `--exact NAME` in a process group of its own, two at a time on two
//! processors. Output is kept in memory and shown for failures only. The end is libtest's own summary line.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::count::Count;
use crate::program;

/// The longest one test may take on this machine.
pub const TEST_LIMIT: Duration = Duration::from_secs(180);
/// The longest one test may take in the emulator.
pub const GUEST_TEST_LIMIT: Duration = Duration::from_secs(360);
/// How much of a failing test's output is shown.
const SHOWN_LINES: usize = 80;

/// A test program and how to run it.
pub struct Tests<'a> {
    /// The libtest program.
    pub program: &'a Path,
    /// Parts of test names; all tests when there is none.
    pub filter: &'a [String],
    /// Parts of the names of tests that do not run.
    pub skip: &'a [String],
    /// Environment variables besides the inherited ones.
    pub env: &'a BTreeMap<String, String>,
    /// The longest one test may take.
    pub limit: Duration,
}

/// Runs the tests and prints their ends. Returns how many passed and failed.
pub fn run(tests: &Tests<'_>) -> Result<Count> {
    let names = names(tests)?;
    println!("running {} tests", names.len());
    let waiting = Mutex::new(VecDeque::from(names));
    let counted = Mutex::new(Count::default());
    let threads = std::thread::available_parallelism().context("number of processors")?.get();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(tests, &waiting, &counted));
        }
    });
    let count = counted.into_inner().unwrap_or_default();
    let word = if count.failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {word}. {} passed; {} failed; 0 ignored\n", count.passed, count.failed);
    Ok(count)
}

/// The tests that the program has, without the ignored ones, that the filter lets through.
fn names(tests: &Tests<'_>) -> Result<Vec<String>> {
    let list = |more: &[&str]| -> Result<Vec<String>> {
        let mut command = Command::new(tests.program);
        command.args(["--list", "--format", "terse"]).args(more);
        let text = program::output(&mut command)?;
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_string).collect())
    };
    let ignored = list(&["--ignored"])?;
    let skipped = |name: &String| tests.skip.iter().any(|part| name.contains(part.as_str()));
    let wanted =
        |name: &String| tests.filter.is_empty() || tests.filter.iter().any(|part| name.contains(part.as_str()));
    Ok(list(&[])?.into_iter().filter(|name| !ignored.contains(name) && !skipped(name) && wanted(name)).collect())
}

fn work(tests: &Tests<'_>, waiting: &Mutex<VecDeque<String>>, counted: &Mutex<Count>) {
    loop {
        let next = waiting.lock().ok().and_then(|mut names| names.pop_front());
        let Some(name) = next else { return };
        let began = Instant::now();
        let ended = one(tests, &name);
        let seconds = began.elapsed().as_secs_f64();
        let Ok(mut count) = counted.lock() else { return };
        match ended {
            Ok((status, _)) if status.success() => {
                count.passed += 1;
                println!("test {name} ... ok ({seconds:.2} s)");
            }
            Ok((status, words)) => {
                count.failed += 1;
                println!("test {name} ... FAILED ({status}, {seconds:.2} s)\n{}", indented(&words));
            }
            Err(error) => {
                count.failed += 1;
                println!("test {name} ... FAILED\n{}", indented(&format!("{error:#}")));
            }
        }
    }
}

/// Runs one test. Its output goes to memory and not to a pipe, because a process that it left would hold a pipe open.
fn one(tests: &Tests<'_>, name: &str) -> Result<(ExitStatus, String)> {
    let mut words = File::from(memfd_create("test-output", MemfdFlags::CLOEXEC)?);
    let mut child = Command::new(tests.program)
        .args(["--exact", name, "--test-threads", "1"])
        .envs(tests.env)
        .stdin(Stdio::null())
        .stdout(words.try_clone()?)
        .stderr(words.try_clone()?)
        .process_group(0)
        .spawn()
        .with_context(|| tests.program.display().to_string())?;
    let end = Instant::now() + tests.limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() > end {
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    if status.is_none() {
        let group = Pid::from_raw(i32::try_from(child.id())?).context("a process without a number")?;
        kill_process_group(group, Signal::KILL).context("ending a test that takes too long")?;
        child.wait()?;
    }
    let mut bytes = Vec::new();
    words.rewind()?;
    words.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match status {
        Some(status) => Ok((status, text)),
        None => bail!("not finished after {} s\n{text}", tests.limit.as_secs()),
    }
}

/// What a failed test said, without libtest's frame around it.
fn indented(text: &str) -> String {
    let frame = ["running 1 test", "failures:", "test result: ", "note: run with `RUST_BACKTRACE", "---- "];
    let said = |line: &&str| !line.trim().is_empty() && !frame.iter().any(|word| line.starts_with(word));
    let lines: Vec<&str> = text.lines().filter(said).collect();
    let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    shown.iter().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INNER: &str = "XTASK_RUNNER_TEST";

    fn ran(filter: &str, limit: Duration) -> Count {
        let program = std::env::current_exe().unwrap();
        let (filter, env) = ([filter.to_string()], BTreeMap::from([(INNER.to_string(), "1".to_string())]));
        run(&Tests { program: &program, filter: &filter, skip: &[], env: &env, limit }).unwrap()
    }

    #[test]
    fn runs_each_test_by_itself_and_counts() {
        assert_eq!(ran("finds_nothing_in_other_words", TEST_LIMIT), Count { passed: 1, failed: 0 });
        assert_eq!(ran("no such test", TEST_LIMIT), Count::default());
    }

    #[test]
    fn a_test_that_takes_too_long_is_ended() {
        // The test starts itself, and the one that is started is not done in no time.
        if std::env::var_os(INNER).is_some() {
            return std::thread::sleep(Duration::from_secs(5));
        }
        assert_eq!(ran("a_test_that_takes_too_long_is_ended", Duration::ZERO), Count { passed: 0, failed: 1 });
    }
}
