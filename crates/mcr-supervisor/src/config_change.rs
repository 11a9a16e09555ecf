//! Requests that change the config, worked out: the config that would be, and what to answer once it is in force.
//! Pure; the daemon's loop puts it in force.

use std::time::Duration;

use mcr_control::reply::{DiffReply, LoadReply, RuleReply};
use mcr_rules::change::diff;
use mcr_rules::file::ConfigError;
use mcr_rules::{Config, Rule, Violation, check, check_addition};

use crate::core::machine::Unacknowledged;
use crate::request::{Reply, Request, RequestError, RequestErrorKind, RuleSelector};

/// A change of the config that a request asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// The config to put in force; `None` if nothing is to be done.
    pub(crate) config: Option<Config>,
    /// What if workers don't acknowledge it.
    pub(crate) unacknowledged: Unacknowledged,
    /// It returns after this time unless it is confirmed.
    pub(crate) confirm_within: Option<Duration>,
    /// The answer when it is in force.
    pub(crate) reply: Reply,
    /// For the log.
    pub(crate) what: String,
}

/// Works a request out against the running config; `None` if it is none that changes the config.
pub(crate) fn wish(running: &Config, request: &Request) -> Option<Result<Wish, RequestError>> {
    match request {
        Request::AddRule(rule) => Some(add(running, rule)),
        Request::RemoveRule(selector) => Some(remove(running, selector)),
        Request::LoadConfig { config, replace, dry_run, confirm_within } => {
            let confirm_within = confirm_within.filter(|_| !dry_run);
            Some(load(running, config, *replace, *dry_run).map(|wish| with_trial(wish, confirm_within)))
        }
        _ => None,
    }
}

