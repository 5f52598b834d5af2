//! Networks that the user brings: lists of plugins as the CNI specification 1.1 has them.
//!
//! ```text
//! add     each plugin in order, given the result of the one before it; when one fails, all are told to delete
//! check   each in order, given the result of the last add
//! delete  each in reverse order, given the result of the last add
//! gc      each, told which attachments there still are (from 1.1 on)
//! ```
//! What has been begun is in a file ([`Attachment`]) before the first plugin runs, and what came of it afterwards, so that
//! whoever finds the file can undo it whenever the one who wrote it was killed. Plugins are programs of the user's; they get
//! their configuration on stdin and the rest in variables named `CNI_` (specification, section 2), and this process' other
//! variables. Nothing else of Hull executes programs.

mod list;
mod plugin;

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use list::{PluginList, lists};
pub use plugin::{PluginCall, Verb};

use crate::network::Mac;
use crate::ports::Protocol;
use crate::subnet::Cidr;

/// Where lists and plugins are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Folders {
    /// Of the lists, `*.conflist`, `*.conf` and `*.json`.
    pub config_dir: PathBuf,
    /// Of the plugins, looked through in this order.
    pub plugin_dirs: Vec<PathBuf>,
}

impl Default for Folders {
    fn default() -> Folders {
        Folders { config_dir: "/etc/cni/net.d".into(), plugin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()] }
    }
}

