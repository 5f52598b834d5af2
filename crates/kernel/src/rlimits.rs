//! Resource limits of a process (setrlimit(2)).
//!
//! A hard limit can only be raised with CAP_SYS_RESOURCE, which restricted hosts lack even as root; the error
//! says so and names both values, so that a caller may clamp or give up.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The value that means "no limit" in OCI and in struct rlimit64.
pub const UNLIMITED: u64 = u64::MAX;

/// Resource names without `RLIMIT_`, lower case, as docker's `--ulimit` and getrlimit(2) know them.
pub const NAMES: [(&str, Resource); 16] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

/// The resource called `name`, with or without `RLIMIT_`, in any case.
pub fn resource(name: &str) -> Option<Resource> {
    let lower = name.to_ascii_lowercase();
    let bare = lower.strip_prefix("rlimit_").unwrap_or(&lower);
    NAMES.iter().find(|(known, _)| *known == bare).map(|(_, resource)| *resource)
}

/// A limit that could not be set.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RlimitError {
    /// The hard limit is above the caller's and CAP_SYS_RESOURCE is missing.
    #[error("hard limit {wanted} is above this host's {allowed}, and raising it needs CAP_SYS_RESOURCE")]
    AboveHost {
        /// Hard limit asked for.
        wanted: u64,
        /// Hard limit of the caller.
        allowed: u64,
    },
    /// Anything else.
    #[error("setrlimit soft {soft} hard {hard}: {errno}")]
    Refused {
        /// Soft limit asked for.
        soft: u64,
        /// Hard limit asked for.
        hard: u64,
        /// Why.
        errno: Errno,
    },
}

/// Sets the limit of this process.
///
/// # Errors
/// See [`RlimitError`].
pub fn set(resource: Resource, soft: u64, hard: u64) -> Result<(), RlimitError> {
    let value = |limit: u64| (limit != UNLIMITED).then_some(limit);
    match setrlimit(resource, Rlimit { current: value(soft), maximum: value(hard) }) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => {
            let allowed = getrlimit(resource).maximum.unwrap_or(UNLIMITED);
            Err(RlimitError::AboveHost { wanted: hard, allowed })
        }
        Err(errno) => Err(RlimitError::Refused { soft, hard, errno }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_every_spelling() {
        assert!(matches!(resource("RLIMIT_NOFILE"), Some(Resource::Nofile)));
        assert!(matches!(resource("rttime"), Some(Resource::Rttime)));
        assert!(resource("RLIMIT_NONSENSE").is_none());
    }

    #[test]
    fn soft_above_hard_is_refused() {
        assert!(matches!(set(Resource::Core, 10, 5), Err(RlimitError::Refused { errno: Errno::INVAL, .. })));
    }
}
