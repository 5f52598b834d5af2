//! The program, its rights and its limits: `process` of config.json, decided.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use hull_kernel::capabilities::{Capabilities, ProcessCapabilities};
use hull_kernel::rlimits;
use hull_kernel::seccomp::Program;
use hull_oci::runtime::{Linux, LinuxCapabilities, Process, State};
use rustix::process::Resource;
use rustix::termios::Winsize;

use super::labels::LabelPlan;
use super::placement::{self, Placement};
use super::{PlanError, Streams};
use crate::filters::{Filters, compile};
use crate::hooks::HookPlan;
use crate::init::GroupChange;
use crate::listener::Listener;
use crate::own_program;

/// What is executed and with which rights.
#[derive(Debug)]
pub struct ProcessPlan {
    /// Argument vector; the first is the program.
    pub args: Vec<String>,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// Working directory inside; made when missing.
    pub cwd: PathBuf,
    /// User id inside the user namespace.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Whether they can be set, as the process finds out.
    pub group_change: GroupChange,
    /// File mode creation mask.
    pub umask: u32,
    /// The five sets; `None` leaves what the caller has.
    pub capabilities: Option<ProcessCapabilities>,
    /// Resource limits: which, soft, hard, and its name for errors.
    pub rlimits: Vec<(Resource, u64, u64, String)>,
    /// Set `no_new_privs`.
    pub no_new_privileges: bool,
    /// oom_score_adj(5).
    pub oom_score_adj: Option<i32>,
    /// When and where it runs.
    pub placement: Placement,
    /// AppArmor profile and SELinux label.
    pub labels: LabelPlan,
    /// Compiled filter.
    pub seccomp: Option<Program>,
    /// The agent of a filter that notifies.
    pub listener: Option<Listener>,
    /// Initial size of the terminal, when there is one.
    pub terminal: Option<Winsize>,
    /// Streams, when there is no terminal.
    pub streams: Option<Streams>,
    /// How many descriptors of the caller, from 3 on, stay open in the program.
    pub kept_fds: i32,
    /// Hull's own program, through a read-only mount, when its init is to be PID 1 and the program its child.
    pub init_program: Option<OwnedFd>,
    /// The container's hooks, when this is its first process.
    pub hooks: Option<HookPlan>,
}

impl ProcessPlan {
    /// `PATH` of the program's environment, or the one that execvp(3) falls back to.
    pub fn search_path(&self) -> &str {
        self.env.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or("/bin:/usr/bin")
    }
}

/// Reads `process` and what of `linux` holds for one process: its filter, memory policy and personality.
pub(crate) fn plan(
    process: &Process,
    linux: &Linux,
    streams: Option<Streams>,
    init: bool,
    filters: Option<&Filters>,
    state: impl FnOnce() -> State,
) -> Result<ProcessPlan, PlanError> {
    check(process, streams.is_some())?;
    let terminal = process.terminal.then(|| {
        let size = process.console_size.clone().unwrap_or_default();
        let cells = |count: u64| u16::try_from(count).unwrap_or(u16::MAX);
        Winsize { ws_row: cells(size.height), ws_col: cells(size.width), ws_xpixel: 0, ws_ypixel: 0 }
    });
    let seccomp = linux.seccomp.as_ref().map(|seccomp| match filters {
        Some(filters) => filters.compiled(seccomp),
        None => compile(seccomp),
    });
    let seccomp = seccomp.transpose()?;
    let notifies = seccomp.as_ref().is_some_and(Program::notifies);
    let listener = linux.seccomp.as_ref().filter(|_| notifies).and_then(|seccomp| Listener::of(seccomp, state()));
    Ok(ProcessPlan {
        args: process.args.clone(),
        env: process.env.clone(),
        cwd: process.cwd.clone(),
        uid: process.user.uid,
        gid: process.user.gid,
        groups: process.user.additional_gids.clone(),
        group_change: GroupChange::default(),
        umask: process.user.umask.unwrap_or(0o022),
        capabilities: process.capabilities.as_ref().map(capabilities).transpose()?,
        rlimits: rlimits(process)?,
        no_new_privileges: process.no_new_privileges,
        oom_score_adj: process.oom_score_adj,
        labels: LabelPlan::of(process)?,
        placement: placement::plan(process, linux)?,
        seccomp,
        listener,
        terminal,
        streams,
        kept_fds: 0,
        init_program: if init { Some(init_program()?) } else { None },
        hooks: None,
    })
}

