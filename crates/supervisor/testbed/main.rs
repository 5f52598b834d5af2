//! A stand-in for the `hull` binary in the supervisor's tests: it starts plain shell commands instead of containers.
//!
//! ```text
//! testbed start OPTIONS ID ROOT STATE SCRIPT   as `hull run -d`: lock, socket, fork X (execs the supervisor) and W
//! testbed start-client ...                     the same, with stdin as the other end of a first client
//! testbed run   OPTIONS ID ROOT STATE SCRIPT   as `hull run`: the same, then attached in the foreground
//! testbed adopt ID ROOT STATE                  as any command that finds the lock free
//! testbed attach OPTIONS STATE_DIR             as `hull attach`
//! hull-supervisor ... (argv[0])                the supervisor itself
//! hull-worker exec|cleanup ... (argv[0])       the supervisor's short-lived processes
//! ```
//!
//! OPTIONS are words between commas: `tty stdin once nolog smalllog auto fail die wait late badpid promise noproxy fg`.
//! Never installed; only the tests build it.
#![forbid(unsafe_code)]

use std::error::Error;
use std::ffi::{CStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hull_supervisor::client::attach::{self, AttachEnd, AttachOptions};
use hull_supervisor::client::{Client, DetachKeys};
use hull_supervisor::launch::{Launch, LaunchFailed, LaunchSender, LaunchStdio};
use hull_supervisor::log::LogOptions;
use hull_supervisor::protocol::AttachFlags;
use hull_supervisor::start::{self, Handover, SupervisorArgs};
use hull_sys::process::{CLONE_PARENT, Cloned, ExecVectors, clone3, execve, exit_now, inherited_fd, place_fd};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    if name == start::SUPERVISOR_NAME {
        return hull_supervisor::run(args);
    }
    let args: Vec<String> = args.map(OsString::into_string).collect::<Result<_, _>>().expect("UTF-8 arguments");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["exec", root, state, id, file, session] => exec_worker(&supervisor_args(id, root, state), file, session),
        ["cleanup", root, state, id] => cleanup_worker(&supervisor_args(id, root, state)),
        ["start", options, id, root, state, script] => start(&Options(options), id, root, state, script, None),
        ["start-client", options, id, root, state, script] => {
            let client = io::stdin().as_fd().try_clone_to_owned().expect("a client's socket as stdin");
            start(&Options(options), id, root, state, script, Some(client))
        }
        ["run", options, id, root, state, script] => run(&Options(options), id, root, state, script),
        ["adopt", id, root, state] => adopt(&supervisor_args(id, root, state)),
        ["attach", options, state_dir] => attach_to(&Options(options), Path::new(state_dir)),
        _ => Err(format!("bad arguments {args:?}").into()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("testbed: {error}");
        ExitCode::from(125)
    })
}

fn supervisor_args(id: &str, root: &str, state: &str) -> SupervisorArgs {
    SupervisorArgs { id: id.into(), root: root.into(), state: state.into() }
}

struct Options<'a>(&'a str);

impl Options<'_> {
    fn has(&self, word: &str) -> bool {
        self.0.split(',').any(|option| option == word)
    }
}

/// Starts a supervisor and a worker; with a client it is attached from the first byte. Returns when the worker reports.
fn start(
    options: &Options<'_>,
    id: &str,
    root: &str,
    state: &str,
    script: &str,
    client: Option<OwnedFd>,
) -> Outcome<ExitCode> {
    let args = supervisor_args(id, root, state);
    fs::create_dir_all(args.state_dir())?;
    fs::create_dir_all(args.container_dir())?;
    let lock = start::lock(&args.state_dir())?.ok_or("locked already")?;
    let listener = start::listen(&args.state_dir())?;
    let (launch, worker_end) = start::channel()?;
    let (mut report, reporter) = io::pipe()?;
    if let Cloned::Child = clone3(0, None)? {
        drop(report);
        if let Cloned::Child = clone3(0, None)? {
            drop((lock, listener, launch, client));
            let result = launch_worker(options, &args, LaunchSender::new(worker_end), 0, script);
            let text = result.map_or_else(|error| error.to_string(), |()| String::new());
            exit_now(i32::from({ reporter }.write_all(text.as_bytes()).is_err()));
        }
        let error = start::exec_supervisor(&args, Handover { launch, lock, listener, client });
        eprintln!("testbed: exec: {error}");
        exit_now(125);
    }
    drop((reporter, worker_end, launch, lock, listener, client));
    let mut text = String::new();
    report.read_to_string(&mut text)?;
    if text.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(text.into()) }
}

