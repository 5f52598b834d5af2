//! What a container runs once the image's wishes and the request are merged, by docker's rules.
//!
//! The request wins field by field. Entrypoint and Cmd hang together: an entrypoint in the request drops the
//! image's Cmd, since those arguments were meant for the image's own entrypoint. The result feeds the spec and
//! `inspect` alike, so that what is shown is what is run.

use std::collections::{BTreeMap, BTreeSet};

use hull_oci::image::ImageConfig;

use crate::request::CreateContainer;

/// Search path of a container whose image names none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The merged configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Entrypoint.
    pub entrypoint: Vec<String>,
    /// Arguments after the entrypoint, or the whole command.
    pub cmd: Vec<String>,
    /// Request's variables, then those of the image that the request does not set.
    pub env: Vec<String>,
    /// `user[:group]`, empty for root.
    pub user: String,
    /// Working directory, absolute; empty when nobody named one.
    pub working_dir: String,
    /// Signal as written, if any.
    pub stop_signal: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `port/protocol`, sorted, without duplicates.
    pub exposed_ports: Vec<String>,
    /// The image's volume paths.
    pub volumes: Vec<String>,
}

impl Effective {
    /// Merges `request` over `image`.
    pub fn merge(request: &CreateContainer, image: &ImageConfig) -> Effective {
        let (entrypoint, cmd) = command(request, image);
        let mut labels = image.labels.clone();
        labels.extend(request.labels.clone());
        let ports: BTreeSet<String> =
            image.exposed_ports.iter().chain(&request.exposed_ports).map(|port| with_protocol(port)).collect();
        Effective {
            entrypoint,
            cmd,
            env: environment(&request.env, &image.env),
            user: request.user.clone().filter(|user| !user.is_empty()).unwrap_or_else(|| image.user.clone()),
            working_dir: request
                .workdir
                .clone()
                .filter(|dir| !dir.is_empty())
                .unwrap_or_else(|| image.working_dir.clone()),
            stop_signal: request.stop_signal.clone().or_else(|| image.stop_signal.clone()),
            labels,
            exposed_ports: ports.into_iter().collect(),
            volumes: image.volumes.clone(),
        }
    }

    /// Entrypoint and arguments in one: what is executed. Empty when neither request nor image names a command.
    pub fn args(&self) -> Vec<String> {
        self.entrypoint.iter().chain(&self.cmd).cloned().collect()
    }

    /// The environment of the process: defaults, then the merged variables over them, then `HOME` when unset.
    pub fn process_env(&self, hostname: &str, tty: bool, home: &str) -> Vec<String> {
        let mut env = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}")];
        if tty {
            env.push("TERM=xterm".to_owned());
        }
        for variable in &self.env {
            set_variable(&mut env, variable);
        }
        if !env.iter().any(|have| variable_name(have) == "HOME") {
            env.push(format!("HOME={home}"));
        }
        env
    }
}

fn command(request: &CreateContainer, image: &ImageConfig) -> (Vec<String>, Vec<String>) {
    let bare = |words: &[String]| if words == [String::new()] { Vec::new() } else { words.to_vec() };
    match &request.entrypoint {
        Some(entrypoint) => (bare(entrypoint), request.command.clone()),
        None if request.command.is_empty() => (bare(&image.entrypoint), image.cmd.clone()),
        None => (bare(&image.entrypoint), request.command.clone()),
    }
}

/// The request's variables in order (a later one replaces an earlier), then the image's others.
fn environment(request: &[String], image: &[String]) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    let mut removed = BTreeSet::new();
    for variable in request {
        if variable.contains('=') {
            removed.remove(variable_name(variable));
            set_variable(&mut env, variable);
        } else {
            removed.insert(variable.as_str());
            env.retain(|have| variable_name(have) != variable);
        }
    }
    for variable in image {
        let name = variable_name(variable);
        if !removed.contains(name) && !env.iter().any(|have| variable_name(have) == name) {
            env.push(variable.clone());
        }
    }
    // A bare name also takes Hull's own default of that name away.
    env.extend(removed.into_iter().map(str::to_owned));
    env
}

