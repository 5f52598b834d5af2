//! `hull volume`: volumes made, listed, inspected and removed by themselves.

use hull_engine::{ErrorKind, NewVolume, VolumeSummary};

use super::inspect::{Form, printed};
use super::{Context, each, write_stdout};
use crate::args::upkeep::{CreateVolumeArgs, InspectVolumesArgs, ListVolumesArgs, RemoveVolumesArgs};
use crate::args::values::size;
use crate::error::{Failure, report};
use crate::output::table::{Format, Layout, render};
use crate::output::template::{Methods, NoMethods, Value};

const LAYOUT: Layout = Layout {
    headings: &[
        ("Driver", "DRIVER"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Name", "VOLUME NAME"),
        ("Scope", "SCOPE"),
        ("Size", "SIZE"),
    ],
    default: "{{.Driver}}\t{{.Name}}",
};

/// `volume create`.
///
/// # Errors
/// A name that is not allowed; the disk.
pub fn create(arguments: CreateVolumeArgs, context: &Context) -> Result<u8, Failure> {
    let label = |text: &String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (text.clone(), String::new()),
    };
    let mut wanted = NewVolume { labels: arguments.label.iter().map(label).collect(), ..NewVolume::default() };
    for option in &arguments.opt {
        let (key, value) = label(option);
        if key != "size" {
            let hint = "only size is; binds and tmpfs are options of --mount";
            return Err(Failure::Arguments(format!("the volume option {key:?} is not supported: {hint}")));
        }
        wanted.size_bytes = Some(size(&value).map_err(Failure::Arguments)?);
        wanted.options.insert(key, value);
    }
    let name = context.engine()?.create_volume(arguments.name.as_deref(), &wanted)?;
    write_stdout(format!("{name}\n").as_bytes())?;
    Ok(0)
}

/// `volume ls`.
///
/// # Errors
/// When a filter or the format is wrong.
pub fn list(arguments: ListVolumesArgs, context: &Context) -> Result<u8, Failure> {
    let format = match (arguments.quiet, arguments.format.as_deref()) {
        (true, None | Some("table" | "")) => Format::parse(Some("{{.Name}}"), LAYOUT.default)?,
        (_, format) => Format::parse(format, LAYOUT.default)?,
    };
    let filter = VolumeFilter::parse(&arguments.filter)?;
    let volumes = context.engine()?.volumes()?;
    let rows: Vec<_> = volumes
        .iter()
        .filter(|volume| filter.takes(volume))
        .map(|volume| (fields(volume), Box::new(NoMethods) as Box<dyn Methods>))
        .collect();
    write_stdout(render(&LAYOUT, &format, &rows)?.as_bytes())?;
    Ok(0)
}

/// `volume inspect`.
///
/// # Errors
/// When one of the names failed, or the format is wrong.
pub fn inspect(arguments: InspectVolumesArgs, context: &Context) -> Result<u8, Failure> {
    let form = Form::parse(arguments.format.as_deref())?;
    let engine = context.engine()?;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for name in &arguments.names {
        match engine.volume(name) {
            Ok(volume) => found.push(volume.inspect()),
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    write_stdout(&printed(&found, &form)?)?;
    for failure in &failures {
        report(failure, context.log_format());
    }
    if failures.is_empty() { Ok(0) } else { Err(Failure::Reported) }
}

/// `volume rm`.
///
/// # Errors
/// When one of the names failed.
pub fn remove(arguments: RemoveVolumesArgs, context: &Context) -> Result<u8, Failure> {
    let engine = context.engine()?;
    each(&arguments.names, context, |name| {
        match engine.remove_volume(name) {
            Err(error) if arguments.force && error.kind() == ErrorKind::NotFound => {}
            result => result?,
        }
        write_stdout(format!("{name}\n").as_bytes())
    })
}

fn fields(volume: &VolumeSummary) -> Value {
    let labels: Vec<String> = volume.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let fields = [
        ("Availability", "N/A".to_owned()),
        ("Driver", "local".to_owned()),
        ("Group", "N/A".to_owned()),
        ("Labels", labels.join(",")),
        ("Links", "N/A".to_owned()),
        ("Mountpoint", volume.mountpoint.display().to_string()),
        ("Name", volume.name.clone()),
        ("Scope", "local".to_owned()),
        ("Size", "N/A".to_owned()),
        ("Status", "N/A".to_owned()),
    ];
    Value::Map(fields.into_iter().map(|(name, text)| (name.to_owned(), Value::Text(text))).collect())
}

/// What a volume must be like: one of the names and of the drivers, and all of the rest.
#[derive(Debug, Default)]
struct VolumeFilter {
    dangling: Option<bool>,
    drivers: Vec<String>,
    labels: Vec<(String, Option<String>)>,
    names: Vec<String>,
}

impl VolumeFilter {
    fn parse(texts: &[String]) -> Result<VolumeFilter, Failure> {
        let mut filter = VolumeFilter::default();
        for text in texts {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            match key {
                "dangling" => {
                    let truth = crate::args::values::truth(value);
                    let truth = truth.map_err(|_| Failure::Arguments(format!("invalid filter 'dangling={value}'")))?;
                    filter.dangling = Some(truth);
                }
                "driver" => filter.drivers.push(value.to_owned()),
                "label" => {
                    let (name, wanted) = value.split_once('=').map_or((value, None), |(name, v)| (name, Some(v)));
                    filter.labels.push((name.to_owned(), wanted.map(str::to_owned)));
                }
                "name" => filter.names.push(value.to_owned()),
                _ => {
                    let known = "known are dangling, driver, label and name";
                    return Err(Failure::Arguments(format!("invalid filter '{key}': {known}")));
                }
            }
        }
        Ok(filter)
    }

    fn takes(&self, volume: &VolumeSummary) -> bool {
        let has = |(name, wanted): &(String, Option<String>)| {
            volume.labels.get(name).is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
        };
        self.dangling.is_none_or(|dangling| dangling == volume.containers.is_empty())
            && (self.drivers.is_empty() || self.drivers.iter().any(|driver| driver == "local"))
            && self.labels.iter().all(has)
            && (self.names.is_empty() || self.names.iter().any(|part| volume.name.contains(part.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn volume(name: &str, containers: &[&str]) -> VolumeSummary {
        VolumeSummary {
            name: name.to_owned(),
            anonymous: false,
            created: jiff::Timestamp::UNIX_EPOCH,
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            options: BTreeMap::new(),
            mountpoint: "/v".into(),
            containers: containers.iter().map(|id| (*id).to_owned()).collect(),
        }
    }

    #[test]
    fn filters_choose() {
        let takes = |texts: &[&str], volume: &VolumeSummary| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            VolumeFilter::parse(&texts).expect("known filters").takes(volume)
        };
        let (used, free) = (volume("data", &["c1"]), volume("cache", &[]));
        assert!(takes(&["dangling=true"], &free) && !takes(&["dangling=true"], &used));
        assert!(takes(&["name=at"], &used) && !takes(&["name=at"], &free));
        assert!(takes(&["name=at", "name=ach"], &free), "names are alternatives");
        assert!(takes(&["label=a=b"], &used) && !takes(&["label=a=c"], &used));
        assert!(!takes(&["driver=nfs"], &used));
        assert!(VolumeFilter::parse(&["size=1".to_owned()]).is_err());
    }
}
