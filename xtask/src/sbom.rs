//! What the programs are made of, as CycloneDX 1.5 (JSON).

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{cargo, layers};

const PROGRAMS: [&str; 3] = ["mcrd", "mcrctl", "mcrgen"];

/// The packages below the three programs, with licence and checksum.
pub(crate) fn of_the_programs(version: &str) -> Result<String> {
    let lock = std::fs::read_to_string("Cargo.lock").context("read Cargo.lock")?;
    let sbom = sbom(&cargo::metadata(true)?, &lock, version);
    Ok(format!("{}\n", serde_json::to_string_pretty(&sbom)?))
}

fn sbom(metadata: &Value, lock: &str, version: &str) -> Value {
    let graph = layers::graph(metadata);
    let below: BTreeSet<&str> =
        PROGRAMS.into_iter().flat_map(|program| layers::below(&graph, program)).collect();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let components: Vec<Value> = packages
        .filter(|package| package["name"].as_str().is_some_and(|name| below.contains(name)))
        .map(|package| component(package, lock))
        .collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": { "type": "application", "name": "mcr", "version": version } },
        "components": components,
    })
}

fn component(package: &Value, lock: &str) -> Value {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    let (name, version) = (text("name"), text("version"));
    let mut component = json!({
        "type": "library",
        "name": name,
        "version": version,
        "purl": format!("pkg:cargo/{name}@{version}"),
        "licenses": [{ "expression": text("license") }],
    });
    if let Some(checksum) = checksum(lock, name, version) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

/// The registry's checksum; packages of this workspace have none.
fn checksum<'a>(lock: &'a str, name: &str, version: &str) -> Option<&'a str> {
    let head = format!("name = \"{name}\"\nversion = \"{version}\"\n");
    let entry = lock.split("[[package]]\n").find(|entry| entry.starts_with(&head))?;
    entry.lines().find_map(|line| line.strip_prefix("checksum = \"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_what_the_programs_are_made_of_and_no_more() {
        let lock = include_str!("../../Cargo.lock");
        let sbom = sbom(&cargo::metadata(true).unwrap(), lock, "1");
        let components = sbom["components"].as_array().unwrap();
        let of = |name: &str| components.iter().find(|component| component["name"] == name);
        let tokio = of("tokio").unwrap();
        assert_eq!(tokio["licenses"][0]["expression"], "MIT");
        assert_eq!(tokio["hashes"][0]["content"].as_str().unwrap().len(), 64);
        assert!(of("mcr-worker").unwrap()["hashes"].is_null());
        assert!(of("proptest").is_none(), "only tests use it");
    }
}
