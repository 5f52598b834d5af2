//! Other programs: run them, keep what they print, and say clearly what failed.
//!
//! Three ways are enough here: `output` for a short answer, `quiet` for a program whose words matter only when it
//! fails, and `logged` for a long lane whose words go to a file (and, when asked, to the terminal as well).

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Runs `command` and returns its standard output; any other end than 0 is an error that carries standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let name = describe(command);
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    if !out.status.success() {
        bail!("{name}: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs `command` for its effect; what it printed is shown only in the error.
pub fn quiet(command: &mut Command) -> Result<()> {
    let name = describe(command);
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    if !out.status.success() {
        let words = [out.stdout, out.stderr].concat();
        bail!("{name}: {}\n{}", out.status, String::from_utf8_lossy(&words).trim_end());
    }
    Ok(())
}

/// Runs `command` with both of its outputs appended to the file `log`, at most `limit` long.
/// A program that takes longer is killed (it alone, by its pid) and the error says so.
pub fn logged(command: &mut Command, log: &Path, limit: Duration) -> Result<ExitStatus> {
    let name = describe(command);
    let file = File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
    let copy = file.try_clone()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(copy)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            bail!("{name}: not finished after {} s, killed", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The file as text, with bytes that are not UTF-8 replaced: logs hold whatever a program printed.
pub fn text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).with_context(|| path.display().to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The program's name and its first arguments, for messages.
fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().take(6).map(|word| word.to_string_lossy().into_owned()));
    if command.get_args().len() > 6 {
        words.push("...".into());
    }
    words.join(" ")
}
