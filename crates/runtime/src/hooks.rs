//! Hooks: programs of the caller that run at points of a container's life (config.md, "POSIX-platform Hooks").
//!
//! | kind                      | run by                        | namespaces | status    | when                      |
//! |---------------------------|-------------------------------|------------|-----------|---------------------------|
//! | prestart                  | parent of the create          | runtime's  | created   | mounts made, before pivot |
//! | createRuntime             | the same                      | runtime's  | creating  | the same                  |
//! | createContainer           | child                         | container's| creating  | then, path still the host's |
//! | startContainer            | child, as the container's user| container's| created   | before the program        |
//! | poststart                 | start                         | runtime's  | running   | after the program started |
//! | poststop                  | delete                        | runtime's  | stopped   | after all is removed      |
//!
//! A hook reads the state on its standard input; what it writes is kept to be shown when it fails. Hooks of one kind
//! run one after the other. The first that fails ends the create or start; a poststop that fails is told and passed.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use hull_oci::runtime::{Hook, Hooks, State, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::listener::planned_state;
use crate::plan::PlanError;

/// Bytes of a failed hook's output that are shown.
const SHOWN_BYTES: u64 = 2048;

/// A kind of hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    /// Deprecated, run as createRuntime's.
    Prestart,
    /// In the runtime's namespaces before pivot_root.
    CreateRuntime,
    /// In the container's namespaces before pivot_root.
    CreateContainer,
    /// In the container before its program.
    StartContainer,
    /// After the program has been started.
    Poststart,
    /// After the container has been deleted.
    Poststop,
}

impl HookKind {
    /// All of them, in the order of a container's life.
    pub const ALL: [HookKind; 6] = [
        HookKind::Prestart,
        HookKind::CreateRuntime,
        HookKind::CreateContainer,
        HookKind::StartContainer,
        HookKind::Poststart,
        HookKind::Poststop,
    ];

    /// Its name in config.json.
    pub fn name(self) -> &'static str {
        match self {
            HookKind::Prestart => "prestart",
            HookKind::CreateRuntime => "createRuntime",
            HookKind::CreateContainer => "createContainer",
            HookKind::StartContainer => "startContainer",
            HookKind::Poststart => "poststart",
            HookKind::Poststop => "poststop",
        }
    }

    fn status(self) -> Status {
        match self {
            HookKind::CreateRuntime | HookKind::CreateContainer => Status::Creating,
            // config.md counts the deprecated kind to what follows creation.
            HookKind::Prestart | HookKind::StartContainer => Status::Created,
            HookKind::Poststart => Status::Running,
            HookKind::Poststop => Status::Stopped,
        }
    }

    fn of(self, hooks: &Hooks) -> &[Hook] {
        match self {
            HookKind::Prestart => &hooks.prestart,
            HookKind::CreateRuntime => &hooks.create_runtime,
            HookKind::CreateContainer => &hooks.create_container,
            HookKind::StartContainer => &hooks.start_container,
            HookKind::Poststart => &hooks.poststart,
            HookKind::Poststop => &hooks.poststop,
        }
    }
}

/// A hook that did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("hooks.{}[{index}] {path}: {failure}", kind.name())]
pub struct HookError {
    /// Its kind.
    pub kind: HookKind,
    /// Which of its kind.
    pub index: usize,
    /// Its program.
    pub path: PathBuf,
    /// What happened.
    pub failure: HookFailure,
}

/// How a hook failed.
#[derive(Debug)]
pub enum HookFailure {
    /// It could not be executed or waited for.
    Execute(io::Error),
    /// It ended otherwise than with 0; with what it wrote.
    Ended(ExitStatus, String),
    /// It did not end in time and was killed.
    TimedOut(Duration),
}

impl fmt::Display for HookFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HookFailure::Execute(error) => write!(f, "{error}"),
            HookFailure::Ended(status, output) if output.is_empty() => write!(f, "{status}"),
            HookFailure::Ended(status, output) => write!(f, "{status}: {output}"),
            HookFailure::TimedOut(limit) => write!(f, "killed after its timeout of {} s", limit.as_secs()),
        }
    }
}

/// The hooks of one container, and the state they read.
#[derive(Debug, Clone)]
pub struct HookPlan {
    hooks: Hooks,
    state: State,
}

