//! Rules for device nodes: one ordered list, with one meaning, for both versions of cgroups.
//!
//! For every kind of access that is asked for (read, write, mknod) the last rule that names the device and that access
//! decides, and a device that no rule names is refused (runtime-spec config-linux.md, "Allowed Device list"). cgroup v2
//! asks an eBPF program compiled straight from the list (filter.rs). cgroup v1 has no order, only a default and
//! a set of exceptions, each with a wildcard at most (Documentation/admin-guide/cgroup-v1/devices.rst); `Table` brings
//! the list into that form and says so where it cannot be: v1 silently ignores an exception to an exception.

use std::fmt;

use super::CgroupError;
use super::folder::Folder;

/// Which device nodes a rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    /// Both block and character devices.
    All,
    /// Block devices.
    Block,
    /// Character devices.
    Char,
}

/// A set of `r`ead, `w`rite and `m`knod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access(u8);

impl Access {
    /// Making a node (the kernel's `DEVCG_ACC_MKNOD`).
    pub const MKNOD: Access = Access(1);
    /// Opening for reading.
    pub const READ: Access = Access(2);
    /// Opening for writing.
    pub const WRITE: Access = Access(4);
    /// All three.
    pub const ALL: Access = Access(7);

    /// Reads a word of the letters `r`, `w`, `m`, each at most meaningful once; `None` for anything else or no letter.
    pub fn parse(word: &str) -> Option<Access> {
        let mut access = 0;
        for letter in word.bytes() {
            access |= match letter {
                b'r' => Access::READ.0,
                b'w' => Access::WRITE.0,
                b'm' => Access::MKNOD.0,
                _ => return None,
            };
        }
        if access == 0 { None } else { Some(Access(access)) }
    }

    pub(super) fn bits(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (access, letter) in [(Access::READ, 'r'), (Access::WRITE, 'w'), (Access::MKNOD, 'm')] {
            if self.0 & access.0 != 0 {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// One rule about device nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Allow or refuse.
    pub allow: bool,
    /// Which kind of device.
    pub kind: DeviceKind,
    /// Major number, `None` for any.
    pub major: Option<u32>,
    /// Minor number, `None` for any.
    pub minor: Option<u32>,
    /// What is allowed or refused.
    pub access: Access,
}

impl DeviceRule {
    /// The rule about everything.
    pub const fn everything(allow: bool) -> DeviceRule {
        DeviceRule { allow, kind: DeviceKind::All, major: None, minor: None, access: Access::ALL }
    }

    pub(super) fn is_about_everything(&self) -> bool {
        *self == DeviceRule::everything(self.allow)
    }

    pub(super) fn validate(&self) -> Result<(), CgroupError> {
        // dev_t has 12 bits for the major and 20 for the minor number; a rule beyond them could never match.
        let reason = match (self.major, self.minor) {
            (Some(4096..), _) => "a major number is at most 4095",
            (_, Some(0x10_0000..)) => "a minor number is at most 1048575",
            _ => return Ok(()),
        };
        Err(CgroupError::DeviceRule { rule: self.to_string(), reason: reason.to_owned() })
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = Key { kind: self.kind, major: self.major, minor: self.minor };
        write!(f, "{} {key} {}", if self.allow { "allow" } else { "deny" }, self.access)
    }
}

/// The rules that matter: those before the last one about everything never decide, and without one everything not
/// named is refused.
pub(super) fn effective(rules: &[DeviceRule]) -> (bool, &[DeviceRule]) {
    match rules.iter().rposition(DeviceRule::is_about_everything) {
        Some(last) => (rules[last].allow, &rules[last + 1..]),
        None => (false, rules),
    }
}

/// Whether the list refuses nothing.
pub(super) fn allows_everything(rules: &[DeviceRule]) -> bool {
    let (default, rest) = effective(rules);
    default && rest.iter().all(|rule| rule.allow)
}

/// Devices that an allow list names, and what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    pub kind: DeviceKind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: Access,
}

/// The rules as a list of what is allowed while everything else is refused; `None` where they refuse parts of what they
/// allow, or allow what they do not name.
pub(super) fn allow_list(rules: &[DeviceRule]) -> Option<Vec<Allowed>> {
    let table = Table::from_rules(rules).ok().filter(|table| !table.default_allow)?;
    let list = table.exceptions.0.into_iter().map(|(Key { kind, major, minor }, access)| Allowed {
        kind,
        major,
        minor,
        access: Access(access),
    });
    Some(list.collect())
}

/// What an exception of cgroup v1 is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    kind: DeviceKind,
    major: Option<u32>,
    minor: Option<u32>,
}

impl Key {
    /// Whether every device of `other` is one of `self`.
    fn covers(&self, other: &Key) -> bool {
        self.kind == other.kind
            && (self.major.is_none() || self.major == other.major)
            && (self.minor.is_none() || self.minor == other.minor)
    }

