//! Layers unpacked on a real file system: archives of GNU tar come out as `tar -x` would have them, hostile ones are
//! refused or stay inside. Every test runs on both targets, folder and image. Needs root and the tar program.
#![forbid(unsafe_code)]

mod layer {
    pub mod archive;
    pub mod folder;
    mod pack;
    mod plain;
    pub mod tree;
}

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use hull_image::unpack::{UnpackError, UnpackOptions};
use hull_oci::Digest;
use layer::archive::{Archive, Entry, pax_record};
use layer::folder::{Facts, Folder, Target};
use layer::tree::fill;
use proptest::prelude::*;

const WHITEOUT: u64 = 0;

fn is_whiteout(path: &Path) -> bool {
    let stat = fs::symlink_metadata(path).unwrap();
    stat.file_type().is_char_device() && stat.rdev() == WHITEOUT
}

// ---- ordinary archives

fn all_kinds_of_entries() {
    let folder = Folder::new();
    let archive = Archive::new()
        .add(Entry::directory("./").mode(0o751))
        .add(Entry::directory("./dir/").mode(0o1777).owner(7, 8).mtime(1_000_000))
        .add(Entry::file("./dir/file", b"content").mode(0o4755).owner(1000, 2000).mtime(1_234_567))
        .add(Entry::symlink("./dir/link", "../anywhere/../x").owner(3, 4).mtime(5))
        .add(Entry::hard_link("./hard", "./dir/file"))
        .add(Entry::device("./null", b'3', 1, 3).mode(0o666))
        .add(Entry::device("./loop", b'4', 7, 300).owner(0, 6))
        .add(Entry::device("./fifo", b'6', 0, 0).mode(0o622))
        .add(Entry::file("/absolute/made/parents", b"x"))
        .end();
    let report = folder.unpack(&archive).unwrap();
    assert_eq!((report.entries, report.bytes), (9, 8));
    assert_eq!(report.diff_id, Digest::sha256_of(&archive));
    let facts = |path: &str| {
        let stat = fs::symlink_metadata(folder.path(path)).unwrap();
        (stat.mode(), stat.uid(), stat.gid(), stat.mtime())
    };
    assert_eq!(facts("").0, 0o040_751);
    assert_eq!(facts("dir"), (0o041_777, 7, 8, 1_000_000));
    assert_eq!(facts("dir/file"), (0o104_755, 1000, 2000, 1_234_567));
    assert_eq!((facts("dir/link").1, facts("dir/link").2, facts("dir/link").3), (3, 4, 5));
    assert_eq!(fs::read_link(folder.path("dir/link")).unwrap(), Path::new("../anywhere/../x"));
    assert_eq!(folder.stat("hard").ino(), folder.stat("dir/file").ino());
    assert_eq!((facts("null").0, folder.stat("null").rdev()), (0o020_666, rustix::fs::makedev(1, 3)));
    assert_eq!((facts("loop").2, folder.stat("loop").rdev()), (6, rustix::fs::makedev(7, 300)));
    assert_eq!(facts("fifo").0, 0o010_622);
    assert_eq!(facts("absolute/made").0, 0o040_755);
    assert_eq!(folder.read("absolute/made/parents"), "x");
}

fn owners_are_not_inherited_from_a_set_group_id_directory() {
    let folder = Folder::new();
    let archive = Archive::new()
        .add(Entry::directory("mail").mode(0o2775).owner(0, 8))
        .add(Entry::file("mail/box", b"x"))
        .add(Entry::directory("mail/dir").mode(0o755))
        .add(Entry::symlink("mail/link", "box"))
        .add(Entry::device("mail/fifo", b'6', 0, 0))
        .add(Entry::file("mail/made/file", b"x"))
        .end();
    folder.unpack(&archive).unwrap();
    assert_eq!((folder.stat("mail").mode(), folder.stat("mail").gid()), (0o042_775, 8));
    for path in ["mail/box", "mail/dir", "mail/link", "mail/fifo", "mail/made", "mail/made/file"] {
        assert_eq!(folder.stat(path).gid(), 0, "{path}");
        assert_eq!(folder.stat(path).mode() & 0o2000, 0, "{path}");
    }
}

fn modes_do_not_depend_on_the_umask() {
    let folder = Folder::new();
    let archive = Archive::new()
        .add(Entry::file("file", b"").mode(0o666))
        .add(Entry::directory("dir").mode(0o777))
        .add(Entry::device("fifo", b'6', 0, 0).mode(0o666))
        .add(Entry::file("closed", b"x").mode(0))
        .end();
    folder.unpack(&archive).unwrap();
    let modes = ["file", "dir", "fifo", "closed"].map(|path| folder.stat(path).mode() & 0o7777);
    assert_eq!(modes, [0o666, 0o777, 0o666, 0]);
}

