//! The detail page of one rule: input, rates, outputs, explanation, drops and events.

use std::net::SocketAddr;

use mcr_control::explanation::{Explanation, Severity, Verdict};
use mcr_control::reply::{Engine, FlowStatus, RuleStats, RuleStatus};
use mcr_control::trace::TraceWhat;
use mcr_rules::RuleId;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::grid::Chosen;
use super::page::{Page, Piece};
use crate::failure::printable;
use crate::format::{grouped, short, span, time_of_day, with_unit};
use crate::rates::Window;
use crate::render::{self, per_frame, place, rule_title};
use crate::top::changes::state_tone;
use crate::top::snapshot::{Answer, Traced};
use crate::top::state::State;
use crate::top::state::tables::{meaning, rule_outputs};
use crate::top::theme::{Theme, Tone};
use crate::trace::lines::short_line;

/// Maximum number of lines of the page.
const MAX_LINES: u16 = 400;
/// Events of the rule that are shown.
const EVENTS: usize = 20;
/// Sources of the rule that are shown.
const SOURCES: usize = 4;
/// Records of a trace that are shown.
const TRACED: usize = 12;
/// Column of the text beside a term.
const BESIDE: u16 = 12;

/// Draws the part of the page that fits, from line `scroll` on.
pub(super) fn draw(state: &State, theme: Theme, rule: RuleId, scroll: u16, area: Rect, buffer: &mut Buffer) {
    let whole = Rect { x: 0, y: 0, width: area.width, height: MAX_LINES };
    let mut drawn = Buffer::empty(whole);
    let mut page = Page::new(theme, whole, &mut drawn);
    match state.snapshot.rule(rule) {
        Some(rule) => write(state, rule, &mut page),
        None => page.line(&[Piece::new("this rule has been removed; Esc goes back", Tone::Warn)]),
    }
    let last = page.used().min(MAX_LINES);
    let first = scroll.min(last.saturating_sub(area.height));
    for y in 0..area.height.min(last.saturating_sub(first)) {
        for x in 0..area.width {
            if let (Some(to), Some(from)) =
                (buffer.cell_mut((area.x + x, area.y + y)), drawn.cell((x, first + y)))
            {
                to.clone_from(from);
            }
        }
    }
}

fn write(state: &State, rule: &RuleStatus, page: &mut Page<'_>) {
    let stats = state.snapshot.stats.rules.iter().find(|stats| stats.id == rule.id);
    let title = rule_title(rule.id, rule.name.as_ref());
    page.title(&[
        Piece::new(format!("Rule {}", printable(&title)), Tone::Title),
        Piece::new(page.theme.dot(), Tone::Plain),
        Piece::new(rule.state.name(), state_tone(rule.state)),
    ]);
    if rule.engine != Engine::Worker || rule.engine_reason.is_some() {
        page.beside("engine", BESIDE, &render::engine(rule));
    }
    if let Some(reason) = &rule.reason {
        page.beside("reason", BESIDE, &printable(reason));
    }
    facts(state, rule, stats, page);
    trace(state, rule.id, page);
    page.title(&[Piece::new(
        format!("Outputs {}{}rates over {}", rule.outputs.len(), page.theme.dot(), state.window.name()),
        Tone::Title,
    )]);
    let outputs = rule_outputs(state, rule);
    let lines = u16::try_from(outputs.rows.len() + 1).unwrap_or(MAX_LINES);
    page.table(&outputs, lines, &Chosen::default());
    for output in &rule.outputs {
        let place = place(&output.interface, output.group, output.port);
        let source = output.options.source.map(|source| source.to_string());
        let port = output.options.source_port.map(|port| format!("port {port}"));
        if source.is_some() || port.is_some() {
            let from: Vec<String> = source.into_iter().chain(port).collect();
            page.wrapped(1, &format!("{place}: sent from {}", from.join(", ")), Tone::Plain);
        }
        if let Some(reason) = &output.reason {
            page.wrapped(1, &format!("{place}: {}", printable(reason)), Tone::Warn);
        }
    }
    explanation(state, rule.id, page);
    drops(stats, page);
    events(state, rule.id, page);
}