    /// Whether some device is one of both.
    fn overlaps(&self, other: &Key) -> bool {
        let same = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind && same(self.major, other.major) && same(self.minor, other.minor)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            DeviceKind::All => "a ",
            DeviceKind::Block => "b ",
            DeviceKind::Char => "c ",
        })?;
        match self.major {
            Some(major) => write!(f, "{major}:")?,
            None => f.write_str("*:")?,
        }
        match self.minor {
            Some(minor) => write!(f, "{minor}"),
            None => f.write_str("*"),
        }
    }
}

/// A default and its exceptions: all that cgroup v1 can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    default_allow: bool,
    exceptions: Exceptions,
}

/// Access by key, in the order in which the keys came: devices.list then shows the rules in the order of the spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Exceptions(Vec<(Key, u8)>);

impl Exceptions {
    fn get(&self, key: &Key) -> u8 {
        self.0.iter().find(|(known, _)| known == key).map_or(0, |(_, access)| *access)
    }

    fn add(&mut self, key: Key, access: u8) {
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known |= access,
            None => self.0.push((key, access)),
        }
    }
}

impl Table {
    /// Brings a rule list into v1's form.
    pub(super) fn from_rules(rules: &[DeviceRule]) -> Result<Table, CgroupError> {
        let (default_allow, rules) = effective(rules);
        let mut table = Table { default_allow, exceptions: Exceptions::default() };
        for rule in rules {
            let kinds: &[DeviceKind] = match rule.kind {
                DeviceKind::All => &[DeviceKind::Block, DeviceKind::Char],
                DeviceKind::Block => &[DeviceKind::Block],
                DeviceKind::Char => &[DeviceKind::Char],
            };
            for kind in kinds {
                let key = Key { kind: *kind, major: rule.major, minor: rule.minor };
                if rule.allow == default_allow {
                    table.take_back(key, rule)?;
                } else {
                    table.exceptions.add(key, rule.access.0);
                }
            }
        }
        table.join_overlapping();
        Ok(table)
    }

    /// A later rule that agrees with the default again: exceptions within it lose that access; one that reaches beyond
    /// it would have to be split, which v1 cannot do.
    fn take_back(&mut self, key: Key, rule: &DeviceRule) -> Result<(), CgroupError> {
        for (exception, access) in &mut self.exceptions.0 {
            if *access & rule.access.0 == 0 || !exception.overlaps(&key) {
                continue;
            }
            if !key.covers(exception) {
                return Err(CgroupError::DeviceRule {
                    rule: rule.to_string(),
                    reason: format!("cgroup v1 cannot hold an exception to the wider rule for {exception}"),
                });
            }
            *access &= !rule.access.0;
        }
        self.exceptions.0.retain(|(_, access)| *access != 0);
        Ok(())
    }

    /// v1 wants all the access that is asked for at once in one exception of an allow list, so one that lies within
    /// a wider one gets that one's access too. Making a node is never asked for together with opening one.
    fn join_overlapping(&mut self) {
        if self.default_allow {
            return;
        }
        let known = self.exceptions.clone();
        for (key, access) in &mut self.exceptions.0 {
            let wider = known.0.iter().filter(|(other, _)| other.covers(key)).fold(0, |all, (_, more)| all | more);
            *access |= wider & (Access::READ.0 | Access::WRITE.0);
        }
    }

