//! Tree to draft: known keys, required keys, and the form of their values.

mod fields;
mod values;

use std::net::IpAddr;
use std::num::NonZeroU32;

use super::error::Findings;
use super::tree::Node;
use crate::draft::{ConfigDraft, InputDraft, MergeDraft, OptionsDraft, OutputDraft, RuleDraft};
use crate::limits::{MAX_CORE, MAX_MERGE_WINDOW_MS};
use crate::merge::{MergeBy, MergeOptions, MergeOrder};
use crate::name::InterfaceName;
use crate::options::{InputOptions, OutputOptions, RuleOptions, StreamFormat};
use crate::origin::{KEEP, SourcePort};
use crate::path::Path;
use crate::settings::{EngineChoice, Form, Settings};
use fields::Fields;
use values::{integer, list, number_or_word, parsed, word};

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
        draft.rules = list(node, &path.key("rules"), findings, read_rule).unwrap_or_default();
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
                findings.add_interface(member.key_place, &path, &member.key, &error);
                None
            }
        };
        let cores = list(&member.node, &path, findings, |node, path, findings| {
            integer(node, 0..=MAX_CORE, path, findings)
        });
        draft.pinning.extend(interface.zip(cores));
    }
}

/// Reads one rule; `path` is its place.
pub(super) fn read_rule(node: &Node, path: &Path<'_>, findings: &mut Findings) -> RuleDraft {
    let mut draft = RuleDraft::default();
    let known =
        [&["name", "input", "inputs", "merge", "outputs"][..], &RuleOptions::KEYS, &["engine"]].concat();
    let Some(fields) = Fields::of(node, path, &known, findings) else { return draft };
    if let Some(node) = fields.get("name") {
        draft.name = parsed(node, "a rule name", &path.key("name"), findings);
    }
    if fields.get("inputs").is_some() || fields.get("merge").is_some() {
        read_legs(&fields, path, &mut draft, findings);
    } else if let Some(node) = fields.require("input", path, findings) {
        draft.input = read_input(node, &path.key("input"), findings);
    }
    if let Some(node) = fields.require("outputs", path, findings) {
        draft.outputs = list(node, &path.key("outputs"), findings, read_output);
    }
    let mut options = Options { fields: &fields, path, findings, complete: true };
    draft.options.read = RuleOptions {
        max_pps: options.read("max_pps", |node, path, findings| {
            integer(node, 1..=u32::MAX, path, findings).map(NonZeroU32::new)
        }),
        stream: options.read("stream", |node, path, findings| {
            word(node, &StreamFormat::NAMES, path, findings)
                .map(|index| StreamFormat::ALL.get(index).copied())
        }),
    };
    let engine = options.read("engine", |node, path, findings| {
        word(node, &EngineChoice::NAMES, path, findings).map(|index| EngineChoice::ALL.get(index).copied())
    });
    draft.engine = engine;
    draft.options.complete = options.complete;
    draft
}

/// The legs of a merged rule: `inputs` and `merge`.
fn read_legs(fields: &Fields<'_>, path: &Path<'_>, draft: &mut RuleDraft, findings: &mut Findings) {
    let mut merge = MergeDraft {
        more: Vec::new(),
        by: None,
        window_ms: MergeOptions::DEFAULT_WINDOW_MS,
        order: MergeOptions::DEFAULT_ORDER,
        complete: false,
    };
    if let Some(member) = fields.member("input") {
        let hint = "list all legs in `inputs`, or remove `inputs` and `merge`".to_owned();
        findings.add(member.key_place, &path.key("input"), "a merged rule has `inputs`", Some(hint));
    }
    if let Some(node) = fields.require("inputs", path, findings) {
        let legs = list(node, &path.key("inputs"), findings, read_input).unwrap_or_default();
        let mut legs = legs.into_iter();
        draft.input = legs.next().unwrap_or_default();
        merge.more = legs.collect();
    }
    if let Some(node) = fields.require("merge", path, findings) {
        let path = path.key("merge");
        if let Some(fields) = Fields::of(node, &path, &MergeOptions::KEYS, findings) {
            let by = fields.require("by", &path, findings);
            merge.by =
                by.and_then(|node| named(node, &MergeBy::NAMES, &path.key("by"), findings, MergeBy::named));
            let mut options = Options { fields: &fields, path: &path, findings, complete: true };
            let window = options.read("window_ms", |node, path, findings| {
                integer(node, 1..=MAX_MERGE_WINDOW_MS, path, findings).map(Some)
            });
            merge.window_ms = window.unwrap_or(MergeOptions::DEFAULT_WINDOW_MS);
            let order = options.read("order", |node, path, findings| {
                named(node, &MergeOrder::NAMES, path, findings, MergeOrder::named).map(Some)
            });
            merge.order = order.unwrap_or(MergeOptions::DEFAULT_ORDER);
            merge.complete = options.complete;
        }
    }
    draft.merge = Some(merge);
}

