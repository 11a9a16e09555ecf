//! `cargo xtask layers`: checks the dependencies between crates against a table.

mod cycles;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cargo;

/// The workspace crates that each crate may depend on (DESIGN: where things live). The row of a crate is above those of its
/// dependencies.
const ALLOWED: &[(&str, &[&str])] = &[
    ("mcr-wire", &[]),
    ("mcr-rules", &[]),
    ("mcr-sys", &[]),
    ("mcr-link", &["mcr-rules", "mcr-sys", "mcr-wire"]),
    ("mcr-control", &["mcr-rules"]),
    ("mcr-worker", &["mcr-wire", "mcr-rules", "mcr-link", "mcr-sys"]),
    ("mcr-supervisor", &["mcr-control", "mcr-link", "mcr-rules", "mcr-sys", "mcr-wire"]),
    ("mcrd", &["mcr-supervisor", "mcr-worker", "mcr-control", "mcr-link", "mcr-rules", "mcr-sys"]),
    ("mcrctl", &["mcr-control", "mcr-rules"]),
    ("mcrgen", &["mcr-sys"]),
    ("mcr-manual", &[]),
    ("mcr-testnet", &["mcr-sys"]),
    ("xtask", &["mcr-testnet", "mcr-sys"]),
    ("integration-tests", &[]),
];

/// Additional dependencies of tests.
const ALLOWED_IN_TESTS: &[&str] =
    &["mcr-testnet", "mcr-manual", "mcr-sys", "mcr-rules", "mcr-control", "mcr-link", "mcr-wire"];

/// Packages that a crate must not depend on, even indirectly, and why.
const BANNED: &[(&str, &str, &str)] = &[
    ("mcr-worker", "tokio", "the data plane is one loop over its ring"),
    ("mcr-worker", "mcr-supervisor", "workers outlive the supervisor and share only mcr-link with it"),
    ("mcr-supervisor", "mcr-worker", "the privileged process must not contain the code that reads frames"),
    ("mcrgen", "mcr-worker", "an oracle must not share code with what it checks"),
];

/// The only module of a crate that another crate may use, and why.
const ONE_MODULE: &[(&str, &str, &str, &str)] =
    &[("mcr-supervisor", "mcr_wire", "membership", "the privileged process must not read frames")];

/// The only crate with unsafe code.
const UNSAFE: &str = "mcr-sys";
const FORBID_UNSAFE: &str = "unsafe_code = \"forbid\"";
const INHERITS_LINTS: &str = "[lints]\nworkspace = true\n";
/// The feature of that crate that only [`TEST_CRATES`] may enable (decision 019).
const TEST_FEATURE: &str = "test-env";
const TEST_CRATES: &[&str] = &["mcr-testnet", "integration-tests"];

pub(crate) fn run() -> Result<()> {
    let metadata = cargo::metadata(true)?;
    let mut faults = check(&metadata);
    faults.extend(check_unsafe(&metadata, |path| std::fs::read_to_string(path).unwrap_or_default()));
    faults.extend(check_cycles(&metadata)?);
    faults.extend(check_modules(&metadata)?);
    if !faults.is_empty() {
        bail!("layers violated:\n  {}", faults.join("\n  "));
    }
    eprintln!(
        "layers: {} crates, all dependencies point one way, unsafe code is in {UNSAFE} only",
        ALLOWED.len()
    );
    Ok(())
}

/// All faults of the dependency graph in `cargo metadata`.
fn check(metadata: &Value) -> Vec<String> {
    let packages = workspace_packages(metadata);
    let names: BTreeSet<&str> = packages.iter().map(|package| text(package, "name")).collect();
    let mut faults = Vec::new();
    for package in &packages {
        let name = text(package, "name");
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
            faults.push(format!("{name} is not in the table of xtask/src/layers.rs"));
            continue;
        };
        for dependency in list(package, "dependencies") {
            let used = text(dependency, "name");
            let in_tests = dependency["kind"] == "dev";
            let fine = allowed.contains(&used) || (in_tests && ALLOWED_IN_TESTS.contains(&used));
            if names.contains(used) && !fine {
                faults.push(format!("{name} must not depend on {used}"));
            }
        }
    }
    let graph = graph(metadata);
    for (name, banned, reason) in BANNED {
        if below(&graph, name).contains(banned) {
            faults.push(format!("{name} must not depend on {banned}: {reason}"));
        }
    }
    faults
}

