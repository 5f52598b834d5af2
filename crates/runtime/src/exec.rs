//! One more process in a container that runs (`exec`).
//!
//! The parent joins the pid namespace for its child; the child joins the cgroup first, so that everything it does is
//! counted there, and then every other namespace of the container's first process in one setns(2) through its pidfd,
//! so that no path of the container is trusted on the way. It is not dumpable meanwhile, and all of the caller's
//! descriptors are closed before the program (CVE-2016-9962, CVE-2024-21626).

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use hull_kernel::cgroups::{Cgroup, Joiner};
use hull_kernel::resctrl::Membership;
use hull_oci::runtime::{Linux, LinuxNamespaceType, Process, State};
use hull_sys::process::{self as sys, Cloned};
use rustix::process::{PidfdFlags, geteuid, pidfd_open, setsid};
use rustix::thread::sched_setaffinity;

use crate::create::{CreateError, Created, end};
use crate::failure::{InitFailure, Step};
use crate::filters::Filters;
use crate::go_between;
use crate::init;
use crate::own_program::ReadOnlyWay;
use crate::plan::{Affinity, PlanError, ProcessPlan, ResctrlPlan, Streams, process as process_plan};
use crate::sync::{Message, Sync};

/// The process to be added and the container it is added to.
pub struct ExecPlan {
    target: OwnedFd,
    joins_user: JoinsUser,
    /// Namespaces of the caller's that a user without rights over them cannot join, and need not.
    shared: i32,
    joins_time: bool,
    cgroup: Option<Cgroup>,
    sibling: bool,
    affinity: Option<Affinity>,
    class: Option<Membership>,
    process: ProcessPlan,
}

/// Whether and when the container's user namespace is joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JoinsUser {
    /// It is the caller's.
    No,
    /// With the other namespaces.
    With,
    /// Before the pid namespace, because the caller has rights in it alone.
    Before,
}

/// What the caller of [`plan`] decides besides the process.
pub struct ExecOptions<'a> {
    /// Process id of the container's first process.
    pub pid: i32,
    /// The container's cgroup.
    pub cgroup: Option<Cgroup>,
    /// Standard streams; must be absent exactly when `process.terminal` is set.
    pub streams: Option<Streams>,
    /// Clone the process as a sibling (`CLONE_PARENT`), so that the caller's parent waits for it.
    pub sibling: bool,
    /// How many descriptors of the caller, from 3 on, stay open in the program.
    pub kept_fds: i32,
    /// The container's state, for the agent of a filter that notifies.
    pub state: State,
    /// Where compiled filters are kept.
    pub filters: Option<&'a Filters>,
}

/// Plans an exec of `process`. Of the container's `linux` section the filter, the memory policy, the personality and
/// whether there is a time namespace hold for it too.
///
/// # Errors
/// The field that is wrong, or the container's process that cannot be opened.
pub fn plan(process: &Process, linux: &Linux, options: ExecOptions<'_>) -> Result<ExecPlan, PlanError> {
    let gone =
        |source| PlanError::Open { field: "pid".to_owned(), path: format!("/proc/{}", options.pid).into(), source };
    let pid = rustix::process::Pid::from_raw(options.pid)
        .ok_or_else(|| PlanError::invalid("pid", format!("{} is no process id", options.pid)))?;
    let target = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| gone(errno.into()))?;
    let class = match ResctrlPlan::of_exec(linux, &options.state.id)? {
        Some(plan) => Some(plan.resctrl.enter(&plan.class).map_err(|error| PlanError::Resctrl(Box::new(error)))?),
        None => None,
    };
    let user = |pid: &str| std::fs::metadata(format!("/proc/{pid}/ns/user")).map(|file| file.ino());
    let joins_user = match user("self").map_err(gone)? == user(&options.pid.to_string()).map_err(gone)? {
        true => JoinsUser::No,
        false if geteuid().is_root() => JoinsUser::With,
        false => JoinsUser::Before,
    };
    let shared = if joins_user == JoinsUser::Before { shared_with(options.pid) } else { 0 };
    Ok(ExecPlan {
        target,
        joins_user,
        shared,
        joins_time: linux.namespaces.iter().any(|namespace| namespace.type_ == LinuxNamespaceType::Time),
        cgroup: options.cgroup,
        sibling: options.sibling,
        class,
        affinity: Affinity::plan(process.exec_cpu_affinity.as_ref())?,
        process: ProcessPlan {
            kept_fds: options.kept_fds,
            ..process_plan::plan(process, linux, options.streams, false, options.filters, || options.state)?
        },
    })
}