fn long_names_of_gnu_and_pax() {
    let folder = Folder::new();
    let (name, target) = ("n".repeat(200), "t/".repeat(300));
    let long = format!("{}/{name}", "d".repeat(120));
    let archive = Archive::new()
        .add(Entry::extension(b'L', format!("{long}\0").as_bytes()))
        .add(Entry::file("cut", b"gnu"))
        .add(Entry::extension(b'K', format!("{target}\0").as_bytes()))
        .add(Entry::extension(b'L', format!("{long}.link\0").as_bytes()))
        .add(Entry::symlink("cut", "cut"))
        .add(Entry::pax(&[("path", format!("pax/{name}").as_bytes()), ("linkpath", b"unused")]))
        .add(Entry::file("cut", b"pax"))
        .add(Entry::pax(&[("linkpath", format!("pax/{name}").as_bytes())]))
        .add(Entry::hard_link("hard", "cut"))
        .add(Entry::file("plain", b"plain").prefix("a/prefix"))
        .end();
    folder.unpack(&archive).unwrap();
    assert_eq!(folder.read(&long), "gnu");
    assert_eq!(fs::read_link(folder.path(&format!("{long}.link"))).unwrap().to_str(), Some(target.as_str()));
    assert_eq!(folder.read(&format!("pax/{name}")), "pax");
    assert_eq!(folder.read("hard"), "pax");
    assert_eq!(folder.read("a/prefix/plain"), "plain");
}

fn pax_owners_sizes_and_times() {
    let folder = Folder::new();
    let archive = Archive::new()
        .add(Entry::pax(&[("uid", b"2000000000"), ("gid", b"3000000000"), ("mtime", b"1350244992.023960108")]))
        .add(Entry::file("a", b"x"))
        .add(Entry::pax(&[("mtime", b"-1.5"), ("size", b"3"), ("comment", b"ignored"), ("uid", b"")]))
        .add(Entry::file("b", b"abc").size_field(0).owner(5, 5))
        .add(Entry::directory("d"))
        .add(Entry::pax(&[("mtime", b"7.000000001")]))
        .add(Entry::directory("d"))
        .add(Entry::file("d/later", b""))
        .end();
    folder.unpack(&archive).unwrap();
    let a = folder.stat("a");
    assert_eq!((a.uid(), a.gid()), (2_000_000_000, 3_000_000_000));
    assert_eq!((a.mtime(), a.mtime_nsec()), (1_350_244_992, 23_960_108));
    let b = folder.stat("b");
    assert_eq!((b.mtime(), b.mtime_nsec(), b.uid()), (-2, 500_000_000, 5));
    assert_eq!(folder.read("b"), "abc");
    assert_eq!((folder.stat("d").mtime(), folder.stat("d").mtime_nsec()), (7, 1), "the later entry counts");
}

fn extended_attributes() {
    let folder = Folder::new();
    let capability = *b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let archive = Archive::new()
        .add(Entry::pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.trusted.binary", b"\0\n="),
        ]))
        .add(Entry::file("ping", b"program").mode(0o755).owner(1, 1))
        .add(Entry::pax(&[("SCHILY.xattr.trusted.hull", b"dir")]))
        .add(Entry::directory("dir"))
        .add(Entry::pax(&[("SCHILY.xattr.trusted.hull", b"link")]))
        .add(Entry::symlink("link", "ping"))
        .end();
    folder.unpack(&archive).unwrap();
    assert_eq!(folder.xattr("ping", "security.capability").unwrap(), capability);
    assert_eq!(folder.xattr("ping", "trusted.binary").unwrap(), b"\0\n=");
    assert_eq!(folder.xattr("ping", "trusted.hull"), None, "what is for the link must not land on its target");
    assert_eq!(folder.xattr("dir", "trusted.hull").unwrap(), b"dir");
    assert_eq!(folder.xattr("link", "trusted.hull").unwrap(), b"link");
}

fn old_forms_of_headers() {
    let folder = Folder::new();
    let archive = Archive::new()
        .add(Entry::file("v7/", b"").kind(0).magic(b"\0\0\0\0\0\0\0\0"))
        .add(Entry::file("v7/file", b"x").kind(0).magic(b"\0\0\0\0\0\0\0\0"))
        .add(Entry::file("contiguous", b"y").kind(b'7'))
        .add(Entry::file("signed\u{e9}", b"z").signed_checksum())
        .add(Entry::hard_link("sized", "v7/file").size_field(1))
        .add(Entry::extension(b'g', &pax_record("comment", b"archive of something")))
        .add(Entry::file("after", b"a"))
        .end();
    folder.unpack(&archive).unwrap();
    assert!(folder.stat("v7").is_dir());
    assert_eq!(
        ["v7/file", "contiguous", "signed\u{e9}", "sized", "after"].map(|path| folder.read(path)),
        ["x", "y", "z", "x", "a"]
    );
}