/// The worker's part: makes the process and hands it over.
fn launch_worker(
    options: &Options<'_>,
    args: &SupervisorArgs,
    sender: LaunchSender,
    session: u32,
    script: &str,
) -> Outcome<()> {
    if options.has("wait") {
        while !args.container_dir().join("go").exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    if options.has("die") {
        return Err("died on purpose".into());
    }
    if options.has("fail") {
        sender.failed(&LaunchFailed { exit_code: 127, message: "no such program: é".into() })?;
        return Err("failed on purpose".into());
    }
    let (ours, theirs) = if options.has("tty") { terminal(options)? } else { streams(options, args, session)? };
    let (pid, pidfd) = match clone3(CLONE_PARENT as u64, None)? {
        Cloned::Child => exec_shell(&theirs, options.has("tty"), script),
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    if options.has("late") {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let mut log = LogOptions::new(args.container_dir().join("log"));
    if options.has("smalllog") {
        log.max_bytes = 100_000;
    }
    let oom_events = args.container_dir().join("events");
    let launch = Launch {
        session: if options.has("badpid") { session + 1 } else { session },
        pid,
        pidfd,
        stdio: ours,
        stdin_once: options.has("once"),
        auto_remove: options.has("auto"),
        log: (session == 0 && !options.has("nolog")).then_some(log),
        oom_events: File::open(oom_events).ok().map(Into::into),
        names: None,
    };
    sender.launched(&launch)?;
    Ok(())
}

fn terminal(options: &Options<'_>) -> Outcome<(LaunchStdio, [OwnedFd; 3])> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    let theirs = [slave.try_clone()?, slave.try_clone()?, slave];
    Ok((LaunchStdio::Terminal { master, stdin: options.has("stdin") }, theirs))
}

/// FIFOs for session 0, pipes for others.
fn streams(options: &Options<'_>, args: &SupervisorArgs, session: u32) -> Outcome<(LaunchStdio, [OwnedFd; 3])> {
    let (stdin_read, stdin_write): (OwnedFd, Option<OwnedFd>) = if options.has("stdin") {
        let (read, write) = io::pipe()?;
        (read.into(), Some(write.into()))
    } else {
        (File::open("/dev/null")?.into(), None)
    };
    let output = |name: &str| -> Outcome<(OwnedFd, OwnedFd)> {
        if session > 0 {
            let (read, write) = io::pipe()?;
            return Ok((read.into(), write.into()));
        }
        let path = args.state_dir().join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        let open = || OpenOptions::new().read(true).write(true).open(&path);
        Ok((open()?.into(), open()?.into()))
    };
    let (stdout, stdout_theirs) = output("stdout")?;
    let (stderr, stderr_theirs) = output("stderr")?;
    let ours = LaunchStdio::Streams { stdin: stdin_write, stdout, stderr };
    Ok((ours, [stdin_read, stdout_theirs, stderr_theirs]))
}

fn exec_shell(stdio: &[OwnedFd; 3], tty: bool, script: &str) -> ! {
    let prepare = || -> io::Result<()> {
        rustix::process::setsid()?;
        if tty {
            rustix::process::ioctl_tiocsctty(&stdio[0])?;
        }
        for (number, fd) in (0..).zip(stdio) {
            place_fd(fd.as_fd(), number)?;
        }
        Ok(())
    };
    let program: &CStr = c"/bin/sh";
    let env = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"];
    if let (Ok(()), Ok(vectors)) = (prepare(), ExecVectors::new(&["sh", "-c", script], &env)) {
        hull_sys::process::default_signals();
        execve(program, &vectors);
    }
    exit_now(126)
}

/// The file of an exec has the options in its first line and the script in the others.
fn exec_worker(args: &SupervisorArgs, file: &str, session: &str) -> Outcome<ExitCode> {
    let text = fs::read_to_string(file)?;
    let (options, script) = text.split_once('\n').ok_or("no options")?;
    let sender = LaunchSender::new(inherited_fd(3).ok_or("no launch channel")?);
    launch_worker(&Options(options), args, sender, session.parse()?, script)?;
    Ok(ExitCode::SUCCESS)
}

/// Leaves a mark, after checking that the lock was kept.
fn cleanup_worker(args: &SupervisorArgs) -> Outcome<ExitCode> {
    let kept = start::lock(&args.state_dir())?.is_none() && inherited_fd(4).is_some();
    let score = fs::read_to_string("/proc/self/oom_score_adj")?;
    let mark = format!("lock kept: {kept}\noom score: {score}");
    fs::remove_dir_all(args.state_dir())?;
    let mark_file = args.container_dir().join("cleaned");
    fs::write(mark_file.with_extension("new"), mark)?;
    fs::rename(mark_file.with_extension("new"), mark_file)?;
    Ok(ExitCode::SUCCESS)
}

/// Starts an adopter and reports its end as its own: this process is its parent, as any command may be.
fn adopt(args: &SupervisorArgs) -> Outcome<ExitCode> {
    let lock = start::lock(&args.state_dir())?.ok_or("locked")?;
    let pid = start::spawn_adopter(args, lock)?;
    let pid = rustix::process::Pid::from_raw(pid).ok_or("no pid")?;
    let waited = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())?;
    Ok(ExitCode::from(waited.and_then(|(_, status)| status.exit_status()).unwrap_or(255) as u8))
}

fn run(options: &Options<'_>, id: &str, root: &str, state: &str, script: &str) -> Outcome<ExitCode> {
    let (ours, theirs) = start::channel()?;
    let mut client = Client::from_fd(ours);
    if options.has("promise") {
        client.cleanup_mine()?;
    }
    start(options, id, root, state, script, Some(theirs))?;
    attached(options, &mut client)
}

fn attach_to(options: &Options<'_>, state_dir: &Path) -> Outcome<ExitCode> {
    let mut client = Client::connect(state_dir)?;
    let flags = AttachFlags { stdin: options.has("stdin"), stdout: true, stderr: true, foreground: options.has("fg") };
    client.attach(0, flags)?;
    attached(options, &mut client)
}

/// Exit code of the session, or 200 and more for the other ends.
fn attached(options: &Options<'_>, client: &mut Client) -> Outcome<ExitCode> {
    let attach_options = AttachOptions {
        session: 0,
        tty: options.has("tty"),
        stdin: options.has("stdin"),
        detach_keys: DetachKeys::default(),
        forward_signals: !options.has("noproxy"),
        redraw: false,
    };
    let end = attach::run(client, &attach_options)?;
    if let Ok(file) = std::env::var("TESTBED_END") {
        let file = PathBuf::from(file);
        fs::write(file.with_extension("new"), format!("{end:?}"))?;
        fs::rename(file.with_extension("new"), file)?;
    }
    Ok(match end {
        AttachEnd::Exited(exited) => {
            if options.has("promise")
                && let Some(_lock) = client.begin_cleanup()?
            {
                client.cleanup_done()?;
            }
            ExitCode::from(exited.exit_code.map_or(255, |code| code as u8))
        }
        AttachEnd::Detached => ExitCode::from(200),
        AttachEnd::OutputClosed => ExitCode::from(201),
        AttachEnd::Dropped(_) => ExitCode::from(202),
        AttachEnd::Interrupted(_) => ExitCode::from(203),
        AttachEnd::Lost => ExitCode::from(204),
        AttachEnd::Failed { exit_code, .. } => ExitCode::from(exit_code as u8),
    })
}
