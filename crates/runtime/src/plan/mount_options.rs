//! The options of one mount: what each word means (config.md, "Linux mount options"; mount(8)).
//!
//! An option is one of: an attribute of the mount, set or cleared; the same for the whole tree (`rro` and its like);
//! a propagation; a word of the specification (`bind`, `rbind`, `remount`, `idmap`, `ridmap`, `tmpcopyup`); else it
//! goes to the file system, which may refuse it. `silent` and `loud` are about the kernel's log and mean nothing to
//! the calls that mount here. What an option does not mention stays as the source or the mount has it, as with mount(8).

use hull_kernel::mounts::{
    FilesystemOption, MOUNT_ATTR_ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME, MOUNT_ATTR_STRICTATIME,
    MountAttributes, Propagation,
};

/// What the options of one mount say.
#[derive(Debug, Default, PartialEq)]
pub(super) struct MountOptions {
    /// For the mount itself.
    pub here: MountAttributes,
    /// For it and all below it.
    pub tree: MountAttributes,
    /// Propagations in the order given, each with whether it is for the whole tree.
    pub propagation: Vec<(Propagation, bool)>,
    /// A bind mount; recursive when true.
    pub bind: Option<bool>,
    /// Change what is mounted there.
    pub remount: bool,
    /// Fill a tmpfs with what it covers.
    pub copy_up: bool,
    /// Shift owners; recursively when true.
    pub id_mapped: Option<bool>,
    /// For the file system.
    pub filesystem: Vec<FilesystemOption>,
}

/// Attribute options: name, bits set, bits cleared. With an `r` before the name they hold for the whole tree.
const ATTRIBUTES: [(&str, u64, u64); 18] = [
    ("ro", MOUNT_ATTR_RDONLY, 0),
    ("rw", 0, MOUNT_ATTR_RDONLY),
    ("nosuid", MOUNT_ATTR_NOSUID, 0),
    ("suid", 0, MOUNT_ATTR_NOSUID),
    ("nodev", MOUNT_ATTR_NODEV, 0),
    ("dev", 0, MOUNT_ATTR_NODEV),
    ("noexec", MOUNT_ATTR_NOEXEC, 0),
    ("exec", 0, MOUNT_ATTR_NOEXEC),
    ("nosymfollow", MOUNT_ATTR_NOSYMFOLLOW, 0),
    ("symfollow", 0, MOUNT_ATTR_NOSYMFOLLOW),
    ("nodiratime", MOUNT_ATTR_NODIRATIME, 0),
    ("diratime", 0, MOUNT_ATTR_NODIRATIME),
    ("noatime", MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME),
    ("atime", MOUNT_ATTR_RELATIME, MOUNT_ATTR_ATIME),
    ("relatime", MOUNT_ATTR_RELATIME, MOUNT_ATTR_ATIME),
    ("norelatime", MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME),
    ("strictatime", MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME),
    ("nostrictatime", MOUNT_ATTR_RELATIME, MOUNT_ATTR_ATIME),
];

const PROPAGATIONS: [(&str, Propagation, bool); 8] = [
    ("private", Propagation::Private, false),
    ("rprivate", Propagation::Private, true),
    ("slave", Propagation::Slave, false),
    ("rslave", Propagation::Slave, true),
    ("shared", Propagation::Shared, false),
    ("rshared", Propagation::Shared, true),
    ("unbindable", Propagation::Unbindable, false),
    ("runbindable", Propagation::Unbindable, true),
];

/// Words with a meaning of their own.
const WORDS: [&str; 9] = ["bind", "defaults", "idmap", "loud", "rbind", "remount", "ridmap", "silent", "tmpcopyup"];

/// The propagation that an option word names, and whether it holds for the whole tree.
pub(super) fn propagation(word: &str) -> Option<(Propagation, bool)> {
    PROPAGATIONS.iter().find(|(name, ..)| *name == word).map(|(_, propagation, recursive)| (*propagation, *recursive))
}

/// The option words that have a meaning here, sorted; others go to the file system.
pub(crate) fn option_words() -> Vec<String> {
    let attributes = ATTRIBUTES.iter().map(|(name, ..)| *name);
    let recursive = attributes.clone().map(|name| format!("r{name}"));
    let propagations = PROPAGATIONS.iter().map(|(name, ..)| *name);
    let mut words: Vec<String> =
        attributes.chain(propagations).chain(WORDS).map(str::to_owned).chain(recursive).collect();
    words.sort();
    words
}

fn attribute(attributes: &mut MountAttributes, set: u64, clear: u64) {
    attributes.set = (attributes.set & !clear) | set;
    attributes.clear = (attributes.clear & !set) | clear;
}