impl HookPlan {
    /// Hooks that are valid already, such as those a container was created with.
    pub(crate) fn recorded(hooks: Hooks, state: State) -> HookPlan {
        HookPlan { hooks, state }
    }

    /// Gives the container its id, which a spec does not know.
    pub fn set_id(&mut self, id: &str) {
        self.state.id = id.to_owned();
    }

    /// Whether there is a hook of one of these kinds.
    pub fn has(&self, kinds: &[HookKind]) -> bool {
        kinds.iter().any(|kind| !kind.of(&self.hooks).is_empty())
    }

    /// Runs all hooks of a kind; `pid` is the container's process as the hook sees it.
    ///
    /// # Errors
    /// The first hook that fails; those after it do not run.
    pub fn run(&self, kind: HookKind, pid: Option<i32>) -> Result<(), HookError> {
        for (index, hook) in kind.of(&self.hooks).iter().enumerate() {
            self.run_one(kind, hook, pid).map_err(|failure| failure_of(kind, index, hook, failure))?;
        }
        Ok(())
    }

    /// Runs all hooks of a kind, also after one has failed.
    pub fn run_each(&self, kind: HookKind, pid: Option<i32>) -> Vec<HookError> {
        let run = |(index, hook): (usize, &Hook)| {
            self.run_one(kind, hook, pid).err().map(|failure| failure_of(kind, index, hook, failure))
        };
        kind.of(&self.hooks).iter().enumerate().filter_map(run).collect()
    }

    fn run_one(&self, kind: HookKind, hook: &Hook, pid: Option<i32>) -> Result<(), HookFailure> {
        let state = State { status: kind.status(), pid, ..self.state.clone() };
        let in_container = matches!(kind, HookKind::CreateContainer | HookKind::StartContainer);
        let folder = (!in_container).then_some(state.bundle.as_path());
        execute(hook, &state, folder)
    }
}

fn failure_of(kind: HookKind, index: usize, hook: &Hook, failure: HookFailure) -> HookError {
    HookError { kind, index, path: hook.path.clone(), failure }
}

/// Reads `hooks`; `None` when there are none.
///
/// # Errors
/// A path that is not absolute, a timeout that is not positive, a malformed variable.
pub(crate) fn plan(
    hooks: Option<&Hooks>,
    bundle: &Path,
    annotations: &std::collections::BTreeMap<String, String>,
) -> Result<Option<HookPlan>, PlanError> {
    let Some(hooks) = hooks else { return Ok(None) };
    let mut any = false;
    for kind in HookKind::ALL {
        for (index, hook) in kind.of(hooks).iter().enumerate() {
            check(&format!("hooks.{}[{index}]", kind.name()), hook)?;
            any = true;
        }
    }
    Ok(any.then(|| HookPlan { hooks: hooks.clone(), state: planned_state(bundle, annotations) }))
}

fn check(field: &str, hook: &Hook) -> Result<(), PlanError> {
    if !hook.path.is_absolute() {
        return Err(PlanError::invalid(format!("{field}.path"), format!("{:?} is not an absolute path", hook.path)));
    }
    if let Some(timeout) = hook.timeout_seconds.filter(|timeout| *timeout <= 0) {
        return Err(PlanError::invalid(format!("{field}.timeout"), format!("{timeout} is not greater than zero")));
    }
    match hook.env.iter().position(|variable| variable.starts_with('=') || !variable.contains('=')) {
        Some(index) => Err(PlanError::invalid(format!("{field}.env[{index}]"), "is not of the form NAME=value")),
        None => Ok(()),
    }
}

/// Executes a hook and waits for its end.
fn execute(hook: &Hook, state: &State, folder: Option<&Path>) -> Result<(), HookFailure> {
    let document = serde_json::to_vec(state).map_err(|error| HookFailure::Execute(error.into()))?;
    let mut input = memory_file("hull-hook-state").map_err(HookFailure::Execute)?;
    input.write_all(&document).and_then(|()| input.rewind()).map_err(HookFailure::Execute)?;
    let mut output = memory_file("hull-hook-output").map_err(HookFailure::Execute)?;
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear().envs(hook.env.iter().filter_map(|variable| variable.split_once('=')));
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let copies = output.try_clone().and_then(|out| Ok((out, output.try_clone()?))).map_err(HookFailure::Execute)?;
    command.stdin(Stdio::from(input)).stdout(Stdio::from(copies.0)).stderr(Stdio::from(copies.1));
    let child = command.spawn().map_err(HookFailure::Execute)?;
    let limit = hook.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let status = wait(child, limit)?;
    if status.success() {
        return Ok(());
    }
    Err(HookFailure::Ended(status, written(&mut output)))
}

