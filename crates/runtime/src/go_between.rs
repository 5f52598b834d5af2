//! A process between the creator and the container's first one, for namespaces that have to be entered before they can
//! be left to their owner (user_namespaces(7), pid_namespaces(7)).
//!
//! What clone3(2) makes belongs to the user namespace of its caller, so with a user namespace that is joined the caller
//! has to be in it already; and what belongs to the host can be joined only by a process that is not yet in a user
//! namespace of its own. The creator can do neither without losing its rights over the host. So a clone of it joins, and
//! clones the container's process as its own sibling (`CLONE_PARENT`): for everybody else that one is a child like any
//! other. The go-between sends its id and pidfd to the creator and ends; who waits for the container's process reaps it.
//!
//! It is not dumpable, so no process of a namespace that it joins can look into it.

use std::os::fd::{AsFd, BorrowedFd};

use hull_sys::process::{self as sys, Cloned};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::create::CreateError;
use crate::failure::{InitFailure, Step};
use crate::id_map;
use crate::init;
use crate::plan::NamespacePlan;
use crate::sync::{Message, Sync};

/// Clones a process through a go-between, which calls `enter` to join namespaces and makes those of `create`
/// (`CLONE_NEW*`). `sibling` makes the process the creator's sibling instead of its child. The go-between is born in the
/// cgroup, by the creator's rights, and the process with it.
///
/// # Errors
/// What the go-between could not join, and clone3(2)'s.
pub(crate) fn clone(
    enter: impl FnOnce() -> Result<(), InitFailure>,
    create: i32,
    sibling: bool,
    into_cgroup: Option<BorrowedFd<'_>>,
) -> Result<Cloned, CreateError> {
    let (ours, theirs) = Sync::pair().map_err(CreateError::Conversation)?;
    let parent = if sibling { sys::CLONE_PARENT as u64 } else { 0 };
    match sys::clone3(parent, into_cgroup).map_err(CreateError::Clone)? {
        Cloned::Child => {
            drop(ours);
            match init::hide().and_then(|()| enter()).and_then(|()| clone_sibling(create)) {
                Ok(Cloned::Child) => Ok(Cloned::Child),
                Ok(Cloned::Parent { pid, pidfd }) => {
                    // A creator that is gone needs no answer, and the process sees the end of its own conversation.
                    let _ = theirs.send(&Message::Process(pid), Some(pidfd.as_fd()));
                    sys::exit_now(0)
                }
                Err(failure) => init::fail(&theirs, failure),
            }
        }
        Cloned::Parent { pid: between, .. } => {
            drop(theirs);
            let answer = ours.receive().map_err(CreateError::Conversation);
            if !sibling {
                reap(between);
            }
            match answer? {
                Some((Message::Process(pid), Some(pidfd))) => Ok(Cloned::Parent { pid, pidfd }),
                Some((Message::Failed(failure), _)) => Err(failure.into()),
                Some(_) => Err(CreateError::Conversation(Errno::PROTO)),
                None => Err(CreateError::Died(false)),
            }
        }
    }
}

fn clone_sibling(create: i32) -> Result<Cloned, InitFailure> {
    sys::clone3(create as u64 | sys::CLONE_PARENT as u64, None)
        .map_err(|error| InitFailure::because(Step::Namespace, "clone3", error))
}

/// Joins what a container joins. A namespace that belongs to the user namespace is refused to a creator without rights
/// over that one, so what is refused before the user namespace is joined is tried again in it.
pub(crate) fn enter(spaces: &NamespacePlan) -> Result<(), InitFailure> {
    let failed = |error| InitFailure::because(Step::Namespace, "", error);
    let user = spaces.joined_user();
    let pid = spaces.join_pid.iter().map(|fd| (sys::CLONE_NEWPID, fd.as_fd()));
    let others = spaces.join.iter().map(|(kind, fd)| (*kind, fd.as_fd()));
    let mut refused = Vec::new();
    for (kind, namespace) in others.filter(|(kind, _)| *kind != sys::CLONE_NEWUSER).chain(pid) {
        match sys::setns(namespace, kind) {
            Err(error) if user.is_some() && Errno::from_io_error(&error) == Some(Errno::PERM) => {
                refused.push((kind, namespace));
            }
            other => other.map_err(failed)?,
        }
    }
    if let Some(user) = user {
        sys::setns(user, sys::CLONE_NEWUSER).map_err(failed)?;
        compare_maps(spaces)?;
    }
    for (kind, namespace) in refused {
        sys::setns(namespace, kind).map_err(failed)?;
    }
    Ok(())
}

/// Engines give the maps of a namespace along with its path; they must be the ones that it has.
fn compare_maps(spaces: &NamespacePlan) -> Result<(), InitFailure> {
    for (file, given) in [("uid_map", &spaces.uid_map), ("gid_map", &spaces.gid_map)] {
        if !given.is_empty() && id_map::read_own(file).as_ref() != Some(given) {
            let why = "linux.uidMappings and linux.gidMappings are not those of the user namespace that is joined";
            return Err(InitFailure::because(Step::UserNamespace, file, why));
        }
    }
    Ok(())
}

fn reap(between: i32) {
    if let Some(between) = Pid::from_raw(between) {
        while matches!(waitpid(Some(between), WaitOptions::empty()), Err(Errno::INTR)) {}
    }
}
