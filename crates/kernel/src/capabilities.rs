//! Capabilities (capabilities(7)): names, the five sets of a process, and putting them in force.
//!
//! A set is one bit per capability, as the kernel prints it in `/proc/PID/status`. Applying is in two steps
//! because the bounding set can only shrink while CAP_SETPCAP is still held, before the user changes, and the
//! ambient set can only be raised after the inheritable one.

use std::fmt;

use rustix::io::Errno;
use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// Capability names without `CAP_`, by number (linux/capability.h up to CAP_CHECKPOINT_RESTORE).
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities, bit n for capability number n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Every capability that this file knows.
    pub const ALL: Capabilities = Capabilities((1 << NAMES.len()) - 1);

    /// Adds the capability called `name`, with or without `CAP_`, in any case; `false` when there is none such.
    pub fn insert(&mut self, name: &str) -> bool {
        match number(name) {
            Some(bit) => {
                self.0 |= 1 << bit;
                true
            }
            None => false,
        }
    }

    /// Whether capability `number` is in the set.
    pub fn has(self, number: usize) -> bool {
        self.0 & (1 << number) != 0
    }

    /// What is in both sets.
    pub fn intersection(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & other.0)
    }

    /// Names with `CAP_`, by number.
    pub fn names(self) -> impl Iterator<Item = String> {
        NAMES.iter().enumerate().filter(move |(n, _)| self.has(*n)).map(|(_, name)| format!("CAP_{name}"))
    }
}

/// The number of the capability called `name`, with or without `CAP_`, in any case.
pub fn number(name: &str) -> Option<usize> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == bare)
}

/// The five sets of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessCapabilities {
    /// What file capabilities may give at an exec.
    pub bounding: Capabilities,
    /// In force.
    pub effective: Capabilities,
    /// Kept over an exec together with the file's inheritable set.
    pub inheritable: Capabilities,
    /// May be made effective.
    pub permitted: Capabilities,
    /// Kept over an exec of an ordinary program.
    pub ambient: Capabilities,
}

/// A step of putting capabilities in force that the kernel refused.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("{step} failed{}: {errno}", DisplayCapability(*capability))]
pub struct CapabilityError {
    /// The call.
    pub step: &'static str,
    /// The capability's number, when one call handles one.
    pub capability: Option<usize>,
    /// Why.
    pub errno: Errno,
}

struct DisplayCapability(Option<usize>);

impl fmt::Display for DisplayCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.and_then(|n| NAMES.get(n)) {
            Some(name) => write!(f, " for CAP_{name}"),
            None => Ok(()),
        }
    }
}

/// Drops everything outside `keep` from the bounding set. Needs CAP_SETPCAP for what has to go.
///
/// # Errors
/// The capability that could not be dropped.
pub fn limit_bounding(keep: Capabilities) -> Result<(), CapabilityError> {
    // Numbers beyond the table belong to newer kernels: nobody asked for them, so they go too.
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if keep.has(bit) {
            continue;
        }
        match thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(Errno::INVAL) => return Ok(()),
            Err(errno) => return Err(CapabilityError { step: "PR_CAPBSET_DROP", capability: Some(bit), errno }),
        }
    }
    Ok(())
}

/// Sets the effective, permitted and inheritable sets, then the ambient one.
///
/// What the caller does not hold itself cannot be given and is left out, as runc does (a nested or restricted
/// host); ambient capabilities outside the result are left out for the same reason.
///
/// # Errors
/// The call that failed.
pub fn apply(wanted: &ProcessCapabilities) -> Result<(), CapabilityError> {
    let have =
        thread::capabilities(None).map_err(|errno| CapabilityError { step: "capget", capability: None, errno })?;
    let held = Capabilities(have.permitted.bits());
    let permitted = wanted.permitted.intersection(held);
    let inheritable = wanted.inheritable.intersection(held);
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(wanted.effective.intersection(permitted).0),
        permitted: CapabilitySet::from_bits_retain(permitted.0),
        inheritable: CapabilitySet::from_bits_retain(inheritable.0),
    };
    thread::set_capabilities(None, sets).map_err(|errno| CapabilityError {
        step: "capset",
        capability: None,
        errno,
    })?;
    thread::clear_ambient_capability_set().map_err(|errno| CapabilityError {
        step: "PR_CAP_AMBIENT_CLEAR_ALL",
        capability: None,
        errno,
    })?;
    let ambient = wanted.ambient.intersection(permitted).intersection(inheritable);
    for bit in (0..NAMES.len()).filter(|bit| ambient.has(*bit)) {
        thread::configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(1 << bit), true)
            .map_err(|errno| CapabilityError { step: "PR_CAP_AMBIENT_RAISE", capability: Some(bit), errno })?;
    }
    Ok(())
}

/// The capabilities that this process may hand on: its permitted set.
///
/// # Errors
/// capget(2)'s.
pub fn held() -> Result<Capabilities, CapabilityError> {
    thread::capabilities(None).map(|sets| Capabilities(sets.permitted.bits())).map_err(|errno| CapabilityError {
        step: "capget",
        capability: None,
        errno,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree_with_the_kernel_header() {
        for (name, expected) in
            [("CAP_CHOWN", 0), ("setpcap", 8), ("CAP_SYS_ADMIN", 21), ("cap_checkpoint_restore", 40)]
        {
            assert_eq!(number(name), Some(expected), "{name}");
        }
        assert_eq!(number("CAP_NONSENSE"), None);
    }

    #[test]
    fn a_set_lists_its_names_in_order() {
        let mut set = Capabilities::default();
        assert!(set.insert("NET_RAW") && set.insert("chown"));
        assert_eq!(set.names().collect::<Vec<_>>(), ["CAP_CHOWN", "CAP_NET_RAW"]);
    }
}
