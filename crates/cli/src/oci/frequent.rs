//! The command lines of a container's life, as engines write them all the time, read without clap.
//!
//! Describing every command takes clap several times as long as the system calls of a start may take beside it, and
//! half of the memory. So create, run, start, state, kill, delete and exec are first read here, with the flags that
//! engines use. What this does not know or is not sure of (help, a mistake, a short form, a word that is not UTF-8) it
//! leaves to clap; where it has an answer, that is clap's (a test holds the two together).

use std::ffi::OsString;
use std::path::PathBuf;
use std::slice::Iter;

use super::args::{
    BundleArgs, DEFAULT_ROOT, DeleteArgs, ExecArgs, FrontArgs, IdArgs, KillArgs, OciArgs, OciCommand, RunBundleArgs,
};

/// The meaning of a command line that begins with the program's name; `None` leaves it to clap.
pub fn read(words: &[OsString]) -> Option<OciArgs> {
    let mut words = Words(words.iter());
    words.0.next()?;
    let (front, command) = front(&mut words)?;
    let command = match command {
        "create" => OciCommand::Create(bundle(words, |_, _, _| None)?),
        "run" => OciCommand::Run(run(words)?),
        "start" => OciCommand::Start(id(words)?),
        "state" => OciCommand::State(id(words)?),
        "kill" => OciCommand::Kill(kill(words)?),
        "delete" => OciCommand::Delete(delete(words)?),
        "exec" => OciCommand::Exec(Box::new(exec(words)?)),
        _ => return None,
    };
    Some(OciArgs { front, command })
}

/// What is left of the command line.
struct Words<'a>(Iter<'a, OsString>);

/// A word of the command line.
enum Word<'a> {
    /// `--name` or `-n`, with what stands behind a `=`.
    Flag(&'a str, Option<&'a str>),
    /// Anything without a dash.
    Plain(&'a str),
}

impl<'a> Words<'a> {
    /// The next word; the outer `None` is one that is left to clap, the inner one the end.
    fn word(&mut self) -> Option<Option<Word<'a>>> {
        let Some(word) = self.0.next() else { return Some(None) };
        let word = word.to_str().filter(|word| !word.is_empty())?;
        Some(Some(match word.strip_prefix('-') {
            None => Word::Plain(word),
            Some(short) if short.len() == 1 && short != "-" => Word::Flag(short, None),
            Some(long) => match long.strip_prefix('-')?.split_once('=') {
                Some((name, value)) => Word::Flag(name, Some(value)),
                None => Word::Flag(long.strip_prefix('-').filter(|name| !name.is_empty())?, None),
            },
        }))
    }

    /// The value of a flag: behind its `=`, or the word after it.
    fn value(&mut self, inline: Option<&'a str>) -> Option<&'a str> {
        let value = match inline {
            Some(value) => value,
            None => self.0.next()?.to_str()?,
        };
        Some(value).filter(|value| !value.is_empty() && !value.starts_with('-'))
    }

    fn path(&mut self, inline: Option<&'a str>) -> Option<PathBuf> {
        self.value(inline).map(PathBuf::from)
    }
}

/// A switch that was given, perhaps with the word of Go's programs.
fn switch(inline: Option<&str>) -> Option<bool> {
    match inline {
        None | Some("true") => Some(true),
        Some("false") => Some(false),
        Some(_) => None,
    }
}

/// What stands before the command, and the command's name.
fn front<'a>(words: &mut Words<'a>) -> Option<(FrontArgs, &'a str)> {
    let mut front = FrontArgs {
        root: PathBuf::from(DEFAULT_ROOT),
        log: None,
        log_format: "text".to_owned(),
        debug: false,
        rootless: "auto".to_owned(),
        criu: None,
        systemd_cgroup: false,
    };
    loop {
        match words.word()?? {
            Word::Plain(command) => return Some((front, command)),
            Word::Flag("root", value) => front.root = words.path(value)?,
            Word::Flag("log", value) => front.log = Some(words.path(value)?),
            Word::Flag("log-format", value) => {
                front.log_format = words.value(value).filter(|format| ["text", "json"].contains(format))?.to_owned();
            }
            Word::Flag("debug", value) => front.debug = switch(value)?,
            Word::Flag("rootless", value) => {
                front.rootless = words.value(value).filter(|when| ["auto", "true", "false"].contains(when))?.to_owned();
            }
            Word::Flag("systemd-cgroup", value) => front.systemd_cgroup = switch(value)?,
            Word::Flag(..) => return None,
        }
    }
}

/// `create`, and what `run` has of it; `more` takes the flags of its caller.
fn bundle<'a>(
    mut words: Words<'a>,
    mut more: impl FnMut(&str, Option<&'a str>, &mut Words<'a>) -> Option<()>,
) -> Option<BundleArgs> {
    let mut id = None;
    let mut bundle = BundleArgs {
        bundle: PathBuf::from("."),
        console_socket: None,
        pidfd_socket: None,
        pid_file: None,
        no_new_keyring: false,
        no_pivot: false,
        preserve_fds: 0,
        id: String::new(),
    };
    while let Some(word) = words.word()? {
        match word {
            Word::Plain(word) if id.is_none() => id = Some(word),
            Word::Plain(_) => return None,
            Word::Flag("bundle" | "b", value) => bundle.bundle = words.path(value)?,
            Word::Flag("console-socket", value) => bundle.console_socket = Some(words.path(value)?),
            Word::Flag("pidfd-socket", value) => bundle.pidfd_socket = Some(words.path(value)?),
            Word::Flag("pid-file", value) => bundle.pid_file = Some(words.path(value)?),
            Word::Flag("no-new-keyring", value) => bundle.no_new_keyring = switch(value)?,
            Word::Flag("no-pivot", value) => bundle.no_pivot = switch(value)?,
            Word::Flag(name, value) => more(name, value, &mut words)?,
        }
    }
    Some(BundleArgs { id: id?.to_owned(), ..bundle })
}

