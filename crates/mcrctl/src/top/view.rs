//! The state as characters: everything is drawn into a buffer, of whatever size.

mod detail;
mod grid;
mod help;
mod page;
mod rows;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use self::grid::Chosen;
use self::page::{Page, Piece};
use super::series::{Flow, Kind};
use super::state::{Link, Over, State, Tab, tables};
use super::table::Table;
use super::theme::{Theme, Tone};
use crate::failure::printable;
use crate::format::{counted, short, span, time_of_day, with_unit};

/// Minimum size: columns and lines.
const SMALLEST: (u16, u16) = (40, 8);

/// Draws everything.
pub(super) fn draw(state: &State, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let mut page = Page::new(theme, area, buffer);
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let (width, height) = SMALLEST;
        page.wrapped(
            0,
            &format!("too small: {width}x{height} needed, this is {}x{}", area.width, area.height),
            Tone::Bad,
        );
        return;
    }
    head(state, &mut page);
    let body = Rect { y: area.y + page.used(), height: area.height.saturating_sub(page.used() + 1), ..area };
    let footer = Rect { y: area.bottom().saturating_sub(1), height: 1, ..area };
    match state.over {
        Over::Nothing if state.link == Link::Waiting => {}
        Over::Nothing => front(state, &mut Page::new(theme, body, buffer)),
        Over::Help => help::draw(&mut Page::new(theme, body, buffer)),
        Over::Detail { rule, scroll } => detail::draw(state, theme, rule, scroll, body, buffer),
    }
    foot(state, &mut Page::new(theme, footer, buffer));
}

/// Two lines and the tabs.
fn head(state: &State, page: &mut Page<'_>) {
    let theme = page.theme;
    let snapshot = &state.snapshot;
    let dot = Piece::new(theme.dot(), Tone::Dim);
    let mut left = vec![Piece::new("mcrctl top", Tone::Title)];
    if !snapshot.version.is_empty() {
        left.extend([
            Piece::new("  mcrd ", Tone::Plain),
            Piece::new(printable(&snapshot.version), Tone::Plain),
        ]);
        let rules = &snapshot.rules.rules;
        let active = rules.iter().filter(|rule| rule.state.name() == "active").count();
        left.extend([dot.clone(), Piece::new(format!("{}, ", counted(rules.len(), "rule")), Tone::Plain)]);
        let tone = if active == rules.len() { Tone::Good } else { Tone::Warn };
        left.push(Piece::new(format!("{active} active"), tone));
        left.extend([
            dot.clone(),
            Piece::new(counted(snapshot.workers.workers.len(), "worker"), Tone::Plain),
        ]);
    }
    let right = match &state.link {
        Link::Waiting => Piece::new("waiting for mcrd", Tone::Warn),
        Link::Up => Piece::new(format!("{} UTC", time_of_day(snapshot.wall)), Tone::Plain),
        Link::Lost { since, now, .. } => {
            Piece::new(format!("no connection for {}", span(now.saturating_sub(*since))), Tone::Bad)
        }
    };
    page.both_ends(&left, right);
    match &state.link {
        Link::Lost { why, .. } => {
            page.line(&[Piece::new(format!("{}; reconnecting", printable(why)), Tone::Bad)]);
        }
        Link::Waiting => page.skip(1),
        Link::Up => page.groups(&totals(state), &dot),
    }
    page.line(&tabs(state));
}

/// What passes now, in groups of which as many are shown as there is room for.
fn totals(state: &State) -> Vec<Vec<Piece>> {
    let Some((arriving, leaving)) = state.measured.totals(&state.snapshot, state.window) else {
        return vec![vec![Piece::new("rates follow with the second sample", Tone::Dim)]];
    };
    let flow = |name: &str, flow: Flow| {
        vec![
            Piece::new(format!("{name} "), Tone::Plain),
            Piece::new(format!("{}/s ", short(flow.datagrams)), Tone::Title),
            Piece::new(with_unit(flow.bits, "bit/s"), Tone::Plain),
        ]
    };
    let mut groups = vec![flow("dgram in", arriving), flow("out", leaving)];
    for (name, kind) in [("drops", Kind::Drop), ("lost", Kind::Kernel), ("skips", Kind::Skip)] {
        let value = state.measured.kind(&state.snapshot, kind, state.window).unwrap_or_default();
        let tone = if value > 0.0 && kind != Kind::Skip { Tone::Bad } else { Tone::Plain };
        groups.push(vec![Piece::new(format!("{name} {}/s", short(value)), tone)]);
    }
    groups
}

fn tabs(state: &State) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (n, tab) in Tab::ALL.into_iter().enumerate() {
        let chosen = tab == state.tab;
        let number = Piece::new(format!(" {}", n + 1), if chosen { Tone::Chosen } else { Tone::Key });
        let title = Piece::new(format!(" {} ", tab.title()), if chosen { Tone::Chosen } else { Tone::Plain });
        pieces.extend([number, title]);
    }
    pieces
}

