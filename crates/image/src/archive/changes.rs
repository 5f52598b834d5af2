//! `--change`: a Dockerfile instruction that sets a field of an image's configuration.
//!
//! CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR, read as the Dockerfile reference has
//! them: JSON or shell form, words with quotes and backslashes, and `$NAME`, `${NAME}`, `${NAME:-word}`,
//! `${NAME:+word}` from earlier ENV instructions (not in CMD and ENTRYPOINT). Any other instruction is refused by
//! name. Pure text, no I/O.

use serde_json::{Map, Value, json};

/// Why an instruction cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid change \"{change}\": {reason}")]
pub struct ChangeError {
    /// The instruction as given.
    pub change: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The fields set so far.
#[derive(Default)]
struct Changes {
    config: Map<String, Value>,
    env: Vec<(String, String)>,
}

/// The `config` object of an image configuration on which the instructions have been carried out in order.
pub(super) fn configuration(changes: &[String]) -> Result<Value, ChangeError> {
    apply_changes(Map::new(), changes)
}

/// A `config` object with Dockerfile instructions carried out on it. An entrypoint without a command drops the command
/// that was there, which was meant for another one, as the Dockerfile reference says.
///
/// # Errors
/// [`ChangeError`] names the instruction.
pub fn apply_changes(config: Map<String, Value>, changes: &[String]) -> Result<Value, ChangeError> {
    let env = config.get("Env").and_then(Value::as_array).into_iter().flatten();
    let env = env.filter_map(Value::as_str).filter_map(|pair| pair.split_once('='));
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let mut made = Changes { config, env };
    for change in changes {
        made.apply(change.trim()).map_err(|reason| ChangeError { change: change.clone(), reason })?;
    }
    let instruction = |change: &String| change.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    let words: Vec<String> = changes.iter().map(instruction).collect();
    if words.iter().any(|word| word == "ENTRYPOINT") && !words.iter().any(|word| word == "CMD") {
        made.config.remove("Cmd");
    }
    if !made.env.is_empty() {
        let pairs: Vec<String> = made.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        made.config.insert("Env".to_owned(), json!(pairs));
    }
    Ok(Value::Object(made.config))
}

impl Changes {
    fn apply(&mut self, change: &str) -> Result<(), String> {
        let (instruction, rest) = change.split_once(char::is_whitespace).unwrap_or((change, ""));
        let rest = rest.trim();
        let instruction = instruction.to_ascii_uppercase();
        if rest.is_empty() && !instruction.is_empty() {
            return Err(format!("{instruction} needs an argument"));
        }
        match instruction.as_str() {
            "CMD" => self.set("Cmd", json!(command(rest))),
            "ENTRYPOINT" => self.set("Entrypoint", json!(command(rest))),
            "ENV" => {
                for (name, value) in self.pairs(rest)? {
                    self.set_env(name, value);
                }
            }
            "LABEL" => {
                let pairs = self.pairs(rest)?;
                self.object("Labels").extend(pairs.into_iter().map(|(name, value)| (name, json!(value))));
            }
            "EXPOSE" => {
                for word in self.words(rest)? {
                    self.object("ExposedPorts").extend(ports(&word)?.into_iter().map(|port| (port, json!({}))));
                }
            }
            "VOLUME" => {
                let paths = match json_form(rest) {
                    Some(paths) => paths,
                    None => self.words(rest)?,
                };
                if paths.iter().any(String::is_empty) {
                    return Err("a volume's path is empty".to_owned());
                }
                self.object("Volumes").extend(paths.into_iter().map(|path| (path, json!({}))));
            }
            "USER" => {
                let user = self.single(rest)?;
                self.set("User", json!(user));
            }
            "WORKDIR" => self.workdir(rest)?,
            "STOPSIGNAL" => {
                let signal = self.single(rest)?;
                check_signal(&signal)?;
                self.set("StopSignal", json!(signal));
            }
            other => return Err(format!("{other} is not supported here")),
        }
        Ok(())
    }

    fn set(&mut self, field: &str, value: Value) {
        self.config.insert(field.to_owned(), value);
    }

    fn object(&mut self, field: &str) -> &mut Map<String, Value> {
        let value = self.config.entry(field).or_insert_with(|| json!({}));
        // An image may say null, or nonsense, which counts as nothing.
        if !value.is_object() {
            *value = json!({});
        }
        value.as_object_mut().expect("it was made one the line before")
    }

    fn set_env(&mut self, name: String, value: String) {
        match self.env.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.env.push((name, value)),
        }
    }

    fn workdir(&mut self, rest: &str) -> Result<(), String> {
        let path = self.single(rest)?;
        let before = self.config.get("WorkingDir").and_then(Value::as_str).unwrap_or("/");
        let whole = if path.starts_with('/') { path } else { format!("{before}/{path}") };
        let mut kept: Vec<&str> = Vec::new();
        for component in whole.split('/') {
            match component {
                "" | "." => {}
                ".." => _ = kept.pop(),
                other => kept.push(other),
            }
        }
        let cleaned = format!("/{}", kept.join("/"));
        self.set("WorkingDir", json!(cleaned));
        Ok(())
    }

