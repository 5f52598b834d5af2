//! One Hull: the program under test on a root and a state folder of its own.
//!
//! Words go in, an end comes out: [`Hull::ok`] expects success and returns what was printed, [`Hull::refused`] expects
//! a failure with one `Error:` line. All of them panic where the test stands, with everything that was printed. When
//! the Hull goes out of scope its containers are removed by force, and then nothing of it may be left (see
//! `leftovers`); what was in its store when the last image was loaded may stay, and the mounts of layers until the images
//! are removed as well. `HULL_TEST_STORAGE_DRIVER` says how every Hull keeps its layers.
//!
//! ```text
//! <HULL_TEST_DIR>/<random>/root    --root
//! <HULL_TEST_DIR>/<random>/state   --state
//! <HULL_TEST_DIR>/<random>/files   the test's own files
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use hull_kernel::netlink::route::Netlink;
use hull_network::firewall::Firewall;
use hull_store::Roots;
use serde_json::Value;
use tempfile::TempDir;

use crate::{image, leftovers, test_folder, wait_for};

/// The end of a command.
#[derive(Debug)]
pub struct Run {
    /// The command's words.
    pub words: String,
    /// Its exit code, or 128 and the number of the signal that killed it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it printed to stderr.
    pub stderr: String,
}

impl Run {
    /// The end as [`Command::output`] tells it.
    pub fn new(words: &[&str], output: Output) -> Run {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let code = output.status.code().or(output.status.signal().map(|signal| 128 + signal));
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        Run { words: words.join(" "), code: code.unwrap_or(-1), stdout, stderr }
    }

    /// Expects the exit code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Run {
        assert_eq!(self.code, code, "the exit code of {self:#?}");
        self
    }

    /// What it printed, without the last line end.
    pub fn text(&self) -> &str {
        self.stdout.trim_end_matches('\n')
    }
}

/// A Hull of its own.
pub struct Hull {
    folder: TempDir,
    roots: Roots,
    program: PathBuf,
    stored: BTreeSet<PathBuf>,
    configuration: Option<PathBuf>,
}

/// The storage driver that all tests are to use; none for Hull's own choice.
pub fn storage_driver() -> Option<String> {
    std::env::var("HULL_TEST_STORAGE_DRIVER").ok().filter(|driver| !driver.is_empty())
}

impl Default for Hull {
    fn default() -> Self {
        Self::new()
    }
}

impl Hull {
    /// With nothing in it.
    pub fn new() -> Hull {
        let folder = TempDir::new_in(test_folder()).expect("a folder in the test folder");
        let place = folder.path().canonicalize().expect("the folder that was made");
        fs::create_dir(place.join("files")).expect("a folder for the test's own files");
        let roots = Roots::new(place.join("root"), place.join("state"));
        let mut configuration = None;
        if let Some(driver) = storage_driver() {
            let file = place.join("hull.toml");
            fs::write(&file, format!("[storage]\ndriver = \"{driver}\"\n")).expect("a configuration");
            configuration = Some(file);
        }
        Hull { folder, roots, program: crate::hull().expect("HULL_BIN"), stored: BTreeSet::new(), configuration }
    }

    /// With the busybox image in it.
    pub fn with_busybox() -> Hull {
        let mut hull = Hull::new();
        hull.load(&image("busybox.docker.tar"));
        hull
    }

    /// Its two folders.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The folder for the test's own files.
    pub fn files(&self) -> PathBuf {
        self.folder.path().canonicalize().expect("the folder that was made").join("files")
    }

    /// A path in that folder as text.
    pub fn file(&self, name: &str) -> String {
        self.files().join(name).display().to_string()
    }

