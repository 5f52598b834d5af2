//! Overlay file systems as detached mounts (Documentation/filesystems/overlayfs.rst).
//!
//! Since Linux 6.7 layers are appended one by one (`lowerdir+`), so neither the 256 bytes of an fsconfig(2) string
//! nor a page of mount(2) options bounds their number; the kernel stacks at most [`MAXIMUM_LOWERS`]. Older kernels
//! get one mount(2) whose options name the layers relative to the deepest folder that holds them all, or by number where
//! that is too long. That happens in a thread with a mount namespace of its own, and what comes back is a clone of the
//! mount: the caller's mount table does not change either way. Which way works is found out by trying.
//!
//! In a user namespace overlay keeps its marks in `user.` attributes (`userxattr`), since nobody may set `trusted.` ones
//! there.
//!
//! A stack of one directory cannot be an overlay: a single lower one becomes a read-only bind mount, a single upper
//! one a bind mount. Renaming a lower directory gives `EXDEV` and no inode index is kept (`redirect_dir=nofollow`,
//! `metacopy=off`, `index=off`), so an upper directory is always the plain difference to the layers below it.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use hull_sys::mount::{MOUNT_ATTR_RDONLY, MountAttributes};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, open, unlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, mount,
};

use super::{MountError, Propagation, attach, clone_tree, kernel_log, set_attributes, set_propagation};

/// How many lower directories the kernel stacks (`OVL_MAX_STACK`).
pub const MAXIMUM_LOWERS: usize = 500;
/// Longest string of one fsconfig(2) call, without its NUL.
const LONGEST_PARAMETER: usize = 255;
/// Longest option string of mount(2), without its NUL, in bytes.
const LONGEST_OPTIONS: usize = 4095;
/// What an upper directory should stay free of, so that it can be read without this mount.
const PLAIN: [(&str, &str); 3] = [("index", "off"), ("redirect_dir", "nofollow"), ("metacopy", "off")];

/// The attribute (value `y`) by which a directory of a layer hides what lower layers have in it, for overlays that this
/// process mounts.
pub fn opaque_attribute() -> &'static str {
    if in_user_namespace() { "user.overlay.opaque" } else { "trusted.overlay.opaque" }
}

/// Whether this process is in a user namespace below the first one: only there all ids are what they are.
fn in_user_namespace() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        !map.is_empty() && map.split_whitespace().ne(["0", "0", "4294967295"])
    })
}

/// What to stack; paths are host paths, absolute.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OverlayMount {
    /// Read-only directories, the topmost first.
    pub lowers: Vec<PathBuf>,
    /// The directory that takes the changes, and an empty one beside it that the kernel works in.
    pub upper: Option<(PathBuf, PathBuf)>,
    /// Never sync the upper directory: for what a power cut may destroy. A marker that an earlier mount of this kind
    /// left in the work directory is removed.
    pub volatile: bool,
}

/// Makes the overlay and returns it as a detached mount: files are reached through openat(2) on the descriptor, and
/// it vanishes with the descriptor unless it has been attached.
///
/// # Errors
/// The step and the layer that the kernel refused, with its own message where it gave one.
pub fn overlay(stack: &OverlayMount) -> Result<OwnedFd, MountError> {
    match (stack.lowers.as_slice(), &stack.upper) {
        ([], None) => Err(MountError::new("overlay", "a stack without any directory", Errno::INVAL)),
        ([], Some((upper, _))) => bind(upper, false),
        ([lower], None) => bind(lower, true),
        (lowers, _) if lowers.len() > MAXIMUM_LOWERS => {
            let subject = format!("{} layers: the kernel stacks at most {MAXIMUM_LOWERS}", lowers.len());
            Err(MountError::new("overlay", subject, Errno::TOOBIG))
        }
        _ => {
            if let (true, Some((_, work))) = (stack.volatile, &stack.upper) {
                forget_volatile(work)?;
            }
            match appended(stack) {
                Err(error) if is_old_kernel(&error) => in_one_string(stack),
                result => result,
            }
        }
    }
}

/// Gives the calling thread a mount namespace that nothing leaks out of.
pub(super) fn leave_mount_namespace() -> Result<(), MountError> {
    hull_sys::process::unshare(hull_sys::process::CLONE_NEWNS).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::INVAL);
        MountError::new("unshare", "mount namespace for overlay", errno)
    })?;
    set_propagation(c"/", true, Propagation::Private)
}