/// Makes the process and stops before its program; [`Created::start`] executes it.
///
/// The caller must have one thread; its children are in the container's pid namespace from here on.
///
/// # Errors
/// See [`CreateError`]; the process is gone then, the container untouched.
pub fn create(mut plan: ExecPlan) -> Result<Created, CreateError> {
    let joiner = match &plan.cgroup {
        Some(cgroup) => {
            Some(cgroup.joiner().map_err(|source| CreateError::Cgroup { path: cgroup.path().to_owned(), source })?)
        }
        None => None,
    };
    let way = ReadOnlyWay::open().map_err(CreateError::OwnProgram)?;
    let (ours, theirs) = Sync::pair().map_err(CreateError::Conversation)?;
    let (pid, pidfd) = match clone(&plan, joiner.as_ref())? {
        Cloned::Child => {
            drop(ours);
            let Err(failure) = join(plan, &theirs, joiner.as_ref(), way);
            init::fail(&theirs, failure)
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    let listener = plan.process.listener.take();
    match wait_ready(&ours) {
        // The cgroup is the container's, not this process', so it is not handed on to be removed.
        Ok(terminal) => {
            let late = way.map(ReadOnlyWay::into_mount);
            Ok(Created::of_exec(pid, pidfd, terminal, listener, ours, late))
        }
        Err(error) => {
            end(pidfd.as_fd());
            Err(error)
        }
    }
}

/// The namespaces that this process and process `pid` are both in.
fn shared_with(pid: i32) -> i32 {
    let number =
        |pid: &str, kind: &str| std::fs::metadata(format!("/proc/{pid}/ns/{kind}")).map(|file| file.ino()).ok();
    let pid = pid.to_string();
    [
        ("uts", sys::CLONE_NEWUTS),
        ("ipc", sys::CLONE_NEWIPC),
        ("net", sys::CLONE_NEWNET),
        ("cgroup", sys::CLONE_NEWCGROUP),
    ]
    .into_iter()
    .filter(|(kind, _)| number("self", kind) == number(&pid, kind))
    .fold(0, |shared, (_, flag)| shared | flag)
}

/// The process, in the container's pid namespace. Without rights over the host that one can only be joined from within
/// the container's user namespace.
fn clone(plan: &ExecPlan, joiner: Option<&Joiner>) -> Result<Cloned, CreateError> {
    let into = joiner.and_then(Joiner::clone_into);
    if let Some(initial) = plan.affinity.as_ref().and_then(|affinity| affinity.initial.as_ref()) {
        sched_setaffinity(None, initial).map_err(CreateError::Affinity)?;
    }
    if plan.joins_user == JoinsUser::Before {
        let enter = || {
            sys::setns(plan.target.as_fd(), sys::CLONE_NEWUSER | sys::CLONE_NEWPID)
                .map_err(|error| InitFailure::because(Step::Namespace, "", error))
        };
        return go_between::clone(enter, 0, plan.sibling, into);
    }
    sys::setns(plan.target.as_fd(), sys::CLONE_NEWPID).map_err(CreateError::PidNamespace)?;
    let flags = if plan.sibling { sys::CLONE_PARENT as u64 } else { 0 };
    sys::clone3(flags, into).map_err(CreateError::Clone)
}

fn wait_ready(sync: &Sync) -> Result<Option<OwnedFd>, CreateError> {
    let mut terminal = None;
    loop {
        match sync.receive().map_err(CreateError::Conversation)? {
            Some((Message::Terminal, master)) => terminal = master,
            Some((Message::Ready, _)) => return Ok(terminal),
            Some((Message::Failed(failure), _)) => return Err(failure.into()),
            Some(_) => return Err(CreateError::Conversation(rustix::io::Errno::PROTO)),
            None => return Err(CreateError::Died(false)),
        }
    }
}

/// The child's half.
fn join(
    mut plan: ExecPlan,
    sync: &Sync,
    joiner: Option<&Joiner>,
    way: Option<ReadOnlyWay>,
) -> Result<Infallible, InitFailure> {
    init::begin(joiner, way.as_ref())?;
    drop(way);
    if let Some(affinity) = &plan.affinity {
        let refused = init::placement_refused("process.execCPUAffinity.final");
        sched_setaffinity(None, &affinity.last).map_err(|errno| refused(errno.into()))?;
    }
    if let Some(class) = &plan.class {
        init::join_class(class)?;
    }
    init::open_labels(&mut plan.process.labels)?;
    init::set_oom_score(plan.process.oom_score_adj)?;
    let mut namespaces =
        sys::CLONE_NEWNS | sys::CLONE_NEWUTS | sys::CLONE_NEWIPC | sys::CLONE_NEWNET | sys::CLONE_NEWCGROUP;
    namespaces &= !plan.shared;
    if plan.joins_user == JoinsUser::With {
        namespaces |= sys::CLONE_NEWUSER;
    }
    if plan.joins_time {
        namespaces |= sys::CLONE_NEWTIME;
    }
    sys::setns(plan.target.as_fd(), namespaces).map_err(|error| InitFailure::because(Step::Namespace, "", error))?;
    if plan.joins_user != JoinsUser::No {
        plan.process.group_change =
            init::become_root().map_err(|errno| InitFailure::new(Step::UserNamespace, "", errno))?;
    }
    setsid().map_err(|errno| InitFailure::new(Step::Session, "", errno))?;
    init::join_keyring(&plan.process.labels)?;
    let terminal = match plan.process.terminal {
        Some(size) => Some(init::adopt_terminal(size, plan.process.uid, sync)?),
        None => None,
    };
    init::wait_for_start(sync)?;
    init::execute(plan.process, terminal, sync)
}
