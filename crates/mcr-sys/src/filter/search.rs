//! Search tables of a filter: a value is looked up, each row leads to another table or to the end.
//!
//! ```text
//!           A > pivot?
//!          ╱          ╲            halves, until few rows remain …
//!     A > pivot?   A = k₁ → ─┐
//!      ╱     ╲     A = k₂ → ─┼─▶ next table      … which are compared one after the other
//!     …       …    reject    │
//! ```
//!
//! Equal tables are kept once. Two thousand groups with the same port, or IPv6 groups of one network, so share
//! everything but their own comparison.

use std::collections::HashMap;

use super::assembly::{Assembly, Label, MAX_TEST_JUMP};

/// Number of rows that are compared one after the other. Fewer make programs longer, more make them slower.
const BUCKET_ROWS: usize = 8;

/// The target of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// The frame passes.
    Accept,
    /// The search goes on in the table with this number.
    Table(usize),
}

impl From<Target> for Label {
    fn from(target: Target) -> Self {
        match target {
            Target::Accept => Self::Accept,
            Target::Table(number) => Self::Table(number),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Value {
    Packet { offset: u32, mask: u32 },
    Scratch(u32),
}

/// One table: the value to look up, and the rows in ascending order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Table {
    value: Value,
    rows: Vec<(u32, Target)>,
}

impl Table {
    /// Looks up a masked 32-bit word of the packet, `offset` bytes from X.
    pub(super) fn of_packet(offset: u32, mask: u32, rows: Vec<(u32, Target)>) -> Self {
        Self { value: Value::Packet { offset, mask }, rows }
    }

    /// Looks up a word of scratch memory.
    pub(super) fn of_scratch(word: u32, rows: Vec<(u32, Target)>) -> Self {
        Self { value: Value::Scratch(word), rows }
    }
}

/// All tables of a program. A table's rows lead to tables made before it.
#[derive(Default)]
pub(super) struct Tables {
    numbers: HashMap<Table, usize>,
}

impl Tables {
    /// The table's number, the same for equal tables.
    pub(super) fn intern(&mut self, table: Table) -> Target {
        let next = self.numbers.len();
        Target::Table(*self.numbers.entry(table).or_insert(next))
    }

    /// Writes all tables, the last first: so every jump goes forward.
    pub(super) fn emit(&self, assembly: &mut Assembly) {
        let mut tables: Vec<(&Table, usize)> =
            self.numbers.iter().map(|(table, number)| (table, *number)).collect();
        tables.sort_unstable_by_key(|(_, number)| std::cmp::Reverse(*number));
        for (table, number) in tables {
            assembly.place(Label::Table(number));
            match table.value {
                Value::Scratch(word) => assembly.load_scratch(word),
                Value::Packet { offset, mask } => {
                    assembly.load_word_at_x(offset);
                    if mask != u32::MAX {
                        assembly.keep_bits(mask);
                    }
                }
            }
            search(assembly, &table.rows);
        }
    }
}

fn search(assembly: &mut Assembly, rows: &[(u32, Target)]) {
    if rows.len() <= BUCKET_ROWS {
        compare_each(assembly, rows);
        return;
    }
    let (low, high) = rows.split_at(rows.len() / 2);
    let (near, far) = (assembly.label(), assembly.label());
    let pivot = low.last().map_or(0, |(key, _)| *key);
    if instructions(low) <= MAX_TEST_JUMP {
        assembly.test_above(pivot, far, near);
    } else {
        let trampoline = assembly.label();
        assembly.test_above(pivot, trampoline, near);
        assembly.place(trampoline);
        assembly.jump(far);
    }
    assembly.place(near);
    search(assembly, low);
    assembly.place(far);
    search(assembly, high);
}

fn compare_each(assembly: &mut Assembly, rows: &[(u32, Target)]) {
    let mut exits: Vec<(Target, Label)> = Vec::new();
    for &(key, target) in rows {
        let exit = match exits.iter().find(|(known, _)| *known == target) {
            Some((_, exit)) => *exit,
            None => {
                let exit = assembly.label();
                exits.push((target, exit));
                exit
            }
        };
        let next = assembly.label();
        assembly.test_equal(key, exit, next);
        assembly.place(next);
    }
    assembly.reject();
    for (target, exit) in exits {
        assembly.place(exit);
        assembly.jump(target.into());
    }
}

/// An upper bound of what [`search`] writes for these rows.
fn instructions(rows: &[(u32, Target)]) -> usize {
    if rows.len() <= BUCKET_ROWS {
        return 2 * rows.len() + 1;
    }
    let (low, high) = rows.split_at(rows.len() / 2);
    2 + instructions(low) + instructions(high)
}
