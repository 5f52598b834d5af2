//! `hull system df`, `check` and `gc`: what the store takes, whether it is whole, and what belongs to nothing.

use hull_engine::{DiskUsage, Engine};
use jiff::Timestamp;

use super::{Context, write_stdout};
use crate::args::upkeep::{CheckArgs, CollectArgs, DiskUsageArgs};
use crate::error::Failure;
use crate::output::table::{Format, Layout, columns, render};
use crate::output::template::{Methods, NoMethods, Template, Value};
use crate::output::units::{human_size, since};

const LAYOUT: Layout = Layout {
    headings: &[
        ("Active", "ACTIVE"),
        ("Reclaimable", "RECLAIMABLE"),
        ("Size", "SIZE"),
        ("TotalCount", "TOTAL"),
        ("Type", "TYPE"),
    ],
    default: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
};

/// `system df`.
///
/// # Errors
/// When the format is wrong or something cannot be measured.
pub fn df(arguments: DiskUsageArgs, context: &Context) -> Result<u8, Failure> {
    if arguments.verbose && arguments.format.is_some() {
        return Err(Failure::Arguments("--format cannot be used with --verbose".to_owned()));
    }
    let format = Format::parse(arguments.format.as_deref(), LAYOUT.default)?;
    let engine = context.engine()?;
    let usage = engine.disk_usage()?;
    if arguments.verbose {
        write_stdout(verbose(&usage).as_bytes())?;
        return Ok(0);
    }
    let rows: Vec<_> = summary(&usage).into_iter().map(|row| (row, Box::new(NoMethods) as Box<dyn Methods>)).collect();
    write_stdout(render(&LAYOUT, &format, &rows)?.as_bytes())?;
    Ok(0)
}

/// A row for each kind of thing.
fn summary(usage: &DiskUsage) -> Vec<Value> {
    let stopped = usage.containers.iter().filter(|(container, _)| !container.state.is_running());
    let unused = usage.volumes.iter().filter(|(volume, _)| volume.containers.is_empty());
    let bytes_of = |sizes: &mut dyn Iterator<Item = u64>| -> u64 { sizes.sum() };
    let used_images = usage.images.iter().filter(|image| image.containers > 0).count();
    let used_volumes = usage.volumes.len() - unused.clone().count();
    let running = usage.containers.len() - stopped.clone().count();
    let containers = bytes_of(&mut usage.containers.iter().map(|(_, bytes)| *bytes));
    let volumes = bytes_of(&mut usage.volumes.iter().map(|(_, bytes)| *bytes));
    let of_stopped = bytes_of(&mut stopped.map(|(_, bytes)| *bytes));
    let of_unused = bytes_of(&mut unused.map(|(_, bytes)| *bytes));
    vec![
        row("Images", usage.images.len(), used_images, usage.images_bytes, usage.images_reclaimable_bytes),
        row("Containers", usage.containers.len(), running, containers, of_stopped),
        row("Local Volumes", usage.volumes.len(), used_volumes, volumes, of_unused),
        row("Build Cache", 0, 0, 0, 0),
        row("Downloads", usage.downloads, 0, usage.downloads_bytes, usage.downloads_bytes),
    ]
}

fn row(kind: &str, total: usize, active: usize, bytes: u64, reclaimable_bytes: u64) -> Value {
    let reclaimable = match reclaimable_bytes.checked_mul(100).and_then(|hundredfold| hundredfold.checked_div(bytes)) {
        Some(percent) => format!("{} ({percent}%)", human_size(reclaimable_bytes, 4)),
        None => human_size(reclaimable_bytes, 4),
    };
    let fields = [
        ("Active", active.to_string()),
        ("Reclaimable", reclaimable),
        ("Size", human_size(bytes, 4)),
        ("TotalCount", total.to_string()),
        ("Type", kind.to_owned()),
    ];
    Value::Map(fields.into_iter().map(|(name, text)| (name.to_owned(), Value::Text(text))).collect())
}