fn names_need_not_be_utf_8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new();
    let name = b"caf\xe9";
    let archive = Archive::new()
        .add(Entry::pax(&[("path", name)]))
        .add(Entry::file("cut", b"x"))
        .add(Entry::raw_name(b"dir\xff/file", b"y"))
        .end();
    folder.unpack(&archive).unwrap();
    assert_eq!(fs::read(folder.top().join(OsStr::from_bytes(name))).unwrap(), b"x");
    assert_eq!(fs::read(folder.top().join(OsStr::from_bytes(b"dir\xff/file"))).unwrap(), b"y");
}

// ---- ends

fn the_digest_covers_what_follows_the_end() {
    let whole = Archive::new().add(Entry::file("a", b"x")).end();
    let mut trailing = whole.clone();
    trailing.extend_from_slice(&[7; 300_001]);
    for archive in [whole[..whole.len() - 1024].to_vec(), whole[..whole.len() - 512].to_vec(), whole, trailing] {
        let folder = Folder::new();
        let report = folder.unpack(&archive).unwrap();
        assert_eq!(report.diff_id, Digest::sha256_of(&archive));
        assert_eq!(folder.read("a"), "x");
    }
    let empty = Folder::new();
    assert_eq!(empty.unpack(b"").unwrap().diff_id, Digest::sha256_of(b""));
    assert_eq!(empty.unpack(&[0; 1024]).unwrap().entries, 0);
}

fn truncated_archives_are_refused_wherever_they_are_cut() {
    let archive = Archive::new()
        .add(Entry::pax(&[("mtime", b"1.5")]))
        .add(Entry::file("a", &[1; 1000]))
        .add(Entry::file("b", b"x"))
        .end();
    // Between entries an end without a mark is allowed; inside the extended header's entry it is not.
    for cut in [1, 511, 513, 1025, 1537, 2048, 2500, 3000, 3585] {
        let folder = Folder::new();
        assert!(folder.unpack(&archive[..cut]).is_err(), "cut at {cut} of {}", archive.len());
    }
}

fn damaged_headers_are_refused() {
    let archive = Archive::new().add(Entry::file("a", b"x")).end();
    for position in [0, 100, 124, 136, 148, 156, 257, 500] {
        let mut damaged = archive.clone();
        damaged[position] ^= 0x15;
        assert!(Folder::new().unpack(&damaged).is_err(), "byte {position}");
    }
    let mut lone_zero = vec![0; 512];
    lone_zero.extend_from_slice(&archive);
    assert!(Folder::new().unpack(&lone_zero).is_err());
    assert!(Folder::new().unpack(&[b'x'; 1024]).is_err());
}

// ---- whiteouts

fn whiteouts_take_overlays_form() {
    let folder = Folder::new();
    let archive = Archive::new()
        .add(Entry::file("dir/.wh.gone", b""))
        .add(Entry::file(".wh.top", b""))
        .add(Entry::file("opaque/.wh..wh..opq", b""))
        .add(Entry::directory("opaque/").mode(0o700))
        .add(Entry::file("opaque/kept", b"x"))
        .add(Entry::file(".wh..wh..opq", b""))
        .end();
    folder.unpack(&archive).unwrap();
    assert!(is_whiteout(&folder.path("dir/gone")) && is_whiteout(&folder.path("top")));
    assert_eq!(folder.xattr("opaque", "trusted.overlay.opaque").unwrap(), b"y");
    assert_eq!(folder.xattr("", "trusted.overlay.opaque").unwrap(), b"y");
    assert_eq!((folder.stat("opaque").mode() & 0o777, folder.read("opaque/kept").as_str()), (0o700, "x"));
}

fn a_whiteout_hides_only_lower_layers() {
    let folder = Folder::new();
    let archive = Archive::new()
        .add(Entry::file("file", b"kept"))
        .add(Entry::file(".wh.file", b""))
        .add(Entry::file(".wh.after", b""))
        .add(Entry::file("after", b"kept"))
        .add(Entry::file("dir/inside", b"kept"))
        .add(Entry::file(".wh.dir", b""))
        .add(Entry::file(".wh.late", b""))
        .add(Entry::directory("late"))
        .add(Entry::file(".wh.made", b""))
        .add(Entry::file("made/inside", b"kept"))
        .add(Entry::file(".wh.twice", b""))
        .add(Entry::file(".wh.twice", b""))
        .end();
    folder.unpack(&archive).unwrap();
    assert_eq!(["file", "after", "dir/inside", "made/inside"].map(|path| folder.read(path)), ["kept"; 4]);
    for directory in ["dir", "late", "made"] {
        assert_eq!(folder.xattr(directory, "trusted.overlay.opaque").as_deref(), Some(&b"y"[..]), "{directory}");
    }
    assert!(is_whiteout(&folder.path("twice")));
}

