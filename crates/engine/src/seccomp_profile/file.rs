//! The file form of a profile: docker's JSON.
//!
//! Beside the specification's fields it has `archMap` (which architectures go with which native one) and, for each rule,
//! `includes`, `excludes`, `comment`, and the older `name` for a single call. Unknown fields are ignored, as docker does.

use hull_oci::runtime::{LinuxSeccomp, LinuxSyscall};
use serde::Deserialize;

use super::ProfileError;

/// A profile that has been read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// What holds for every target, without rules.
    pub(super) common: LinuxSeccomp,
    /// Architectures that go together.
    pub(super) groups: Vec<ArchitectureGroup>,
    /// Rules with their conditions, in order.
    pub(super) rules: Vec<ProfileRule>,
}

/// An entry of `archMap`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ArchitectureGroup {
    pub(super) architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

impl ArchitectureGroup {
    pub(super) fn all(&self) -> impl Iterator<Item = String> {
        let subordinate = self.sub_architectures.iter().flatten();
        std::iter::once(&self.architecture).chain(subordinate).cloned()
    }
}

/// A rule and when it holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ProfileRule {
    pub(super) syscall: LinuxSyscall,
    pub(super) includes: Conditions,
    pub(super) excludes: Conditions,
}

/// `includes` or `excludes`; empty says nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Conditions {
    pub(super) capabilities: Vec<String>,
    pub(super) architectures: Vec<String>,
    pub(super) kernel: Option<(u32, u32)>,
}

impl Profile {
    /// Whether it says nothing at all, which means no filter.
    pub(super) fn is_disabled(&self) -> bool {
        self.common.default_action.is_empty() && self.rules.is_empty()
    }

    /// All rules and architectures, whatever their conditions, for checking.
    pub(super) fn unconditional(&self) -> LinuxSeccomp {
        let mut seccomp = self.common.clone();
        seccomp.architectures.extend(self.groups.iter().flat_map(ArchitectureGroup::all));
        seccomp.syscalls = self.rules.iter().map(|rule| rule.syscall.clone()).collect();
        seccomp
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileForm {
    #[serde(default)]
    default_action: String,
    #[serde(default)]
    arch_map: Option<Vec<ArchitectureGroup>>,
    #[serde(default)]
    syscalls: Option<Vec<RuleForm>>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct RuleForm {
    #[serde(default)]
    name: String,
    #[serde(flatten)]
    syscall: LinuxSyscall,
    #[serde(default)]
    includes: Option<ConditionsForm>,
    #[serde(default)]
    excludes: Option<ConditionsForm>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConditionsForm {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// Reads the file; its words are not checked yet.
pub(super) fn read(json: &str) -> Result<Profile, ProfileError> {
    let form: FileForm = serde_json::from_str(json)?;
    let mut common = form.rest;
    common.insert("defaultAction".to_owned(), form.default_action.into());
    let common: LinuxSeccomp = serde_json::from_value(common.into())?;
    let groups = form.arch_map.unwrap_or_default();
    if !groups.is_empty() && !common.architectures.is_empty() {
        return Err(ProfileError::Both { first: "architectures", second: "archMap" });
    }
    let rules = form.syscalls.unwrap_or_default().into_iter().enumerate().map(|(index, rule)| read_rule(index, rule));
    Ok(Profile { common, groups, rules: rules.collect::<Result<_, _>>()? })
}

fn read_rule(index: usize, form: RuleForm) -> Result<ProfileRule, ProfileError> {
    let mut syscall = form.syscall;
    if !form.name.is_empty() {
        if !syscall.names.is_empty() {
            return Err(ProfileError::Both { first: "name", second: "names" });
        }
        syscall.names = vec![form.name];
    }
    let includes = read_conditions(index, form.includes)?;
    let excludes = read_conditions(index, form.excludes)?;
    Ok(ProfileRule { syscall, includes, excludes })
}

fn read_conditions(index: usize, form: Option<ConditionsForm>) -> Result<Conditions, ProfileError> {
    let form = form.unwrap_or_default();
    let kernel = form.min_kernel.filter(|text| !text.is_empty()).map(|text| read_version(index, text)).transpose()?;
    Ok(Conditions {
        capabilities: form.caps.unwrap_or_default(),
        architectures: form.arches.unwrap_or_default(),
        kernel,
    })
}

fn read_version(index: usize, text: String) -> Result<(u32, u32), ProfileError> {
    let parts = text.split_once('.').map(|(major, minor)| (major.parse(), minor.parse()));
    match parts {
        Some((Ok(major), Ok(minor))) => Ok((major, minor)),
        _ => Err(ProfileError::Kernel { index, text }),
    }
}
