//! The caller's terminal: raw mode that is always undone, and window sizes (termios(3), ioctl_tty(2)).
//!
//! [`RawMode`] puts a terminal into raw mode and back when it is dropped. A panic undoes it too, through a panic
//! hook, because a program built with `panic = "abort"` runs no destructors. Signals are the caller's to block or
//! catch while a guard lives: only SIGKILL can then leave a terminal raw. At most one terminal is raw at a time.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{self, OptionalActions, Termios, Winsize};

/// What failed at a terminal.
#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    /// A terminal attribute or size could not be read or set.
    #[error("cannot {what} of the terminal: {source}")]
    Attribute {
        /// The call in words.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another terminal is in raw mode already.
    #[error("a terminal is in raw mode already")]
    AlreadyRaw,
}

/// Rows and columns of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// True when the descriptor is a terminal.
pub fn is_terminal(fd: impl AsFd) -> bool {
    termios::isatty(fd)
}

/// The size of the terminal's window (`TIOCGWINSZ`).
///
/// # Errors
/// [`TerminalError::Attribute`], for instance when `fd` is no terminal.
pub fn window_size(fd: impl AsFd) -> Result<WindowSize, TerminalError> {
    let size = termios::tcgetwinsize(fd).map_err(failed("read the window size"))?;
    Ok(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// Sets the size of the terminal's window (`TIOCSWINSZ`); the kernel sends SIGWINCH to its foreground group.
///
/// # Errors
/// [`TerminalError::Attribute`], for instance when `fd` is no terminal.
pub fn set_window_size(fd: impl AsFd, size: WindowSize) -> Result<(), TerminalError> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    termios::tcsetwinsize(fd, size).map_err(failed("set the window size"))
}

/// True when this process may read the terminal now: it belongs to the terminal's foreground process group.
/// A terminal that is not this process' controlling one has no such rule and counts as readable.
pub fn in_foreground(fd: impl AsFd) -> bool {
    match termios::tcgetpgrp(fd) {
        Ok(group) => group == rustix::process::getpgrp(),
        Err(_) => true,
    }
}

/// The terminal that is raw now, with the modes to give back.
static RAW: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);
static RESTORE_ON_PANIC: Once = Once::new();

/// A terminal in raw mode; dropping it gives the terminal its former modes back.
#[derive(Debug)]
#[must_use = "the terminal leaves raw mode when this is dropped"]
pub struct RawMode {
    raw: Termios,
}

impl RawMode {
    /// Puts the terminal into raw mode: no echo, no line editing, no signals from keys, bytes as they come.
    ///
    /// A background process is stopped here by SIGTTOU until it is brought to the foreground, as job control wants.
    ///
    /// # Errors
    /// [`TerminalError::AlreadyRaw`], or [`TerminalError::Attribute`] when `fd` is no terminal.
    pub fn enter(fd: impl AsFd) -> Result<RawMode, TerminalError> {
        let mut held = RAW.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_some() {
            return Err(TerminalError::AlreadyRaw);
        }
        let fd = fd.as_fd().try_clone_to_owned().map_err(|source| attribute("duplicate the descriptor", source))?;
        let former = termios::tcgetattr(&fd).map_err(failed("read the modes"))?;
        let mut raw = former.clone();
        raw.make_raw();
        // Not with a flush: what was typed ahead belongs to the container.
        termios::tcsetattr(&fd, OptionalActions::Now, &raw).map_err(failed("set raw mode"))?;
        RESTORE_ON_PANIC.call_once(restore_on_panic);
        *held = Some((fd, former));
        Ok(RawMode { raw })
    }

    /// Sets raw mode once more, after something else (a shell, on SIGCONT) has put the terminal back.
    ///
    /// # Errors
    /// [`TerminalError::Attribute`].
    pub fn renew(&self) -> Result<(), TerminalError> {
        let held = RAW.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_ref() {
            Some((fd, _)) => termios::tcsetattr(fd, OptionalActions::Now, &self.raw).map_err(failed("set raw mode")),
            None => Ok(()),
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the raw terminal its former modes back, if one is raw: for ways out that run no destructors, such as
/// `std::process::exit`.
pub fn restore() {
    let held = RAW.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((fd, former)) = held {
        // The terminal may be gone (hang-up): then there is nothing left to restore, and nobody to tell.
        let _gone = termios::tcsetattr(&fd, OptionalActions::Now, &former);
    }
}

fn restore_on_panic() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        previous(panic);
    }));
}

fn failed(what: &'static str) -> impl Fn(rustix::io::Errno) -> TerminalError {
    move |errno| attribute(what, errno.into())
}

fn attribute(what: &'static str, source: io::Error) -> TerminalError {
    TerminalError::Attribute { what, source }
}

#[cfg(test)]
mod tests {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    use rustix::termios::LocalModes;

    use super::*;

    fn terminal() -> (OwnedFd, OwnedFd) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        (master, slave)
    }

    fn echoes(slave: &OwnedFd) -> bool {
        termios::tcgetattr(slave).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    #[test]
    fn raw_mode_is_left_on_drop_on_restore_and_on_panic() {
        let (_master, slave) = terminal();
        assert!(echoes(&slave));
        let raw = RawMode::enter(&slave).unwrap();
        assert!(!echoes(&slave));
        assert!(matches!(RawMode::enter(&slave), Err(TerminalError::AlreadyRaw)));
        drop(raw);
        assert!(echoes(&slave));

        let raw = RawMode::enter(&slave).unwrap();
        restore();
        assert!(echoes(&slave));
        drop(raw);

        let _raw = RawMode::enter(&slave).unwrap();
        let thread = std::thread::spawn(|| panic!("on purpose"));
        assert!(thread.join().is_err());
        assert!(echoes(&slave));
    }

    #[test]
    fn window_size_is_set_and_read() {
        let (master, slave) = terminal();
        let size = WindowSize { rows: 31, columns: 97 };
        set_window_size(&master, size).unwrap();
        assert_eq!(window_size(&slave).unwrap(), size);
        let (pipe, _writer) = io::pipe().unwrap();
        assert!(window_size(&pipe).is_err());
        assert!(!is_terminal(&pipe));
    }
}