fn whiteouts_of_nothing_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "dir/.wh.", "dir/.wh..", "dir/.wh..."] {
        let folder = Folder::new();
        let archive = Archive::new().add(Entry::file("dir/kept", b"x")).add(Entry::file(name, b"")).end();
        let error = folder.unpack(&archive).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
        if folder.keeps_what_failed() {
            assert_eq!(folder.read("dir/kept"), "x");
        }
    }
}

fn what_aufs_kept_for_itself_is_skipped() {
    let folder = Folder::new();
    let archive = Archive::new()
        .add(Entry::directory(".wh..wh.plnk/"))
        .add(Entry::file(".wh..wh.plnk/123.456", b"x"))
        .add(Entry::directory(".wh..wh.orph/"))
        .add(Entry::file(".wh..wh.aufs", b"x"))
        .add(Entry::file("kept", b"x"))
        .end();
    folder.unpack(&archive).unwrap();
    assert_eq!(folder.names(), ["kept"]);
}

// ---- duplicates

fn a_later_entry_replaces_an_earlier_one() {
    let folder = Folder::new();
    let archive = Archive::new()
        .add(Entry::file("file", b"long first content"))
        .add(Entry::file("file", b"second"))
        .add(Entry::directory("dir"))
        .add(Entry::file("dir/inside/deep", b"x"))
        .add(Entry::file("dir", b"now a file"))
        .add(Entry::file("was-file", b"x"))
        .add(Entry::directory("was-file"))
        .add(Entry::file("was-file/inside", b"y"))
        .add(Entry::symlink("link", "/etc/passwd"))
        .add(Entry::file("link", b"now a file"))
        .add(Entry::file("hard-target", b"kept"))
        .add(Entry::hard_link("hard", "hard-target"))
        .add(Entry::file("hard", b"own"))
        .add(Entry::directory("merged").mode(0o700).mtime(1))
        .add(Entry::file("merged/kept", b"x"))
        .add(Entry::directory("merged").mode(0o750).owner(1, 2).mtime(3))
        .end();
    folder.unpack(&archive).unwrap();
    assert_eq!(
        ["file", "dir", "was-file/inside", "link", "hard-target", "hard", "merged/kept"].map(|p| folder.read(p)),
        ["second", "now a file", "y", "now a file", "kept", "own", "x"]
    );
    let merged = folder.stat("merged");
    assert_eq!((merged.mode() & 0o777, merged.uid(), merged.gid(), merged.mtime()), (0o750, 1, 2, 3));
}

// ---- hostile archives

/// Archives that try to reach `outside`, a folder beside the layer, each with a name.
fn escapes(outside: &str) -> Vec<(&'static str, Vec<u8>)> {
    let file = |path: &str| Archive::new().add(Entry::file(path, b"evil")).end();
    let through = |target: &str, rest: Vec<Entry>| {
        rest.into_iter().fold(Archive::new().add(Entry::symlink("link", target)), Archive::add).end()
    };
    vec![
        ("dots", file("../outside/evil")),
        ("dots in the middle", file("a/../../outside/evil")),
        ("dots after a slash", file("/../outside/evil")),
        ("dots alone", Archive::new().add(Entry::directory("..").mode(0o777)).end()),
        ("absolute link as parent", through(outside, vec![Entry::file("link/evil", b"x")])),
        ("relative link as parent", through("../outside", vec![Entry::file("link/evil", b"x")])),
        ("link as parent of a directory", through(outside, vec![Entry::directory("link/evil")])),
        ("link as parent of a whiteout", through(outside, vec![Entry::file("link/.wh.precious", b"")])),
        ("link as parent of an opaque mark", through(outside, vec![Entry::file("link/.wh..wh..opq", b"")])),
        ("link two levels up", through(outside, vec![Entry::file("link/a/b/evil", b"x")])),
        ("link to a link", through("other", vec![Entry::symlink("other", outside), Entry::file("link/evil", b"x")])),
        ("hard link by dots", Archive::new().add(Entry::hard_link("hard", "../outside/precious")).end()),
        ("hard link through a link", through(outside, vec![Entry::hard_link("hard", "link/precious")])),
        (
            "directory that becomes a link before its time is set",
            Archive::new()
                .add(Entry::directory("dir"))
                .add(Entry::directory("dir/sub").mtime(1))
                .add(Entry::symlink("dir", outside))
                .add(Entry::directory("sub").mtime(1))
                .end(),
        ),
        (
            "link below which a directory was cached",
            Archive::new()
                .add(Entry::file("dir/a", b"x"))
                .add(Entry::symlink("dir", outside))
                .add(Entry::file("dir/evil", b"x"))
                .end(),
        ),
        (
            "pax path by dots",
            Archive::new().add(Entry::pax(&[("path", b"../outside/evil")])).add(Entry::file("a", b"x")).end(),
        ),
        (
            "gnu name by dots",
            Archive::new().add(Entry::extension(b'L', b"../outside/evil\0")).add(Entry::file("a", b"x")).end(),
        ),
        (
            "global pax path",
            Archive::new()
                .add(Entry::extension(b'g', &pax_record("path", b"../outside/evil")))
                .add(Entry::file("a", b"x"))
                .end(),
        ),
    ]
}

