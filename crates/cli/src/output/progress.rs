//! How images come and go is shown: bars on a terminal, docker's lines elsewhere, JSON or nothing when asked.
//!
//! Events come from several threads; each kind of display keeps what it needs behind one lock and draws in
//! the thread that brings the event, so that no thread of its own is alive when the image is there. JSON lines have the
//! fields of docker's JSONMessage: `status`, `id`, and `progressDetail` with `current` and `total` in bytes.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hull_image::{LayerEvent, Progress};
use hull_oci::{Digest, Reference};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

/// Least time between two JSON lines about the same layer's bytes.
const JSON_INTERVAL: Duration = Duration::from_millis(100);

/// Where the display goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    /// The command's own output (`pull`, `push`).
    Stdout,
    /// Beside the output of a container (`run`) or an archive (`save`).
    Stderr,
}

/// What the user asked for with `--progress`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProgressMode {
    /// Bars on a terminal, lines elsewhere.
    #[default]
    Auto,
    /// Bars.
    Tty,
    /// Lines.
    Plain,
    /// A JSON object a line.
    Json,
}

impl ProgressMode {
    /// Reads the value of `--progress`.
    ///
    /// # Errors
    /// The values that there are.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "tty" => Ok(Self::Tty),
            "plain" => Ok(Self::Plain),
            "json" => Ok(Self::Json),
            _ => Err("must be auto, tty, plain or json".to_owned()),
        }
    }
}

/// The display for an image that `run` or `create` may have to pull.
pub fn for_create(image: &str, quiet: bool) -> Box<dyn Progress> {
    if quiet {
        return Box::new(Quiet);
    }
    let missing = Some(format!("Unable to find image '{}' locally", familiar(image)));
    display(Stream::Stderr, ProgressMode::Auto, missing)
}

/// The display for `pull` and `push`, on stdout.
pub fn for_transfer(quiet: bool, choice: ProgressMode) -> Box<dyn Progress> {
    if quiet { Box::new(Quiet) } else { display(Stream::Stdout, choice, None) }
}

/// The display for `load` and `save`, on stderr: nothing but the result where that is no terminal, unless asked for.
pub fn for_archive(quiet: bool, choice: ProgressMode) -> Box<dyn Progress> {
    let is_silent = choice == ProgressMode::Auto && !hull_kernel::terminal::is_terminal(io::stderr());
    if quiet || is_silent { Box::new(Quiet) } else { display(Stream::Stderr, choice, None) }
}

/// The name with its tag, in docker's short form; as typed when it is no name.
fn familiar(image: &str) -> String {
    Reference::parse(image).map_or_else(|_| image.to_owned(), |reference| reference.familiar())
}

fn display(stream: Stream, choice: ProgressMode, first: Option<String>) -> Box<dyn Progress> {
    let is_terminal = || match stream {
        Stream::Stdout => hull_kernel::terminal::is_terminal(io::stdout()),
        Stream::Stderr => hull_kernel::terminal::is_terminal(io::stderr()),
    };
    match choice {
        ProgressMode::Json => Box::new(Json { stream, last: Mutex::default() }),
        ProgressMode::Tty => Box::new(Bars::new(stream, first)),
        ProgressMode::Auto if is_terminal() => Box::new(Bars::new(stream, first)),
        ProgressMode::Auto | ProgressMode::Plain => Box::new(Lines::new(stream, first)),
    }
}

