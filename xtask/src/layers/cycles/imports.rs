//! The imports of each module of a crate, from its formatted source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The names from the crate's root to a module; the root's is empty.
pub(super) type ModulePath = Vec<String>;

/// The paths in a module's source, without tests.
#[derive(Debug, Default)]
pub(super) struct Module {
    pub(super) uses: Vec<Vec<String>>,
    /// The paths of `pub use`, by exported name.
    pub(super) exports: BTreeMap<String, Vec<String>>,
}

/// Reads all modules below the directory of a crate's root file.
pub(super) fn read(sources: &Path) -> std::io::Result<BTreeMap<ModulePath, Module>> {
    let mut modules = BTreeMap::new();
    let mut tests = BTreeSet::new();
    let mut open = vec![(sources.to_owned(), ModulePath::new())];
    while let Some((directory, parent)) = open.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            let Some(name) = path.file_stem().and_then(|name| name.to_str()) else { continue };
            let child: ModulePath =
                parent.iter().map(String::as_str).chain([name]).map(str::to_owned).collect();
            if path.is_dir() {
                open.push((path, child));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let is_root = parent.is_empty() && matches!(name, "lib" | "main");
                let module = if is_root { parent.clone() } else { child };
                let source = std::fs::read_to_string(&path)?;
                let (code, test_files) = without_tests(&source);
                tests.extend(test_files.into_iter().map(|name| {
                    module.iter().map(String::as_str).chain([name]).map(str::to_owned).collect::<ModulePath>()
                }));
                add(modules.entry(module).or_default(), &code);
            }
        }
    }
    let is_test = |path: &ModulePath| {
        path.iter().any(|name| name == "tests") || tests.iter().any(|test| path.starts_with(test))
    };
    modules.retain(|path, _| !is_test(path));
    Ok(modules)
}

/// Returns the source without comments and test modules, and the names of test modules that are files.
fn without_tests(source: &str) -> (String, Vec<&str>) {
    let mut code = String::new();
    let mut files = Vec::new();
    let mut for_tests = false;
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        let text = line.split("//").next().unwrap_or_default().trim();
        let module = text.trim_start_matches("pub(crate) ").strip_prefix("mod ");
        if let (true, Some(module)) = (for_tests, module) {
            if let Some(name) = module.strip_suffix(';') {
                files.push(name);
            } else {
                let indentation = &line[..line.len() - line.trim_start().len()];
                lines.by_ref().find(|line| line.strip_prefix(indentation) == Some("}"));
            }
        } else {
            code.push_str(text);
            code.push('\n');
        }
        for_tests = text == "#[cfg(test)]" || for_tests && text.starts_with("#[");
    }
    (code, files)
}

fn add(module: &mut Module, code: &str) {
    let tokens = tokens(code);
    let mut at = 0;
    while at < tokens.len() {
        let before = at.checked_sub(1).map_or("", |before| tokens[before]);
        let is_import = tokens[at] == "use" && matches!(before, "" | ";" | "{" | "}" | "]" | ")" | "pub");
        let is_path = matches!(tokens[at], "crate" | "super" | "self")
            && tokens.get(at + 1) == Some(&"::")
            && before != "::";
        if !is_import && !is_path {
            at += 1;
            continue;
        }
        let mut found = Vec::new();
        at = tree(&tokens, at + usize::from(is_import), &[], &mut found);
        for (path, name) in found {
            if is_import && matches!(before, ")" | "pub") {
                module.exports.insert(name, path.clone());
            }
            module.uses.push(path);
        }
    }
}

/// Splits code into identifiers, `::`, and other single characters.
fn tokens(code: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if is_name(first) {
            rest.find(|c| !is_name(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (token, tail) = rest.split_at(length);
        tokens.push(token);
        rest = tail.trim_start();
    }
    tokens
}

/// Reads a path or a tree of paths, as in `use a::{b, c::d as e}`, and returns where it ends. Each path comes with the name
/// that it is imported as.
fn tree(tokens: &[&str], mut at: usize, prefix: &[String], found: &mut Vec<(Vec<String>, String)>) -> usize {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        if *token == "{" {
            at += 1;
            while tokens.get(at).is_some_and(|token| *token != "}") {
                at = if tokens[at] == "," { at + 1 } else { tree(tokens, at, &path, found).max(at + 1) };
            }
            return at + 1;
        }
        if !token.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '*') {
            break;
        }
        path.push((*token).to_owned());
        at += 1;
        if tokens.get(at) != Some(&"::") {
            break;
        }
        at += 1;
    }
    let mut name = path.last().cloned().unwrap_or_default();
    if tokens.get(at) == Some(&"as") {
        name = tokens.get(at + 1).copied().unwrap_or_default().to_owned();
        at += 2;
    }
    found.push((path, name));
    at
}