fn nothing_leaves_the_layer() {
    for number in 0..escapes("").len() {
        let folder = Folder::new();
        let outside = folder.outside();
        fs::write(outside.join("precious"), "kept").unwrap();
        fs::create_dir(outside.join("sub")).unwrap();
        let before = folder.facts_outside();
        let (name, archive) = escapes(outside.to_str().unwrap()).remove(number);
        let result = folder.unpack(&archive);
        assert_eq!(folder.facts_outside(), before, "{name}: {result:?}");
        // Other links lead to places inside the layer.
        if name.contains("dots") || name.starts_with("hard") {
            let error = result.expect_err(name);
            assert!(!error.to_string().is_empty());
        }
    }
}

fn links_of_the_layer_are_followed_inside_it() {
    let folder = Folder::new();
    let archive = Archive::new()
        .add(Entry::directory("usr/lib"))
        .add(Entry::symlink("lib", "usr/lib"))
        .add(Entry::file("lib/near", b"1"))
        .add(Entry::symlink("usr/up", "../../../../lib/./deep/.."))
        .add(Entry::directory("lib/deep").mode(0o2750).mtime(5))
        .add(Entry::file("usr/up/far", b"2"))
        .add(Entry::symlink("absolute", "/usr/share/doc"))
        .add(Entry::file("absolute/made/missing", b"3"))
        .add(Entry::hard_link("hard", "lib/near"))
        .add(Entry::file("lib/.wh.gone", b""))
        .add(Entry::symlink("lib/top", "/"))
        .add(Entry::file("lib/top/highest", b"4"))
        .end();
    folder.unpack(&archive).unwrap();
    let files = ["usr/lib/near", "usr/lib/far", "usr/share/doc/made/missing", "hard", "highest"];
    assert_eq!(files.map(|path| folder.read(path)), ["1", "2", "3", "1", "4"]);
    let deep = folder.stat("usr/lib/deep");
    assert_eq!((deep.mode() & 0o7777, deep.mtime()), (0o2750, 5));
    assert!(folder.stat("lib").file_type().is_symlink() && folder.stat("absolute").file_type().is_symlink());
    assert!(folder.stat("usr/lib/gone").file_type().is_char_device());
    for (name, target) in [("self", "self/x"), ("one", "two/.")] {
        let circle = Archive::new().add(Entry::symlink(name, target)).add(Entry::symlink("two", "one/."));
        let error = Folder::new().unpack(&circle.add(Entry::file(&format!("{name}/file"), b"x")).end()).unwrap_err();
        assert!(error.to_string().contains("too many symbolic links"), "{error}");
    }
}

fn a_final_link_is_replaced_not_followed() {
    let folder = Folder::new();
    let outside = folder.outside();
    fs::write(outside.join("precious"), "kept").unwrap();
    let target = outside.join("precious");
    let link = || Entry::symlink("link", target.to_str().unwrap());
    for entry in [
        Entry::file("link", b"evil"),
        Entry::directory("link").mode(0o777),
        Entry::symlink("link", "elsewhere"),
        Entry::device("link", b'6', 0, 0),
    ] {
        let before = folder.facts_outside();
        folder.unpack(&Archive::new().add(link()).add(entry.mode(0o4777).owner(9, 9)).end()).unwrap();
        assert_eq!(folder.facts_outside(), before);
    }
    // A hard link to a link is one to the link itself.
    let folder = Folder::new();
    folder.unpack(&Archive::new().add(link()).add(Entry::hard_link("hard", "link")).end()).unwrap();
    assert!(folder.stat("hard").file_type().is_symlink());
}

fn refused_with_the_entry_named() {
    let overlay = |name: &str| {
        Archive::new().add(Entry::pax(&[(&format!("SCHILY.xattr.{name}"), b"y")])).add(Entry::file("bad", b"x"))
    };
    let table = [
        ("hard link to what is not there", Archive::new().add(Entry::hard_link("bad", "missing"))),
        ("hard link into what is not there", Archive::new().add(Entry::hard_link("bad", "missing/file"))),
        ("hard link to itself", Archive::new().add(Entry::file("bad", b"x")).add(Entry::hard_link("bad", "bad"))),
        ("hard link to a directory", Archive::new().add(Entry::directory("d")).add(Entry::hard_link("bad", "d"))),
        ("overlay's attribute", overlay("trusted.overlay.redirect")),
        ("overlay's user attribute", overlay("user.overlay.opaque")),
        ("file as parent", Archive::new().add(Entry::file("f", b"x")).add(Entry::file("f/bad", b"x"))),
        ("device as parent", Archive::new().add(Entry::device("n", b'3', 1, 3)).add(Entry::file("n/bad", b"x"))),
        ("unknown type", Archive::new().add(Entry::file("bad", b"x").kind(b'V'))),
        (
            "owner nobody can have",
            Archive::new().add(Entry::pax(&[("uid", b"4294967295")])).add(Entry::file("bad", b"x")),
        ),
        ("owner that is no number", Archive::new().add(Entry::pax(&[("gid", b"x")])).add(Entry::file("bad", b"x"))),
        ("time that is none", Archive::new().add(Entry::pax(&[("mtime", b"now")])).add(Entry::file("bad", b"x"))),
        ("component too long", Archive::new().add(Entry::pax(&[("path", &[b'b'; 300])])).add(Entry::file("bad", b"x"))),
    ];
    for (name, archive) in table {
        let error = Folder::new().unpack(&archive.end()).expect_err(name);
        let text = error.to_string();
        assert!(text.contains("bad") || text.contains("bbbb"), "{name}: {text}");
    }
}

