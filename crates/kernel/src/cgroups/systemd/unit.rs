//! Which unit a container is, and where its cgroup is: `slice:prefix:name` as runc reads it.
//!
//! ```text
//! system.slice:docker:4711       docker-4711.scope in system.slice        /system.slice/docker-4711.scope
//! a-b.slice:cri:4711             cri-4711.scope in a-b.slice              /a.slice/a-b.slice/cri-4711.scope
//! :runc:4711 and nothing         in system.slice, a user's in user.slice
//! -.slice:p:n                    in the root slice                        /p-n.scope
//! a.slice:ignored:a-pod.slice    the slice a-pod.slice itself             /a.slice/a-pod.slice
//! ```
//!
//! systemd.slice(5) says how a dash in a slice's name nests it; docs/systemd.md of runc describes the rest.

use super::SystemdError;
use super::bus::Bus;

/// Characters that a unit's name may have besides letters and digits (systemd.unit(5)).
const OTHER_CHARACTERS: &str = ":-_.\\@";
/// Longest name of a unit, `UNIT_NAME_MAX`.
const MAXIMUM_BYTES: usize = 255;

/// A unit that systemd makes for a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its name, ending in `.scope` or `.slice`.
    pub name: String,
    /// Which systemd has it.
    pub bus: Bus,
}

impl Unit {
    /// Whether it is a slice, which holds units and has no process by itself.
    pub fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }
}

/// A unit and its place among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitPlace {
    /// The unit.
    pub unit: Unit,
    /// The slice that it is in.
    pub slice: String,
    /// The container's part of the name.
    pub name: String,
    /// Where its cgroup is below its systemd's own, absolute.
    pub path: String,
}

impl UnitPlace {
    /// The unit that `linux.cgroupsPath` names; `id` is used where it is absent or empty.
    ///
    /// # Errors
    /// [`SystemdError::BadPath`].
    pub fn parse(cgroups_path: Option<&str>, id: &str, bus: Bus) -> Result<UnitPlace, SystemdError> {
        let default = format!(":runc:{id}");
        let path = cgroups_path.filter(|path| !path.is_empty()).unwrap_or(&default);
        let bad = |reason| SystemdError::BadPath { path: path.to_owned(), reason };
        let mut parts = path.split(':');
        let (Some(slice), Some(prefix), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad("it is not made of three parts, slice:prefix:name"));
        };
        let slice = match (slice, bus) {
            ("", Bus::System) => "system.slice",
            ("", Bus::User) => "user.slice",
            ("-", _) => "-.slice",
            (given, _) => given,
        };
        let folder = slice_path(slice).ok_or_else(|| bad("its slice is none (one.slice, or one-two.slice in it)"))?;
        if name.is_empty() {
            return Err(bad("its name is empty"));
        }
        let unit = match name.strip_suffix(".slice") {
            Some(_) if slice_path(name).is_none_or(|path| path == "/") => {
                return Err(bad("its name ends in .slice and is no slice's"));
            }
            Some(_) => name.to_owned(),
            None => format!("{prefix}-{name}.scope"),
        };
        if !is_unit_name(&unit) || !is_unit_name(slice) {
            return Err(bad("a unit's name has at most 255 of the characters a-z A-Z 0-9 : - _ . \\ @"));
        }
        let path = match slice_path(&unit) {
            Some(path) => path,
            None => format!("{}/{unit}", folder.trim_end_matches('/')),
        };
        Ok(UnitPlace { unit: Unit { name: unit, bus }, slice: slice.to_owned(), name: name.to_owned(), path })
    }
}

fn is_unit_name(name: &str) -> bool {
    name.len() <= MAXIMUM_BYTES
        && name.chars().all(|c| c.is_ascii_alphanumeric() || OTHER_CHARACTERS.contains(c))
        && !name.starts_with('.')
}

/// `/a.slice/a-b.slice` for `a-b.slice`; `/` for the root slice; nothing for what is no slice's name.
fn slice_path(slice: &str) -> Option<String> {
    let stem = slice.strip_suffix(".slice")?;
    if stem == "-" {
        return Some("/".to_owned());
    }
    let mut path = String::new();
    let mut so_far = String::new();
    for part in stem.split('-') {
        if part.is_empty() || part.contains('/') {
            return None;
        }
        if !so_far.is_empty() {
            so_far.push('-');
        }
        so_far.push_str(part);
        path.push_str(&format!("/{so_far}.slice"));
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(given: &str) -> Option<String> {
        UnitPlace::parse(Some(given), "id", Bus::System).ok().map(|place| place.path)
    }

    #[test]
    fn three_parts_name_a_unit() {
        let table = [
            ("system.slice:docker:4711", Some("/system.slice/docker-4711.scope")),
            (":runc:4711", Some("/system.slice/runc-4711.scope")),
            ("test-a-b.slice:p:n", Some("/test.slice/test-a.slice/test-a-b.slice/p-n.scope")),
            ("-.slice:p:n", Some("/p-n.scope")),
            ("-:p:n", Some("/p-n.scope")),
            ("kubepods.slice:x:kubepods-pod1.slice", Some("/kubepods.slice/kubepods-pod1.slice")),
            (":p:x.slice", Some("/x.slice")),
            ("", Some("/system.slice/runc-id.scope")),
            ("/some/path", None),
            ("a:b", None),
            ("a:b:c:d", None),
            ("system:p:n", None),
            (".slice:p:n", None),
            ("a--b.slice:p:n", None),
            ("-a.slice:p:n", None),
            ("a.slice/b.slice:p:n", None),
            ("system.slice:p:", None),
            ("system.slice:p:a/b", None),
            ("system.slice:p:../../x", None),
            ("system.slice:p:-.slice", None),
            ("system.slice:p: n", None),
        ];
        for (given, expected) in table {
            assert_eq!(path(given).as_deref(), expected, "{given:?}");
        }
        assert_eq!(path(&format!(":p:{}", "n".repeat(300))), None);
    }

    #[test]
    fn a_users_units_are_in_user_slice() {
        let place = UnitPlace::parse(None, "4711", Bus::User).unwrap();
        assert_eq!((place.slice.as_str(), place.path.as_str()), ("user.slice", "/user.slice/runc-4711.scope"));
        assert!(!place.unit.is_slice());
        assert!(UnitPlace::parse(Some("a.slice::a-b.slice"), "", Bus::System).unwrap().unit.is_slice());
    }

    proptest::proptest! {
        #[test]
        fn no_path_leaves_the_hierarchy(given in "[a-c./:-]{0,24}") {
            if let Some(path) = path(&given) {
                proptest::prop_assert!(path.starts_with('/') && !path.contains("//"));
                proptest::prop_assert!(path.split('/').all(|part| part != ".." && part != "."));
            }
        }
    }
}
