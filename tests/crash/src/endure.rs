//! Real power cuts: this program on a machine that somebody switches off while it works, again and again.
//!
//! ```text
//! crash endure ROOT STATE CONFIGURATION SEED STORY
//!   look, compare with what the console of the last boot said, verify, collect, no leak      WHOLE
//!   FOUND <view>
//!   operations by chance, without end:   OPERATION <operation>   REPORT <report>             <- the cut
//! ```
//!
//! What was told is what stands on the console in whole lines; whoever cuts keeps it and hands it back as STORY (empty
//! the first time). The file system is a real one on a disk that outlives the machine. BROKEN and a reason say that
//! something is not as it must be. The registry is in this process, on the same port in every boot.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::operate::{Operation, Orders, Report, View, step};
use crate::round::{Bed, Start, compare, is_refusal};

/// Where the registry is: images have its address in their names.
const REGISTRY: &str = "127.0.0.1:5000";

/// What the console of a boot told.
#[derive(Debug, Default)]
struct Story {
    found: View,
    operations: Vec<Operation>,
    reports: Vec<Report>,
}

impl Story {
    /// Reads whole lines; a line that was cut short tells nothing.
    fn read(text: &str) -> Result<Option<Story>> {
        let mut story = None;
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let Some((word, rest)) = line.split_once(' ') else { continue };
            match (word, &mut story) {
                ("FOUND", _) => story = Some(Story { found: serde_json::from_str(rest)?, ..Story::default() }),
                ("OPERATION", Some(story)) => story.operations.push(serde_json::from_str(rest)?),
                ("REPORT", Some(story)) => story.reports.push(serde_json::from_str(rest)?),
                _ => {}
            }
        }
        Ok(story)
    }

    /// The operation in which the machine was switched off.
    fn interrupted(&self) -> Option<&Operation> {
        self.operations.get(self.reports.len())
    }

    /// What was told last.
    fn last(&self) -> &View {
        self.reports.iter().rev().find_map(|report| report.view.as_ref()).unwrap_or(&self.found)
    }
}

/// The whole life of such a process; it ends only when something is wrong.
pub fn main(arguments: &[String]) -> Result<()> {
    if let Err(error) = endure(arguments) {
        println!("BROKEN {error:#}");
        return Err(error);
    }
    Ok(())
}

fn endure(arguments: &[String]) -> Result<()> {
    let [root, state, configuration, seed, story] = arguments else { bail!("endure takes five arguments") };
    let archives = PathBuf::from("/tmp/archives");
    let bed = Bed::in_folder(&archives, REGISTRY)?;
    let orders = Orders {
        mount: Path::new(root).to_owned(),
        state: state.into(),
        configuration: configuration.into(),
        operations: Vec::new(),
    };
    let story = Story::read(&fs::read_to_string(story).with_context(|| story.clone())?)?;
    let found = step(&orders, &Operation::Recover).context("looking")?;
    if let Some(story) = &story {
        let start = Start::seen(story.found.clone(), configuration.into());
        compare(story.last(), &found, story.interrupted(), true, &start, &story.operations)
            .with_context(|| format!("after {:?}", story.operations))?;
    }
    for operation in [Operation::Verify, Operation::Prune(false), Operation::Collect, Operation::Leaks] {
        step(&orders, &operation).with_context(|| format!("{operation:?}"))?;
    }
    println!("WHOLE");
    let found = step(&orders, &Operation::Recover)?;
    println!("FOUND {}", serde_json::to_string(&found)?);
    let mut random = fastrand::Rng::with_seed(seed.parse()?);
    loop {
        let operation = bed.operation(&mut random);
        println!("OPERATION {}", serde_json::to_string(&operation)?);
        let report = match step(&orders, &operation) {
            Ok(view) => Report { error: None, view: Some(view) },
            Err(error) if is_refusal(&format!("{error:#}")) => Report { error: Some(format!("{error:#}")), view: None },
            Err(error) => return Err(error.context(format!("{operation:?}"))),
        };
        println!("REPORT {}", serde_json::to_string(&report)?);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_tells_nothing() {
        let view = r#"{"tags":{"a:1":"sha256:1"},"containers":[]}"#;
        let text = format!(
            "WHOLE\nFOUND {{\"tags\":{{}},\"containers\":[]}}\nOPERATION \"Collect\"\nREPORT {{\"error\":null,\"view\":{view}}}\n\
             noise\nOPERATION \"Recover\"\nREPORT {{\"error\":nu"
        );
        let story = Story::read(&text).expect("readable").expect("a story");
        assert_eq!(story.interrupted(), Some(&Operation::Recover));
        assert_eq!(story.last().tags.len(), 1);
        assert!(Story::read("WHOLE\n").expect("readable").is_none());
    }
}
