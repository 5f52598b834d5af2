//! How an image's arrival is shown: bars on a terminal, docker's lines elsewhere, nothing when asked.
//!
//! Events come from several threads; each kind of display keeps what it needs behind one lock and draws in
//! the thread that brings the event, so that no thread of its own is alive when the image is there.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use hull_image::{LayerEvent, Progress};
use hull_oci::{Digest, Reference};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where the display goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    /// The command's own output (`pull`).
    Stdout,
    /// Beside the output of a container (`run`).
    Stderr,
}

/// The display for an image that `run` or `create` may have to pull.
pub fn for_create(image: &str, quiet: bool) -> Box<dyn Progress> {
    if quiet {
        return Box::new(Quiet);
    }
    let missing = Some(format!("Unable to find image '{}' locally", familiar(image)));
    display(Stream::Stderr, missing)
}

/// The display for `pull`.
pub fn for_pull(quiet: bool) -> Box<dyn Progress> {
    if quiet { Box::new(Quiet) } else { display(Stream::Stdout, None) }
}

/// The display for `load`: bars on a terminal, and nothing but the result elsewhere.
pub fn for_load(quiet: bool) -> Box<dyn Progress> {
    if quiet || !hull_kernel::terminal::is_terminal(io::stderr()) {
        return Box::new(Quiet);
    }
    display(Stream::Stderr, None)
}

/// The name with its tag, in docker's short form; as typed when it is no name.
fn familiar(image: &str) -> String {
    Reference::parse(image).map_or_else(|_| image.to_owned(), |reference| reference.familiar())
}

fn display(stream: Stream, first: Option<String>) -> Box<dyn Progress> {
    let is_terminal = match stream {
        Stream::Stdout => hull_kernel::terminal::is_terminal(io::stdout()),
        Stream::Stderr => hull_kernel::terminal::is_terminal(io::stderr()),
    };
    if is_terminal { Box::new(Bars::new(stream, first)) } else { Box::new(Lines::new(stream, first)) }
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

/// What a line or bar says about an event; nothing for steps too small for a line.
fn words(event: &LayerEvent) -> Option<String> {
    Some(match event {
        LayerEvent::Pulling => "Pulling fs layer".to_owned(),
        LayerEvent::Exists => "Already exists".to_owned(),
        LayerEvent::Retrying { attempt, cause } => format!("Retrying, attempt {attempt} ({cause})"),
        LayerEvent::Verifying => "Verifying Checksum".to_owned(),
        LayerEvent::Downloaded => "Download complete".to_owned(),
        LayerEvent::Done => "Pull complete".to_owned(),
        LayerEvent::Downloading { .. } | LayerEvent::Unpacking => return None,
    })
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
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let before = first.take().map(|first| first + "\n").unwrap_or_default();
        let text = format!("{before}{line}\n");
        // A display that cannot be written to must not end the pull.
        let _ = match self.stream {
            Stream::Stdout => io::stdout().write_all(text.as_bytes()),
            Stream::Stderr => io::stderr().write_all(text.as_bytes()),
        };
    }
}

impl Progress for Lines {
    fn resolved(&self, reference: &Reference, _digest: &Digest) {
        self.write(&announcement(reference));
    }

    fn layer(&self, blob: &Digest, event: LayerEvent) {
        {
            let mut existing = self.existing.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                LayerEvent::Exists => drop(existing.insert(blob.clone())),
                LayerEvent::Done if existing.contains(blob) => return,
                _ => {}
            }
        }
        if let Some(words) = words(&event) {
            self.write(&format!("{}: {words}", short(blob)));
        }
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
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        for line in first.iter().map(String::as_str).chain([line]) {
            // A display that cannot be written to must not end the pull.
            let _ = self.display.println(line);
        }
    }
}

/// A bar for bytes. indicatif checks templates when the program runs; these two are constant.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

impl Progress for Bars {
    fn resolved(&self, reference: &Reference, _digest: &Digest) {
        self.write(&announcement(reference));
    }

    fn layer(&self, blob: &Digest, event: LayerEvent) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(blob.clone()).or_insert_with(|| {
            let bar = self.display.add(ProgressBar::no_length());
            bar.set_style(style("{prefix}: {msg}"));
            bar.set_prefix(short(blob).to_owned());
            bar
        });
        if bar.is_finished() {
            return;
        }
        match event {
            LayerEvent::Downloading { done_bytes, total_bytes } => {
                if bar.length().is_none() {
                    bar.set_style(style("{prefix}: Downloading [{bar:40}] {decimal_bytes}/{decimal_total_bytes}"));
                    bar.set_length(total_bytes);
                }
                bar.set_position(done_bytes);
            }
            LayerEvent::Unpacking => {
                bar.set_style(style("{prefix}: {msg}"));
                bar.set_message("Extracting");
            }
            event @ (LayerEvent::Done | LayerEvent::Exists) => {
                bar.set_style(style("{prefix}: {msg}"));
                bar.finish_with_message(words(&event).unwrap_or_default());
            }
            event => {
                bar.set_style(style("{prefix}: {msg}"));
                bar.set_message(words(&event).unwrap_or_default());
            }
        }
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
}
