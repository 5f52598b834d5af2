//! The limits of a container that exists: changing them, and reading what it uses.
//!
//! Changes go into the cgroup alone. What is not given stays; device rules stay whatever is given, because others (GPU
//! tools) add to them.

use hull_kernel::cgroups::{Cgroup, CgroupError, Stats};
use hull_oci::runtime::{LinuxResources, Status};

use super::record::Record;
use super::{ContainerError, Containers, status};
use crate::plan::cgroup_limits;

impl Containers {
    /// Changes the limits of a container that has not ended.
    ///
    /// # Errors
    /// [`ContainerError::NotRunning`], the field that makes no sense, and what the kernel refuses.
    pub fn update(&self, id: &str, resources: &LinuxResources) -> Result<(), ContainerError> {
        let mut limits = cgroup_limits(resources)?;
        limits.devices.clear();
        // In a new cgroup the killer is on already; in one in use it may have to be turned on again.
        limits.oom_kill_disable = resources.memory.as_ref().and_then(|memory| memory.disable_oom_killer);
        Ok(self.cgroup_in_use(id)?.update(&limits)?)
    }

    /// What a container has used and is using.
    ///
    /// # Errors
    /// [`ContainerError::NotRunning`], and what cannot be read.
    pub fn stats(&self, id: &str) -> Result<Stats, ContainerError> {
        Ok(self.cgroup_in_use(id)?.stats()?)
    }

    /// The cgroup of a container that has not ended.
    ///
    /// # Errors
    /// [`ContainerError::NotRunning`] when it has.
    pub fn cgroup_in_use(&self, id: &str) -> Result<Cgroup, ContainerError> {
        let folder = self.folder(id)?;
        let record = Record::read(&folder)?;
        match status(&folder, &record)? {
            Status::Stopped => Err(ContainerError::NotRunning),
            _ => record.cgroup()?.ok_or(ContainerError::Cgroup(CgroupError::NothingMounted)),
        }
    }
}
