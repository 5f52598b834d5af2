//! From created to running: the processes of a start.
//!
//! ```text
//! A  the caller            plans: spec, root mount, mount sources, streams, lock, socket - all opened, nothing joined
//! |-- X --exec--> S        the supervisor: lock (4), listening socket (5), launch channel (3), first client (6)
//!     |-- W                still has A's plan in memory; makes the cgroup, clones the container's process with
//!     |                    CLONE_PARENT, executes it, hands it to S, reports to A, ends
//!     |-- init             the container's first process: S is its parent
//! ```
//!
//! The lock is taken before the fork and travels to S, so at no moment does a container that is being started look
//! abandoned. A planning failure is A's own error; what fails in W comes back over a pipe with its exit code. If A dies
//! the start goes on to its end; if W dies the container's process sees its socket close and ends, and S sweeps.

use std::fs::{self, File};
use std::io::{PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_kernel::cgroups::{Cgroup, Layout};
use hull_network::dns::registration::Held;
use hull_oci::runtime::{ConsoleSize, LinuxNamespace, LinuxNamespaceType, Spec};
use hull_runtime::create::CreateError;
use hull_runtime::plan::{CgroupDriver, InitPlan, PlanOptions, RootSource, Streams};
use hull_supervisor::client::Client;
use hull_supervisor::launch::{Launch, LaunchFailed, LaunchSender, LaunchStdio};
use hull_supervisor::log::LogOptions;
use hull_supervisor::record::{ExitRecord, LiveState};
use hull_supervisor::start::{self, Handover, StartError, SupervisorArgs};
use hull_sys::process::{self as sys, Cloned};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, setsid, waitpid};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::lifecycle::external::{self, ExternalPlan};
use crate::lifecycle::prepare::StartPlan;
use crate::lifecycle::wiring::Wiring;
use crate::worker::chain;

/// Name of the spec of the present start, in the state folder.
pub const CONFIG_FILE: &str = "config.json";

/// What W tells A.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    Running,
    Failed { exit_code: i32, message: String },
}

/// A client that is there from the beginning.
#[derive(Clone, Copy)]
struct Attached {
    /// Rows and columns of its terminal.
    window: Option<(u16, u16)>,
}

/// What A has opened before it forks.
struct Prepared {
    id: ContainerId,
    way: Way,
    lock: OwnedFd,
    listener: OwnedFd,
    ends: SupervisorEnds,
    log: LogOptions,
    stdin_once: bool,
    auto_remove: bool,
    wiring: Wiring,
}

/// Who makes the container's process.
enum Way {
    /// This program.
    BuiltIn(Box<InitPlan>),
    /// Another OCI runtime.
    External(ExternalPlan),
}

/// A process whose program runs, whoever made it.
struct Running {
    pid: i32,
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
    oom_events: Option<OwnedFd>,
    names: Option<Held>,
}

/// The supervisor's ends of the container's streams; a terminal's comes later, from the container's devpts.
enum SupervisorEnds {
    Terminal { stdin: bool },
    Streams { stdin: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd },
}

impl Engine {
    /// Starts a created or ended container and returns when its program runs.
    ///
    /// # Errors
    /// Why it cannot be started; nothing of the start is left then.
    pub fn start(&self, name: &str) -> Result<(), EngineError> {
        let id = self.resolve(name)?;
        self.launch(&id, None).map(drop)
    }

