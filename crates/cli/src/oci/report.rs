//! How the OCI runtime command line tells failures: one line on stderr, one in the caller's log file.
//!
//! The log is the one that containerd's shim, dockerd and conmon read back: with `--log-format json` an object with
//! `level`, `msg` and `time` on each line. The words that those programs look for are the runtime's own, in
//! `hull_runtime`; a create that failed is introduced as runc does it.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use hull_runtime::container::ContainerError;

use crate::error::Failure;

/// How grave a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gravity {
    /// The command has failed.
    Error,
    /// Something has, and the command went on.
    Warning,
}

impl Gravity {
    fn word(self) -> &'static str {
        match self {
            Gravity::Error => "error",
            Gravity::Warning => "warning",
        }
    }
}

/// A failure and its causes in one line; a cause whose words were said already is left out.
pub fn line(failure: &Failure) -> String {
    let mut text = failure.to_string();
    let mut next = failure.source();
    while let Some(cause) = next {
        let words = words(cause);
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    match failure {
        Failure::Runtime(ContainerError::Create(_)) => format!("unable to start container process: {text}"),
        _ => text,
    }
}

/// A cause; an errno in the words of Go's programs, which is what their users and tests look for.
fn words(cause: &(dyn Error + 'static)) -> String {
    let text = cause.to_string();
    match cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
        Some(number) => text.trim_end_matches(&format!(" (os error {number})")).to_lowercase(),
        None => text,
    }
}

/// The file that the caller reads failures from.
#[derive(Debug, Clone)]
pub struct Log {
    path: Option<PathBuf>,
    format: String,
}

impl Log {
    /// From the flags before the command, whatever that is.
    pub fn of(matches: &ArgMatches) -> Log {
        Log {
            path: matches.get_one::<PathBuf>("log").cloned(),
            format: matches.get_one::<String>("log_format").cloned().unwrap_or_default(),
        }
    }

    /// Writes a message to stderr and, with `--log`, into the log.
    pub fn tell(&self, gravity: Gravity, text: &str) {
        eprintln!("{text}");
        let Some(path) = &self.path else { return };
        let now = jiff::Timestamp::now();
        if let Err(error) = append(path, &log_line(&self.format, gravity, text, now)) {
            eprintln!("cannot write to the log {}: {error}", path.display());
        }
    }
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(line.as_bytes())
}

/// One line of the log.
fn log_line(format: &str, gravity: Gravity, text: &str, now: jiff::Timestamp) -> String {
    let time = now.strftime("%Y-%m-%dT%H:%M:%SZ");
    let level = gravity.word();
    if format == "json" {
        return format!("{}\n", serde_json::json!({"level": level, "msg": text, "time": time.to_string()}));
    }
    format!("time=\"{time}\" level={level} msg={}\n", serde_json::Value::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_are_those_that_engines_read() {
        let now = jiff::Timestamp::from_second(1_700_000_000).unwrap();
        let text = "exec: \"nope\": executable file not found in $PATH";
        assert_eq!(
            log_line("json", Gravity::Error, text, now),
            "{\"level\":\"error\",\"msg\":\"exec: \\\"nope\\\": executable file not found in $PATH\",\
             \"time\":\"2023-11-14T22:13:20Z\"}\n"
        );
        assert_eq!(
            log_line("text", Gravity::Warning, text, now),
            "time=\"2023-11-14T22:13:20Z\" level=warning \
             msg=\"exec: \\\"nope\\\": executable file not found in $PATH\"\n"
        );
    }

    /// What containerd, dockerd, podman and CRI-O look for in what a runtime says.
    #[test]
    fn the_words_that_clients_match_on() {
        let container = |error| line(&Failure::Runtime(error));
        assert_eq!(container(ContainerError::Missing), "container does not exist");
        assert_eq!(container(ContainerError::Exists), "container with given ID already exists");
        assert_eq!(container(ContainerError::NotRunning), "container not running");
        let path = ContainerError::File {
            action: "open",
            path: "/b/config.json".into(),
            source: rustix::io::Errno::NOENT.into(),
        };
        assert_eq!(container(path), "open /b/config.json: no such file or directory");
        let not_found = hull_runtime::failure::InitFailure::new(
            hull_runtime::failure::Step::Exec,
            "nope",
            rustix::io::Errno::NOENT,
        );
        assert_eq!(
            container(ContainerError::Create(not_found.into())),
            "unable to start container process: exec: \"nope\": executable file not found in $PATH"
        );
    }
}
