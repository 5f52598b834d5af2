//! What of this machine a spec depends on, read once per command: CPUs, capabilities, kernel release.
//!
//! Everything that derives a spec takes a [`Machine`] value and reads nothing itself, so that the same request gives
//! the same spec on the same machine, and tests can name any machine.

use std::fs;
use std::io;
use std::path::Path;

use hull_kernel::capabilities::{self, Capabilities, CapabilityError};

use crate::spec::parse_cpuset;

/// Facts about the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Online CPUs in ascending order.
    pub cpus: Vec<u32>,
    /// Capabilities that this process can hand on.
    pub capabilities: Capabilities,
    /// Kernel version: major and minor.
    pub kernel: (u32, u32),
    /// Whether the CPUs report throttling in sysfs, which containers must not read.
    pub thermal_throttle: bool,
}

/// A fact that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The list of CPUs.
    #[error("cannot read the list of CPUs from {path}")]
    Cpus {
        /// File in sysfs.
        path: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// Own capabilities.
    #[error("cannot read this process' capabilities")]
    Capabilities(#[source] CapabilityError),
}

const ONLINE_CPUS: &str = "/sys/devices/system/cpu/online";

impl Machine {
    /// Reads the machine's facts.
    ///
    /// # Errors
    /// When sysfs does not list CPUs or capget(2) fails.
    pub fn read() -> Result<Machine, MachineError> {
        let failed = |source| MachineError::Cpus { path: ONLINE_CPUS, source };
        let online = fs::read_to_string(ONLINE_CPUS).map_err(failed)?;
        let cpus = parse_cpuset(&online).ok_or_else(|| failed(io::Error::from(io::ErrorKind::InvalidData)))?;
        Ok(Machine {
            cpus,
            capabilities: capabilities::held().map_err(MachineError::Capabilities)?,
            kernel: kernel_version(&rustix::system::uname().release().to_string_lossy()),
            thermal_throttle: Path::new("/sys/devices/system/cpu/cpu0/thermal_throttle").exists(),
        })
    }

    /// Four CPUs, every capability, Linux 6.12: what tests derive specs for.
    #[cfg(test)]
    pub(crate) fn example() -> Machine {
        Machine { cpus: vec![0, 1, 2, 3], capabilities: Capabilities::ALL, kernel: (6, 12), thermal_throttle: false }
    }
}

fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        assert_eq!(kernel_version("6.12.9-amd64"), (6, 12));
        assert_eq!(kernel_version("6.1"), (6, 1));
        assert_eq!(kernel_version("odd"), (0, 0));
    }

    #[test]
    fn this_machine_has_a_cpu() {
        assert!(!Machine::read().unwrap().cpus.is_empty());
    }
}
