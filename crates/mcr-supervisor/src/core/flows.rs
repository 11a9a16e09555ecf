//! Whether datagrams of a rule arrive, and from which sources, by sample. "Link up, joined, silent" is an alarm.
//!
//! | event | when |
//! |---|---|
//! | started | a rule's first datagram after silence; or another source of a rule that has one |
//! | stopped | no datagram for the silence timeout: of a rule, or of one of several sources |
//! | silent | a rule is ready, its groups are joined, and nothing at all arrived for the silence timeout |

use std::collections::BTreeMap;
use std::time::Duration;

use mcr_control::event::{Event, EventKind};
use mcr_link::telemetry::flows::FlowSnapshot;
use mcr_rules::{Config, Rule, RuleId};

use crate::core::machine::Machine;
use crate::core::plan::{PlannedRule, Readiness, RuleKey};
use crate::core::rates::Rates;
use crate::core::reconcile::all_joined;
use crate::core::senders::{FlowChange, FlowId, Sources};
use crate::core::status::is_joined;

/// Up to this number of events of a kind are reported one by one; more as one summary.
const MAX_INDIVIDUAL: usize = 8;

/// The state of a rule's datagrams.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    flowing: bool,
    /// Since when it can receive; `None` while it can't.
    ready_since: Option<Duration>,
    /// It could receive, and received nothing for too long.
    silent: bool,
}

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flows {
    rules: BTreeMap<RuleKey, Flow>,
    sources: Sources,
    /// The next sample shows what an earlier supervisor has reported.
    is_reported: bool,
}

#[derive(Default)]
struct FlowChanges<'a> {
    started: Vec<(&'a Rule, RuleId)>,
    stopped: Vec<(&'a Rule, RuleId)>,
    silent: Vec<(&'a Rule, RuleId)>,
}

impl Flows {
    /// For a supervisor that adopts the state of an earlier one, which has reported what flows and what does not.
    pub(crate) fn adopted() -> Self {
        Self { is_reported: true, ..Self::default() }
    }

    /// Takes a sample of all rules. Returns the flows that started or stopped.
    pub(crate) fn sample(
        &mut self,
        now: Duration,
        machine: &Machine,
        rates: &Rates,
        flows: &BTreeMap<FlowId, FlowSnapshot>,
    ) -> Vec<Event> {
        let (config, plan, actual) = (machine.config(), machine.plan(), machine.actual());
        let silence = Duration::from_secs(config.settings.flow_silence_s.into());
        let flow_changes = self.sources.sample(now, silence, flows);
        let before = std::mem::take(&mut self.rules);
        let mut changes = FlowChanges::default();
        let is_reported = self.is_reported;
        // The usual case, decided at once for thousands of rules.
        let joined = all_joined(plan, actual);
        let rules = config.rules.iter().zip(&plan.rules).map(|(rule, planned)| {
            let last = rates.last_datagram(planned.key);
            let was = before.get(&planned.key).copied().unwrap_or_else(|| Flow {
                ready_since: (is_reported && !last.is_zero()).then_some(last),
                ..Flow::default()
            });
            let flow = next(was, now, silence, last, || {
                can_relay(planned) && (joined || is_joined(planned, actual))
            });
            let named = (rule, planned.key.id);
            match (was.flowing, flow.flowing) {
                (false, true) => changes.started.push(named),
                (true, false) => changes.stopped.push(named),
                _ if flow.silent && !was.silent => changes.silent.push(named),
                _ => {}
            }
            (planned.key, flow)
        });
        self.rules = rules.collect();
        if std::mem::take(&mut self.is_reported) {
            return Vec::new();
        }
        self.events(&changes, &flow_changes, config, silence)
    }

    /// Whether a rule is ready and has received nothing for the silence timeout.
    pub(crate) fn is_silent(&self, key: RuleKey) -> bool {
        self.rules.get(&key).is_some_and(|flow| flow.silent)
    }

    /// The flows and their rates.
    pub(crate) fn sources(&self) -> &Sources {
        &self.sources
    }

    fn events(
        &self,
        changes: &FlowChanges<'_>,
        flow_changes: &[FlowChange],
        config: &Config,
        silence: Duration,
    ) -> Vec<Event> {
        let seconds = silence.as_secs();
        let mut events = Vec::new();
        for (which, state, what) in [
            (&changes.started, "started", "datagrams arrive".to_owned()),
            (&changes.stopped, "stopped", format!("no datagram for {seconds} s")),
            (&changes.silent, "silent", format!("joined, but no datagram received for {seconds} s")),
        ] {
            if which.len() > MAX_INDIVIDUAL {
                events.push(many(which.len(), state, format!("{what}: {} rules", which.len())));
                continue;
            }
            events.extend(which.iter().map(|(rule, id)| {
                let mut sources = self.sources.flowing(*id);
                let source = sources.next().filter(|_| sources.next().is_none());
                Event {
                    source: source.map(|source| source.ip()),
                    ..of_rule(rule, *id, state, format!("{what} ({})", rule.input))
                }
            }));
        }
        // Events of the rule as a whole are reported above.
        let alone = |change: &&FlowChange| {
            let told = if change.started { &changes.started } else { &changes.stopped };
            !told.iter().any(|(_, id)| *id == change.flow.0)
        };
        let (started, stopped): (Vec<&FlowChange>, Vec<&FlowChange>) =
            flow_changes.iter().filter(alone).partition(|change| change.started);
        for (which, state, what) in [(started, "started", "new flow"), (stopped, "stopped", "flow stopped")] {
            if which.len() > MAX_INDIVIDUAL {
                events.push(many(which.len(), state, format!("{what}: {} flows", which.len())));
                continue;
            }
            events.extend(which.into_iter().filter_map(|change| {
                let (id, source) = change.flow;
                let rule = config.rules.iter().find(|rule| rule.id() == id)?;
                let words = format!("{what} from {source} ({})", rule.input);
                Some(Event { source: Some(source.ip()), ..of_rule(rule, id, state, words) })
            }));
        }
        events
    }
}

fn many(count: usize, state: &str, words: String) -> Event {
    let (count, state) = (Some(count as u64), Some(state.to_owned()));
    Event { count, state, ..Event::new(EventKind::Flow, words) }
}

fn of_rule(rule: &Rule, id: RuleId, state: &str, words: String) -> Event {
    Event {
        rule: Some(id),
        interface: Some(rule.input.interface.to_string()),
        group: Some(rule.input.group),
        state: Some(state.to_owned()),
        ..Event::new(EventKind::Flow, words)
    }
}

fn next(was: Flow, now: Duration, silence: Duration, last: Duration, is_ready: impl Fn() -> bool) -> Flow {
    let flowing = !last.is_zero() && now.saturating_sub(last) < silence;
    if flowing {
        return Flow { flowing, ready_since: was.ready_since.or(Some(now)), silent: false };
    }
    let ready_since = is_ready().then(|| was.ready_since.unwrap_or(now));
    let silent = ready_since.is_some_and(|since| now.saturating_sub(since.max(last)) >= silence);
    Flow { flowing, ready_since, silent }
}

/// Whether it is installed, and its interface can deliver.
fn can_relay(rule: &PlannedRule) -> bool {
    rule.installed.is_some() && !matches!(rule.input, Readiness::Waiting(_))
}

#[cfg(test)]
mod tests;
