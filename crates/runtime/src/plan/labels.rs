//! `process.apparmorProfile`, `process.selinuxLabel` and `linux.mountLabel`.
//!
//! An empty one asks for nothing. One that the machine has no use for is refused by name: a container that was to be
//! confined must not run without.

use hull_kernel::labels::{self, LabelError, LabelFile, LabelKind};
use hull_kernel::mounts::FilesystemOption;
use hull_oci::runtime::{Linux, Process};

use super::{MountAction, MountPlan, PlanError};

/// Labels of a process to be, and where it will write them.
#[derive(Debug, Default)]
pub struct LabelPlan {
    apparmor: Option<(String, Option<LabelFile>)>,
    selinux: Option<(String, Option<LabelFile>)>,
    keys: Option<LabelFile>,
}

fn wanted(label: Option<&String>) -> Option<&str> {
    label.map(String::as_str).filter(|label| !label.is_empty())
}

impl LabelPlan {
    /// Reads the labels of a process.
    ///
    /// # Errors
    /// [`PlanError::Unsupported`] for one that this machine has no use for.
    pub(super) fn of(process: &Process) -> Result<LabelPlan, PlanError> {
        let planned = |label: Option<&String>| wanted(label).map(|label| (label.to_owned(), None));
        let plan = LabelPlan {
            apparmor: planned(process.apparmor_profile.as_ref()),
            selinux: planned(process.selinux_label.as_ref()),
            keys: None,
        };
        if plan.apparmor.is_some() && !labels::has_apparmor() {
            return Err(PlanError::unsupported("process.apparmorProfile", "AppArmor is not enabled on this machine"));
        }
        if plan.selinux.is_some() {
            require_selinux("process.selinuxLabel")?;
        }
        Ok(plan)
    }

    /// Opens the files, in the child, while it sees the host's /proc.
    pub(crate) fn open(&mut self) -> Result<(), LabelError> {
        if let Some((_, file)) = &mut self.apparmor {
            *file = Some(LabelFile::open(LabelKind::AppArmorProfile)?);
        }
        if let Some((_, file)) = &mut self.selinux {
            *file = Some(LabelFile::open(LabelKind::SelinuxProcess)?);
            self.keys = Some(LabelFile::open(LabelKind::SelinuxKeys)?);
        }
        Ok(())
    }

    /// Writes the labels: whatever is executed from now on has them.
    pub(crate) fn write(&self) -> Result<(), LabelError> {
        for (label, file) in self.apparmor.iter().chain(&self.selinux) {
            if let Some(file) = file {
                file.write(label)?;
            }
        }
        Ok(())
    }

    /// Gives the label to keyrings made from now on, or with `false` no longer.
    pub(crate) fn label_keys(&self, on: bool) -> Result<(), LabelError> {
        match (&self.selinux, &self.keys) {
            (Some((label, _)), Some(file)) => file.write(if on { label } else { "" }),
            _ => Ok(()),
        }
    }
}

fn require_selinux(field: &str) -> Result<(), PlanError> {
    match labels::has_selinux() {
        true => Ok(()),
        false => Err(PlanError::unsupported(field, "SELinux is not enabled on this machine")),
    }
}

/// The option that labels a new file system, from `linux.mountLabel`.
///
/// # Errors
/// [`PlanError::Unsupported`] without SELinux.
pub(super) fn mount_option(linux: &Linux) -> Result<Option<FilesystemOption>, PlanError> {
    let Some(label) = wanted(linux.mount_label.as_ref()) else { return Ok(None) };
    require_selinux("linux.mountLabel")?;
    Ok(Some(FilesystemOption { key: "context".to_owned(), value: Some(label.to_owned()) }))
}

/// Gives every new file system the label, but those whose files the policy labels one by one.
pub(super) fn label_mounts(mounts: &mut [MountPlan], option: &FilesystemOption) {
    const LABELLED_BY_POLICY: [&str; 4] = ["proc", "sysfs", "cgroup", "cgroup2"];
    for mount in mounts {
        if let MountAction::Filesystem { kind, options, .. } = &mut mount.action
            && !LABELLED_BY_POLICY.contains(&kind.as_str())
            && !options.iter().any(|own| own.key == option.key)
        {
            options.push(option.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_labels_ask_for_nothing_and_others_need_their_module() {
        let process = |apparmor: &str, selinux: &str| Process {
            apparmor_profile: Some(apparmor.to_owned()),
            selinux_label: Some(selinux.to_owned()),
            ..Process::default()
        };
        let plan = LabelPlan::of(&process("", "")).unwrap();
        assert!(plan.apparmor.is_none() && plan.selinux.is_none());
        match LabelPlan::of(&process("docker-default", "")) {
            Ok(plan) => assert!(labels::has_apparmor() && plan.apparmor.is_some()),
            Err(error) => assert_eq!(
                error.to_string(),
                "config.json: process.apparmorProfile is not supported: AppArmor is not enabled on this machine"
            ),
        }
        match LabelPlan::of(&process("", "system_u:system_r:container_t:s0")) {
            Ok(plan) => assert!(labels::has_selinux() && plan.selinux.is_some()),
            Err(error) => assert!(error.to_string().contains("process.selinuxLabel is not supported: SELinux")),
        }
        assert!(mount_option(&Linux { mount_label: Some(String::new()), ..Linux::default() }).unwrap().is_none());
    }

    #[test]
    fn new_file_systems_are_labelled_and_those_of_the_kernel_are_not() {
        let mount = |kind: &str| MountPlan {
            destination: "/x".into(),
            action: MountAction::Filesystem {
                kind: kind.to_owned(),
                source: kind.to_owned(),
                options: Vec::new(),
                attributes: 0,
            },
            copy_up: false,
            propagation: Vec::new(),
            id_mapped: None,
        };
        let mut mounts = ["tmpfs", "proc", "devpts", "sysfs"].map(mount);
        label_mounts(&mut mounts, &FilesystemOption::parse("context=a_u:b_r:c_t:s0:c1,c2"));
        let labelled = |mount: &MountPlan| match &mount.action {
            MountAction::Filesystem { options, .. } => {
                options.first().map(|option| (option.key.clone(), option.value.clone()))
            }
            _ => None,
        };
        let label = Some(("context".to_owned(), Some("a_u:b_r:c_t:s0:c1,c2".to_owned())));
        assert_eq!(mounts.each_ref().map(labelled), [label.clone(), None, label, None]);
    }
}
