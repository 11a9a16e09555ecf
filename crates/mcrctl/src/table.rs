//! Plain aligned tables.

use std::fmt::Write;

use crate::failure::printable;

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table in the making.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[(&'static str, Align)]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |column: usize, title: &str| {
            let cells = self.rows.iter().map(|row| cell(row, column).chars().count());
            cells.chain([title.len()]).max().unwrap_or_default()
        };
        let columns: Vec<(usize, Align)> =
            self.header.iter().enumerate().map(|(n, (title, align))| (width(n, title), *align)).collect();
        let titles: Vec<String> = self.header.iter().map(|(title, _)| (*title).to_owned()).collect();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let mut line = String::new();
            for (n, (width, align)) in columns.iter().enumerate() {
                let text = cell(row, n);
                match align {
                    Align::Left => write!(line, "{text:<width$}  ")?,
                    Align::Right => write!(line, "{text:>width$}  ")?,
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
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
