//! Filters of `ps`, in docker's `key=value` form.
//!
//! Several values of one key are alternatives, except labels, which must all be there; different keys must all match.
//! An unknown key or an impossible value is refused by name, so that a typing error never shows an empty list.

use std::str::FromStr;

use crate::lifecycle::state::ContainerState;
use crate::list::ContainerSummary;

const STATES: [&str; 6] = ["created", "running", "paused", "exited", "removing", "dead"];

/// One condition on a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListFilter(Condition);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    Id(String),
    Name(String),
    Label { name: String, value: Option<String> },
    Exited(i32),
    Status(String),
    Ancestor(String),
    Volume(String),
    Network(String),
    Before(String),
    Since(String),
}

/// A filter that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No `=`.
    #[error("invalid filter '{0}': it has the form key=value")]
    Form(String),
    /// Not a key of `ps`.
    #[error(
        "invalid filter '{0}': known are ancestor, before, exited, id, label, name, network, since, status and volume"
    )]
    Key(String),
    /// A value that the key does not take.
    #[error("invalid value '{value}' for the filter {key}")]
    Value {
        /// Key.
        key: String,
        /// Value.
        value: String,
    },
}

impl FromStr for ListFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<ListFilter, FilterError> {
        let (key, value) = text.split_once('=').ok_or_else(|| FilterError::Form(text.to_owned()))?;
        let (key, owned) = (key.trim().to_ascii_lowercase(), value.to_owned());
        let invalid = || FilterError::Value { key: key.clone(), value: value.to_owned() };
        let condition = match key.as_str() {
            "id" => Condition::Id(owned),
            "name" => Condition::Name(owned),
            "label" => match value.split_once('=') {
                Some((name, value)) => Condition::Label { name: name.to_owned(), value: Some(value.to_owned()) },
                None => Condition::Label { name: owned, value: None },
            },
            "exited" => Condition::Exited(value.parse().map_err(|_| invalid())?),
            "status" if STATES.contains(&value) => Condition::Status(owned),
            "status" => return Err(invalid()),
            "ancestor" => Condition::Ancestor(owned),
            "volume" => Condition::Volume(owned),
            "network" => Condition::Network(owned),
            "before" => Condition::Before(owned),
            "since" => Condition::Since(owned),
            _ => return Err(FilterError::Key(key)),
        };
        Ok(ListFilter(condition))
    }
}

impl ListFilter {
    /// Whether it asks for a state, so that containers which do not run are wanted too.
    pub(crate) fn names_a_state(&self) -> bool {
        matches!(self.0, Condition::Status(_) | Condition::Exited(_))
    }

    /// The container before which others must have been created.
    pub(crate) fn before(&self) -> Option<&str> {
        match &self.0 {
            Condition::Before(name) => Some(name),
            _ => None,
        }
    }

    /// The container after which others must have been created.
    pub(crate) fn since(&self) -> Option<&str> {
        match &self.0 {
            Condition::Since(name) => Some(name),
            _ => None,
        }
    }

    /// Whether a container passes all filters.
    pub(crate) fn all_match(filters: &[ListFilter], summary: &ContainerSummary) -> bool {
        filters.iter().all(|filter| {
            let is_label = matches!(filter.0, Condition::Label { .. });
            let alternatives = filters.iter().filter(|other| !is_label && other.key() == filter.key());
            filter.matches(summary) || alternatives.into_iter().any(|other| other.matches(summary))
        })
    }

    fn key(&self) -> std::mem::Discriminant<Condition> {
        std::mem::discriminant(&self.0)
    }

    fn matches(&self, summary: &ContainerSummary) -> bool {
        match &self.0 {
            Condition::Id(prefix) => summary.id.as_str().starts_with(prefix.as_str()),
            Condition::Name(pattern) => name_matches(pattern, &summary.name),
            Condition::Label { name, value } => {
                summary.labels.get(name).is_some_and(|have| value.as_ref().is_none_or(|value| value == have))
            }
            Condition::Exited(code) => {
                matches!(&summary.state, ContainerState::Exited { status, .. } if status.code == Some(*code))
            }
            Condition::Status(name) => summary.state.name() == name,
            Condition::Ancestor(image) => image_matches(image, summary),
            Condition::Volume(volume) => summary.mounts.contains(volume) || summary.mount_targets.contains(volume),
            Condition::Network(network) => summary.networks.contains(network),
            // Resolved to times by the list, since they name other containers.
            Condition::Before(_) | Condition::Since(_) => true,
        }
    }
}

/// Part of a name; `^` and `$` tie it to the start and the end, as in the expressions that people use with docker.
fn name_matches(pattern: &str, name: &str) -> bool {
    let (start, pattern) = pattern.strip_prefix('^').map_or((false, pattern), |rest| (true, rest));
    let (end, pattern) = pattern.strip_suffix('$').map_or((false, pattern), |rest| (true, rest));
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
    match (start, end) {
        (true, true) => name == pattern,
        (true, false) => name.starts_with(pattern),
        (false, true) => name.ends_with(pattern),
        (false, false) => name.contains(pattern),
    }
}

/// The image by its name as asked (a missing tag is `latest`) or by its id, also shortened.
fn image_matches(wanted: &str, summary: &ContainerSummary) -> bool {
    const SHORTEST_ID: usize = 4;
    let canonical = |name: &str| hull_oci::Reference::parse(name).map(|reference| reference.to_string());
    let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let by_id = summary.image_id.as_ref().is_some_and(|id| hex.len() >= SHORTEST_ID && id.hex().starts_with(hex));
    let by_name = matches!((canonical(wanted), canonical(&summary.image)), (Ok(a), Ok(b)) if a == b);
    by_id || by_name || wanted == summary.image
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::state::ExitStatus;
    use crate::list::tests::summary;

    fn passes(filters: &[&str], summary: &ContainerSummary) -> bool {
        let filters: Vec<ListFilter> = filters.iter().map(|text| text.parse().unwrap()).collect();
        ListFilter::all_match(&filters, summary)
    }

    #[test]
    fn conditions() {
        let mut one = summary("web_one", ContainerState::Created);
        one.image = "debian".into();
        one.labels.insert("a".into(), "1".into());
        one.mounts.push("data".into());
        one.mount_targets.push("/srv".into());
        for (filters, expected) in [
            (&["name=web"][..], true),
            (&["name=^web$"], false),
            (&["name=^/web_one$"], true),
            (&["id=abab"], true),
            (&["id=b"], false),
            (&["label=a"], true),
            (&["label=a=1", "label=b"], false),
            (&["status=exited", "status=created"], true),
            (&["status=exited", "name=web"], false),
            (&["ancestor=docker.io/library/debian:latest"], true),
            (&["ancestor=debian:12"], false),
            (&["volume=data"], true),
            (&["volume=/srv"], true),
            (&["exited=0"], false),
        ] {
            assert_eq!(passes(filters, &one), expected, "{filters:?}");
        }
        let status = ExitStatus { code: Some(3), ..ExitStatus::default() };
        let ended = summary("x", ContainerState::Exited { status, started_at: None });
        assert!(passes(&["exited=0", "exited=3"], &ended));
    }

    #[test]
    fn typing_errors_are_named() {
        let error = |text: &str| text.parse::<ListFilter>().unwrap_err().to_string();
        assert!(error("nmae=x").starts_with("invalid filter 'nmae'"));
        assert!(error("name").contains("key=value"));
        assert_eq!(error("status=up"), "invalid value 'up' for the filter status");
        assert_eq!(error("exited=x"), "invalid value 'x' for the filter exited");
    }
}
