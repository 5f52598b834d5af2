//! How many tests a lane ran: read from the summaries that the runners print.
//!
//! Two runners are known: libtest (`test result: ok. 3 passed; 0 failed; ...`, once per program) and cargo-nextest
//! (`Summary [...] 12 tests run: 11 passed, 1 failed, 0 skipped`). Ignored and skipped
//! tests are not counted, and neither is an indented summary of libtest: that is the output of a failed test.

use std::fmt;
use std::iter::Sum;
use std::ops::Add;

/// Tests that passed and tests that did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed in any way: an assertion, a time limit, a crash.
    pub failed: u64,
}

impl Add for Count {
    type Output = Count;

    fn add(self, other: Count) -> Count {
        Count { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} passed, {} failed", self.passed, self.failed)
    }
}

impl Sum for Count {
    fn sum<I: Iterator<Item = Count>>(counts: I) -> Count {
        counts.fold(Count::default(), Count::add)
    }
}

impl Count {
    /// Adds up every summary line in what a lane printed.
    pub fn read(log: &str) -> Count {
        log.lines().filter_map(|line| libtest(line).or_else(|| nextest(line))).sum()
    }
}

fn libtest(line: &str) -> Option<Count> {
    let rest = line.strip_prefix("test result: ")?;
    let words: Vec<&str> = rest.split([' ', ';']).filter(|word| !word.is_empty()).collect();
    Some(Count { passed: before(&words, "passed")?, failed: before(&words, "failed")? })
}

fn nextest(line: &str) -> Option<Count> {
    let rest = line.trim_start().strip_prefix("Summary [")?;
    let (_, counts) = rest.split_once("tests run: ").or_else(|| rest.split_once("test run: "))?;
    let words: Vec<&str> = counts.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let failed = before(&words, "failed").unwrap_or(0) + before(&words, "timed").unwrap_or(0);
    let broken = before(&words, "exec").unwrap_or(0);
    Some(Count { passed: before(&words, "passed").unwrap_or(0), failed: failed + broken })
}

/// The number that stands before `word`.
fn before(words: &[&str], word: &str) -> Option<u64> {
    words.windows(2).find(|pair| pair[1] == word).and_then(|pair| pair[0].parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_both_runners() {
        let log = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.0s\n\
                   noise 7 passed\n    test result: ok. 5 passed; 0 failed\n\
                   test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n\
                   \x20    Summary [   0.021s] 12 tests run: 10 passed (1 slow), 1 failed, 1 timed out, 2 skipped\n\
                   \x20    Summary [   0.021s] 1 test run: 1 passed, 0 skipped\n";
        assert_eq!(Count::read(log), Count { passed: 16, failed: 3 });
    }

    #[test]
    fn finds_nothing_in_other_words() {
        assert_eq!(Count::read("error: could not compile\n5 passed\n"), Count::default());
    }
}