/// `lowerdir+` is not known: new kernels say so, old ones just refuse the whole without a word, or a name that does not
/// fit among the options that they gather for mount(2) (`legacy_parse_param`).
fn is_old_kernel(error: &MountError) -> bool {
    let says = |line: &String, words: &str| line.contains(words);
    let unknown = |line: &String| {
        says(line, "Unknown parameter") || says(line, "nrecognized mount option") || says(line, "Legacy: ")
    };
    error.errno == Errno::INVAL && (error.kernel_log.is_empty() || error.kernel_log.iter().any(unknown))
}

fn bind(directory: &Path, readonly: bool) -> Result<OwnedFd, MountError> {
    let mount = clone_tree(CWD, directory, false)?;
    if readonly {
        let attributes = MountAttributes { set: MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
        set_attributes(mount.as_fd(), false, &attributes, &directory.display().to_string())?;
    }
    Ok(mount)
}

/// Removes what the kernel remembers a volatile mount by that was not ended by a sync.
fn forget_volatile(work: &Path) -> Result<(), MountError> {
    for (marker, flags) in [("dirty", AtFlags::empty()), ("", AtFlags::REMOVEDIR)] {
        let marker = work.join("work/incompat/volatile").join(marker);
        match unlinkat(CWD, &marker, flags) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(MountError::new("unlink", marker.display().to_string(), errno)),
        }
    }
    Ok(())
}

fn appended(stack: &OverlayMount) -> Result<OwnedFd, MountError> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| MountError::new("fsopen", "overlay (is the overlay module there?)", errno))?;
    let context = context.as_fd();
    let refused = |operation, subject: String, errno| {
        let kernel_log = kernel_log(context);
        MountError { operation, subject, errno, kernel_log }
    };
    let set = |key: &str, value: &OsStr| {
        fsconfig_set_string(context, key, value)
            .map_err(|errno| refused("fsconfig", format!("overlay {key}={}", value.display()), errno))
    };
    set("source", OsStr::new("overlay"))?;
    for lower in &stack.lowers {
        with_short_name(lower, |name| set("lowerdir+", name))?;
    }
    if let Some((upper, work)) = &stack.upper {
        with_short_name(upper, |name| set("upperdir", name))?;
        with_short_name(work, |name| set("workdir", name))?;
    }
    for (key, value) in PLAIN {
        set(key, OsStr::new(value))?;
    }
    let flags = [("volatile", stack.volatile && stack.upper.is_some()), ("userxattr", in_user_namespace())];
    for (flag, _) in flags.into_iter().filter(|(_, is_set)| *is_set) {
        fsconfig_set_flag(context, flag).map_err(|errno| refused("fsconfig", format!("overlay {flag}"), errno))?;
    }
    fsconfig_create(context).map_err(|errno| refused("creating", whole(stack), errno))?;
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .map_err(|errno| refused("fsmount", whole(stack), errno))
}

/// The overlay as errors name it.
fn whole(stack: &OverlayMount) -> String {
    let topmost = stack.upper.as_ref().map(|(upper, _)| upper).or(stack.lowers.first());
    let topmost = topmost.map(|path| path.display().to_string()).unwrap_or_default();
    format!("overlay of {} layers, topmost {topmost}", stack.lowers.len())
}

/// Gives `set` the path, or, where it is too long for a parameter or has a backslash (which the kernel takes as an
/// escape for some parameters), the name of a descriptor of it.
pub(super) fn with_short_name<T>(
    path: &Path,
    set: impl FnOnce(&OsStr) -> Result<T, MountError>,
) -> Result<T, MountError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() <= LONGEST_PARAMETER && !bytes.contains(&b'\\') {
        return set(path.as_os_str());
    }
    let opened = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| MountError::new("open", path.display().to_string(), errno))?;
    set(OsStr::new(&descriptor_name(opened.as_fd())))
}

pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, MountError> {
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| MountError::new("open", path.display().to_string(), errno))
}

