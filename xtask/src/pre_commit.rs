//! `cargo xtask pre-commit`: checks format, lints, unit tests and the assertions of tests in staged files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, tool};

/// A line with one of these is an assertion.
const ASSERTIONS: [&str; 8] =
    ["assert", "panic!", "expect_", "unwrap_err(", "has_to_", "have_to_", "wait_for", "wait_until"];
/// Set by git for hooks. A test that creates a repository would write to this one instead.
const GIT_VARIABLES: [&str; 5] =
    ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY"];

pub(crate) fn run() -> Result<()> {
    let staged = staged()?;
    let faults = faults(&staged);
    if !faults.is_empty() {
        bail!("tests were weakened:\n  {}", faults.join("\n  "));
    }
    let crates: BTreeSet<&str> =
        staged.iter().filter(|file| file.after.is_some()).filter_map(|file| crate_of(&file.path)).collect();
    if crates.is_empty() {
        return Ok(());
    }
    run_cargo(&["fmt", "--all", "--check"])?;
    let packages: Vec<&str> = crates.iter().flat_map(|name| ["-p", name]).collect();
    run_cargo(&[&["clippy", "--quiet", "--all-targets"], &packages[..], &["--", "-D", "warnings"]].concat())?;
    // Integration tests need the programs and permission to create namespaces: .ci/run runs them.
    let packages: Vec<&str> =
        crates.iter().filter(|name| **name != "integration-tests").flat_map(|name| ["-p", name]).collect();
    if packages.is_empty() {
        return Ok(());
    }
    // `--lib` is an error where none of the packages has a library.
    let has_library = crates.iter().any(|name| Path::new("crates").join(name).join("src/lib.rs").is_file());
    let targets: &[&str] = if has_library { &["--lib", "--bins"] } else { &["--bins"] };
    run_cargo(&[&["test", "--quiet"], targets, &packages[..]].concat())
}

fn run_cargo(arguments: &[&str]) -> Result<()> {
    eprintln!("cargo {}", arguments.join(" "));
    let mut command = cargo::cargo();
    for variable in GIT_VARIABLES {
        command.env_remove(variable);
    }
    let status = command.args(arguments).status().context("start cargo")?;
    if !status.success() {
        bail!("`cargo {}` failed ({status})", arguments.join(" "));
    }
    Ok(())
}

/// The crate of a Rust source.
fn crate_of(path: &str) -> Option<&str> {
    if !path.ends_with(".rs") && !path.ends_with("Cargo.toml") {
        return None;
    }
    let mut parts = path.split('/');
    match parts.next()? {
        "crates" => parts.next(),
        "tests" => Some("integration-tests"),
        "xtask" => Some("xtask"),
        _ => None,
    }
}

/// A staged file, before and after the commit.
struct Staged {
    path: String,
    before: Option<String>,
    after: Option<String>,
}

fn git(arguments: &[&str]) -> Result<String> {
    tool::run(Command::new("git").args(arguments))
}

/// The staged Rust sources and manifests.
fn staged() -> Result<Vec<Staged>> {
    let changes = git(&["diff", "--cached", "--name-status", "--no-renames"])?;
    let mut staged = Vec::new();
    for (state, path) in changes.lines().filter_map(|line| line.split_once('\t')) {
        if crate_of(path).is_none() && !path.ends_with(".rs") {
            continue;
        }
        let show = |place: &str| git(&["show", &format!("{place}:{path}")]);
        let before = if state == "A" { None } else { Some(show("HEAD")?) };
        let after = if state == "D" { None } else { Some(show("")?) };
        staged.push(Staged { path: path.to_owned(), before, after });
    }
    Ok(staged)
}

