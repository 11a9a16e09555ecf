//! The latest received sequence numbers: a bitmap of fixed size that slides with the highest one.

/// Maximum distance from the highest sequence number at which late datagrams and duplicates are distinguished.
pub(crate) const WINDOW: u64 = 65_536;

const WORD_BITS: u64 = 64;
const WORDS: usize = 1024;
const _: () = assert!(WORDS as u64 * WORD_BITS == WINDOW, "one bit for each sequence number");

/// A sequence number compared with those received before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Higher than all received before.
    InOrder,
    /// Not received before, and lower than the highest: reordered.
    Late,
    /// Received before.
    Duplicate,
    /// More than [`WINDOW`] behind the highest: late or a duplicate.
    Stale,
}

/// The sequence numbers `highest - WINDOW + 1 ..= highest`, one bit each; 8 KiB.
#[derive(Debug)]
pub(crate) struct Window {
    bits: Box<[u64]>,
    highest: u64,
}

impl Window {
    /// A window with one received sequence number.
    pub(crate) fn starting_at(sequence: u64) -> Self {
        let mut window = Self { bits: vec![0; WORDS].into_boxed_slice(), highest: sequence };
        window.mark(sequence);
        window
    }

    pub(crate) fn highest(&self) -> u64 {
        self.highest
    }

    /// Adds a sequence number.
    pub(crate) fn insert(&mut self, sequence: u64) -> Arrival {
        if sequence > self.highest {
            self.advance_to(sequence);
            self.mark(sequence);
            return Arrival::InOrder;
        }
        if self.highest - sequence >= WINDOW {
            return Arrival::Stale;
        }
        if self.mark(sequence) { Arrival::Late } else { Arrival::Duplicate }
    }

    /// Clears the bits of the sequence numbers that the window moves over.
    fn advance_to(&mut self, sequence: u64) {
        if sequence - self.highest >= WINDOW {
            self.bits.fill(0);
        } else {
            for passed in self.highest + 1..=sequence {
                let (word, bit) = Self::bit(passed);
                self.bits[word] &= !bit;
            }
        }
        self.highest = sequence;
    }

    /// Sets a bit. Returns whether it was clear.
    fn mark(&mut self, sequence: u64) -> bool {
        let (word, bit) = Self::bit(sequence);
        let clear = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        clear
    }

    fn bit(sequence: u64) -> (usize, u64) {
        (((sequence % WINDOW) / WORD_BITS) as usize, 1 << (sequence % WORD_BITS))
    }
}
