//! The child's half of a create: from clone3 to execve, in the order in which the kernel allows it.
//!
//! ```text
//! cgroup -> namespaces (user first) -> session -> names, loopback -> root, mounts, kernel parameters, devices,
//!   terminal -> masks, read-only paths -> hooks -> pivot_root -> Ready ... Start
//!   -> limits -> user -> capabilities, no_new_privs, seccomp -> streams, working directory -> hooks -> execve
//! ```
//!
//! The child is a copy of a single-threaded parent, so everything the plan holds is here. It is not dumpable until it
//! executes, so no process of a joined pid namespace can look into it (CVE-2016-9962), and every descriptor of the
//! parent is closed before a path of the container is used for the working directory or the program (CVE-2024-21626).

mod cgroup_mount;
mod cover;
mod device;
mod filesystem;
mod identity;
mod placement;
mod program;
mod root;
mod terminal;

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use hull_kernel::cgroups::Joiner;
use hull_kernel::loopback;
use hull_kernel::mounts::inside;
use hull_kernel::resctrl::Membership;
use hull_sys::process as sys;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, getpid, set_dumpable_behavior, setsid};

use crate::failure::{InitFailure, Step};
use crate::hooks::{HookKind, HookPlan};
use crate::own_program::ReadOnlyWay;
use crate::plan::{InitPlan, LabelPlan, NamespacePlan, ProcessPlan, RootMount};
use crate::sync::{Message, Sync};

use identity::Credentials;
pub use identity::GroupChange;
pub(crate) use identity::become_root;
pub(crate) use placement::refused as placement_refused;
pub(crate) use program::{execute, search_and_execute};
pub(crate) use terminal::{Terminal, adopt_terminal};

/// Runs the child; it ends in another program or in exit.
pub(crate) fn run(plan: InitPlan, sync: Sync, joiner: Option<&Joiner>, way: Option<ReadOnlyWay>) -> ! {
    let Err(failure) = become_container(plan, &sync, joiner, way);
    fail(&sync, failure)
}

/// Reports the failure and exits with its code.
pub(crate) fn fail(sync: &Sync, failure: InitFailure) -> ! {
    let code = failure.exit_code();
    // The parent may be gone; then nobody is left to be told.
    let _ = sync.send(&Message::Failed(failure), None);
    sys::exit_now(i32::from(code))
}

fn become_container(
    mut plan: InitPlan,
    sync: &Sync,
    joiner: Option<&Joiner>,
    way: Option<ReadOnlyWay>,
) -> Result<Infallible, InitFailure> {
    begin(joiner, way.as_ref())?;
    if plan.waits_for_cgroup {
        wait_for_cgroup(sync)?;
    }
    if let Some(class) = &plan.class {
        join_class(class)?;
    }
    open_labels(&mut plan.process.labels)?;
    let by_user = matches!(plan.root.source, Some(RootMount::Later(_)));
    let sent_root = enter_namespaces(&plan.namespaces, &mut plan.process, by_user, sync)?;
    if !plan.net_devices.is_empty() {
        ask(sync, Message::NeedsNetDevices, Step::NetDevices)?;
    }
    setsid().map_err(|errno| InitFailure::new(Step::Session, "", errno))?;
    if plan.new_keyring {
        join_keyring(&plan.process.labels)?;
    }
    set_names(&plan)?;
    if plan.namespaces.creates_network() {
        loopback::set_up().map_err(|error| InitFailure::because(Step::Loopback, "", error))?;
    }
    set_oom_score(plan.process.oom_score_adj)?;
    filesystem::complete(&mut plan)?;
    let root = root_mount(plan.root.source.take(), sent_root)?;
    root::attach(&root, &plan.root.entry)?;
    let mounted = filesystem::mount_all(&root, &mut plan.mounts)?;
    // Before /proc/sys becomes read-only.
    filesystem::set_sysctls(mounted.parameters(), &plan.sysctls)?;
    let console = device::populate(&root, &mut plan)?;
    let terminal = match plan.process.terminal {
        Some(size) => Some(terminal::make(&root, size, plan.process.uid, console)?),
        None => None,
    };
    let places = cover::Places { root: &root, proc: mounted.proc() };
    cover::mask(&places, &plan.masked_paths, plan.null_device.take(), plan.mount_label.as_ref())?;
    cover::make_read_only(&places, &plan.read_only_paths)?;
    inside::make_directory(root.as_fd(), &plan.process.cwd, Mode::from_raw_mode(0o755))
        .map_err(|error| InitFailure::mount(Step::WorkingDirectory, &error))?;
    mounted.finish()?;
    drop(mounted);
    run_create_hooks(plan.process.hooks.as_ref(), sync)?;
    root::enter(root, &plan.root, way)?;
    if let Some(terminal) = &terminal {
        terminal.hand_over(sync)?;
    }
    if let Some(socket) = plan.start_socket.take() {
        return program::execute_when_called(plan.process, terminal, socket, sync);
    }
    wait_for_start(sync)?;
    execute(plan.process, terminal, sync)
}