fn run(words: Words<'_>) -> Option<RunBundleArgs> {
    let (mut detach, mut keep, mut no_subreaper) = (false, false, false);
    let bundle = bundle(words, |name, value, _| {
        match name {
            "detach" | "d" => detach = switch(value)?,
            "keep" => keep = switch(value)?,
            "no-subreaper" => no_subreaper = switch(value)?,
            _ => return None,
        }
        Some(())
    })?;
    Some(RunBundleArgs { detach, keep, no_subreaper, bundle })
}

fn id(mut words: Words<'_>) -> Option<IdArgs> {
    match (words.word()??, words.word()?) {
        (Word::Plain(id), None) => Some(IdArgs { id: id.to_owned() }),
        _ => None,
    }
}

fn kill(mut words: Words<'_>) -> Option<KillArgs> {
    let (mut all, mut plain) = (false, Vec::new());
    while let Some(word) = words.word()? {
        match word {
            Word::Plain(word) => plain.push(word),
            Word::Flag("all" | "a", value) => all = switch(value)?,
            Word::Flag(..) => return None,
        }
    }
    let (id, signal) = match plain[..] {
        [id] => (id, "SIGTERM"),
        [id, signal] => (id, signal),
        _ => return None,
    };
    Some(KillArgs { all, id: id.to_owned(), signal: signal.to_owned() })
}

fn delete(mut words: Words<'_>) -> Option<DeleteArgs> {
    let (mut force, mut id) = (false, None);
    while let Some(word) = words.word()? {
        match word {
            Word::Plain(word) if id.is_none() => id = Some(word.to_owned()),
            Word::Flag("force" | "f", value) => force = switch(value)?,
            _ => return None,
        }
    }
    Some(DeleteArgs { force, id: id? })
}

fn exec(mut words: Words<'_>) -> Option<ExecArgs> {
    let mut exec = ExecArgs::default();
    loop {
        match words.word()?? {
            Word::Plain(id) => {
                exec.id = id.to_owned();
                break;
            }
            Word::Flag("process" | "p", value) => exec.process = Some(words.path(value)?),
            Word::Flag("console-socket", value) => exec.console_socket = Some(words.path(value)?),
            Word::Flag("pid-file", value) => exec.pid_file = Some(words.path(value)?),
            Word::Flag("detach" | "d", value) => exec.detach = switch(value)?,
            Word::Flag("tty" | "t", value) => exec.tty = switch(value)?,
            Word::Flag(..) => return None,
        }
    }
    // From the program's name on, every word is the program's; a flag before it is left to clap.
    match words.word()? {
        None => {}
        Some(Word::Flag(..)) => return None,
        Some(Word::Plain(program)) => {
            let arguments = words.0.map(|word| word.to_str().map(str::to_owned)).collect::<Option<Vec<_>>>()?;
            exec.command = std::iter::once(program.to_owned()).chain(arguments).collect();
        }
    }
    Some(exec)
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;
    use crate::oci::args;

    fn words(line: &str) -> Vec<OsString> {
        std::iter::once("runc").chain(line.split(' ')).map(OsString::from).collect()
    }

    fn claps(line: &str) -> Option<OciArgs> {
        let matches = args::tree("runc").try_get_matches_from(words(line)).ok()?;
        OciArgs::from_arg_matches(&matches).ok()
    }

    #[test]
    fn what_engines_write_means_what_clap_says() {
        for line in [
            "--root /r --log /l --log-format json create --bundle /b --pid-file /p --console-socket /s box",
            "--log=/l --log-format=json --root=/r --systemd-cgroup create --bundle /b --pid-file /p box",
            "--root /r create -b /b --no-new-keyring --pidfd-socket /s box",
            "--root first --root second --systemd-cgroup=false --debug=true start box",
            "run --bundle /b box",
            "run box -d --keep=false --no-subreaper --bundle=/b=c",
            "state box",
            "start start",
            "kill box",
            "kill box KILL",
            "kill --all=true box 15",
            "kill -a box",
            "delete box",
            "delete --force box",
            "delete box -f",
            "exec --process /p --detach --pid-file /f --console-socket /s box",
            "exec -t box sh -c true -- x",
            "exec box true --force",
            "exec -p=x box",
        ] {
            let (here, there) = (read(&words(line)), claps(line));
            if !line.contains("-p=x") {
                assert!(here.is_some(), "{line}");
            }
            if let Some(here) = here {
                assert_eq!(format!("{:?}", Some(here)), format!("{there:?}"), "{line}");
            }
        }
    }

    #[test]
    fn what_is_unclear_is_left_to_clap() {
        for line in [
            "",
            "list",
            "--help",
            "start",
            "start --help",
            "start a b",
            "start -- a",
            "--log-format xml start a",
            "--root",
            "--root= start a",
            "--root -x start a",
            "--debug=maybe start a",
            "create --preserve-fds 1 a",
            "create -b/b a",
            "create a b",
            "kill a -9",
            "delete a b",
            "delete --forc a",
            "exec",
            "exec a -d true",
            "exec a -- true",
            "exec -u 1 a true",
            "run -dt a",
            "-v",
        ] {
            assert!(read(&words(line)).is_none(), "{line}");
        }
    }
}
