//! Containers of the OCI runtime command line: create, start, state, kill and delete as separate commands.
//!
//! ```text
//! <root>/filters:v1/      compiled seccomp filters, see [`crate::filters`]
//! <root>/<id>/            made by create, removed by delete
//!   state.json            pid, its start time, bundle, cgroup; written once, when the process waits
//!   exec.json             the process and filter that later ones start from, and the cgroup; written before there is one
//!   start.sock            what the process waits at; removed by start, so its presence means "created"
//! ```
//!
//! The state is derived, never stored: a process with the recorded start time lives or does not, the socket is there or
//! not, the freezer says paused. Nothing supervises; the caller of create (or its reaper) waits for the process.

mod checkpoint;
mod criu;
mod door;
mod exec;
mod readiness;
mod record;
mod resources;
mod restore;
mod shared_root;

pub use checkpoint::CheckpointRequest;
pub use criu::{CriuError, CriuOptions};
pub use exec::ExecRequest;
pub use restore::RestoreRequest;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hull_kernel::cgroups::{Cgroup, CgroupError};
use hull_oci::runtime::{Hooks, LinuxNamespace, LinuxNamespaceType, Spec, State, Status};
use hull_sys::signals::send_to_pidfd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open};

use crate::create::{CreateError, Created, create_and, end, hear_start, leave_own_classes};
use crate::filters::Filters;
use crate::hooks::{HookError, HookKind};
use crate::listener::ListenerError;
use crate::plan::{CgroupDriver, CgroupPlan, InitPlan, PlanError, PlanOptions, RootSource, Streams, plan};
use record::{Record, RecordedUnit, STATE_VERSION, start_time};

