//! `hull logs`: a container's output, from the log that its supervisor writes.

use std::io::{self, Write};

use hull_engine::{LogLine, LogStreamKind, LogsQuery};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Context;
use crate::args::containers::LogsArgs;
use crate::args::moment::moment;
use crate::error::Failure;

/// Prints the log: what the container wrote to stdout to stdout, and to stderr to stderr.
///
/// # Errors
/// When a moment or number is none, or the log cannot be read.
pub fn run(arguments: LogsArgs, context: &Context) -> Result<u8, Failure> {
    let now = Timestamp::now();
    let at = |flag: &str, text: &Option<String>| match text {
        Some(text) if !text.is_empty() => moment(text, now, &TimeZone::system())
            .map(Some)
            .map_err(|problem| Failure::Arguments(format!("invalid value for \"{flag}\": {problem}"))),
        _ => Ok(None),
    };
    let query = LogsQuery {
        follow: arguments.follow,
        tail: tail(&arguments.tail)?,
        since: at("since", &arguments.since)?,
        until: at("until", &arguments.until)?,
    };
    let engine = context.engine()?;
    for line in engine.logs(&arguments.container, &query)? {
        match write(&line?, arguments.timestamps) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            result => result.map_err(Failure::stream("write the log"))?,
        }
    }
    Ok(0)
}

/// `--tail`: a number; `all`, a negative number and whatever docker takes for it mean everything.
fn tail(text: &str) -> Result<Option<u64>, Failure> {
    match text.parse::<i64>() {
        Ok(lines) => Ok(u64::try_from(lines).ok()),
        Err(_) if matches!(text, "all" | "") => Ok(None),
        Err(_) => Err(Failure::Arguments(format!(
            "invalid argument {text:?} for \"-n, --tail\" flag: must be a whole number or all"
        ))),
    }
}

fn write(line: &LogLine, timestamps: bool) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(line.bytes.len() + 32);
    if timestamps {
        bytes.extend(format!("{} ", line.time.strftime("%Y-%m-%dT%H:%M:%S.%9fZ")).bytes());
    }
    bytes.extend(&line.bytes);
    match line.stream {
        LogStreamKind::Stdout => flushed(io::stdout().lock(), &bytes),
        LogStreamKind::Stderr => flushed(io::stderr().lock(), &bytes),
    }
}

fn flushed(mut stream: impl Write, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_many_lines() {
        assert_eq!(tail("5").unwrap(), Some(5));
        assert_eq!(tail("0").unwrap(), Some(0));
        assert_eq!(tail("all").unwrap(), None);
        assert_eq!(tail("-1").unwrap(), None);
        assert!(tail("some").is_err());
    }
}
