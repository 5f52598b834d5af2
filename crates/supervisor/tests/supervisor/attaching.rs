//! Standard streams and terminals attached to a container, as a shell user does it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

use hull_kernel::terminal::{WindowSize, set_window_size};
use hull_supervisor::log::Stream;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::bed::{Bed, eventually};

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn end_of(bed: &Bed) -> String {
    eventually("the end of attaching", || fs::read_to_string(bed.base.join("end")).ok())
}

#[test]
fn run_in_the_foreground_passes_streams_and_the_exit_code() {
    let bed = Bed::new();
    let mut command = bed.command("run", "stdin,once,promise", "cat; echo err >&2; exit 17");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let data: Vec<u8> = (0..2_000_000_u32).map(|number| (number % 253) as u8).collect();
    let mut stdin = child.stdin.take().unwrap();
    let sent = data.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.stdout == data);
    assert_eq!((output.stderr.as_slice(), output.status.code()), (&b"err\n"[..], Some(17)));
    assert!(!bed.was_cleaned());
}

#[test]
fn files_work_as_stdin_and_stdout() {
    let bed = Bed::new();
    let (input, output) = (bed.base.join("in"), bed.base.join("out"));
    fs::write(&input, "a file\n".repeat(100_000)).unwrap();
    let mut command = bed.command("run", "stdin,once", "cat");
    command.stdin(File::open(&input).unwrap()).stdout(File::create(&output).unwrap());
    assert!(command.status().unwrap().success());
    assert!(fs::read(&output).unwrap() == fs::read(&input).unwrap());
    bed.cleaned();
}

#[test]
fn a_failed_start_gives_the_workers_code() {
    let bed = Bed::new();
    let output = bed.command("run", "fail", "true").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(bed.exit().exit_code, Some(127));
    bed.cleaned();
}

#[test]
fn every_signal_is_forwarded() {
    let script = "for s in HUP INT QUIT USR1 USR2 TERM ALRM WINCH CONT; do trap \"echo $s\" $s; done; trap 'exit 3' XCPU;\
                  echo ready; while :; do sleep 0.01; done";
    let bed = Bed::new();
    let mut child = bed.command("run", "", script).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        line
    };
    assert_eq!(line(), "ready\n");
    for (sent, name) in [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::TERM, "TERM"),
        (Signal::ALARM, "ALRM"),
        (Signal::WINCH, "WINCH"),
        (Signal::CONT, "CONT"),
    ] {
        signal(&child, sent);
        assert_eq!(line(), format!("{name}\n"));
    }
    signal(&child, Signal::XCPU);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    bed.cleaned();
}

#[test]
fn signals_are_forwarded_even_while_nobody_reads_our_output() {
    let bed = Bed::new();
    let mut child = bed.command("run", "", "while :; do echo y; done").stdout(Stdio::piped()).spawn().unwrap();
    eventually("a standstill", || {
        let before = fs::metadata(bed.log_path()).ok()?.len();
        std::thread::sleep(std::time::Duration::from_millis(200));
        (fs::metadata(bed.log_path()).ok()?.len() == before && before > 0).then_some(())
    });
    signal(&child, Signal::TERM);
    assert_eq!(bed.exit().signal, Some(15));
    let mut output = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(output.len() > 100_000 && output.iter().all(|byte| matches!(byte, b'y' | b'\n')));
    bed.cleaned();
}

#[test]
fn without_forwarding_a_signal_ends_only_the_client() {
    let bed = Bed::start("", "exec sleep 1000");
    let mut child = bed.attach_command("noproxy").spawn().unwrap();
    eventually("the client", || (bed.client().status().unwrap().clients == 2).then_some(()));
    // It may have connected without having blocked its signals yet; either way it ends, and only it.
    signal(&child, Signal::TERM);
    child.wait().unwrap();
    assert!(bed.live().is_running());
    bed.client().signal(0, 9).unwrap();
    bed.cleaned();
}

#[test]
fn a_killed_client_leaves_the_container_running() {
    let bed = Bed::new();
    let mut child = bed.command("run", "promise", "echo up; exec sleep 1000").stdout(Stdio::piped()).spawn().unwrap();
    eventually("the first line", || (bed.logged(Stream::Stdout) == "up\n").then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(bed.live().is_running());
    bed.client().signal(0, 9).unwrap();
    bed.cleaned();
}

#[test]
fn a_closed_stdout_ends_the_client_and_leaves_the_container_running() {
    let bed = Bed::new();
    let mut child =
        bed.command("run", "", "while :; do echo y; sleep 0.01; done").stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 2];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    assert_eq!(child.wait().unwrap().code(), Some(201));
    assert_eq!(end_of(&bed), "OutputClosed");
    assert!(bed.live().is_running());
    bed.client().signal(0, 9).unwrap();
    bed.cleaned();
}

