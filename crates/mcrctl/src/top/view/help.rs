//! What the keys do and what the columns mean.

use super::page::{Page, Piece};
use crate::top::theme::Tone;

const KEYS: [(&str, &str); 10] = [
    ("1-7, Tab, left, right", "switch page"),
    ("up, down, j, k", "select a row; PgUp, PgDn, Home, End, too"),
    ("Enter", "open the selected rule with its explanation; Esc goes back"),
    ("e", "listen for 2 s and explain the open rule, as `mcrctl explain`"),
    ("t", "trace the open rule for 5 s or 200 records"),
    ("s, S, r", "sort by the next column, the one before; reverse"),
    ("/", "show only rows that contain a text; Esc shows all again"),
    ("w", "rates over 1 s or 10 s"),
    ("Ctrl-L", "redraw the screen"),
    ("q, Ctrl-C", "quit"),
];

const TERMS: [(&str, &str); 7] = [
    ("dgram/s, bit/s", "datagrams, and their payload in bits, per second"),
    ("drop/s", "datagrams due on an output and not sent, per second"),
    ("lost", "frames the kernel dropped before a worker saw them"),
    ("skips", "datagrams received and not matched to a rule"),
    ("active!", "it relays, but not to every output; Enter shows why"),
    ("CPU %, LOAD", "CPU use of the worker in percent of a core, and its history"),
    ("TREND", "recent samples relative to their maximum; a dot is 0"),
];

pub(super) fn draw(page: &mut Page<'_>) {
    page.title(&[Piece::new("Keys", Tone::Title)]);
    KEYS.iter().for_each(|(key, what)| entry(page, key, what));
    page.title(&[Piece::new("Terms", Tone::Title)]);
    TERMS.iter().for_each(|(term, what)| entry(page, term, what));
}

fn entry(page: &mut Page<'_>, term: &str, what: &str) {
    page.beside(term, 24, what);
}