fn add(running: &Config, rule: &Rule) -> Result<Wish, RequestError> {
    let id = rule.id();
    let exists = |what: String| {
        RequestError::new(RequestErrorKind::RuleExists, what)
            .with_hint("see `mcrctl list`; remove that rule first")
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
    config.rules.push(rule.clone());
    sound(check_addition(&config))?;
    Ok(Wish {
        config: Some(config),
        unacknowledged: Unacknowledged::Undo,
        confirm_within: None,
        reply: Reply::Rule(RuleReply { id }),
        what: format!("rule {id} added"),
    })
}

fn remove(running: &Config, selector: &RuleSelector) -> Result<Wish, RequestError> {
    let meant = |rule: &Rule| match selector {
        RuleSelector::Id(id) => rule.id() == *id,
        RuleSelector::Name(name) => rule.name.as_ref() == Some(name),
    };
    let place = running.rules.iter().position(meant).ok_or_else(|| {
        RequestError::new(RequestErrorKind::RuleNotFound, format!("there is no rule with {selector}"))
            .with_hint("`mcrctl list` shows the ids and names")
    })?;
    let mut config = running.clone();
    let id = config.rules.remove(place).id();
    Ok(Wish {
        config: Some(config),
        unacknowledged: Unacknowledged::Keep,
        confirm_within: None,
        reply: Reply::Rule(RuleReply { id }),
        what: format!("rule {id} removed"),
    })
}

fn load(running: &Config, new: &Config, replace: bool, dry_run: bool) -> Result<Wish, RequestError> {
    let config = if replace { new.clone() } else { merged(running, new) };
    sound(check(&config))?;
    let diff: DiffReply = diff(running, &config).into();
    let nothing = dry_run || diff.is_empty();
    Ok(Wish {
        config: (!nothing).then_some(config),
        unacknowledged: Unacknowledged::Undo,
        confirm_within: None,
        what: format!(
            "config loaded: {} rules added, {} removed, {} changed",
            diff.added.len(),
            diff.removed.len(),
            diff.changed.len()
        ),
        reply: Reply::Loaded(LoadReply { applied: !dry_run, diff, confirm_within_s: None }),
    })
}

/// A change that returns unless it is confirmed; one that changes nothing has nothing to return to.
fn with_trial(mut wish: Wish, confirm_within: Option<Duration>) -> Wish {
    wish.confirm_within = confirm_within.filter(|_| wish.config.is_some());
    if let Reply::Loaded(reply) = &mut wish.reply {
        reply.confirm_within_s = wish.confirm_within.map(|within| within.as_secs());
    }
    wish
}

/// The running config with the new one's rules and pinning on top.
fn merged(running: &Config, new: &Config) -> Config {
    let mut config = running.clone();
    let places: std::collections::BTreeMap<_, _> =
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

fn sound(violations: Vec<Violation>) -> Result<(), RequestError> {
    let errors: Vec<ConfigError> = violations
        .into_iter()
        .map(|violation| ConfigError {
            location: None,
            path: violation.path,
            message: violation.message,
            hint: violation.hint,
        })
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(RequestError::invalid(errors)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::plan::samples::{config, output, rule};

    fn load_of(config: Config, replace: bool, dry_run: bool) -> Request {
        Request::LoadConfig { config: Box::new(config), replace, dry_run, confirm_within: None }
    }

    fn kind(result: Option<Result<Wish, RequestError>>) -> RequestErrorKind {
        result.unwrap().unwrap_err().kind
    }

    #[test]
    fn a_rule_is_added_once_by_input_and_once_by_name() {
        let mut first = rule("eth0", "239.1.1.1", 5000, "eth1");
        first.name = Some("studio".parse().unwrap());
        let running = config([first.clone()]);
        let mut again = first.clone();
        again.outputs = vec![output("eth2", "239.9.9.9", 9)];
        assert_eq!(kind(wish(&running, &Request::AddRule(Box::new(again)))), RequestErrorKind::RuleExists);
        let mut other = rule("eth0", "239.1.1.2", 5000, "eth1");
        other.name.clone_from(&first.name);
        assert_eq!(
            kind(wish(&running, &Request::AddRule(Box::new(other.clone())))),
            RequestErrorKind::RuleExists
        );
        other.name = None;
        let wish = wish(&running, &Request::AddRule(Box::new(other.clone()))).unwrap().unwrap();
        assert_eq!(wish.config.unwrap().rules, [first, other]);
        assert_eq!(wish.unacknowledged, Unacknowledged::Undo);
    }

    #[test]
    fn a_rule_that_feeds_itself_is_refused_with_its_place() {
        let request = Request::AddRule(Box::new(Rule {
            outputs: vec![output("eth0", "239.1.1.1", 5000)],
            ..rule("eth0", "239.1.1.1", 5000, "eth1")
        }));
        let error = wish(&Config::default(), &request).unwrap().unwrap_err();
        assert_eq!(error.kind, RequestErrorKind::InvalidConfig);
        assert!(!error.errors.is_empty());
    }

    #[test]
    fn a_rule_is_removed_by_id_or_name() {
        let mut named = rule("eth0", "239.1.1.1", 5000, "eth1");
        named.name = Some("studio".parse().unwrap());
        let running = config([named.clone(), rule("eth0", "239.1.1.2", 5000, "eth1")]);
        for selector in [RuleSelector::Id(named.id()), RuleSelector::Name("studio".parse().unwrap())] {
            let wish = wish(&running, &Request::RemoveRule(selector)).unwrap().unwrap();
            assert_eq!(wish.config.unwrap().rules, running.rules[1..]);
            assert_eq!(wish.unacknowledged, Unacknowledged::Keep);
        }
        let nobody = RuleSelector::Name("nobody".parse().unwrap());
        assert_eq!(kind(wish(&running, &Request::RemoveRule(nobody))), RequestErrorKind::RuleNotFound);
    }

    #[test]
    fn load_adds_or_replaces_and_a_dry_run_only_tells() {
        let running =
            config([rule("eth0", "239.1.1.1", 5000, "eth1"), rule("eth0", "239.1.1.2", 5000, "eth1")]);
        let new = config([rule("eth0", "239.1.1.2", 5000, "eth2"), rule("eth0", "239.1.1.3", 5000, "eth1")]);
        let merged = wish(&running, &load_of(new.clone(), false, false)).unwrap().unwrap();
        let Reply::Loaded(LoadReply { applied: true, diff, .. }) = &merged.reply else {
            panic!("{merged:?}")
        };
        assert_eq!((diff.added.len(), diff.removed.len(), diff.changed.len()), (1, 0, 1));
        assert_eq!(merged.config.unwrap().rules.len(), 3);

        let replaced = wish(&running, &load_of(new.clone(), true, false)).unwrap().unwrap();
        assert_eq!(replaced.config.as_ref(), Some(&new));

        let dry = wish(&running, &load_of(new, true, true)).unwrap().unwrap();
        let Reply::Loaded(LoadReply { applied: false, diff, .. }) = &dry.reply else { panic!("{dry:?}") };
        assert_eq!((diff.added.len(), diff.removed.len(), diff.changed.len()), (1, 1, 1));
        assert!(dry.config.is_none());

        let same = wish(&running, &load_of(running.clone(), true, false)).unwrap().unwrap();
        assert!(same.config.is_none(), "nothing to do");
    }
}