/// The root mount: the parent's, the child's own clone of a tree, or the one that came with the user namespace.
fn root_mount(source: Option<RootMount>, sent: Option<OwnedFd>) -> Result<OwnedFd, InitFailure> {
    match source {
        Some(RootMount::Ready(root)) => Ok(root),
        Some(RootMount::Later(tree)) => tree.clone_detached().map_err(|error| InitFailure::mount(Step::Root, &error)),
        _ => sent.ok_or(InitFailure::new(Step::Root, "", Errno::BADF)),
    }
}

/// The hooks that belong before pivot_root(2): the parent's, then the child's own, whose paths are still the host's.
fn run_create_hooks(hooks: Option<&HookPlan>, sync: &Sync) -> Result<(), InitFailure> {
    let Some(hooks) = hooks else { return Ok(()) };
    let lost = |errno| InitFailure::new(Step::Hook, "", errno);
    if hooks.has(&[HookKind::Prestart, HookKind::CreateRuntime]) {
        sync.send(&Message::Hooks, None).map_err(lost)?;
        match sync.receive().map_err(lost)? {
            Some((Message::Continue, _)) => {}
            _ => return Err(lost(Errno::CANCELED)),
        }
    }
    let pid = getpid().as_raw_nonzero().get();
    hooks.run(HookKind::CreateContainer, Some(pid)).map_err(|error| InitFailure::because(Step::Hook, "", error))
}

/// Keeps processes of namespaces that are joined out of this one, a copy of its creator (CVE-2016-9962).
pub(crate) fn hide() -> Result<(), InitFailure> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|errno| InitFailure::new(Step::Session, "PR_SET_DUMPABLE", errno))
}

/// First steps of every child: not dumpable, not a way to Hull's own file, and in its cgroup.
pub(crate) fn begin(joiner: Option<&Joiner>, way: Option<&ReadOnlyWay>) -> Result<(), InitFailure> {
    hide()?;
    if let Some(way) = way {
        way.take().map_err(|error| InitFailure::mount(Step::Session, &error))?;
    }
    match joiner {
        Some(joiner) => joiner.join_self().map_err(|error| InitFailure::because(Step::Cgroup, "", error)),
        None => Ok(()),
    }
}

/// Joins what no go-between has joined, and finishes the namespaces; returns the root mount when the parent had to make it late.
fn enter_namespaces(
    plan: &NamespacePlan,
    process: &mut ProcessPlan,
    by_user: bool,
    sync: &Sync,
) -> Result<Option<OwnedFd>, InitFailure> {
    let io = |step| move |error: std::io::Error| InitFailure::because(step, "", error);
    let mut root = None;
    if plan.creates_user() {
        let lost = |errno| InitFailure::new(Step::UserNamespace, "", errno);
        if by_user {
            // What is not dumpable belongs to root in /proc, so its maps could not be written. Nobody else is in the
            // namespaces yet.
            set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(lost)?;
        }
        sync.send(&Message::NeedsIdMap, None).map_err(lost)?;
        match sync.receive().map_err(lost)? {
            Some((Message::Continue, mount)) => root = mount,
            _ => return Err(lost(Errno::CANCELED)),
        }
        if by_user {
            hide()?;
        }
    }
    if !plan.needs_go_between() {
        for (kind, namespace) in &plan.join {
            sys::setns(namespace.as_fd(), *kind).map_err(io(Step::Namespace))?;
        }
    }
    if plan.has_user() {
        process.group_change = become_root().map_err(|errno| InitFailure::new(Step::UserNamespace, "", errno))?;
    }
    if plan.create_cgroup {
        sys::unshare(sys::CLONE_NEWCGROUP).map_err(io(Step::Namespace))?;
    }
    if plan.create_time {
        enter_new_time(&plan.time_offsets, sync)?;
    }
    Ok(root)
}

