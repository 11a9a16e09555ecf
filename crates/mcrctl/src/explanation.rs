//! `explain` and `doctor` as text: the path of a rule, stage by stage, then each finding with its hint.

use std::collections::BTreeMap;
use std::fmt::Write;

use mcr_control::explanation::{ExplainReply, Explanation, Finding, Severity, StepState, Verdict};
use mcr_rules::Input;

use crate::failure::printable;
use crate::format::counted;
use crate::render::{place, rule_title};

/// Maximum length of a line; words are not broken.
const WIDTH: usize = 100;
/// Of rules with the same findings, `doctor` shows this many in full, and as many as [`NAMED`] more by name.
const ALIKE: usize = 3;
const NAMED: usize = 8;

/// Rules with their paths.
pub(crate) fn rules(reply: &ExplainReply) -> String {
    let mut text = String::new();
    for (n, rule) in reply.rules.iter().enumerate() {
        if n > 0 {
            text.push('\n');
        }
        whole_rule(&mut text, rule);
    }
    text
}

/// The host, then the rules with findings, then the totals.
pub(crate) fn doctor(reply: &ExplainReply) -> String {
    let mut text = String::new();
    if let Some(host) = &reply.host {
        text.push_str("host\n");
        let width = host.checks.iter().map(|check| check.topic.len()).max().unwrap_or_default();
        for check in &host.checks {
            line(&mut text, &format!("  {:width$}  {:7}  ", check.topic, state(check.state)), &check.words);
        }
        findings(&mut text, &host.findings);
        text.push('\n');
    }
    let (well, unwell): (Vec<_>, Vec<_>) =
        reply.rules.iter().partition(|rule| rule.verdict == Verdict::Relaying && rule.findings.is_empty());
    let mut alike: BTreeMap<Vec<&str>, Vec<&Explanation>> = BTreeMap::new();
    for rule in &unwell {
        let same =
            alike.entry(rule.findings.iter().map(|finding| finding.id.as_str()).collect()).or_default();
        same.push(rule);
        if same.len() <= ALIKE {
            line(&mut text, "", &format!("{}: {}", title(rule), rule.summary));
            findings(&mut text, &rule.findings);
            text.push('\n');
        }
    }
    for (ids, same) in alike.iter().filter(|(_, same)| same.len() > ALIKE) {
        let more = &same[ALIKE..];
        let named: Vec<String> = more.iter().take(NAMED).map(|rule| name(rule)).collect();
        let rest =
            if more.len() > NAMED { format!(" and {} more", more.len() - NAMED) } else { String::new() };
        let count = counted(more.len(), "more rule");
        let words =
            format!("{count} with the same findings ({}): {}{rest}", ids.join(", "), named.join(", "));
        line(&mut text, "", &words);
        text.push('\n');
    }
    let of_host = reply.host.iter().flat_map(|host| &host.findings);
    let found: Vec<_> = unwell.iter().flat_map(|rule| &rule.findings).chain(of_host).collect();
    let count = |severity| found.iter().filter(|finding| finding.severity == severity).count();
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "{} of {} rules relay; {} errors, {} warnings, {} notes",
        well.len() + unwell.iter().filter(|rule| rule.verdict != Verdict::Stopped).count(),
        reply.rules.len(),
        count(Severity::Error),
        count(Severity::Warning),
        count(Severity::Note),
    );
    text
}

fn name(rule: &Explanation) -> String {
    rule_title(rule.id, rule.name.as_ref())
}

fn title(rule: &Explanation) -> String {
    let Input { interface, group, port, .. } = &rule.input;
    format!("{} ({})", name(rule), place(interface, *group, *port))
}

fn whole_rule(text: &mut String, rule: &Explanation) {
    let verdict = rule.verdict.name().to_uppercase();
    line(text, "", &format!("{}: {verdict}", title(rule)));
    line(text, "  ", &rule.summary);
    text.push('\n');
    for step in &rule.path {
        line(text, &format!("  {:10}  {:7}  ", step.stage.name(), state(step.state)), &step.words);
    }
    findings(text, &rule.findings);
}

/// How a stage fares, in a word.
pub(crate) fn state(state: StepState) -> &'static str {
    match state {
        StepState::Ok => "ok",
        StepState::Warning => "warning",
        StepState::Stopped => "STOPPED",
        StepState::Unknown => "?",
    }
}