/// The end of what a hook wrote.
fn written(output: &mut File) -> String {
    let length = output.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = Vec::new();
    let read = output
        .seek(SeekFrom::Start(length.saturating_sub(SHOWN_BYTES)))
        .and_then(|_| output.take(SHOWN_BYTES).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(error) => format!("(its output cannot be read: {error})"),
    }
}

fn memory_file(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?))
}

/// Waits for the child, at most `limit`; then kills it.
fn wait(mut child: Child, limit: Option<Duration>) -> Result<ExitStatus, HookFailure> {
    let Some(limit) = limit else { return child.wait().map_err(HookFailure::Execute) };
    let failed = |errno: Errno| HookFailure::Execute(errno.into());
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(failed(Errno::SRCH))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
    let deadline = std::time::Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
            Ok(0) => break,
            Ok(_) => return child.wait().map_err(HookFailure::Execute),
        }
    }
    pidfd_send_signal(&pidfd, Signal::KILL).map_err(failed)?;
    child.wait().map_err(HookFailure::Execute)?;
    Err(HookFailure::TimedOut(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
            env: vec!["COLOUR=blue".to_owned()],
            timeout_seconds: None,
        }
    }

    fn planned(kind: HookKind, hooks: Vec<Hook>) -> HookPlan {
        let mut all = Hooks::default();
        match kind {
            HookKind::Poststop => all.poststop = hooks,
            _ => all.create_runtime = hooks,
        }
        let mut plan = plan(Some(&all), Path::new("/"), &Default::default()).unwrap().unwrap();
        plan.set_id("box");
        plan
    }

    #[test]
    fn a_hook_reads_the_state_and_has_its_environment_alone() {
        let script = r#"state=$(cat); case "$state" in
            *'"id":"box","status":"creating","pid":7,'*) ;; *) echo "$state"; exit 1;; esac
            test "$COLOUR" = blue && test -z "$HOME""#;
        planned(HookKind::CreateRuntime, vec![shell(script)]).run(HookKind::CreateRuntime, Some(7)).unwrap();
    }

    #[test]
    fn the_first_failure_ends_the_kind_and_shows_what_was_written() {
        let plan = planned(HookKind::CreateRuntime, vec![shell("echo no luck >&2; exit 3"), shell("exit 4")]);
        let error = plan.run(HookKind::CreateRuntime, None).unwrap_err();
        assert_eq!(error.to_string(), "hooks.createRuntime[0] /bin/sh: exit status: 3: no luck");
    }

    #[test]
    fn poststop_hooks_all_run() {
        let plan = planned(HookKind::Poststop, vec![shell("exit 3"), shell("true"), shell("exit 4")]);
        let failed: Vec<usize> = plan.run_each(HookKind::Poststop, None).iter().map(|error| error.index).collect();
        assert_eq!(failed, [0, 2]);
    }

    #[test]
    fn a_hook_is_killed_after_its_timeout() {
        let slow = Hook { timeout_seconds: Some(1), ..shell("exec sleep 1000") };
        let error = planned(HookKind::CreateRuntime, vec![slow]).run(HookKind::CreateRuntime, None).unwrap_err();
        assert!(matches!(error.failure, HookFailure::TimedOut(_)), "{error}");
    }

    #[test]
    fn hooks_that_make_no_sense_are_refused_by_field() {
        let refused = |hook: Hook| {
            let hooks = Hooks { poststop: vec![hook], ..Hooks::default() };
            plan(Some(&hooks), Path::new("/"), &Default::default()).unwrap_err().to_string()
        };
        let relative = refused(Hook { path: "bin/sh".into(), ..shell("") });
        assert_eq!(relative, "config.json: hooks.poststop[0].path: \"bin/sh\" is not an absolute path");
        let timeout = refused(Hook { timeout_seconds: Some(0), ..shell("") });
        assert_eq!(timeout, "config.json: hooks.poststop[0].timeout: 0 is not greater than zero");
        assert!(refused(Hook { env: vec!["x".to_owned()], ..shell("") }).contains("hooks.poststop[0].env[0]"));
    }
}