/// What a container's PID 1 shows in /proc/1/exe is read-only, so that it cannot be used to overwrite the host's file.
fn init_program() -> Result<OwnedFd, PlanError> {
    own_program::read_only_mount()
        .map_err(|source| PlanError::MountSource { destination: "/proc/self/exe".into(), source })
}

fn check(process: &Process, has_streams: bool) -> Result<(), PlanError> {
    if process.args.first().is_none_or(String::is_empty) {
        return Err(PlanError::invalid("process.args", "must name a program"));
    }
    if !process.cwd.is_absolute() {
        return Err(PlanError::invalid("process.cwd", format!("{:?} is not an absolute path", process.cwd)));
    }
    if let Some(index) = process.env.iter().position(|variable| variable.starts_with('=') || !variable.contains('=')) {
        return Err(PlanError::invalid(format!("process.env[{index}]"), "is not of the form NAME=value"));
    }
    // setresuid(2) and setresgid(2) take the last one for "no change", which would be root.
    let ids = [("uid", process.user.uid), ("gid", process.user.gid)];
    let additional = process.user.additional_gids.iter().map(|gid| ("additionalGids", *gid));
    if let Some((field, id)) = ids.into_iter().chain(additional).find(|(_, id)| *id == u32::MAX) {
        return Err(PlanError::invalid(format!("process.user.{field}"), format!("{id} is no id")));
    }
    let has_nul = |strings: &[String]| strings.iter().any(|string| string.contains('\0'));
    if has_nul(&process.args) || has_nul(&process.env) {
        return Err(PlanError::invalid("process", "args and env must not hold NUL bytes"));
    }
    if let Some(score) = process.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
        return Err(PlanError::invalid("process.oomScoreAdj", format!("{score} is not between -1000 and 1000")));
    }
    if process.terminal == has_streams {
        return Err(PlanError::invalid("process.terminal", "a process has either a terminal or three streams"));
    }
    Ok(())
}

fn capabilities(sets: &LinuxCapabilities) -> Result<ProcessCapabilities, PlanError> {
    let set = |field: &str, names: &[String]| {
        let mut set = Capabilities::default();
        for (index, name) in names.iter().enumerate() {
            if !set.insert(name) {
                let field = format!("process.capabilities.{field}[{index}]");
                return Err(PlanError::invalid(field, format!("unknown capability {name:?}")));
            }
        }
        Ok(set)
    };
    Ok(ProcessCapabilities {
        bounding: set("bounding", &sets.bounding)?,
        effective: set("effective", &sets.effective)?,
        inheritable: set("inheritable", &sets.inheritable)?,
        permitted: set("permitted", &sets.permitted)?,
        ambient: set("ambient", &sets.ambient)?,
    })
}

fn rlimits(process: &Process) -> Result<Vec<(Resource, u64, u64, String)>, PlanError> {
    let mut planned: Vec<(Resource, u64, u64, String)> = Vec::new();
    for (index, limit) in process.rlimits.iter().enumerate() {
        let field = format!("process.rlimits[{index}]");
        let Some(resource) = rlimits::resource(&limit.type_) else {
            return Err(PlanError::invalid(field, format!("unknown resource limit {:?}", limit.type_)));
        };
        if planned.iter().any(|(_, _, _, name)| *name == limit.type_) {
            return Err(PlanError::invalid(field, format!("{} is listed twice", limit.type_)));
        }
        if limit.soft > limit.hard {
            return Err(PlanError::invalid(field, format!("{} soft limit is above the hard limit", limit.type_)));
        }
        planned.push((resource, limit.soft, limit.hard, limit.type_.clone()));
    }
    Ok(planned)
}
