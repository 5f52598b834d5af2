//! `linux.netDevices`: interfaces of the host that the container's network namespace gets (config-linux.md,
//! "Network Devices").

use std::collections::BTreeSet;

use hull_oci::runtime::Linux;

use super::{NamespacePlan, PlanError};

/// An interface to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDevicePlan {
    /// Its name in the namespace of the caller.
    pub name: String,
    /// Its name in the container's; the kernel makes a number of `%d`.
    pub new_name: String,
}

/// Reads the section.
///
/// # Errors
/// A name that is none or is given twice, and a container that has the caller's network.
pub(super) fn plan(linux: &Linux, namespaces: &NamespacePlan) -> Result<Vec<NetDevicePlan>, PlanError> {
    let mut planned: Vec<NetDevicePlan> = Vec::new();
    let mut taken = BTreeSet::new();
    for (name, device) in &linux.net_devices {
        let field = format!("linux.netDevices.{name}");
        if !namespaces.has_network {
            return Err(PlanError::invalid(field, "needs a network namespace that is not the host's"));
        }
        let new_name = device.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(name);
        for name in [name, new_name] {
            if !is_name(name) {
                return Err(PlanError::invalid(field, format!("{name:?} is no name of a network interface")));
            }
        }
        if !new_name.contains('%') && !taken.insert(new_name) {
            return Err(PlanError::invalid(field, format!("there are two to be called {new_name:?}")));
        }
        planned.push(NetDevicePlan { name: name.clone(), new_name: new_name.to_owned() });
    }
    Ok(planned)
}

/// As the kernel has it (`dev_valid_name` of net/core/dev.c), with at most the one `%d` that it fills in.
fn is_name(name: &str) -> bool {
    /// `IFNAMSIZ` less the end.
    const LONGEST: usize = 15;
    let plain = name.replacen("%d", "", 1);
    !name.is_empty()
        && name.len() <= LONGEST
        && name != "."
        && name != ".."
        && !plain.contains(['/', ':', '%', '\0'])
        && !plain.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use hull_oci::runtime::{LinuxNamespace, LinuxNamespaceType, LinuxNetDevice};

    use super::*;

    fn read(devices: &[(&str, Option<&str>)], network: bool) -> Result<Vec<NetDevicePlan>, PlanError> {
        let device = |(name, new_name): &(&str, Option<&str>)| {
            ((*name).to_owned(), LinuxNetDevice { name: new_name.map(str::to_owned) })
        };
        let kinds = [LinuxNamespaceType::Mount, LinuxNamespaceType::Network];
        let kinds = if network { &kinds[..] } else { &kinds[..1] };
        let linux = Linux {
            net_devices: devices.iter().map(device).collect(),
            namespaces: kinds.iter().map(|kind| LinuxNamespace { type_: *kind, path: None }).collect(),
            ..Linux::default()
        };
        plan(&linux, &super::super::namespaces::plan(&linux)?)
    }

    #[test]
    fn devices_keep_their_names_or_get_new_ones() {
        let planned = read(&[("eth1", Some("")), ("eth2", Some("in%d")), ("eth3", Some("in%d"))], true).unwrap();
        let names: Vec<_> = planned.iter().map(|one| (one.name.as_str(), one.new_name.as_str())).collect();
        assert_eq!(names, [("eth1", "eth1"), ("eth2", "in%d"), ("eth3", "in%d")]);
        assert_eq!(read(&[], false).unwrap(), []);
    }

    #[test]
    fn names_that_are_none_or_given_twice_are_refused_by_their_field() {
        for (devices, network, reason) in [
            (&[("eth1", None)][..], false, "linux.netDevices.eth1: needs a network namespace"),
            (&[("a/b", None)][..], true, "linux.netDevices.a/b: \"a/b\" is no name"),
            (&[("eth1", Some("abcdefghijklmnop"))][..], true, "linux.netDevices.eth1: \"abcdefghijklmnop\" is no name"),
            (&[("eth1", Some("x%s"))][..], true, "is no name"),
            (&[("eth1", Some("in")), ("eth2", Some("in"))][..], true, "linux.netDevices.eth2: there are two"),
        ] {
            let error = read(devices, network).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
