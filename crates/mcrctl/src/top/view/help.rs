//! What the keys do and what the columns mean.

use super::page::{Page, Piece};
use crate::top::theme::Tone;

const KEYS: [(&str, &str); 10] = [
    ("1-7, Tab, left, right", "another page"),
    ("up, down, j, k", "select a row; PgUp, PgDn, Home, End, too"),
    ("Enter", "open the selected rule with its explanation; Esc goes back"),
    ("e", "explain the open rule by what arrives in 2 s, as `mcrctl explain`"),
    ("t", "trace the open rule for 5 s or 200 records"),
    ("s, S, r", "sort by the next column, the one before; reverse"),
    ("/", "show only rows that contain a text; Esc shows all again"),
    ("w", "rates over 1 s or 10 s"),
    ("Ctrl-L", "draw the screen anew"),
    ("q, Ctrl-C", "leave"),
];

const WORDS: [(&str, &str); 7] = [
    ("dgram/s, bit/s", "datagrams, and their payload in bits, per second"),
    ("drop/s", "due on an output and not sent, per second"),
    ("lost", "frames the kernel dropped before a worker saw them"),
    ("skips", "arrived, and no rule wanted them"),
    ("active!", "it relays, but not to every output; Enter tells why"),
    ("CPU %, LOAD", "share of a core that the worker uses, and lately"),
    ("TREND", "the last samples against their highest; a dot is 0"),
];

pub(super) fn draw(page: &mut Page<'_>) {
    page.title(&[Piece::new("Keys", Tone::Title)]);
    KEYS.iter().for_each(|(key, what)| entry(page, key, what));
    page.title(&[Piece::new("Words", Tone::Title)]);
    WORDS.iter().for_each(|(word, what)| entry(page, word, what));
}

fn entry(page: &mut Page<'_>, word: &str, what: &str) {
    page.beside(word, 24, what);
}
