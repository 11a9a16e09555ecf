//! Writes lines from top to bottom into an area of the buffer.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::grid::{self, Chosen};
use crate::top::table::Table;
use crate::top::theme::{Theme, Tone};

/// A piece of text of one style.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    text: String,
    tone: Tone,
}

impl Piece {
    pub(super) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// An area with the position of the next line.
pub(super) struct Page<'a> {
    pub theme: Theme,
    area: Rect,
    buffer: &'a mut Buffer,
    used: u16,
}

impl<'a> Page<'a> {
    pub(super) fn new(theme: Theme, area: Rect, buffer: &'a mut Buffer) -> Self {
        Self { theme, area: area.intersection(buffer.area), buffer, used: 0 }
    }

    /// Lines written.
    pub(super) fn used(&self) -> u16 {
        self.used
    }

    /// Remaining lines.
    pub(super) fn left(&self) -> u16 {
        self.area.height.saturating_sub(self.used)
    }

    pub(super) fn width(&self) -> u16 {
        self.area.width
    }

    pub(super) fn skip(&mut self, lines: u16) {
        self.used = self.used.saturating_add(lines);
    }

    /// Writes into the current line from a column on, and truncates.
    fn put(&mut self, column: u16, text: &str, tone: Tone) {
        if self.left() == 0 || column >= self.area.width {
            return;
        }
        let (x, y) = (self.area.x + column, self.area.y + self.used);
        let room = usize::from(self.area.width - column);
        let cut = grid::cut(text, room, self.theme.cut());
        self.buffer.set_stringn(x, y, cut, room, self.theme.style(tone));
    }

    /// Writes one line after a blank.
    pub(super) fn line(&mut self, pieces: &[Piece]) {
        self.pieces(1, pieces);
        self.skip(1);
    }

    /// Returns the column after them.
    fn pieces(&mut self, from: u16, pieces: &[Piece]) -> u16 {
        let mut column = from;
        for piece in pieces {
            self.put(column, &piece.text, piece.tone);
            column = column.saturating_add(u16::try_from(piece.width()).unwrap_or(u16::MAX));
        }
        column
    }

    /// Writes one line of groups with a separator; groups that don't fit are omitted.
    pub(super) fn groups(&mut self, groups: &[Vec<Piece>], between: &Piece) {
        let mut column = 1;
        for (n, group) in groups.iter().enumerate() {
            let before = if n > 0 { between.width() } else { 0 };
            let width = before + group.iter().map(Piece::width).sum::<usize>();
            if n > 0 && usize::from(column) + width > usize::from(self.area.width) {
                break;
            }
            if n > 0 {
                column = self.pieces(column, std::slice::from_ref(between));
            }
            column = self.pieces(column, group);
        }
        self.skip(1);
    }

    /// Writes one line with a right-aligned piece, which has priority.
    pub(super) fn both_ends(&mut self, left: &[Piece], right: Piece) {
        self.pieces(1, left);
        let width = u16::try_from(right.width()).unwrap_or(u16::MAX).saturating_add(1);
        let column = self.area.width.saturating_sub(width);
        let text = format!(" {} ", right.text);
        self.put(column.saturating_sub(1), &text, right.tone);
        self.skip(1);
    }

    /// Writes a text in as many lines as it needs, all indented.
    pub(super) fn wrapped(&mut self, indent: u16, text: &str, tone: Tone) {
        let room = usize::from(self.area.width.saturating_sub(indent)).max(1);
        let mut line = String::new();
        for word in text.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
                self.put(indent, &std::mem::take(&mut line), tone);
                self.skip(1);
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.put(indent, &line, tone);
        self.skip(1);
    }

    /// Writes a term, and from a column on the text beside it.
    pub(super) fn beside(&mut self, term: &str, column: u16, text: &str) {
        self.put(1, term, Tone::Key);
        self.wrapped(column, text, Tone::Plain);
    }

    /// Writes a heading in a line across the page.
    pub(super) fn title(&mut self, pieces: &[Piece]) {
        let line: String = std::iter::repeat_n(self.theme.line(), usize::from(self.area.width)).collect();
        self.put(0, &line, Tone::Dim);
        self.put(1, " ", Tone::Plain);
        let end = self.pieces(2, pieces);
        self.put(end, " ", Tone::Plain);
        self.skip(1);
    }

    /// Writes a table in this number of lines, including its header.
    pub(super) fn table(&mut self, table: &Table, lines: u16, chosen: &Chosen) {
        let lines = lines.min(self.left());
        let area = Rect { y: self.area.y + self.used, height: lines, ..self.area };
        grid::draw(table, self.theme, area, self.buffer, chosen);
        self.skip(lines);
    }

    /// Writes the rows of a table without its header.
    pub(super) fn rows(&mut self, table: &Table, lines: u16) {
        let lines = lines.min(self.left());
        let area = Rect { y: self.area.y + self.used, height: lines, ..self.area };
        grid::draw_rows(table, self.theme, area, self.buffer, &Chosen::default());
        self.skip(lines);
    }

    /// Writes keys and what they do; those that don't fit are omitted, the last ones first.
    pub(super) fn keys(&mut self, keys: &[(&str, &str)]) {
        let mut column = 1;
        for (key, what) in keys {
            let width = key.chars().count() + 1 + what.chars().count();
            let width = u16::try_from(width).unwrap_or(u16::MAX);
            if column + width > self.area.width {
                continue;
            }
            column = self
                .pieces(column, &[Piece::new(*key, Tone::Key), Piece::new(format!(" {what}"), Tone::Plain)])
                + 2;
        }
        self.skip(1);
    }
}
