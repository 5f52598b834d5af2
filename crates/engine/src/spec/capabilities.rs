//! Which capabilities a container keeps: docker's default fourteen, changed by `--cap-add` and `--cap-drop`.
//!
//! Docker's rules, in this order: privileged means every capability of the machine; `--cap-add ALL` every one less
//! the dropped; `--cap-drop ALL` only the added; else the defaults less the dropped plus the added. The inheritable
//! and ambient sets stay empty, so a process that is not root keeps none over its exec.

use hull_kernel::capabilities::{Capabilities, number};
use hull_oci::runtime::LinuxCapabilities;

use super::SpecError;
use crate::request::CreateContainer;

/// Docker's default set, without `CAP_`.
pub const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The container's capability set. `held` is what this process can give.
pub(crate) fn keep(request: &CreateContainer, held: Capabilities) -> Result<Capabilities, SpecError> {
    let add = parse("CapAdd", &request.cap_add)?;
    let drop = parse("CapDrop", &request.cap_drop)?;
    if request.privileged {
        return Ok(held);
    }
    if let Some(missing) = Capabilities(add.named.0 & !held.0).names().next() {
        return Err(SpecError::CapabilityNotHeld { name: missing });
    }
    let kept = if add.all {
        held.0 & !drop.named.0
    } else if drop.all {
        add.named.0
    } else {
        (default_set().intersection(held).0 & !drop.named.0) | add.named.0
    };
    Ok(Capabilities(kept))
}

/// The five sets as the runtime spec has them.
pub(crate) fn sets(kept: Capabilities) -> LinuxCapabilities {
    let names: Vec<String> = kept.names().collect();
    LinuxCapabilities {
        bounding: names.clone(),
        effective: names.clone(),
        permitted: names,
        inheritable: Vec::new(),
        ambient: Vec::new(),
    }
}

fn default_set() -> Capabilities {
    let mut set = Capabilities::default();
    for name in DEFAULT {
        set.insert(name);
    }
    set
}

struct Named {
    all: bool,
    named: Capabilities,
}

fn parse(option: &'static str, names: &[String]) -> Result<Named, SpecError> {
    let mut parsed = Named { all: false, named: Capabilities::default() };
    for name in names {
        if name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL") {
            parsed.all = true;
            continue;
        }
        let bit = number(name).ok_or_else(|| SpecError::UnknownCapability { option, name: name.clone() })?;
        parsed.named.0 |= 1 << bit;
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(add: &[&str], drop: &[&str], privileged: bool) -> Result<Vec<String>, SpecError> {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let request =
            CreateContainer { cap_add: owned(add), cap_drop: owned(drop), privileged, ..CreateContainer::default() };
        keep(&request, Capabilities::ALL).map(|set| set.names().collect())
    }

    #[test]
    fn dockers_rules() {
        assert_eq!(kept(&[], &[], false).unwrap().len(), 14);
        assert_eq!(kept(&[], &["all"], false).unwrap(), Vec::<String>::new());
        assert_eq!(kept(&["net_admin"], &["ALL"], false).unwrap(), ["CAP_NET_ADMIN"]);
        assert_eq!(kept(&["ALL"], &["CAP_SYS_ADMIN"], false).unwrap().len(), 40);
        assert_eq!(kept(&["CAP_CHOWN", "sys_admin"], &["chown", "KILL"], false).unwrap().len(), 14);
        assert_eq!(kept(&[], &["ALL"], true).unwrap().len(), 41);
    }

    #[test]
    fn unknown_and_unavailable_names_are_refused() {
        assert_eq!(
            kept(&["NOPE"], &[], false).unwrap_err().to_string(),
            "invalid CapAdd: unknown capability: \"NOPE\""
        );
        assert!(kept(&[], &["NOPE"], true).is_err());
        let request = CreateContainer { cap_add: vec!["BPF".into()], ..CreateContainer::default() };
        let error = keep(&request, Capabilities(1)).unwrap_err();
        assert!(error.to_string().contains("CAP_BPF"), "{error}");
    }
}
