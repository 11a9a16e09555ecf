//! What the screen shows, as far as it does not depend on the screen's size: reports and keys in, tables out.

pub(super) mod tables;

use std::collections::BTreeMap;

use mcr_rules::RuleId;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::activity::{Activity, QUIET, Transition};
use super::changes::{self, Change};
use super::log::Log;
use super::series::{Kind, Measured, reasons};
use super::snapshot::{Answer, Question, Report, Snapshot, Traced};
use super::table::Table;
use super::theme::Tone;
use crate::rates::Window;
use crate::render::rule_title;

/// How far Page Up and Page Down go.
const PAGE: usize = 10;
/// Characters of a filter.
const MAX_FILTER: usize = 40;

/// A page of the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tab {
    #[default]
    Rules,
    Outputs,
    Drops,
    Workers,
    Interfaces,
    Groups,
    Events,
}

impl Tab {
    pub(super) const ALL: [Self; 7] = [
        Self::Rules,
        Self::Outputs,
        Self::Drops,
        Self::Workers,
        Self::Interfaces,
        Self::Groups,
        Self::Events,
    ];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Rules => "Rules",
            Self::Outputs => "Outputs",
            Self::Drops => "Drops",
            Self::Workers => "Workers",
            Self::Interfaces => "Interfaces",
            Self::Groups => "Groups",
            Self::Events => "Events",
        }
    }

    fn step(self, by: usize) -> Self {
        let here = Self::ALL.iter().position(|tab| *tab == self).unwrap_or_default();
        Self::ALL.get((here + by) % Self::ALL.len()).copied().unwrap_or(self)
    }
}

/// How the rows of a page are chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// The column to sort by; `None` for the order in which the daemon tells the rows.
    pub sort: Option<usize>,
    pub reversed: bool,
    pub filter: String,
    /// The key of the selected row, and where it was last.
    selected: Option<String>,
    place: usize,
}

/// What lies over the page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Over {
    #[default]
    Nothing,
    Help,
    /// One rule, scrolled down by this number of lines.
    Detail {
        rule: RuleId,
        scroll: u16,
    },
}

/// Whether the daemon answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Link {
    #[default]
    Waiting,
    Up,
    /// Since when, seconds since 1970; the time of the last try; why.
    Lost {
        since: u64,
        now: u64,
        why: String,
    },
}

/// What a key asks of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    Redraw,
    Leave,
}

/// Everything on the screen.
#[derive(Debug, Default)]
pub(super) struct State {
    pub tab: Tab,
    pub over: Over,
    /// Keys go into the filter.
    pub typing: bool,
    pub window: Window,
    pub link: Link,
    pub snapshot: Snapshot,
    pub measured: Measured,
    pub log: Log,
    /// The explanation of the rule that was opened last.
    pub answer: Option<(RuleId, Answer)>,
    /// What the program is to ask the daemon; it takes this out.
    pub question: Option<Question>,
    /// The trace of the rule that was traced last.
    pub traced: Option<(RuleId, Traced)>,
    /// The rule that the program is to trace; it takes this out.
    pub to_trace: Option<RuleId>,
    choices: BTreeMap<Tab, Choice>,
    losses: Activity<(Kind, String)>,
}

impl State {
    /// Takes in what the daemon said.
    pub(super) fn take(&mut self, report: Report) {
        match report {
            Report::Snapshot(snapshot) => self.take_snapshot(*snapshot),
            Report::Event(event) => {
                let title = event.rule.map(|rule| {
                    rule_title(rule, self.snapshot.rule(rule).and_then(|known| known.name.as_ref()))
                });
                self.log.add(
                    event.at_ms / 1000,
                    changes::of_event(&event, title.as_deref()).into_iter().collect(),
                );
            }
            Report::Explained { rule, answer } => {
                // Another rule may have been opened meanwhile.
                if self.answer.as_ref().is_some_and(|(asked, _)| *asked == rule) {
                    self.answer = Some((rule, answer));
                }
            }
            Report::Traced { rule, traced } => {
                // Another rule may be traced by now.
                if self.traced.as_ref().is_some_and(|(asked, _)| *asked == rule) {
                    self.traced = Some((rule, traced));
                }
            }
            Report::Lost { wall, why } => {
                let since = match &self.link {
                    Link::Lost { since, .. } => *since,
                    Link::Waiting | Link::Up => {
                        let text = format!("no connection: {why}");
                        self.log.add(wall, vec![Change::new("lost", Tone::Bad, text)]);
                        wall
                    }
                };
                self.link = Link::Lost { since, now: wall, why };
            }
        }
    }

