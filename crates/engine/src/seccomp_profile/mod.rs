//! Seccomp profiles in docker's format, and the one that is built in.
//!
//! A profile file is the specification's `linux.seccomp` with conditions: each rule may hold only with certain
//! capabilities, on certain processors, or from a kernel version on. [`parse_profile`] reads and checks it once, when a
//! request is made; [`evaluate`] decides the conditions for one [`Target`] whenever a container starts; what comes out
//! is an ordinary `linux.seccomp`. [`builtin`] is the default and needs no parsing. Capabilities count as docker counts
//! them: those in the container's bounding set, all of `includes`, none of `excludes`.

mod builtin;
mod file;

#[cfg(test)]
mod tests;

use hull_kernel::capabilities::{Capabilities, number};
use hull_kernel::seccomp::Arch;
use hull_oci::runtime::LinuxSeccomp;
use hull_runtime::seccomp::SeccompSpecError;

pub use builtin::builtin;
pub use file::Profile;

use file::{Conditions, ProfileRule};

const ALLOW: &str = "SCMP_ACT_ALLOW";
const ERRNO: &str = "SCMP_ACT_ERRNO";

/// What a profile is evaluated for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The container's bounding set.
    pub capabilities: Capabilities,
    /// Kernel version, major and minor.
    pub kernel: (u32, u32),
    /// Native architecture.
    pub architecture: Arch,
}

impl Target {
    /// This machine, with a container's bounding set.
    pub fn here(capabilities: Capabilities, kernel: (u32, u32)) -> Self {
        Self { capabilities, kernel, architecture: Arch::native() }
    }

    /// Go's name of the architecture, as `includes.arches` has it.
    fn go_architecture(&self) -> &'static str {
        match self.architecture {
            Arch::X86_64 => "amd64",
            Arch::X86 => "x86",
            Arch::X32 => "x32",
            Arch::Aarch64 => "arm64",
            Arch::Arm => "arm",
        }
    }

    /// libseccomp's name of the architecture, as `archMap` has it.
    fn seccomp_architecture(&self) -> &'static str {
        match self.architecture {
            Arch::X86_64 => "SCMP_ARCH_X86_64",
            Arch::X86 => "SCMP_ARCH_X86",
            Arch::X32 => "SCMP_ARCH_X32",
            Arch::Aarch64 => "SCMP_ARCH_AARCH64",
            Arch::Arm => "SCMP_ARCH_ARM",
        }
    }
}

/// Why a profile file is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It is not JSON of the right shape.
    #[error("decoding seccomp profile failed")]
    Json(#[from] serde_json::Error),
    /// Two ways of saying the same thing.
    #[error("both '{first}' and '{second}' are specified in the seccomp profile, use one of them")]
    Both {
        /// One field.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A `minKernel` that is not `major.minor`.
    #[error("seccomp profile: syscalls[{index}]: minKernel \"{text}\" is not a version like 4.8")]
    Kernel {
        /// Which rule.
        index: usize,
        /// The text.
        text: String,
    },
    /// A word or value that the specification does not have.
    #[error("seccomp profile")]
    Spec(#[from] SeccompSpecError),
}

/// Reads a profile and checks all of it, also the rules that no target here would use.
///
/// # Errors
/// [`ProfileError`] names the field.
pub fn parse_profile(json: &str) -> Result<Profile, ProfileError> {
    let profile = file::read(json)?;
    if !profile.is_disabled() {
        hull_runtime::seccomp::filter(&profile.unconditional())?;
    }
    Ok(profile)
}

/// The filter of a profile for a target; `None` when the profile is empty, which docker reads as "no filter".
pub fn evaluate(profile: &Profile, target: &Target) -> Option<LinuxSeccomp> {
    if profile.is_disabled() {
        return None;
    }
    let mut seccomp = profile.common.clone();
    let group = profile.groups.iter().find(|group| group.architecture == target.seccomp_architecture());
    seccomp.architectures.extend(group.into_iter().flat_map(|group| group.all()));
    let rules = profile.rules.iter().filter(|rule| applies(rule, target));
    seccomp.syscalls = rules.map(|rule| rule.syscall.clone()).collect();
    Some(seccomp)
}

fn applies(rule: &ProfileRule, target: &Target) -> bool {
    let excluded = is_excluded(&rule.excludes, target);
    let ProfileRule { includes, .. } = rule;
    let included = (includes.architectures.is_empty() || names_architecture(includes, target))
        && includes.capabilities.iter().all(|name| has(target, name))
        && includes.kernel.is_none_or(|least| target.kernel >= least);
    included && !excluded
}

fn is_excluded(excludes: &Conditions, target: &Target) -> bool {
    names_architecture(excludes, target)
        || excludes.capabilities.iter().any(|name| has(target, name))
        || excludes.kernel.is_some_and(|least| target.kernel >= least)
}

fn names_architecture(conditions: &Conditions, target: &Target) -> bool {
    conditions.architectures.iter().any(|name| name == target.go_architecture())
}

fn has(target: &Target, capability: &str) -> bool {
    number(capability).is_some_and(|number| target.capabilities.has(number))
}