/// Reads the options of one mount; the later of two opposites wins.
pub(super) fn parse(options: &[String]) -> MountOptions {
    let known = |word: &str| ATTRIBUTES.iter().find(|(name, ..)| *name == word);
    let mut parsed = MountOptions::default();
    for option in options {
        if let Some((_, set, clear)) = known(option) {
            attribute(&mut parsed.here, *set, *clear);
        } else if let Some((_, set, clear)) = option.strip_prefix('r').and_then(known) {
            attribute(&mut parsed.tree, *set, *clear);
        } else if let Some(propagation) = propagation(option) {
            parsed.propagation.push(propagation);
        } else {
            match option.as_str() {
                "bind" => parsed.bind = Some(parsed.bind.unwrap_or(false)),
                "rbind" => parsed.bind = Some(true),
                "remount" => parsed.remount = true,
                "tmpcopyup" => parsed.copy_up = true,
                "idmap" => parsed.id_mapped = Some(parsed.id_mapped.unwrap_or(false)),
                "ridmap" => parsed.id_mapped = Some(true),
                "defaults" | "silent" | "loud" => {}
                other => parsed.filesystem.push(FilesystemOption::parse(other)),
            }
        }
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(options: &[&str]) -> MountOptions {
        parse(&options.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn every_attribute_has_its_bits_here_and_for_the_tree() {
        let atime = MOUNT_ATTR_ATIME;
        let table: [(&str, u64, u64); 18] = [
            ("ro", 1, 0),
            ("rw", 0, 1),
            ("nosuid", 2, 0),
            ("suid", 0, 2),
            ("nodev", 4, 0),
            ("dev", 0, 4),
            ("noexec", 8, 0),
            ("exec", 0, 8),
            ("nosymfollow", 0x20_0000, 0),
            ("symfollow", 0, 0x20_0000),
            ("nodiratime", 0x80, 0),
            ("diratime", 0, 0x80),
            ("noatime", 0x10, atime),
            ("atime", 0, atime),
            ("relatime", 0, atime),
            ("norelatime", 0x20, atime),
            ("strictatime", 0x20, atime),
            ("nostrictatime", 0, atime),
        ];
        for (word, set, clear) in table {
            let expected = MountAttributes { set, clear, ..Default::default() };
            assert_eq!(words(&[word]), MountOptions { here: expected, ..Default::default() }, "{word}");
            let tree = format!("r{word}");
            assert_eq!(words(&[&tree]), MountOptions { tree: expected, ..Default::default() }, "{tree}");
        }
    }

    #[test]
    fn the_later_of_two_opposites_wins() {
        for (options, set, clear) in [
            (&["ro", "nosuid", "rw"][..], MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY),
            (&["rw", "ro"], MOUNT_ATTR_RDONLY, 0),
            (&["noatime", "strictatime"], MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME),
            (&["symfollow", "nosymfollow"], MOUNT_ATTR_NOSYMFOLLOW, 0),
        ] {
            let options_here = words(options).here;
            assert_eq!((options_here.set, options_here.clear), (set, clear), "{options:?}");
        }
    }

    #[test]
    fn words_of_the_specification_are_not_for_the_file_system() {
        for (options, expected) in [
            (&["bind"][..], MountOptions { bind: Some(false), ..Default::default() }),
            (&["rbind", "bind"], MountOptions { bind: Some(true), ..Default::default() }),
            (&["idmap"], MountOptions { id_mapped: Some(false), ..Default::default() }),
            (&["ridmap", "idmap"], MountOptions { id_mapped: Some(true), ..Default::default() }),
            (&["remount", "bind"], MountOptions { remount: true, bind: Some(false), ..Default::default() }),
            (&["tmpcopyup"], MountOptions { copy_up: true, ..Default::default() }),
            (&["defaults", "silent", "loud"], MountOptions::default()),
        ] {
            assert_eq!(words(options), expected, "{options:?}");
        }
        let propagations = words(&["rshared", "slave"]).propagation;
        assert_eq!(propagations, [(Propagation::Shared, true), (Propagation::Slave, false)]);
    }

    #[test]
    fn what_is_no_option_of_ours_goes_to_the_file_system() {
        for word in ["size=64k", "mode=755", "sync", "hidepid=2", "rdefaults", "newinstance", "nr_inodes=1"] {
            assert_eq!(words(&[word]).filesystem, [FilesystemOption::parse(word)], "{word}");
        }
    }

    #[test]
    fn the_words_are_sorted_and_single() {
        let words = option_words();
        assert!(words.windows(2).all(|pair| pair[0] < pair[1]), "{words:?}");
        assert!(["rro", "remount", "idmap", "rsymfollow"].iter().all(|word| words.iter().any(|known| known == word)));
    }
}
