//! The parent's half of a create: cgroup, one clone3(2), and the conversation until the program runs.
//!
//! ```text
//! create: cgroup made and limited -> clone3 (through a go-between) -> (id maps) -> (hooks) -> Terminal? -> Ready
//! start:  Start -> end of file (running) or Failed
//! ```
//!
//! A cgroup that systemd makes comes after the clone3, around the child, which waits for it before anything else.
//!
//! Whatever fails, the cgroup made here is removed again after its process has died, and nothing else exists outside
//! the child's own namespaces. The caller waits for the child, or its parent does when the plan says `sibling`.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use hull_kernel::cgroups::systemd::UnitStart;
use hull_kernel::cgroups::{Cgroup, CgroupError, Joiner, Layout};
use hull_kernel::links::{self, LinkError};
use hull_kernel::mounts::MountError;
use hull_kernel::resctrl::{self, ResctrlError};
use hull_sys::process::{self as sys, Cloned};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use crate::failure::InitFailure;
use crate::go_between;
use crate::hooks::{HookError, HookKind};
use crate::id_map::{self, IdMapError};
use crate::init;
use crate::listener::{Listener, ListenerError};
use crate::own_program::ReadOnlyWay;
use crate::plan::{IdMappingSource, InitPlan, MountPlan, NetDevicePlan, RootInUserNamespace, RootMount, limit_field};
use crate::sync::{Message, Sync};

