//! The container's terminal: a pseudoterminal of its own devpts instance (pty(7), config.md "terminal").
//!
//! The master goes to the parent, the slave becomes the three streams, the controlling terminal and /dev/console.
//! Both are checked to be of a devpts file system, so that nothing in an image can pose as one.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use hull_kernel::mounts::{self, inside};
use rustix::fs::{OFlags, Uid, fchown, fstatfs};
use rustix::io::Errno;
use rustix::process::ioctl_tiocsctty;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::device::{Console, console_place};
use crate::failure::{InitFailure, Step};
use crate::sync::{Message, Sync};

/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Both ends of the terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

fn failed(errno: Errno) -> InitFailure {
    InitFailure::new(Step::Terminal, "", errno)
}

/// Makes the terminal from the container's /dev/pts, `root` being its root directory.
pub(super) fn make(root: &OwnedFd, size: Winsize, uid: u32, console: Console) -> Result<Terminal, InitFailure> {
    let terminal = open(root, size, uid)?;
    if console == Console::Possible {
        let place = console_place(root)?;
        let copy = mounts::clone_tree(terminal.slave.as_fd(), c"", false)
            .map_err(|error| InitFailure::mount(Step::Terminal, &error))?;
        mounts::attach(copy.as_fd(), place.as_fd(), "/dev/console")
            .map_err(|error| InitFailure::mount(Step::Terminal, &error))?;
    }
    Ok(terminal)
}

fn open(root: &OwnedFd, size: Winsize, uid: u32) -> Result<Terminal, InitFailure> {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = inside::open(root.as_fd(), Path::new("/dev/pts/ptmx"), flags).map_err(failed)?;
    if fstatfs(&master).map_err(failed)?.f_type != DEVPTS_MAGIC {
        return Err(InitFailure::because(Step::Terminal, "", "/dev/pts is not a devpts file system"));
    }
    unlockpt(&master).map_err(failed)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).map_err(failed)?;
    if size.ws_row != 0 && size.ws_col != 0 {
        tcsetwinsize(&master, size).map_err(failed)?;
    }
    if uid != 0 {
        fchown(&slave, Some(Uid::from_raw(uid)), None).map_err(failed)?;
    }
    Ok(Terminal { master, slave })
}

/// Makes a terminal for one more process of a container whose root is this process' root already.
pub(crate) fn adopt_terminal(size: Winsize, uid: u32, sync: &Sync) -> Result<Terminal, InitFailure> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .map_err(failed)?;
    let terminal = open(&root, size, uid)?;
    terminal.hand_over(sync)?;
    Ok(terminal)
}

impl Terminal {
    /// Makes the slave the controlling terminal and sends the master to the parent.
    pub(super) fn hand_over(&self, sync: &Sync) -> Result<(), InitFailure> {
        ioctl_tiocsctty(&self.slave).map_err(failed)?;
        sync.send(&Message::Terminal, Some(self.master.as_fd())).map_err(failed)
    }

    /// The end that becomes the three streams.
    pub(crate) fn slave(&self) -> &OwnedFd {
        &self.slave
    }
}
