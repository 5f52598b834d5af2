//! Containers of the OCI runtime command line: create, start, state, kill and delete as separate commands.
//!
//! ```text
//! <root>/<id>/            made by create, removed by delete
//!   state.json            pid, its start time, bundle, cgroup; written once, when the process waits
//!   start.fifo            what the process waits on; removed by start, so its presence means "created"
//! ```
//!
//! The state is derived, never stored: a process with the recorded start time lives or does not, the FIFO is there or
//! not, the freezer says paused. Nothing supervises; the caller of create (or its reaper) waits for the process.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_kernel::cgroups::{Cgroup, CgroupError, Layout};
use hull_oci::runtime::{OCI_VERSION, Spec, State, Status};
use hull_sys::signals::send_to_pidfd;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::create::{CreateError, Created, create, end};
use crate::plan::{PlanError, PlanOptions, RootSource, Streams, plan};

const STATE_FILE: &str = "state.json";
const START_FIFO: &str = "start.fifo";
/// Version of state.json.
const STATE_VERSION: u32 = 1;

/// A command on a container that failed.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The id is not one.
    #[error("invalid container ID format: {0:?}")]
    BadId(String),
    /// The id is taken.
    #[error("container with given ID already exists")]
    Exists,
    /// There is none such.
    #[error("container does not exist")]
    Missing,
    /// start of what is not waiting.
    #[error("cannot start a container that has {0}")]
    NotCreated(&'static str),
    /// kill of what does not run.
    #[error("container not running")]
    NotRunning,
    /// delete of what runs.
    #[error("cannot delete container {id} that is not stopped: {status}")]
    NotStopped {
        /// The container.
        id: String,
        /// Its status.
        status: Status,
    },
    /// A file of Hull's or the caller's.
    #[error("{action} {path}")]
    File {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A JSON file that is not what it should be.
    #[error("{path} is not valid")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The spec cannot be used.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The container could not be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The container's cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

impl ContainerError {
    fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ContainerError {
        let path = path.to_path_buf();
        move |source| ContainerError::File { action, path, source }
    }
}

/// What state.json holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    version: u32,
    pid: i32,
    /// Field 22 of /proc/PID/stat, clock ticks since boot: tells the process from a later one with its id.
    start_time: u64,
    bundle: PathBuf,
    cgroup: Option<String>,
    annotations: std::collections::BTreeMap<String, String>,
}

/// The folder of one runtime's containers.
#[derive(Debug, Clone)]
pub struct Containers {
    root: PathBuf,
}

/// What `create` and `run` are told.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Folder with config.json.
    pub bundle: &'a Path,
    /// Standard streams for the process; absent with a terminal.
    pub streams: Option<Streams>,
    /// Wait for `start`; else execute at once.
    pub wait_for_start: bool,
}

/// A container just made.
#[derive(Debug)]
pub struct New {
    /// Process id.
    pub pid: i32,
    /// Process file descriptor.
    pub pidfd: OwnedFd,
    /// Master of its terminal.
    pub terminal: Option<OwnedFd>,
}