/// A create or start that failed.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The cgroup could not be made, limited or opened.
    #[error("preparing cgroup {path}")]
    Cgroup {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: CgroupError,
    },
    /// A user without rights over cgroups wants limits.
    #[error("linux.resources: limits need a cgroup that is delegated to this user")]
    NoDelegatedCgroup(#[source] CgroupError),
    /// A limit that this machine does not have.
    #[error("{field}")]
    Limit {
        /// Its field of config.json.
        field: &'static str,
        /// Why.
        #[source]
        source: CgroupError,
    },
    /// The pid namespace could not be joined.
    #[error("joining the pid namespace")]
    PidNamespace(#[source] std::io::Error),
    /// No process could be made.
    #[error("clone3")]
    Clone(#[source] std::io::Error),
    /// The processors of `process.execCPUAffinity.initial` cannot be used.
    #[error("setting process.execCPUAffinity.initial")]
    Affinity(#[source] Errno),
    /// The clocks of the time namespace could not be set.
    #[error("linux.timeOffsets: writing {path}")]
    TimeOffsets {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The socket to the child failed.
    #[error("talking to the container's first process")]
    Conversation(#[source] Errno),
    /// The id maps could not be written.
    #[error(transparent)]
    IdMap(#[from] IdMapError),
    /// The root file system could not be mounted for the user namespace.
    #[error("mounting the root file system")]
    Root(#[source] MountError),
    /// A mount cannot have the owners of the container's user namespace.
    #[error("shifting the owners of a mount")]
    Shift(#[source] MountError),
    /// A hook failed.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The network namespace of the container could not be opened.
    #[error("linux.netDevices: open {path}")]
    NetNamespace {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A network interface could not be moved.
    #[error("linux.netDevices.{name}")]
    NetDevice {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: LinkError,
    },
    /// The class of service.
    #[error("linux.intelRdt")]
    Resctrl(#[from] ResctrlError),
    /// The agent of the filter.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// Hull's own program could not be put behind a read-only mount.
    #[error("protecting Hull's own program")]
    OwnProgram(#[source] MountError),
    /// The child failed and said how.
    #[error(transparent)]
    Init(#[from] InitFailure),
    /// The child died without a word.
    #[error("the container's first process died before it was ready{}", if *.0 { " (out of memory: raise the memory limit)" } else { "" })]
    Died(bool),
}

/// A process that has everything but its program.
#[derive(Debug)]
pub struct Created {
    /// Process id in the caller's pid namespace.
    pub pid: i32,
    /// Process file descriptor.
    pub pidfd: OwnedFd,
    /// Master of the terminal, when the process has one.
    pub terminal: Option<OwnedFd>,
    /// Its cgroup, when one was made.
    pub cgroup: Option<Cgroup>,
    /// Groups of resctrl that were made for it, and whether others may have come into each.
    classes: Vec<(PathBuf, bool)>,
    listener: Option<Listener>,
    sync: Sync,
    /// Closed once Start was said, beside the exec, because the kernel takes its time for it.
    closed_late: Option<OwnedFd>,
}

/// The cgroup of a create in progress: removed on the way out unless the create succeeds.
struct PreparedCgroup {
    cgroup: Cgroup,
    entry: CgroupEntry,
}

/// How the child gets into its cgroup.
enum CgroupEntry {
    /// By itself, first of all.
    Joiner(Joiner),
    /// It waits until systemd has put it into the cgroup of its unit; nothing is left once that has been asked for.
    Unit(Option<Box<UnitStart>>),
}

impl PreparedCgroup {
    fn joiner(&self) -> Option<&Joiner> {
        match &self.entry {
            CgroupEntry::Joiner(joiner) => Some(joiner),
            CgroupEntry::Unit(_) => None,
        }
    }

    /// Has systemd make the unit around the child that waits.
    fn start_unit(&mut self, pid: i32) -> Result<(), CreateError> {
        let failed = |source| CreateError::Cgroup { path: self.cgroup.path().to_owned(), source };
        match &mut self.entry {
            CgroupEntry::Unit(start) => match start.take() {
                Some(start) => start.start(&self.cgroup, pid).map_err(failed),
                None => Err(CreateError::Conversation(Errno::PROTO)),
            },
            CgroupEntry::Joiner(_) => Err(CreateError::Conversation(Errno::PROTO)),
        }
    }
}

/// Makes the container's first process and stops before its program.
///
/// The caller must have one thread.
///
/// # Errors
/// See [`CreateError`]; nothing is left behind.
pub fn create(plan: InitPlan) -> Result<Created, CreateError> {
    create_and(plan, |_, _| ())
}

/// As [`create`]; `meanwhile` is called with the process id and the cgroup as soon as there are both, and runs beside
/// the process, which builds its file systems then.
///
/// # Errors
/// As [`create`].
pub fn create_and(mut plan: InitPlan, meanwhile: impl FnOnce(i32, Option<&Cgroup>)) -> Result<Created, CreateError> {
    let classes = match plan.resctrl.take() {
        Some(wanted) => {
            let mut class = wanted.resctrl.enter(&wanted.class)?;
            let made = std::mem::take(&mut class.made);
            plan.class = Some(class);
            made
        }
        None => Vec::new(),
    };
    match create_in_class(plan, meanwhile) {
        Ok(created) => Ok(Created { classes, ..created }),
        Err(error) => {
            leave_classes(&classes);
            Err(error)
        }
    }
}

/// Removes groups of resctrl that were made for a container.
fn leave_classes(made: &[(PathBuf, bool)]) {
    if let Err(error) = resctrl::remove(made) {
        tracing::warn!(%error, "removing the class of service of a container");
    }
}

/// As [`leave_classes`], for groups that nobody else may be in.
pub(crate) fn leave_own_classes(made: &[PathBuf]) {
    if !made.is_empty() {
        leave_classes(&made.iter().map(|path| (path.clone(), false)).collect::<Vec<_>>());
    }
}

fn create_in_class(mut plan: InitPlan, meanwhile: impl FnOnce(i32, Option<&Cgroup>)) -> Result<Created, CreateError> {
    let mut prepared = prepare_cgroup(&mut plan)?;
    match launch(plan, prepared.as_mut(), meanwhile) {
        Ok(mut created) => {
            created.cgroup = prepared.map(|prepared| prepared.cgroup);
            Ok(created)
        }
        Err((error, pidfd)) => {
            let out_of_memory =
                pidfd.is_some() && prepared.as_ref().is_some_and(|prepared| ran_out_of_memory(&prepared.cgroup));
            if let Some(pidfd) = pidfd {
                end(pidfd.as_fd());
            }
            if let Some(prepared) = prepared {
                // The error that brought us here is the one to tell.
                let _ = prepared.cgroup.remove_with_parent();
            }
            match error {
                CreateError::Died(_) => Err(CreateError::Died(out_of_memory)),
                error => Err(error),
            }
        }
    }
}

fn prepare_cgroup(plan: &mut InitPlan) -> Result<Option<PreparedCgroup>, CreateError> {
    let Some(wanted) = plan.cgroup.take() else { return Ok(None) };
    let failed = |source| match limit_field(&source) {
        Some(field) => CreateError::Limit { field, source },
        None => CreateError::Cgroup { path: wanted.path.clone(), source },
    };
    let layout = Layout::detect().map_err(failed)?;
    if let Some(unit) = wanted.unit {
        let (start, cgroup) =
            UnitStart::prepare(&layout, unit.place, unit.properties, wanted.limits, wanted.owner).map_err(failed)?;
        plan.waits_for_cgroup = true;
        return Ok(Some(PreparedCgroup { cgroup, entry: CgroupEntry::Unit(Some(Box::new(start))) }));
    }
    let mut cgroup = layout.cgroup(&wanted.path).map_err(failed)?;
    let made_parent = match cgroup.create() {
        Err(_) if wanted.optional && !wanted.limits.limit_more_than_devices() => return Ok(None),
        Err(error) if wanted.optional => return Err(CreateError::NoDelegatedCgroup(error)),
        other => other.map_err(failed)?,
    };
    if !made_parent {
        cgroup.keep_parent();
    }
    // Only root gives files away.
    let owner = wanted.owner.filter(|_| rustix::process::geteuid().is_root());
    let delegated = || owner.map_or(Ok(()), |uid| cgroup.delegate(uid));
    match cgroup.apply(&wanted.limits).and_then(|()| delegated()).and_then(|()| cgroup.joiner()) {
        Ok(joiner) => Ok(Some(PreparedCgroup { cgroup, entry: CgroupEntry::Joiner(joiner) })),
        Err(error) => {
            let _ = cgroup.remove_with_parent();
            Err(failed(error))
        }
    }
}

fn ran_out_of_memory(cgroup: &Cgroup) -> bool {
    cgroup.stats().ok().and_then(|stats| stats.memory).is_some_and(|memory| memory.oom_kills > 0)
}

/// Clones and converses until Ready. An error comes with the pidfd of the child that may still live.
fn launch(
    mut plan: InitPlan,
    prepared: Option<&mut PreparedCgroup>,
    meanwhile: impl FnOnce(i32, Option<&Cgroup>),
) -> Result<Created, (CreateError, Option<OwnedFd>)> {
    let early = |error| (error, None);
    shift_by_own_maps(&plan.mounts).map_err(early)?;
    let joiner = prepared.as_ref().and_then(|prepared| prepared.joiner());
    let way = ReadOnlyWay::open().map_err(|error| early(CreateError::OwnProgram(error)))?;
    let (ours, theirs) = Sync::pair().map_err(|errno| early(CreateError::Conversation(errno)))?;
    let (pid, pidfd) = match clone(&plan, joiner).map_err(early)? {
        Cloned::Child => {
            drop(ours);
            init::run(plan, theirs, joiner, way)
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop((theirs, way));
    meanwhile(pid, prepared.as_ref().map(|prepared| &prepared.cgroup));
    let late_root = match plan.root.source.take() {
        Some(RootMount::InUserNamespace(make)) => Some(make),
        _ => None,
    };
    match converse(&ours, pid, &plan, late_root, prepared) {
        Ok(terminal) => {
            let listener = plan.process.listener.take();
            Ok(Created {
                pid,
                pidfd,
                terminal,
                cgroup: None,
                classes: Vec::new(),
                listener,
                sync: ours,
                closed_late: None,
            })
        }
        Err(error) => Err((error, Some(pidfd))),
    }
}

/// The container's process: a clone of this one, in its namespaces as far as these are made or take effect at once.
fn clone(plan: &InitPlan, joiner: Option<&Joiner>) -> Result<Cloned, CreateError> {
    let into = joiner.and_then(Joiner::clone_into);
    let spaces = &plan.namespaces;
    if spaces.needs_go_between() {
        return go_between::clone(|| go_between::enter(spaces), spaces.create, plan.sibling, into);
    }
    if let Some(namespace) = &spaces.join_pid {
        sys::setns(namespace.as_fd(), sys::CLONE_NEWPID).map_err(CreateError::PidNamespace)?;
    }
    let sibling = if plan.sibling { sys::CLONE_PARENT as u64 } else { 0 };
    sys::clone3(spaces.create as u64 | sibling, into).map_err(CreateError::Clone)
}

fn converse(
    sync: &Sync,
    pid: i32,
    plan: &InitPlan,
    mut late_root: Option<RootInUserNamespace>,
    mut cgroup: Option<&mut PreparedCgroup>,
) -> Result<Option<OwnedFd>, CreateError> {
    let mut terminal = None;
    loop {
        match sync.receive().map_err(CreateError::Conversation)? {
            Some((Message::NeedsCgroup, _)) => {
                let cgroup = cgroup.as_mut().ok_or(CreateError::Conversation(Errno::PROTO))?;
                cgroup.start_unit(pid)?;
                sync.send(&Message::Continue, None).map_err(CreateError::Conversation)?;
            }
            Some((Message::NeedsIdMap, _)) => {
                id_map::write(pid, &plan.namespaces.uid_map, &plan.namespaces.gid_map)?;
                let root = shift(pid, plan, late_root.take())?;
                sync.send(&Message::Continue, root.as_ref().map(AsFd::as_fd)).map_err(CreateError::Conversation)?;
            }
            Some((Message::NeedsTimeOffsets, _)) => {
                write_time_offsets(pid, &plan.namespaces.time_offsets)?;
                sync.send(&Message::Continue, None).map_err(CreateError::Conversation)?;
            }
            Some((Message::NeedsNetDevices, _)) => {
                move_net_devices(pid, &plan.net_devices)?;
                sync.send(&Message::Continue, None).map_err(CreateError::Conversation)?;
            }
            Some((Message::Hooks, _)) => {
                if let Some(hooks) = &plan.process.hooks {
                    hooks.run(HookKind::Prestart, Some(pid))?;
                    hooks.run(HookKind::CreateRuntime, Some(pid))?;
                }
                sync.send(&Message::Continue, None).map_err(CreateError::Conversation)?;
            }
            Some((Message::Terminal, master)) => terminal = master,
            Some((Message::Ready, _)) => return Ok(terminal),
            Some((Message::Failed(failure), _)) => return Err(failure.into()),
            Some((message @ (Message::Process(_) | Message::Continue | Message::Start | Message::Listener(_)), _)) => {
                tracing::debug!(?message, "unexpected message of the container's first process");
                return Err(CreateError::Conversation(Errno::PROTO));
            }
            None => return Err(CreateError::Died(false)),
        }
    }
}

/// Shifts the owners of the mounts that have a map of their own.
fn shift_by_own_maps(mounts: &[MountPlan]) -> Result<(), CreateError> {
    for mount in mounts {
        let Some(IdMappingSource::Own { uid, gid }) = mount.id_mapped.as_ref().map(|mapping| &mapping.map) else {
            continue;
        };
        let namespace = id_map::namespace_with(uid, gid)?;
        mount.shift_ids(namespace.as_fd()).map_err(CreateError::Shift)?;
    }
    Ok(())
}

/// Sets the clocks of the time namespace that the child has made and is not in yet (time_namespaces(7)). The child
/// cannot do it itself: what /proc has of a process that is not dumpable belongs to the host's root.
fn write_time_offsets(pid: i32, offsets: &str) -> Result<(), CreateError> {
    let path = PathBuf::from(format!("/proc/{pid}/timens_offsets"));
    fs::write(&path, offsets).map_err(|source| CreateError::TimeOffsets { path, source })
}

/// Moves interfaces of this process' network into the child's.
fn move_net_devices(pid: i32, devices: &[NetDevicePlan]) -> Result<(), CreateError> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let namespace = fs::File::open(&path).map_err(|source| CreateError::NetNamespace { path, source })?;
    for NetDevicePlan { name, new_name } in devices {
        links::move_into(namespace.as_fd(), name, new_name)
            .map_err(|source| CreateError::NetDevice { name: name.clone(), source })?;
    }
    Ok(())
}

/// Shifts owners through the new user namespace: of the mounts that ask for it, and of the root.
fn shift(pid: i32, plan: &InitPlan, late_root: Option<RootInUserNamespace>) -> Result<Option<OwnedFd>, CreateError> {
    let namespace = id_map::namespace_of(pid)?;
    for mount in plan.mounts.iter().filter(|mount| mount.shifts_with_container()) {
        mount.shift_ids(namespace.as_fd()).map_err(CreateError::Shift)?;
    }
    late_root.map(|make| make(namespace).map_err(CreateError::Root)).transpose()
}

impl Created {
    /// Groups of resctrl that end with the container: those that nobody else may be in.
    pub(crate) fn own_classes(&self) -> Vec<PathBuf> {
        self.classes.iter().filter(|(_, shared)| !shared).map(|(path, _)| path.clone()).collect()
    }

    /// A process added to a running container, whose cgroup is not its own.
    pub(crate) fn of_exec(
        pid: i32,
        pidfd: OwnedFd,
        terminal: Option<OwnedFd>,
        listener: Option<Listener>,
        sync: Sync,
        closed_late: Option<OwnedFd>,
    ) -> Created {
        Created { pid, pidfd, terminal, cgroup: None, classes: Vec::new(), listener, sync, closed_late }
    }

    /// Executes the program.
    ///
    /// # Errors
    /// What failed in the child; its process and cgroup are gone then.
    pub fn start(mut self) -> Result<Started, CreateError> {
        let late = self.closed_late.take();
        let deliver = |number| match &self.listener {
            Some(listener) => Ok(listener.deliver(self.pidfd.as_fd(), self.pid, number)?),
            None => Err(ListenerError::Unwanted(self.pid).into()),
        };
        let said = self.sync.send(&Message::Start, None).map_err(CreateError::Conversation);
        drop(late);
        match said.and_then(|()| hear_running(&self.sync, deliver)) {
            Ok(()) => Ok(Started { pid: self.pid, pidfd: self.pidfd, terminal: self.terminal, cgroup: self.cgroup }),
            Err(error) => {
                self.abandon();
                Err(error)
            }
        }
    }

    /// Ends the process and removes its cgroup.
    pub fn abandon(self) {
        end(self.pidfd.as_fd());
        leave_classes(&self.classes);
        if let Some(cgroup) = self.cgroup {
            // Nothing is waiting for this result; a leftover cgroup is swept by the next command.
            if let Err(error) = cgroup.remove_with_parent() {
                tracing::warn!(%error, "removing the cgroup of a container that was not started");
            }
        }
    }
}

/// Says Start and listens until the program runs or something has failed; `deliver` gives the descriptor of that number
/// to the filter's agent.
pub(crate) fn hear_start<E: From<CreateError>>(sync: &Sync, deliver: impl Fn(i32) -> Result<(), E>) -> Result<(), E> {
    sync.send(&Message::Start, None).map_err(CreateError::Conversation)?;
    hear_running(sync, deliver)
}

fn hear_running<E: From<CreateError>>(sync: &Sync, deliver: impl Fn(i32) -> Result<(), E>) -> Result<(), E> {
    loop {
        match sync.receive().map_err(CreateError::Conversation)? {
            None => return Ok(()),
            Some((Message::Listener(number), _)) => {
                deliver(number)?;
                sync.send(&Message::Continue, None).map_err(CreateError::Conversation)?;
            }
            Some((Message::Failed(failure), _)) => return Err(CreateError::from(failure).into()),
            Some(_) => return Err(CreateError::Conversation(Errno::PROTO).into()),
        }
    }
}

/// A process whose program runs.
#[derive(Debug)]
pub struct Started {
    /// Process id in the caller's pid namespace.
    pub pid: i32,
    /// Process file descriptor.
    pub pidfd: OwnedFd,
    /// Master of the terminal, when the process has one.
    pub terminal: Option<OwnedFd>,
    /// Its cgroup, when one was made.
    pub cgroup: Option<Cgroup>,
}

/// Kills a process and waits until it has ended; its parent reaps it.
pub fn end(pidfd: BorrowedFd<'_>) {
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
    await_end(pidfd);
}

/// Waits until a process has ended.
pub(crate) fn await_end(pidfd: BorrowedFd<'_>) {
    let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
    while poll(&mut ended, None) == Err(Errno::INTR) {}
}