fn facts(state: &State, rule: &RuleStatus, stats: Option<&RuleStats>, page: &mut Page<'_>) {
    let input = &rule.input;
    let sources: Vec<String> = input.sources.iter().map(ToString::to_string).collect();
    let from = if sources.is_empty() {
        "any source".to_owned()
    } else {
        format!("only from {}", sources.join(", "))
    };
    let options = input.options.to_string();
    let options = if options.is_empty() { options } else { format!(", {options}") };
    let place = place(&input.interface, input.group, input.port);
    page.beside("input", BESIDE, &format!("{place}, {from}{options}"));
    for leg in rule.inputs.iter().skip(1) {
        let place = self::place(&leg.interface, leg.group, leg.port);
        page.beside("", BESIDE, &place);
    }
    legs(rule, stats, page);
    let limit = rule.options.max_pps;
    let limit = limit.map(|limit| format!(", at most {limit} datagrams/s per worker")).unwrap_or_default();
    page.beside("id", BESIDE, &format!("{}{limit}", rule.id));
    for window in [Window::Second, Window::TenSeconds] {
        let rate = state.measured.rule(rule.id, window).map_or_else(
            || "-".to_owned(),
            |flow| {
                format!(
                    "{} datagrams/s, {}, {} drops/s",
                    short(flow.datagrams),
                    with_unit(flow.bits, "bit/s"),
                    short(flow.drops)
                )
            },
        );
        page.beside(&format!("over {}", window.name()), BESIDE, &rate);
    }
    if let Some(stats) = stats {
        let per_frame = per_frame(stats.per_frame);
        let total = format!(
            "{} datagrams, {} bytes, {per_frame} datagrams per frame",
            grouped(stats.packets),
            grouped(stats.bytes)
        );
        page.beside("total", BESIDE, &total);
        skips(stats, page);
    }
    flows(state, rule.id, page);
    let trend = state.measured.rule_trend(rule.id);
    let highest = trend.iter().copied().fold(0.0, f64::max);
    let room = usize::from(page.width().saturating_sub(BESIDE + 24)).min(trend.len());
    let bars = page.theme.sparkline(&trend, None, room);
    page.beside("trend", BESIDE, &format!("{bars}  highest {}/s", short(highest)));
}

/// How a merged rule is merged, and what each leg brought.
fn legs(rule: &RuleStatus, stats: Option<&RuleStats>, page: &mut Page<'_>) {
    let Some(merge) = &rule.merge else { return };
    let lost = stats.and_then(|stats| stats.lost).unwrap_or_default();
    page.beside("legs", BESIDE, &format!("{merge}, lost on all {}", grouped(lost)));
    for (number, leg) in (1..).zip(stats.into_iter().flat_map(|stats| &stats.legs)) {
        let words = format!(
            "{} datagrams, lost {}, unique {}, too late {}, {:.1} ms behind",
            grouped(leg.packets),
            grouped(leg.lost),
            grouped(leg.unique),
            grouped(leg.too_late),
            f64::from(u32::try_from(leg.skew_us).unwrap_or(u32::MAX)) / 1_000.0
        );
        page.beside(&format!("leg {number}"), BESIDE, &words);
    }
}

/// What the rule did not relay, and the last of it.
fn skips(stats: &RuleStats, page: &mut Page<'_>) {
    if stats.skips.is_empty() {
        return;
    }
    let by_reason: Vec<String> =
        stats.skips.iter().map(|(reason, n)| format!("{} {}", grouped(*n), printable(reason))).collect();
    let last = stats.last_skip.as_ref().map(|last| {
        let at = time_of_day(last.at_ms / 1_000);
        format!("; the last from {} at {at} ({})", last.source, printable(&last.reason))
    });
    page.beside("skipped", BESIDE, &format!("{}{}", by_reason.join(", "), last.unwrap_or_default()));
}

/// Sources, the one with the highest rate first.
fn flows(state: &State, rule: RuleId, page: &mut Page<'_>) {
    let mut flows: Vec<&FlowStatus> =
        state.snapshot.flows.flows.iter().filter(|flow| flow.rule == rule).collect();
    flows.sort_by(|one, other| other.flowing.cmp(&one.flowing).then(other.pps.total_cmp(&one.pps)));
    for flow in flows.iter().take(SOURCES) {
        page.beside("source", BESIDE, &source(flow, state.snapshot.wall));
    }
    if flows.len() > SOURCES {
        page.beside("", BESIDE, &format!("and {} more: mcrctl flows", flows.len() - SOURCES));
    }
}

fn source(flow: &FlowStatus, now: u64) -> String {
    let address = SocketAddr::new(flow.source, flow.port);
    let since = |at_ms: u64| span(now.saturating_sub(at_ms / 1_000));
    let text = if flow.flowing {
        let (rate, bits) = (short(flow.pps), with_unit(flow.bps, "bit/s"));
        format!("{address}, {rate} datagrams/s, {bits}, for {}", since(flow.first_ms))
    } else {
        format!("{address}, silent for {}", since(flow.last_ms))
    };
    let Some(health) = flow.health else { return text };
    let faults = [
        (health.lost, "lost"),
        (health.reordered, "reordered"),
        (health.duplicates, "duplicate"),
        (health.continuity_errors, "continuity errors"),
        (health.malformed, "malformed"),
    ];
    let found: Vec<String> =
        faults.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", grouped(*n))).collect();
    let found = if found.is_empty() { "no loss".to_owned() } else { found.join(", ") };
    format!("{text}; {found} upstream")
}

