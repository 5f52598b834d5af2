//! The short-lived processes that a supervisor starts: `hull-worker exec` and `hull-worker cleanup`.
//!
//! ```text
//! hull-worker cleanup ROOT STATE ID                the supervisor itself, after its container's end, lock still held
//! hull-worker exec    ROOT STATE ID FILE SESSION   descriptor 3: launch channel; FILE: an ExecSpec
//! ```
//!
//! The exec worker clones the process with CLONE_PARENT, so that it becomes the supervisor's child, and hands it over
//! on the channel as the start of a container does; a container of another runtime gets its process from that. It opens
//! no database.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hull_kernel::cgroups::Layout;
use hull_oci::runtime::{Linux, LinuxSeccomp, OCI_VERSION, Process, State, Status};
use hull_runtime::exec::{self, ExecOptions};
use hull_runtime::plan::Streams;
use hull_store::Roots;
use hull_supervisor::launch::{Launch, LaunchFailed, LaunchSender, LaunchStdio};
use hull_supervisor::record::LiveState;
use hull_sys::process::inherited_fd;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::lifecycle::external::{self, ExternalExec};
use crate::lifecycle::start::describe;

/// Number of the launch channel.
const LAUNCH_FD: RawFd = 3;

/// A process to be added to a running container, as `hull exec` leaves it for the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExecSpec {
    /// The process.
    pub process: Process,
    /// The filter it runs under.
    pub seccomp: Option<LinuxSeccomp>,
    /// Keep stdin open.
    pub interactive: bool,
    /// The container's cgroup.
    pub cgroup_path: String,
    /// The OCI runtime that made the container, when it was not the built-in one: it adds the process.
    pub runtime: Option<PathBuf>,
}

/// The process, whoever made it.
struct Added {
    pid: i32,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
}

/// Runs a worker; `args` is what follows argv\[0\].
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let words: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    match words.as_slice() {
        ["cleanup", root, state, id] => cleanup(Roots::new(root, state), id),
        ["exec", _, state, id, file, session] => match session.parse() {
            Ok(session) => add_process(&Path::new(state).join(id), Path::new(file), session),
            Err(_) => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("hull-worker: is started by Hull's supervisors only");
    ExitCode::from(125)
}

fn cleanup(roots: Roots, id: &str) -> ExitCode {
    let Some(id) = ContainerId::parse(id) else { return usage() };
    match Engine::open(roots).and_then(|engine| engine.finish(&id)) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads a supervisor's stderr; the next command sweeps and says what it cannot remove.
        Err(_) => ExitCode::from(125),
    }
}

fn add_process(state: &Path, file: &Path, session: u32) -> ExitCode {
    let Some(channel) = inherited_fd(LAUNCH_FD).map(LaunchSender::new) else { return usage() };
    let failed = match launch(state, file, session) {
        Ok(launch) => match channel.launched(&launch) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(_) => {
                hull_runtime::create::end(launch.pidfd.as_fd());
                return ExitCode::from(125);
            }
        },
        Err(failed) => failed,
    };
    let code = u8::try_from(failed.exit_code).unwrap_or(125);
    // A supervisor that is gone has no client to tell.
    let _ = channel.failed(&failed);
    ExitCode::from(code)
}

/// Reads the request and makes the process run.
fn launch(state: &Path, file: &Path, session: u32) -> Result<Launch, LaunchFailed> {
    let refused = |message: String| LaunchFailed { exit_code: 125, message };
    let spec = read_spec(file).map_err(|error| refused(chain(&error)))?;
    let pid = match LiveState::read(state) {
        Ok(Some(live)) if live.is_running() => live.pid,
        Ok(_) => return Err(refused("the container is not running".to_owned())),
        Err(error) => return Err(refused(chain(&error))),
    };
    let ends = streams(&spec).map_err(|error| refused(format!("making the streams: {error}")))?;
    let (ours, theirs) = match ends {
        Some((ours, theirs)) => (Some(ours), Some(theirs)),
        None => (None, None),
    };
    let added = match &spec.runtime {
        None => add(&spec, pid, state, theirs),
        Some(program) => add_by_runtime(&spec, program, state, session, theirs),
    }
    .map_err(|(exit_code, message)| LaunchFailed { exit_code, message })?;
    let stdio = match (ours, added.terminal) {
        (Some(ours), _) => ours,
        (None, Some(master)) => LaunchStdio::Terminal { master, stdin: spec.interactive },
        (None, None) => return Err(refused("the process sent no terminal".to_owned())),
    };
    Ok(Launch {
        session,
        pid: added.pid,
        pidfd: added.pidfd,
        stdio,
        stdin_once: spec.interactive,
        auto_remove: false,
        log: None,
        oom_events: None,
        names: None,
    })
}

