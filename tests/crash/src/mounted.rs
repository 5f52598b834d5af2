//! A [`Disk`] as a mounted file system, which loses power, or has its user killed, at a numbered operation.
//!
//! It is served over FUSE by a thread of this process. Operations that change or sync something are counted; reading is
//! not. What stands behind the kernel's caches is only this, so they are kept for as long as the mount lasts; after a cut
//! the surviving disk is mounted anew. Locks and shared memory mappings are the kernel's own.
//!
//! A mounted FUSE file system is not told of syncfs(2); see `operate` for how it comes here all the same.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyWrite, ReplyXattr, Request, SessionACL, TimeOrNow,
    WriteFlags,
};
use rustix::mount::UnmountFlags;
use rustix::process::{Signal, pidfd_send_signal};

use crate::disk::{Attributes, Disk, Ino, Kind, Stat};

/// How long the kernel may believe what it was told: for good.
const FOREVER: Duration = Duration::from_secs(1 << 30);
/// How long an unmounting may be refused.
const PATIENCE: Duration = Duration::from_secs(20);
/// Setting this attribute on the top folder is syncfs(2) of the whole disk.
pub const SYNC_ALL: &str = "trusted.sync-all";

/// When the end comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Never.
    Never,
    /// The power goes instead of this operation, and every later one fails.
    Power(u64),
    /// The process is killed at this operation, which still happens.
    Kill(u64),
}

struct State {
    disk: Disk,
    cut: Cut,
    operations: u64,
    is_over: bool,
    user: Option<OwnedFd>,
    kills_at_once: bool,
    trace: Option<Vec<String>>,
}

impl State {
    fn kill(&self) {
        if let Some(user) = &self.user {
            // A process that has ended by itself needs no killing.
            let _ = pidfd_send_signal(user.as_fd(), Signal::KILL);
        }
    }
}

/// What the serving thread and the test share.
pub struct Shared {
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says who is to be killed, and whether as soon as the power goes; else it goes on with failing operations.
    pub fn set_user(&self, pidfd: OwnedFd, kills_at_once: bool) {
        let mut state = self.lock();
        (state.user, state.kills_at_once) = (Some(pidfd), kills_at_once);
    }

    /// Whether the end has come.
    pub fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// What was done, when it was to be written down.
    pub fn trace(&self) -> Vec<String> {
        self.lock().trace.clone().unwrap_or_default()
    }

    /// The disk as it is now.
    pub fn disk(&self) -> Disk {
        self.lock().disk.clone()
    }
}

/// A disk that is mounted until this is dropped.
pub struct Mounted {
    /// What is shared with the serving thread.
    pub shared: Arc<Shared>,
    folder: PathBuf,
    session: Option<BackgroundSession>,
}

impl Mounted {
    /// Mounts a disk on a folder.
    pub fn new(disk: Disk, folder: &Path, cut: Cut, is_traced: bool) -> std::io::Result<Mounted> {
        let trace = is_traced.then(Vec::new);
        let state = State { disk, cut, operations: 0, is_over: false, user: None, kills_at_once: false, trace };
        let shared = Arc::new(Shared { state: Mutex::new(state) });
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("crash".to_owned()),
            MountOption::DefaultPermissions,
            MountOption::Dev,
            MountOption::Suid,
        ];
        config.acl = SessionACL::All;
        let session = fuser::spawn_mount(Served { shared: Arc::clone(&shared) }, folder, &config)?;
        Ok(Mounted { shared, folder: folder.to_owned(), session: Some(session) })
    }

    /// Unmounts, and waits until nothing can change any more. What a killed process had mounted over the disk may take
    /// the kernel a moment to let go of.
    pub fn unmount(mut self) -> std::io::Result<Arc<Shared>> {
        let end = Instant::now() + PATIENCE;
        while let Err(errno) = rustix::mount::unmount(&self.folder, UnmountFlags::empty()) {
            if errno != rustix::io::Errno::BUSY || Instant::now() > end {
                return Err(errno.into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(session) = self.session.take() {
            session.join()?;
        }
        Ok(Arc::clone(&self.shared))
    }
}

struct Served {
    shared: Arc<Shared>,
}

fn errno(errno: rustix::io::Errno) -> Errno {
    Errno::from_i32(errno.raw_os_error())
}

fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Folder => FileType::Directory,
        Kind::Link => FileType::Symlink,
        Kind::Special(bits) => match bits & libc::S_IFMT {
            libc::S_IFCHR => FileType::CharDevice,
            libc::S_IFBLK => FileType::BlockDevice,
            libc::S_IFIFO => FileType::NamedPipe,
            _ => FileType::Socket,
        },
    }
}

