//! syncfs(2) for a disk behind FUSE.
//!
//! The kernel tells a FUSE server of fsync(2) but not of syncfs(2). So the process under test hands that one call to a
//! thread of its own (seccomp_unotify(2)), which tells the disk through an extended attribute and answers with what
//! came back. The thread is older than the filter and therefore not subject to it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use anyhow::{Context, Result};
use hull_sys::seccomp::{FLAG_NEW_LISTENER, Instruction, answer_notification, receive_notification, set_filter};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::mounted::SYNC_ALL;

const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const NOTIFY: u32 = 0x7fc0_0000;
const ALLOW: u32 = 0x7fff_0000;

/// From here on syncfs(2) of this thread, and of those it starts, reaches the disk that is mounted on `mount`.
pub fn redirect(mount: &Path) -> Result<()> {
    let mount = mount.to_path_buf();
    let (send, receive) = mpsc::channel::<OwnedFd>();
    std::thread::spawn(move || {
        let Ok(listener) = receive.recv() else { return };
        while let Ok(call) = receive_notification(listener.as_fd()) {
            let errno = sync(&mount, call.arguments[0]).err().map_or(0, Errno::raw_os_error);
            // The caller may have been killed meanwhile.
            let _ = answer_notification(listener.as_fd(), call.id, 0, errno);
        }
    });
    let instruction = |code, jump_false, operand| Instruction { code, jump_true: 0, jump_false, operand };
    let program = [
        instruction(LOAD, 0, 0),
        instruction(JUMP_IF_EQUAL, 1, libc::SYS_syncfs as u32),
        instruction(RETURN, 0, NOTIFY),
        instruction(RETURN, 0, ALLOW),
    ];
    let listener = set_filter(FLAG_NEW_LISTENER, &program).context("seccomp(2)")?.context("no listener")?;
    send.send(listener).context("the answering thread has ended")
}

fn sync(mount: &Path, descriptor: u64) -> Result<(), Errno> {
    let target: PathBuf = fs::read_link(format!("/proc/self/fd/{descriptor}")).map_err(|_| Errno::BADF)?;
    if !target.starts_with(mount) {
        return Ok(());
    }
    rustix::fs::setxattr(mount, SYNC_ALL, b"1", XattrFlags::empty())
}