    /// Starts a container and returns a client that has been attached since before its first byte. Its terminal begins
    /// with `window`, rows and columns.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn start_attached(&self, name: &str, window: Option<(u16, u16)>) -> Result<Client, EngineError> {
        let id = self.resolve(name)?;
        self.launch(&id, Some(Attached { window }))?.ok_or(EngineError::SupervisorLost { id })
    }

    fn launch(&self, id: &ContainerId, attached: Option<Attached>) -> Result<Option<Client>, EngineError> {
        let state = self.roots().runtime_state(id.as_str());
        let lock = take_lock(&state, id)?;
        let held = lock.try_clone().map_err(EngineError::path("lock", &state))?;
        let prepared = self.prepare(id, lock, attached).inspect_err(|_| {
            // The failure is what the user needs to hear; leftovers are swept by the next command.
            if let Err(error) = self.clean_up_run(id) {
                tracing::warn!(%error, "cleaning up after a failed start");
            }
        })?;
        drop(held);
        self.fork(prepared, attached.is_some())
    }

    /// Opens and decides everything.
    fn prepare(&self, id: &ContainerId, lock: OwnedFd, attached: Option<Attached>) -> Result<Prepared, EngineError> {
        let mut start = self.prepare_start(id)?;
        if let (Some(process), Some(Attached { window: Some((rows, columns)) })) = (&mut start.spec.process, attached) {
            process.console_size = Some(ConsoleSize { height: rows.into(), width: columns.into() });
        }
        let state = start.state_dir.clone();
        remove_stale_record(&self.roots().container(id.as_str()))?;
        let (ends, streams) = streams(&state, &start)?;
        let log = LogOptions {
            path: start.log.path.clone(),
            max_bytes: start.log.max_file_bytes,
            max_files: start.log.max_files,
        };
        let request = &start.record.request;
        // Docker's StdinOnce: what is started attached reads its client's stdin to the end; later clients come and go.
        let (stdin_once, auto_remove) =
            (request.interactive && !request.tty && attached.is_some(), request.auto_remove);
        let wiring = Wiring { network: start.network.clone(), names: start.names.clone() };
        let way = match start.runtime.clone() {
            Some(program) => Way::External(self.external(id, program, start, streams)?),
            None => Way::BuiltIn(Box::new(built_in(start, streams)?)),
        };
        let listener = start::listen(&state)?;
        Ok(Prepared { id: id.clone(), way, lock, listener, ends, log, stdin_once, auto_remove, wiring })
    }

    fn external(
        &self,
        id: &ContainerId,
        program: PathBuf,
        start: StartPlan,
        streams: Option<Streams>,
    ) -> Result<ExternalPlan, EngineError> {
        let process = start.spec.process.as_ref();
        let command = process.and_then(|process| process.args.first().cloned()).unwrap_or_default();
        write_config(&start.state_dir, &external::adapt(start.spec, &start.state_dir))?;
        Ok(ExternalPlan { program, id: id.to_string(), folder: start.state_dir, root: start.root, streams, command })
    }

    /// Makes X and W, waits for W's report.
    fn fork(&self, prepared: Prepared, attached: bool) -> Result<Option<Client>, EngineError> {
        let id = prepared.id.clone();
        let failed = |source: std::io::Error| EngineError::Process { id: id.clone(), source };
        let (channel_w, channel_s) = start::channel()?;
        let (mut report_a, report_w) = std::io::pipe().map_err(failed)?;
        let clients = if attached { Some(start::channel()?) } else { None };
        let supervisor = match sys::clone3(0, None).map_err(failed)? {
            Cloned::Parent { pid, .. } => pid,
            Cloned::Child => {
                drop(report_a);
                let first_client = clients.map(|(_, theirs)| theirs);
                become_supervisor(self, prepared, channel_w, channel_s, report_w, first_client)
            }
        };
        drop((prepared, channel_w, channel_s, report_w));
        let mut text = Vec::new();
        report_a.read_to_end(&mut text).map_err(failed)?;
        let client = clients.map(|(ours, _)| Client::from_fd(ours));
        let failure = match serde_json::from_slice(&text) {
            Ok(Report::Running) => return Ok(client),
            Ok(Report::Failed { exit_code, message }) => EngineError::Launch { exit_code, message },
            Err(_) => EngineError::SupervisorLost { id },
        };
        // The supervisor cleans up once nobody is attached, and ends.
        drop(client);
        reap(supervisor);
        Err(failure)
    }
}

/// Waits for a child of this process to end.
fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        while matches!(waitpid(Some(pid), WaitOptions::empty()), Err(Errno::INTR)) {}
    }
}

/// Waits for the supervisor that this process started to end, after it was told that all is cleaned up: it is this
/// process' child, and should not be left for others to reap. A process that started none returns at once.
pub fn reap_supervisors() {
    while matches!(rustix::process::wait(WaitOptions::empty()), Ok(_) | Err(Errno::INTR)) {}
}

/// X: makes W, then becomes S.
fn become_supervisor(
    engine: &Engine,
    prepared: Prepared,
    channel_w: OwnedFd,
    channel_s: OwnedFd,
    report: PipeWriter,
    client: Option<OwnedFd>,
) -> ! {
    // Out of the caller's process group, so that a terminal's ctrl-c reaches the client alone.
    let _ = setsid();
    match sys::clone3(0, None) {
        Ok(Cloned::Child) => {
            let _ = setsid();
            drop(channel_s);
            work(prepared, LaunchSender::new(channel_w), report)
        }
        Ok(Cloned::Parent { .. }) => {}
        Err(error) => {
            send_report(report, &Report::Failed { exit_code: 125, message: format!("clone3: {error}") });
            sys::exit_now(125)
        }
    }
    let args = SupervisorArgs {
        id: prepared.id.to_string(),
        root: engine.roots().root.clone(),
        state: engine.roots().state.clone(),
    };
    let Prepared { lock, listener, .. } = prepared;
    let _ = start::exec_supervisor(&args, Handover { launch: channel_s, lock, listener, client });
    sys::exit_now(125)
}