/// The folder of compiled filters: no container can have this name.
const FILTERS: &str = "filters:v1";

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
    #[error("cannot start {0}")]
    NotCreated(&'static str),
    /// pause of what does not run.
    #[error("container not running")]
    CannotPause,
    /// exec in what has ended.
    #[error("cannot exec in a stopped container")]
    ExecStopped,
    /// exec in what is frozen.
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    ExecPaused,
    /// resume of what is not paused.
    #[error("container not paused")]
    NotPaused,
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
    /// checkpoint of what does not run.
    #[error("Container cannot be checkpointed in {0} state")]
    CannotCheckpoint(Status),
    /// criu failed, or has no way to do what was asked.
    #[error(transparent)]
    Criu(Box<CriuError>),
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
    /// A poststart hook; the container has been stopped.
    #[error(transparent)]
    Hook(#[from] HookError),
}

impl ContainerError {
    fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ContainerError {
        let path = path.to_path_buf();
        move |source| ContainerError::File { action, path, source }
    }
}

/// The folder of one runtime's containers.
#[derive(Debug, Clone)]
pub struct Containers {
    root: PathBuf,
    systemd_cgroup: bool,
    without_cgroup: Option<bool>,
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
    /// Join a new session keyring.
    pub new_keyring: bool,
    /// Enter the root with chroot(2), where the host's root is the initial ramfs.
    pub no_pivot: bool,
    /// How many descriptors of the caller, from 3 on, stay open in the program.
    pub kept_fds: i32,
    /// Variables that the program gets besides those of the spec, and that later processes do not.
    pub env: Vec<String>,
    /// Give the program a socket to tell that it is ready.
    pub tells_readiness: bool,
}

/// A container as lists show it.
#[derive(Debug, Clone)]
pub struct Description {
    /// What the specification calls its state.
    pub state: State,
    /// Its root directory on the host.
    pub rootfs: PathBuf,
    /// When it was created, nanoseconds since 1970.
    pub created_ns: u64,
    /// User id of whoever created it.
    pub owner: u32,
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
    /// What a program that runs already tells its readiness to, when that was asked for.
    pub readiness: Option<OwnedFd>,
}

impl Containers {
    /// Containers below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Containers {
        Containers { root: root.into(), systemd_cgroup: false, without_cgroup: None }
    }

    /// The same, with systemd to make the cgroups of new containers when `systemd_cgroup` says so. Each container keeps
    /// the way in which it was made.
    #[must_use]
    pub fn with_systemd(self, systemd_cgroup: bool) -> Containers {
        Containers { systemd_cgroup, ..self }
    }

    /// Whether a container that names no cgroup and no limits may do without one where none can be made; every user but
    /// root may when this is not said.
    pub fn without_cgroup(mut self, allowed: Option<bool>) -> Containers {
        self.without_cgroup = allowed;
        self
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
        let folder = self.make_folder(request.id)?;
        let driver = if self.systemd_cgroup { CgroupDriver::Systemd(request.id) } else { CgroupDriver::Files };
        let result = create_in(&folder, spec, request, driver, self.without_cgroup);
        if result.is_err() {
            // The failure is what the caller needs; a folder that stays is seen and removed by delete --force.
            let _ = shared_root::remove(&folder).map(|()| fs::remove_dir_all(&folder));
        }
        result
    }

    /// Makes the folder of a new container, by which its id is taken.
    fn make_folder(&self, id: &str) -> Result<PathBuf, ContainerError> {
        let folder = self.folder(id)?;
        let mut private = DirBuilder::new();
        private.mode(0o700);
        private.recursive(true).create(&self.root).map_err(ContainerError::file("make", &self.root))?;
        match private.recursive(false).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(ContainerError::Exists),
            other => other.map(|()| folder.clone()).map_err(ContainerError::file("make", &folder)),
        }
    }

    /// What the specification calls the container's state.
    ///
    /// # Errors
    /// [`ContainerError::Missing`] and what cannot be read.
    pub fn state(&self, id: &str) -> Result<State, ContainerError> {
        Ok(self.describe(id)?.state)
    }

    /// All that is known of a container.
    ///
    /// # Errors
    /// [`ContainerError::Missing`] and what cannot be read.
    pub fn describe(&self, id: &str) -> Result<Description, ContainerError> {
        let folder = self.folder(id)?;
        let record = Record::read(&folder)?;
        let status = status(&folder, &record)?;
        let owner = fs::metadata(&folder).map_err(ContainerError::file("read", &folder))?.uid();
        Ok(Description { state: record.state(id, status), rootfs: record.rootfs, created_ns: record.created_ns, owner })
    }

    /// Lets a created container execute its program; returns when it runs and the poststart hooks have ended.
    ///
    /// # Errors
    /// [`ContainerError::NotCreated`] when it is not waiting; what kept the program from running; a poststart hook that
    /// failed, after which the container has been stopped.
    pub fn start(&self, id: &str) -> Result<(), ContainerError> {
        let folder = self.folder(id)?;
        let record = Record::read(&folder)?;
        match status(&folder, &record)? {
            Status::Created => {}
            Status::Stopped => return Err(ContainerError::NotCreated("a container that has stopped")),
            Status::Paused => return Err(ContainerError::NotCreated("a container in the paused state")),
            _ => return Err(ContainerError::NotCreated("an already running container")),
        }
        let deliver = |number| {
            let state = record.state(id, Status::Created);
            let listener = exec::Template::listener(&folder, state)?;
            let listener = listener.ok_or(ListenerError::Unwanted(record.pid)).map_err(CreateError::from)?;
            let process = process(&record)?;
            listener.deliver(process.as_fd(), record.pid, number).map_err(CreateError::from)?;
            Ok::<(), ContainerError>(())
        };
        hear_start(&door::enter(&folder)?, deliver)?;
        run_poststart(id, &record)
    }

    /// The container's first process and a descriptor of it.
    ///
    /// # Errors
    /// [`ContainerError::NotRunning`] when it has ended.
    pub fn first_process(&self, id: &str) -> Result<(i32, OwnedFd), ContainerError> {
        let record = Record::read(&self.folder(id)?)?;
        Ok((record.pid, process(&record)?))
    }

    /// Process ids of all processes of a container, as its caller sees them.
    ///
    /// # Errors
    /// [`ContainerError::Missing`], and what cannot be read.
    pub fn processes(&self, id: &str) -> Result<Vec<i32>, ContainerError> {
        let record = Record::read(&self.folder(id)?)?;
        match record.cgroup()? {
            Some(cgroup) => Ok(cgroup.processes()?.iter().map(|pid| pid.as_raw_nonzero().get()).collect()),
            None => Ok(Vec::new()),
        }
    }

    /// Sends a signal to the container's first process, or with `all` to every process of its cgroup, of which there may
    /// be none. SIGKILL goes to all of them too when the container has no pid namespace of its own.
    ///
    /// # Errors
    /// [`ContainerError::NotRunning`] when there is no process.
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<(), ContainerError> {
        let record = Record::read(&self.folder(id)?)?;
        // The end of process 1 of a pid namespace is the end of all others in it; without one they must be found.
        let everything = all || (signal == Signal::KILL.as_raw() && !record.own_pid_namespace);
        if everything && let Some(cgroup) = record.cgroup()? {
            let members = if cgroup.exists() { cgroup.processes()? } else { Vec::new() };
            for pid in members {
                match send(pid, signal) {
                    // It ended while the others were signalled.
                    Err(ContainerError::NotRunning) => {}
                    other => other?,
                }
            }
            return if signal == Signal::KILL.as_raw() { thaw(&record) } else { Ok(()) };
        }
        let pidfd = process(&record)?;
        send_to_pidfd(pidfd.as_fd(), signal).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::SRCH) => ContainerError::NotRunning,
            _ => ContainerError::file("signal", Path::new(id))(error),
        })?;
        if signal == Signal::KILL.as_raw() { thaw(&record) } else { Ok(()) }
    }

    /// Freezes all processes of a running container.
    ///
    /// # Errors
    /// [`ContainerError::CannotPause`] when it does not run.
    pub fn pause(&self, id: &str) -> Result<(), ContainerError> {
        let folder = self.folder(id)?;
        let record = Record::read(&folder)?;
        match (status(&folder, &record)?, record.cgroup()?) {
            (Status::Running | Status::Created, Some(cgroup)) => Ok(cgroup.freeze()?),
            _ => Err(ContainerError::CannotPause),
        }
    }

    /// Lets the processes of a paused container go on.
    ///
    /// # Errors
    /// [`ContainerError::NotPaused`] when it is not paused.
    pub fn resume(&self, id: &str) -> Result<(), ContainerError> {
        let folder = self.folder(id)?;
        let record = Record::read(&folder)?;
        match (status(&folder, &record)?, record.cgroup()?) {
            (Status::Paused, Some(cgroup)) => Ok(cgroup.thaw()?),
            _ => Err(ContainerError::NotPaused),
        }
    }

    /// Removes a stopped container, or with `force` ends it first. With `force` a missing one is fine. Gives the
    /// poststop hooks that failed, which changes nothing.
    ///
    /// # Errors
    /// [`ContainerError::NotStopped`] without `force`.
    pub fn delete(&self, id: &str, force: bool) -> Result<Vec<HookError>, ContainerError> {
        let folder = self.folder(id)?;
        let record = match Record::read(&folder) {
            Err(ContainerError::Missing) if force => return self.remove_unfinished(id, &folder).map(|()| Vec::new()),
            other => other?,
        };
        match status(&folder, &record)? {
            Status::Stopped => {}
            status if !force && status != Status::Created => {
                return Err(ContainerError::NotStopped { id: id.to_owned(), status });
            }
            _ => stop(&record)?,
        }
        if let Some(cgroup) = record.cgroup()? {
            end_cgroup(&cgroup)?;
        }
        leave_own_classes(&record.classes);
        self.remove_folder(id)?;
        Ok(record.hooks(id).run_each(HookKind::Poststop, None))
    }

    /// Removes what is left of a create that was cut off: its process waits in the cgroup that was written down first.
    fn remove_unfinished(&self, id: &str, folder: &Path) -> Result<(), ContainerError> {
        if let Some(cgroup) = exec::unfinished_cgroup(folder)? {
            end_cgroup(&cgroup)?;
        }
        self.remove_folder(id)
    }

    fn remove_folder(&self, id: &str) -> Result<(), ContainerError> {
        let folder = self.folder(id)?;
        shared_root::remove(&folder)?;
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
        ids.retain(|id| id != FILTERS);
        ids.sort();
        Ok(ids)
    }
}

