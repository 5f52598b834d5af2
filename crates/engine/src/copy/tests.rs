//! Docker's rules for names, and what hostile streams and links do, in temporary folders as both places.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};

use super::place::ContainerRoot;
use super::*;

fn parse(text: &str) -> CopyEnd {
    CopyEnd::parse(text)
}

fn contained(folder: &Path) -> Place {
    Place::container(ContainerRoot { fd: File::open(folder).unwrap().into(), shift: 0 }, "box")
}

/// Copies `from`, as seen from the folder as a root, to `to` on the host.
fn copy_out(root: &Path, from: &str, to: &Path, follow: bool) -> Result<CopyReport, CopyError> {
    let source = Source::find(contained(root), Path::new(from), follow)?;
    let target = Target::find(Place::host(), to, &source)?;
    transfer(&source, &target, Owners::Kept)
}

fn copy_in(from: &str, root: &Path, to: &str) -> Result<CopyReport, CopyError> {
    let source = Source::find(Place::host(), Path::new(from), false)?;
    let target = Target::find(contained(root), Path::new(to), &source)?;
    transfer(&source, &target, Owners::Root)
}

/// A root with /etc/name -> "inside", /dir/{a,sub/b}, /link -> /etc/name, /dirlink -> dir, /out -> ../../../outside.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir_all(at("etc")).unwrap();
    fs::create_dir_all(at("dir/sub")).unwrap();
    fs::write(at("etc/name"), "inside").unwrap();
    fs::write(at("dir/a"), "a").unwrap();
    fs::write(at("dir/sub/b"), "bb").unwrap();
    fs::hard_link(at("dir/a"), at("dir/second")).unwrap();
    symlink("/etc/name", at("link")).unwrap();
    symlink("dir", at("dirlink")).unwrap();
    symlink("../../../../../../../outside", at("out")).unwrap();
    root
}

#[test]
fn ends() {
    assert_eq!(parse("-"), CopyEnd::Stream);
    assert_eq!(parse("box:/a:b"), CopyEnd::Container { name: "box".into(), path: "/a:b".into() });
    for host in ["/a:b", "./a:b", "../a:b", "plain", ":x"] {
        assert_eq!(parse(host), CopyEnd::Host(host.into()), "{host}");
    }
}

#[test]
fn files_and_their_names() {
    let (root, host) = (root(), tempfile::tempdir().unwrap());
    let to = |name: &str| host.path().join(name);
    assert_eq!(copy_out(root.path(), "/etc/name", &to("new"), false).unwrap().bytes, 6);
    assert_eq!(fs::read_to_string(to("new")).unwrap(), "inside");
    copy_out(root.path(), "/etc/name", host.path(), false).unwrap();
    assert_eq!(fs::read_to_string(to("name")).unwrap(), "inside");
    let error = copy_out(root.path(), "/etc/name", &to("missing/"), false).unwrap_err();
    assert!(matches!(error, CopyError::NoDirectory { .. }), "{error}");
    let error = copy_out(root.path(), "/etc/name", &to("missing/x"), false).unwrap_err();
    assert!(matches!(error, CopyError::NoDirectory { .. }), "{error}");
    let error = copy_out(root.path(), "/nothing", host.path(), false).unwrap_err();
    assert_eq!(error.to_string(), "Could not find the file /nothing in container box");
    let error = copy_out(root.path(), "/etc/name/", host.path(), false).unwrap_err();
    assert!(matches!(error, CopyError::NotInContainer { .. } | CopyError::NotADirectory { .. }), "{error}");
}

#[test]
fn directories_and_their_contents() {
    let (root, host) = (root(), tempfile::tempdir().unwrap());
    let to = |name: &str| host.path().join(name);
    copy_out(root.path(), "/dir", host.path(), false).unwrap();
    assert_eq!(fs::read_to_string(to("dir/sub/b")).unwrap(), "bb");
    assert_eq!(fs::metadata(to("dir/a")).unwrap().ino(), fs::metadata(to("dir/second")).unwrap().ino());
    copy_out(root.path(), "/dir/.", host.path(), false).unwrap();
    assert_eq!(fs::read_to_string(to("sub/b")).unwrap(), "bb");
    copy_out(root.path(), "/dir", &to("renamed"), false).unwrap();
    assert_eq!(fs::read_to_string(to("renamed/a")).unwrap(), "a");
    assert!(matches!(copy_out(root.path(), "/dir", &to("a"), false), Err(CopyError::DirectoryToFile { .. })));
    let times = |path: &Path| fs::metadata(path).unwrap().mtime();
    assert_eq!(times(&to("renamed/sub")), times(&root.path().join("dir/sub")));
}

