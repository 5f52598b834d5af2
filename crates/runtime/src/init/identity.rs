//! Who the process is: user, groups, umask, capabilities, no_new_privs and the seccomp filter, in the order in
//! which each still has the right to be set.
//!
//! The bounding set goes while CAP_SETPCAP is held; the user changes with the permitted set kept; the capability sets
//! follow. The filter is last with no_new_privs, and before capabilities are dropped without it, because loading it
//! then needs CAP_SYS_ADMIN (seccomp(2)). From then on its agent, where it has one, may be asked about every call.

use std::os::fd::{AsFd, RawFd};

use std::fs::File;
use std::io::Read;

use hull_kernel::capabilities::{self, ProcessCapabilities};
use hull_kernel::seccomp::Program;
use hull_sys::process as sys;
use rustix::fs::{PROC_SUPER_MAGIC, fstatfs};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, umask};
use rustix::thread::{
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::program::Numbers;
use crate::failure::{InitFailure, Step};
use crate::plan::ProcessPlan;
use crate::sync::hand_over_listener;

/// Whether setgroups(2) works in the process' user namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GroupChange {
    /// It does.
    #[default]
    Allowed,
    /// It was given up for the right to map a group without root's rights (user_namespaces(7)).
    Denied,
}

/// What [`ProcessPlan`] says about identity, borrowed.
pub(super) struct Credentials<'a> {
    uid: u32,
    gid: u32,
    groups: &'a [u32],
    group_change: GroupChange,
    umask: u32,
    capabilities: Option<&'a ProcessCapabilities>,
    no_new_privileges: bool,
    seccomp: Option<&'a Program>,
    sync_number: RawFd,
}

impl<'a> Credentials<'a> {
    /// Of a plan.
    pub(super) fn of(plan: &'a ProcessPlan) -> Credentials<'a> {
        Credentials {
            uid: plan.uid,
            gid: plan.gid,
            groups: &plan.groups,
            group_change: plan.group_change,
            umask: plan.umask,
            capabilities: plan.capabilities.as_ref(),
            no_new_privileges: plan.no_new_privileges,
            seccomp: plan.seccomp.as_ref(),
            sync_number: Numbers::of(plan).sync,
        }
    }

    /// Puts all of it in force.
    pub(super) fn assume(&self) -> Result<(), InitFailure> {
        if let Some(sets) = self.capabilities {
            capabilities::limit_bounding(sets.bounding)
                .map_err(|error| InitFailure::because(Step::Capabilities, "", error))?;
        }
        if !self.no_new_privileges {
            self.load_filter()?;
        }
        self.change_user()?;
        if let Some(sets) = self.capabilities {
            capabilities::apply(sets).map_err(|error| InitFailure::because(Step::Capabilities, "", error))?;
        }
        if self.no_new_privileges {
            set_no_new_privs(true).map_err(|errno| InitFailure::new(Step::Capabilities, "no_new_privs", errno))?;
            self.load_filter()?;
        }
        Ok(())
    }

    fn load_filter(&self) -> Result<(), InitFailure> {
        let Some(program) = self.seccomp else { return Ok(()) };
        let failed = |error: std::io::Error| InitFailure::because(Step::Seccomp, "", error);
        let Some(listener) = program.load().map_err(failed)? else { return Ok(()) };
        let handed_over = sys::with_inherited(self.sync_number, |socket| hand_over_listener(socket, listener.as_fd()));
        // It is close-on-exec; closing it here might be a call that the agent is asked about.
        std::mem::forget(listener);
        handed_over.map_err(|errno| InitFailure::new(Step::Seccomp, "handing over its listener", errno))
    }

    fn change_user(&self) -> Result<(), InitFailure> {
        let failed = |errno| InitFailure::new(Step::User, format!("{}:{}", self.uid, self.gid), errno);
        umask(rustix::fs::Mode::from_raw_mode(self.umask));
        set_keep_capabilities(true).map_err(failed)?;
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        let change = set_groups(&groups, self.group_change).map_err(failed)?;
        if change == GroupChange::Denied && !groups.is_empty() {
            let why = "additional groups cannot be set: the user namespace denies setgroups";
            return Err(InitFailure::because(Step::User, format!("{}:{}", self.uid, self.gid), why));
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_thread_res_gid(gid, gid, gid).map_err(failed)?;
        set_thread_res_uid(uid, uid, uid).map_err(failed)?;
        set_keep_capabilities(false).map_err(failed)
    }
}

/// Sets the groups, unless that is denied.
fn set_groups(groups: &[Gid], change: GroupChange) -> Result<GroupChange, Errno> {
    if change == GroupChange::Denied {
        return Ok(change);
    }
    match set_thread_groups(groups) {
        Err(Errno::PERM) if is_denied() => Ok(GroupChange::Denied),
        other => other.map(|()| GroupChange::Allowed),
    }
}

/// Whether the kernel says so, in a procfs that is one.
fn is_denied() -> bool {
    let Ok(mut file) = File::open("/proc/self/setgroups") else { return false };
    let mut text = String::new();
    fstatfs(&file).is_ok_and(|stat| stat.f_type == PROC_SUPER_MAGIC)
        && file.read_to_string(&mut text).is_ok()
        && text.trim_end() == "deny"
}

/// Becomes uid and gid 0 of the user namespace just entered.
pub(crate) fn become_root() -> Result<GroupChange, Errno> {
    let change = set_groups(&[], GroupChange::Allowed)?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    Ok(change)
}