/// W: the container's process, handed to S.
fn work(prepared: Prepared, channel: LaunchSender, report: PipeWriter) -> ! {
    let (log, stdin_once, auto_remove) = (prepared.log, prepared.stdin_once, prepared.auto_remove);
    let ends = prepared.ends;
    let result = run_container(prepared.way, &prepared.wiring).and_then(|running| {
        let stdio = match (ends, running.terminal) {
            (SupervisorEnds::Streams { stdin, stdout, stderr }, _) => LaunchStdio::Streams { stdin, stdout, stderr },
            (SupervisorEnds::Terminal { stdin }, Some(master)) => LaunchStdio::Terminal { master, stdin },
            (SupervisorEnds::Terminal { .. }, None) => return Err((125, "the process sent no terminal".to_owned())),
        };
        let Running { pid, pidfd, oom_events, names, .. } = running;
        Ok(Launch { session: 0, pid, pidfd, stdio, stdin_once, auto_remove, log: Some(log), oom_events, names })
    });
    let code = match result {
        Ok(launch) => hand_over(channel, &launch, report),
        Err((exit_code, message)) => {
            let _ = channel.failed(&LaunchFailed { exit_code, message: message.clone() });
            send_report(report, &Report::Failed { exit_code, message });
            exit_code
        }
    };
    sys::exit_now(code)
}

/// Makes the process run; a failure comes as exit code and text.
fn run_container(way: Way, wiring: &Wiring) -> Result<Running, (i32, String)> {
    let oom_events =
        |cgroup: &Cgroup| cgroup.oom_events_path().and_then(|path| File::open(path).ok()).map(OwnedFd::from);
    match way {
        Way::BuiltIn(plan) => {
            let mut wired = Ok(None);
            let created = hull_runtime::create::create_and(*plan, |pid, _| wired = wiring.wire(pid));
            let created = created.map_err(|error| describe(&error))?;
            let names = match wired {
                Ok(names) => names,
                Err(error) => {
                    created.abandon();
                    return Err((125, chain(&error)));
                }
            };
            let started = created.start().map_err(|error| describe(&error))?;
            let oom_events = started.cgroup.as_ref().and_then(oom_events);
            Ok(Running { pid: started.pid, pidfd: started.pidfd, terminal: started.terminal, oom_events, names })
        }
        Way::External(plan) => {
            let (process, names) =
                external::run(&plan, wiring).map_err(|error| external::describe(&error, &plan.command))?;
            let cgroup = Pid::from_raw(process.pid).and_then(|pid| Layout::detect().ok()?.cgroup_of(pid).ok());
            let oom_events = cgroup.as_ref().and_then(oom_events);
            Ok(Running { pid: process.pid, pidfd: process.pidfd, terminal: process.terminal, oom_events, names })
        }
    }
}

fn hand_over(channel: LaunchSender, launch: &Launch, report: PipeWriter) -> i32 {
    match channel.launched(launch) {
        Ok(()) => {
            send_report(report, &Report::Running);
            0
        }
        Err(error) => {
            hull_runtime::create::end(launch.pidfd.as_fd());
            let message = format!("the supervisor is gone: {error}");
            send_report(report, &Report::Failed { exit_code: 125, message });
            125
        }
    }
}

/// Exit code and text of a failed create.
pub(crate) fn describe(error: &CreateError) -> (i32, String) {
    let code = match error {
        CreateError::Init(failure) => i32::from(failure.exit_code()),
        _ => 125,
    };
    (code, chain(error))
}

fn send_report(mut pipe: PipeWriter, report: &Report) {
    // A may be gone; the start stands on its own.
    if let Ok(text) = serde_json::to_vec(report) {
        let _ = pipe.write_all(&text);
    }
}