fn the_layer_itself_stays_a_directory() {
    for entry in
        [Entry::file(".", b"x"), Entry::symlink("./", "/etc"), Entry::hard_link("/", "a"), Entry::file("", b"x")]
    {
        let folder = Folder::new();
        assert!(folder.unpack(&Archive::new().add(entry).end()).is_err());
        assert!(folder.top().is_dir());
    }
}

fn limits_are_kept() {
    let limited = |archive: &[u8], options: &UnpackOptions| Folder::new().unpack_with(archive, options);
    let many = (0..20).fold(Archive::new(), |archive, n| archive.add(Entry::file(&format!("f{n}"), b"x"))).end();
    let options = |change: fn(&mut UnpackOptions)| {
        let mut options = UnpackOptions::default();
        change(&mut options);
        options
    };
    assert!(limited(&many, &options(|o| o.entries_max = 20)).is_ok());
    let error = limited(&many, &options(|o| o.entries_max = 19)).unwrap_err();
    assert!(matches!(error, UnpackError::TooManyEntries { limit: 19 }), "{error}");
    let error = limited(&many, &options(|o| o.content_bytes_max = Some(19))).unwrap_err();
    assert!(error.to_string().contains("19"), "{error}");
    let error = limited(&many, &options(|o| o.kept_bytes_max = 2000)).unwrap_err();
    assert!(error.to_string().contains("names and attributes above the limit of 2000"), "{error}");
    // Twelve folders that no entry describes, below one that is described.
    let deep = Archive::new()
        .add(Entry::directory("a"))
        .add(Entry::file("a/b/c/d/e/f/g", b"x"))
        .add(Entry::file("a/b/c/d/e/f/h", b"x"))
        .add(Entry::file("1/2/3/4/5/6/7/8", b"x"))
        .end();
    assert!(limited(&deep, &options(|o| o.entries_max = 16)).is_ok());
    let error = limited(&deep, &options(|o| o.entries_max = 15)).unwrap_err();
    assert!(matches!(error, UnpackError::TooManyEntries { limit: 15 }), "{error}");
    let paths: Vec<String> = (0..3).map(|at| format!("{at}/{}f", "d/".repeat(300))).collect();
    let mut implied = Archive::new();
    for path in &paths {
        implied = implied.add(Entry::pax(&[("path", path.as_bytes())])).add(Entry::file("cut", b"x"));
    }
    let error = limited(&implied.end(), &options(|o| o.kept_bytes_max = 100_000)).unwrap_err();
    assert!(error.to_string().contains("names and attributes above the limit"), "{error}");
    let long = format!("{}f", "d/".repeat(100));
    let archive = Archive::new().add(Entry::pax(&[("path", long.as_bytes())])).add(Entry::file("cut", b"x")).end();
    assert!(limited(&archive, &options(|o| o.path_bytes_max = 201)).is_ok());
    assert!(limited(&archive, &options(|o| o.path_bytes_max = 200)).is_err());
    let large = Archive::new().add(Entry::pax(&[("comment", &[b'c'; 2 << 20])])).add(Entry::file("a", b"x")).end();
    assert!(limited(&large, &UnpackOptions::default()).is_err(), "an extended header of 2 MiB");
}

fn extended_headers_do_not_pile_up_in_memory() {
    // Each is below the limit and has another key, and no entry comes that they would be for.
    for kind in [b'x', b'g'] {
        let headers =
            (0..64).map(|number| Entry::extension(kind, &pax_record(&format!("key{number}"), &[b'v'; 100_000])));
        let archive = headers.fold(Archive::new(), Archive::add).add(Entry::file("a", b"x")).end();
        let error = Folder::new().unpack(&archive).unwrap_err();
        assert!(matches!(error, UnpackError::Limit { .. }), "{error}");
    }
}

// ---- sparse files

