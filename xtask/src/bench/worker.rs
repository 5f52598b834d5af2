//! The process that starts what is measured: small, single-threaded, doing nothing else.
//!
//! It reads one request per line, starts the program (posix_spawn), waits for it, and answers with the time between,
//! from the monotonic clock, or with the most memory that the program has had. A worker may sit in a mount namespace of its own: crun takes a machine that has cgroup v1
//! and v2 side by side for something else, so its worker sees the v1 hierarchies only.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::cgroups::{self, Hierarchy};
use crate::{contained, workspace};

/// A program to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Environment variables besides the inherited ones.
    pub env: BTreeMap<String, String>,
}

/// What to find out about a program.
#[derive(Serialize, Deserialize)]
enum Request {
    /// How long it takes.
    Time(Start),
    /// How much memory it has had at most, kB, once a child of it runs a program of that name, which is ended then.
    Peak(Start, String),
}

#[derive(Serialize, Deserialize)]
struct Answer {
    value: u64,
    failure: Option<String>,
}

/// The other end: a worker process.
pub struct Worker {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    /// A worker that sees what this process sees.
    pub fn plain() -> Result<Worker> {
        let mut command = Command::new(workspace::own_program());
        command.args(["inside", "worker"]);
        Worker::start(command)
    }

    /// A worker whose /sys/fs/cgroup holds only the v1 hierarchies, put together in the folder `stage`.
    pub fn without_v2(stage: &Path) -> Result<Worker> {
        std::fs::create_dir_all(stage)?;
        let v1: Vec<Hierarchy> = cgroups::hierarchies()?.into_iter().filter(|hierarchy| !hierarchy.is_v2).collect();
        let plan = stage.with_extension("json");
        std::fs::write(&plan, serde_json::to_string(&(v1, stage))?)?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--"]).arg(workspace::own_program());
        command.args(["inside", "worker"]).arg(plan);
        Worker::start(command)
    }

    fn start(mut command: Command) -> Result<Worker> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting a worker")?;
        let requests = child.stdin.take().context("the worker's input")?;
        let answers = BufReader::new(child.stdout.take().context("the worker's output")?);
        Ok(Worker { child, requests, answers })
    }

    /// How long `start` takes from its start to its end; an end other than 0 is an error with what it said.
    pub fn time(&mut self, start: &Start) -> Result<Duration> {
        self.ask(&Request::Time(start.clone())).map(Duration::from_nanos).with_context(|| start.argv.join(" "))
    }

    /// The most memory that `start` has had, in kB, when a child of it runs the program `child`; both are ended.
    pub fn peak_kb(&mut self, start: &Start, child: &str) -> Result<u64> {
        self.ask(&Request::Peak(start.clone(), child.to_string())).with_context(|| start.argv.join(" "))
    }

    fn ask(&mut self, request: &Request) -> Result<u64> {
        writeln!(self.requests, "{}", serde_json::to_string(request)?)?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let answer: Answer = serde_json::from_str(&line).context("the worker is gone")?;
        match answer.failure {
            Some(failure) => bail!("{failure}"),
            None => Ok(answer.value),
        }
    }

    /// Ends the worker, which ends by itself when nothing more can come.
    pub fn finish(self) -> Result<()> {
        let Worker { mut child, requests, .. } = self;
        drop(requests);
        child.wait()?;
        Ok(())
    }
}

/// `xtask inside worker [PLAN]`.
pub fn run(plan: Option<&Path>) -> Result<()> {
    if let Some(plan) = plan {
        let text = std::fs::read_to_string(plan)?;
        let (hierarchies, stage): (Vec<Hierarchy>, PathBuf) = serde_json::from_str(&text)?;
        let folders: Vec<_> = hierarchies.into_iter().map(|one| (one.clone(), one.mount)).collect();
        contained::show_cgroups(&folders, &stage)?;
    }
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let answer = match serde_json::from_str(&line?)? {
            Request::Time(start) => timed(&start)?,
            Request::Peak(start, child) => peak(&start, &child)?,
        };
        writeln!(output, "{}", serde_json::to_string(&answer)?)?;
        output.flush()?;
    }
    Ok(())
}

fn timed(start: &Start) -> Result<Answer> {
    let mut words = File::from(memfd_create("words", MemfdFlags::CLOEXEC)?);
    let mut command = command(start, &words)?;
    let began = Instant::now();
    let status = command.spawn().with_context(|| start.argv.join(" "))?.wait()?;
    let taken = began.elapsed();
    let failure = if status.success() { None } else { Some(format!("{status} {}", said(&mut words)?)) };
    Ok(Answer { value: u64::try_from(taken.as_nanos())?, failure })
}

fn command(start: &Start, words: &File) -> Result<Command> {
    let (name, arguments) = start.argv.split_first().context("no program to start")?;
    let mut command = Command::new(name);
    command.args(arguments).envs(&start.env).stdin(Stdio::null()).stdout(Stdio::null()).stderr(words.try_clone()?);
    Ok(command)
}

fn said(words: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    words.rewind()?;
    words.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_string())
}

fn peak(start: &Start, child: &str) -> Result<Answer> {
    let mut words = File::from(memfd_create("words", MemfdFlags::CLOEXEC)?);
    let mut parent = command(start, &words)?.spawn().with_context(|| start.argv.join(" "))?;
    let pid = loop {
        if let Some(status) = parent.try_wait()? {
            return Ok(Answer { value: 0, failure: Some(format!("{status} {}", said(&mut words)?)) });
        }
        if let Some(pid) = child_called(parent.id(), child) {
            break pid;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let status = std::fs::read_to_string(format!("/proc/{}/status", parent.id()))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let value = peak.trim().trim_end_matches(" kB").parse().context("VmHWM")?;
    kill_process(pid, Signal::KILL).context("ending the container")?;
    parent.wait()?;
    Ok(Answer { value, failure: None })
}

/// The child of `parent` that runs the program `name`.
fn child_called(parent: u32, name: &str) -> Option<Pid> {
    // A child belongs to the thread that made it.
    let threads = std::fs::read_dir(format!("/proc/{parent}/task")).ok()?.flatten();
    let children: String =
        threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok()).collect();
    let is_called =
        |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    Pid::from_raw(children.split_whitespace().find(is_called)?.parse().ok()?)
}
