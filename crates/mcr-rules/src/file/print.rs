//! A configuration as JSON5: readable, always the same for the same configuration, without what is the default.

use std::fmt::{Display, Write};
use std::net::IpAddr;

use crate::config::Config;
use crate::path::is_identifier;
use crate::rule::{Dscp, Input, Output, Rule, Ttl};
use crate::settings::Settings;

/// Lines up to this length hold a list; a longer list has a line for each element.
const LINE_CHARS: usize = 100;

/// Writes a configuration so that [`parse`](super::parse) gives it back.
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
    let settings = settings(&config.settings);
    if !settings.is_empty() {
        text.push_str("\n  settings: {\n");
        settings.iter().for_each(|(key, value)| line(&mut text, 4, &format!("{key}: {value},")));
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
    line(text, 6, &format!("input: {},", input(&rule.input)));
    if let Some(max_pps) = rule.max_pps {
        line(text, 6, &format!("max_pps: {max_pps},"));
    }
    if let Some(health) = rule.health {
        line(text, 6, &format!("health: {},", quote(health.as_str())));
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
    format!("{{ {text} }}")
}

fn output(output: &Output) -> String {
    let mut text = endpoint(output.interface.as_str(), output.group, output.port);
    if output.ttl != Ttl::default() {
        text.push_str(", ttl: ");
        text.push_str(&number_or_word(output.ttl, matches!(output.ttl, Ttl::Fixed(_))));
    }
    if output.dscp != Dscp::default() {
        text.push_str(", dscp: ");
        text.push_str(&number_or_word(output.dscp, matches!(output.dscp, Dscp::Fixed(_))));
    }
    if let Some(source) = output.source {
        let _ = write!(text, ", source: {}", quote(&source.to_string()));
    }
    format!("{{ {text} }}")
}

fn endpoint(interface: &str, group: IpAddr, port: u16) -> String {
    format!("interface: {}, group: {}, port: {port}", quote(interface), quote(&group.to_string()))
}

fn number_or_word(value: impl Display, is_number: bool) -> String {
    if is_number { value.to_string() } else { quote(&value.to_string()) }
}

/// The settings that differ from their defaults.
fn settings(settings: &Settings) -> Vec<(&'static str, String)> {
    let default = Settings::default();
    let number = |key, value: u32, default: u32| (value != default).then(|| (key, value.to_string()));
    [
        (settings.io != default.io).then(|| ("io", quote(settings.io.as_str()))),
        number("worker_grace_s", settings.worker_grace_s, default.worker_grace_s),
        number("receive_buffer_bytes", settings.receive_buffer_bytes, default.receive_buffer_bytes),
        number("send_buffer_bytes", settings.send_buffer_bytes, default.send_buffer_bytes),
        number("ring_buffers", settings.ring_buffers.into(), default.ring_buffers.into()),
        number("latency_budget_us", settings.latency_budget_us, default.latency_budget_us),
        number("flow_silence_s", settings.flow_silence_s, default.flow_silence_s),
        number("orphan_timeout_s", settings.orphan_timeout_s, default.orphan_timeout_s),
    ]
    .into_iter()
    .flatten()
    .collect()
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
