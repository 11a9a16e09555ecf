//! What is shown of a guest's output, and the result.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail};

/// The exit code that the guest's init prints last.
const EXIT_CODE: &str = "lab: exit code ";

/// How the tests of one boot ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Kernel and card.
    pub(crate) name: String,
    pub(crate) result: Result<Passed, String>,
    pub(crate) time: Duration,
}

/// All tests passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) tests: usize,
    /// Of these, the tests that printed that they skipped something.
    pub(crate) skipped: usize,
    /// Of these, the tests that failed beside others, and passed alone.
    pub(crate) again: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, result, time } = self;
        let seconds = time.as_secs();
        match result {
            Ok(Passed { tests, skipped, again }) => {
                write!(f, "ok: {name}: {tests} passed in {seconds} s")?;
                if *again > 0 {
                    write!(f, ", {again} of them only alone")?;
                }
                if *skipped > 0 {
                    write!(f, ", {skipped} of them with something skipped")?;
                }
                Ok(())
            }
            Err(why) => write!(f, "failed: {name}: {why}, after {seconds} s"),
        }
    }
}

/// Prints the results; fails if one does.
pub(crate) fn finish(outcomes: &[Outcome]) -> Result<()> {
    for outcome in outcomes {
        println!("{outcome}");
    }
    let failed = outcomes.iter().filter(|outcome| outcome.result.is_err()).count();
    if failed > 0 || outcomes.is_empty() {
        bail!("{failed} of {} boots failed", outcomes.len());
    }
    Ok(())
}

/// Reads the output of the guest line by line (`tests.sh`).
#[derive(Debug, Default)]
pub(crate) struct Reader {
    passed: usize,
    /// The last test that printed that it skipped something.
    last_skipped: String,
    skipped: usize,
    /// Tests that failed beside others, and ran again alone.
    again: usize,
    failed: Vec<String>,
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
        let ended = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "));
        match ended {
            Some((_, "ok")) => self.passed += 1,
            Some((_, result)) if result.starts_with("FAILED (first") => self.again += 1,
            Some((name, result)) if result.starts_with("FAILED (second") => self.failed.push(name.to_owned()),
            _ => {}
        }
        if let Some((name, _)) = line.split_once(": skipped: ").filter(|(name, _)| *name != self.last_skipped)
        {
            name.clone_into(&mut self.last_skipped);
            self.skipped += 1;
        }
        Some(line)
    }

    /// The result, when the guest has ended.
    pub(crate) fn result(self) -> Result<Passed, String> {
        let Self { passed, skipped, again, failed, exit_code, .. } = self;
        match exit_code.as_deref() {
            Some(_) if !failed.is_empty() => {
                Err(format!("{} of {} failed: {}", failed.len(), passed + failed.len(), failed.join(", ")))
            }
            Some("0") => Ok(Passed { tests: passed, skipped, again }),
            Some("2") => Err("no test has this name".to_owned()),
            Some(code) => Err(format!("the tests ended with exit code {code}")),
            None => Err("the guest ended before the tests did".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Passed, String> {
        let mut reader = Reader::default();
        for line in text.lines() {
            reader.line(line);
        }
        reader.result()
    }

    #[test]
    fn tests_that_pass_and_skip_are_counted() {
        let output =
            "a: skipped: no x\r\na: skipped: no y\ntest a ... ok\ntest b ... ok\r\nlab: exit code 0\n";
        assert_eq!(read(output), Ok(Passed { tests: 2, skipped: 1, again: 0 }));
    }

    #[test]
    fn a_failure_is_named_unless_the_test_passes_alone() {
        // What a failed test printed is there, too: libtest's own line has no exit code.
        let output = "test a ... FAILED (first try, exit code 101)\ntest c ... FAILED (first try, exit code 101)\n\
             test b ... ok\ntest c ... ok\ntest a ... FAILED\ntest a ... FAILED (second try, exit code 101)\n";
        assert_eq!(read(&format!("{output}lab: exit code 123\n")), Err("1 of 3 failed: a".to_owned()));
        let output = "test a ... FAILED (first try, exit code 101)\ntest a ... ok\nlab: exit code 0\n";
        assert_eq!(read(output), Ok(Passed { tests: 1, skipped: 0, again: 1 }));
    }

    #[test]
    fn a_guest_that_dies_and_a_name_that_no_test_has_are_failures() {
        assert!(read("test a ... ok\n").is_err());
        assert!(read("lab: exit code 2\n").unwrap_err().contains("no test"));
        assert!(read("lab: exit code 127\n").is_err());
    }
}
