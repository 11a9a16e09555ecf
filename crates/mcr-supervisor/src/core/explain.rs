//! Why a rule relays or does not: the stages of a datagram's path, the state of each, and the findings. A function of
//! [`Facts`], which the shell collects.
//!
//! ```text
//!   input ─▶ join ─▶ capture ─▶ match ─▶ relay ─▶ output ─▶ downstream
//!   `input`          `arrival`  `stream` `relay`  `output`  `downstream`        the host: `host`
//! ```

mod arrival;
mod downstream;
pub(crate) mod facts;
mod fragments;
mod host;
mod input;
mod legs;
mod output;
mod relay;
mod similar;
mod stream;
mod super_frames;
mod words;

use std::cmp::Reverse;

use mcr_control::explanation::{
    Explanation, Finding, FindingId, PathStep, Severity, Stage, StepState, Verdict,
};
use mcr_rules::Rule;

use self::facts::Subject;
pub(crate) use self::facts::{Facts, HeardQuery, HostFacts, Queries, Reading, WorkerReading};
pub(crate) use self::host::explain_host;
use self::words::{bit_rate, count, rate};
use crate::core::plan::PlannedRule;

/// Explains one configured rule.
pub(crate) fn explain(facts: &Facts<'_>, rule: &Rule, planned: &PlannedRule) -> Explanation {
    let subject = Subject::new(facts, rule, planned);
    let mut account = Account::default();
    if let Some(merge) = &rule.merge {
        legs::examine(&subject, merge, &mut account);
    } else {
        input::examine(&subject, &mut account);
        input::examine_join(&subject, &mut account);
        arrival::examine(&subject, &mut account);
    }
    stream::examine(&subject, &mut account);
    relay::examine(&subject, &mut account);
    output::examine(&subject, &mut account);
    downstream::examine(&subject, &mut account);
    account.findings.sort_by_key(|finding| (Reverse(finding.severity), finding.stage));
    let verdict = account.verdict(&subject);
    let path = Stage::OF_RULE.iter().map(|stage| account.step(*stage)).collect();
    Explanation {
        id: planned.key.id,
        name: rule.name.clone(),
        input: rule.input.clone(),
        verdict,
        summary: summary(&subject, verdict, &account.findings),
        path,
        findings: account.findings,
    }
}

/// The result of examining the stages.
#[derive(Debug, Default)]
struct Account {
    findings: Vec<Finding>,
    /// The state of each stage apart from findings; `None`: determined by the findings.
    known: Vec<(Stage, Option<StepState>, String)>,
}

impl Account {
    fn find(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Records a stage as working unless there is a finding for it.
    fn know(&mut self, stage: Stage, words: impl Into<String>) {
        self.known.push((stage, None, words.into()));
    }

    /// Records that the state of a stage is unknown.
    fn mark_unknown(&mut self, stage: Stage, words: impl Into<String>) {
        self.known.push((stage, Some(StepState::Unknown), words.into()));
    }

    fn worst_of(&self, stages: impl Fn(Stage) -> bool) -> Option<Severity> {
        self.findings.iter().filter(|finding| stages(finding.stage)).map(|finding| finding.severity).max()
    }

    /// Whether a finding keeps datagrams from reaching this stage.
    fn is_stopped_before(&self, stage: Stage) -> bool {
        self.worst_of(|other| other < stage) == Some(Severity::Error)
    }

    fn step(&self, stage: Stage) -> PathStep {
        let known: Vec<_> = self.known.iter().filter(|(of, ..)| *of == stage).collect();
        let told = known.iter().map(|(.., words)| words.as_str()).filter(|words| !words.is_empty());
        let mut words = told.collect::<Vec<_>>().join("; ");
        let found = StepState::of(self.worst_of(|of| of == stage));
        let worst = self.findings.iter().filter(|finding| finding.stage == stage).max_by_key(|f| f.severity);
        let state = match known.iter().find_map(|(_, state, _)| *state) {
            Some(state) if found == StepState::Ok => state,
            _ => found,
        };
        if let Some(finding) = worst.filter(|_| words.is_empty()) {
            words.clone_from(&finding.words);
        }
        PathStep { stage, state, words }
    }

    fn verdict(&self, subject: &Subject<'_>) -> Verdict {
        let on_the_way = |stage| stage < Stage::Output;
        match self.worst_of(on_the_way) {
            Some(Severity::Error) => Verdict::Stopped,
            _ if subject.no_output_sends() => Verdict::Stopped,
            _ if self.worst_of(|_| true) >= Some(Severity::Warning) => Verdict::Impaired,
            _ => Verdict::Relaying,
        }
    }
}

fn summary(subject: &Subject<'_>, verdict: Verdict, findings: &[Finding]) -> String {
    // The most severe come first.
    let because = findings.first().map(|finding| finding.words.as_str()).unwrap_or_default();
    let flow = || {
        let (packets, bytes) = (subject.packets(), subject.bytes());
        match subject.seconds() {
            Some(seconds) => format!("{} datagrams/s, {}", rate(packets, seconds), bit_rate(bytes, seconds)),
            None => format!("{} datagrams so far", count(packets)),
        }
    };
    let absence = findings.iter().find(|finding| finding.id == FindingId::NothingArrives.name());
    match (verdict, absence) {
        (Verdict::Stopped, _) => because.to_owned(),
        // Not proved, or the stage would be stopped.
        (_, Some(absence)) => absence.words.clone(),
        (Verdict::Relaying, None) => format!("relaying {}", flow()),
        (Verdict::Impaired, None) => format!("relaying {}, but {because}", flow()),
    }
}

#[cfg(test)]
mod tests;
