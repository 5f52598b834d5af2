//! Containers of another OCI runtime (`--runtime PATH`: runc, crun, runsc, kata), spoken to over its command line.
//!
//! ```text
//! W  own mount namespace, root mounted at <state>/<id>/rootfs in it alone
//!    PATH --root <state>/<id>/runtime create --bundle <state>/<id> --pid-file .. ID     container's streams
//!    PATH --root ..                   start ID
//! E  PATH --root ..                   exec --detach --process .. --pid-file .. ID        of each `hull exec`
//! end PATH --root ..                  delete --force ID                                  at clean-up
//! ```
//!
//! With a terminal, create and exec get a `--console-socket` (see `console`) in the place of streams. The runtime's
//! create ends and leaves the container's process to its nearest subreaper, which is the supervisor, so everything above
//! is as for the built-in runtime. The bundle is the container's state folder.

mod console;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hull_kernel::mounts::{self, MountError, Propagation};
use hull_network::dns::registration::Held;
use hull_oci::runtime::{LinuxResources, Process, Spec};
use hull_runtime::plan::Streams;
use hull_sys::process as sys;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open, set_child_subreaper};

use crate::lifecycle::wiring::{Wiring, WiringError};
use crate::worker::chain;
use console::ConsoleSocket;

/// Folder of the runtime's own state, below the container's.
const RUNTIME_FOLDER: &str = "runtime";
/// Where the root is mounted, below the container's state folder, in the worker's mount namespace alone.
pub(crate) const ROOTFS_FOLDER: &str = "rootfs";

/// A start by another runtime, with everything opened.
pub(crate) struct ExternalPlan {
    /// The runtime's program.
    pub program: PathBuf,
    /// The container's id.
    pub id: String,
    /// `<state>/<id>`, which is the bundle.
    pub folder: PathBuf,
    /// The root, detached.
    pub root: OwnedFd,
    /// The container's streams; absent with a terminal.
    pub streams: Option<Streams>,
    /// What it runs, which failures are told apart by.
    pub command: String,
}

