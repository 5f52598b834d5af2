//! Changing a container's limits, at once when it runs and for its next start.
//!
//! What is not given stays, as with docker: zero and empty ask for nothing, except for rates, where zero takes the limit
//! away. The kernel comes first and the request afterwards, so that a refusal leaves the request as it was; a kill in
//! between leaves limits that are those of the next start only after the same command.
//!
//! Memory and swap are one number with docker. Whoever changes memory alone keeps the sum that there was, also when that
//! sum came from the memory limit (twice as much), and is refused memory above it.

use hull_network::bandwidth::BandwidthChange;
use hull_oci::runtime::LinuxResources;
use hull_runtime::plan::cgroup_limits;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::id::ContainerId;
use crate::lifecycle::external;
use crate::lifecycle::state::Action;
use crate::machine::Machine;
use crate::request::{CreateContainer, ResourceRequest};
use crate::row::ContainerRow;
use crate::spec::limits;

/// What is to be different.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpdateContainer {
    /// Limits; those that are absent stay.
    pub resources: ResourceRequest,
    /// Rates.
    pub bandwidth: BandwidthChange,
}

/// A limit that another one does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpdateConflict {
    /// More memory than memory and swap together.
    #[error("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")]
    MemoryAboveSwap,
}

impl UpdateContainer {
    /// Whether nothing is to be different.
    pub fn is_empty(&self) -> bool {
        self.resources == ResourceRequest::default() && self.bandwidth.is_empty()
    }

    /// A request with the change.
    fn apply(&self, before: &CreateContainer) -> Result<CreateContainer, UpdateConflict> {
        let mut after = before.clone();
        after.resources = merge(&before.resources, &self.resources)?;
        after.bandwidth = self.bandwidth.apply(&before.bandwidth);
        if after.bandwidth.is_unlimited() {
            // Without a rate there is nothing to burst.
            after.bandwidth.burst_bytes = self.bandwidth.burst_bytes.flatten();
        }
        Ok(after)
    }
}

impl Engine {
    /// Changes a container's limits.
    ///
    /// # Errors
    /// [`EngineError::Update`] with what is wrong; nothing has changed then, as far as the kernel goes back.
    pub fn update(&self, name: &str, change: &UpdateContainer) -> Result<(), EngineError> {
        let row = self.row(name)?;
        let failed = |source| EngineError::Update { id: row.id.clone(), source: Box::new(source) };
        let state = self.state_of(&row)?;
        self.accept(name, &state, Action::Update)?;
        let before = self.record(&row.id)?.request;
        let after = self.accepted(&before, change).map_err(failed)?;
        if state.is_running() {
            self.enforce(&row, &before, &after).map_err(failed)?;
        }
        // Another update may have come between; what this one changes is changed in what there is now.
        let noted = self.change_request(&row.id, |request| {
            *request = change.apply(request)?;
            Ok(())
        });
        noted.map_err(failed)
    }

    /// The request with the change, when it holds.
    fn accepted(&self, before: &CreateContainer, change: &UpdateContainer) -> Result<CreateContainer, EngineError> {
        let after = change.apply(before)?;
        limits::check(&after, &Machine::read()?)?;
        self.check_bandwidth(&after)?;
        Ok(after)
    }

    /// Has the kernel do it. When the cgroup refuses something, what came before it goes back.
    fn enforce(
        &self,
        row: &ContainerRow,
        before: &CreateContainer,
        after: &CreateContainer,
    ) -> Result<(), EngineError> {
        let changes_rates = before.bandwidth != after.bandwidth;
        if changes_rates {
            self.limit_bandwidth(&row.id, &before.bandwidth, &after.bandwidth)?;
        }
        let enforced = self.limit(&row.id, before, after);
        if enforced.is_err() {
            // The refusal is what the user needs to hear.
            let _ = self.limit(&row.id, after, before);
            if changes_rates {
                let _ = self.limit_bandwidth(&row.id, &after.bandwidth, &before.bandwidth);
            }
        }
        enforced
    }