#[test]
fn links_are_copied_or_followed() {
    let (root, host) = (root(), tempfile::tempdir().unwrap());
    let to = |name: &str| host.path().join(name);
    copy_out(root.path(), "/link", &to("link"), false).unwrap();
    assert_eq!(fs::read_link(to("link")).unwrap(), Path::new("/etc/name"));
    copy_out(root.path(), "/link", &to("followed"), true).unwrap();
    assert_eq!(fs::read_to_string(to("followed")).unwrap(), "inside");
    copy_out(root.path(), "/dirlink/", &to("through"), false).unwrap();
    assert_eq!(fs::read_to_string(to("through/a")).unwrap(), "a");
}

#[test]
fn nothing_is_written_outside_the_root() {
    let (root, host) = (root(), tempfile::tempdir().unwrap());
    fs::write(host.path().join("file"), "new").unwrap();
    let file = host.path().join("file").display().to_string();
    fs::create_dir(root.path().join("outside")).unwrap();
    copy_in(&file, root.path(), "/out").unwrap();
    assert_eq!(fs::read_to_string(root.path().join("outside/file")).unwrap(), "new", "the link leads inside");
    copy_in(&file, root.path(), "/../../etc/name").unwrap();
    assert_eq!(fs::read_to_string(root.path().join("etc/name")).unwrap(), "new");
}

fn stream(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, text) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_uid(1234);
        header.set_gid(1234);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_size(0);
            header.set_link_name(text).unwrap();
            header.set_cksum();
            tar.append(&header, std::io::empty()).unwrap();
        } else {
            header.set_size(text.len() as u64);
            header.set_cksum();
            tar.append(&header, text.as_bytes()).unwrap();
        }
    }
    tar.into_inner().unwrap()
}

fn extract(root: &Path, entries: &[(&str, tar::EntryType, &str)]) -> Result<CopyReport, CopyError> {
    let target = Target::folder(contained(root), Path::new("/dir"))?;
    Extraction::new(&target, Owners::Kept).extract(&mut stream(entries).as_slice())
}

#[test]
fn hostile_streams() {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let root = root();
    fs::create_dir(root.path().join("outside")).unwrap();
    let up = extract(root.path(), &[("../etc/name", Regular, "x")]);
    assert!(matches!(up, Err(CopyError::Outside { .. })), "{up:?}");
    let through = extract(root.path(), &[("l", Symlink, "/outside"), ("l/x", Regular, "x")]);
    assert!(through.is_err() && !root.path().join("outside/x").exists());
    let linked = extract(root.path(), &[("h", Link, "../etc/name")]);
    assert!(matches!(linked, Err(CopyError::Outside { .. })), "{linked:?}");
    let over = extract(root.path(), &[("sub", Regular, "x")]);
    assert!(matches!(over, Err(CopyError::TypeMismatch { .. })), "{over:?}");
    let over = extract(root.path(), &[("a", Directory, "")]);
    assert!(matches!(over, Err(CopyError::TypeMismatch { .. })), "{over:?}");
    assert_eq!(fs::read_to_string(root.path().join("etc/name")).unwrap(), "inside");
}

#[test]
fn a_stream_keeps_its_owners_and_absolute_names_stay_below() {
    use tar::EntryType::Regular;
    let root = root();
    extract(root.path(), &[("/abs/file", Regular, "x")]).unwrap();
    let made = fs::metadata(root.path().join("dir/abs/file")).unwrap();
    assert_eq!((made.uid(), made.mode() & 0o7777), (1234, 0o755));
    let broken = Extraction::new(&Target::folder(contained(root.path()), Path::new("/dir")).unwrap(), Owners::Kept)
        .extract(&mut [1_u8; 700].as_slice());
    assert!(matches!(broken, Err(CopyError::Stream(_))), "{broken:?}");
}

#[test]
fn packing_to_a_stream_names_the_entries_like_docker() {
    let root = root();
    let names = |from: &str| {
        let source = Source::find(contained(root.path()), Path::new(from), false).unwrap();
        let mut out = Vec::new();
        Packing::new(&mut out).pack(&source, &source.name()).unwrap();
        let mut archive = tar::Archive::new(out.as_slice());
        let entries = archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string());
        entries.collect::<Vec<_>>()
    };
    assert_eq!(names("/etc/name"), ["name"]);
    assert_eq!(names("/dir"), ["dir/", "dir/a", "dir/second", "dir/sub/", "dir/sub/b"]);
    assert_eq!(names("/dir/sub/."), ["./", "b"]);
}
