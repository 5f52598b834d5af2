//! What this runtime recognises (features.md): the document that engines read before they choose.
//!
//! It says what the runtime does, not what this machine can. A word is listed here exactly when `plan` accepts it;
//! the tests ask it.

use hull_kernel::capabilities;
use hull_oci::runtime::{
    CgroupFeatures, EnabledFeature, Features, IntelRdtFeatures, LinuxFeatures, MemoryPolicyFeatures, MountExtensions,
    OCI_VERSION, SeccompFeatures,
};

use crate::hooks::HookKind;
use crate::plan::{MEMORY_FLAGS, MEMORY_MODES, PROPERTY_ANNOTATION, option_words};
use crate::seccomp::FOREIGN_ARCHITECTURES;

const OLDEST_VERSION: &str = "1.0.0";
const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];
const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
const OPERATORS: [&str; 7] =
    ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];
/// Architectures that filters are made for.
const ARCHITECTURES: [&str; 5] =
    ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"];
/// Flags that every kernel since 5.19 takes.
const FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

fn words(words: &[&str]) -> Option<Vec<String>> {
    Some(words.iter().map(|word| (*word).to_owned()).collect())
}

/// The features document.
pub fn features() -> Features {
    Features {
        oci_version_min: OLDEST_VERSION.to_owned(),
        oci_version_max: OCI_VERSION.to_owned(),
        hooks: words(&HookKind::ALL.map(HookKind::name)),
        mount_options: Some(option_words()),
        annotations: Default::default(),
        potentially_unsafe_config_annotations: words(&[PROPERTY_ANNOTATION]),
        linux: Some(linux()),
    }
}

fn linux() -> LinuxFeatures {
    let present = Some(EnabledFeature { enabled: Some(true) });
    LinuxFeatures {
        namespaces: words(&NAMESPACES),
        capabilities: Some(capabilities::NAMES.iter().map(|name| format!("CAP_{name}")).collect()),
        cgroup: Some(CgroupFeatures {
            v1: Some(true),
            v2: Some(true),
            systemd: Some(true),
            systemd_user: Some(true),
            rdma: Some(true),
        }),
        seccomp: Some(seccomp()),
        apparmor: present,
        selinux: present,
        intel_rdt: Some(IntelRdtFeatures { enabled: Some(true), schemata: Some(true), monitoring: Some(true) }),
        memory_policy: Some(MemoryPolicyFeatures {
            modes: words(&MEMORY_MODES.map(|(word, _)| word)),
            flags: words(&MEMORY_FLAGS.map(|(word, _)| word)),
        }),
        mount_extensions: Some(MountExtensions { idmap: present }),
        net_devices: present,
    }
}

fn seccomp() -> SeccompFeatures {
    let mut architectures: Vec<&str> = ARCHITECTURES.iter().chain(FOREIGN_ARCHITECTURES).copied().collect();
    architectures.sort_unstable();
    SeccompFeatures {
        enabled: Some(true),
        actions: words(&ACTIONS),
        operators: words(&OPERATORS),
        archs: words(&architectures),
        known_flags: words(&FLAGS),
        supported_flags: words(&FLAGS),
    }
}

#[cfg(test)]
mod tests {
    use hull_oci::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};

    use super::*;

    #[test]
    fn every_seccomp_word_is_accepted() {
        let seccomp = seccomp();
        let argument =
            |(index, op): (usize, String)| LinuxSeccompArg { index: index as u32 % 6, op, ..Default::default() };
        let operators = seccomp.operators.unwrap().into_iter().take(6).enumerate().map(argument).collect();
        let rule = |action: String| LinuxSyscall {
            names: vec!["openat".to_owned()],
            action,
            args: Vec::new(),
            ..LinuxSyscall::default()
        };
        let mut syscalls: Vec<LinuxSyscall> = seccomp.actions.unwrap().into_iter().map(rule).collect();
        syscalls.push(LinuxSyscall { args: operators, ..rule("SCMP_ACT_ALLOW".to_owned()) });
        let filter = LinuxSeccomp {
            default_action: "SCMP_ACT_ALLOW".to_owned(),
            architectures: seccomp.archs.unwrap(),
            flags: seccomp.known_flags,
            listener_path: Some("/run/agent".into()),
            syscalls,
            ..LinuxSeccomp::default()
        };
        crate::seccomp::filter(&filter).unwrap();
    }

    #[test]
    fn the_document_is_as_the_specification_has_it() {
        let document = serde_json::to_value(features()).unwrap();
        assert_eq!(document["ociVersionMax"], "1.3.0");
        assert_eq!(document["hooks"].as_array().unwrap().len(), 6);
        assert_eq!(document["linux"]["cgroup"]["systemd"], true);
        assert_eq!(document["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        let options = document["mountOptions"].as_array().unwrap();
        assert!(options.iter().any(|option| option == "rro") && options.iter().any(|option| option == "tmpcopyup"));
        assert_eq!(document["linux"]["capabilities"][0], "CAP_CHOWN");
    }
}
