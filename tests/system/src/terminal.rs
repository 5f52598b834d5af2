//! A program on a terminal of its own: the test holds the master, the program has the other end as its streams and as
//! its controlling terminal.
//!
//! `setsid -c` (util-linux and busybox have it) makes the controlling terminal, so that no code runs between fork and
//! exec here. The test keeps the other end open too, to read its settings after the program has gone.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::{Hull, wait_for};

/// The terminal and the program on it.
pub struct Terminal {
    master: File,
    other: OwnedFd,
    program: Child,
    output: Receiver<Vec<u8>>,
    read: String,
    first: String,
}

impl Terminal {
    /// Starts `hull WORDS` on a new terminal of 24 rows and 80 columns.
    pub fn start(hull: &Hull, words: &[&str]) -> Terminal {
        Terminal::of(&hull.command(words))
    }

    /// Starts another program on such a terminal.
    pub fn of(plain: &Command) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal that can be opened");
        let name = ptsname(&master, Vec::new()).expect("the terminal's name");
        let other = open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
        let other = other.expect("the terminal's other end");
        let stream = || Stdio::from(other.try_clone().expect("one more descriptor"));
        let mut command = Command::new("setsid");
        command.arg("-c").arg(plain.get_program()).args(plain.get_args()).envs(variables(plain));
        command.env("TERM", "xterm").stdin(stream()).stdout(stream()).stderr(stream());
        let master = File::from(master);
        let mut reader = master.try_clone().expect("one more descriptor");
        resize(&master, 24, 80);
        let first = settings(&other);
        let program = command.spawn().expect("setsid");
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { master, other, program, output, read: String::new(), first }
    }

    /// Types.
    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("typing");
    }

    /// Waits until `text` was shown, forgets everything up to there, and returns it.
    #[track_caller]
    pub fn shown(&mut self, text: &str) -> String {
        wait_for(&format!("{text:?} on the terminal"), || {
            while let Ok(bytes) = self.output.try_recv() {
                self.read += &String::from_utf8_lossy(&bytes);
            }
            let end = self.read.find(text)? + text.len();
            let rest = self.read.split_off(end);
            Some(std::mem::replace(&mut self.read, rest))
        })
    }

    /// Gives the terminal another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        resize(&self.master, rows, columns);
    }

    /// The terminal's settings, as far as programs change them.
    pub fn settings(&self) -> String {
        settings(&self.other)
    }

    /// The settings before the program was started.
    pub fn first_settings(&self) -> &str {
        &self.first
    }

    /// Whether it hands over every key as it is, without echo.
    pub fn is_raw(&self) -> bool {
        !termios(&self.other).local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// The program's process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.program.id()).expect("a process id")
    }

    /// Waits for the program's end and returns its exit code.
    #[track_caller]
    pub fn code(&mut self) -> i32 {
        let status = wait_for("the end of the program on the terminal", || self.program.try_wait().expect("a child"));
        status.code().unwrap_or(-1)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.program.try_wait().is_ok_and(|status| status.is_none()) {
            // Only a failing test leaves it running.
            self.program.kill().ok();
            self.program.wait().ok();
        }
    }
}

fn termios(end: &OwnedFd) -> Termios {
    tcgetattr(end).expect("the terminal's settings")
}

fn settings(end: &OwnedFd) -> String {
    let all = termios(end);
    format!("{:?} {:?} {:?} {:?}", all.input_modes, all.output_modes, all.control_modes, all.local_modes)
}

fn resize(master: &File, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).expect("setting a size");
}

fn variables(command: &Command) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect()
}