/// Another runtime did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// It made no terminal.
    #[error("{program} has sent no terminal")]
    NoTerminal {
        /// The runtime.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The root could not be mounted for it.
    #[error("mounting the root file system for {program}")]
    Root {
        /// The runtime.
        program: PathBuf,
        /// Why.
        #[source]
        source: MountError,
    },
    /// It could not be executed.
    #[error("cannot execute the runtime {program}")]
    Execute {
        /// The runtime.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its container could not be put into a network.
    #[error(transparent)]
    Network(#[from] WiringError),
    /// It failed.
    #[error("{program} {command} failed: {text}")]
    Failed {
        /// The runtime.
        program: PathBuf,
        /// Its subcommand.
        command: &'static str,
        /// What it printed, or its status.
        text: String,
    },
    /// A file of the exchange.
    #[error("cannot {action} {path}")]
    File {
        /// Make, read.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A process that another runtime has started.
#[derive(Debug)]
pub(crate) struct ExternalProcess {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub terminal: Option<OwnedFd>,
}

/// A process to be added to a container of another runtime.
pub(crate) struct ExternalExec<'a> {
    /// The runtime's program.
    pub program: &'a Path,
    /// `<state>/<id>`.
    pub folder: &'a Path,
    /// What no other exec of this container has, for the names of files.
    pub session: u32,
    /// The process.
    pub process: &'a Process,
    /// Its streams; absent with a terminal.
    pub streams: Option<Streams>,
}

/// Starts the container. The calling process gets a mount namespace of its own.
///
/// # Errors
/// See [`ExternalError`]; what the runtime has made it has been told to delete.
pub(crate) fn run(plan: &ExternalPlan, wiring: &Wiring) -> Result<(ExternalProcess, Option<Held>), ExternalError> {
    mount_root(plan)?;
    let runtime = Runtime { program: &plan.program, folder: &plan.folder };
    let pid_file = plan.folder.join("pid");
    let mut create = runtime.command();
    create.args([OsStr::new("create"), OsStr::new("--bundle"), plan.folder.as_os_str()]);
    create.args([OsStr::new("--pid-file"), pid_file.as_os_str()]);
    let console = runtime.connect(&mut create, plan.streams.as_ref(), "console.sock".to_owned())?;
    runtime.check("create", create.arg(&plan.id))?;
    let process = runtime.process(&pid_file, console.as_ref()).and_then(|process| {
        let names = wiring.wire(process.pid)?;
        let mut start = runtime.command();
        start.args(["start", &plan.id]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        runtime.check("start", &mut start).map(|()| (process, names))
    });
    if process.is_err() {
        // The failure of the start is what the user needs to hear.
        let _ = delete(&plan.program, &plan.folder, &plan.id);
    }
    process
}

/// Adds a process to the container. The calling process becomes the reaper of whatever the runtime leaves, so that the
/// process cannot be gone before it is looked at; its end leaves all that to the supervisor.
///
/// # Errors
/// See [`ExternalError`]; the container is as it was.
pub(crate) fn exec(request: &ExternalExec<'_>) -> Result<ExternalProcess, ExternalError> {
    let runtime = Runtime { program: request.program, folder: request.folder };
    let file = |name: &str| request.folder.join(format!("exec-{}.{name}", request.session));
    let (process_file, pid_file) = (file("process"), file("pid"));
    let failed = |source| ExternalError::File { action: "write", path: process_file.clone(), source };
    let text = serde_json::to_vec(request.process).map_err(|error| failed(error.into()))?;
    fs::write(&process_file, text).map_err(failed)?;
    let added = set_child_subreaper(Some(Pid::INIT)).map_err(|errno| failed(errno.into())).and_then(|()| {
        let mut exec = runtime.command();
        exec.args([OsStr::new("exec"), OsStr::new("--detach"), OsStr::new("--process"), process_file.as_os_str()]);
        exec.args([OsStr::new("--pid-file"), pid_file.as_os_str()]);
        let console = runtime.connect(&mut exec, request.streams.as_ref(), format!("exec-{}.sock", request.session))?;
        runtime.check("exec", exec.arg(request.folder.file_name().unwrap_or_default()))?;
        runtime.process(&pid_file, console.as_ref())
    });
    for path in [process_file, pid_file] {
        // The folder goes with the container; the pid file may never have been written.
        let _ = fs::remove_file(path);
    }
    added
}

/// Exit code and text of a failure: 127 and 126 when the runtime says of the command what a shell says with these codes.
/// The words are those that docker looks for (daemon/errors.go, translateContainerdStartErr).
pub(crate) fn describe(error: &ExternalError, command: &str) -> (i32, String) {
    let text = chain(error);
    let words = text.to_lowercase();
    let says = |words_of: &[&str]| words_of.iter().any(|found| words.contains(found));
    let code = match error {
        ExternalError::Failed { .. } if !words.contains(&command.to_lowercase()) => 125,
        ExternalError::Failed { .. } if says(&["executable file not found", "no such file or directory"]) => 127,
        ExternalError::Failed { .. } if says(&["permission denied", "is a directory"]) => 126,
        _ => 125,
    };
    (code, text)
}

/// Whether another runtime has state of its own in a container's state folder.
pub(crate) fn was_used(folder: &Path) -> bool {
    folder.join(RUNTIME_FOLDER).exists()
}

/// Tells the runtime to delete what it knows of a container.
///
/// # Errors
/// [`ExternalError::Execute`] and [`ExternalError::Failed`].
pub(crate) fn delete(program: &Path, folder: &Path, id: &str) -> Result<(), ExternalError> {
    let failed = |source| ExternalError::Execute { program: program.to_path_buf(), source };
    let mut command = Command::new(program);
    command.arg("--root").arg(folder.join(RUNTIME_FOLDER)).args(["delete", "--force", id]);
    let output = command.stdin(Stdio::null()).output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ExternalError::Failed { program: program.to_path_buf(), command: "delete", text })
}

/// Has the runtime change the limits of a running container.
///
/// # Errors
/// See [`ExternalError`].
pub(crate) fn update(program: &Path, folder: &Path, id: &str, resources: &LinuxResources) -> Result<(), ExternalError> {
    let runtime = Runtime { program, folder };
    let path = folder.join("resources.json");
    let failed = |source| ExternalError::File { action: "write", path: path.clone(), source };
    let text = serde_json::to_vec(resources).map_err(|error| failed(error.into()))?;
    fs::write(&path, text).map_err(failed)?;
    let mut update = runtime.command();
    update.args([OsStr::new("update"), OsStr::new("--resources"), path.as_os_str(), OsStr::new(id)]);
    update.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let updated = runtime.check("update", &mut update);
    // The folder goes with the container.
    let _ = fs::remove_file(path);
    updated
}

/// A runtime's program and the container's folder, which it is told of in every command.
struct Runtime<'a> {
    program: &'a Path,
    folder: &'a Path,
}

impl Runtime<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.arg("--root").arg(self.folder.join(RUNTIME_FOLDER));
        command.arg("--log").arg(self.log()).args(["--log-format", "json"]);
        command
    }

    fn log(&self) -> PathBuf {
        self.folder.join("runtime.log")
    }

    /// Gives the command the container's streams, or a socket for its terminal.
    fn connect(
        &self,
        command: &mut Command,
        streams: Option<&Streams>,
        socket: String,
    ) -> Result<Option<ConsoleSocket>, ExternalError> {
        if let Some(streams) = streams {
            command.stdin(stream(&streams.stdin)?).stdout(stream(&streams.stdout)?).stderr(stream(&streams.stderr)?);
            return Ok(None);
        }
        let path = self.folder.join(&socket);
        let console = ConsoleSocket::bind(self.folder, socket);
        let console = console.map_err(|source| ExternalError::File { action: "make", path, source })?;
        command.arg("--console-socket").arg(console.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Some(console))
    }

    /// Runs a subcommand; a failure is worded by the last message of the runtime's log.
    fn check(&self, name: &'static str, command: &mut Command) -> Result<(), ExternalError> {
        let program = || self.program.to_path_buf();
        let before = fs::metadata(self.log()).map_or(0, |log| log.len());
        let status = command.status().map_err(|source| ExternalError::Execute { program: program(), source })?;
        if status.success() {
            return Ok(());
        }
        let logged = fs::read(self.log()).unwrap_or_default();
        let logged = String::from_utf8_lossy(logged.get(before as usize..).unwrap_or_default()).into_owned();
        let text = logged.lines().last().map_or_else(|| status.to_string(), message);
        Err(ExternalError::Failed { program: program(), command: name, text })
    }

    /// The process that the runtime has just made.
    fn process(&self, pid_file: &Path, console: Option<&ConsoleSocket>) -> Result<ExternalProcess, ExternalError> {
        let terminal = console.map(ConsoleSocket::receive).transpose();
        let terminal =
            terminal.map_err(|source| ExternalError::NoTerminal { program: self.program.to_path_buf(), source });
        let process = read_process(pid_file)?;
        match terminal {
            Ok(terminal) => Ok(ExternalProcess { terminal, ..process }),
            Err(error) => {
                hull_runtime::create::end(process.pidfd.as_fd());
                Err(error)
            }
        }
    }
}