    fn limit(&self, id: &ContainerId, before: &CreateContainer, after: &CreateContainer) -> Result<(), EngineError> {
        let resources = difference(&before.resources, &after.resources);
        if resources == LinuxResources::default() {
            return Ok(());
        }
        match &after.runtime {
            Some(program) => {
                let state = self.roots().runtime_state(id.as_str());
                Ok(external::update(program.as_ref(), &state, id.as_str(), &resources)?)
            }
            None => Ok(self.cgroup(id)?.update(&cgroup_limits(&resources)?)?),
        }
    }
}

/// The sections in which something is different, whole: a quota needs its period, memory its swap.
fn difference(before: &ResourceRequest, after: &ResourceRequest) -> LinuxResources {
    let (before, after) = (limits::resources(before), limits::resources(after));
    LinuxResources {
        memory: after.memory.filter(|memory| before.memory.as_ref() != Some(memory)),
        cpu: after.cpu.filter(|cpu| before.cpu.as_ref() != Some(cpu)),
        pids: after.pids.filter(|pids| before.pids.as_ref() != Some(pids)),
        ..LinuxResources::default()
    }
}

/// What there was, with what is given.
fn merge(before: &ResourceRequest, change: &ResourceRequest) -> Result<ResourceRequest, UpdateConflict> {
    let sum = limits::memory_and_swap(before.memory_bytes, before.memory_swap_bytes);
    let memory_swap_bytes = match (change.memory_bytes, change.memory_swap_bytes, sum) {
        (_, Some(swap), _) => Some(swap),
        (Some(memory), None, Some(sum)) if u64::try_from(sum).is_ok_and(|sum| memory > sum) => {
            return Err(UpdateConflict::MemoryAboveSwap);
        }
        (Some(_), None, sum) => sum,
        (None, None, _) => before.memory_swap_bytes,
    };
    Ok(ResourceRequest {
        memory_bytes: change.memory_bytes.or(before.memory_bytes),
        memory_swap_bytes,
        memory_reservation_bytes: change.memory_reservation_bytes.or(before.memory_reservation_bytes),
        nano_cpus: change.nano_cpus.or(before.nano_cpus),
        cpu_shares: change.cpu_shares.or(before.cpu_shares),
        cpuset_cpus: change.cpuset_cpus.clone().or_else(|| before.cpuset_cpus.clone()),
        pids_limit: change.pids_limit.or(before.pids_limit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn memory(mib: u64, swap_mib: Option<i64>) -> ResourceRequest {
        ResourceRequest {
            memory_bytes: (mib > 0).then_some(mib * MIB),
            memory_swap_bytes: swap_mib.map(|mib| if mib < 0 { mib } else { mib * MIB as i64 }),
            ..ResourceRequest::default()
        }
    }

    #[test]
    fn the_sum_of_memory_and_swap_stays() {
        let merged = |before, change| merge(&before, &change);
        assert_eq!(merged(memory(64, None), memory(100, None)), Ok(memory(100, Some(128))));
        assert_eq!(merged(memory(64, None), memory(129, None)), Err(UpdateConflict::MemoryAboveSwap));
        assert_eq!(merged(memory(64, Some(-1)), memory(500, None)), Ok(memory(500, Some(-1))));
        assert_eq!(merged(memory(64, None), memory(500, Some(600))), Ok(memory(500, Some(600))));
        assert_eq!(merged(memory(0, None), memory(64, None)), Ok(memory(64, None)));
        assert_eq!(merged(memory(64, Some(80)), memory(0, Some(-1))), Ok(memory(64, Some(-1))));
    }

    #[test]
    fn what_is_not_given_stays_and_only_what_differs_is_told_to_the_kernel() {
        let before = ResourceRequest { nano_cpus: Some(500_000_000), pids_limit: Some(10), ..memory(64, None) };
        let change = ResourceRequest { pids_limit: Some(-1), cpu_shares: Some(512), ..ResourceRequest::default() };
        let after = merge(&before, &change).unwrap();
        assert_eq!((after.nano_cpus, after.memory_bytes), (Some(500_000_000), Some(64 * MIB)));
        let told = difference(&before, &after);
        assert_eq!(told.memory, None);
        assert_eq!(told.pids.unwrap().limit, Some(-1));
        let cpu = told.cpu.unwrap();
        assert_eq!((cpu.shares, cpu.quota, cpu.period), (Some(512), Some(50_000), Some(100_000)));
        assert_eq!(difference(&before, &before), LinuxResources::default());
    }
}
