//! Errors in a configuration whose values are well-formed.
//!
//! The checks run on drafts, of which anything may be missing. So the file's reader can run them on what it could read of a
//! broken file and report everything at once, and the daemon on a typed [`Config`].

mod addresses;
mod loops;
mod rules;
mod settings;
#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::draft::{ConfigDraft, RuleDraft};
use crate::error::ConfigError;
use crate::limits::{MAX_ERRORS, MAX_MERGES, MAX_OUTPUTS, MAX_RULES, MAX_SOURCES};
use crate::path::Path;
use crate::rule::{Input, Rule};

pub(crate) use rules::check_rule;
pub(crate) use settings::out_of_range;

/// Receives an error: where, what, and a hint.
pub(crate) type Report<'r> = dyn FnMut(&Path<'_>, String, Option<&str>) + 'r;

/// Everything that is wrong with a configuration (the first [`MAX_ERRORS`]); empty if it may run.
///
/// # Addresses
/// No unspecified address and no IPv4 address written as IPv6; the broadcast address as a destination only. Sources and the `source` of an output are
/// unicast; sources have the family of the input's group, the `source` that of the output's group. IPv4 in and IPv6 out is
/// fine, and so are link-local groups and addresses: the interface is their scope.
///
/// # Names and inputs
/// A name and an input belong to one rule; the legs of a merged rule may be inputs of others. Inputs differ if their sources do, in which case a datagram that fits both is
/// relayed by both.
///
/// # Loops
/// A rule *feeds* another if it has an output with the interface, group and port of the other's input, and the other admits
/// the output's `source`. An output without `source` is sent from an address that the configuration doesn't know, so any
/// list of sources may hold it.
///
/// A loop of rules, each of which feeds the next, is refused if, apart from loopback, all of their inputs are on **one**
/// interface, or all on loopback:
///
/// - on loopback, what is sent is received again, without end;
/// - on another interface a host does not receive what it sends, but any echo of it (a bridge, a hub, a second relay)
///   would;
/// - with loopback in the loop, every datagram that arrives on the one interface would be sent back to it.
///
/// A loop through two or more interfaces beside loopback is accepted: two opposite rules between `eth0` and `eth1` are a
/// two-way relay, which does not receive its own sends. An output that equals its own rule's input is always refused.
#[must_use]
pub fn check(config: &Config) -> Vec<ConfigError> {
    errors_of(|report| check_draft(&ConfigDraft::of(config), report))
}

fn errors_of(check: impl FnOnce(&mut Report<'_>)) -> Vec<ConfigError> {
    let mut found = Vec::new();
    check(&mut |path, message, hint| {
        if found.len() < MAX_ERRORS {
            let (path, hint) = (path.to_string(), hint.map(str::to_owned));
            found.push(ConfigError { location: None, path, message, hint, long_name: None });
        }
    });
    found
}

/// What [`check`] finds in a configuration that was valid before its last rule was added, whose input and name no other
/// rule has. Usually its cost is one pass over the other rules.
#[must_use]
pub fn check_addition(config: &Config) -> Vec<ConfigError> {
    let Some((added, others)) = config.rules.split_last() else { return check(config) };
    // Only a rule that feeds another can close a loop.
    let feeds = |other: &Rule| {
        other.inputs().any(|Input { interface, group, port, .. }| {
            added.outputs.iter().any(|to| (to.port, to.group, &to.interface) == (*port, *group, interface))
        })
    };
    let outputs: usize = config.rules.iter().map(|rule| rule.outputs.len()).sum();
    let sources: usize = config.rules.iter().flat_map(Rule::inputs).map(|input| input.sources.len()).sum();
    let merges = config.rules.iter().filter(|rule| rule.merge.is_some()).count();
    let too_many = config.rules.len() > MAX_RULES
        || outputs > MAX_OUTPUTS
        || sources > MAX_SOURCES
        || merges > MAX_MERGES;
    if too_many || others.iter().any(feeds) {
        return check(config);
    }
    let path = Path::ROOT.key("rules");
    errors_of(|report| check_rule(&RuleDraft::of(added), &path.index(others.len()), report))
}

/// Runs every check on a draft.
pub(crate) fn check_draft(draft: &ConfigDraft, report: &mut Report<'_>) {
    settings::check_settings(&draft.settings, report);
    settings::check_pinning(&draft.pinning, report);
    let rules = Path::ROOT.key("rules");
    for (index, rule) in draft.rules.iter().enumerate() {
        check_rule(rule, &rules.index(index), report);
    }
    rules::check_totals(&draft.rules, report);
    rules::check_unique(&draft.rules, report);
    loops::check_loops(&draft.rules, report);
}
