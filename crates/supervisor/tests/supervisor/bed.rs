//! Starting and inspecting one supervised command.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hull_supervisor::client::Client;
use hull_supervisor::log::{LogReader, ReadOptions, Stream};
use hull_supervisor::protocol::Reply;
use hull_supervisor::record::{ExitRecord, LiveState};
use hull_supervisor::start::SupervisorArgs;

static NEXT: AtomicU32 = AtomicU32::new(0);

pub const TESTBED: &str = env!("CARGO_BIN_EXE_hull-supervisor-testbed");

/// Folders of one container; everything of it is killed and removed in the end.
pub struct Bed {
    pub base: PathBuf,
    pub args: SupervisorArgs,
}

impl Bed {
    pub fn new() -> Bed {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = std::env::temp_dir().join(format!("hull-supervisor-{}-{number}", std::process::id()));
        let args = SupervisorArgs { id: "c".into(), root: base.join("root"), state: base.join("state") };
        fs::create_dir_all(args.container_dir()).unwrap();
        Bed { base, args }
    }

    /// Starts the script without a client; returns when it runs.
    pub fn start(options: &str, script: &str) -> Bed {
        let bed = Bed::new();
        let output = bed.command("start", options, script).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        bed
    }

    pub fn command(&self, verb: &str, options: &str, script: &str) -> Command {
        let mut command = Command::new(TESTBED);
        command.args([verb, options, &self.args.id]).arg(&self.args.root).arg(&self.args.state).arg(script);
        command.stdin(Stdio::null()).env("TESTBED_END", self.base.join("end"));
        command
    }

    pub fn attach_command(&self, options: &str) -> Command {
        let mut command = Command::new(TESTBED);
        command.args(["attach", options]).arg(self.args.state_dir());
        command.stdin(Stdio::null()).env("TESTBED_END", self.base.join("end"));
        command
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.args.state_dir()).unwrap()
    }

    pub fn live(&self) -> LiveState {
        LiveState::read(&self.args.state_dir()).unwrap().expect("state.json")
    }

    /// The exit record, waited for.
    pub fn exit(&self) -> ExitRecord {
        eventually("exit.json", || ExitRecord::read(&self.args.container_dir()).unwrap())
    }

    /// What the clean-up worker left, waited for.
    pub fn cleaned(&self) -> String {
        eventually("the clean-up", || fs::read_to_string(self.args.container_dir().join("cleaned")).ok())
    }

    pub fn was_cleaned(&self) -> bool {
        self.args.container_dir().join("cleaned").exists()
    }

    pub fn log_path(&self) -> PathBuf {
        self.args.container_dir().join("log")
    }

    /// Everything logged, by stream.
    pub fn logged(&self, stream: Stream) -> String {
        let entries = LogReader::open(&self.log_path(), ReadOptions::default()).unwrap().map(Result::unwrap);
        entries.filter(|entry| entry.stream == stream).map(|entry| entry.text).collect()
    }

    pub fn touch(&self, name: &str) {
        fs::write(self.args.container_dir().join(name), "").unwrap();
    }

    pub fn exec_file(&self, options: &str, script: &str) -> PathBuf {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = self.base.join(format!("exec-{number}"));
        fs::write(&file, format!("{options}\n{script}")).unwrap();
        file
    }

    pub fn kill_supervisor(&self) {
        let pid = self.live().supervisor_pid;
        kill(pid);
        eventually("the supervisor's death", || (!is_alive(pid)).then_some(()));
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // What a test has left, because it failed or because it killed the supervisor.
        if let Ok(Some(live)) = LiveState::read(&self.args.state_dir()) {
            if live.is_running() {
                kill(live.pid);
            }
            if std::thread::panicking() && comm(live.supervisor_pid) == "hull-supervisor" {
                kill(live.supervisor_pid);
            }
        }
        let removed = fs::remove_dir_all(&self.base);
        if removed.is_err() && !std::thread::panicking() {
            // A clean-up worker may be removing the same folders at this moment.
            eventually("the removal", || {
                let _again = fs::remove_dir_all(&self.base);
                (!self.base.exists()).then_some(())
            });
        }
    }
}

pub fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

pub fn comm(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// Exists and is no zombie.
pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with(['Z', 'X']))
}

/// Tries again until there is something, for at most half a minute.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "timed out: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reads frames until `done` says so; returns what came on stdout and stderr.
pub fn collect(client: &mut Client, mut done: impl FnMut(&Reply<'_>) -> bool) -> (Vec<u8>, Vec<u8>) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        let frame = client.receive().unwrap();
        let reply = Reply::decode(&frame).unwrap();
        match reply {
            Reply::Stdout(data) => stdout.extend_from_slice(data),
            Reply::Stderr(data) => stderr.extend_from_slice(data),
            _ => {}
        }
        if done(&reply) {
            return (stdout, stderr);
        }
    }
}

/// Starts the script with a first client that is attached in the foreground; the other end is returned.
pub fn start_with_client(options: &str, script: &str) -> (Bed, Client) {
    let bed = Bed::new();
    let (ours, theirs) = hull_supervisor::start::channel().unwrap();
    let mut command = bed.command("start-client", options, script);
    let child = command.stdin(Stdio::from(theirs)).spawn().unwrap();
    drop(command);
    // Its result is told by the client too; waiting here would hide a launch that is held up on purpose.
    std::thread::spawn(move || { child }.wait());
    (bed, Client::from_fd(ours))
}
