//! Containers of another OCI runtime (`--runtime PATH`: runc, crun, runsc, kata), spoken to over its command line.
//!
//! ```text
//! W  own mount namespace, root mounted at <state>/<id>/rootfs in it alone
//!    PATH --root <state>/<id>/runtime create --bundle <state>/<id> --pid-file .. ID     container's streams
//!    PATH --root ..                   start ID
//! end PATH --root ..                  delete --force ID                                  at clean-up
//! ```
//!
//! The runtime's create ends and leaves the container's process to its nearest subreaper, which is the supervisor, so
//! everything above is as for the built-in runtime. The bundle is the container's state folder.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hull_kernel::mounts::{self, MountError, Propagation};
use hull_oci::runtime::Spec;
use hull_runtime::plan::Streams;
use hull_sys::process as sys;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

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
    /// The container's streams.
    pub streams: Streams,
}

/// Another runtime did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// The terminal needs the built-in runtime.
    #[error("--tty is not supported together with --runtime")]
    Terminal,
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

/// A container's process that another runtime has started.
pub(crate) struct ExternalProcess {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// Starts the container. The calling process gets a mount namespace of its own.
///
/// # Errors
/// See [`ExternalError`]; what the runtime has made it has been told to delete.
pub(crate) fn run(plan: &ExternalPlan) -> Result<ExternalProcess, ExternalError> {
    mount_root(plan)?;
    let log = plan.folder.join("runtime.log");
    let pid_file = plan.folder.join("pid");
    let mut create = command(&plan.program, &plan.folder, Some(&log));
    create.args([OsStr::new("create"), OsStr::new("--bundle"), plan.folder.as_os_str()]);
    create.args([OsStr::new("--pid-file"), pid_file.as_os_str(), OsStr::new(&plan.id)]);
    create
        .stdin(stream(&plan.streams.stdin)?)
        .stdout(stream(&plan.streams.stdout)?)
        .stderr(stream(&plan.streams.stderr)?);
    check(plan, "create", &mut create, &log)?;
    let process = read_process(&pid_file).and_then(|process| {
        let mut start = command(&plan.program, &plan.folder, Some(&log));
        start.args(["start", &plan.id]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        check(plan, "start", &mut start, &log).map(|()| process)
    });
    if process.is_err() {
        // The failure of the start is what the user needs to hear.
        let _ = delete(&plan.program, &plan.folder, &plan.id);
    }
    process
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
    let output =
        command(program, folder, None).args(["delete", "--force", id]).stdin(Stdio::null()).output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ExternalError::Failed { program: program.to_path_buf(), command: "delete", text })
}

fn command(program: &Path, folder: &Path, log: Option<&Path>) -> Command {
    let mut command = Command::new(program);
    command.arg("--root").arg(folder.join(RUNTIME_FOLDER));
    if let Some(log) = log {
        command.arg("--log").arg(log);
    }
    command
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

/// Runs a subcommand; a failure is worded by the last line of the runtime's log.
fn check(plan: &ExternalPlan, name: &'static str, command: &mut Command, log: &Path) -> Result<(), ExternalError> {
    let status = command.status().map_err(|source| ExternalError::Execute { program: plan.program.clone(), source })?;
    if status.success() {
        return Ok(());
    }
    let logged = fs::read_to_string(log).unwrap_or_default();
    let text = logged.lines().last().map_or_else(|| status.to_string(), str::to_owned);
    Err(ExternalError::Failed { program: plan.program.clone(), command: name, text })
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
    Ok(ExternalProcess { pid: pid.as_raw_nonzero().get(), pidfd })
}

/// The spec as another runtime needs it: the root where it will find it.
pub(crate) fn adapt(mut spec: Spec, folder: &Path) -> Spec {
    if let Some(root) = &mut spec.root {
        root.path = folder.join(ROOTFS_FOLDER);
    }
    spec
}
