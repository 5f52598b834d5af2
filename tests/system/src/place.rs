//! A place of a test's own for other container tools and their daemons: mount, process and network namespaces that
//! end with it, and with them every process, mount and interface that was made there (unshare(1), nsenter(1)).
//!
//! ```text
//! test --pipe--> unshare        holds the namespaces open; its death ends them
//!                 `- tini       process 1 of the place: reaps orphans
//!                     `- cat    ends when the test closes the pipe, and when the test dies
//! test --------> nsenter        each command, with the streams and the terminal of the test
//! ```
//!
//! /run, /opt, /var/cache and /dev/shm are empty file systems of the place; what is written to /etc stays in it as well.
//! What does not end with the namespaces are cgroups: those of the given names are removed at the end.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use tempfile::TempDir;

use crate::terminal::Terminal;
use crate::{Lines, Run, leftovers, test_folder, wait_for};

/// Makes the place's own view; `$0` is a folder for it, `$1` the folder with the scripts.
const PREPARE: &str = r#"
set -e
for folder in /run /opt /var/cache /dev/shm "$0/over"; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
chmod 1777 /dev/shm
mkdir "$0/over/etc" "$0/over/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$0/over/etc,workdir=$0/over/work" overlay /etc
echo ready
exec "$1/tini" -- cat
"#;

/// What a daemon is started with: its number in the place comes first, its words go to the file `$0`.
const DAEMON: &str = r#"echo $$; exec "$@" > "$0" 2>&1"#;

/// The namespaces and what is started in them.
pub struct Place {
    holder: Child,
    /// Closing it ends the place.
    end: Option<ChildStdin>,
    folder: TempDir,
    scripts: PathBuf,
    cgroups: Vec<String>,
}

impl Place {
    /// With nothing running in it. The tools there make their cgroups below `cgroups`, in every hierarchy's root.
    pub fn new(scripts: PathBuf, cgroups: &[&str]) -> Place {
        let folder = TempDir::new_in(test_folder()).expect("a folder in the test folder");
        let path = folder.path().canonicalize().expect("the folder that was made");
        fs::create_dir(path.join("over")).expect("a folder for /etc");
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "--net", "--pid", "--fork", "--kill-child"]);
        unshare.args(["--mount-proc", "--", "sh", "-c", PREPARE]).arg(&path).arg(&scripts);
        let mut holder = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare");
        let end = holder.stdin.take();
        let mut said = String::new();
        BufReader::new(holder.stdout.take().expect("a pipe")).read_line(&mut said).expect("the place's first word");
        let cgroups = cgroups.iter().map(|name| (*name).to_owned()).collect();
        let place = Place { holder, end, folder, scripts, cgroups };
        assert_eq!(said, "ready\n", "the place could not be made");
        place
    }

    /// The test's own files, seen in the place by the same names.
    pub fn files(&self) -> PathBuf {
        self.folder.path().canonicalize().expect("the folder that was made")
    }

    /// A path of the place, as this process can open it.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.holder.id()))
    }

    /// A tool of the scripts' folder, or a program by its path, to be started in the place.
    pub fn command(&self, program: impl AsRef<Path>, words: &[&str]) -> Command {
        let namespaces = format!("/proc/{}/ns", self.holder.id());
        let mut command = Command::new("nsenter");
        for (kind, file) in [("mount", "mnt"), ("net", "net"), ("pid", "pid_for_children")] {
            command.arg(format!("--{kind}={namespaces}/{file}"));
        }
        command.arg("--").arg(self.scripts.join(program)).args(words).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(&self, program: &str, words: &[&str]) -> Run {
        Run::new(words, self.command(program, words).output().expect("nsenter"))
    }

    /// A client of the place's own.
    pub fn tool(&self, program: impl Into<PathBuf>, first: &[&str]) -> Tool<'_> {
        let first = first.iter().map(|word| (*word).to_owned()).collect();
        Tool { place: self, program: program.into(), first }
    }

    /// Starts a daemon.
    pub fn start(&self, program: &str, words: &[&str]) -> Daemon {
        let log = self.files().join(format!("{program}.log"));
        let program = self.scripts.join(program);
        let mut command = self.command("/bin/sh", &["-c", DAEMON]);
        let mut process = command.arg(&log).arg(program).args(words).stdout(Stdio::piped()).spawn().expect("nsenter");
        let mut pid = String::new();
        BufReader::new(process.stdout.take().expect("a pipe")).read_line(&mut pid).expect("the daemon's number");
        Daemon { process, pid: pid.trim().to_owned(), log }
    }

    /// Processes in the place, also those in namespaces below its own, by their names; without those that hold it.
    pub fn processes(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("/proc")).expect("the place's /proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        // proc_pid_stat(5): pid (name) state parent ...
        let described = pids.filter_map(|pid| fs::read_to_string(self.path(&format!("/proc/{pid}/stat"))).ok());
        let named = described.filter_map(|stat| {
            let (pid, rest) = stat.split_once(" (")?;
            let (name, rest) = rest.rsplit_once(") ")?;
            let holds = pid == "1" || (name == "cat" && rest.split(' ').nth(1) == Some("1"));
            (!holds).then(|| name.to_owned())
        });
        named.collect()
    }

    /// The tools' own cgroups, in every hierarchy.
    fn parents(&self) -> Vec<PathBuf> {
        let hierarchies = leftovers::hierarchies();
        let all = hierarchies.iter().flat_map(|root| self.cgroups.iter().map(move |name| root.join(name)));
        all.filter(|path| path.is_dir()).collect()
    }

    /// The cgroups below those, the deepest last.
    fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = self.parents();
        let mut next = 0;
        while next < found.len() {
            let below = fs::read_dir(&found[next]).into_iter().flatten().flatten();
            found.extend(below.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>());
            next += 1;
        }
        let parents = self.parents();
        found.retain(|path| !parents.contains(path));
        found
    }

    /// Waits until nothing of any container is there: no process besides those named, no cgroup but the tools' parents,
    /// no file in the folders where the runtime keeps its states.
    ///
    /// # Panics
    /// With what is left.
    #[track_caller]
    pub fn expect_empty(&self, daemons: &[&str], states: &[&str]) {
        let left = leftovers::settled(|| {
            let processes = self.processes().into_iter().filter(|name| !daemons.contains(&name.as_str()));
            let mut left: Vec<String> = processes.map(|name| format!("process {name}")).collect();
            left.extend(self.cgroups().iter().map(|path| format!("cgroup {}", path.display())));
            for state in states {
                let files = fs::read_dir(self.path(state)).into_iter().flatten().flatten();
                // Compiled filters are kept for the next container.
                let files = files.filter(|file| file.file_name() != "filters:v1");
                left.extend(files.map(|file| format!("file {state}/{}", file.file_name().display())));
            }
            left
        });
        assert_eq!(left, Vec::<String>::new());
    }
}

