//! Files of plugin lists (CNI specification, section 1), found by the network's name.
//!
//! A `*.conflist` is a list; a `*.conf` or `*.json` is one plugin, a list of one. They are looked at in the order of their
//! names, and the first one with a name is it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::CniError;

/// Largest file that is read, bytes.
const FILE_BYTES: u64 = 1 << 20;
/// Versions of the specification that results and commands are known of.
const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The one of files without one, as libcni has it.
const UNSAID: &str = VERSIONS[0];

/// A list of plugins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginList {
    /// The network's name.
    pub name: String,
    /// Version of the specification.
    pub version: String,
    /// Whether its plugins cannot be asked to check.
    pub disable_check: bool,
    /// Whether its plugins must not collect.
    pub disable_gc: bool,
    /// Each plugin's configuration, with its program in `type`.
    pub plugins: Vec<Map<String, Value>>,
}

impl PluginList {
    /// Reads a file's text; `path` says which of the two forms it has.
    ///
    /// # Errors
    /// [`CniError::List`].
    pub fn parse(path: &Path, text: &[u8]) -> Result<PluginList, CniError> {
        let wrong = |problem: String| CniError::List { path: path.to_owned(), problem };
        let document: Map<String, Value> = serde_json::from_slice(text).map_err(|error| wrong(error.to_string()))?;
        let string = |name: &str| match document.get(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(wrong(format!("{name} is no string"))),
        };
        let is_set = |name: &str| document.get(name) == Some(&Value::Bool(true));
        let name = string("name")?;
        let is_good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(is_good) {
            return Err(wrong(format!("the name {name:?} is not made of letters, digits, '_', '.' and '-'")));
        }
        let plugins = match document.get("plugins") {
            _ if path.extension().is_none_or(|kind| kind != "conflist") => vec![document.clone()],
            Some(Value::Array(plugins)) if !plugins.is_empty() => {
                let object =
                    |plugin: &Value| plugin.as_object().cloned().ok_or_else(|| wrong("a plugin is no object".into()));
                plugins.iter().map(object).collect::<Result<_, _>>()?
            }
            _ => return Err(wrong("it has no plugins".into())),
        };
        for plugin in &plugins {
            // A path would run any program.
            let is_name = |kind: &str| !kind.is_empty() && !kind.contains('/') && kind != "..";
            if !plugin.get("type").and_then(Value::as_str).is_some_and(is_name) {
                return Err(wrong(format!("a plugin has the type {:?}", plugin.get("type"))));
            }
        }
        let version = newest(&document, &string("cniVersion")?).map_err(wrong)?;
        let (disable_check, disable_gc) = (is_set("disableCheck"), is_set("disableGC"));
        Ok(PluginList { name, version, disable_check, disable_gc, plugins })
    }

    /// What a plugin gets on stdin, before the parts that depend on the command.
    pub(super) fn configuration(&self, plugin: &Map<String, Value>) -> Map<String, Value> {
        let mut configuration = plugin.clone();
        configuration.insert("name".to_owned(), self.name.clone().into());
        configuration.insert("cniVersion".to_owned(), self.version.clone().into());
        configuration
    }

    /// Whether its version is that or a later one.
    pub(super) fn is_at_least(&self, major: u32, minor: u32) -> bool {
        let mut parts = self.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (major, minor)
    }

    /// Whether one of its plugins declares a capability.
    pub fn has_capability(&self, name: &str) -> bool {
        let declares = |plugin: &Map<String, Value>| plugin.get("capabilities")?.get(name)?.as_bool();
        self.plugins.iter().any(|plugin| declares(plugin) == Some(true))
    }
}

