//! A trace for people: its records as lines, and as packets with what became of them.

pub(crate) mod lines;
pub(crate) mod packets;
