//! What is shown of a guest's output, and the result.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail};

/// The exit code that the guest's init prints last.
const EXIT_CODE: &str = "lab: exit code ";

/// How the tests of one boot ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Kernel, machine and card.
    pub(crate) name: String,
    pub(crate) tests: Tests,
    /// Why not all of the tests ran.
    pub(crate) broken: Option<String>,
    pub(crate) time: Duration,
}

/// The tests of one boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tests {
    pub(crate) passed: usize,
    /// Of these, those that printed that they skipped something.
    pub(crate) skipped: BTreeSet<String>,
    /// Of these, those that failed beside others, and passed alone.
    pub(crate) alone: BTreeSet<String>,
    pub(crate) failed: BTreeSet<String>,
}

impl Outcome {
    /// What makes it a failure; a test that passes only alone is flaky, and is not excused unless `retry`.
    fn problem(&self, retry: bool) -> Option<String> {
        let Tests { passed, alone, failed, .. } = &self.tests;
        let ran = passed + failed.len();
        let names =
            |tests: &BTreeSet<String>| tests.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let failed =
            (!failed.is_empty()).then(|| format!("{} of {ran} failed: {}", failed.len(), names(failed)));
        let alone = (!retry && !alone.is_empty())
            .then(|| format!("{} of {ran} passed only alone: {}", alone.len(), names(alone)));
        let problems: Vec<String> = [self.broken.clone(), failed, alone].into_iter().flatten().collect();
        (!problems.is_empty()).then(|| problems.join("; "))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, tests, time, .. } = self;
        write!(f, "{name}: {} passed in {} s", tests.passed, time.as_secs())?;
        for (what, tests) in [("only alone", &tests.alone), ("with something skipped", &tests.skipped)] {
            if !tests.is_empty() {
                write!(f, ", {} of them {what}", tests.len())?;
            }
        }
        Ok(())
    }
}

/// Prints the results; fails if one does.
pub(crate) fn finish(outcomes: &[Outcome], retry: bool) -> Result<()> {
    let mut failed = 0;
    for outcome in outcomes {
        match outcome.problem(retry) {
            None => println!("ok: {outcome}"),
            Some(problem) => {
                failed += 1;
                println!("failed: {outcome}: {problem}");
            }
        }
    }
    if failed > 0 || outcomes.is_empty() {
        bail!("{failed} of {} boots failed", outcomes.len());
    }
    Ok(())
}

/// Reads the output of the guest line by line (`tests.sh`).
#[derive(Debug, Default)]
pub(crate) struct Reader {
    tests: Tests,
    /// Tests that failed beside others.
    first: BTreeSet<String>,
    exit_code: Option<String>,
}

impl Reader {
    /// Takes a line; returns what is to be shown of it.
    pub(crate) fn line<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let line = line.trim_end();
        if let Some(code) = line.strip_prefix(EXIT_CODE) {
            self.exit_code = Some(code.to_owned());
            return None;
        }
        match line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            Some((name, "ok")) => {
                self.tests.passed += 1;
                self.tests.alone.extend(self.first.take(name));
            }
            Some((name, result)) if result.starts_with("FAILED (first") => {
                self.first.insert(name.to_owned());
            }
            Some((name, result)) if result.starts_with("FAILED (second") => {
                self.first.remove(name);
                self.tests.failed.insert(name.to_owned());
            }
            _ => {}
        }
        if let Some((name, _)) = line.split_once(": skipped: ") {
            self.tests.skipped.insert(name.to_owned());
        }
        Some(line)
    }

    /// The tests, and why not all of them ran, when the guest has ended.
    pub(crate) fn end(mut self) -> (Tests, Option<String>) {
        // Those that did not get their second try.
        self.tests.failed.append(&mut self.first);
        let broken = match self.exit_code.as_deref() {
            Some("0") => None,
            // xargs: a test failed.
            Some(_) if !self.tests.failed.is_empty() => None,
            Some("2") => Some("no test has this name".to_owned()),
            Some(code) => Some(format!("the tests ended with exit code {code}")),
            None => Some("the guest ended before the tests did".to_owned()),
        };
        (self.tests, broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Outcome {
        let mut reader = Reader::default();
        for line in text.lines() {
            reader.line(line);
        }
        let (tests, broken) = reader.end();
        Outcome { name: "x".to_owned(), tests, broken, time: Duration::from_secs(9) }
    }

    #[test]
    fn tests_that_pass_and_skip_are_counted() {
        let outcome =
            read("a: skipped: no x\r\na: skipped: no y\ntest a ... ok\ntest b ... ok\r\nlab: exit code 0\n");
        assert_eq!(outcome.problem(false), None);
        assert_eq!(outcome.to_string(), "x: 2 passed in 9 s, 1 of them with something skipped");
        assert!(outcome.tests.skipped.contains("a"));
    }

    #[test]
    fn what_fails_is_named_also_when_it_passes_alone() {
        // What a failed test printed is there, too: libtest's own line has no exit code.
        let output = "test a ... FAILED (first try, exit code 101)\ntest c ... FAILED (first try, exit code 101)\n\
             test b ... ok\ntest c ... ok\ntest a ... FAILED\ntest a ... FAILED (second try, exit code 101)\n";
        let outcome = read(&format!("{output}lab: exit code 123\n"));
        assert_eq!(outcome.problem(false).unwrap(), "1 of 3 failed: a; 1 of 3 passed only alone: c");
        assert_eq!(outcome.problem(true).unwrap(), "1 of 3 failed: a");
        let outcome = read("test a ... FAILED (first try, exit code 101)\ntest a ... ok\nlab: exit code 0\n");
        assert_eq!(outcome.problem(false).unwrap(), "1 of 1 passed only alone: a");
        assert_eq!(outcome.problem(true), None);
        assert_eq!(outcome.to_string(), "x: 1 passed in 9 s, 1 of them only alone");
    }

    #[test]
    fn a_guest_that_dies_and_a_name_that_no_test_has_are_failures() {
        let died =
            read("test a ... ok\ntest b ... FAILED (first try, exit code 101)\n").problem(true).unwrap();
        assert_eq!(died, "the guest ended before the tests did; 1 of 2 failed: b");
        assert!(read("lab: exit code 2\n").problem(true).unwrap().contains("no test"));
        assert!(read("lab: exit code 127\n").problem(true).is_some());
    }
}
