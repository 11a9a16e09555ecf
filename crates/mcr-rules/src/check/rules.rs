//! One rule by itself, and conflicts between rules.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::Report;
use super::addresses::{check_destination, check_source, family};
use super::settings::out_of_range;
use crate::destination::with_port;
use crate::draft::{InputDraft, OutputDraft, RuleDraft};
use crate::header_fields::HeaderField;
use crate::limits::{MAX_OUTPUTS, MAX_OUTPUTS_PER_RULE, MAX_RULES, MAX_SOURCES, MAX_SOURCES_PER_RULE};
use crate::options::OutputOptions;
use crate::origin::{SourceAddress, SourcePort};
use crate::path::Path;

/// Checks a rule by itself; `path` is its place.
pub(crate) fn check_rule(rule: &RuleDraft, path: &Path<'_>, report: &mut Report<'_>) {
    check_input(&rule.input, &path.key("input"), report);
    let Some(outputs) = &rule.outputs else { return };
    let path = path.key("outputs");
    if outputs.is_empty() {
        let hint = "add an interface, group and port to send to";
        report(&path, "a rule needs at least one output".to_owned(), Some(hint));
    }
    if outputs.len() > MAX_OUTPUTS_PER_RULE {
        let message = format!("{} outputs, at most {MAX_OUTPUTS_PER_RULE} are allowed", outputs.len());
        report(&path, message, Some("relay to a multicast group that many receivers join"));
    }
    let mut seen = BTreeMap::new();
    for (index, output) in outputs.iter().enumerate() {
        let path = path.index(index);
        check_output(output, rule.input.group, &path, report);
        if output.is_whole()
            && let Some(first) = seen.insert(output, index)
        {
            let message = format!("the same as outputs[{first}]: each datagram would be sent twice");
            report(&path, message, Some("remove one of them"));
        }
        if let Some((interface, group, port)) = output.endpoint()
            && output.endpoint() == rule.input.endpoint()
        {
            let message =
                format!("the output {interface} {} equals the rule's input", with_port(group, port));
            report(&path, message, Some("send on another interface, or to another group or port"));
        }
    }
}

fn check_input(input: &InputDraft, path: &Path<'_>, report: &mut Report<'_>) {
    check_port(input.port, path, report);
    let group = input.group.filter(|group| check_destination(*group, &path.key("group"), report));
    let Some(sources) = &input.sources else { return };
    let path = path.key("sources");
    if sources.len() > MAX_SOURCES_PER_RULE {
        let message = format!("{} sources, at most {MAX_SOURCES_PER_RULE} are allowed", sources.len());
        report(&path, message, Some("omit `sources` to admit any"));
    }
    let mut seen = BTreeSet::new();
    for (index, source) in sources.iter().enumerate() {
        let Some(source) = *source else { continue };
        let path = path.index(index);
        check_source(source, group, &path, report);
        if !seen.insert(source) {
            report(&path, format!("{source} is listed twice"), Some("remove one of them"));
        }
    }
}

fn check_output(output: &OutputDraft, input: Option<IpAddr>, path: &Path<'_>, report: &mut Report<'_>) {
    check_port(output.port, path, report);
    let group = output.group.filter(|group| check_destination(*group, &path.key("group"), report));
    let OutputOptions { ttl, dscp, source, source_port, loopback: _ } = output.options.read;
    check_header_field(ttl, &path.key("ttl"), report);
    check_header_field(dscp, &path.key("dscp"), report);
    match source {
        None => {}
        Some(SourceAddress::Fixed(source)) => check_source(source, group, &path.key("source"), report),
        Some(SourceAddress::Keep) => check_kept_source(input, group, &path.key("source"), report),
    }
    if source_port == Some(SourcePort::Fixed(0)) {
        report(&path.key("source_port"), out_of_range(0, 1, u16::MAX), None);
    }
}

/// A datagram can only keep its source in its own family.
fn check_kept_source(input: Option<IpAddr>, group: Option<IpAddr>, path: &Path<'_>, report: &mut Report<'_>) {
    if let Some((input, group)) = input.zip(group).filter(|(input, group)| input.is_ipv4() != group.is_ipv4())
    {
        let (arriving, leaving) = (family(input), family(group));
        let message = format!("an {arriving} address can't be kept: the output's group {group} is {leaving}");
        report(path, message, Some(&format!("name an {leaving} address of this host, or remove the key")));
    }
}

fn check_header_field<F: HeaderField>(field: F, path: &Path<'_>, report: &mut Report<'_>) {
    if let Some(value) = field.number().filter(|value| !F::RANGE.contains(value)) {
        report(path, out_of_range(value, F::RANGE.start(), F::RANGE.end()), None);
    }
}

fn check_port(port: Option<u16>, path: &Path<'_>, report: &mut Report<'_>) {
    if port == Some(0) {
        report(&path.key("port"), out_of_range(0, 1, u16::MAX), None);
    }
}

/// Bounds on all rules together.
pub(super) fn check_totals(rules: &[RuleDraft], report: &mut Report<'_>) {
    let outputs: usize = rules.iter().filter_map(|rule| Some(rule.outputs.as_ref()?.len())).sum();
    let sources: usize = rules.iter().filter_map(|rule| Some(rule.input.sources.as_ref()?.len())).sum();
    for (what, count, limit) in [
        ("rules", rules.len(), MAX_RULES),
        ("outputs", outputs, MAX_OUTPUTS),
        ("sources", sources, MAX_SOURCES),
    ] {
        if count > limit {
            report(&Path::ROOT.key("rules"), format!("{count} {what}, at most {limit} are allowed"), None);
        }
    }
}

/// Names and inputs belong to one rule each.
pub(super) fn check_unique(rules: &[RuleDraft], report: &mut Report<'_>) {
    let path = Path::ROOT.key("rules");
    let mut names = HashMap::new();
    let mut inputs = HashMap::new();
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        if let Some(name) = &rule.name {
            let first = *names.entry(name).or_insert(index);
            if first != index {
                let message = format!("{name} is the name of rules[{first}] already");
                report(&path.key("name"), message, Some("names are unique and optional"));
            }
        }
        let Some(input) = rule.input.whole() else { continue };
        let (first, other) = inputs.entry(input.id()).or_insert_with(|| (index, input.clone()));
        if *first == index {
            continue;
        }
        // The id identifies the input everywhere, so two inputs with one hash can't both be relayed.
        let (message, hint) = if *other == input {
            let hint =
                format!("add the outputs to rules[{first}], or distinguish the rules by their sources");
            (format!("the same input as rules[{first}]: {input}"), hint)
        } else {
            let message = format!("its id {} collides with that of rules[{first}]", input.id());
            (message, "use another port or group for one of them".to_owned())
        };
        report(&path.key("input"), message, Some(&hint));
    }
}