    /// Reads devices.list, which shows the exceptions of an allow list; a deny list shows only that it is one.
    fn parse(list: &str) -> Option<Table> {
        let mut table = Table { default_allow: false, exceptions: Exceptions::default() };
        for line in list.lines() {
            let mut words = line.split_ascii_whitespace();
            let (kind, numbers, access) = (words.next()?, words.next()?, words.next()?);
            let kind = match kind {
                "a" => {
                    table.default_allow = true;
                    continue;
                }
                "b" => DeviceKind::Block,
                "c" => DeviceKind::Char,
                _ => return None,
            };
            let (major, minor) = numbers.split_once(':')?;
            let number = |word: &str| if word == "*" { Some(None) } else { word.parse().ok().map(Some) };
            let key = Key { kind, major: number(major)?, minor: number(minor)? };
            table.exceptions.add(key, Access::parse(access)?.0);
        }
        Some(table)
    }

    /// The lines that lead from `current` to `self`: `(file, line)`. Additions come before removals, so that nothing
    /// is refused in between that both would allow.
    fn transition(&self, current: &Table) -> Vec<(bool, String)> {
        let mut lines = Vec::new();
        let nothing = Exceptions::default();
        let starts_over = current.default_allow || self.default_allow;
        let before = if starts_over { &nothing } else { &current.exceptions };
        if starts_over {
            lines.push((self.default_allow, "a".to_owned()));
        }
        for (key, access) in &self.exceptions.0 {
            let more = access & !before.get(key);
            if more != 0 {
                lines.push((!self.default_allow, format!("{key} {}", Access(more))));
            }
        }
        for (key, access) in &before.0 {
            let less = access & !self.exceptions.get(key);
            if less != 0 {
                lines.push((self.default_allow, format!("{key} {}", Access(less))));
            }
        }
        lines
    }
}