fn create_in(
    folder: &Path,
    spec: &Spec,
    request: CreateRequest<'_>,
    cgroup_driver: CgroupDriver<'_>,
    without_cgroup: Option<bool>,
) -> Result<New, ContainerError> {
    let bundle = std::path::absolute(request.bundle).map_err(ContainerError::file("find", request.bundle))?;
    let (id, wait_for_start) = (request.id, request.wait_for_start);
    let hears_readiness = request.tells_readiness && !wait_for_start;
    let mut plan = plan_in(folder, spec, &bundle, request, cgroup_driver)?;
    if let Some(cgroup) = &mut plan.cgroup {
        cgroup.optional = !names_cgroup(spec) && without_cgroup.unwrap_or_else(|| !geteuid().is_root());
    }
    let readiness = if hears_readiness { Some(readiness::listen(folder)?) } else { None };
    let mut record = record(spec, &bundle, plan.cgroup.as_ref());
    // First, because the cgroup is in it: what is left when this process is killed can be found by that.
    exec::Template::of(spec, &record).write(folder)?;
    shared_root::note(folder, &plan)?;
    let created = create_recorded(folder, plan, &mut record)?;
    if wait_for_start {
        let Created { pid, pidfd, terminal, .. } = created;
        return Ok(New { pid, pidfd, terminal, readiness });
    }
    let started = created.start()?;
    if let Err(error) = run_poststart(id, &record) {
        if let Some(cgroup) = &started.cgroup {
            // The hook is what the caller needs to hear of; a cgroup that stays is removed by the next of this id.
            let _ = cgroup.remove_with_parent();
        }
        leave_own_classes(&record.classes);
        return Err(error);
    }
    Ok(New { pid: started.pid, pidfd: started.pidfd, terminal: started.terminal, readiness })
}