fn sparse_maps_of_every_format() {
    let sparse =
        |major: &[u8], minor: &[u8]| [("GNU.sparse.major", major.to_vec()), ("GNU.sparse.minor", minor.to_vec())];
    let map = "2\n1048576\n5\n3145728\n3\n";
    let mut in_front = map.as_bytes().to_vec();
    in_front.resize(512, 0);
    in_front.extend_from_slice(b"fivesxyz");
    let [major, minor] = sparse(b"1", b"0");
    let forms = [
        Archive::new().add(Entry::old_sparse("sparse", 4 << 20, &[(1 << 20, 5), (3 << 20, 3)], b"fivesxyz")),
        Archive::new()
            .add(Entry::extension(
                b'x',
                &[
                    pax_record("GNU.sparse.size", b"4194304"),
                    pax_record("GNU.sparse.numblocks", b"2"),
                    pax_record("GNU.sparse.offset", b"1048576"),
                    pax_record("GNU.sparse.numbytes", b"5"),
                    pax_record("GNU.sparse.offset", b"3145728"),
                    pax_record("GNU.sparse.numbytes", b"3"),
                ]
                .concat(),
            ))
            .add(Entry::file("sparse", b"fivesxyz")),
        Archive::new()
            .add(Entry::pax(&[
                ("GNU.sparse.size", b"4194304"),
                ("GNU.sparse.name", b"sparse"),
                ("GNU.sparse.map", b"1048576,5,3145728,3"),
            ]))
            .add(Entry::file("GNUSparseFile.1/sparse", b"fivesxyz")),
        Archive::new()
            .add(Entry::pax(&[
                (major.0, &major.1),
                (minor.0, &minor.1),
                ("GNU.sparse.name", b"sparse"),
                ("GNU.sparse.realsize", b"4194304"),
            ]))
            .add(Entry::file("GNUSparseFile.1/sparse", &in_front)),
    ];
    for (number, archive) in forms.into_iter().enumerate() {
        let folder = Folder::new();
        let report = folder.unpack(&archive.add(Entry::file("next", b"next")).end()).unwrap();
        let content = fs::read(folder.path("sparse")).unwrap();
        assert_eq!(content.len(), 4 << 20, "form {number}");
        assert_eq!((&content[1 << 20..][..5], &content[3 << 20..][..3]), (&b"fives"[..], &b"xyz"[..]), "form {number}");
        assert!(content.iter().filter(|byte| **byte != 0).count() == 8);
        assert!(folder.disk_bytes("sparse") < 1 << 20, "form {number}");
        assert_eq!((report.bytes, folder.read("next").as_str()), (12, "next"));
    }
}

fn lying_sparse_maps_are_refused() {
    let mapped = |map: &[u8], size: &[u8]| {
        Archive::new()
            .add(Entry::pax(&[("GNU.sparse.size", size), ("GNU.sparse.map", map)]))
            .add(Entry::file("bad", b"fives"))
            .end()
    };
    let table: [(&[u8], &[u8]); 6] = [
        (b"10,5", b"12"),
        (b"10,3,5,2", b"100"),
        (b"0,6", b"100"),
        (b"0,4", b"100"),
        (b"18446744073709551615,5", b"100"),
        (b"1,x", b"100"),
    ];
    for (map, size) in table {
        assert!(Folder::new().unpack(&mapped(map, size)).is_err(), "{}", map.escape_ascii());
    }
    for front in [&b"9999999999999\n"[..], b"1\n", b"x\n", &[b'1'; 512], b"1\n0\n5\nrest"] {
        let mut data = front.to_vec();
        data.resize(512, b'9');
        let archive = Archive::new()
            .add(Entry::pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"bad"),
                ("GNU.sparse.realsize", b"100"),
            ]))
            .add(Entry::file("cut", &data))
            .end();
        assert!(Folder::new().unpack(&archive).is_err(), "{}", front.escape_ascii());
    }
}

// ---- against GNU tar