/// Makes a v1 cgroup follow the rules. A new cgroup has inherited its parent's and is taken to allow everything, which
/// is what it does below a parent that was never restricted.
pub(super) fn write_legacy(folder: &Folder, rules: &[DeviceRule], fresh: bool) -> Result<(), CgroupError> {
    let target = Table::from_rules(rules)?;
    let current = if fresh {
        Table { default_allow: true, exceptions: Exceptions::default() }
    } else {
        let list = folder.read("devices.list")?;
        Table::parse(&list)
            .ok_or_else(|| CgroupError::Parse { path: folder.path().join("devices.list"), content: list })?
    };
    if fresh && allows_everything(rules) {
        return Ok(());
    }
    let lines = target.transition(&current);
    let writer = |wanted: bool, file| {
        let needed = lines.iter().any(|(allow, _)| *allow == wanted);
        if needed { folder.writer(file).map(Some) } else { Ok(None) }
    };
    let (deny, allow) = (writer(false, "devices.deny")?, writer(true, "devices.allow")?);
    for (allowed, line) in &lines {
        let Some(writer) = (if *allowed { &allow } else { &deny }) else { continue };
        writer.write(line)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `"+c 1:3 rwm"`, `"-b *:* m"`.
    pub(in super::super) fn rule(text: &str) -> DeviceRule {
        let mut words = text[1..].split(' ');
        let kind = match words.next().unwrap() {
            "a" => DeviceKind::All,
            "b" => DeviceKind::Block,
            _ => DeviceKind::Char,
        };
        let (major, minor) = words.next().unwrap().split_once(':').unwrap();
        DeviceRule {
            allow: text.starts_with('+'),
            kind,
            major: major.parse().ok(),
            minor: minor.parse().ok(),
            access: Access::parse(words.next().unwrap()).unwrap(),
        }
    }

    fn lines(rules: &[&str]) -> Vec<String> {
        let rules: Vec<_> = rules.iter().map(|text| rule(text)).collect();
        let start = Table { default_allow: true, exceptions: Exceptions::default() };
        let lines = Table::from_rules(&rules).unwrap().transition(&start);
        lines.into_iter().map(|(allow, line)| format!("{}{line}", if allow { '+' } else { '-' })).collect()
    }

    #[test]
    fn access_words() {
        assert_eq!(Access::parse("rwm"), Some(Access::ALL));
        assert_eq!(Access::parse("mr").unwrap().to_string(), "rm");
        assert_eq!(Access::parse(""), None);
        assert_eq!(Access::parse("rx"), None);
    }

    #[test]
    fn a_list_becomes_a_default_and_exceptions() {
        assert_eq!(lines(&["-a *:* rwm", "+c 1:3 rwm", "+c *:* m"]), ["-a", "+c 1:3 rwm", "+c *:* m"]);
        assert_eq!(lines(&["+c 1:3 rwm", "-a *:* rwm"]), ["-a"], "what comes before everything never decides");
        assert_eq!(lines(&["+c 1:3 rwm", "-c 1:3 w"]), ["-a", "+c 1:3 rm"]);
        assert_eq!(lines(&["+c 1:3 rwm", "-c 1:* w"]), ["-a", "+c 1:3 rm"], "a wider refusal is spread out");
        assert_eq!(lines(&["+a *:* rwm", "-b 8:0 w"]), ["+a", "-b 8:0 w"]);
        assert_eq!(lines(&["+a *:* m"]), ["-a", "+b *:* m", "+c *:* m"], "part of everything is both kinds");
        assert_eq!(lines(&["+c *:* r", "+c 1:3 w"]), ["-a", "+c *:* r", "+c 1:3 rw"]);
        assert_eq!(lines(&["+b 8:20 rw", "+b *:* m"]), ["-a", "+b 8:20 rw", "+b *:* m"], "in the order of the list");
    }

    #[test]
    fn a_hole_in_a_wildcard_is_refused_by_name() {
        for (first, second) in [("+c *:* rwm", "-c 1:3 w"), ("+c 1:* r", "-c *:3 r")] {
            let error = Table::from_rules(&[rule(first), rule(second)]).unwrap_err();
            assert!(error.to_string().contains("deny"), "{error}");
        }
        assert!(Table::from_rules(&[rule("+c *:* m"), rule("-c 1:3 w")]).is_ok(), "other access does not meet");
    }

    #[test]
    fn an_update_writes_the_difference_only() {
        let current = Table::parse("c 1:3 rwm\nc 5:* rw\n").unwrap();
        let rules = [rule("+c 1:3 r"), rule("+c 5:* rw"), rule("+b 8:0 r")];
        let lines = Table::from_rules(&rules).unwrap().transition(&current);
        assert_eq!(lines, [(true, "b 8:0 r".to_owned()), (false, "c 1:3 wm".to_owned())]);
        assert!(Table::parse("a *:* rwm\n").unwrap().default_allow);
        assert_eq!(Table::parse("x 1:3 rwm"), None);
        assert_eq!(Table::parse("c 1 rwm"), None);
    }

    proptest::proptest! {
        #[test]
        fn foreign_lists_never_panic(text in "([abcx] ?[0-9*]{0,12}:?[0-9*]{0,12} ?[rwmx]{0,4}\n?){0,6}") {
            let _either = Table::parse(&text);
        }
    }

    #[test]
    fn everything_allowed_is_seen() {
        assert!(allows_everything(&[rule("+a *:* rwm")]));
        assert!(allows_everything(&[rule("-c 1:3 r"), rule("+a *:* rwm"), rule("+c 1:3 r")]));
        assert!(!allows_everything(&[rule("+a *:* rwm"), rule("-c 1:3 r")]));
    }

    #[test]
    fn numbers_beyond_dev_t_are_refused() {
        for text in ["+c 4096:0 r", "+c 1:1048576 r"] {
            assert!(matches!(rule(text).validate(), Err(CgroupError::DeviceRule { .. })), "{text}");
        }
        assert!(rule("+c 4095:1048575 r").validate().is_ok());
    }
}