impl Containers {
    /// Containers below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Containers {
        Containers { root: root.into() }
    }

    fn folder(&self, id: &str) -> Result<PathBuf, ContainerError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
        if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.chars().all(plain) {
            return Err(ContainerError::BadId(id.to_owned()));
        }
        Ok(self.root.join(id))
    }

    /// Reads `config.json` of a bundle.
    ///
    /// # Errors
    /// The file that cannot be read or is not a spec.
    pub fn read_spec(bundle: &Path) -> Result<Spec, ContainerError> {
        let path = bundle.join("config.json");
        let text = fs::read(&path).map_err(ContainerError::file("open", &path))?;
        serde_json::from_slice(&text).map_err(|source| ContainerError::Json { path, source })
    }

    /// Makes a container.
    ///
    /// # Errors
    /// See [`ContainerError`]; nothing is left behind.
    pub fn create(&self, spec: &Spec, request: CreateRequest<'_>) -> Result<New, ContainerError> {
        let folder = self.folder(request.id)?;
        fs::create_dir_all(&self.root).map_err(ContainerError::file("make", &self.root))?;
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(ContainerError::Exists),
            other => other.map_err(ContainerError::file("make", &folder))?,
        }
        let result = self.create_in(&folder, spec, request);
        if result.is_err() {
            // The failure is what the caller needs; a folder that stays is seen and removed by delete --force.
            let _ = fs::remove_dir_all(&folder);
        }
        result
    }

    fn create_in(&self, folder: &Path, spec: &Spec, request: CreateRequest<'_>) -> Result<New, ContainerError> {
        let has_limits = spec.linux.as_ref().is_some_and(|linux| linux.resources.is_some());
        let options = PlanOptions {
            root: RootSource::Spec,
            bundle: request.bundle,
            streams: request.streams,
            init: false,
            cgroup_path: default_cgroup(spec, request.id, has_limits),
            sibling: false,
        };
        let mut plan = plan(spec, options)?;
        if request.wait_for_start {
            plan.start_fifo = Some(make_fifo(&folder.join(START_FIFO))?);
        }
        let cgroup = plan.cgroup.as_ref().map(|cgroup| cgroup.path.clone());
        let created = create(plan)?;
        let record = Record {
            version: STATE_VERSION,
            pid: created.pid,
            start_time: start_time(created.pid).unwrap_or_default(),
            bundle: fs::canonicalize(request.bundle).unwrap_or_else(|_| request.bundle.to_path_buf()),
            cgroup,
            annotations: spec.annotations.clone(),
        };
        if let Err(error) = write_record(folder, &record) {
            created.abandon();
            return Err(error);
        }
        finish_create(created, request.wait_for_start)
    }

    fn record(&self, id: &str) -> Result<Record, ContainerError> {
        let path = self.folder(id)?.join(STATE_FILE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ContainerError::Missing),
            other => other.map_err(ContainerError::file("read", &path))?,
        };
        serde_json::from_slice(&text).map_err(|source| ContainerError::Json { path, source })
    }

    /// What the specification calls the container's state.
    ///
    /// # Errors
    /// [`ContainerError::Missing`] and what cannot be read.
    pub fn state(&self, id: &str) -> Result<State, ContainerError> {
        let record = self.record(id)?;
        let status = self.status(id, &record)?;
        Ok(State {
            oci_version: OCI_VERSION.to_owned(),
            id: id.to_owned(),
            status,
            pid: (status != Status::Stopped).then_some(record.pid),
            bundle: record.bundle,
            annotations: record.annotations,
        })
    }

    fn status(&self, id: &str, record: &Record) -> Result<Status, ContainerError> {
        if start_time(record.pid) != Some(record.start_time) {
            return Ok(Status::Stopped);
        }
        if self.folder(id)?.join(START_FIFO).exists() {
            return Ok(Status::Created);
        }
        let frozen = match cgroup(record)? {
            Some(cgroup) => cgroup.is_frozen().unwrap_or(false),
            None => false,
        };
        Ok(if frozen { Status::Paused } else { Status::Running })
    }

    /// Lets a created container execute its program.
    ///
    /// # Errors
    /// [`ContainerError::NotCreated`] when it is not waiting.
    pub fn start(&self, id: &str) -> Result<(), ContainerError> {
        let record = self.record(id)?;
        match self.status(id, &record)? {
            Status::Created => {}
            Status::Stopped => return Err(ContainerError::NotCreated("stopped")),
            _ => return Err(ContainerError::NotCreated("already started")),
        }
        let path = self.folder(id)?.join(START_FIFO);
        // The waiting process holds the FIFO open, so this neither blocks nor goes unread while it lives.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fifo = match rustix::fs::open(&path, flags, Mode::empty()) {
            Err(Errno::NXIO | Errno::NOENT) => return Err(ContainerError::NotCreated("stopped")),
            other => other.map_err(|errno| ContainerError::file("open", &path)(errno.into()))?,
        };
        fs::remove_file(&path).map_err(ContainerError::file("remove", &path))?;
        rustix::io::write(&fifo, b"s").map_err(|errno| ContainerError::file("write", &path)(errno.into()))?;
        Ok(())
    }

    /// Sends a signal to the container's first process, or with `all` to every process of its cgroup.
    ///
    /// # Errors
    /// [`ContainerError::NotRunning`] when there is no process.
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<(), ContainerError> {
        let record = self.record(id)?;
        if all && let Some(cgroup) = cgroup(&record)? {
            for pid in cgroup.processes()? {
                send(pid, signal)?;
            }
            return Ok(());
        }
        if self.status(id, &record)? == Status::Stopped {
            return Err(ContainerError::NotRunning);
        }
        let pid = Pid::from_raw(record.pid).ok_or(ContainerError::NotRunning)?;
        send(pid, signal)
    }

    /// Removes a stopped container, or with `force` ends it first. With `force` a missing one is fine.
    ///
    /// # Errors
    /// [`ContainerError::NotStopped`] without `force`.
    pub fn delete(&self, id: &str, force: bool) -> Result<(), ContainerError> {
        let record = match self.record(id) {
            Err(ContainerError::Missing) if force => return self.remove_folder(id),
            other => other?,
        };
        match self.status(id, &record)? {
            Status::Stopped => {}
            status if !force && status != Status::Created => {
                return Err(ContainerError::NotStopped { id: id.to_owned(), status });
            }
            _ => {
                let pid = Pid::from_raw(record.pid).ok_or(ContainerError::NotRunning)?;
                if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
                    end(pidfd.as_fd());
                }
            }
        }
        if let Some(cgroup) = cgroup(&record)?
            && cgroup.exists()
        {
            cgroup.kill_all()?;
            cgroup.remove_with_parent()?;
        }
        self.remove_folder(id)
    }

    fn remove_folder(&self, id: &str) -> Result<(), ContainerError> {
        let folder = self.folder(id)?;
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(ContainerError::file("remove", &folder)),
        }
    }

    /// Ids of all containers, sorted.
    ///
    /// # Errors
    /// The folder that cannot be read.
    pub fn ids(&self) -> Result<Vec<String>, ContainerError> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(ContainerError::file("read", &self.root))?,
        };
        let mut ids: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        ids.sort();
        Ok(ids)
    }
}