/// A daemon in a place.
pub struct Daemon {
    process: Child,
    pid: String,
    log: PathBuf,
}

impl Daemon {
    /// Waits until its client `tool` is answered.
    ///
    /// # Panics
    /// With the daemon's log when it has ended.
    #[track_caller]
    pub fn wait_until_up(&mut self, tool: &Tool<'_>, question: &[&str]) {
        wait_for("the daemon", || {
            let ended = self.process.try_wait().expect("a child").is_some();
            assert!(!ended, "it has ended:\n{}", fs::read_to_string(&self.log).unwrap_or_default());
            (tool.run(question).code == 0).then_some(())
        });
    }

    /// Tells it to end, by its number, and waits until it has.
    #[track_caller]
    pub fn end(mut self, place: &Place) {
        place.run("/bin/sh", &["-c", &format!("kill -TERM {}", self.pid)]).expect(0);
        wait_for("the daemon's end", || self.process.try_wait().expect("a child"));
    }
}

/// A client program with the words that come first on its every command line.
pub struct Tool<'a> {
    place: &'a Place,
    program: PathBuf,
    first: Vec<String>,
}

impl Tool<'_> {
    /// The program with these words.
    pub fn command(&self, words: &[&str]) -> Command {
        let first: Vec<&str> = self.first.iter().map(String::as_str).collect();
        self.place.command(&self.program, &[&first[..], words].concat())
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Run {
        Run::new(words, self.command(words).output().expect("nsenter"))
    }

    /// Expects success, and returns what was printed.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        self.run(words).expect(0).text().to_owned()
    }

    /// Expects failure with that exit code, and that these words are said.
    #[track_caller]
    pub fn refused(&self, code: i32, words: &[&str], said: &str) {
        let run = self.run(words).expect(code);
        assert!(run.stderr.contains(said) || run.stdout.contains(said), "{said:?} is not in {run:#?}");
    }

    /// Writes a line to its stdin, waits for one that it prints, closes its stdin and expects a good end. In this order,
    /// because `ctr` forgets the end of a stdin that comes before its task.
    #[track_caller]
    pub fn answer(&self, line: &str, words: &[&str]) -> String {
        let mut command = self.command(words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("nsenter");
        let mut stdin = child.stdin.take().expect("a pipe");
        writeln!(stdin, "{line}").expect("writing to a pipe");
        let answer = Lines::of(child.stdout.take().expect("a pipe")).next_line();
        drop(stdin);
        Run::new(words, child.wait_with_output().expect("its end")).expect(0);
        answer
    }

    /// Starts it on a terminal.
    pub fn terminal(&self, words: &[&str]) -> Terminal {
        Terminal::of(&self.command(words))
    }

    /// Waits until it prints `text` to a question.
    #[track_caller]
    pub fn says(&self, text: &str, words: &[&str]) {
        wait_for(&format!("{text:?} of {}", words.join(" ")), || {
            let run = self.run(words);
            (run.stdout.contains(text) || run.stderr.contains(text)).then_some(())
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.end.take());
        wait_for("the end of the place", || self.holder.try_wait().expect("a child"));
        for cgroup in self.parents().into_iter().chain(self.cgroups()).rev() {
            if let Err(error) = fs::remove_dir(&cgroup) {
                eprintln!("cannot remove {}: {error}", cgroup.display());
            }
        }
    }
}