    /// `NAME=value ...`, or the old form `NAME value with spaces`.
    fn pairs(&self, rest: &str) -> Result<Vec<(String, String)>, String> {
        let first = rest.split(char::is_whitespace).next().unwrap_or_default();
        let pairs = match first.contains('=') {
            false => {
                let (name, value) = rest.split_once(char::is_whitespace).ok_or("it needs a name and a value")?;
                vec![(name.to_owned(), self.words_joined(value.trim())?)]
            }
            true => {
                let split = |word: String| match word.split_once('=') {
                    Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
                    None => Err(format!("\"{word}\" is not name=value")),
                };
                self.words(rest)?.into_iter().map(split).collect::<Result<_, String>>()?
            }
        };
        match pairs.iter().any(|(name, _)| name.is_empty()) {
            true => Err("a name is empty".to_owned()),
            false => Ok(pairs),
        }
    }

    fn single(&self, rest: &str) -> Result<String, String> {
        match self.words(rest)?.as_slice() {
            [only] if !only.is_empty() => Ok(only.clone()),
            words => Err(format!("it needs exactly one argument, not {}", words.len())),
        }
    }

    fn words(&self, text: &str) -> Result<Vec<String>, String> {
        Words { rest: text, env: &self.env }.split(true)
    }

    /// The same with spaces as part of the one word.
    fn words_joined(&self, text: &str) -> Result<String, String> {
        Ok(Words { rest: text, env: &self.env }.split(false)?.concat())
    }
}

/// JSON form, else the shell's.
fn command(rest: &str) -> Vec<String> {
    json_form(rest).unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.to_owned()])
}

fn json_form(rest: &str) -> Option<Vec<String>> {
    rest.starts_with('[').then(|| serde_json::from_str(rest).ok()).flatten()
}

/// `80`, `80/udp`, `8000-8010/tcp`, each as `port/protocol`.
fn ports(word: &str) -> Result<Vec<String>, String> {
    let invalid = || format!("\"{word}\" is not port[-port][/protocol]");
    let (numbers, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(invalid());
    }
    let parse = |text: &str| text.parse::<u16>().map_err(|_| invalid());
    let (first, last) = match numbers.split_once('-') {
        Some((first, last)) => (parse(first)?, parse(last)?),
        None => (parse(numbers)?, parse(numbers)?),
    };
    if first == 0 || first > last {
        return Err(invalid());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn check_signal(signal: &str) -> Result<(), String> {
    let name = signal.strip_prefix("SIG").unwrap_or(signal);
    let is_number = name.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number));
    let is_name = name.starts_with(|first: char| first.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || matches!(c, '+' | '-'));
    if is_number || is_name { Ok(()) } else { Err(format!("\"{signal}\" is not a signal")) }
}

/// Splits into words as the Dockerfile reference says.
struct Words<'a> {
    rest: &'a str,
    env: &'a [(String, String)],
}