    fn take_snapshot(&mut self, snapshot: Snapshot) {
        let mut news = match &self.link {
            Link::Waiting => {
                let greeting = Change::new("connected", Tone::Plain, greeting(&snapshot));
                std::iter::once(greeting).chain(changes::at_first(&snapshot)).collect()
            }
            Link::Up => Vec::new(),
            Link::Lost { .. } => {
                let again = Change::new("connected", Tone::Good, "connected again");
                std::iter::once(again).chain(changes::at_first(&snapshot)).collect()
            }
        };
        if self.link != Link::Waiting {
            news.extend(changes::between(&self.snapshot, &snapshot));
        }
        self.link = Link::Up;
        self.measured.sample(&snapshot);
        let losses = reasons(&snapshot).into_iter().filter(|((kind, _), _)| *kind != Kind::Skip);
        for ((_, reason), turn) in self.losses.observe(snapshot.at, losses) {
            news.push(loss_change(turn, &reason));
        }
        self.log.add(snapshot.wall, news);
        self.snapshot = snapshot;
    }

    /// How the rows of the page in front are chosen.
    pub(super) fn choice(&self) -> &Choice {
        static NONE: Choice =
            Choice { sort: None, reversed: false, filter: String::new(), selected: None, place: 0 };
        self.choices.get(&self.tab).unwrap_or(&NONE)
    }

    fn choose(&mut self, change: impl FnOnce(&mut Choice)) {
        change(self.choices.entry(self.tab).or_default());
    }

    /// The page in front, filtered and sorted, and how many rows it has without the filter.
    pub(super) fn table(&self) -> (Table, usize) {
        let choice = self.choice();
        let mut table = tables::table(self, self.tab);
        let all = table.rows.len();
        if !choice.filter.is_empty() {
            table.filter(&choice.filter);
        }
        if let Some(column) = choice.sort {
            table.sort(column, choice.reversed);
        } else if choice.reversed {
            table.rows.reverse();
        }
        (table, all)
    }

    /// The selected row: the one with the selected key, or the one that has its place now.
    pub(super) fn selected(&self, table: &Table) -> Option<usize> {
        let choice = self.choice();
        let last = table.rows.len().checked_sub(1)?;
        let found =
            choice.selected.as_ref().and_then(|key| table.rows.iter().position(|row| row.key == *key));
        Some(found.unwrap_or(choice.place.min(last)))
    }

    /// Takes a key.
    pub(super) fn press(&mut self, key: KeyEvent) -> Wish {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match (key.code, control) {
            (KeyCode::Char('c'), true) => return Wish::Leave,
            (KeyCode::Char('l'), true) => return Wish::Redraw,
            _ => {}
        }
        if self.typing {
            self.type_filter(key.code, control);
            return Wish::Nothing;
        }
        match (self.over, key.code) {
            (Over::Help, _) => self.over = Over::Nothing,
            (_, KeyCode::Char('q')) => return Wish::Leave,
            (_, KeyCode::Char('?' | 'h') | KeyCode::F(1)) => self.over = Over::Help,
            (_, KeyCode::Char('w')) => self.window = self.window.other(),
            (Over::Detail { rule, scroll }, code) => self.press_in_detail(rule, scroll, code),
            (Over::Nothing, code) => self.press_on_page(code),
        }
        Wish::Nothing
    }

    fn press_in_detail(&mut self, rule: RuleId, scroll: u16, code: KeyCode) {
        let page = u16::try_from(PAGE).unwrap_or(u16::MAX);
        let scroll = match code {
            KeyCode::Up | KeyCode::Char('k') => scroll.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => scroll.saturating_add(1),
            KeyCode::PageUp => scroll.saturating_sub(page),
            KeyCode::PageDown | KeyCode::Char(' ') => scroll.saturating_add(page),
            KeyCode::Home => 0,
            KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace => {
                self.over = Over::Nothing;
                return;
            }
            KeyCode::Char('e') => {
                self.ask(rule, true);
                scroll
            }
            KeyCode::Char('t') => {
                self.trace(rule);
                scroll
            }
            KeyCode::Left | KeyCode::Char('p') => return self.open_neighbour(rule, false),
            KeyCode::Right | KeyCode::Char('n') => return self.open_neighbour(rule, true),
            _ => scroll,
        };
        self.over = Over::Detail { rule, scroll };
    }

    fn show(&mut self, rule: RuleId) {
        self.over = Over::Detail { rule, scroll: 0 };
        self.ask(rule, false);
    }

    /// Asks for a rule's explanation, unless that is being asked for already.
    fn ask(&mut self, rule: RuleId, listen: bool) {
        let asked = self.answer.as_ref().is_some_and(|(asked, answer)| {
            *asked == rule && matches!(answer, Answer::Asked { listen: already } if *already || !listen)
        });
        if !asked {
            self.answer = Some((rule, Answer::Asked { listen }));
            self.question = Some(Question { rule, listen });
        }
    }