/// The message of a line of a runtime's log, or the line.
fn message(line: &str) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_str(line).ok();
    let message = parsed.as_ref().and_then(|entry| entry.get("msg")?.as_str());
    message.unwrap_or(line).to_owned()
}

fn mount_root(plan: &ExternalPlan) -> Result<(), ExternalError> {
    let failed = |source| ExternalError::Root { program: plan.program.clone(), source };
    let errno = |operation: &'static str| {
        move |error: io::Error| {
            let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::INVAL);
            MountError::new(operation, ROOTFS_FOLDER, errno)
        }
    };
    sys::unshare(sys::CLONE_NEWNS).map_err(errno("unshare")).map_err(failed)?;
    mounts::set_propagation(c"/", true, Propagation::Slave).map_err(failed)?;
    let place = plan.folder.join(ROOTFS_FOLDER);
    fs::create_dir_all(&place).map_err(|source| ExternalError::File { action: "make", path: place.clone(), source })?;
    let target = rustix::fs::open(&place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed(MountError::new("open", ROOTFS_FOLDER, errno)))?;
    mounts::attach(plan.root.as_fd(), target.as_fd(), ROOTFS_FOLDER).map_err(failed)
}

fn stream(stream: &OwnedFd) -> Result<Stdio, ExternalError> {
    stream.try_clone().map(Stdio::from).map_err(|source| ExternalError::File {
        action: "duplicate",
        path: PathBuf::from("a stream"),
        source,
    })
}

fn read_process(pid_file: &Path) -> Result<ExternalProcess, ExternalError> {
    let failed = |source| ExternalError::File { action: "read", path: pid_file.to_path_buf(), source };
    let text = fs::read_to_string(pid_file).map_err(failed)?;
    let pid = text
        .trim()
        .parse()
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| failed(io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is no process id"))))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| failed(errno.into()))?;
    Ok(ExternalProcess { pid: pid.as_raw_nonzero().get(), pidfd, terminal: None })
}

/// The spec as another runtime needs it: the root where it will find it.
pub(crate) fn adapt(mut spec: Spec, folder: &Path) -> Spec {
    if let Some(root) = &mut spec.root {
        root.path = folder.join(ROOTFS_FOLDER);
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runtimes_say_of_a_command_becomes_the_code_of_a_shell() {
        let code = |text: &str| {
            let failed = ExternalError::Failed { program: "/r".into(), command: "exec", text: message(text) };
            describe(&failed, "nope").0
        };
        let runc = r#"{"level":"error","msg":"exec failed: exec: \"nope\": executable file not found in $PATH"}"#;
        assert_eq!(code(runc), 127);
        assert_eq!(code("executable file `nope` not found in $PATH: No such file or directory"), 127);
        assert_eq!(code("exec: \"nope\": permission denied"), 126);
        assert_eq!(code("mounting /proc: permission denied"), 125);
        assert_eq!(message(runc), "exec failed: exec: \"nope\": executable file not found in $PATH");
    }
}