/// Adds the process; a failure comes as exit code and text.
fn add(spec: &ExecSpec, pid: i32, folder: &Path, streams: Option<Streams>) -> Result<Added, (i32, String)> {
    let cgroup = Layout::detect().and_then(|layout| layout.cgroup(&spec.cgroup_path));
    let cgroup = cgroup.map_err(|error| (125, chain(&error)))?;
    let options = ExecOptions {
        pid,
        cgroup: Some(cgroup),
        streams,
        sibling: true,
        kept_fds: 0,
        state: container_state(folder, pid),
        filters: None,
    };
    let linux = Linux { seccomp: spec.seccomp.clone(), ..Linux::default() };
    let plan = exec::plan(&spec.process, &linux, options).map_err(|error| (125, chain(&error)))?;
    let started = exec::create(plan).and_then(|created| created.start()).map_err(|error| describe(&error))?;
    Ok(Added { pid: started.pid, pidfd: started.pidfd, terminal: started.terminal })
}

/// Has the process added by the runtime that knows where the container is, which may be a virtual machine.
fn add_by_runtime(
    spec: &ExecSpec,
    program: &Path,
    folder: &Path,
    session: u32,
    streams: Option<Streams>,
) -> Result<Added, (i32, String)> {
    let request = ExternalExec { program, folder, session, process: &spec.process, streams };
    let command = spec.process.args.first().map_or("", String::as_str);
    let process = external::exec(&request).map_err(|error| external::describe(&error, command))?;
    Ok(Added { pid: process.pid, pidfd: process.pidfd, terminal: process.terminal })
}

/// What the agent of the container's filter is told; `folder` is that of this run.
fn container_state(folder: &Path, pid: i32) -> State {
    State {
        oci_version: OCI_VERSION.to_owned(),
        id: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        status: Status::Running,
        pid: Some(pid),
        bundle: folder.to_path_buf(),
        annotations: Default::default(),
    }
}

/// Reads the request and removes its file.
fn read_spec(path: &Path) -> Result<ExecSpec, EngineError> {
    let failed = |action| move |source| EngineError::Path { action, path: path.to_path_buf(), source };
    let text = fs::read(path).map_err(failed("read"))?;
    fs::remove_file(path).map_err(failed("remove"))?;
    serde_json::from_slice(&text).map_err(|error| failed("read")(error.into()))
}

/// The supervisor's and the process' ends of three pipes; `None` with a terminal.
fn streams(spec: &ExecSpec) -> std::io::Result<Option<(LaunchStdio, Streams)>> {
    if spec.process.terminal {
        return Ok(None);
    }
    let (stdout, process_stdout) = std::io::pipe()?;
    let (stderr, process_stderr) = std::io::pipe()?;
    let (stdin, process_stdin): (Option<OwnedFd>, OwnedFd) = if spec.interactive {
        let (read, write) = std::io::pipe()?;
        (Some(write.into()), read.into())
    } else {
        (None, fs::File::open("/dev/null")?.into())
    };
    let ours = LaunchStdio::Streams { stdin, stdout: stdout.into(), stderr: stderr.into() };
    let theirs = Streams { stdin: process_stdin, stdout: process_stdout.into(), stderr: process_stderr.into() };
    Ok(Some((ours, theirs)))
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// Where `hull exec` leaves a request for the worker.
pub(crate) fn exec_file(state: &Path, token: &str) -> PathBuf {
    state.join(format!("exec-{token}.json"))
}
