//! The `linux.seccomp` section of config.json: a system call filter in libseccomp's words.
//!
//! Actions, architectures, operators and flags stay text; the runtime crate translates them for the compiler and refuses
//! unknown ones by field name. Rules are tried in no order: see the compiler in the kernel crate for what wins.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::null_as_default;

/// A filter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinuxSeccomp {
    /// What happens to a call that no rule names, such as `SCMP_ACT_ERRNO`.
    pub default_action: String,
    /// Error number of the default action; EPERM when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// Architectures beside the native one, such as `SCMP_ARCH_X86`.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// Filter flags such as `SECCOMP_FILTER_FLAG_LOG`; the runtime's choice when absent, none when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<Vec<String>>,
    /// Socket that receives the notification descriptor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener_path: Option<PathBuf>,
    /// Opaque data sent along with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener_metadata: Option<String>,
    /// Rules.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<LinuxSyscall>,
}

/// One rule: these calls, when all argument conditions hold, get this action.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinuxSyscall {
    /// Names of system calls.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// What happens.
    pub action: String,
    /// Error number (or trace message) of the action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// Argument conditions.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<LinuxSeccompArg>,
}

/// A condition on one argument.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinuxSeccompArg {
    /// Which argument, 0 to 5.
    pub index: u32,
    /// Value to compare with; the mask when `op` is `SCMP_CMP_MASKED_EQ`.
    pub value: u64,
    /// Value that the masked argument must have when `op` is `SCMP_CMP_MASKED_EQ`.
    #[serde(default)]
    pub value_two: u64,
    /// Comparison such as `SCMP_CMP_EQ`.
    pub op: String,
}