fn findings(text: &mut String, findings: &[Finding]) {
    for finding in findings {
        text.push('\n');
        line(
            text,
            &format!("  {}  ", finding.severity.name()),
            &format!("{}: {}", finding.id, finding.words),
        );
        let evidence: Vec<String> = finding
            .evidence
            .iter()
            .map(|(name, value)| {
                format!("{name} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            })
            .collect();
        if !evidence.is_empty() {
            line(text, "    evidence: ", &evidence.join(", "));
        }
        if let Some(hint) = &finding.hint {
            line(text, "    hint: ", hint);
        }
    }
}

/// Appends text after a head, wrapped with a hanging indent.
fn line(text: &mut String, head: &str, words: &str) {
    let indent = head.chars().count();
    text.push_str(head);
    let mut column = indent;
    for (n, word) in words.split(' ').enumerate() {
        let word = printable(word);
        let length = word.chars().count();
        if n > 0 && column + 1 + length > WIDTH {
            text.push('\n');
            text.push_str(&" ".repeat(indent));
            column = indent;
        } else if n > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(&word);
        column += length;
    }
    let kept = text.trim_end_matches(' ').len();
    text.truncate(kept);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use mcr_control::explanation::{FindingId, HostCheck, HostReport, PathStep, Stage};
    use mcr_rules::RuleId;

    use super::*;

    fn stopped() -> Explanation {
        let finding = Finding::new(FindingId::OtherPort, "239.1.1.1 arrives on port 5004, not 5000")
            .with("frames", 12)
            .hint("set the rule's input port to 5004");
        Explanation {
            id: RuleId::from_bits(1),
            name: Some("studio".parse().unwrap()),
            input: mcr_rules::Input {
                interface: "eth0".parse().unwrap(),
                group: "239.1.1.1".parse().unwrap(),
                port: 5000,
                sources: Vec::new(),
                options: mcr_rules::InputOptions::default(),
            },
            verdict: Verdict::Stopped,
            summary: finding.words.clone(),
            path: vec![
                PathStep { stage: Stage::Input, state: StepState::Ok, words: "eth0 is up".to_owned() },
                PathStep { stage: Stage::Match, state: StepState::Stopped, words: "a b\u{1b}".to_owned() },
            ],
            findings: vec![finding],
        }
    }

    #[test]
    fn a_rule_shows_its_path_and_what_to_do() {
        let reply = ExplainReply { listened_ms: 2000, rules: vec![stopped()], host: None };
        let expected = "studio (eth0 239.1.1.1:5000): STOPPED\n  239.1.1.1 arrives on port 5004, not 5000\n\n\
            \x20 input       ok       eth0 is up\n  match       STOPPED  a b\\u{1b}\n\n\
            \x20 error  other_port: 239.1.1.1 arrives on port 5004, not 5000\n\
            \x20   evidence: frames 12\n    hint: set the rule's input port to 5004\n";
        assert_eq!(rules(&reply), expected);
    }

    #[test]
    fn the_doctor_summarizes_rules_with_the_same_findings() {
        let many = |n: usize| {
            let rule = |n: usize| Explanation { name: Some(format!("r{n}").parse().unwrap()), ..stopped() };
            doctor(&ExplainReply { listened_ms: 0, rules: (0..n).map(rule).collect(), host: None })
        };
        let times = |text: &str| text.matches("other_port: 239.1.1.1").count();
        assert_eq!((times(&many(3)), times(&many(100))), (3, 3));
        assert!(!many(3).contains("more rule"));
        assert!(
            many(5).contains("2 more rules with the same findings (other_port): r3, r4\n"),
            "{}",
            many(5)
        );
        let all = "97 more rules with the same findings (other_port): r3, r4, r5, r6, r7, r8, r9, r10 and 89 more\n\n\
            0 of 100 rules relay; 100 errors, 0 warnings, 0 notes\n";
        assert!(many(100).ends_with(all), "{}", many(100));
    }

    #[test]
    fn the_doctor_counts_rules_without_findings() {
        let mut well = stopped();
        well.verdict = Verdict::Relaying;
        well.findings.clear();
        let check =
            HostCheck { topic: "kernel".to_owned(), state: StepState::Ok, words: "Linux 6.18".to_owned() };
        let host = HostReport { checks: vec![check], findings: Vec::new() };
        let reply = ExplainReply { listened_ms: 0, rules: vec![well, stopped()], host: Some(host) };
        let text = doctor(&reply);
        assert!(text.starts_with("host\n  kernel  ok       Linux 6.18\n\nstudio (eth0"), "{text}");
        assert!(text.ends_with("\n\n1 of 2 rules relay; 1 errors, 0 warnings, 0 notes\n"), "{text}");
    }

    #[test]
    fn long_lines_wrap_behind_their_head() {
        let mut text = String::new();
        line(&mut text, "  head  ", &"word ".repeat(30));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].len() <= WIDTH && lines[1].starts_with("        word"), "{text}");
    }
}
