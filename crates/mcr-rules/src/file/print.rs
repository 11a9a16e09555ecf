//! A configuration as JSON5: readable, deterministic, without defaults.

use std::fmt::{Display, Write};
use std::net::IpAddr;

use serde::Serialize;

use crate::config::Config;
use crate::destination;
use crate::merge::MergeOptions;
use crate::options::{InputOptions, OutputOptions, RuleOptions};
use crate::path::is_identifier;
use crate::rule::{Input, Output, Rule};
use crate::settings::Settings;

/// Lines up to this length hold a list; a longer list has a line for each element.
const LINE_CHARS: usize = 100;

/// Writes a configuration so that [`parse`](super::parse) reads it back.
#[must_use]
pub fn to_json5(config: &Config) -> String {
    let mut text = String::from("{\n");
    if !config.pinning.is_empty() {
        text.push_str("  pinning: {\n");
        for (interface, cores) in &config.pinning {
            let name = interface.as_str();
            let key = if is_identifier(name) { name.to_owned() } else { quote(name) };
            line(&mut text, 4, &format!("{key}: {},", list(cores, 4)));
        }
        text.push_str("  },\n\n");
    }
    if config.rules.is_empty() {
        text.push_str("  rules: [],\n");
    } else {
        text.push_str("  rules: [\n");
        config.rules.iter().for_each(|rule| write_rule(&mut text, rule));
        text.push_str("  ],\n");
    }
    let default = Settings::default();
    let changed: Vec<_> = Settings::TABLE
        .iter()
        .filter(|setting| (setting.get)(&config.settings) != (setting.get)(&default))
        .collect();
    if !changed.is_empty() {
        text.push_str("\n  settings: {\n");
        for setting in changed {
            line(&mut text, 4, &format!("{}: {},", setting.name, setting.literal(&config.settings)));
        }
        text.push_str("  },\n");
    }
    text.push_str("}\n");
    text
}

fn write_rule(text: &mut String, rule: &Rule) {
    line(text, 4, "{");
    if let Some(name) = &rule.name {
        line(text, 6, &format!("name: {},", quote(name.as_str())));
    }
    match &rule.merge {
        None => line(text, 6, &format!("input: {},", input(&rule.input))),
        Some(merge) => {
            line(text, 6, "inputs: [");
            rule.inputs().for_each(|leg| line(text, 8, &format!("{},", input(leg))));
            line(text, 6, "],");
            line(text, 6, &format!("merge: {},", self::merge(merge.options)));
        }
    }
    for option in options(&RuleOptions::KEYS, &rule.options) {
        line(text, 6, &format!("{option},"));
    }
    if let Some(engine) = rule.engine {
        line(text, 6, &format!("engine: {},", quote(engine.name())));
    }
    line(text, 6, "outputs: [");
    rule.outputs.iter().for_each(|output| line(text, 8, &format!("{},", self::output(output))));
    line(text, 6, "],");
    line(text, 4, "},");
}

fn input(input: &Input) -> String {
    let mut text = endpoint(input.interface.as_str(), input.group, input.port);
    if !input.sources.is_empty() {
        let quoted: Vec<String> = input.sources.iter().map(|source| quote(&source.to_string())).collect();
        let _ = write!(text, ", sources: {}", list(&quoted, 6));
    }
    let InputOptions { promiscuous, local, hold_port, reassemble } = input.options;
    for (_, name) in [(promiscuous, "promiscuous"), (local, "local")].iter().filter(|(set, _)| *set) {
        let _ = write!(text, ", {name}: true");
    }
    for (_, name) in [(hold_port, "hold_port"), (reassemble, "reassemble")].iter().filter(|(set, _)| !*set) {
        let _ = write!(text, ", {name}: false");
    }
    format!("{{ {text} }}")
}

fn merge(options: MergeOptions) -> String {
    let mut members = vec![format!("by: {}", quote(options.by.name()))];
    if options.window_ms != MergeOptions::DEFAULT_WINDOW_MS {
        members.push(format!("window_ms: {}", options.window_ms));
    }
    if options.order != MergeOptions::DEFAULT_ORDER {
        members.push(format!("order: {}", quote(options.order.name())));
    }
    format!("{{ {} }}", members.join(", "))
}

fn output(output: &Output) -> String {
    let mut members = vec![endpoint(output.interface.as_str(), output.group, output.port)];
    members.extend(options(&OutputOptions::KEYS, &output.options));
    format!("{{ {} }}", members.join(", "))
}

fn endpoint(interface: &str, group: IpAddr, port: u16) -> String {
    format!("interface: {}, group: {}, port: {port}", quote(interface), quote(&destination::text(group)))
}

/// Those options that do not have their default, as `key: value`.
fn options<O: Serialize + Default + PartialEq>(keys: &[&str], options: &O) -> Vec<String> {
    let default = O::default();
    if *options == default {
        return Vec::new();
    }
    let [options, default] = [options, &default].map(|o| serde_json::to_value(o).unwrap_or_default());
    let differs = |key: &&&str| options.get(key) != default.get(key);
    keys.iter().filter(differs).map(|key| format!("{key}: {}", options[key])).collect()
}

/// A list in one line, or, if that were too long, in a line for each element of a text indented by `indent`.
fn list<T: Display>(elements: &[T], indent: usize) -> String {
    let elements: Vec<String> = elements.iter().map(T::to_string).collect();
    let chars: usize = elements.iter().map(|element| element.len() + 2).sum();
    if chars <= LINE_CHARS - indent {
        return format!("[{}]", elements.join(", "));
    }
    let mut text = String::from("[\n");
    elements.iter().for_each(|element| line(&mut text, indent + 2, &format!("{element},")));
    let _ = write!(text, "{:indent$}]", "");
    text
}

fn line(text: &mut String, indent: usize, content: &str) {
    let _ = writeln!(text, "{:indent$}{content}", "");
}

/// A JSON string is a JSON5 string, too.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