/// The page in front; below the rules, as far as there is room, what else one wants to see.
fn front(state: &State, page: &mut Page<'_>) {
    let (mut table, all) = state.table();
    if all > 0 {
        table.empty = "no match: Esc clears the filter";
    }
    let selected = state.selected(&table);
    let choice = state.choice();
    let title = page_title(state, page.theme, &table, all);
    let reason = selected.and_then(|row| table.rows.get(row)).and_then(|row| row.rule);
    let reason = reason.filter(|_| state.tab == Tab::Rules).and_then(|rule| why(state, rule));
    let chosen = Chosen { row: selected, sort: choice.sort };
    if state.tab != Tab::Rules {
        page.title(&title);
        let height = page.left();
        page.table(&table, height, &chosen);
        return;
    }
    let workers = tables::table(state, Tab::Workers);
    let mut reasons = tables::table(state, Tab::Drops);
    reasons.rows.retain(|row| row.cells.iter().all(|cell| cell.tone != Tone::Dim || !cell.is_text()));
    reasons.empty = "none now";
    let events = tables::table(state, Tab::Events);
    // A title and a heading each; below the rules a line for the reason.
    let wants = [table.rows.len() + 3, workers.rows.len() + 2, reasons.rows.len().max(1) + 2];
    let heights = rows::divide(page.left(), wants);
    page.title(&title);
    page.table(&table, heights.rules.saturating_sub(2), &chosen);
    if let Some((text, tone)) = reason.filter(|_| heights.rules > 3) {
        page.line(&[Piece::new(text, tone)]);
    } else if heights.rules > 3 {
        page.skip(1);
    }
    for (name, table, height) in [
        ("Workers", workers, heights.workers),
        ("Drops and skips per second", reasons, heights.reasons),
        ("Events", events, heights.events),
    ] {
        if height > 1 {
            page.title(&[Piece::new(name, Tone::Title)]);
            let rest = height - 1;
            if name == "Events" {
                page.rows(&table, rest)
            } else {
                page.table(&table, rest, &Chosen::default())
            }
        }
    }
}

fn page_title(state: &State, theme: Theme, table: &Table, all: usize) -> Vec<Piece> {
    let (choice, shown) = (state.choice(), table.rows.len());
    let mut title = vec![Piece::new(state.tab.title(), Tone::Title)];
    if choice.filter.is_empty() {
        title.push(Piece::new(format!(" {all}"), Tone::Plain));
    } else {
        title.push(Piece::new(
            format!(" {shown} of {all} with \"{}\"", printable(&choice.filter)),
            Tone::Warn,
        ));
    }
    let rates = !matches!(state.tab, Tab::Drops | Tab::Groups | Tab::Events);
    if rates {
        title.push(Piece::new(format!("{}rates over {}", theme.dot(), state.window.name()), Tone::Plain));
    } else if state.tab == Tab::Drops {
        title.push(Piece::new(format!("{}per second, over 1 s and 10 s", theme.dot()), Tone::Plain));
    }
    if let Some(column) = choice.sort.and_then(|sort| Some((sort, table.columns.get(sort)?))) {
        let descending = table.is_numeric(column.0) != choice.reversed;
        let by = format!("{}by {} {}", theme.dot(), column.1.title, theme.arrow(descending));
        title.push(Piece::new(by, Tone::Plain));
    } else if choice.reversed {
        title.push(Piece::new(format!("{}reversed", theme.dot()), Tone::Plain));
    }
    if matches!(state.link, Link::Lost { .. }) {
        let then = time_of_day(state.snapshot.wall);
        title.push(Piece::new(format!("{}as of {then} UTC", theme.dot()), Tone::Warn));
    }
    title
}

/// Why a rule does not work, or what is wrong with it or one of its outputs.
fn why(state: &State, rule: mcr_rules::RuleId) -> Option<(String, Tone)> {
    let rule = state.snapshot.rule(rule)?;
    let of_output = rule.outputs.iter().find_map(|output| {
        let place = crate::render::place(&output.interface, output.group, output.port);
        output.reason.as_ref().map(|reason| format!("output {place}: {reason}"))
    });
    let reason = rule.reason.clone().or(of_output)?;
    let title = crate::render::rule_title(rule.id, rule.name.as_ref());
    Some((printable(&format!("{title}: {reason}")), Tone::Warn))
}

/// The keys, as many as there is room for.
fn foot(state: &State, page: &mut Page<'_>) {
    if state.typing {
        let filter = printable(&state.choice().filter);
        return page.keys(&[("filter:", &format!("{filter}_")), ("Enter", "keep"), ("Esc", "clear")]);
    }
    let window = format!("over {}", state.window.other().name());
    let up_down = page.theme.up_down();
    match state.over {
        Over::Help => page.keys(&[("any key", "back")]),
        Over::Detail { .. } => {
            let sideways = if page.theme.unicode { "←→" } else { "p n" };
            page.keys(&[
                ("q", "quit"),
                ("?", "help"),
                ("Esc", "back"),
                (up_down, "scroll"),
                (sideways, "rule"),
                ("e", "listen and explain"),
                ("w", &window),
            ]);
        }
        Over::Nothing => page.keys(&[
            ("q", "quit"),
            ("?", "help"),
            (up_down, "select"),
            ("Enter", "open"),
            ("s", "sort"),
            ("r", "reverse"),
            ("/", "filter"),
            ("w", &window),
            ("Tab", "page"),
        ]),
    }
}
