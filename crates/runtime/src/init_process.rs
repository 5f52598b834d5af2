//! Hull's own init: PID 1 of a container started with `--init`, forwarding signals and reaping every orphan.
//!
//! It is this same binary, executed through a read-only mount of it (`hull-init PROGRAM ARGS...`), with the
//! container's environment, user and filter already in force. The program is its child, in a process group of its
//! own that gets the terminal. When the program ends, init ends with its exit code, 128+n for a signal, and the kernel
//! kills what is left of the pid namespace (pid_namespaces(7)).
//!
//! The socket to the runtime stays open until the program is executed, so a missing program is reported as without
//! init.

use std::ffi::{CStr, OsString};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::process::ExitCode;

use hull_sys::process::{self as sys, ExecVectors, Forked};
use hull_sys::signals::{self, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, getpgrp, pidfd_open, setpgid, wait};
use rustix::termios::{isatty, tcsetpgrp};
use rustix::thread::set_name;

use crate::failure::{InitFailure, Step};
use crate::init::{fail, search_and_execute};
use crate::sync::Sync;

/// argv\[0\] under which this binary is Hull's init.
pub const NAME: &str = "hull-init";
/// The same as the kernel shows it.
const INIT_COMM: &CStr = c"hull-init";

/// Number of the socket to the runtime.
const SYNC_FD: RawFd = 3;

/// Executes Hull's init from the descriptor numbered `program`; returns only with what failed.
pub(crate) fn start(program: RawFd, args: &[String], env: &[String]) -> InitFailure {
    let failed = |errno| InitFailure::new(Step::Exec, NAME, errno);
    let Some(program) = sys::inherited_fd(program) else { return failed(Errno::BADF) };
    let args: Vec<&str> = std::iter::once(NAME).chain(args.iter().map(String::as_str)).collect();
    match ExecVectors::new(&args, env) {
        Ok(vectors) => failed(Errno::from_io_error(&sys::fexecve(program.as_fd(), &vectors)).unwrap_or(Errno::NOENT)),
        Err(_) => failed(Errno::INVAL),
    }
}

/// The init process itself: `args` is what follows argv\[0\], the program and its arguments.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let all: Vec<i32> = (1..=signals::HIGHEST).collect();
    let _blocked = signals::block(&all);
    // What executes a descriptor is called after the file or the number, depending on the kernel.
    let _only_a_name = set_name(INIT_COMM);
    let Some(sync) = sys::inherited_fd(SYNC_FD).map(Sync::from_fd) else {
        eprintln!("hull-init: is started by hull run --init only");
        return ExitCode::from(125);
    };
    let args: Vec<String> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    let pending = match SignalFd::new(&all) {
        Ok(pending) => pending,
        Err(error) => fail(&sync, InitFailure::because(Step::Session, "signalfd", error)),
    };
    match sys::fork() {
        Err(error) => fail(&sync, InitFailure::because(Step::Exec, NAME, error)),
        Ok(Forked::Child) => program(&args, &sync),
        Ok(Forked::Parent(pid)) => {
            drop(sync);
            match Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
                Some(Ok(program)) => supervise(pid, &program, &pending),
                _ => ExitCode::from(125),
            }
        }
    }
}

/// The child: its own process group, in the foreground of the terminal, then the program.
fn program(args: &[String], sync: &Sync) -> ! {
    let _ = setpgid(None, None);
    let stdin = rustix::stdio::stdin();
    if isatty(stdin) {
        // SIGTTOU is still blocked, so this does not stop the child.
        let _ = tcsetpgrp(stdin, getpgrp());
    }
    sys::default_signals();
    let env: Vec<String> = std::env::vars_os()
        .map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()))
        .collect();
    let search_path = std::env::var("PATH").unwrap_or_else(|_| "/bin:/usr/bin".to_owned());
    fail(sync, search_and_execute(args, &env, &search_path))
}

/// Forwards signals to `program` and reaps until it has ended.
fn supervise(pid: i32, program: &OwnedFd, pending: &SignalFd) -> ExitCode {
    loop {
        let mut readable = [PollFd::new(pending, PollFlags::IN)];
        let _ = poll(&mut readable, None);
        while let Ok(Some(signal)) = pending.take() {
            if signal != Signal::CHILD.as_raw() {
                // The program may have ended in this moment; its status is then next in line.
                let _ = signals::send_to_pidfd(program.as_fd(), signal);
            } else if let Some(code) = reap(pid) {
                return ExitCode::from(code);
            }
        }
    }
}

/// Collects every ended child; the exit code once the program is among them.
fn reap(program: i32) -> Option<u8> {
    let mut code = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid.as_raw_nonzero().get() == program {
            let exit = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
            code = exit.map(|exit| (exit & 0xff) as u8);
        }
    }
    code
}