fn tar(arguments: &[&str]) {
    let output = Command::new("tar").args(arguments).output().expect("the tar program");
    assert!(output.status.success(), "tar {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn archives_of_gnu_tar_come_out_as_they_went_in() {
    let source = Folder::new();
    fill(&source.top());
    let expected = source.listing();
    let archive = source.outside().join("archive.tar");
    let top = source.top();
    let (archive_name, top) = (archive.to_str().unwrap(), top.to_str().unwrap());
    for options in [
        &["--format=pax", "--xattrs", "--xattrs-include=*"][..],
        &["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse"],
        &["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", "--sparse-version=0.1"],
        &["--format=gnu", "--sparse"],
        &["--format=gnu"],
    ] {
        let all = [&["--numeric-owner", "-C", top, "-cf", archive_name][..], options, &["."]].concat();
        tar(&all);
        let folder = Folder::new();
        folder.unpack(&fs::read(&archive).unwrap()).unwrap();
        let has_attributes = options.contains(&"--xattrs");
        let is_pax = options.contains(&"--format=pax");
        let is_sparse = options.contains(&"--sparse");
        for (expected, found) in expected.iter().zip(folder.listing()) {
            let mut expected = expected.clone();
            // The GNU format keeps whole seconds and no attributes.
            expected.mtime.1 = if is_pax { expected.mtime.1 } else { 0 };
            expected.xattrs = if has_attributes { expected.xattrs } else { Vec::new() };
            assert_eq!(found, expected, "{options:?}");
        }
        assert_eq!(folder.listing().len(), expected.len());
        if is_sparse {
            assert!(folder.disk_bytes("sparse") < 8 << 20, "{options:?}");
        }
    }
}

// ---- any archive at all

fn any_entry() -> impl Strategy<Value = Entry> {
    // Few names, so that entries meet each other; some lead out.
    let component = prop::sample::select(vec!["a", "b", "c", "..", ".", "", ".wh.a", ".wh..wh..opq", "link"]);
    let path = prop::collection::vec(component, 1..4).prop_map(|components| components.join("/"));
    let target = prop::sample::select(vec!["a", "b/c", "..", "../outside", "/tmp", ".", "link", "a/link", "../../.."]);
    (path, target, 0..7_usize).prop_map(|(path, target, kind)| match kind {
        0 | 1 => Entry::file(&path, b"data"),
        2 => Entry::directory(&path),
        3 | 4 => Entry::symlink(&path, target),
        5 => Entry::hard_link(&path, target),
        _ => Entry::device(&path, b'6', 0, 0),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    fn no_archive_changes_anything_outside(entries in prop::collection::vec(any_entry(), 1..12)) {
        let folder = Folder::new();
        fs::write(folder.outside().join("a"), "precious").unwrap();
        let before = folder.facts_outside();
        let archive = entries.into_iter().fold(Archive::new(), Archive::add).end();
        let _ = folder.unpack(&archive);
        prop_assert_eq!(folder.facts_outside(), before);
    }

    fn damaged_archives_end_in_an_error_or_a_layer(
        entries in prop::collection::vec(any_entry(), 1..6),
        position in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let folder = Folder::new();
        let before = folder.facts_outside();
        let mut archive = entries.into_iter().fold(Archive::new(), Archive::add).end();
        *position.get_mut(&mut archive[..]) = byte;
        archive.truncate(cut.index(archive.len()).max(512));
        let _ = folder.unpack(&archive);
        prop_assert_eq!(folder.facts_outside(), before);
    }

    #[test]
    fn both_targets_hold_the_same(entries in prop::collection::vec(any_entry(), 1..12)) {
        let archive = entries.into_iter().fold(Archive::new(), Archive::add).end();
        let listing = |target| {
            let folder = Folder::of(target);
            let unpacked = folder.unpack(&archive).map_err(|error| error.to_string());
            unpacked.map(|_| folder.listing().into_iter().map(comparable).collect::<Vec<_>>())
        };
        prop_assert_eq!(listing(Target::Folder), listing(Target::Image));
    }
}

/// What must not depend on the target: nobody says when a parent that no entry describes was made, and an image's
/// deletions are links to one device.
fn comparable(facts: Facts) -> Facts {
    let is_deletion = facts.mode & 0o170_000 == 0o020_000 && facts.device == WHITEOUT;
    let is_folder = facts.mode & 0o170_000 == 0o040_000;
    Facts {
        mtime: if is_folder || is_deletion { (0, 0) } else { facts.mtime },
        links: if is_deletion { 1 } else { facts.links },
        ..facts
    }
}

/// Makes a test of each function for each target.
macro_rules! on_both_targets {
    ($($test:ident)*) => {
        mod folder {
            $(#[test] fn $test() { super::Target::Folder.run(super::$test) })*
        }
        mod image {
            $(#[test] fn $test() { super::Target::Image.run(super::$test) })*
        }
    };
}

on_both_targets! {
    all_kinds_of_entries
    owners_are_not_inherited_from_a_set_group_id_directory
    modes_do_not_depend_on_the_umask
    long_names_of_gnu_and_pax
    pax_owners_sizes_and_times
    extended_attributes
    old_forms_of_headers
    names_need_not_be_utf_8
    the_digest_covers_what_follows_the_end
    truncated_archives_are_refused_wherever_they_are_cut
    damaged_headers_are_refused
    whiteouts_take_overlays_form
    a_whiteout_hides_only_lower_layers
    whiteouts_of_nothing_are_refused
    what_aufs_kept_for_itself_is_skipped
    a_later_entry_replaces_an_earlier_one
    nothing_leaves_the_layer
    links_of_the_layer_are_followed_inside_it
    a_final_link_is_replaced_not_followed
    refused_with_the_entry_named
    the_layer_itself_stays_a_directory
    limits_are_kept
    extended_headers_do_not_pile_up_in_memory
    sparse_maps_of_every_format
    lying_sparse_maps_are_refused
    archives_of_gnu_tar_come_out_as_they_went_in
    no_archive_changes_anything_outside
    damaged_archives_end_in_an_error_or_a_layer
}
