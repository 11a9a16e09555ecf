//! Plain aligned tables by `comfy-table`, without lines.

use std::fmt;

use comfy_table::presets;

use crate::failure::printable;

pub(crate) use comfy_table::CellAlignment as Align;

/// A column of a table of `T`: its title, its alignment, and the text of its cells.
pub(crate) type Column<T> = (&'static str, Align, fn(&T) -> String);

/// A table under construction.
#[derive(Debug)]
pub(crate) struct Table(comfy_table::Table);

impl Table {
    pub(crate) fn new(header: &[(&'static str, Align)]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_preset(presets::NOTHING).set_header(header.iter().map(|(title, _)| *title));
        for (column, (_, align)) in table.column_iter_mut().zip(header) {
            column.set_padding((0, 2)).set_cell_alignment(*align);
        }
        Self(table)
    }

    /// A table with a row for each item.
    pub(crate) fn of<'a, T: 'a>(items: impl IntoIterator<Item = &'a T>, columns: &[Column<T>]) -> Self {
        let header: Vec<_> = columns.iter().map(|(title, align, _)| (*title, *align)).collect();
        let mut table = Self::new(&header);
        items.into_iter().for_each(|item| table.row(columns.iter().map(|(.., cell)| cell(item))));
        table
    }

    /// Adds a row; missing cells are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.add_row(cells.into_iter().map(|cell| printable(&cell)));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.0.trim_fmt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let mut table = Table::new(&[("NAME", Align::Left), ("N", Align::Right), ("WHY", Align::Left)]);
        table.row(["é".to_owned(), "10".to_owned(), String::new()]);
        table.row(["longer".to_owned(), "7".to_owned(), "be\tcause".to_owned()]);
        table.row(["x".to_owned()]);
        assert_eq!(table.to_string(), "NAME     N  WHY\né       10\nlonger   7  be\\tcause\nx\n");
    }
}
