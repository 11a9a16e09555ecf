//! The latest sequences received: a bitmap of fixed size that slides with the highest one.

/// How far behind the highest sequence a datagram can still be told from a duplicate.
pub(crate) const WINDOW: u64 = 65_536;

const WORD_BITS: u64 = 64;
const WORDS: usize = 1024;
const _: () = assert!(WORDS as u64 * WORD_BITS == WINDOW, "one bit for each sequence");

/// A sequence compared with those received before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Higher than all before.
    Advance,
    /// Not seen, lower than the highest: reordered.
    Late,
    /// Seen before.
    Duplicate,
    /// More than [`WINDOW`] behind the highest: late or duplicate, which is unknown.
    Stale,
}

/// The sequences `highest - WINDOW + 1 ..= highest`, one bit each; 8 KiB.
#[derive(Debug)]
pub(crate) struct Window {
    bits: Box<[u64]>,
    highest: u64,
}

impl Window {
    /// A window that has seen one sequence.
    pub(crate) fn starting_at(sequence: u64) -> Self {
        let mut window = Self { bits: vec![0; WORDS].into_boxed_slice(), highest: sequence };
        window.mark(sequence);
        window
    }

    pub(crate) fn highest(&self) -> u64 {
        self.highest
    }

    /// Adds a sequence and returns how it compares with those before.
    pub(crate) fn insert(&mut self, sequence: u64) -> Place {
        if sequence > self.highest {
            self.advance_to(sequence);
            self.mark(sequence);
            return Place::Advance;
        }
        if self.highest - sequence >= WINDOW {
            return Place::Stale;
        }
        if self.mark(sequence) { Place::Late } else { Place::Duplicate }
    }

    /// Clears the bits of the sequences that the window moves over.
    fn advance_to(&mut self, sequence: u64) {
        if sequence - self.highest >= WINDOW {
            self.bits.fill(0);
        } else {
            for passed in self.highest + 1..=sequence {
                let (word, bit) = Self::place(passed);
                self.bits[word] &= !bit;
            }
        }
        self.highest = sequence;
    }

    /// Sets the sequence's bit. Returns whether it was clear.
    fn mark(&mut self, sequence: u64) -> bool {
        let (word, bit) = Self::place(sequence);
        let clear = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        clear
    }

    fn place(sequence: u64) -> (usize, u64) {
        (((sequence % WINDOW) / WORD_BITS) as usize, 1 << (sequence % WORD_BITS))
    }
}
