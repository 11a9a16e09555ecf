//! The event log: bounded, newest last.

use std::collections::{BTreeMap, VecDeque};

use mcr_rules::RuleId;

use super::changes::Change;
use super::theme::Tone;
use crate::failure::printable;

/// How many events are kept.
const KEPT: usize = 500;
/// More changes of one kind at one time are summed up as one event.
const TOLD_APART: usize = 4;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Counts up from the first event.
    pub number: u64,
    /// Seconds since 1970.
    pub wall: u64,
    pub tone: Tone,
    pub text: String,
    pub rule: Option<RuleId>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    events: VecDeque<Event>,
    last: u64,
}

impl Log {
    /// Adds what has changed at one time.
    pub(super) fn add(&mut self, wall: u64, changes: Vec<Change>) {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for change in &changes {
            *kinds.entry(change.kind.clone()).or_default() += 1;
        }
        for change in changes {
            match kinds.get(&change.kind).copied().unwrap_or_default() {
                // Told with the first of them.
                0 => {}
                1..=TOLD_APART => self.push(wall, change.tone, &change.text, change.rule),
                many => {
                    self.push(wall, change.tone, &format!("{many} {}", change.kind), None);
                    kinds.insert(change.kind, 0);
                }
            }
        }
    }

    fn push(&mut self, wall: u64, tone: Tone, text: &str, rule: Option<RuleId>) {
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.last += 1;
        self.events.push_back(Event { number: self.last, wall, tone, text: printable(text), rule });
    }

    /// The events, newest first.
    pub(super) fn newest(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_of_a_kind_are_one_event() {
        let mut log = Log::default();
        let changes =
            |n: usize| (0..n).map(|n| Change::new("rules active", Tone::Good, format!("rule {n}: active")));
        log.add(1, changes(TOLD_APART).collect());
        log.add(2, changes(900).chain([Change::new("x", Tone::Bad, "something else")]).collect());
        let texts: Vec<&str> = log.newest().map(|event| event.text.as_str()).collect();
        assert_eq!(texts.len(), TOLD_APART + 2);
        assert_eq!(texts[..2], ["something else", "900 rules active"]);
    }

    #[test]
    fn the_oldest_events_go() {
        let mut log = Log::default();
        for n in 0..2 * KEPT {
            log.add(0, vec![Change::new("x", Tone::Plain, n.to_string())]);
        }
        assert_eq!(log.newest().count(), KEPT);
        assert_eq!(log.newest().last().map(|event| event.text.as_str()), Some("500"));
    }
}