/// What a list or a plugin of it does not do.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// A file or folder of lists, or an attachment's file.
    #[error("{action} {}", path.display())]
    File {
        /// Reading, writing, removing.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that is no list.
    #[error("{} is no list of CNI plugins: {problem}", path.display())]
    List {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A plugin that is in none of the folders.
    #[error("CNI plugin {plugin} of network {network} is not in {}", shown(folders))]
    NoPlugin {
        /// Its name.
        plugin: String,
        /// The network.
        network: String,
        /// Where it was looked for.
        folders: Vec<PathBuf>,
    },
    /// A plugin that could not be run.
    #[error("running CNI plugin {}", program.display())]
    Run {
        /// The plugin.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A plugin that said no.
    #[error("CNI plugin {plugin} failed to {verb} network {network}: {message}")]
    Failed {
        /// The plugin.
        plugin: String,
        /// Which command.
        verb: Verb,
        /// The network.
        network: String,
        /// Its own words, with its error's code.
        message: String,
    },
    /// A plugin that did not end in time.
    #[error("CNI plugin {plugin} did not {verb} network {network} within {seconds} s")]
    Slow {
        /// The plugin.
        plugin: String,
        /// Which command.
        verb: Verb,
        /// The network.
        network: String,
        /// How long it had.
        seconds: u64,
    },
}

fn shown(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// A port of the host's, for plugins with the capability `portMappings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The host's port.
    pub host_port: u16,
    /// The container's.
    pub container_port: u16,
    /// tcp, udp or sctp.
    pub protocol: Protocol,
    /// The host's address; none for all.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// A container's place in such a network, from before the first plugin runs until all have deleted it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// The list as it was when it was added.
    pub list: PluginList,
    /// Where its plugins are.
    pub plugin_dirs: Vec<PathBuf>,
    /// The container's id.
    pub container_id: String,
    /// The interface inside.
    pub interface: String,
    /// What is asked for, by capability (`portMappings`, `ips`, `mac`, `aliases`).
    pub capabilities: Map<String, Value>,
    /// What the last plugin answered; none before.
    pub result: Option<Value>,
}

/// What a result says of the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Its addresses.
    pub addresses: Vec<Cidr>,
    /// The gateways.
    pub gateways: Vec<IpAddr>,
    /// Hardware address of its interface.
    pub mac: Option<Mac>,
    /// Name servers.
    pub servers: Vec<IpAddr>,
}

/// The name of an attachment's file.
fn file_name(interface: &str) -> String {
    format!("cni-{interface}.json")
}

impl Attachment {
    /// Adds the container, whose network namespace is `namespace`, to the network. `folder` gets the file.
    ///
    /// # Errors
    /// [`CniError`]; every plugin has been told to delete what it had made then, and the file is gone.
    pub fn add(&mut self, namespace: &Path, folder: &Path) -> Result<Outcome, CniError> {
        self.save(folder)?;
        match self.add_all(namespace) {
            Ok(result) => {
                self.result = Some(result);
                self.save(folder)?;
                Ok(self.outcome())
            }
            Err(error) => {
                // What the user has to hear is why it failed.
                let _ = self.delete(Some(namespace), folder);
                Err(error)
            }
        }
    }

    fn add_all(&self, namespace: &Path) -> Result<Value, CniError> {
        let mut result = None;
        for plugin in &self.list.plugins {
            let answer = self.call(Verb::Add, plugin, Some(namespace), result.as_ref())?;
            result = Some(answer);
        }
        Ok(result.unwrap_or_else(|| json!({})))
    }

    /// Asks every plugin whether the container is in the network as it was added.
    ///
    /// # Errors
    /// The first that says no.
    pub fn check(&self, namespace: &Path) -> Result<(), CniError> {
        if self.list.disable_check || !self.list.is_at_least(0, 4) {
            return Ok(());
        }
        for plugin in &self.list.plugins {
            self.call(Verb::Check, plugin, Some(namespace), self.result.as_ref())?;
        }
        Ok(())
    }

    /// Takes the container out of the network, with all plugins also when one fails, and removes the file. Without a
    /// namespace the container has ended.
    ///
    /// # Errors
    /// The first plugin's failure.
    pub fn delete(&self, namespace: Option<&Path>, folder: &Path) -> Result<(), CniError> {
        // Before 0.4 plugins are told no result at a deletion.
        let result = self.result.as_ref().filter(|_| self.list.is_at_least(0, 4));
        let calls = self.list.plugins.iter().rev();
        let results: Vec<_> = calls.map(|plugin| self.call(Verb::Delete, plugin, namespace, result)).collect();
        let path = folder.join(file_name(&self.interface));
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(CniError::File { action: "removing", path, source });
            }
            _ => {}
        }
        results.into_iter().collect::<Result<Vec<_>, _>>().map(drop)
    }

    fn call(
        &self,
        verb: Verb,
        plugin: &Map<String, Value>,
        namespace: Option<&Path>,
        previous: Option<&Value>,
    ) -> Result<Value, CniError> {
        let mut configuration = self.list.configuration(plugin);
        if let Some(previous) = previous {
            configuration.insert("prevResult".to_owned(), previous.clone());
        }
        let runtime = self.wanted(plugin);
        if !runtime.is_empty() {
            configuration.insert("runtimeConfig".to_owned(), Value::Object(runtime));
        }
        let call = PluginCall {
            verb,
            network: &self.list.name,
            container_id: &self.container_id,
            namespace,
            interface: &self.interface,
            folders: &self.plugin_dirs,
        };
        call.run(&configuration)
    }

    /// What is asked for among the capabilities that a plugin declares.
    fn wanted(&self, plugin: &Map<String, Value>) -> Map<String, Value> {
        let declared =
            |name: &str| plugin.get("capabilities").and_then(|all| all.get(name)) == Some(&Value::Bool(true));
        let wanted = self.capabilities.iter().filter(|(name, _)| declared(name));
        wanted.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn save(&self, folder: &Path) -> Result<(), CniError> {
        let path = folder.join(file_name(&self.interface));
        let new = folder.join(format!(".{}", file_name(&self.interface)));
        let text = serde_json::to_vec(self).unwrap_or_default();
        let written =
            File::create(&new).and_then(|mut file| file.write_all(&text)).and_then(|()| fs::rename(&new, &path));
        written.map_err(|source| CniError::File { action: "writing", path, source })
    }

    /// Those whose files are in a container's folder, by interface.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn in_folder(folder: &Path) -> Result<Vec<Attachment>, CniError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| CniError::File { action: "reading", path, source }
        };
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(failed(folder))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed(folder))?.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("cni-") && name.ends_with(".json") {
                let path = folder.join(&*name);
                let text = fs::read(&path).map_err(failed(&path))?;
                let problem =
                    |error: serde_json::Error| CniError::List { path: path.clone(), problem: error.to_string() };
                found.push(serde_json::from_slice(&text).map_err(problem)?);
            }
        }
        found.sort_by(|one: &Attachment, other: &Attachment| one.interface.cmp(&other.interface));
        Ok(found)
    }

    /// What the result says, in any version's form (0.2 has `ip4` and `ip6`).
    pub fn outcome(&self) -> Outcome {
        let Some(result) = &self.result else { return Outcome::default() };
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let list = |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        let mut outcome = Outcome::default();
        let old = ["ip4", "ip6"].iter().filter_map(|name| result.get(name));
        let old = old.filter_map(|one| Some((text(one, "ip")?, text(one, "gateway"))));
        let new =
            list(result, "ips").into_iter().filter_map(|one| Some((text(&one, "address")?, text(&one, "gateway"))));
        for (address, gateway) in old.chain(new) {
            outcome.addresses.extend(address.parse::<Cidr>());
            outcome.gateways.extend(gateway.and_then(|gateway| gateway.parse::<IpAddr>().ok()));
        }
        let mut inside = list(result, "interfaces").into_iter().filter(|one| text(one, "sandbox").is_some());
        outcome.mac = inside.find_map(|one| text(&one, "mac")?.parse().ok());
        let servers = result.get("dns").map(|dns| list(dns, "nameservers")).unwrap_or_default();
        outcome.servers = servers.iter().filter_map(|server| server.as_str()?.parse().ok()).collect();
        outcome
    }
}