fn explanation(state: &State, rule: RuleId, page: &mut Page<'_>) {
    let answer = state.answer.as_ref().filter(|(asked, _)| *asked == rule).map(|(_, answer)| answer);
    let title = |page: &mut Page<'_>, more: &str| {
        page.title(&[Piece::new("Explanation", Tone::Title), Piece::new(more, Tone::Plain)]);
    };
    match answer {
        None => {}
        Some(Answer::Asked { listen }) => {
            let what = if *listen { " (listening)" } else { " (asking mcrd)" };
            title(page, what);
        }
        Some(Answer::Failed(why)) => {
            title(page, "");
            page.wrapped(1, &printable(why), Tone::Warn);
        }
        Some(Answer::Received { wall, listened_ms, explanation }) => {
            let of = if *listened_ms > 0 { "listening and counters" } else { "counters" };
            title(page, &format!("{}from {of}, {} UTC", page.theme.dot(), time_of_day(*wall)));
            explained(explanation, page);
        }
    }
}

/// The verdict, each finding with its hint, and the path.
fn explained(explanation: &Explanation, page: &mut Page<'_>) {
    let tone = match explanation.verdict {
        Verdict::Relaying => Tone::Good,
        Verdict::Impaired => Tone::Warn,
        Verdict::Stopped => Tone::Bad,
    };
    let verdict = match explanation.verdict {
        // The summary says so itself.
        Verdict::Relaying => String::new(),
        other => format!("{}: ", other.name()),
    };
    page.wrapped(1, &printable(&format!("{verdict}{}", explanation.summary)), tone);
    for finding in &explanation.findings {
        let tone = match finding.severity {
            Severity::Note => Tone::Plain,
            Severity::Warning => Tone::Warn,
            Severity::Error => Tone::Bad,
        };
        let text = format!("{} {}: {}", finding.severity.name(), finding.id, finding.words);
        page.wrapped(1, &printable(&text), tone);
        if let Some(hint) = &finding.hint {
            page.wrapped(3, &printable(&format!("hint: {hint}")), Tone::Plain);
        }
    }
    for step in &explanation.path {
        let text = format!("{}: {}", crate::explanation::state(step.state), step.words);
        page.beside(step.stage.name(), BESIDE, &printable(&text));
    }
}

/// Trace records, the newest last.
fn trace(state: &State, rule: RuleId, page: &mut Page<'_>) {
    let Some((_, traced)) = state.traced.as_ref().filter(|(asked, _)| *asked == rule) else { return };
    page.title(&[Piece::new("Trace", Tone::Title)]);
    match traced {
        Traced::Asked => page.line(&[Piece::new("waiting for datagrams", Tone::Dim)]),
        Traced::Failed(why) => page.wrapped(1, &printable(why), Tone::Warn),
        Traced::Received { records, summary, .. } => {
            page.wrapped(1, summary, Tone::Dim);
            for record in &records[records.len().saturating_sub(TRACED)..] {
                let tone = match record.what {
                    TraceWhat::Dropped => Tone::Bad,
                    TraceWhat::Skipped => Tone::Warn,
                    TraceWhat::Received | TraceWhat::Matched | TraceWhat::Sent => Tone::Plain,
                };
                page.wrapped(1, &printable(&short_line(record)), tone);
            }
        }
    }
}

fn drops(stats: Option<&RuleStats>, page: &mut Page<'_>) {
    let outputs = stats.map(|stats| stats.outputs.as_slice()).unwrap_or_default();
    if outputs.iter().all(|output| output.errors == 0) {
        return;
    }
    page.title(&[Piece::new("Drops since mcrd started", Tone::Title)]);
    for output in outputs {
        let place = place(&output.interface, output.group, output.port);
        for (reason, count) in output.drops.iter().filter(|(_, count)| **count > 0) {
            let text = format!("{place}: {} {reason}: {}", grouped(*count), meaning(reason));
            page.wrapped(1, &printable(&text), Tone::Bad);
        }
        if let Some(error) = output.last_error.as_ref().filter(|_| output.errors > 0) {
            page.wrapped(3, &format!("last send error: {}", printable(error)), Tone::Plain);
        }
    }
}

fn events(state: &State, rule: RuleId, page: &mut Page<'_>) {
    page.title(&[Piece::new("Events", Tone::Title)]);
    let mut events = state.log.newest().filter(|event| event.rule == Some(rule)).take(EVENTS).peekable();
    if events.peek().is_none() {
        page.line(&[Piece::new("no events of this rule yet", Tone::Dim)]);
    }
    for event in events {
        let time = Piece::new(format!("{}  ", time_of_day(event.wall)), Tone::Dim);
        page.line(&[time, Piece::new(event.text.clone(), event.tone)]);
    }
}