fn attributes(stat: &Stat) -> FileAttr {
    let Attributes { mode, uid, gid, device, modified, .. } = stat.attributes;
    FileAttr {
        ino: INodeNo(stat.ino),
        size: stat.size_bytes,
        blocks: stat.size_bytes.div_ceil(512),
        atime: modified,
        mtime: modified,
        ctime: modified,
        crtime: modified,
        kind: kind(stat.attributes.kind),
        perm: mode as u16,
        nlink: stat.links,
        uid,
        gid,
        rdev: device,
        blksize: 4096,
        flags: 0,
    }
}

impl Served {
    /// Reads, unless the power is gone.
    fn look<T>(&self, read: impl FnOnce(&Disk) -> Result<T, rustix::io::Errno>) -> Result<T, Errno> {
        let state = self.shared.lock();
        if state.is_over && matches!(state.cut, Cut::Power(_)) {
            return Err(Errno::EIO);
        }
        read(&state.disk).map_err(errno)
    }

    /// Does one counted operation, which may be the last.
    fn step<T>(
        &self,
        word: &str,
        ino: Ino,
        name: &OsStr,
        change: impl FnOnce(&mut Disk) -> Result<T, rustix::io::Errno>,
    ) -> Result<T, Errno> {
        let mut state = self.shared.lock();
        state.operations += 1;
        let number = state.operations;
        match state.cut {
            Cut::Power(last) if number >= last => {
                state.is_over = true;
                if state.kills_at_once {
                    state.kill();
                }
                return Err(Errno::EIO);
            }
            Cut::Kill(last) if number >= last && !state.is_over => {
                state.is_over = true;
                state.kill();
            }
            _ => {}
        }
        let result = change(&mut state.disk);
        if state.trace.is_some() {
            let end = result.as_ref().err().map(|errno| format!(" = {errno}")).unwrap_or_default();
            let line = format!("{number:5} {word} {} {}{end}", state.disk.path(ino), name.to_string_lossy());
            state.trace.get_or_insert_default().push(line);
        }
        result.map_err(errno)
    }

    /// A new inode under a name.
    fn make(
        &self,
        word: &str,
        folder: INodeNo,
        name: &OsStr,
        new: Attributes,
        bytes: Vec<u8>,
    ) -> Result<FileAttr, Errno> {
        self.step(word, folder.0, name, |disk| {
            let ino = disk.make(folder.0, name, new, bytes)?;
            disk.stat(ino).map(|stat| attributes(&stat))
        })
    }
}