#[test]
fn a_killed_supervisor_is_noticed() {
    let bed = Bed::new();
    let mut child = bed.command("run", "", "exec sleep 1000").spawn().unwrap();
    eventually("the launch", || bed.args.state_dir().join("state.json").exists().then_some(()));
    bed.kill_supervisor();
    assert_eq!(child.wait().unwrap().code(), Some(204));
    assert!(bed.live().is_running());
}

struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
    seen: Vec<u8>,
}

impl Terminal {
    fn new(rows: u16, columns: u16) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        set_window_size(&master, WindowSize { rows, columns }).unwrap();
        Terminal { master, slave, seen: Vec::new() }
    }

    fn spawn(&self, command: &mut std::process::Command) -> Child {
        let end = || Stdio::from(self.slave.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }

    fn type_keys(&self, keys: &[u8]) {
        rustix::io::write(&self.master, keys).unwrap();
    }

    /// Reads the screen until it shows `text`, and forgets everything up to it.
    fn expect(&mut self, text: &str) {
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = self.seen.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.seen.drain(..at + text.len());
                return;
            }
            let length = rustix::io::read(&self.master, &mut buffer).unwrap();
            self.seen.extend_from_slice(&buffer[..length]);
        }
    }
}

#[test]
fn a_terminal_is_raw_sized_resized_and_restored() {
    let bed = Bed::new();
    let mut terminal = Terminal::new(25, 81);
    let script =
        "trap 'stty size' WINCH; stty size; echo ready; while ! read -r line; do :; done; echo \"got $line\"; exit 5";
    let mut child = terminal.spawn(&mut bed.command("run", "tty,stdin,once", script));
    terminal.expect("ready\r\n");
    assert!(terminal.is_raw());
    eventually("the first size", || {
        set_window_size(&terminal.master, WindowSize { rows: 40, columns: 100 }).unwrap();
        signal(&child, Signal::WINCH);
        Some(())
    });
    terminal.expect("40 100\r\n");
    terminal.type_keys(b"hello\r");
    terminal.expect("got hello\r\n");
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert!(!terminal.is_raw());
    assert!(bed.logged(Stream::Stdout).contains("got hello\r\n"));
    bed.cleaned();
}

#[test]
fn detach_keys_leave_the_container_running_and_it_can_be_attached_again() {
    let bed = Bed::new();
    let mut terminal = Terminal::new(25, 81);
    let script = "echo ready; while read -r line; do echo \"got $line\"; [ \"$line\" = end ] && exit 6; done";
    let mut child = terminal.spawn(&mut bed.command("run", "tty,stdin,once", script));
    terminal.expect("ready\r\n");
    terminal.type_keys(b"one\r");
    terminal.expect("got one\r\n");
    terminal.type_keys(b"\x10\x11");
    assert_eq!(child.wait().unwrap().code(), Some(200));
    assert!(!terminal.is_raw() && bed.live().is_running());
    let mut again = terminal.spawn(&mut bed.attach_command("tty,stdin,fg"));
    eventually("raw mode", || terminal.is_raw().then_some(()));
    terminal.type_keys(b"end\r");
    terminal.expect("got end\r\n");
    assert_eq!(again.wait().unwrap().code(), Some(6));
    assert!(!terminal.is_raw());
    bed.cleaned();
}

#[test]
fn a_terminal_is_restored_when_the_supervisor_is_killed_or_a_signal_ends_the_client() {
    let bed = Bed::new();
    let mut terminal = Terminal::new(25, 81);
    let mut child =
        terminal.spawn(&mut bed.command("run", "tty,stdin,once", "trap '' HUP; echo ready; exec sleep 1000"));
    terminal.expect("ready\r\n");
    assert!(terminal.is_raw());
    bed.kill_supervisor();
    assert_eq!(child.wait().unwrap().code(), Some(204));
    assert!(!terminal.is_raw());

    let bed = Bed::new();
    let mut child = terminal.spawn(&mut bed.command("run", "tty,stdin,once,noproxy", "echo ready; exec sleep 1000"));
    terminal.expect("ready\r\n");
    assert!(terminal.is_raw());
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(203));
    assert!(!terminal.is_raw() && bed.live().is_running());
    bed.client().signal(0, 9).unwrap();
    bed.cleaned();
}