/// The newest version that both the list and Hull know.
fn newest(document: &Map<String, Value>, version: &str) -> Result<String, String> {
    let listed = document.get("cniVersions").and_then(Value::as_array);
    let listed = listed.into_iter().flatten().filter_map(Value::as_str);
    let position = |version: &str| VERSIONS.iter().position(|known| *known == version);
    let version = if version.is_empty() { UNSAID } else { version };
    match listed.filter_map(position).max().or_else(|| position(version)) {
        Some(newest) => Ok(VERSIONS[newest].to_owned()),
        None => Err(format!("its CNI version {version} is not known")),
    }
}

/// The lists of a folder, by the order of their files; a file that is none is told of in its place.
///
/// # Errors
/// A folder that cannot be read; one that is not there is empty.
pub fn lists(folder: &Path) -> Result<Vec<Result<PluginList, CniError>>, CniError> {
    let failed = |source| CniError::File { action: "reading", path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(failed)?,
    };
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>().map_err(failed)?;
    let is_list = |path: &PathBuf| {
        let kind = path.extension().and_then(|kind| kind.to_str());
        kind.is_some_and(|kind| ["conflist", "conf", "json"].contains(&kind))
    };
    let mut paths: Vec<_> = paths.into_iter().filter(is_list).collect();
    paths.sort();
    Ok(paths.iter().map(|path| read(path)).collect())
}

fn read(path: &Path) -> Result<PluginList, CniError> {
    let failed = |source| CniError::File { action: "reading", path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > FILE_BYTES {
        return Err(CniError::List { path: path.to_owned(), problem: format!("it has more than {FILE_BYTES} bytes") });
    }
    PluginList::parse(path, &fs::read(path).map_err(failed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, text: &str) -> Result<PluginList, String> {
        PluginList::parse(Path::new(name), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn lists_and_single_plugins_are_read() {
        let list = parse(
            "a.conflist",
            r#"{"name": "web", "cniVersion": "0.4.0", "cniVersions": ["0.4.0", "1.0.0", "9.0.0"], "disableCheck": true,
                "plugins": [{"type": "bridge"}, {"type": "portmap", "capabilities": {"portMappings": true}}]}"#,
        );
        let list = list.unwrap();
        assert_eq!((list.name.as_str(), list.version.as_str(), list.plugins.len()), ("web", "1.0.0", 2));
        assert!(list.has_capability("portMappings") && !list.has_capability("mac") && list.disable_check);
        assert!(list.is_at_least(0, 4) && list.is_at_least(1, 0) && !list.is_at_least(1, 1));
        let one = parse("a.conf", r#"{"name": "web", "type": "bridge"}"#).unwrap();
        assert_eq!((one.version.as_str(), one.plugins.len()), ("0.1.0", 1));
        let given = one.configuration(&one.plugins[0]);
        assert_eq!((given["name"].as_str(), given["cniVersion"].as_str()), (Some("web"), Some("0.1.0")));
    }

    #[test]
    fn what_is_no_list_is_told() {
        for (name, text, problem) in [
            ("a.conflist", "{", "EOF"),
            ("a.conflist", "[]", "expected a map"),
            ("a.conflist", r#"{"plugins": [{"type": "a"}]}"#, "the name \"\""),
            ("a.conflist", r#"{"name": "a/b", "plugins": [{"type": "a"}]}"#, "the name"),
            ("a.conflist", r#"{"name": "a"}"#, "no plugins"),
            ("a.conflist", r#"{"name": "a", "plugins": []}"#, "no plugins"),
            ("a.conflist", r#"{"name": "a", "plugins": [7]}"#, "no object"),
            ("a.conflist", r#"{"name": "a", "plugins": [{"type": "../../bin/sh"}]}"#, "has the type"),
            ("a.conf", r#"{"name": "a"}"#, "has the type"),
            ("a.conf", r#"{"name": "a", "type": "b", "cniVersion": "9.9.9"}"#, "CNI version 9.9.9"),
            ("a.conf", r#"{"name": 7, "type": "b"}"#, "name is no string"),
        ] {
            let said = parse(name, text).unwrap_err();
            assert!(said.contains(problem), "{text}: {said}");
        }
    }
}
