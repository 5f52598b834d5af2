//! Running one plugin for one command (CNI specification, section 2).
//!
//! Its answer, or its error, is on its stdout. It gets a bounded time, after which it is killed, and a bounded answer.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::CniError;

/// How long a plugin may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether one has ended.
const PAUSE: Duration = Duration::from_millis(2);
/// Largest answer that is read, bytes.
const ANSWER_BYTES: u64 = 1 << 20;

/// A command of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `ADD`.
    Add,
    /// `CHECK`.
    Check,
    /// `DEL`.
    Delete,
    /// `GC`.
    Collect,
}

impl Verb {
    fn variable(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Check => "CHECK",
            Verb::Delete => "DEL",
            Verb::Collect => "GC",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Add => "add the container to",
            Verb::Check => "find the container well in",
            Verb::Delete => "delete the container from",
            Verb::Collect => "collect what nobody has of",
        })
    }
}

/// What a plugin is called for.
#[derive(Debug, Clone, Copy)]
pub struct PluginCall<'a> {
    /// The command.
    pub verb: Verb,
    /// The network.
    pub network: &'a str,
    /// The container.
    pub container_id: &'a str,
    /// Its network namespace, while there is one.
    pub namespace: Option<&'a Path>,
    /// The interface inside.
    pub interface: &'a str,
    /// Where plugins are.
    pub folders: &'a [PathBuf],
}

impl PluginCall<'_> {
    /// Runs the plugin that the configuration names; its answer, `{}` when it has none.
    ///
    /// # Errors
    /// [`CniError`]: the plugin is not there, fails, hangs.
    pub fn run(&self, configuration: &Map<String, Value>) -> Result<Value, CniError> {
        let plugin = configuration.get("type").and_then(Value::as_str).unwrap_or_default();
        let program = self.find(plugin)?;
        let failed = |source| CniError::Run { program: program.clone(), source };
        let mut child = self.command(&program).spawn().map_err(failed)?;
        let given = serde_json::to_vec(configuration).map_err(|error| failed(error.into()))?;
        let (mut stdin, stdout) = (child.stdin.take(), child.stdout.take());
        // It may answer before it has read everything, or never read: then it says why.
        thread::spawn(move || stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(&given)));
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || sender.send(answer(stdout)));
        let slow = || CniError::Slow {
            plugin: plugin.to_owned(),
            verb: self.verb,
            network: self.network.to_owned(),
            seconds: PATIENCE.as_secs(),
        };
        let success = wait(&mut child).map_err(failed)?.ok_or_else(slow)?;
        // What it has left running may hold its stdout open.
        let answer = answers.recv_timeout(PATIENCE).map_err(|_| slow())?.map_err(failed)?;
        let failed = |message: String| CniError::Failed {
            plugin: plugin.to_owned(),
            verb: self.verb,
            network: self.network.to_owned(),
            message,
        };
        match (success, answer.trim_ascii()) {
            (true, []) => Ok(Value::Object(Map::new())),
            (true, answer) => serde_json::from_slice(answer).map_err(|error| failed(format!("its answer: {error}"))),
            (false, answer) => Err(failed(complaint(answer))),
        }
    }

    fn find(&self, plugin: &str) -> Result<PathBuf, CniError> {
        let found = self.folders.iter().map(|folder| folder.join(plugin)).find(|program| program.is_file());
        found.ok_or_else(|| CniError::NoPlugin {
            plugin: plugin.to_owned(),
            network: self.network.to_owned(),
            folders: self.folders.to_vec(),
        })
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let folders: Vec<_> = self.folders.iter().map(|folder| folder.as_os_str()).collect();
        command
            .env("CNI_COMMAND", self.verb.variable())
            .env("CNI_CONTAINERID", self.container_id)
            .env("CNI_NETNS", self.namespace.unwrap_or(Path::new("")))
            .env("CNI_IFNAME", self.interface)
            .env("CNI_ARGS", "")
            .env("CNI_PATH", folders.join(std::ffi::OsStr::new(":")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }
}

fn answer(stdout: Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    if let Some(stdout) = stdout {
        stdout.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    }
    Ok(answer)
}

/// Whether it ended well; none when it had to be killed.
fn wait(child: &mut Child) -> io::Result<Option<bool>> {
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(status.success())),
            None if Instant::now() > end => break,
            None => thread::sleep(PAUSE),
        }
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// A plugin's error in its own words: `{"code": 7, "msg": "...", "details": "..."}`.
fn complaint(answer: &[u8]) -> String {
    let Ok(error) = serde_json::from_slice::<Value>(answer) else {
        let text = String::from_utf8_lossy(answer);
        return if text.is_empty() { "it gave no reason".to_owned() } else { text.into_owned() };
    };
    let text = |name: &str| error.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let code = error.get("code").and_then(Value::as_u64).map(|code| format!(" (code {code})")).unwrap_or_default();
    let details = text("details").map(|details| format!("; {details}")).unwrap_or_default();
    format!("{}{details}{code}", text("msg").unwrap_or("it gave no reason"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn run(script: &str) -> Result<Value, String> {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("fake");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let folders = [folder.path().to_owned()];
        let call = PluginCall {
            verb: Verb::Add,
            network: "web",
            container_id: "c1",
            namespace: Some(Path::new("/proc/1/ns/net")),
            interface: "eth0",
            folders: &folders,
        };
        let configuration = serde_json::json!({"type": "fake", "name": "web"});
        call.run(configuration.as_object().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_plugin_gets_its_configuration_and_answers() {
        let said = run(
            r#"printf '{"got": %s, "told": "%s %s %s %s"}' "$(cat)" $CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME"#,
        );
        let said = said.unwrap();
        assert_eq!(said["told"], "ADD c1 /proc/1/ns/net eth0");
        assert_eq!(said["got"]["name"], "web");
        assert_eq!(run("true").unwrap(), serde_json::json!({}));
    }

    #[test]
    fn a_plugins_complaint_is_told() {
        let said = run(r#"echo '{"code": 7, "msg": "no room", "details": "at all"}'; exit 1"#).unwrap_err();
        assert_eq!(said, "CNI plugin fake failed to add the container to network web: no room; at all (code 7)");
        assert!(run("exit 1").unwrap_err().ends_with("it gave no reason"));
        assert!(run("echo nonsense; exit 1").unwrap_err().contains("nonsense"));
        assert!(run("echo nonsense").unwrap_err().contains("its answer"));
    }

    #[test]
    fn a_plugin_that_is_not_there_is_named() {
        let folders = [PathBuf::from("/nowhere")];
        let call = PluginCall {
            verb: Verb::Add,
            network: "web",
            container_id: "c1",
            namespace: None,
            interface: "eth0",
            folders: &folders,
        };
        let configuration = serde_json::json!({"type": "fake"});
        let said = call.run(configuration.as_object().unwrap()).unwrap_err().to_string();
        assert_eq!(said, "CNI plugin fake of network web is not in /nowhere");
    }
}