/// Tells the plugins of a list which attachments there still are, so that they give up what they keep for others.
///
/// # Errors
/// The first plugin's failure.
pub fn collect(list: &PluginList, plugin_dirs: &[PathBuf], alive: &[Attachment]) -> Result<(), CniError> {
    if list.disable_gc || !list.is_at_least(1, 1) {
        return Ok(());
    }
    let alive = alive.iter().filter(|one| one.list.name == list.name);
    let alive: Vec<_> = alive.map(|one| json!({"containerID": one.container_id, "ifname": one.interface})).collect();
    for plugin in &list.plugins {
        let mut configuration = list.configuration(plugin);
        configuration.insert("cni.dev/valid-attachments".to_owned(), alive.clone().into());
        configuration.insert("cni.dev/attachments".to_owned(), alive.clone().into());
        let call = PluginCall {
            verb: Verb::Collect,
            network: &list.name,
            container_id: "",
            namespace: None,
            interface: "",
            folders: plugin_dirs,
        };
        call.run(&configuration)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(result: &str) -> Attachment {
        let list = PluginList::parse(Path::new("x.conflist"), br#"{"name": "x", "plugins": [{"type": "a"}]}"#).unwrap();
        Attachment {
            list,
            plugin_dirs: Vec::new(),
            container_id: "c".to_owned(),
            interface: "eth0".to_owned(),
            capabilities: Map::new(),
            result: serde_json::from_str(result).unwrap(),
        }
    }

    #[test]
    fn results_of_every_version_are_read() {
        let new = r#"{"cniVersion": "1.0.0", "interfaces": [{"name": "cni0", "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/proc/1/ns/net"}],
            "ips": [{"interface": 1, "address": "10.22.0.2/16", "gateway": "10.22.0.1"}, {"address": "fd00::2/64"}],
            "dns": {"nameservers": ["10.22.0.1"]}}"#;
        let outcome = attachment(new).outcome();
        let shown: Vec<_> = outcome.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.22.0.2/16", "fd00::2/64"]);
        assert_eq!(outcome.mac.unwrap().to_string(), "02:00:00:00:00:02");
        assert_eq!((outcome.gateways.len(), outcome.servers.len()), (1, 1));
        let old = attachment(r#"{"ip4": {"ip": "10.1.0.2/24", "gateway": "10.1.0.1"}}"#).outcome();
        assert_eq!((old.addresses[0].to_string(), old.gateways.len()), ("10.1.0.2/24".to_owned(), 1));
        assert_eq!(attachment("null").outcome(), Outcome::default());
        assert_eq!(attachment(r#"{"ips": 7, "interfaces": [1], "dns": []}"#).outcome(), Outcome::default());
    }

    #[test]
    fn plugins_get_the_capabilities_that_they_declare() {
        let mut one = attachment("null");
        one.capabilities.insert("mac".to_owned(), json!("02:00:00:00:00:01"));
        one.capabilities.insert("ips".to_owned(), json!(["10.0.0.2/24"]));
        let plugin = json!({"type": "a", "capabilities": {"mac": true, "ips": false}});
        let wanted = one.wanted(plugin.as_object().unwrap());
        assert_eq!(Value::Object(wanted), json!({"mac": "02:00:00:00:00:01"}));
    }

    #[test]
    fn what_was_begun_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let one = attachment(r#"{"ips": []}"#);
        one.save(folder.path()).unwrap();
        fs::write(folder.path().join("request.json"), "{}").unwrap();
        assert_eq!(Attachment::in_folder(folder.path()).unwrap(), [one]);
        fs::write(folder.path().join("cni-eth1.json"), "{").unwrap();
        assert!(Attachment::in_folder(folder.path()).is_err());
        assert_eq!(Attachment::in_folder(&folder.path().join("nowhere")).unwrap(), []);
    }
}
