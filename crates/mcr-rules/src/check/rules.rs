//! One rule by itself, and conflicts between rules.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::Report;
use super::addresses::{check_destination, check_source, family};
use super::settings::out_of_range;
use crate::destination::with_port;
use crate::draft::{InputDraft, OutputDraft, RuleDraft};
use crate::header_fields::HeaderField;
use crate::id::RuleId;
use crate::limits::{
    MAX_LEGS, MAX_MERGE_WINDOW_MS, MAX_MERGES, MAX_OUTPUTS, MAX_OUTPUTS_PER_RULE, MAX_RULES, MAX_SOURCES,
    MAX_SOURCES_PER_RULE,
};
use crate::merge::{MergeBy, MergeOrder};
use crate::options::OutputOptions;
use crate::origin::{SourceAddress, SourcePort};
use crate::path::Path;
use crate::rule::{Input, id_of_legs};

/// Checks a rule by itself; `path` is its place.
pub(crate) fn check_rule(rule: &RuleDraft, path: &Path<'_>, report: &mut Report<'_>) {
    rule.for_each_input(path, |input, path| check_input(input, path, report));
    check_legs(rule, path, report);
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
        rule.inputs().take(1).for_each(|input| check_output(output, input.group, &path, report));
        let more = rule.inputs().skip(1).filter(|_| output.options.read.source == Some(SourceAddress::Keep));
        more.for_each(|input| check_kept_source(input.group, output.group, &path.key("source"), report));
        if output.is_whole()
            && let Some(first) = seen.insert(output, index)
        {
            let message = format!("the same as outputs[{first}]: each datagram would be sent twice");
            report(&path, message, Some("remove one of them"));
        }
        if let Some((interface, group, port)) = output.endpoint()
            && rule.inputs().any(|input| output.endpoint() == input.endpoint())
        {
            let message =
                format!("the output {interface} {} equals the rule's input", with_port(group, port));
            report(&path, message, Some("send on another interface, or to another group or port"));
        }
    }
}

/// The legs of a merged rule, and how they are merged.
fn check_legs(rule: &RuleDraft, path: &Path<'_>, report: &mut Report<'_>) {
    let Some(merge) = &rule.merge else { return };
    let legs: Vec<&InputDraft> = rule.inputs().collect();
    let path_of_legs = path.key("inputs");
    if !(2..=MAX_LEGS).contains(&legs.len()) {
        let message = format!("{} legs, 2 to {MAX_LEGS} are allowed", legs.len());
        let hint = (legs.len() < 2).then_some("a rule with one input has `input`, and no `merge`");
        report(&path_of_legs, message, hint);
    }
    for (index, leg) in legs.iter().enumerate() {
        let same = legs.iter().take(index).position(|other| {
            leg.endpoint().is_some() && leg.endpoint() == other.endpoint() && share_sources(leg, other)
        });
        if let Some(first) = same {
            let message = format!("the same datagrams as inputs[{first}]: they can't be told apart");
            let hint = "legs differ in interface, group or port, or each has other `sources`";
            report(&path_of_legs.index(index), message, Some(hint));
        }
        if leg.options.read.local {
            let message =
                "a leg can't be `local`: what programs of this host send is no copy of what arrives";
            report(&path_of_legs.index(index).key("local"), message.to_owned(), None);
        }
    }
    if !(1..=MAX_MERGE_WINDOW_MS).contains(&merge.window_ms) {
        let message = out_of_range(merge.window_ms, 1, MAX_MERGE_WINDOW_MS);
        report(&path.key("merge").key("window_ms"), message, None);
    }
    if merge.by == Some(MergeBy::Payload) && merge.order == MergeOrder::Sequence {
        let message =
            "payloads have no sequence numbers: what is merged by payload leaves in order of arrival";
        report(&path.key("merge").key("order"), message.to_owned(), Some("remove `order`"));
    }
}

/// Whether a source may be in both lists.
fn share_sources(one: &InputDraft, other: &InputDraft) -> bool {
    let known =
        |leg: &InputDraft| -> BTreeSet<IpAddr> { leg.sources.iter().flatten().copied().flatten().collect() };
    let (one, other) = (known(one), known(other));
    one.is_empty() || other.is_empty() || !one.is_disjoint(&other)
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
    let inputs = rules.iter().flat_map(RuleDraft::inputs);
    let sources: usize = inputs.filter_map(|input| Some(input.sources.as_ref()?.len())).sum();
    let merges = rules.iter().filter(|rule| rule.merge.is_some()).count();
    for (what, count, limit) in [
        ("rules", rules.len(), MAX_RULES),
        ("outputs", outputs, MAX_OUTPUTS),
        ("sources", sources, MAX_SOURCES),
        ("merged rules", merges, MAX_MERGES),
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
        let Some(input) = rule.inputs().map(InputDraft::whole).collect::<Option<Vec<_>>>() else { continue };
        let id = rules_id(&input, rule.merge.is_some());
        let (first, other) = inputs.entry(id).or_insert_with(|| (index, input.clone()));
        if *first == index {
            continue;
        }
        // The id identifies the input everywhere, so two inputs with one hash can't both be relayed.
        let all = input.iter().map(Input::to_string).collect::<Vec<_>>().join(", ");
        let (message, hint) = if same_inputs(other, &input) {
            let hint =
                format!("add the outputs to rules[{first}], or distinguish the rules by their sources");
            (format!("the same input as rules[{first}]: {all}"), hint)
        } else {
            let message = format!("its id {id} collides with that of rules[{first}]");
            (message, "use another port or group for one of them".to_owned())
        };
        let key = if rule.merge.is_some() { "inputs" } else { "input" };
        report(&path.key(key), message, Some(&hint));
    }
}

/// The id of the rule with these inputs.
fn rules_id(inputs: &[Input], merged: bool) -> RuleId {
    match inputs {
        [only] if !merged => only.id(),
        inputs => id_of_legs(inputs.iter()),
    }
}

/// Whether two rules listen to the same.
fn same_inputs(one: &[Input], other: &[Input]) -> bool {
    one.len() == other.len() && one.iter().all(|input| other.contains(input))
}