impl Words<'_> {
    fn split(mut self, at_spaces: bool) -> Result<Vec<String>, String> {
        let (mut words, mut word, mut begun) = (Vec::new(), String::new(), false);
        while let Some(character) = self.take() {
            begun |= !character.is_whitespace();
            match character {
                space if space.is_whitespace() && at_spaces => {
                    if std::mem::take(&mut begun) {
                        words.push(std::mem::take(&mut word));
                    }
                }
                '\'' => word.push_str(&self.literal()?),
                '"' => self.quoted(&mut word)?,
                '\\' => word.extend(self.take()),
                '$' => word.push_str(&self.variable()?),
                other => word.push(other),
            }
        }
        if begun {
            words.push(word);
        }
        Ok(words)
    }

    fn take(&mut self) -> Option<char> {
        let mut characters = self.rest.chars();
        let first = characters.next();
        self.rest = characters.as_str();
        first
    }

    /// Up to the closing single quote, as it is.
    fn literal(&mut self) -> Result<String, String> {
        let (text, rest) = self.rest.split_once('\'').ok_or("a ' is not closed")?;
        self.rest = rest;
        Ok(text.to_owned())
    }

    /// Up to the closing double quote; a backslash matters before `"`, `$` and itself only.
    fn quoted(&mut self, word: &mut String) -> Result<(), String> {
        loop {
            match self.take().ok_or("a \" is not closed")? {
                '"' => return Ok(()),
                '$' => word.push_str(&self.variable()?),
                '\\' => match self.take().ok_or("a \" is not closed")? {
                    literal @ ('"' | '$' | '\\') => word.push(literal),
                    other => word.extend(['\\', other]),
                },
                other => word.push(other),
            }
        }
    }

    /// What follows a `$`.
    fn variable(&mut self) -> Result<String, String> {
        if let Some(rest) = self.rest.strip_prefix('{') {
            let (inner, rest) = rest.split_once('}').ok_or("a ${ is not closed")?;
            self.rest = rest;
            return self.braced(inner);
        }
        let end = self.rest.find(|c: char| !is_name_character(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        match name {
            "" => Ok("$".to_owned()),
            name => Ok(self.value(name).unwrap_or_default().to_owned()),
        }
    }

    fn braced(&self, inner: &str) -> Result<String, String> {
        let end = inner.find(|c: char| !is_name_character(c)).unwrap_or(inner.len());
        let (name, modifier) = inner.split_at(end);
        let value = self.value(name).filter(|value| !value.is_empty());
        let unsupported = || format!("${{{inner}}} is not supported");
        match (name, modifier.split_at_checked(2)) {
            ("", _) => Err(unsupported()),
            _ if modifier.is_empty() => Ok(self.value(name).unwrap_or_default().to_owned()),
            (_, Some((":-", word))) => Ok(value.unwrap_or(word).to_owned()),
            (_, Some((":+", word))) => Ok(value.map(|_| word).unwrap_or_default().to_owned()),
            _ => Err(unsupported()),
        }
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn is_name_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(changes: &[&str]) -> Result<Value, ChangeError> {
        configuration(&changes.iter().map(|change| (*change).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn every_instruction_sets_its_field() {
        let table = [
            (&["CMD [\"a\", \"b c\"]"][..], json!({"Cmd": ["a", "b c"]})),
            (&["cmd echo $HOME"][..], json!({"Cmd": ["/bin/sh", "-c", "echo $HOME"]})),
            (&["ENTRYPOINT [\"/init\"]"][..], json!({"Entrypoint": ["/init"]})),
            (&["ENV A=1 B=\"two words\" C=x\\ y"][..], json!({"Env": ["A=1", "B=two words", "C=x y"]})),
            (&["ENV A one two", "ENV A=2"][..], json!({"Env": ["A=2"]})),
            (
                &["ENV P=/x", "ENV Q=$P/y:${P}z R='$P' S=\\$P"][..],
                json!({"Env": ["P=/x", "Q=/x/y:/xz", "R=$P", "S=$P"]}),
            ),
            (&["ENV E=${X:-d} F=${X:+d} X=1"][..], json!({"Env": ["E=d", "F=", "X=1"]})),
            (&["LABEL a.b=c \"d e\"=f", "LABEL g="][..], json!({"Labels": {"a.b": "c", "d e": "f", "g": ""}})),
            (
                &["EXPOSE 80 53/UDP 1-2"][..],
                json!({"ExposedPorts": {"1/tcp": {}, "2/tcp": {}, "53/udp": {}, "80/tcp": {}}}),
            ),
            (&["VOLUME /a /b", "VOLUME [\"/c\"]"][..], json!({"Volumes": {"/a": {}, "/b": {}, "/c": {}}})),
            (&["USER 1000:100"][..], json!({"User": "1000:100"})),
            (&["WORKDIR /a/b", "WORKDIR ../c/./d"][..], json!({"WorkingDir": "/a/c/d"})),
            (&["STOPSIGNAL SIGRTMIN+3"][..], json!({"StopSignal": "SIGRTMIN+3"})),
            (&[][..], json!({})),
        ];
        for (changes, expected) in table {
            assert_eq!(config(changes).expect("valid"), expected, "{changes:?}");
        }
    }

    #[test]
    fn others_are_refused_by_name() {
        let table = [
            ("RUN x", "RUN is not supported"),
            ("ONBUILD RUN x", "ONBUILD is not supported"),
            ("HEALTHCHECK NONE", "HEALTHCHECK is not supported"),
            ("", "is not supported"),
            ("CMD", "CMD needs an argument"),
            ("ENV A", "a name and a value"),
            ("ENV =x", "a name is empty"),
            ("ENV A=1 B", "\"B\" is not name=value"),
            ("ENV A=\"x", "not closed"),
            ("ENV A='x", "not closed"),
            ("ENV A=${B", "not closed"),
            ("ENV A=${B%%c}", "${B%%c} is not supported"),
            ("EXPOSE 0", "\"0\" is not port"),
            ("EXPOSE 70000", "is not port"),
            ("EXPOSE 9-8", "is not port"),
            ("EXPOSE 80/icmp", "is not port"),
            ("USER a b", "exactly one argument, not 2"),
            ("STOPSIGNAL 65", "not a signal"),
            ("STOPSIGNAL sigterm", "not a signal"),
            ("VOLUME [\"\"]", "path is empty"),
        ];
        for (change, reason) in table {
            let error = config(&[change]).expect_err(change).to_string();
            assert!(error.contains(reason) && error.contains(change), "{change}: {error}");
        }
    }
}