/// Each thing by itself, as `docker system df -v` shows it.
fn verbose(usage: &DiskUsage) -> String {
    let now = Timestamp::now();
    let size = |bytes| human_size(bytes, 4);
    let mut images = vec!["REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tCONTAINERS".to_owned()];
    for of in &usage.images {
        let none = || ("<none>".to_owned(), "<none>".to_owned());
        let name = of.image.names.iter().find(|name| name.digest.is_none());
        let (repository, tag) =
            name.map_or_else(none, |name| (name.familiar_name(), name.tag.clone().unwrap_or_default()));
        images.push(format!(
            "{repository}\t{tag}\t{}\t{}\t{}\t{}\t{}\t{}",
            of.image.id.short(),
            since(of.image.created, now),
            size(of.size_bytes),
            size(of.shared_bytes),
            size(of.size_bytes - of.shared_bytes),
            of.containers
        ));
    }
    let mut containers = vec!["CONTAINER ID\tIMAGE\tLOCAL VOLUMES\tSIZE\tCREATED\tSTATUS\tNAMES".to_owned()];
    for (container, bytes) in &usage.containers {
        containers.push(format!(
            "{}\t{}\t{}\t{}\t{}\t{}\t{}",
            container.id.as_str().get(..12).unwrap_or_default(),
            container.image,
            container.local_volumes,
            size(*bytes),
            container.running_for(now),
            container.status(now),
            container.name
        ));
    }
    let mut volumes = vec!["VOLUME NAME\tLINKS\tSIZE".to_owned()];
    let volume_rows =
        usage.volumes.iter().map(|(volume, bytes)| (volume.name.clone(), volume.containers.len(), size(*bytes)));
    volumes.extend(volume_rows.map(|(name, links, size)| format!("{name}\t{links}\t{size}")));
    format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}\n\
         Build cache usage: 0B\n\nDownloads: {} in {} files\n",
        columns(&images),
        columns(&containers),
        columns(&volumes),
        size(usage.downloads_bytes),
        usage.downloads
    )
}

/// `system check`: 1 when something is wrong and was not healed.
///
/// # Errors
/// What keeps the check from going on.
pub fn check(arguments: CheckArgs, context: &Context) -> Result<u8, Failure> {
    let template = match arguments.format.as_deref() {
        None | Some("" | "json") => None,
        Some(template) => Some(Template::parse(template)?),
    };
    let report = context.engine()?.check(arguments.repair)?;
    let text = match (&template, arguments.format.as_deref()) {
        (Some(template), _) => template.render(&Value::of(&report)?)? + "\n",
        (None, Some("json")) => serde_json::to_string(&report)? + "\n",
        _ => {
            let mut text = String::new();
            for finding in &report.findings {
                let end = finding.healed.as_ref().map(|healed| format!(" (healed: {healed})")).unwrap_or_default();
                text.push_str(&format!("{} {}: {}{end}\n", finding.kind, finding.name, finding.problem));
            }
            let left = report.findings.iter().filter(|finding| finding.healed.is_none()).count();
            text + &format!(
                "Checked {} blobs, {} images, {} layers, {} containers, {} volumes: {}\n",
                report.blobs,
                report.images,
                report.layers,
                report.containers,
                report.volumes,
                if left == 0 { "all is well".to_owned() } else { format!("{left} wrong") }
            )
        }
    };
    write_stdout(text.as_bytes())?;
    Ok(u8::from(!report.is_clean()))
}

/// `system gc`.
///
/// # Errors
/// What could not be removed.
pub fn collect(_: CollectArgs, context: &Context) -> Result<u8, Failure> {
    let engine: Engine = context.engine()?;
    let mounts = engine.release_layer_mounts()?;
    let relief = engine.relieve()?;
    let collected = engine.collect()?;
    let mut text = String::new();
    for image in &relief.images {
        text.extend(image.untagged.iter().map(|name| format!("Untagged: {name}\n")));
        text.extend(image.deleted.iter().map(|id| format!("Deleted: {id}\n")));
    }
    let recovered = collected.recovered.containers.len();
    text.push_str(&format!(
        "Removed {} images, {} layers, {} blobs and partial downloads, {mounts} unused mounts, \
         {recovered} interrupted containers, {} other leftovers\n",
        relief.images.len(),
        collected.layers + relief.images.iter().map(|image| image.unused_layers.len()).sum::<usize>(),
        collected.blobs + relief.downloads,
        collected.recovered.leftovers
    ));
    write_stdout(text.as_bytes())?;
    Ok(0)
}