/// Sets `NAME=value` in place or at the end; a bare `NAME` removes it.
fn set_variable(env: &mut Vec<String>, variable: &str) {
    let name = variable_name(variable);
    if !variable.contains('=') {
        env.retain(|have| variable_name(have) != name);
        return;
    }
    match env.iter_mut().find(|have| variable_name(have) == name) {
        Some(have) => *have = variable.to_owned(),
        None => env.push(variable.to_owned()),
    }
}

fn variable_name(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

fn with_protocol(port: &str) -> String {
    if port.contains('/') { port.to_owned() } else { format!("{port}/tcp") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn args(entrypoint: Option<&str>, command: &str, image_entrypoint: &str, image_cmd: &str) -> String {
        let request =
            CreateContainer { entrypoint: entrypoint.map(words), command: words(command), ..Default::default() };
        let image =
            ImageConfig { entrypoint: words(image_entrypoint), cmd: words(image_cmd), ..ImageConfig::default() };
        Effective::merge(&request, &image).args().join(" ")
    }

    #[test]
    fn entrypoint_and_cmd_table() {
        for (entrypoint, command, image_entrypoint, image_cmd, expected) in [
            (None, "", "", "sh", "sh"),
            (None, "ls -l", "", "sh", "ls -l"),
            (None, "", "/run", "--help", "/run --help"),
            (None, "x", "/run", "--help", "/run x"),
            (Some("/other"), "", "/run", "--help", "/other"),
            (Some("/other"), "x", "/run", "--help", "/other x"),
            (Some(""), "x", "/run", "--help", "x"),
            (Some(""), "", "/run", "--help", ""),
            (None, "", "", "", ""),
        ] {
            assert_eq!(args(entrypoint, command, image_entrypoint, image_cmd), expected, "{entrypoint:?} {command:?}");
        }
    }

    #[test]
    fn environment_order_and_override() {
        let request = CreateContainer { env: words("B=2 A=1 B=3 GONE"), ..Default::default() };
        let image = ImageConfig { env: words("PATH=/opt A=0 C=4 GONE=x"), ..ImageConfig::default() };
        let merged = Effective::merge(&request, &image);
        assert_eq!(
            merged.process_env("web", true, "/root"),
            ["PATH=/opt", "HOSTNAME=web", "TERM=xterm", "B=3", "A=1", "C=4", "HOME=/root"]
        );
    }

    #[test]
    fn a_bare_name_takes_a_default_away() {
        let request = CreateContainer { env: words("TERM HOME=/me"), ..Default::default() };
        let env = Effective::merge(&request, &ImageConfig::default()).process_env("h", true, "/root");
        assert_eq!(env, [&format!("PATH={DEFAULT_PATH}"), "HOSTNAME=h", "HOME=/me"]);
    }

    #[test]
    fn the_request_wins_and_labels_and_ports_unite() {
        let request = CreateContainer {
            user: Some("me".into()),
            labels: [("a".into(), "1".into())].into(),
            exposed_ports: words("80 53/udp"),
            ..Default::default()
        };
        let image = ImageConfig {
            user: "you".into(),
            working_dir: "/srv".into(),
            labels: [("a".into(), "0".into()), ("b".into(), "2".into())].into(),
            exposed_ports: words("80/tcp"),
            stop_signal: Some("SIGQUIT".into()),
            ..ImageConfig::default()
        };
        let merged = Effective::merge(&request, &image);
        assert_eq!((merged.user.as_str(), merged.working_dir.as_str()), ("me", "/srv"));
        assert_eq!(merged.labels.into_iter().map(|(k, v)| k + &v).collect::<Vec<_>>(), ["a1", "b2"]);
        assert_eq!(merged.exposed_ports, ["53/udp", "80/tcp"]);
        assert_eq!(merged.stop_signal.as_deref(), Some("SIGQUIT"));
    }
}