/// Crates that don't forbid unsafe code, that enable the test kit's, or whose lints otherwise differ from the workspace's.
fn check_unsafe(metadata: &Value, read: impl Fn(&Path) -> String) -> Vec<String> {
    let root = read(&Path::new(text(metadata, "workspace_root")).join("Cargo.toml"));
    let (forbid, shared): (Vec<&str>, Vec<&str>) =
        lints(&root).into_iter().partition(|lint| *lint == FORBID_UNSAFE);
    let mut faults = Vec::new();
    if forbid.is_empty() {
        faults.push(format!("the workspace's lints lack {FORBID_UNSAFE}"));
    }
    for package in workspace_packages(metadata) {
        let name = text(package, "name");
        let manifest = read(Path::new(text(package, "manifest_path")));
        if name == UNSAFE && lints(&manifest) != shared {
            faults
                .push(format!("{name}: the lints differ from the workspace's in more than {FORBID_UNSAFE}"));
        }
        if name != UNSAFE && !manifest.contains(INHERITS_LINTS) {
            faults.push(format!(
                "{name} does not inherit the workspace's lints, and with them {FORBID_UNSAFE}"
            ));
        }
        let enabled = list(package, "dependencies").flat_map(|used| list(used, "features"));
        if !TEST_CRATES.contains(&name) && enabled.into_iter().any(|feature| feature == TEST_FEATURE) {
            faults.push(format!("{name} must not enable {TEST_FEATURE}"));
        }
    }
    faults
}

/// The entries of a manifest's lint tables.
fn lints(manifest: &str) -> Vec<&str> {
    let mut inside = false;
    let mut entries = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.contains("lints.");
        } else if inside && line.contains('=') {
            entries.push(line.trim());
        }
    }
    entries
}

/// Uses of modules that [`ONE_MODULE`] does not permit.
fn check_modules(metadata: &Value) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for (name, used, module, reason) in ONE_MODULE {
        for package in
            workspace_packages(metadata).into_iter().filter(|package| text(package, "name") == *name)
        {
            let root = Path::new(text(package, "manifest_path")).with_file_name("src");
            for file in rust_files(&root)? {
                if uses_other_module(&std::fs::read_to_string(&file)?, used, module) {
                    faults.push(format!("{} must use {used}::{module} only: {reason}", file.display()));
                }
            }
        }
    }
    Ok(faults)
}

fn uses_other_module(source: &str, used: &str, module: &str) -> bool {
    source.split(&format!("{used}::")).skip(1).any(|path| !path.starts_with(&format!("{module}::")))
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// All import cycles within a crate.
fn check_cycles(metadata: &Value) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for package in workspace_packages(metadata) {
        let name = text(package, "name");
        let is_product = |target: &&Value| list(target, "kind").any(|kind| kind == "lib" || kind == "bin");
        let sources: BTreeSet<&Path> = list(package, "targets")
            .filter(is_product)
            .filter_map(|target| Path::new(text(target, "src_path")).parent())
            .collect();
        for directory in sources {
            faults.extend(cycles::find(directory)?.into_iter().map(|cycle| {
                let modules: Vec<String> = cycle.into_iter().collect();
                format!("{name}: import cycle between modules: {}", modules.join(", "))
            }));
        }
    }
    Ok(faults)
}

fn workspace_packages(metadata: &Value) -> Vec<&Value> {
    let members: BTreeSet<&str> = list(metadata, "workspace_members").filter_map(Value::as_str).collect();
    list(metadata, "packages").filter(|package| members.contains(text(package, "id"))).collect()
}

/// The dependencies of each package, without those of tests.
fn graph(metadata: &Value) -> BTreeMap<&str, BTreeSet<&str>> {
    let names: BTreeMap<&str, &str> =
        list(metadata, "packages").map(|package| (text(package, "id"), text(package, "name"))).collect();
    let mut graph: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for node in list(&metadata["resolve"], "nodes") {
        let used = list(node, "deps")
            .filter(|used| list(used, "dep_kinds").any(|kind| kind["kind"] != "dev"))
            .filter_map(|used| names.get(text(used, "pkg")).copied());
        if let Some(name) = names.get(text(node, "id")) {
            graph.entry(name).or_default().extend(used);
        }
    }
    graph
}

