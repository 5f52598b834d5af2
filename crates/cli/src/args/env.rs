//! Variables and labels from flags and from files.
//!
//! A file has one `NAME=value` a line; lines that are empty or start with `#` are skipped, nothing is quoted
//! or expanded. A bare `NAME` takes the value this process has; when it has none, `-e NAME` removes the
//! image's variable of that name and a line of a file is skipped, as docker does both.

use std::path::Path;

use super::surroundings::Surroundings;
use super::values;

/// Why a file of variables or labels cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {flag} {path}")]
    Read {
        /// The flag that names it.
        flag: &'static str,
        /// The path as typed.
        path: String,
        /// Cause.
        source: std::io::Error,
    },
    /// A line of it is wrong.
    #[error("{flag} {path}, line {line}: {problem}")]
    Line {
        /// The flag that names it.
        flag: &'static str,
        /// The path as typed.
        path: String,
        /// Line number, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
}

/// All variables in order: the files' first, then the flags', so that a flag wins.
///
/// # Errors
/// When a file cannot be read or has a bad line.
pub fn variables(files: &[String], flags: &[String], around: &dyn Surroundings) -> Result<Vec<String>, FileError> {
    let mut all = Vec::new();
    for path in files {
        for line in lines("--env-file", path, around)? {
            match line.contains('=') {
                true => all.push(line),
                false => all.extend(around.variable(&line).map(|value| format!("{line}={value}"))),
            }
        }
    }
    for flag in flags {
        let value = if flag.contains('=') { None } else { around.variable(flag) };
        all.push(value.map_or_else(|| flag.clone(), |value| format!("{flag}={value}")));
    }
    Ok(all)
}

/// All labels in order: the files' first, then the flags'.
///
/// # Errors
/// When a file cannot be read or has a bad line.
pub fn labels(
    files: &[String],
    flags: &[(String, String)],
    around: &dyn Surroundings,
) -> Result<Vec<(String, String)>, FileError> {
    let mut all = Vec::new();
    for path in files {
        for line in lines("--label-file", path, around)? {
            let (name, value) = line.split_once('=').unwrap_or((&line, ""));
            all.push((name.to_owned(), value.to_owned()));
        }
    }
    all.extend(flags.iter().cloned());
    Ok(all)
}

fn lines(flag: &'static str, path: &str, around: &dyn Surroundings) -> Result<Vec<String>, FileError> {
    let text =
        around.read(Path::new(path)).map_err(|source| FileError::Read { flag, path: path.to_owned(), source })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut kept = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        let problem = if name.contains(char::is_whitespace) {
            format!("variable '{name}' contains whitespaces")
        } else if values::variable(line).is_err() {
            format!("no variable name on line '{line}'")
        } else {
            kept.push(line.to_owned());
            continue;
        };
        return Err(FileError::Line { flag, path: path.to_owned(), line: index + 1, problem });
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use super::*;

    struct World(&'static str);

    impl Surroundings for World {
        fn variable(&self, name: &str) -> Option<String> {
            (name == "HERE").then(|| "set".to_owned())
        }

        fn read(&self, path: &Path) -> io::Result<String> {
            if path == Path::new("f") { Ok(self.0.to_owned()) } else { Err(io::ErrorKind::NotFound.into()) }
        }

        fn current_folder(&self) -> io::Result<PathBuf> {
            Ok(PathBuf::from("/"))
        }

        fn selinux(&self) -> bool {
            false
        }
    }

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| word.to_string()).collect()
    }

    #[test]
    fn files_come_first_and_bare_names_are_looked_up() {
        let world = World("\u{feff}# a comment\n\n  A=1 # kept\nHERE\nGONE\nB=\"x\"\r\n");
        let all = variables(&strings(&["f"]), &strings(&["A=2", "HERE", "GONE", "E="]), &world).unwrap();
        assert_eq!(all, strings(&["A=1 # kept", "HERE=set", "B=\"x\"", "A=2", "HERE=set", "GONE", "E="]));
    }

    #[test]
    fn bad_lines_are_named() {
        let error = |text| variables(&strings(&["f"]), &[], &World(text)).unwrap_err().to_string();
        assert_eq!(error("A=1\nB C=2"), "--env-file f, line 2: variable 'B C' contains whitespaces");
        assert_eq!(error("=x"), "--env-file f, line 1: no variable name on line '=x'");
        let missing = variables(&strings(&["nope"]), &[], &World("")).unwrap_err();
        assert_eq!(missing.to_string(), "cannot read --env-file nope");
    }

    #[test]
    fn labels_from_files_and_flags() {
        let all = labels(&strings(&["f"]), &[("b".into(), "2".into())], &World("a=1\nHERE\n")).unwrap();
        assert_eq!(all, [("a".into(), "1".into()), ("HERE".into(), String::new()), ("b".into(), "2".into())]);
    }
}