/// Staged tests that became ignored or lost their assertions. A test may have moved to another file.
fn faults(staged: &[Staged]) -> Vec<String> {
    let before: Vec<BTreeMap<&str, Test>> =
        staged.iter().map(|file| tests(file.before.as_deref().unwrap_or_default())).collect();
    let mut faults = Vec::new();
    for (file, here) in staged.iter().zip(&before) {
        for (name, test) in tests(file.after.as_deref().unwrap_or_default()) {
            let was = here.get(name).or_else(|| before.iter().find_map(|tests| tests.get(name)));
            if test.ignored && !was.is_some_and(|was| was.ignored) {
                faults.push(format!("{}: {name} became ignored", file.path));
            }
            if test.assertions == 0 && was.is_some_and(|was| was.assertions > 0) {
                faults.push(format!("{}: {name} no longer asserts anything", file.path));
            }
        }
    }
    faults
}

struct Test {
    ignored: bool,
    assertions: usize,
}

/// The tests of a formatted source, by name.
fn tests(source: &str) -> BTreeMap<&str, Test> {
    let is_ignore = |line: &str| line.starts_with("#[ignore");
    let mut found = BTreeMap::new();
    let mut ignored_above = false;
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        let text = line.trim_start();
        if text != "#[test]" {
            ignored_above = is_ignore(text) || ignored_above && text.starts_with("#[");
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - text.len()]);
        let mut ignored = std::mem::take(&mut ignored_above);
        let mut name = None;
        for line in lines.by_ref() {
            ignored |= is_ignore(line.trim_start());
            if let Some(rest) = line.trim_start().strip_prefix("fn ") {
                name = rest.split('(').next();
                break;
            }
        }
        let Some(name) = name else { break };
        let body = lines.by_ref().take_while(|line| *line != end);
        let code = body.map(|line| line.split("//").next().unwrap_or_default());
        let assertions = code.filter(|line| ASSERTIONS.iter().any(|word| line.contains(word))).count();
        found.insert(name, Test { ignored, assertions });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str =
        "#[test]\nfn a() {\n    assert_eq!(1, 1);\n}\n\n#[test]\nfn b() {\n    check();\n}\n";

    fn file(path: &str, before: &str, after: &str) -> Staged {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Staged { path: path.to_owned(), before: text(before), after: text(after) }
    }

    #[test]
    fn ignored_tests_and_lost_assertions_are_found() {
        let ignored = BEFORE.replace("fn b", "#[ignore = \"slow\"]\nfn b");
        let none: &[&str] = &[];
        for (before, after, expected) in [
            (BEFORE, BEFORE.to_owned(), none),
            (
                BEFORE,
                BEFORE.replace("    assert", "    let a = 1; // assert"),
                &["f: a no longer asserts anything"],
            ),
            (BEFORE, BEFORE.replace("    assert_eq!(1, 1);\n", ""), &["f: a no longer asserts anything"]),
            (BEFORE, BEFORE.replace("fn b", "#[ignore]\nfn b"), &["f: b became ignored"]),
            (BEFORE, BEFORE.replacen("#[test]", "#[ignore]\n#[test]", 1), &["f: a became ignored"]),
            (&ignored, ignored.clone(), none),
            ("", ignored.clone(), &["f: b became ignored"]),
            (BEFORE, String::new(), none),
        ] {
            assert_eq!(faults(&[file("f", before, &after)]), expected, "{after}");
        }
    }

    #[test]
    fn a_test_that_moves_to_another_file_is_the_same_test() {
        let ignored = BEFORE.replace("fn b", "#[ignore]\nfn b");
        let moved = [file("new", "", &ignored), file("old", &ignored, "")];
        assert_eq!(faults(&moved), Vec::<String>::new());
        let emptied = ignored.replace("    assert_eq!(1, 1);\n", "");
        assert_eq!(
            faults(&[file("new", "", &emptied), file("old", &ignored, "")]),
            ["new: a no longer asserts anything"]
        );
    }

    #[test]
    fn crates_by_path() {
        let crates =
            ["crates/mcrd/src/main.rs", "tests/integration/rate.rs", "xtask/Cargo.toml", "README.md"]
                .map(crate_of);
        assert_eq!(crates, [Some("mcrd"), Some("integration-tests"), Some("xtask"), None]);
    }
}