    /// Begins to trace a rule, unless one is being traced.
    fn trace(&mut self, rule: RuleId) {
        let busy = matches!(self.traced, Some((_, Traced::Asked | Traced::Received { running: true, .. })));
        if !busy {
            self.traced = Some((rule, Traced::Asked));
            self.to_trace = Some(rule);
        }
    }

    /// Opens the rule after or before this one in the page's order.
    fn open_neighbour(&mut self, rule: RuleId, next: bool) {
        let (table, _) = self.table();
        let rules: Vec<RuleId> = table.rows.iter().filter_map(|row| row.rule).collect();
        let Some(first) = rules.iter().position(|id| *id == rule) else { return };
        let last = rules.iter().rposition(|id| *id == rule).unwrap_or(first);
        let there = if next { last.checked_add(1) } else { first.checked_sub(1) };
        if let Some(rule) = there.and_then(|there| rules.get(there)) {
            self.show(*rule);
            let row = table.rows.iter().position(|row| row.rule == Some(*rule)).unwrap_or_default();
            self.select(&table, row);
        }
    }

    fn press_on_page(&mut self, code: KeyCode) {
        match code {
            KeyCode::Up | KeyCode::Char('k') => self.go(|here, _| here.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.go(|here, _| here + 1),
            KeyCode::PageUp => self.go(|here, _| here.saturating_sub(PAGE)),
            KeyCode::PageDown | KeyCode::Char(' ') => self.go(|here, _| here + PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.go(|_, _| 0),
            KeyCode::End | KeyCode::Char('G') => self.go(|_, last| last),
            KeyCode::Tab | KeyCode::Right => self.tab = self.tab.step(1),
            KeyCode::BackTab | KeyCode::Left => self.tab = self.tab.step(Tab::ALL.len() - 1),
            KeyCode::Char('s') => self.sort_by_next(true),
            KeyCode::Char('S') => self.sort_by_next(false),
            KeyCode::Char('r') => self.choose(|choice| choice.reversed = !choice.reversed),
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Esc => self.choose(|choice| choice.filter.clear()),
            KeyCode::Enter => self.open(),
            KeyCode::Char(digit) => {
                let number = digit.to_digit(10).and_then(|digit| usize::try_from(digit).ok());
                let tab = number.and_then(|number| Tab::ALL.get(number.checked_sub(1)?));
                self.tab = tab.copied().unwrap_or(self.tab);
            }
            _ => {}
        }
    }

    fn open(&mut self) {
        let (table, _) = self.table();
        let row = self.selected(&table).and_then(|row| table.rows.get(row));
        if let Some(rule) = row.and_then(|row| row.rule).filter(|rule| self.snapshot.rule(*rule).is_some()) {
            self.show(rule);
        }
    }

    fn go(&mut self, to: impl FnOnce(usize, usize) -> usize) {
        let (table, _) = self.table();
        let Some(here) = self.selected(&table) else { return };
        let last = table.rows.len().saturating_sub(1);
        self.select(&table, to(here, last).min(last));
    }

    fn select(&mut self, table: &Table, row: usize) {
        let key = table.rows.get(row).map(|row| row.key.clone());
        self.choose(|choice| {
            choice.selected = key;
            choice.place = row;
        });
    }

    /// The next or previous column; after the last one the daemon's own order.
    fn sort_by_next(&mut self, forwards: bool) {
        let columns = tables::table(self, self.tab).columns.len();
        self.choose(|choice| {
            choice.sort = match (choice.sort, forwards) {
                (None, true) => Some(0),
                (None, false) => columns.checked_sub(1),
                (Some(column), true) => Some(column + 1).filter(|next| *next < columns),
                (Some(column), false) => column.checked_sub(1),
            };
            choice.reversed = false;
        });
    }

    fn type_filter(&mut self, code: KeyCode, control: bool) {
        match code {
            KeyCode::Enter | KeyCode::Up | KeyCode::Down => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.choose(|choice| choice.filter.clear());
            }
            KeyCode::Backspace => self.choose(|choice| {
                choice.filter.pop();
            }),
            KeyCode::Char('u') if control => self.choose(|choice| choice.filter.clear()),
            KeyCode::Char(character) if !control => self.choose(|choice| {
                if choice.filter.chars().count() < MAX_FILTER {
                    choice.filter.push(character);
                }
            }),
            _ => {}
        }
    }
}

fn greeting(snapshot: &Snapshot) -> String {
    format!("connected to mcrd {}: {} rules", snapshot.version, snapshot.rules.rules.len())
}

fn loss_change(turn: Transition, reason: &str) -> Change {
    match turn {
        Transition::Started => {
            Change::new("reasons of loss", Tone::Bad, format!("datagrams are lost: {reason}"))
        }
        Transition::Stopped => {
            let text = format!("no more loss for {} s: {reason}", QUIET.as_secs());
            Change::new("reasons of loss over", Tone::Plain, text)
        }
    }
}
