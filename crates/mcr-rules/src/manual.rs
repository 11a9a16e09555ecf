//! Tests the manual of the configuration (`user_docs/CONFIGURATION.md`), and generates the manual page from it.

use std::collections::BTreeMap;

use mcr_manual::{Committed, PageTitle, page};
use serde_json::Value;

use crate::file::parse;
use crate::settings::{Form, Settings};

const MANUAL: &str = include_str!("../../../user_docs/CONFIGURATION.md");

/// The lines of a section, up to the next heading.
fn section(heading: &str) -> impl Iterator<Item = &'static str> {
    let begin = MANUAL.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    MANUAL[begin + 1..].lines().skip(1).take_while(|line| !line.starts_with('#'))
}

/// Keys of a section's table, with the cells that follow.
fn rows(heading: &str) -> BTreeMap<&'static str, Vec<&'static str>> {
    let rows = section(heading).filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split_once("` | ").unwrap_or_else(|| panic!("row {row:?}")))
        .map(|(key, cells)| (key, cells.split(" | ").collect()))
        .collect()
}

#[test]
fn the_manual_page_is_up_to_date() {
    let about = "configuration of the multicast relay";
    let title = PageTitle { name: "mcr.json5", section: "5", about };
    let manual: String = MANUAL.split_inclusive('\n').filter(|line| !line.starts_with("<!--")).collect();
    let text = format!(
        "{}\n## See also\n\n`mcrd(8)`, `mcrctl(1)`\n",
        manual.replacen("\n\n", "\n\n## Description\n\n", 1)
    );
    Committed::file("packaging/man/mcr.json5.5", page(title, &text)).assert_current();
}

/// The table of settings is generated.
#[test]
fn the_table_of_settings_is_up_to_date() {
    let mut table = "| key | value | default | meaning |\n|---|---|---|---|\n".to_owned();
    for setting in Settings::TABLE {
        let (name, default) = (setting.name, setting.literal(&Settings::default()));
        let values = match &setting.form {
            Form::Words(words) => {
                words.iter().map(|word| format!("`{word:?}`")).collect::<Vec<_>>().join(", ")
            }
            Form::Number(range) => format!("{}–{}", range.start(), range.end()),
            Form::PowerOfTwo(range) => format!("{}–{}, a power of two", range.start(), range.end()),
        };
        table.push_str(&format!("| `{name}` | {values} | `{default}` | {} |\n", setting.meaning.trim()));
    }
    Committed::part("user_docs/CONFIGURATION.md", "settings", table).assert_current();
}

/// Unknown keys are rejected, so a configuration with all documented keys must be accepted, and every key must be
/// documented.
#[test]
fn every_key_is_documented() {
    const FULL: &str = r#"{
        name: "n", max_pps: 9, stream: "rtp", engine: "auto",
        input: { interface: "a", group: "232.1.1.1", port: 1, sources: ["10.0.0.1"], promiscuous: true, local: true,
                 hold_port: false, reassemble: false },
        outputs: [{ interface: "b", group: "239.1.1.1", port: 1, ttl: 2, dscp: 3, source: "10.0.0.2",
                     source_port: 5, loop: true }],
    }"#;
    const MERGED: &str = r#"{
        inputs: [{ interface: "a", group: "232.1.1.1", port: 1 }, { interface: "c", group: "232.1.1.1", port: 1 }],
        merge: { by: "rtp", window_ms: 9, order: "sequence" },
        outputs: [{ interface: "b", group: "239.1.1.1", port: 1 }],
    }"#;
    parse(&format!("{{ rules: [{FULL}, {MERGED}] }}")).unwrap();
    let mut full: Value = json5::from_str(FULL).unwrap();
    let merged: Value = json5::from_str(MERGED).unwrap();
    for key in ["inputs", "merge"] {
        full[key] = merged[key].clone();
    }
    for (heading, value) in [
        ("## `rules`", &full),
        ("### `input`", &full["input"]),
        ("### `merge`", &merged["merge"]),
        ("### `outputs`", &full["outputs"][0]),
    ] {
        let documented = rows(heading);
        assert_eq!(
            documented.keys().map(|key| (*key).to_owned()).collect::<Vec<_>>(),
            value.as_object().unwrap().keys().cloned().collect::<Vec<_>>(),
            "{heading}"
        );
    }
}
