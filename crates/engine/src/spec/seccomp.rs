//! Which system call filter a container gets: `--security-opt seccomp=...`, as docker reads it.
//!
//! The default is the built-in profile, but none with `--privileged`; a profile that is named explicitly holds there
//! too. Profiles are evaluated for the capabilities that the container keeps.

use hull_kernel::capabilities::Capabilities;
use hull_oci::runtime::LinuxSeccomp;

use super::{Machine, SpecError};
use crate::request::{CreateContainer, SeccompChoice};
use crate::seccomp_profile::{Target, builtin, evaluate, parse_profile};

/// The `linux.seccomp` of a request, or none.
///
/// # Errors
/// [`SpecError::Seccomp`] when the profile is not usable.
pub(crate) fn filter(
    request: &CreateContainer,
    kept: Capabilities,
    machine: &Machine,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    let target = Target::here(kept, machine.kernel);
    match &request.seccomp {
        SeccompChoice::Unconfined => Ok(None),
        SeccompChoice::Default if request.privileged => Ok(None),
        SeccompChoice::Default => Ok(Some(builtin(&target))),
        SeccompChoice::Profile(json) => Ok(evaluate(&parse_profile(json)?, &target)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(seccomp: SeccompChoice, privileged: bool) -> Result<Option<LinuxSeccomp>, SpecError> {
        let machine =
            Machine { cpus: vec![0], capabilities: Capabilities::ALL, kernel: (6, 1), thermal_throttle: false };
        let request = CreateContainer { seccomp, privileged, ..CreateContainer::default() };
        filter(&request, Capabilities::default(), &machine)
    }

    #[test]
    fn privileged_drops_only_the_default() {
        let profile = || SeccompChoice::Profile(r#"{"defaultAction":"SCMP_ACT_LOG"}"#.to_owned());
        let action = |choice, privileged| chosen(choice, privileged).unwrap().map(|filter| filter.default_action);
        assert_eq!(action(SeccompChoice::Default, false).as_deref(), Some("SCMP_ACT_ERRNO"));
        assert_eq!(action(SeccompChoice::Default, true), None);
        assert_eq!(action(SeccompChoice::Unconfined, false), None);
        assert_eq!(action(profile(), false).as_deref(), Some("SCMP_ACT_LOG"));
        assert_eq!(action(profile(), true).as_deref(), Some("SCMP_ACT_LOG"));
    }

    #[test]
    fn a_bad_profile_is_refused() {
        let error = chosen(SeccompChoice::Profile("{".to_owned()), false).unwrap_err();
        assert_eq!(error.to_string(), "decoding seccomp profile failed");
    }
}