fn answer(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn entry(reply: ReplyEntry, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attr) => reply.entry(&FOREVER, &attr, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn xattr(reply: ReplyXattr, size: u32, result: Result<Vec<u8>, Errno>) {
    match result {
        Err(error) => reply.error(error),
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
    }
}

fn time(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Opening needs no answer from here, and writing no question about capabilities.
        for flag in
            [InitFlags::FUSE_NO_OPEN_SUPPORT, InitFlags::FUSE_NO_OPENDIR_SUPPORT, InitFlags::FUSE_HANDLE_KILLPRIV_V2]
        {
            // A kernel without it asks more often.
            let _ = config.add_capabilities(flag);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.look(|disk| disk.stat(disk.lookup(parent.0, name)?).map(|stat| attributes(&stat)));
        entry(reply, found);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.look(|disk| disk.stat(ino.0)) {
            Ok(stat) => reply.attr(&FOREVER, &attributes(&stat)),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let result = self.step("setattr", ino.0, OsStr::new(""), |disk| {
            if let Some(size) = size {
                disk.resize(ino.0, size as usize)?;
            }
            disk.change(ino.0, |attributes| {
                attributes.mode = mode.map_or(attributes.mode, |mode| mode & 0o7777);
                attributes.uid = uid.unwrap_or(attributes.uid);
                attributes.gid = gid.unwrap_or(attributes.gid);
                attributes.modified = mtime.map_or(attributes.modified, time);
            })?;
            disk.stat(ino.0)
        });
        match result {
            Ok(stat) => reply.attr(&FOREVER, &attributes(&stat)),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.look(|disk| disk.read(ino.0, 0, usize::MAX).map(<[u8]>::to_vec)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let kind = match mode & libc::S_IFMT {
            libc::S_IFREG | 0 => Kind::File,
            bits => Kind::Special(bits),
        };
        let new = Attributes { device: rdev, ..Attributes::new(kind, mode & 0o7777 & !umask, req.uid(), req.gid()) };
        entry(reply, self.make("mknod", parent, name, new, Vec::new()));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let new = Attributes::new(Kind::Folder, mode & 0o7777 & !umask, req.uid(), req.gid());
        entry(reply, self.make("mkdir", parent, name, new, Vec::new()));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.step("unlink", parent.0, name, |disk| disk.remove(parent.0, name, false)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.step("rmdir", parent.0, name, |disk| disk.remove(parent.0, name, true)));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let new = Attributes::new(Kind::Link, 0o777, req.uid(), req.gid());
        let target = target.as_os_str().as_encoded_bytes().to_vec();
        entry(reply, self.make("symlink", parent, name, new, target));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            return reply.error(Errno::EINVAL);
        }
        let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        let result = self.step("rename", parent.0, name, |disk| {
            disk.rename(parent.0, name, newparent.0, newname, replace)?;
            // Overlay asks for what hides the name below (overlayfs.rst), and for nothing else that is special.
            if flags.contains(RenameFlags::RENAME_WHITEOUT) {
                let hidden = Attributes::new(Kind::Special(libc::S_IFCHR), 0, 0, 0);
                disk.make(parent.0, name, hidden, Vec::new())?;
            }
            Ok(())
        });
        answer(reply, result);
    }

    fn link(&self, _: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let result = self.step("link", newparent.0, newname, |disk| {
            disk.link(ino.0, newparent.0, newname)?;
            disk.stat(ino.0).map(|stat| attributes(&stat))
        });
        entry(reply, result);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: fuser::ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: fuser::ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.look(|disk| disk.read(ino.0, offset as usize, size as usize).map(<[u8]>::to_vec)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.step("write", ino.0, OsStr::new(""), |disk| disk.write(ino.0, offset as usize, data)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(reply, self.step("fsync", ino.0, OsStr::new(""), |disk| disk.sync(ino.0)));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(reply, self.step("fsyncdir", ino.0, OsStr::new(""), |disk| disk.sync(ino.0)));
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.look(|disk| {
            let mut all = vec![(".".into(), ino.0), ("..".into(), disk.parent(ino.0)?)];
            all.extend(disk.entries(ino.0)?);
            let with_kind = all.into_iter().map(|(name, ino)| Ok((name, ino, disk.stat(ino)?.attributes.kind)));
            with_kind.collect::<Result<Vec<_>, _>>()
        });
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => return reply.error(error),
        };
        for (position, (name, ino, of)) in listed.into_iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(ino), position as u64 + 1, kind(of), name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = 1 << 20;
        reply.statfs(blocks, blocks / 2, blocks / 2, blocks, blocks / 2, 4096, 255, 4096);
    }

    fn setxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, value: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        if name == SYNC_ALL {
            let result = self.step("syncfs", ino.0, OsStr::new(""), |disk| {
                disk.sync_all();
                Ok(())
            });
            return answer(reply, result);
        }
        answer(reply, self.step("setxattr", ino.0, name, |disk| disk.set_xattr(ino.0, name, Some(value))));
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        xattr(reply, size, self.look(|disk| disk.xattr(ino.0, name).map(<[u8]>::to_vec)));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.look(|disk| disk.xattr_names(ino.0));
        let joined = names.map(|names| {
            names.iter().flat_map(|name| name.as_encoded_bytes().iter().copied().chain([0])).collect::<Vec<u8>>()
        });
        xattr(reply, size, joined);
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.step("removexattr", ino.0, name, |disk| disk.set_xattr(ino.0, name, None)));
    }

    fn create(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _: i32, reply: ReplyCreate) {
        let new = Attributes::new(Kind::File, mode & 0o7777 & !umask, req.uid(), req.gid());
        match self.make("create", parent, name, new, Vec::new()) {
            Ok(attr) => {
                reply.created(&FOREVER, &attr, Generation(0), FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode & !libc::FALLOC_FL_KEEP_SIZE != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let result = self.step("fallocate", ino.0, OsStr::new(""), |disk| {
            let end = (offset + length).max(disk.stat(ino.0)?.size_bytes);
            if mode == 0 { disk.resize(ino.0, end as usize) } else { Ok(()) }
        });
        answer(reply, result);
    }
}