    /// Writes a file of the test's own and returns its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.files().join(name), text).expect("a file of the test's own");
        self.file(name)
    }

    /// Makes a folder of the test's own and returns its path.
    pub fn make_folder(&self, name: &str) -> String {
        fs::create_dir_all(self.files().join(name)).expect("a folder of the test's own");
        self.file(name)
    }

    /// Loads a docker-archive or oci-archive; its files may stay.
    #[track_caller]
    pub fn load(&mut self, archive: &Path) {
        self.ok(&["load", "-q", "-i", &archive.display().to_string()]);
        self.keep_stored();
    }

    /// Whatever is in the store now may stay.
    pub fn keep_stored(&mut self) {
        self.stored = leftovers::stored(&self.roots);
    }

    /// The program with these words.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env("HULL_ROOT", &self.roots.root).env("HULL_STATE", &self.roots.state);
        if let Some(configuration) = &self.configuration {
            command.env("HULL_CONFIG", configuration);
        }
        command.stdin(Stdio::null()).args(words);
        command
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Run {
        Run::new(words, self.command(words).output().expect("starting hull"))
    }

    /// Expects success, and returns what was printed.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        self.run(words).expect(0).text().to_owned()
    }

    /// Expects failure with that exit code and exactly one `Error:` line, and returns what was said.
    #[track_caller]
    pub fn refused(&self, code: i32, words: &[&str]) -> String {
        let run = self.run(words).expect(code);
        let errors = run.stderr.lines().filter(|line| line.starts_with("Error:")).count();
        assert_eq!(errors, 1, "the error lines of {run:#?}");
        run.stderr
    }

    /// Runs a shell script in a throw-away busybox.
    #[track_caller]
    pub fn sh(&self, flags: &[&str], script: &str) -> Run {
        self.run(&[&["run", "--rm"], flags, &["busybox", "sh", "-c", script]].concat())
    }

    /// The same, expecting success; returns what was printed.
    #[track_caller]
    pub fn inside(&self, flags: &[&str], script: &str) -> String {
        self.sh(flags, script).expect(0).text().to_owned()
    }

    /// Runs a shell script in the background and returns the container's id.
    #[track_caller]
    pub fn background(&self, flags: &[&str], script: &str) -> String {
        self.ok(&[&["run", "-d"], flags, &["busybox", "sh", "-c", script]].concat())
    }

    /// Starts the program with pipes for its streams.
    #[track_caller]
    pub fn spawn(&self, words: &[&str]) -> Child {
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("starting hull")
    }

    /// Runs the program to its end with `input` on its stdin.
    #[track_caller]
    pub fn fed(&self, input: &[u8], words: &[&str]) -> Output {
        let mut child = self.spawn(words);
        let mut stdin = child.stdin.take().expect("a pipe");
        std::thread::scope(|scope| {
            // A program that ends before it has read everything is judged by its exit code.
            scope.spawn(move || stdin.write_all(input).ok());
            child.wait_with_output().expect("the end of hull")
        })
    }

    /// What inspect says of one container or image.
    #[track_caller]
    pub fn inspect(&self, name: &str) -> Value {
        let text = self.ok(&["inspect", name]);
        let mut all: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
        assert_eq!(all.len(), 1, "inspect of one name: {text}");
        all.remove(0)
    }

    /// The process of a running container, as this machine numbers it.
    #[track_caller]
    pub fn pid(&self, name: &str) -> i32 {
        let pid = self.inspect(name)["State"]["Pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.filter(|pid| *pid > 0).unwrap_or_else(|| panic!("{name} has no process"))
    }

    /// `running`, `exited` and so on.
    #[track_caller]
    pub fn status(&self, name: &str) -> String {
        self.ok(&["inspect", "--format", "{{.State.Status}}", name])
    }

    /// Waits until the container's log contains `text`, and returns the log.
    #[track_caller]
    pub fn logged(&self, name: &str, text: &str) -> String {
        wait_for(&format!("{text:?} in the log of {name}"), || {
            let log = self.run(&["logs", name]).expect(0);
            let all = log.stdout + &log.stderr;
            all.contains(text).then_some(all)
        })
    }

    /// Ids of all containers.
    #[track_caller]
    pub fn containers(&self) -> Vec<String> {
        self.ok(&["ps", "-aq", "--no-trunc"]).split_whitespace().map(str::to_owned).collect()
    }

    /// The container's cgroup folder in the hierarchy of a controller (on v2 there is one for all).
    #[track_caller]
    pub fn cgroup(&self, id: &str, controller: &str) -> PathBuf {
        let below = format!("{}/{id}", self.roots.instance());
        let places = [format!("/sys/fs/cgroup/{controller}"), "/sys/fs/cgroup".to_owned()];
        let found = places.iter().map(|place| Path::new(place).join(&below)).find(|path| path.exists());
        found.unwrap_or_else(|| panic!("no cgroup {below} for {controller}"))
    }

    /// The number in a file of the container's cgroup: the whole file, or what follows `key` on a line of its own.
    #[track_caller]
    pub fn counter(&self, folder: &Path, file: &str, key: &str) -> u64 {
        let path = folder.join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut lines = text.lines().map(|line| line.strip_prefix(key).unwrap_or_default().trim());
        lines.find_map(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {key} in {}: {text}", path.display()))
    }

    /// What there is of this Hull that should not be there when no container is.
    pub fn leftovers(&self) -> Vec<String> {
        leftovers::of(&self.roots, self.folder.path(), &self.stored)
    }

    /// Removes every image that layers are mounted of; says what of the mounts is left then.
    fn remove_layer_mounts(&self) -> Vec<String> {
        if !self.roots.layer_mounts().exists() {
            return Vec::new();
        }
        let listed = self.command(&["images", "-aq", "--no-trunc"]).output().expect("starting hull");
        let ids = String::from_utf8_lossy(&listed.stdout).into_owned();
        let ids: BTreeSet<&str> = ids.split_whitespace().collect();
        for id in ids {
            let removed = self.run(&["rmi", "-f", id]);
            if removed.code != 0 {
                eprintln!("cleaning up: {removed:#?}");
            }
        }
        leftovers::of_layers(&self.roots)
    }

    fn remove_containers(&self) {
        let listed = self.command(&["ps", "-aq"]).output().expect("starting hull");
        let ids = String::from_utf8_lossy(&listed.stdout).into_owned();
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if !ids.is_empty() {
            let removed = self.run(&[&["rm", "-f", "-v"], &ids[..]].concat());
            if removed.code != 0 {
                eprintln!("cleaning up: {removed:#?}");
            }
        }
    }
}

impl Hull {
    fn remove_user_networks(&self) {
        let listed = self.command(&["network", "ls", "-q", "--filter", "type=custom"]).output().expect("starting hull");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        for network in listed.split_whitespace() {
            let removed = self.run(&["network", "rm", network]);
            if removed.code != 0 {
                eprintln!("cleaning up: {removed:#?}");
            }
        }
    }

    /// Bridges and the firewall's table outlive the containers, as docker's do; here they belong to a test. Says which
    /// interfaces of containers are in the bridges still.
    fn remove_networks(&self) -> Vec<String> {
        let instance = self.roots.instance();
        let Some(hash) = instance.strip_prefix("hull-") else { return Vec::new() };
        let bridge = format!("hull0-{hash}");
        let host = Netlink::here().expect("a netlink socket");
        let ports = || {
            let index = host.index(&bridge).expect("looking for the bridge");
            index.map_or_else(Vec::new, |index| host.ports(index).expect("asking for interfaces"))
        };
        // They go with the last process of their namespace, a moment later.
        let left = leftovers::settled(ports);
        hull_network::interfaces::remove(&host, &bridge).expect("removing the bridge");
        Firewall::new(hash).remove().expect("removing the firewall's table");
        left.into_iter().map(|port| format!("interface {port}")).collect()
    }
}

impl Drop for Hull {
    fn drop(&mut self) {
        if self.roots.database().exists() {
            self.remove_containers();
            self.remove_user_networks();
        }
        let interfaces = self.remove_networks();
        let mut left = leftovers::settled(|| self.leftovers());
        left.extend(interfaces);
        left.extend(self.remove_layer_mounts());
        if left.is_empty() {
            return;
        }
        leftovers::end(&self.roots);
        if std::thread::panicking() {
            eprintln!("left behind:\n{}", left.join("\n"));
        } else {
            panic!("left behind:\n{}", left.join("\n"));
        }
    }
}