impl Stream {
    /// A display that cannot be written to must not end the work.
    fn write(self, text: &str) {
        let _ = match self {
            Stream::Stdout => io::stdout().write_all(text.as_bytes()),
            Stream::Stderr => io::stderr().write_all(text.as_bytes()),
        };
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shows warnings only.
struct Quiet;

impl Progress for Quiet {
    fn layer(&self, _blob: &Digest, _event: LayerEvent) {}

    fn warning(&self, message: &str) {
        eprintln!("WARNING: {message}");
    }
}

fn announcement(reference: &Reference) -> String {
    let tag = reference.tag.clone().or_else(|| reference.digest.as_ref().map(Digest::to_string)).unwrap_or_default();
    let whole = reference.familiar();
    let name = whole.split('@').next().unwrap_or(&whole);
    let name = name.strip_suffix(&format!(":{tag}")).unwrap_or(name);
    let repository = if reference.registry == "docker.io" { &reference.repository } else { name };
    format!("{tag}: Pulling from {repository}")
}

fn short(digest: &Digest) -> &str {
    digest.hex().get(..12).unwrap_or(digest.hex())
}

/// What an event means, in docker's words, and how far it is in bytes where it has a measure.
fn words(event: &LayerEvent) -> (String, Option<(u64, u64)>) {
    let text = match event {
        LayerEvent::Pulling => "Pulling fs layer",
        LayerEvent::Exists => "Already exists",
        LayerEvent::Retrying { attempt, cause } => return (format!("Retrying, attempt {attempt} ({cause})"), None),
        LayerEvent::Verifying => "Verifying Checksum",
        LayerEvent::Downloaded => "Download complete",
        LayerEvent::Unpacking => "Extracting",
        LayerEvent::Done => "Pull complete",
        LayerEvent::Preparing => "Preparing",
        LayerEvent::Pushed => "Pushed",
        LayerEvent::Known => "Layer already exists",
        LayerEvent::Mounted { from } => return (format!("Mounted from {from}"), None),
        LayerEvent::Downloading { .. } => "Downloading",
        LayerEvent::Uploading { .. } => "Pushing",
        LayerEvent::Loading { .. } => "Loading layer",
        LayerEvent::Saving { .. } => "Saving layer",
    };
    let measure = match event {
        LayerEvent::Downloading { done_bytes, total_bytes }
        | LayerEvent::Uploading { done_bytes, total_bytes }
        | LayerEvent::Loading { done_bytes, total_bytes }
        | LayerEvent::Saving { done_bytes, total_bytes } => Some((*done_bytes, *total_bytes)),
        _ => None,
    };
    (text.to_owned(), measure)
}

/// Whether nothing more happens to a layer after an event.
fn is_last(event: &LayerEvent) -> bool {
    use LayerEvent::{Done, Exists, Known, Mounted, Pushed};
    matches!(event, Done | Exists | Known | Mounted { .. } | Pushed)
}

/// One line for each step, as docker writes into a pipe.
struct Lines {
    stream: Stream,
    /// What is said before the first line.
    first: Mutex<Option<String>>,
    /// Layers that were here already: nothing is said of their end.
    existing: Mutex<HashSet<Digest>>,
}

impl Lines {
    fn new(stream: Stream, first: Option<String>) -> Lines {
        Lines { stream, first: Mutex::new(first), existing: Mutex::new(HashSet::new()) }
    }

    fn write(&self, line: &str) {
        let before = lock(&self.first).take().map(|first| first + "\n").unwrap_or_default();
        self.stream.write(&format!("{before}{line}\n"));
    }
}

impl Progress for Lines {
    fn resolved(&self, reference: &Reference, _digest: &Digest) {
        self.write(&announcement(reference));
    }

    fn layer(&self, blob: &Digest, event: LayerEvent) {
        {
            let mut existing = lock(&self.existing);
            match event {
                LayerEvent::Exists => drop(existing.insert(blob.clone())),
                LayerEvent::Unpacking => return,
                LayerEvent::Done if existing.contains(blob) => return,
                _ => {}
            }
        }
        if let (text, None) = words(&event) {
            self.write(&format!("{}: {text}", short(blob)));
        }
    }

    fn status(&self, message: &str) {
        self.write(message);
    }

    fn warning(&self, message: &str) {
        eprintln!("WARNING: {message}");
    }
}

/// One JSON object for each step, and for bytes not too often.
struct Json {
    stream: Stream,
    /// When bytes of a layer were last told of.
    last: Mutex<HashMap<Digest, Instant>>,
}

/// A line about a layer.
fn json_line(blob: &Digest, event: &LayerEvent) -> Value {
    let (status, measure) = words(event);
    let detail = measure.map_or_else(|| json!({}), |(current, total)| json!({"current": current, "total": total}));
    json!({"status": status, "progressDetail": detail, "id": short(blob)})
}

impl Json {
    fn write(&self, line: &Value) {
        self.stream.write(&format!("{line}\n"));
    }

    /// Whether it is too soon to tell of more bytes; the last ones are always told.
    fn is_too_soon(&self, blob: &Digest, event: &LayerEvent) -> bool {
        let Some((done, total)) = words(event).1 else { return false };
        let mut last = lock(&self.last);
        let is_soon = last.get(blob).is_some_and(|at| at.elapsed() < JSON_INTERVAL);
        if !is_soon {
            last.insert(blob.clone(), Instant::now());
        }
        is_soon && done < total
    }
}

impl Progress for Json {
    fn resolved(&self, reference: &Reference, _digest: &Digest) {
        let text = announcement(reference);
        let (id, status) = text.split_once(": ").unwrap_or(("", &text));
        self.write(&json!({"status": status, "id": id}));
    }

    fn layer(&self, blob: &Digest, event: LayerEvent) {
        if !self.is_too_soon(blob, &event) {
            self.write(&json_line(blob, &event));
        }
    }

    fn status(&self, message: &str) {
        self.write(&json!({"status": message}));
    }

    fn warning(&self, message: &str) {
        eprintln!("WARNING: {message}");
    }
}

/// A bar for each layer.
struct Bars {
    display: MultiProgress,
    bars: Mutex<HashMap<Digest, ProgressBar>>,
    first: Mutex<Option<String>>,
}

impl Bars {
    fn new(stream: Stream, first: Option<String>) -> Bars {
        let target = match stream {
            Stream::Stdout => ProgressDrawTarget::stdout(),
            Stream::Stderr => ProgressDrawTarget::stderr(),
        };
        Bars {
            display: MultiProgress::with_draw_target(target),
            bars: Mutex::new(HashMap::new()),
            first: Mutex::new(first),
        }
    }

    fn write(&self, line: &str) {
        let first = lock(&self.first).take();
        for line in first.iter().map(String::as_str).chain([line]) {
            // A display that cannot be written to must not end the work.
            let _ = self.display.println(line);
        }
    }
}

/// indicatif checks templates when the program runs; these are constant.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

const MEASURED: &str = "{prefix}: {msg} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
const WORDS: &str = "{prefix}: {msg}";

/// Changes a bar by an event.
fn show(bar: &ProgressBar, event: &LayerEvent) {
    let is_measured = bar.length().is_some_and(|length| bar.position() < length);
    match (words(event), event) {
        // While bytes come, how many is of more interest.
        (_, LayerEvent::Unpacking) if is_measured => {}
        ((text, Some((done, total))), _) => {
            if bar.length() != Some(total) {
                bar.set_length(total);
                bar.set_style(style(MEASURED));
            }
            bar.set_message(text);
            bar.set_position(done);
        }
        ((text, None), event) => {
            bar.set_style(style(WORDS));
            // The layer is unpacked behind its bytes.
            let text = if *event == LayerEvent::Downloaded { "Extracting".to_owned() } else { text };
            if is_last(event) { bar.finish_with_message(text) } else { bar.set_message(text) }
        }
    }
}

impl Progress for Bars {
    fn resolved(&self, reference: &Reference, _digest: &Digest) {
        self.write(&announcement(reference));
    }

    fn layer(&self, blob: &Digest, event: LayerEvent) {
        let mut bars = lock(&self.bars);
        let bar = bars.entry(blob.clone()).or_insert_with(|| {
            let bar = self.display.add(ProgressBar::no_length());
            bar.set_style(style(WORDS));
            bar.set_prefix(short(blob).to_owned());
            bar
        });
        if !bar.is_finished() {
            show(bar, &event);
        }
    }

    fn status(&self, message: &str) {
        self.write(message);
    }

    fn warning(&self, message: &str) {
        self.write(&format!("WARNING: {message}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_s_first_line() {
        for (name, line) in [
            ("debian", "latest: Pulling from library/debian"),
            ("me/x:1", "1: Pulling from me/x"),
            ("127.0.0.1:5000/debian", "latest: Pulling from 127.0.0.1:5000/debian"),
        ] {
            assert_eq!(announcement(&Reference::parse(name).unwrap()), line);
        }
    }

    #[test]
    fn json_lines_are_docker_s() {
        let blob = Digest::sha256_of(b"");
        let line = json_line(&blob, &LayerEvent::Downloading { done_bytes: 1, total_bytes: 2 }).to_string();
        let expected = r#"{"status":"Downloading","progressDetail":{"current":1,"total":2},"id":"e3b0c44298fc"}"#;
        assert_eq!(line.parse::<Value>().unwrap(), expected.parse::<Value>().unwrap());
        let line = json_line(&blob, &LayerEvent::Mounted { from: "library/debian".to_owned() });
        assert_eq!((&line["status"], &line["progressDetail"]), (&json!("Mounted from library/debian"), &json!({})));
    }

    #[test]
    fn json_tells_of_bytes_not_too_often_but_of_the_last() {
        let json = Json { stream: Stream::Stderr, last: Mutex::default() };
        let blob = Digest::sha256_of(b"");
        let at = |done_bytes| LayerEvent::Downloading { done_bytes, total_bytes: 9 };
        lock(&json.last).insert(blob.clone(), Instant::now() + Duration::from_secs(60));
        assert!(json.is_too_soon(&blob, &at(1)) && !json.is_too_soon(&blob, &at(9)));
        assert!(!json.is_too_soon(&blob, &LayerEvent::Done) && !json.is_too_soon(&Digest::sha256_of(b"x"), &at(1)));
    }

    #[test]
    fn bars_follow_bytes_until_the_end() {
        let bar = ProgressBar::hidden();
        bar.unset_length();
        show(&bar, &LayerEvent::Pulling);
        assert_eq!((bar.message().as_str(), bar.length()), ("Pulling fs layer", None));
        show(&bar, &LayerEvent::Downloading { done_bytes: 1, total_bytes: 2 });
        show(&bar, &LayerEvent::Unpacking);
        assert_eq!((bar.message().as_str(), bar.position(), bar.length()), ("Downloading", 1, Some(2)));
        show(&bar, &LayerEvent::Downloading { done_bytes: 2, total_bytes: 2 });
        show(&bar, &LayerEvent::Downloaded);
        assert_eq!(bar.message(), "Extracting");
        show(&bar, &LayerEvent::Done);
        assert!(bar.is_finished() && bar.message() == "Pull complete");
    }
}
