//! Config changes requested by clients: the config that results from each, and the reply once it is in force. Pure;
//! the daemon's loop applies it.

use std::collections::BTreeMap;
use std::time::Duration;

use mcr_control::failure::{Failure, FailureKind};
use mcr_control::method::parameter::RuleSelector;
use mcr_control::reply::{DiffReply, LoadReply, RuleReply};
use mcr_rules::change::diff;
use mcr_rules::file::ConfigError;
use mcr_rules::{Config, InterfaceName, Rule, check, check_addition};

use crate::core::machine::Unacknowledged;

#[derive(Clone, Debug)]
pub(crate) struct ConfigChange<R> {
    /// The config to apply; `None` if there is nothing to do.
    pub(crate) config: Option<Config>,
    /// What to do if workers don't acknowledge it.
    pub(crate) unacknowledged: Unacknowledged,
    /// It is reverted after this time unless confirmed.
    pub(crate) confirm_within: Option<Duration>,
    /// The reply once it is in force.
    pub(crate) reply: R,
    /// A description for the log.
    pub(crate) what: String,
}

/// A change, or why it is refused.
pub(crate) type Change<R> = Result<ConfigChange<R>, Failure>;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LoadOptions {
    /// Replaces the running config. Otherwise the new rules are added, or replace those with the same id; pinning is
    /// added; settings stay unchanged.
    pub(crate) replace: bool,
    /// Only report what would change.
    pub(crate) dry_run: bool,
    /// The change is reverted after this time unless confirmed.
    pub(crate) confirm_within: Option<Duration>,
}

pub(crate) fn add(running: &Config, rule: Rule) -> Change<RuleReply> {
    let id = rule.id();
    let exists = |what: String| {
        Failure::new(FailureKind::RuleExists, what).with_hint("see `mcrctl list`; remove that rule first")
    };
    if running.rules.iter().any(|other| other.id() == id) {
        return Err(exists(format!("rule {id} has this input already")));
    }
    if let Some(name) = &rule.name
        && running.rules.iter().any(|other| other.name.as_ref() == Some(name))
    {
        return Err(exists(format!("there is a rule with the name {name} already")));
    }
    let mut config = running.clone();
    config.rules.push(rule);
    sound(check_addition(&config))?;
    Ok(ConfigChange {
        config: Some(config),
        unacknowledged: Unacknowledged::Undo,
        confirm_within: None,
        reply: RuleReply { id },
        what: format!("rule {id} added"),
    })
}

pub(crate) fn remove(running: &Config, selector: &RuleSelector) -> Change<RuleReply> {
    let place = running.rules.iter().position(|rule| selector.selects(rule));
    let place = place.ok_or_else(|| not_found(selector))?;
    let mut config = running.clone();
    let id = config.rules.remove(place).id();
    Ok(ConfigChange {
        config: Some(config),
        unacknowledged: Unacknowledged::Keep,
        confirm_within: None,
        reply: RuleReply { id },
        what: format!("rule {id} removed"),
    })
}

pub(crate) fn load(running: &Config, new: &Config, options: LoadOptions) -> Change<LoadReply> {
    let LoadOptions { replace, dry_run, confirm_within } = options;
    let config = if replace { new.clone() } else { merged(running, new) };
    sound(check(&config))?;
    let diff: DiffReply = diff(running, &config).into();
    // A change without effect has nothing to revert.
    let config = (!dry_run && !diff.is_empty()).then_some(config);
    let confirm_within = confirm_within.filter(|_| config.is_some());
    let what = format!(
        "config loaded: {} rules added, {} removed, {} changed",
        diff.added.len(),
        diff.removed.len(),
        diff.changed.len()
    );
    let confirm_within_s = confirm_within.map(|within| within.as_secs());
    let reply = LoadReply { applied: !dry_run, diff, confirm_within_s };
    Ok(ConfigChange { config, unacknowledged: Unacknowledged::Undo, confirm_within, reply, what })
}

/// The failure for a selector that selects no rule.
pub(crate) fn not_found(selector: &RuleSelector) -> Failure {
    Failure::new(FailureKind::RuleNotFound, format!("there is no rule with {selector}"))
        .with_hint("`mcrctl list` shows the ids and names")
}

/// Returns the running config with the new rules and pinning merged in.
fn merged(running: &Config, new: &Config) -> Config {
    let mut config = running.clone();
    let places: BTreeMap<_, _> =
        running.rules.iter().enumerate().map(|(place, rule)| (rule.id(), place)).collect();
    for rule in &new.rules {
        match places.get(&rule.id()).and_then(|place| config.rules.get_mut(*place)) {
            Some(old) => old.clone_from(rule),
            None => config.rules.push(rule.clone()),
        }
    }
    config.pinning.extend(new.pinning.clone());
    config
}

/// Refuses a config that is sound only as long as an altname and a name of one interface are taken for two interfaces.
/// `interface_of` returns the name of the interface that an altname means now. What an altname that came later has made of the
/// running config does not stand in the way of changes.
///
/// # Errors
/// With the errors by the interfaces' own names, and which altnames they are about.
pub(crate) fn sound_by_interface(
    running: &Config,
    config: &Config,
    interface_of: impl Fn(&InterfaceName) -> Option<InterfaceName>,
) -> Result<(), Failure> {
    let mut altnames = BTreeMap::new();
    let Some(errors) = errors_by_interface(config, &interface_of, &mut altnames) else { return Ok(()) };
    let were_there = errors_by_interface(running, &interface_of, &mut BTreeMap::new());
    if errors.is_empty() || were_there.is_some_and(|before| !before.is_empty()) {
        return Ok(());
    }
    let meant: Vec<String> = altnames.iter().map(|(altname, name)| format!("{altname} is {name}")).collect();
    Err(Failure::invalid(errors)
        .with_hint(format!("altnames are other names of an interface: {}", meant.join(", "))))
}