/// Takes the container's lock, waiting for a clean-up or another start in progress to end, and makes its state folder.
fn take_lock(state: &Path, id: &ContainerId) -> Result<OwnedFd, EngineError> {
    const ATTEMPTS: usize = 1000;
    let failed = |source| EngineError::Path { action: "make", path: state.to_path_buf(), source };
    for attempt in 0..ATTEMPTS {
        match rustix::fs::mkdir(state, Mode::from_raw_mode(0o711)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        match start::lock(state) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) if attempt + 1 < ATTEMPTS && is_changing(state) => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Ok(None) => break,
            Err(StartError::Lock { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(EngineError::AlreadyStarted { id: id.clone() })
}

/// Whether who holds the lock of this folder is cleaning up after an end, or still starting the container.
fn is_changing(state: &Path) -> bool {
    match LiveState::read(state) {
        Ok(Some(live)) => !live.is_running(),
        // Not written yet by a start, or removed already by a clean-up.
        Ok(None) => true,
        Err(_) => false,
    }
}

/// A container that starts again has no exit record until it ends again.
fn remove_stale_record(container: &Path) -> Result<(), EngineError> {
    let path = container.join(ExitRecord::FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EngineError::Path { action: "remove", path, source: error })
        }
        _ => Ok(()),
    }
}

fn write_config(state: &Path, spec: &Spec) -> Result<(), EngineError> {
    let path = state.join(CONFIG_FILE);
    let failed = |source| EngineError::Path { action: "write", path: path.clone(), source };
    let text = serde_json::to_vec(spec).map_err(|error| failed(error.into()))?;
    fs::write(&path, text).map_err(failed)
}

/// Both sides of the container's streams. stdout and stderr are FIFOs that outlive their reader; the container's side
/// is open for reading too, so that a supervisor's death is not a SIGPIPE for the container.
fn streams(state: &Path, start: &StartPlan) -> Result<(SupervisorEnds, Option<Streams>), EngineError> {
    let interactive = start.record.request.interactive;
    if start.record.request.tty {
        return Ok((SupervisorEnds::Terminal { stdin: interactive }, None));
    }
    let (stdout, container_stdout) = fifo(state.join("stdout"))?;
    let (stderr, container_stderr) = fifo(state.join("stderr"))?;
    let (stdin, container_stdin) = if interactive {
        let (read, write) = std::io::pipe().map_err(|source| EngineError::Path {
            action: "make",
            path: PathBuf::from("stdin"),
            source,
        })?;
        (Some(OwnedFd::from(write)), OwnedFd::from(read))
    } else {
        (None, open(Path::new("/dev/null"), OFlags::RDONLY)?)
    };
    let streams = Streams { stdin: container_stdin, stdout: container_stdout, stderr: container_stderr };
    Ok((SupervisorEnds::Streams { stdin, stdout, stderr }, Some(streams)))
}

/// A fresh FIFO, opened once for each side, so that the supervisor's non-blocking mode is not the container's.
fn fifo(path: PathBuf) -> Result<(OwnedFd, OwnedFd), EngineError> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(EngineError::Path { action: "remove", path, source });
        }
        _ => {}
    }
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).map_err(|errno| EngineError::Path {
        action: "make",
        path: path.clone(),
        source: errno.into(),
    })?;
    Ok((open(&path, OFlags::RDWR | OFlags::NONBLOCK)?, open(&path, OFlags::RDWR)?))
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, EngineError> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| EngineError::Path {
        action: "open",
        path: path.to_path_buf(),
        source: errno.into(),
    })
}

/// The plan of the built-in runtime; config.json is written for exec and for whoever wants to see it.
fn built_in(start: StartPlan, streams: Option<Streams>) -> Result<InitPlan, EngineError> {
    write_config(&start.state_dir, &start.spec)?;
    let linux = start.spec.linux.as_ref();
    let mut namespaces = linux.iter().flat_map(|linux| &linux.namespaces);
    let root = match namespaces.find(|namespace| namespace.type_ == LinuxNamespaceType::User) {
        None => RootSource::Detached(start.root),
        // Its layers are shifted through the container's user namespace, which does not exist yet.
        Some(LinuxNamespace { path: None, .. }) => {
            drop(start.root);
            let rootfs = start.rootfs;
            RootSource::InUserNamespace(Box::new(move |namespace| rootfs.mount_detached_in(namespace)))
        }
        Some(LinuxNamespace { path: Some(path), .. }) => {
            drop(start.root);
            RootSource::Detached(start.rootfs.mount_detached_in(open(path, OFlags::RDONLY)?)?)
        }
    };
    let options = PlanOptions {
        root,
        bundle: &start.state_dir,
        streams,
        init: start.init,
        cgroup_driver: CgroupDriver::Files,
        cgroup_path: Some(start.cgroup_path),
        sibling: true,
        filters: None,
    };
    let mut plan = hull_runtime::plan::plan(&start.spec, options)?;
    plan.set_id(&start.state_dir.file_name().unwrap_or_default().to_string_lossy());
    Ok(plan)
}
