//! `ps`: the processes of a container, as JSON ids or as the lines of the machine's own `ps` that are about them.
//!
//! The table is whatever ps(1) prints with the arguments given (`-ef` without any), filtered by its PID column.

use std::process::Command;

use hull_runtime::container::Containers;

use super::args::PsArgs;
use crate::commands::write_stdout;
use crate::error::Failure;

/// Prints the container's processes.
///
/// # Errors
/// When there is no such container, or `ps` fails or has no PID column.
pub fn ps(containers: &Containers, arguments: &PsArgs) -> Result<(), Failure> {
    let pids = containers.processes(&arguments.id)?;
    if arguments.format == "json" {
        let text = if pids.is_empty() { "null".to_owned() } else { serde_json::to_string(&pids)? };
        return write_stdout((text + "\n").as_bytes());
    }
    let usual = ["-ef".to_owned()];
    let words = if arguments.ps_arguments.is_empty() { &usual[..] } else { &arguments.ps_arguments[..] };
    let output = Command::new("ps").args(words).output().map_err(Failure::path("run", "ps"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::Arguments(format!("ps: {}: {text}{said}", output.status)));
    }
    write_stdout(about(&text, &pids)?.as_bytes())
}

/// The heading, and the lines whose PID is among `pids`.
fn about(text: &str, pids: &[i32]) -> Result<String, Failure> {
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default();
    let Some(column) = heading.split_whitespace().position(|title| title == "PID") else {
        return Err(Failure::Arguments("couldn't find PID field in ps output".to_owned()));
    };
    let mut shown = format!("{heading}\n");
    for line in lines.filter(|line| !line.trim().is_empty()) {
        let word = line.split_whitespace().nth(column).unwrap_or_default();
        let pid: i32 =
            word.parse().map_err(|_| Failure::Arguments(format!("unable to parse pid: {word:?} in {line:?}")))?;
        if pids.contains(&pid) {
            shown.push_str(line);
            shown.push('\n');
        }
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_lines_are_shown() {
        let text = "UID          PID    PPID  C STIME TTY          TIME CMD\n\
                    root           1       0  0 10:00 ?        00:00:00 init\n\
                    root          42       1  0 10:00 ?        00:00:00 sleep 100\n";
        let shown = about(text, &[42, 7]).unwrap();
        assert_eq!(shown.lines().count(), 2);
        assert!(shown.lines().nth(1).unwrap().ends_with("sleep 100"));
        assert_eq!(about("CMD\nx\n", &[1]).unwrap_err().to_string(), "couldn't find PID field in ps output");
        assert!(about("PID\nx\n", &[1]).unwrap_err().to_string().starts_with("unable to parse pid"));
    }
}