/// The errors of a config with each interface by its own name; `None` if it has no altname.
fn errors_by_interface(
    config: &Config,
    interface_of: impl Fn(&InterfaceName) -> Option<InterfaceName>,
    altnames: &mut BTreeMap<InterfaceName, InterfaceName>,
) -> Option<Vec<ConfigError>> {
    let inputs = config.rules.iter().flat_map(Rule::inputs).map(|input| &input.interface);
    let outputs = config.rules.iter().flat_map(|rule| &rule.outputs).map(|output| &output.interface);
    for name in inputs.chain(outputs) {
        if let Some(interface) = interface_of(name) {
            altnames.insert(name.clone(), interface);
        }
    }
    if altnames.is_empty() {
        return None;
    }
    let mut config = config.clone();
    let rename = |name: &mut InterfaceName| {
        if let Some(interface) = altnames.get(name) {
            name.clone_from(interface);
        }
    };
    for rule in &mut config.rules {
        rule.inputs_mut().for_each(|input| rename(&mut input.interface));
        rule.outputs.iter_mut().for_each(|output| rename(&mut output.interface));
    }
    Some(check(&config))
}

fn sound(errors: Vec<ConfigError>) -> Result<(), Failure> {
    if errors.is_empty() { Ok(()) } else { Err(Failure::invalid(errors)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::plan::samples::{config, output, rule};

    fn kind(change: Change<RuleReply>) -> FailureKind {
        change.unwrap_err().kind
    }

    #[test]
    fn a_rule_is_added_once_by_input_and_once_by_name() {
        let mut first = rule("eth0", "239.1.1.1", 5000, "eth1");
        first.name = Some("studio".parse().unwrap());
        let running = config([first.clone()]);
        let mut again = first.clone();
        again.outputs = vec![output("eth2", "239.9.9.9", 9)];
        assert_eq!(kind(add(&running, again)), FailureKind::RuleExists);
        let mut other = rule("eth0", "239.1.1.2", 5000, "eth1");
        other.name.clone_from(&first.name);
        assert_eq!(kind(add(&running, other.clone())), FailureKind::RuleExists);
        other.name = None;
        let change = add(&running, other.clone()).unwrap();
        assert_eq!(change.config.unwrap().rules, [first, other]);
        assert_eq!(change.unacknowledged, Unacknowledged::Undo);
    }

    #[test]
    fn a_rule_that_feeds_itself_is_refused_with_its_place() {
        let looping = Rule {
            outputs: vec![output("eth0", "239.1.1.1", 5000)],
            ..rule("eth0", "239.1.1.1", 5000, "eth1")
        };
        let error = add(&Config::default(), looping).unwrap_err();
        assert_eq!(error.kind, FailureKind::InvalidConfig);
        assert!(!error.errors.is_empty());
    }

    #[test]
    fn a_rule_is_removed_by_id_or_name() {
        let mut named = rule("eth0", "239.1.1.1", 5000, "eth1");
        named.name = Some("studio".parse().unwrap());
        let running = config([named.clone(), rule("eth0", "239.1.1.2", 5000, "eth1")]);
        for selector in [RuleSelector::Id(named.id()), RuleSelector::Name("studio".parse().unwrap())] {
            let change = remove(&running, &selector).unwrap();
            assert_eq!(change.config.unwrap().rules, running.rules[1..]);
            assert_eq!(change.unacknowledged, Unacknowledged::Keep);
        }
        let nobody = RuleSelector::Name("nobody".parse().unwrap());
        assert_eq!(kind(remove(&running, &nobody)), FailureKind::RuleNotFound);
    }

    #[test]
    fn load_adds_or_replaces_and_a_dry_run_only_reports() {
        let running =
            config([rule("eth0", "239.1.1.1", 5000, "eth1"), rule("eth0", "239.1.1.2", 5000, "eth1")]);
        let new = config([rule("eth0", "239.1.1.2", 5000, "eth2"), rule("eth0", "239.1.1.3", 5000, "eth1")]);
        let confirm_within = Some(Duration::from_secs(9));
        let merged = load(&running, &new, LoadOptions { confirm_within, ..LoadOptions::default() }).unwrap();
        let LoadReply { applied, diff, confirm_within_s } = &merged.reply;
        assert_eq!((diff.added.len(), diff.removed.len(), diff.changed.len()), (1, 0, 1));
        assert_eq!((*applied, *confirm_within_s, merged.confirm_within), (true, Some(9), confirm_within));
        assert_eq!(merged.config.unwrap().rules.len(), 3);

        let replace = LoadOptions { replace: true, ..LoadOptions::default() };
        assert_eq!(load(&running, &new, replace).unwrap().config.as_ref(), Some(&new));

        let dry = load(&running, &new, LoadOptions { dry_run: true, confirm_within, ..replace }).unwrap();
        let LoadReply { applied, diff, confirm_within_s } = &dry.reply;
        assert_eq!((diff.added.len(), diff.removed.len(), diff.changed.len()), (1, 1, 1));
        assert!(dry.config.is_none() && !applied && confirm_within_s.is_none());

        assert!(load(&running, &running, replace).unwrap().config.is_none(), "nothing to do");
    }
}