fn finish_create(created: Created, waits: bool) -> Result<New, ContainerError> {
    if waits {
        let Created { pid, pidfd, terminal, .. } = created;
        return Ok(New { pid, pidfd, terminal });
    }
    let started = created.start()?;
    Ok(New { pid: started.pid, pidfd: started.pidfd, terminal: started.terminal })
}

/// `/<id>` for a container whose spec has limits and no path, as runc chooses.
fn default_cgroup(spec: &Spec, id: &str, has_limits: bool) -> Option<String> {
    let named = spec.linux.as_ref().is_some_and(|linux| linux.cgroups_path.as_deref().is_some_and(|p| !p.is_empty()));
    (has_limits && !named).then(|| format!("/{id}"))
}

fn make_fifo(path: &Path) -> Result<OwnedFd, ContainerError> {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .map_err(|errno| ContainerError::file("make", path)(errno.into()))?;
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| ContainerError::file("open", path)(errno.into()))
}

fn write_record(folder: &Path, record: &Record) -> Result<(), ContainerError> {
    let path = folder.join(STATE_FILE);
    let text = serde_json::to_vec(record).map_err(|source| ContainerError::Json { path: path.clone(), source })?;
    let temporary = folder.join("state.json.new");
    fs::write(&temporary, text).map_err(ContainerError::file("write", &temporary))?;
    fs::rename(&temporary, &path).map_err(ContainerError::file("rename", &path))
}

fn cgroup(record: &Record) -> Result<Option<Cgroup>, ContainerError> {
    match &record.cgroup {
        Some(path) => Ok(Some(Layout::detect()?.cgroup(path)?)),
        None => Ok(None),
    }
}

fn send(pid: Pid, signal: i32) -> Result<(), ContainerError> {
    let gone = |error: io::Error| match Errno::from_io_error(&error) {
        Some(Errno::SRCH) => ContainerError::NotRunning,
        _ => ContainerError::file("signal", Path::new(&format!("/proc/{}", pid.as_raw_nonzero())))(error),
    };
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| gone(errno.into()))?;
    send_to_pidfd(pidfd.as_fd(), signal).map_err(gone)
}

/// Start time of a process that is not a zombie, in clock ticks since boot (proc_pid_stat(5), field 22).
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_paths_are_refused() {
        let containers = Containers::new("/nowhere");
        for id in ["", ".", "..", "a/b", "a b", "\u{e9}"] {
            assert!(matches!(containers.state(id), Err(ContainerError::BadId(_))), "{id:?}");
        }
        assert!(matches!(containers.state("abc"), Err(ContainerError::Missing)));
    }

    #[test]
    fn this_process_has_a_start_time_and_no_process_has_none() {
        assert!(start_time(std::process::id() as i32).is_some());
        assert_eq!(start_time(0), None);
    }
}