/// The compiled filters that are kept beside the folders of containers.
fn filters_beside(folder: &Path) -> Filters {
    Filters::new(folder.with_file_name(FILTERS))
}

/// The plan of a container of the command line.
fn plan_in(
    folder: &Path,
    spec: &Spec,
    bundle: &Path,
    request: CreateRequest<'_>,
    cgroup_driver: CgroupDriver<'_>,
) -> Result<InitPlan, ContainerError> {
    let telling = if request.tells_readiness { Some(readiness::prepare(folder, spec)?) } else { None };
    let filters = filters_beside(folder);
    let options = PlanOptions {
        root: RootSource::Spec,
        bundle,
        streams: request.streams,
        init: false,
        cgroup_path: default_cgroup(spec, request.id),
        cgroup_driver,
        sibling: false,
        filters: Some(&filters),
    };
    let mut plan = plan(telling.as_ref().unwrap_or(spec), options)?;
    plan.new_keyring = request.new_keyring;
    if request.no_pivot {
        plan.root.enter_without_pivot()?;
    }
    plan.process.kept_fds = request.kept_fds;
    plan.process.env.extend(request.env);
    if request.tells_readiness {
        plan.process.env.push(readiness::variable());
    }
    plan.set_id(request.id);
    if request.wait_for_start {
        plan.start_socket = Some(door::open(folder)?);
    }
    Ok(plan)
}

/// Makes the process, and the record of it while it builds its file systems.
fn create_recorded(folder: &Path, plan: InitPlan, record: &mut Record) -> Result<Created, ContainerError> {
    let mut drafted = Ok(());
    let created = create_and(plan, |pid, cgroup| {
        record.pid = pid;
        record.start_time = start_time(pid).unwrap_or_default();
        if cgroup.is_none() {
            record.cgroup = None;
        }
        record.layout = cgroup.map(Cgroup::layout).filter(|layout| !layout.is_unified());
        record.keeps_cgroup_parent = cgroup.is_some_and(Cgroup::keeps_parent);
        drafted = record.draft(folder);
    })?;
    let in_unit = created.cgroup.as_ref().filter(|cgroup| cgroup.unit().is_some());
    let classes = created.own_classes();
    if in_unit.is_some() || !classes.is_empty() {
        if let Some(cgroup) = in_unit {
            // Where a user's units are, only that user's systemd knew.
            record.cgroup = Some(cgroup.path().to_owned());
        }
        record.classes = classes;
        drafted = drafted.and_then(|()| record.draft(folder));
    }
    match drafted.and_then(|()| Record::publish(folder)) {
        Ok(()) => Ok(created),
        Err(error) => {
            created.abandon();
            Err(error)
        }
    }
}

/// Ends what is left in a container's cgroup, and the cgroup. A unit that has failed stays known to systemd without one.
fn end_cgroup(cgroup: &Cgroup) -> Result<(), ContainerError> {
    // Most have no process left, and then nothing has to be looked for and killed.
    if cgroup.unit().is_none() && cgroup.remove_if_unused()? {
        return Ok(cgroup.remove_parent()?);
    }
    if cgroup.exists() {
        cgroup.kill_all()?;
    }
    Ok(cgroup.remove_with_parent()?)
}

