//! Tree to draft: which keys there are, which must be there, and what their values look like.

mod fields;
mod values;

use std::net::IpAddr;
use std::num::NonZeroU32;

use super::error::Findings;
use super::tree::{Node, Value};
use crate::draft::{ConfigDraft, InputDraft, OutputDraft, RuleDraft};
use crate::limits::MAX_CORE;
use crate::name::InterfaceName;
use crate::path::Path;
use crate::rule::{Dscp, Health, Ttl};
use crate::settings::{IoChoice, Settings};
use fields::Fields;
use values::{elements, integer, number_or_word, parsed, word};

/// Reads a whole configuration.
pub(super) fn read_config(tree: &Node, findings: &mut Findings) -> ConfigDraft {
    let path = Path::ROOT;
    let mut draft = ConfigDraft::default();
    let Some(fields) = Fields::of(tree, &path, &["pinning", "rules", "settings"], findings) else {
        return draft;
    };
    if let Some(node) = fields.get("pinning") {
        read_pinning(node, &path.key("pinning"), &mut draft, findings);
    }
    if let Some(node) = fields.get("rules") {
        let path = path.key("rules");
        for (index, node) in elements(node, &path, findings).unwrap_or_default().iter().enumerate() {
            draft.rules.push(read_rule(node, &path.index(index), findings));
        }
    }
    if let Some(node) = fields.get("settings") {
        draft.settings = read_settings(node, &path.key("settings"), findings);
    }
    draft
}

fn read_pinning(node: &Node, path: &Path<'_>, draft: &mut ConfigDraft, findings: &mut Findings) {
    let Some(fields) = Fields::of_any_key(node, path, findings) else { return };
    for member in fields.members() {
        let path = path.key(&member.key);
        let interface = match member.key.parse() {
            Ok(interface) => Some(interface),
            Err(error) => {
                findings.add(member.key_place, &path, format!("no interface name: {error}"), None);
                None
            }
        };
        let Some(nodes) = elements(&member.node, &path, findings) else { continue };
        let core = |(index, node)| integer(node, 0..=MAX_CORE, &path.index(index), findings);
        let cores = nodes.iter().enumerate().map(core).collect();
        draft.pinning.extend(interface.map(|interface| (interface, cores)));
    }
}

/// Reads one rule; `path` is where it stands.
pub(super) fn read_rule(node: &Node, path: &Path<'_>, findings: &mut Findings) -> RuleDraft {
    let mut draft = RuleDraft::default();
    let Some(fields) = Fields::of(node, path, &["name", "input", "outputs", "max_pps", "health"], findings)
    else {
        return draft;
    };
    if let Some(node) = fields.get("name") {
        draft.name = parsed(node, "a rule name", &path.key("name"), findings);
    }
    if let Some(node) = fields.require("input", path, findings) {
        draft.input = read_input(node, &path.key("input"), findings);
    }
    if let Some(node) = fields.require("outputs", path, findings) {
        let path = path.key("outputs");
        let read = |(index, node)| read_output(node, &path.index(index), findings);
        draft.outputs = match &node.value {
            Value::List(nodes) => Some(nodes.iter().enumerate().map(read).collect()),
            _ => {
                elements(node, &path, findings);
                None
            }
        };
    }
    draft.max_pps = fields.get("max_pps").map_or(Some(None), |node| {
        integer(node, 1..=u32::MAX, &path.key("max_pps"), findings).map(NonZeroU32::new)
    });
    draft.health = fields.get("health").map_or(Some(None), |node| {
        let words = Health::ALL.map(Health::as_str);
        word(node, &words, &path.key("health"), findings).map(|index| Health::ALL.get(index).copied())
    });
    draft
}

/// What inputs and outputs have in common: interface, address, port.
fn read_endpoint(
    fields: &Fields<'_>,
    path: &Path<'_>,
    findings: &mut Findings,
) -> (Option<InterfaceName>, Option<IpAddr>, Option<u16>) {
    let interface = fields.require("interface", path, findings);
    let interface =
        interface.and_then(|node| parsed(node, "an interface name", &path.key("interface"), findings));
    let group = fields.require("group", path, findings);
    let group = group.and_then(|node| values::address(node, &path.key("group"), findings));
    let port = fields.require("port", path, findings);
    let port = port.and_then(|node| integer(node, 1..=u16::MAX, &path.key("port"), findings));
    (interface, group, port)
}

