//! One program's results in the Test Anything Protocol (<https://testanything.org>), read to one verdict.
//!
//! A program passes when it exits with 0, prints as many results as its plans say, and none is `not ok`. A result marked
//! TODO may be `not ok`; a skipped one is `ok`. Indented lines belong to the result above.
//!
//! Some programs of the suite print no result at all. Those of the hooks report what is wrong as a block with an `error`
//! and end with an empty plan; those that want a create to be refused exit with 0 after having said that it was. They
//! pass when they came that far without such a block.

/// What a program said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// Results that are good, skipped ones too.
    pub good: usize,
    /// The descriptions of those that are not.
    pub bad: Vec<String>,
    /// How many there should be, when the program said so; of several documents together.
    pub planned: Option<usize>,
    /// The first error of a block that belongs to no result.
    pub error: Option<String>,
    /// Whether a create was refused.
    pub refused: bool,
}

/// What the suite says when a create fails.
const REFUSED: &str = "failed to create the container";

impl Results {
    /// Reads all result lines.
    pub fn read(text: &str) -> Results {
        let mut results = Results::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("not ok") {
                match rest.contains("# TODO") {
                    true => results.good += 1,
                    false => results.bad.push(rest.trim().to_string()),
                }
            } else if line == "ok" || line.starts_with("ok ") {
                results.good += 1;
            } else if let Some(number) = line.strip_prefix("1..").and_then(|number| number.trim().parse::<usize>().ok())
            {
                results.planned = Some(results.planned.unwrap_or(0) + number);
            } else if let Some(error) = line.trim_start().strip_prefix("\"error\": ")
                && results.is_empty()
            {
                results.error.get_or_insert_with(|| error.to_string());
            }
            results.refused |= line == REFUSED;
        }
        results
    }

    fn is_empty(&self) -> bool {
        self.good == 0 && self.bad.is_empty()
    }

    /// Why the program did not pass; nothing when it did.
    pub fn complaint(&self, exited_well: bool) -> Option<String> {
        let found = self.good + self.bad.len();
        if let Some(first) = self.bad.first() {
            return Some(format!("{} of {found} not ok, first: {first}", self.bad.len()));
        }
        if !exited_well {
            return Some(format!("failed after {found} results"));
        }
        match self.planned {
            Some(planned) if planned != found => Some(format!("{found} results of {planned}")),
            None if self.is_empty() && !self.refused => Some("no result and no plan".into()),
            _ => self.error.clone().filter(|_| self.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_passes_only_whole() {
        let complaint = |text: &str| Results::read(text).complaint(true);
        assert_eq!(complaint("TAP version 13\n1..2\nok 1 - a\n  ---\n  not ok here\n  ...\nok 2 # SKIP b\n"), None);
        assert_eq!(complaint("ok 1 - a\nnot ok 2 # TODO b\n1..2\n"), None);
        assert_eq!(complaint("1..2\nok 1 - a\n").unwrap(), "1 results of 2");
        assert_eq!(complaint("ok 1 - a\nnot ok 2 - b\n").unwrap(), "1 of 2 not ok, first: 2 - b");
        assert_eq!(complaint("ok 1 - a\n1..1\nTAP version 13\n1..0\n"), None, "two documents");
        assert_eq!(Results::read("ok 1 - a\n").complaint(false).unwrap(), "failed after 1 results");
    }

    #[test]
    fn a_program_without_results_passes_when_it_reports_no_error() {
        let error = "TAP version 13\n  ---\n  {\n    \"error\": \"no hook\"\n  }\n  ...\n1..0\n";
        assert_eq!(Results::read(error).complaint(true).unwrap(), "\"no hook\"");
        assert_eq!(Results::read("TAP version 13\n1..0\n").complaint(true), None);
        assert_eq!(Results::read("failed to create the container\nno\n").complaint(true), None);
        assert!(Results::read("TAP version 13\ntar: no such file\n").complaint(true).is_some());
        assert!(Results::read("").complaint(false).is_some());
        let after = "not ok 1 - a\n  ---\n    \"error\": \"x\"\nok 2 - b\n";
        assert_eq!(Results::read(after).error, None, "it belongs to the result");
    }
}