/// What is recorded of a container whose process does not exist yet.
fn record(spec: &Spec, bundle: &Path, cgroup: Option<&CgroupPlan>) -> Record {
    let root = spec.root.as_ref().map_or(Path::new("rootfs"), |root| root.path.as_path());
    let later = |hooks: &Hooks| Hooks {
        poststart: hooks.poststart.clone(),
        poststop: hooks.poststop.clone(),
        ..Hooks::default()
    };
    let is_own_pid =
        |namespace: &LinuxNamespace| namespace.type_ == LinuxNamespaceType::Pid && namespace.path.is_none();
    Record {
        version: STATE_VERSION,
        pid: 0,
        start_time: 0,
        created_ns: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)),
        bundle: bundle.to_path_buf(),
        rootfs: bundle.join(root),
        cgroup: cgroup.map(|cgroup| cgroup.path.clone()),
        own_pid_namespace: spec.linux.iter().flat_map(|linux| &linux.namespaces).any(is_own_pid),
        layout: None,
        keeps_cgroup_parent: false,
        classes: Vec::new(),
        unit: cgroup.and_then(|cgroup| Some(RecordedUnit::of(&cgroup.unit.as_ref()?.place.unit))),
        annotations: spec.annotations.clone(),
        hooks: spec.hooks.as_ref().map(later).unwrap_or_default(),
    }
}

fn status(folder: &Path, record: &Record) -> Result<Status, ContainerError> {
    if !record.is_alive() {
        return Ok(Status::Stopped);
    }
    if door::is_open(folder) {
        return Ok(Status::Created);
    }
    let frozen = match record.cgroup()? {
        Some(cgroup) => cgroup.is_frozen().unwrap_or(false),
        None => false,
    };
    Ok(if frozen { Status::Paused } else { Status::Running })
}

/// Runs the poststart hooks; the container is stopped when one fails.
fn run_poststart(id: &str, record: &Record) -> Result<(), ContainerError> {
    record.hooks(id).run(HookKind::Poststart, Some(record.pid)).map_err(|error| match stop(record) {
        Ok(()) => ContainerError::Hook(error),
        Err(stopping) => stopping,
    })
}

/// The container's process. Looked at again once it is held, so that it is never another one with its number.
fn process(record: &Record) -> Result<OwnedFd, ContainerError> {
    let pid = Pid::from_raw(record.pid).ok_or(ContainerError::NotRunning)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| gone(pid, errno.into()))?;
    if record.is_alive() { Ok(pidfd) } else { Err(ContainerError::NotRunning) }
}

/// Kills the container's process and waits for its end.
fn stop(record: &Record) -> Result<(), ContainerError> {
    match process(record) {
        Ok(pidfd) => {
            // The end is waited for below; one that has come already needs no signal.
            let _ = send_to_pidfd(pidfd.as_fd(), Signal::KILL.as_raw());
            thaw(record)?;
            end(pidfd.as_fd());
            Ok(())
        }
        Err(ContainerError::NotRunning) => Ok(()),
        Err(error) => Err(error),
    }
}

/// `/<id>` for a container whose spec names no cgroup, as runc chooses.
fn default_cgroup(spec: &Spec, id: &str) -> Option<String> {
    (!names_cgroup(spec)).then(|| format!("/{id}"))
}

fn names_cgroup(spec: &Spec) -> bool {
    spec.linux.as_ref().is_some_and(|linux| linux.cgroups_path.as_deref().is_some_and(|path| !path.is_empty()))
}

/// Lets a frozen container go on, so that a signal that kills does so: on cgroup v1 a frozen process does not die.
fn thaw(record: &Record) -> Result<(), ContainerError> {
    match record.cgroup()? {
        Some(cgroup) if cgroup.is_frozen().unwrap_or(false) => Ok(cgroup.thaw()?),
        _ => Ok(()),
    }
}

fn send(pid: Pid, signal: i32) -> Result<(), ContainerError> {
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| gone(pid, errno.into()))?;
    send_to_pidfd(pidfd.as_fd(), signal).map_err(|error| gone(pid, error))
}

fn gone(pid: Pid, error: io::Error) -> ContainerError {
    match Errno::from_io_error(&error) {
        Some(Errno::SRCH) => ContainerError::NotRunning,
        _ => ContainerError::file("signal", Path::new(&format!("/proc/{}", pid.as_raw_nonzero())))(error),
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
}