/// Makes a time namespace, has its clocks set, and enters it. A new one is for children at first (time_namespaces(7));
/// setns(2) puts this process into it too, on kernels whose execve(2) does not as well.
fn enter_new_time(offsets: &str, sync: &Sync) -> Result<(), InitFailure> {
    let failed = |error: std::io::Error| InitFailure::because(Step::Namespace, "time", error);
    sys::unshare(sys::CLONE_NEWTIME).map_err(failed)?;
    if !offsets.is_empty() {
        ask(sync, Message::NeedsTimeOffsets, Step::Namespace)?;
    }
    let namespace = std::fs::File::open("/proc/self/ns/time_for_children").map_err(failed)?;
    sys::setns(namespace.as_fd(), sys::CLONE_NEWTIME).map_err(failed)
}

/// Has the parent do something, and waits until it is done.
fn ask(sync: &Sync, message: Message, step: Step) -> Result<(), InitFailure> {
    let lost = |errno| InitFailure::new(step, "", errno);
    sync.send(&message, None).map_err(lost)?;
    match sync.receive().map_err(lost)? {
        Some((Message::Continue, _)) => Ok(()),
        _ => Err(lost(Errno::CANCELED)),
    }
}

/// Enters a class of service (resctrl).
pub(crate) fn join_class(class: &Membership) -> Result<(), InitFailure> {
    class.join_self().map_err(|error| InitFailure::because(Step::Resctrl, "", error))
}

/// While the process sees the host's /proc.
pub(crate) fn open_labels(labels: &mut LabelPlan) -> Result<(), InitFailure> {
    labels.open().map_err(|error| InitFailure::because(Step::Label, "", error))
}

/// Nothing is done, and no namespace of cgroups made, before the process is where it is counted and limited.
fn wait_for_cgroup(sync: &Sync) -> Result<(), InitFailure> {
    let lost = |errno| InitFailure::new(Step::Cgroup, "", errno);
    sync.send(&Message::NeedsCgroup, None).map_err(lost)?;
    match sync.receive().map_err(lost)? {
        Some((Message::Continue, _)) => Ok(()),
        _ => Err(lost(Errno::CANCELED)),
    }
}

/// A session keyring of its own, so that keys of the caller are not reachable; kernels without keys have nothing to
/// hide. It has the label of the program.
pub(crate) fn join_keyring(labels: &LabelPlan) -> Result<(), InitFailure> {
    let labelled = |error| InitFailure::because(Step::Label, "keyring", error);
    labels.label_keys(true).map_err(labelled)?;
    join_new_keyring()?;
    labels.label_keys(false).map_err(labelled)
}

fn join_new_keyring() -> Result<(), InitFailure> {
    match sys::join_session_keyring(None) {
        Ok(()) => Ok(()),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOSYS) => Ok(()),
        Err(error) => Err(InitFailure::because(Step::Session, "keyring", error)),
    }
}

fn set_names(plan: &InitPlan) -> Result<(), InitFailure> {
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes())
            .map_err(|errno| InitFailure::new(Step::Hostname, name.as_str(), errno))?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes())
            .map_err(|errno| InitFailure::new(Step::Hostname, name.as_str(), errno))?;
    }
    Ok(())
}

/// Written while the host's /proc is still the one in sight, because the container's may be anything.
pub(crate) fn set_oom_score(score: Option<i32>) -> Result<(), InitFailure> {
    let Some(score) = score else { return Ok(()) };
    std::fs::write(Path::new("/proc/self/oom_score_adj"), score.to_string())
        .map_err(|error| InitFailure::because(Step::OomScore, score.to_string(), error))
}

pub(crate) fn wait_for_start(sync: &Sync) -> Result<(), InitFailure> {
    let lost = |errno| InitFailure::new(Step::Start, "", errno);
    sync.send(&Message::Ready, None).map_err(lost)?;
    match sync.receive().map_err(lost)? {
        Some((Message::Start, _)) => Ok(()),
        _ => Err(lost(Errno::CANCELED)),
    }
}
