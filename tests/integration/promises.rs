//! A promise without a test is a wish: what SPECIFICATION.md and SECURITY.md name as tests must exist.

use std::{
    fs,
    path::{Path, PathBuf},
};

const DOCUMENTS: [&str; 2] = ["SPECIFICATION.md", "SECURITY.md"];

/// Where the path of a test begins, below the project's root.
fn roots(project: &Path) -> Vec<PathBuf> {
    let mut roots = vec![project.join("tests/integration")];
    for entry in fs::read_dir(project.join("crates")).expect("crates/") {
        let entry = entry.expect("an entry of crates/").path();
        roots.push(entry.join("src"));
        roots.push(entry.join("tests"));
    }
    roots
}

/// True for `module::function`, also with `*` for a part of the last name.
fn is_path_of_a_test(text: &str) -> bool {
    text.contains("::")
        && text.split("::").all(|part| {
            !part.is_empty()
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_*".contains(c))
        })
}

/// Follows `path` through files and directories; the last name may be a function, or a macro's argument.
fn exists_below(root: &Path, path: &str) -> bool {
    let (mut directory, mut file) = (root.to_path_buf(), None);
    let mut parts = path.split("::").peekable();
    while let Some(part) = parts.next() {
        let module = directory.join(format!("{part}.rs"));
        let module = if module.exists() { module } else { directory.join(part).join("mod.rs") };
        if module.exists() {
            directory.push(part);
            file = Some(module);
            continue;
        }
        let Some(file) = &file else { return false };
        let text = fs::read_to_string(file).expect("a source file");
        return parts.peek().is_none() && names_a_test(&text, part);
    }
    file.is_some()
}

/// True if a function, or a test made by a macro, of this name is in `source`; `*` stands for any letters.
fn names_a_test(source: &str, name: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    source.split(|c: char| !is_letter(c)).any(|word| {
        let mut rest = word;
        let mut pieces = name.split('*');
        let Some(after) = pieces.next().and_then(|first| rest.strip_prefix(first)) else { return false };
        rest = after;
        for piece in pieces {
            let Some(at) = rest.find(piece) else { return false };
            rest = &rest[at + piece.len()..];
        }
        rest.is_empty() || name.ends_with('*')
    })
}

#[test]
fn each_test_that_a_document_names_exists() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the project");
    let roots = roots(project);
    let mut named = 0;
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(project.join(document)).expect(document);
        for (number, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with('|')) {
            for path in line.split('`').skip(1).step_by(2).filter(|text| is_path_of_a_test(text)) {
                named += 1;
                if !roots.iter().any(|root| exists_below(root, path)) {
                    missing.push(format!("{document}:{}: no test {path}", number + 1));
                }
            }
        }
    }
    assert!(missing.is_empty(), "expected a test of each name, seen:\n{}", missing.join("\n"));
    assert!(named > 50, "expected the documents to name their tests, seen {named} names");
}

/// True for a command that .ci/run has, with whatever else it says there.
fn is_a_check(ci: &str, text: &str) -> bool {
    let has = |line: &str, word: &str| line.split_whitespace().any(|there| there == word);
    text.starts_with("cargo ") && ci.lines().any(|line| text.split(' ').all(|word| has(line, word)))
}

/// Each attack that SECURITY.md lists is tried by a test, or held off by a check of .ci/run.
#[test]
fn each_row_of_the_threat_table_names_its_test() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the project");
    let ci = fs::read_to_string(project.join(".ci/run")).expect(".ci/run");
    // The binary that `cargo xtask` runs.
    let ci = ci.replace("\"$xtask\"", "cargo xtask");
    let security = fs::read_to_string(project.join("SECURITY.md")).expect("SECURITY.md");
    // The head of a table is followed by a rule.
    let lines = security.lines().zip(security.lines().skip(1));
    let rows = lines.filter(|(line, next)| line.starts_with("| ") && !next.starts_with("|-"));
    let rows: Vec<&str> = rows.map(|(line, _)| line).collect();
    let without: Vec<&&str> = rows
        .iter()
        .filter(|row| {
            let cell = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
            !cell.split('`').skip(1).step_by(2).any(|text| is_path_of_a_test(text) || is_a_check(&ci, text))
        })
        .collect();
    assert!(without.is_empty(), "expected a test in the last cell of each row, seen:\n{without:#?}");
    assert!(rows.len() > 10, "expected the table of threats, seen {} rows", rows.len());
}

#[test]
fn a_name_without_a_test_is_found() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the project");
    let tests = project.join("tests/integration");
    assert!(exists_below(&tests, "promises::a_name_without_a_test_is_found"));
    assert!(exists_below(&tests, "relay::multicast_to_*"));
    assert!(!exists_below(&tests, concat!("promises::a_name_that", "_nobody_has")), "a made-up function");
    assert!(!exists_below(&tests, "no_module::at_all"), "a made-up module");
}