/// One of some words, as its value.
fn named<T>(
    node: &Node,
    names: &[&'static str],
    path: &Path<'_>,
    findings: &mut Findings,
    value: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    word(node, names, path, findings).and_then(|index| names.get(index).copied()).and_then(value)
}

/// Reads options, each with its key. One that is absent, or can't be read, has its default.
struct Options<'o, 'n> {
    fields: &'o Fields<'n>,
    path: &'o Path<'o>,
    findings: &'o mut Findings,
    /// All that are given could be read.
    complete: bool,
}

impl Options<'_, '_> {
    fn read<T: Default>(
        &mut self,
        key: &str,
        read: impl FnOnce(&Node, &Path<'_>, &mut Findings) -> Option<T>,
    ) -> T {
        let Some(member) = self.fields.member(key) else { return T::default() };
        let value = read(&member.node, &self.path.key(&member.key), self.findings);
        self.complete &= value.is_some();
        value.unwrap_or_default()
    }
}

/// What inputs and outputs have in common: interface, address, port.
fn read_endpoint(
    fields: &Fields<'_>,
    path: &Path<'_>,
    findings: &mut Findings,
) -> (Option<InterfaceName>, Option<IpAddr>, Option<u16>) {
    let interface = fields.require("interface", path, findings);
    let interface = interface.and_then(|node| values::interface(node, &path.key("interface"), findings));
    let group = fields.require("group", path, findings);
    let group = group.and_then(|node| values::destination(node, &path.key("group"), findings));
    let port = fields.require("port", path, findings);
    let port = port.and_then(|node| integer(node, 1..=u16::MAX, &path.key("port"), findings));
    (interface, group, port)
}

fn read_input(node: &Node, path: &Path<'_>, findings: &mut Findings) -> InputDraft {
    let known = ["interface", "group", "port", "sources", "promiscuous", "local", "hold_port", "reassemble"];
    let Some(fields) = Fields::of(node, path, &known, findings) else { return InputDraft::default() };
    let (interface, group, port) = read_endpoint(&fields, path, findings);
    let sources = match fields.get("sources") {
        None => Some(Vec::new()),
        Some(node) => list(node, &path.key("sources"), findings, values::address),
    };
    let mut options = Options { fields: &fields, path, findings, complete: true };
    let read = InputOptions {
        promiscuous: options.read("promiscuous", values::boolean),
        local: options.read("local", values::boolean),
        hold_port: options.read("hold_port", set_by_default).unwrap_or(true),
        reassemble: options.read("reassemble", set_by_default).unwrap_or(true),
    };
    let options = OptionsDraft { read, complete: options.complete };
    InputDraft { interface, group, port, sources, options }
}

/// A flag whose default is true.
fn set_by_default(node: &Node, path: &Path<'_>, findings: &mut Findings) -> Option<Option<bool>> {
    values::boolean(node, path, findings).map(Some)
}

fn read_output(node: &Node, path: &Path<'_>, findings: &mut Findings) -> OutputDraft {
    let known = [&["interface", "group", "port"][..], &OutputOptions::KEYS].concat();
    let Some(fields) = Fields::of(node, path, &known, findings) else { return OutputDraft::default() };
    let (interface, group, port) = read_endpoint(&fields, path, findings);
    let mut options = Options { fields: &fields, path, findings, complete: true };
    let read = OutputOptions {
        ttl: options.read("ttl", values::header_field),
        dscp: options.read("dscp", values::header_field),
        source: options
            .read("source", |node, path, findings| values::source_address(node, path, findings).map(Some)),
        source_port: options.read("source_port", |node, path, findings| {
            let port = number_or_word(node, 1..=u16::MAX, KEEP, path, findings);
            port.map(|port| Some(port.map_or(SourcePort::Keep, SourcePort::Fixed)))
        }),
        loopback: options.read("loop", values::boolean),
    };
    let options = OptionsDraft { read, complete: options.complete };
    OutputDraft { interface, group, port, options }
}

fn read_settings(node: &Node, path: &Path<'_>, findings: &mut Findings) -> Settings {
    let mut settings = Settings::default();
    let known: Vec<&str> = Settings::TABLE.iter().map(|setting| setting.name).collect();
    let Some(fields) = Fields::of(node, path, &known, findings) else { return settings };
    for setting in Settings::TABLE {
        let Some(node) = fields.get(setting.name) else { continue };
        let path = path.key(setting.name);
        let number = match &setting.form {
            Form::Words(words) => {
                word(node, words, &path, findings).and_then(|index| u32::try_from(index).ok())
            }
            // Whether it is a power of two is checked with the rest.
            Form::Number(range) | Form::PowerOfTwo(range) => integer(node, range.clone(), &path, findings),
        };
        if let Some(number) = number {
            (setting.set)(&mut settings, number);
        }
    }
    settings
}
