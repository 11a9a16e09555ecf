//! Tables on a grid of characters.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::top::table::{Cell, Column, Content, Table};
use crate::top::theme::{Theme, Tone};

/// The selection in a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    pub row: Option<usize>,
    /// The sort column.
    pub sort: Option<usize>,
}

/// A column on the screen: its index in the table, position and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    column: usize,
    x: u16,
    width: u16,
}

/// The marker's column.
const MARGIN: u16 = 1;

/// Draws heading and rows.
pub(super) fn draw(table: &Table, theme: Theme, area: Rect, buffer: &mut Buffer, chosen: &Chosen) {
    if area.height == 0 {
        return;
    }
    for place in places(&table.columns, area.width) {
        let Some(column) = table.columns.get(place.column) else { continue };
        // The title of the page shows the direction.
        let sorted = chosen.sort == Some(place.column);
        let style = theme.style(if sorted { Tone::Key } else { Tone::Title });
        let text = fitted(column.title, place.width, column.right, theme);
        buffer.set_stringn(area.x + place.x, area.y, text, usize::from(place.width), style);
    }
    let below = Rect { y: area.y + 1, height: area.height - 1, ..area };
    draw_rows(table, theme, below, buffer, chosen);
}

/// Draws the rows around the chosen one.
pub(super) fn draw_rows(table: &Table, theme: Theme, area: Rect, buffer: &mut Buffer, chosen: &Chosen) {
    if table.rows.is_empty() && area.height > 0 {
        let text = cut(table.empty, usize::from(area.width.saturating_sub(MARGIN)), theme.cut());
        buffer.set_stringn(area.x + MARGIN, area.y, text, usize::from(area.width), theme.style(Tone::Dim));
    }
    let places = places(&table.columns, area.width);
    let height = usize::from(area.height);
    let first = first_shown(table.rows.len(), height, chosen.row.unwrap_or_default());
    let shown = table.rows.iter().enumerate().skip(first).take(height);
    for (y, (n, row)) in (area.y..).zip(shown) {
        for place in &places {
            let (Some(cell), Some(column)) = (row.cells.get(place.column), table.columns.get(place.column))
            else {
                continue;
            };
            let text = cell_text(cell, column, place.width, theme);
            let style = theme.style(cell.tone);
            buffer.set_stringn(area.x + place.x, y, text, usize::from(place.width), style);
        }
        if chosen.row == Some(n) {
            let line = Rect { y, height: 1, ..area };
            buffer.set_stringn(area.x, y, theme.marker().to_string(), 1, theme.style(Tone::Key));
            buffer.set_style(line, theme.style(Tone::Chosen));
        }
    }
}

/// Returns the first visible row: the selected one is centered where possible.
fn first_shown(rows: usize, height: usize, chosen: usize) -> usize {
    chosen.saturating_sub(height / 2).min(rows.saturating_sub(height))
}

/// Lays out the columns for this width with a blank between them. Extra width is divided by shares; missing width is taken
/// from columns with a share, then from the last ones.
fn places(columns: &[Column], width: u16) -> Vec<Place> {
    let shown: Vec<(usize, &Column)> =
        columns.iter().enumerate().filter(|(_, column)| width >= column.from).collect();
    let gaps = u16::try_from(shown.len()).unwrap_or(u16::MAX);
    let needed =
        shown.iter().map(|(_, column)| column.width).fold(MARGIN.saturating_add(gaps), u16::saturating_add);
    let shares: u16 = shown.iter().map(|(_, column)| column.share).sum();
    let (mut spare, lacking) = (width.saturating_sub(needed), needed.saturating_sub(width));
    let mut open = shares;
    let mut places = Vec::new();
    let mut x = MARGIN;
    for (column, described) in shown {
        let (more, less) = match described.share {
            0 => (0, 0),
            share => {
                let more = spare * share / open.max(1);
                (more, (lacking * share).div_ceil(shares.max(1)))
            }
        };
        (spare, open) = (spare - more, open.saturating_sub(described.share));
        let wanted = described.width.saturating_add(more).saturating_sub(less).max(described.width.min(5));
        let room = width.saturating_sub(x);
        // A truncated number would be wrong.
        if room == 0 || (described.right && room < wanted) {
            break;
        }
        let wide = wanted.min(room);
        places.push(Place { column, x, width: wide });
        x = x.saturating_add(wide + 1);
    }
    places
}

fn cell_text(cell: &Cell, column: &Column, width: u16, theme: Theme) -> String {
    match &cell.content {
        Content::Text(text) => fitted(text, width, column.right, theme),
        Content::Trend(samples, full) => theme.sparkline(samples, *full, usize::from(width)),
    }
}

/// Pads or truncates a text to this width.
fn fitted(text: &str, width: u16, right: bool, theme: Theme) -> String {
    let width = usize::from(width);
    let text = cut(text, width, theme.cut());
    if right { format!("{text:>width$}") } else { format!("{text:<width$}") }
}

/// Truncates a text to this width.
pub(super) fn cut(text: &str, width: usize, mark: char) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain((width > 0).then_some(mark)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_row_is_always_on_the_screen() {
        for rows in 0..30 {
            for height in 1..12 {
                for chosen in 0..rows {
                    let first = first_shown(rows, height, chosen);
                    assert!(first <= chosen && chosen < first + height, "{rows} {height} {chosen}");
                    assert!(first == 0 || first + height <= rows, "{rows} {height} {chosen}");
                }
            }
        }
    }

    #[test]
    fn columns_fill_the_width_and_never_go_beyond() {
        let columns = [
            Column::text("A", 10, 1),
            Column::number("B", 6),
            Column::number("C", 6).from(60),
            Column::text("D", 10, 3),
        ];
        for width in 0..200 {
            let places = places(&columns, width);
            let end = places.last().map_or(0, |place| place.x + place.width);
            assert!(end <= width, "{width}: {places:?}");
            if width >= 30 {
                assert!(end + 2 >= width, "{width}: {places:?}");
                assert_eq!(places.len(), if width >= 60 { 4 } else { 3 }, "{width}: {places:?}");
            }
        }
    }

    #[test]
    fn truncation_is_marked() {
        assert_eq!(cut("abcdef", 4, '…'), "abc…");
        assert_eq!(cut("abcd", 4, '…'), "abcd");
        assert_eq!(cut("abcd", 0, '…'), "");
    }
}