fn below<'a>(graph: &BTreeMap<&'a str, BTreeSet<&'a str>>, name: &str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open = vec![name];
    while let Some(name) = open.pop() {
        for used in graph.get(name).into_iter().flatten() {
            if seen.insert(*used) {
                open.push(used);
            }
        }
    }
    seen
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, dependencies: &[(&str, Value)]) -> Value {
        let dependencies: Vec<_> =
            dependencies.iter().map(|(name, kind)| json!({"name": name, "kind": kind})).collect();
        json!({"id": name, "name": name, "dependencies": dependencies, "manifest_path": format!("{name}.toml")})
    }

    fn node(name: &str, used: &[&str]) -> Value {
        let used: Vec<_> =
            used.iter().map(|name| json!({"pkg": name, "dep_kinds": [{"kind": null}]})).collect();
        json!({"id": name, "deps": used})
    }

    fn metadata(packages: &[Value], nodes: &[Value]) -> Value {
        let members: Vec<_> = packages.iter().map(|package| package["id"].clone()).collect();
        json!({"workspace_members": members, "packages": packages, "resolve": {"nodes": nodes}})
    }

    #[test]
    fn this_workspace_keeps_its_layers() {
        run().unwrap();
    }

    #[test]
    fn an_upward_dependency_is_found_but_not_in_tests() {
        let packages = |kind| {
            [
                package("mcr-link", &[("mcr-testnet", kind), ("serde", Value::Null)]),
                package("mcr-testnet", &[]),
            ]
        };
        assert_eq!(
            check(&metadata(&packages(Value::Null), &[])),
            ["mcr-link must not depend on mcr-testnet"]
        );
        assert!(check(&metadata(&packages(json!("dev")), &[])).is_empty());
    }

    #[test]
    fn a_crate_that_is_not_in_the_table_is_found() {
        let faults = check(&metadata(&[package("mcr-util", &[])], &[]));
        assert_eq!(faults, ["mcr-util is not in the table of xtask/src/layers.rs"]);
    }

    #[test]
    fn a_banned_package_is_found_at_any_depth() {
        let mut metadata = metadata(
            &[package("mcr-worker", &[])],
            &[node("mcr-worker", &["something"]), node("something", &["tokio"])],
        );
        for name in ["something", "tokio"] {
            metadata["packages"].as_array_mut().unwrap().push(package(name, &[]));
        }
        let faults = check(&metadata);
        assert!(faults.len() == 1 && faults[0].contains("tokio"), "{faults:?}");
    }

    #[test]
    fn another_module_than_the_permitted_one_is_found() {
        let uses = |source| uses_other_module(source, "mcr_wire", "membership");
        assert!(!uses("use mcr_wire::membership::Message;\nuse mcr_sys::poll;"));
        assert!(uses("use mcr_wire::membership::Message;\nuse mcr_wire::parse_frame;"));
        assert!(uses("use mcr_wire::{membership, udp};"));
    }

    #[test]
    fn unsafe_code_must_be_forbidden_everywhere_but_in_one_crate() {
        let mut with_feature = package("mcr-worker", &[("mcr-sys", Value::Null)]);
        with_feature["dependencies"][0]["features"] = json!([TEST_FEATURE]);
        let packages =
            [package("mcr-wire", &[]), package("mcr-sys", &[]), package("mcr-link", &[]), with_feature];
        let mut metadata = metadata(&packages, &[]);
        metadata["workspace_root"] = "root".into();
        let faults = |root: &str, sys: &str| {
            check_unsafe(&metadata, |path| match path.to_str().unwrap() {
                "root/Cargo.toml" => format!("[workspace.lints.rust]\n{root}\n[profile.dev]\nx = 1\n"),
                "mcr-sys.toml" => format!("[lints.rust]\n{sys}\n"),
                "mcr-wire.toml" => "[package]\n".to_owned(),
                _ => format!("[package]\n{INHERITS_LINTS}"),
            })
        };
        let both = format!("missing_docs = \"warn\"\n{FORBID_UNSAFE}");
        let found = faults(&both, "missing_docs = \"warn\"");
        assert!(found.len() == 2 && found[0].starts_with("mcr-wire does not"), "{found:?}");
        assert!(found[1].starts_with("mcr-worker must not enable"), "{found:?}");
        assert_eq!(faults(&both, "").len(), 3);
        assert_eq!(faults("missing_docs = \"warn\"", "missing_docs = \"warn\"").len(), 3);
    }
}