fn descriptor_name(directory: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

/// The way of kernels before 6.7: one option string for mount(2), and a clone of the mount.
fn in_one_string(stack: &OverlayMount) -> Result<OwnedFd, MountError> {
    let mounted = || std::thread::scope(|scope| scope.spawn(|| mounted_elsewhere(stack)).join());
    match mounted() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Mounts over the topmost layer in a mount namespace that ends with the thread, and clones the result out of it.
/// Descriptors in the options are opened in that namespace too: overlay takes no directory from another one.
fn mounted_elsewhere(stack: &OverlayMount) -> Result<OwnedFd, MountError> {
    leave_mount_namespace()?;
    let uppers = stack.upper.iter().flat_map(|(upper, work)| [upper, work]);
    let base = shared_folder(stack.lowers.iter().chain(uppers));
    let (options, _open) = option_string(&base, stack)?;
    if options.as_bytes().len() > LONGEST_OPTIONS {
        return mounted_by_number(stack);
    }
    enter(&base)?;
    mount_options(&options, stack.lowers[0].as_path(), stack)
}

/// The same for layers whose names are too long together: they are mounted once more, below a tmpfs of this namespace,
/// each with a number for a name.
fn mounted_by_number(stack: &OverlayMount) -> Result<OwnedFd, MountError> {
    let clones = stack.lowers.iter().map(|lower| clone_tree(CWD, lower.as_path(), false));
    let clones = clones.collect::<Result<Vec<_>, _>>()?;
    // The root directory cannot be covered for its own process; nothing here needs /sys.
    let place = if stack.lowers[0] == Path::new("/") { Path::new("/sys") } else { stack.lowers[0].as_path() };
    let failed = |operation, errno| MountError::new(operation, format!("tmpfs on {}", place.display()), errno);
    let (upper, work) = match &stack.upper {
        Some((upper, work)) => (Some(open_directory(upper)?), Some(open_directory(work)?)),
        None => (None, None),
    };
    mount("tmpfs", place, "tmpfs", MountFlags::empty(), None).map_err(|errno| failed("mount", errno))?;
    enter(place)?;
    let make = |name: &str| rustix::fs::mkdir(name, Mode::from_raw_mode(0o700)).map_err(|errno| failed("mkdir", errno));
    for (number, clone) in clones.iter().enumerate() {
        let name = number.to_string();
        make(&name)?;
        attach(clone.as_fd(), open_directory(Path::new(&name))?.as_fd(), "layer")?;
    }
    let named = upper.as_ref().zip(work.as_ref());
    let named =
        named.map(|(upper, work)| (descriptor_name(upper.as_fd()).into(), descriptor_name(work.as_fd()).into()));
    let lowers = (0..clones.len()).map(|number| PathBuf::from(number.to_string())).collect();
    let short = OverlayMount { lowers, upper: named, volatile: stack.volatile };
    let (options, _open) = option_string(Path::new(""), &short)?;
    if options.as_bytes().len() > LONGEST_OPTIONS {
        let subject = format!("{} layers: before Linux 6.7 their names have to fit a page", stack.lowers.len());
        return Err(MountError::new("overlay", subject, Errno::TOOBIG));
    }
    make("all")?;
    mount_options(&options, Path::new("all"), stack)
}

fn enter(folder: &Path) -> Result<(), MountError> {
    rustix::process::chdir(folder).map_err(|errno| MountError::new("chdir", folder.display().to_string(), errno))
}

/// Mounts with options that are relative to the current directory; returns a clone of the mount.
fn mount_options(options: &CStr, target: &Path, stack: &OverlayMount) -> Result<OwnedFd, MountError> {
    mount("overlay", target, "overlay", MountFlags::empty(), options)
        .map_err(|errno| MountError::new("mount", whole(stack), errno))?;
    clone_tree(CWD, target, false)
}

/// The options with paths relative to `base`, and descriptors that must stay open while they are used.
fn option_string(base: &Path, stack: &OverlayMount) -> Result<(CString, Vec<OwnedFd>), MountError> {
    let mut open = Vec::new();
    let mut options = b"lowerdir=".to_vec();
    for (index, lower) in stack.lowers.iter().enumerate() {
        if index > 0 {
            options.push(b':');
        }
        push_name(&mut options, base, lower, &mut open)?;
    }
    if let Some((upper, work)) = &stack.upper {
        for (key, path) in [(",upperdir=", upper), (",workdir=", work)] {
            options.extend_from_slice(key.as_bytes());
            push_name(&mut options, base, path, &mut open)?;
        }
        if stack.volatile {
            options.extend_from_slice(b",volatile");
        }
    }
    for (key, value) in PLAIN {
        options.extend_from_slice(format!(",{key}={value}").as_bytes());
    }
    if in_user_namespace() {
        options.extend_from_slice(b",userxattr");
    }
    let options = CString::new(options).map_err(|_| MountError::new("overlay", "a path with NUL", Errno::INVAL))?;
    Ok((options, open))
}

/// Appends the shortest name of `path` seen from `base` that needs no escape.
fn push_name(options: &mut Vec<u8>, base: &Path, path: &Path, open: &mut Vec<OwnedFd>) -> Result<(), MountError> {
    let name = path.strip_prefix(base).map(Path::as_os_str).unwrap_or(path.as_os_str()).as_bytes();
    if !name.is_empty() && !name.iter().any(|byte| matches!(byte, b':' | b',' | b'\\')) {
        options.extend_from_slice(name);
        return Ok(());
    }
    let directory = open_directory(path)?;
    options.extend_from_slice(descriptor_name(directory.as_fd()).as_bytes());
    open.push(directory);
    Ok(())
}

/// The deepest folder that all paths are in.
fn shared_folder<'p>(paths: impl Iterator<Item = &'p PathBuf>) -> PathBuf {
    let mut shared: Option<&Path> = None;
    for path in paths {
        let mut folder = shared.unwrap_or(path);
        while !path.starts_with(folder) {
            folder = folder.parent().unwrap_or(Path::new("/"));
        }
        shared = Some(folder);
    }
    shared.unwrap_or(Path::new("/")).to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = PathBuf::from(format!("/dev/shm/hull-overlay-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn dir(&self, name: &str) -> PathBuf {
            let path = self.0.join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        }

        /// `count` layers, each with a file of its own and one that every layer has.
        fn layers(&self, count: usize) -> Vec<PathBuf> {
            let layer = |number: usize| {
                let path = self.dir(&format!("layer-{number:03}/fs"));
                std::fs::write(path.join(format!("file-{number}")), number.to_string()).unwrap();
                std::fs::write(path.join("shared"), number.to_string()).unwrap();
                path
            };
            (0..count).map(layer).collect()
        }

        fn stack(&self, count: usize) -> OverlayMount {
            let upper = Some((self.dir("top/fs"), self.dir("top/work")));
            OverlayMount { lowers: self.layers(count), upper, volatile: false }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn read(mount: &OwnedFd, name: &str) -> Result<String, Errno> {
        let fd = rustix::fs::openat(mount, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = String::new();
        std::fs::File::from(fd).read_to_string(&mut text).unwrap();
        Ok(text)
    }

    fn write(mount: &OwnedFd, name: &str, text: &str) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(mount, name, flags, Mode::from_raw_mode(0o644))?;
        std::fs::File::from(fd).write_all(text.as_bytes()).unwrap();
        Ok(())
    }

    fn mount_table() -> String {
        std::fs::read_to_string("/proc/self/mountinfo").unwrap()
    }

    /// What both ways of mounting must give.
    fn check(stack: &OverlayMount, make: impl Fn(&OverlayMount) -> Result<OwnedFd, MountError>) {
        let before = mount_table();
        let mount = make(stack).unwrap();
        assert_eq!(mount_table(), before);
        assert_eq!(read(&mount, "shared").unwrap(), "0", "the first lower is the topmost");
        let last = stack.lowers.len() - 1;
        assert_eq!(read(&mount, &format!("file-{last}")).unwrap(), last.to_string());
        write(&mount, "file-1", "9").unwrap();
        assert_eq!(std::fs::read_to_string(stack.upper.as_ref().unwrap().0.join("file-1")).unwrap(), "9");
        assert_eq!(std::fs::read_to_string(stack.lowers[1].join("file-1")).unwrap(), "1");
    }

    #[test]
    fn layers_are_stacked_and_the_upper_takes_the_changes() {
        let folder = Folder::new("appended");
        check(&folder.stack(3), appended);
        check(&folder.stack(3), overlay);
    }

    #[test]
    fn the_older_way_gives_the_same() {
        let folder = Folder::new("string");
        check(&folder.stack(3), in_one_string);
        check(&folder.stack(200), in_one_string);
    }

    #[test]
    fn volatile_mounts_can_be_made_again() {
        let folder = Folder::new("volatile");
        let stack = OverlayMount { volatile: true, ..folder.stack(2) };
        check(&stack, overlay);
        assert!(stack.upper.as_ref().unwrap().1.join("work/incompat/volatile").is_dir());
        std::fs::remove_file(stack.upper.as_ref().unwrap().0.join("file-1")).unwrap();
        check(&stack, overlay);
    }

    #[test]
    fn as_many_layers_as_the_kernel_takes_and_no_more() {
        let folder = Folder::new("many");
        let mut stack = folder.stack(MAXIMUM_LOWERS);
        check(&stack, overlay);
        stack.lowers.push(stack.lowers[0].clone());
        let error = overlay(&stack).unwrap_err().to_string();
        assert!(error.contains("501 layers") && error.contains("500"), "{error}");
        assert!(in_one_string(&stack).unwrap_err().to_string().contains("501 layers"));
        stack.lowers.pop();
        std::fs::remove_file(stack.upper.as_ref().unwrap().0.join("file-1")).unwrap();
        check(&stack, in_one_string);
    }

    #[test]
    fn names_that_need_an_escape_or_are_long() {
        let folder = Folder::new("names");
        let deep = format!("{}/{}", "d".repeat(200), "e".repeat(200));
        for name in ["colon:comma,", "back\\slash", &deep] {
            let mut stack = folder.stack(2);
            stack.lowers.push(folder.dir(name));
            stack.upper = Some((folder.dir(&format!("{name}/fs")), folder.dir(&format!("{name}/work"))));
            std::fs::write(stack.lowers[2].join("file-2"), "2").unwrap();
            for make in [overlay, in_one_string] {
                stack.upper = Some((folder.dir(&format!("up/{name}/fs")), folder.dir(&format!("up/{name}/work"))));
                check(&stack, make);
                std::fs::remove_dir_all(folder.0.join("up")).unwrap();
            }
        }
    }

    /// Says to this test that it is the one inside.
    const INSIDE: &str = "HULL_TEST_IN_USER_NAMESPACE";

    #[test]
    fn in_a_user_namespace_marks_are_users_attributes() {
        if std::env::var_os(INSIDE).is_none() {
            let name = "mounts::overlay::tests::in_a_user_namespace_marks_are_users_attributes";
            let mut command = std::process::Command::new("unshare");
            command.args(["--user", "--map-root-user", "--mount"]).arg(std::env::current_exe().unwrap());
            let output = command.args(["--exact", name]).env(INSIDE, "yes").output().unwrap();
            assert!(output.status.success(), "{output:?}");
            return;
        }
        mount("tmpfs", "/dev/shm", "tmpfs", MountFlags::empty(), None).unwrap();
        let folder = Folder::new("userns");
        let mut stack = folder.stack(2);
        let (high, low) = (&stack.lowers[0], &stack.lowers[1]);
        std::fs::create_dir_all(low.join("hidden/old")).unwrap();
        std::fs::create_dir_all(low.join("anew/old")).unwrap();
        std::fs::create_dir(high.join("hidden")).unwrap();
        assert_eq!(opaque_attribute(), "user.overlay.opaque");
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(high.join("hidden"), opaque_attribute(), b"y", flags).unwrap();
        let device = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(CWD, high.join("file-1"), device, Mode::empty(), 0).unwrap();
        for make in [appended, in_one_string] {
            stack.upper = Some((folder.dir("up/fs"), folder.dir("up/work")));
            let mount = make(&stack).unwrap();
            let there = |name: &str| rustix::fs::statat(&mount, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
            assert_eq!(["file-0", "file-1", "hidden", "hidden/old"].map(there), [true, false, true, false]);
            unlinkat(&mount, "anew/old", AtFlags::REMOVEDIR).unwrap();
            unlinkat(&mount, "anew", AtFlags::REMOVEDIR).unwrap();
            rustix::fs::mkdirat(&mount, "anew", Mode::from_raw_mode(0o755)).unwrap();
            assert_eq!(["anew", "anew/old"].map(there), [true, false], "what is made anew hides what was there");
            std::fs::remove_dir_all(folder.0.join("up")).unwrap();
        }
    }

    #[test]
    fn one_directory_alone_is_bound() {
        let folder = Folder::new("single");
        let lowers = folder.layers(1);
        let mount = overlay(&OverlayMount { lowers: lowers.clone(), ..OverlayMount::default() }).unwrap();
        assert_eq!(read(&mount, "file-0").unwrap(), "0");
        assert_eq!(write(&mount, "new", "x"), Err(Errno::ROFS));
        let upper = Some((folder.dir("u/fs"), folder.dir("u/work")));
        let mount = overlay(&OverlayMount { upper, ..OverlayMount::default() }).unwrap();
        write(&mount, "new", "x").unwrap();
        assert!(folder.0.join("u/fs/new").is_file());
        assert!(overlay(&OverlayMount::default()).is_err());
    }

    #[test]
    fn the_error_names_the_layer_and_what_the_kernel_said() {
        let folder = Folder::new("error");
        let mut stack = folder.stack(2);
        stack.lowers[1] = folder.0.join("missing");
        let error = overlay(&stack).unwrap_err();
        assert_eq!(error.errno, Errno::NOENT);
        assert!(error.to_string().contains("missing"), "{error}");
        stack.lowers[1] = PathBuf::from("/proc");
        let error = overlay(&stack).unwrap_err();
        assert!(!error.kernel_log.is_empty() || error.operation == "mount", "{error}");
    }
}