fn read_input(node: &Node, path: &Path<'_>, findings: &mut Findings) -> InputDraft {
    let known = ["interface", "group", "port", "sources"];
    let Some(fields) = Fields::of(node, path, &known, findings) else { return InputDraft::default() };
    let (interface, group, port) = read_endpoint(&fields, path, findings);
    let sources = match fields.get("sources") {
        None => Some(Vec::new()),
        Some(node) => {
            let path = path.key("sources");
            elements(node, &path, findings).map(|nodes| {
                let source = |(index, node)| values::address(node, &path.index(index), findings);
                nodes.iter().enumerate().map(source).collect()
            })
        }
    };
    InputDraft { interface, group, port, sources }
}

fn read_output(node: &Node, path: &Path<'_>, findings: &mut Findings) -> OutputDraft {
    let known = ["interface", "group", "port", "ttl", "dscp", "source"];
    let Some(fields) = Fields::of(node, path, &known, findings) else { return OutputDraft::default() };
    let (interface, group, port) = read_endpoint(&fields, path, findings);
    let ttl = fields.get("ttl").map_or(Some(Ttl::default()), |node| {
        number_or_word(node, 1..=u8::MAX, "decrement", &path.key("ttl"), findings)
            .map(|number| number.map_or(Ttl::Decrement, Ttl::Fixed))
    });
    let dscp = fields.get("dscp").map_or(Some(Dscp::default()), |node| {
        number_or_word(node, 0..=63, "keep", &path.key("dscp"), findings)
            .map(|number| number.map_or(Dscp::Keep, Dscp::Fixed))
    });
    let source = fields
        .get("source")
        .map_or(Some(None), |node| values::address(node, &path.key("source"), findings).map(Some));
    OutputDraft { interface, group, port, ttl, dscp, source }
}

fn read_settings(node: &Node, path: &Path<'_>, findings: &mut Findings) -> Settings {
    let mut settings = Settings::default();
    let known = [
        "io",
        "worker_grace_s",
        "receive_buffer_bytes",
        "send_buffer_bytes",
        "ring_buffers",
        "latency_budget_us",
        "flow_silence_s",
        "orphan_timeout_s",
    ];
    let Some(fields) = Fields::of(node, path, &known, findings) else { return settings };
    if let Some(node) = fields.get("io") {
        let words = IoChoice::ALL.map(IoChoice::as_str);
        if let Some(index) = word(node, &words, &path.key("io"), findings) {
            settings.io = IoChoice::ALL[index];
        }
    }
    let mut number = |key: &str, range: std::ops::RangeInclusive<u32>| {
        integer(fields.get(key)?, range, &path.key(key), findings)
    };
    let buffer = Settings::SOCKET_BUFFER_BYTES;
    settings.worker_grace_s =
        number("worker_grace_s", Settings::WORKER_GRACE_S).unwrap_or(settings.worker_grace_s);
    settings.receive_buffer_bytes =
        number("receive_buffer_bytes", buffer.clone()).unwrap_or(settings.receive_buffer_bytes);
    settings.send_buffer_bytes = number("send_buffer_bytes", buffer).unwrap_or(settings.send_buffer_bytes);
    settings.flow_silence_s =
        number("flow_silence_s", Settings::FLOW_SILENCE_S).unwrap_or(settings.flow_silence_s);
    settings.latency_budget_us =
        number("latency_budget_us", Settings::LATENCY_BUDGET_US).unwrap_or(settings.latency_budget_us);
    settings.orphan_timeout_s =
        number("orphan_timeout_s", Settings::ORPHAN_TIMEOUT_S).unwrap_or(settings.orphan_timeout_s);
    if let Some(count) = number("ring_buffers", Settings::RING_BUFFERS) {
        settings.ring_buffers = u16::try_from(count).unwrap_or(settings.ring_buffers);
    }
    settings
}
