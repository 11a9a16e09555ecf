//! The exposition by `prometheus-client` against the one before, on a recorded snapshot.

use std::collections::BTreeMap;
use std::time::Duration;

use super::collector::Scrape;
use super::exposition::Format as OldFormat;
use super::families::Format;
use super::metrics::exposition;
use super::snapshot::Snapshot;

fn recorded() -> Snapshot {
    let json: serde_json::Value = serde_json::from_str(include_str!("recorded.json")).unwrap();
    fn part<T: serde::de::DeserializeOwned>(json: &serde_json::Value, name: &str) -> T {
        serde_json::from_value(json[name].clone()).unwrap()
    }
    Snapshot {
        version: part(&json, "version"),
        rules: part(&json, "rules"),
        stats: part(&json, "stats"),
        flows: part(&json, "flows"),
        workers: part(&json, "workers"),
        memberships: part(&json, "memberships"),
        interfaces: part(&json, "interfaces"),
    }
}

/// Help, type and samples, with their labels in order, by family.
fn families(text: &str) -> BTreeMap<String, (String, String, BTreeMap<String, f64>)> {
    let mut families: BTreeMap<String, (String, String, BTreeMap<String, f64>)> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            name.clone_into(&mut current);
            assert!(families.insert(current.clone(), (help.into(), String::new(), BTreeMap::new())).is_none());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            families.get_mut(&current).unwrap().1 = rest.to_owned();
        } else if !line.starts_with('#') {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
            // One format writes bounds as Go does, 1.6e-05 for 0.000016.
            let bound = |label: &str| Some(label.strip_prefix("le=\"")?.parse::<f64>().ok()?.to_string());
            let labels = labels.trim_end_matches("\"}").split("\",");
            let mut labels: Vec<String> = labels.map(|label| bound(label).unwrap_or_else(|| label.to_owned())).collect();
            labels.sort_unstable();
            let known = &mut families.get_mut(&current).unwrap().2;
            assert!(known.insert(format!("{name} {labels:?}"), value.parse().unwrap()).is_none(), "{line}");
        }
    }
    families
}

#[test]
fn the_same_families_with_the_same_samples() {
    let took = Duration::from_millis(12);
    for (old, new) in
        [(OldFormat::OpenMetrics, Format::OpenMetrics), (OldFormat::Prometheus, Format::Prometheus)]
    {
        let before = families(&exposition(Some(&recorded()), took, old));
        let text = new.encode(Scrape { snapshot: Some(recorded()), took }).unwrap();
        let after = families(&text);
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        let mut samples = 0;
        for (name, (help, kind, values)) in &before {
            let (help_after, kind_after, values_after) = &after[name];
            assert_eq!((help, kind, values), (help_after, kind_after, values_after), "{name}");
            samples += values.len();
        }
        println!("{} families, {samples} samples", before.len());
        assert!(before.len() > 40 && samples > 100);
    }
    for (old, new) in
        [(OldFormat::OpenMetrics, Format::OpenMetrics), (OldFormat::Prometheus, Format::Prometheus)]
    {
        let after = new.encode(Scrape { snapshot: None, took }).unwrap();
        assert_eq!(families(&exposition(None, took, old)), families(&after));
    }
}
