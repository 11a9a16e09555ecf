//! A table as data, which can be sorted and filtered.

use mcr_rules::RuleId;

use super::theme::Tone;
use crate::failure::printable;

/// One column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub title: &'static str,
    /// Minimum width in characters.
    pub width: u16,
    /// Share of the remaining width.
    pub share: u16,
    /// Minimum width of the screen at which it is shown.
    pub from: u16,
    pub right: bool,
}

impl Column {
    /// Text, on the left.
    pub(super) const fn text(title: &'static str, width: u16, share: u16) -> Self {
        Self { title, width, share, from: 0, right: false }
    }

    /// A number, on the right.
    pub(super) const fn number(title: &'static str, width: u16) -> Self {
        Self { title, width, share: 0, from: 0, right: true }
    }

    /// Shows the column only on screens of at least this width.
    pub(super) const fn from(mut self, width: u16) -> Self {
        self.from = width;
        self
    }
}

/// What a cell shows.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    Text(String),
    /// Samples, oldest first, and the value that a full bar stands for; `None` for the highest of them.
    Trend(Vec<f64>, Option<f64>),
}

/// One cell.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub content: Content,
    pub tone: Tone,
    /// What a number is sorted by.
    number: Option<f64>,
}

impl Cell {
    pub(super) fn text(text: impl ToString) -> Self {
        Self { content: Content::Text(printable(&text.to_string())), tone: Tone::Plain, number: None }
    }

    /// A number with its text.
    pub(super) fn number(value: f64, shown: impl ToString) -> Self {
        let tone = if value > 0.0 { Tone::Plain } else { Tone::Dim };
        Self { number: Some(value), tone, ..Self::text(shown) }
    }

    /// A rate, or a dash while it is unknown.
    pub(super) fn rate(value: Option<f64>) -> Self {
        value.map_or_else(Self::unknown, |value| Self::number(value, crate::format::short(value)))
    }

    #[expect(clippy::cast_precision_loss, reason = "only sorted by it")]
    pub(super) fn count(value: u64) -> Self {
        let shown = if value < 1_000 { value.to_string() } else { crate::format::short(value as f64) };
        Self::number(value as f64, shown)
    }

    /// Replaces the text of a number.
    pub(super) fn shown_as(mut self, text: String) -> Self {
        self.content = Content::Text(text);
        self
    }

    pub(super) fn unknown() -> Self {
        Self { number: Some(-1.0), ..Self::text("-").tone(Tone::Dim) }
    }

    pub(super) fn trend(samples: Vec<f64>, full: Option<f64>) -> Self {
        let number = samples.last().copied();
        Self { content: Content::Trend(samples, full), tone: Tone::Good, number }
    }

    pub(super) fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }

    /// [`Tone::Bad`] if the number is above 0.
    pub(super) fn bad_above_zero(self) -> Self {
        if self.number.is_some_and(|value| value > 0.0) { self.tone(Tone::Bad) } else { self }
    }

    pub(super) fn is_text(&self) -> bool {
        matches!(self.content, Content::Text(_))
    }

    fn words(&self) -> &str {
        match &self.content {
            Content::Text(text) => text,
            Content::Trend(..) => "",
        }
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// Identity of the row: the selection follows it when rows move.
    pub key: String,
    /// The rule that it belongs to, if it can be opened.
    pub rule: Option<RuleId>,
    pub cells: Vec<Cell>,
}

/// A table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
    /// Shown instead of rows if there are none.
    pub empty: &'static str,
}

impl Table {
    /// Keeps the rows of which a cell contains `wanted`, ignoring case.
    pub(super) fn filter(&mut self, wanted: &str) {
        let wanted = wanted.to_lowercase();
        self.rows.retain(|row| row.cells.iter().any(|cell| cell.words().to_lowercase().contains(&wanted)));
    }

    /// Sorts by a column: numbers from the highest, text from A, or the other way round. Equal rows keep their order.
    pub(super) fn sort(&mut self, column: usize, reversed: bool) {
        self.rows.sort_by(|a, b| {
            let (Some(a), Some(b)) = (a.cells.get(column), b.cells.get(column)) else {
                return std::cmp::Ordering::Equal;
            };
            let order = match (a.number, b.number) {
                (Some(a), Some(b)) => b.total_cmp(&a),
                _ => a.words().to_lowercase().cmp(&b.words().to_lowercase()),
            };
            if reversed { order.reverse() } else { order }
        });
    }

    /// Whether the column's highest values come first when it is sorted.
    pub(super) fn is_numeric(&self, column: usize) -> bool {
        self.columns.get(column).is_some_and(|column| column.right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let row = |key: &str, name: &str, rate: Option<f64>| Row {
            key: key.to_owned(),
            rule: None,
            cells: vec![Cell::text(name), Cell::rate(rate)],
        };
        Table {
            columns: vec![Column::text("NAME", 5, 1), Column::number("n/s", 5)],
            rows: vec![row("1", "beta", Some(5.0)), row("2", "Alpha", None), row("3", "gamma", Some(1e6))],
            empty: "none",
        }
    }

    fn keys(table: &Table) -> Vec<&str> {
        table.rows.iter().map(|row| row.key.as_str()).collect()
    }

    #[test]
    fn numbers_sort_from_the_highest_and_text_from_a() {
        let mut table = table();
        table.sort(1, false);
        assert_eq!(keys(&table), ["3", "1", "2"]);
        table.sort(1, true);
        assert_eq!(keys(&table), ["2", "1", "3"]);
        table.sort(0, false);
        assert_eq!(keys(&table), ["2", "1", "3"]);
        table.sort(7, false);
        assert_eq!(keys(&table), ["2", "1", "3"], "there is no such column");
    }

    #[test]
    fn a_filter_matches_any_cell_ignoring_case() {
        for (wanted, left) in
            [("ALPH", vec!["2"]), ("a", vec!["1", "2", "3"]), ("1.00m", vec!["3"]), ("x", vec![])]
        {
            let mut table = table();
            table.filter(wanted);
            assert_eq!(keys(&table), left, "{wanted}");
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(Cell::text("a\u{1b}[2J").words(), "a\\u{1b}[2J");
    }
}
