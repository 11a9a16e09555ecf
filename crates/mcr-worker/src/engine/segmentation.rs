//! What is known of an output's path: whether many datagrams may leave in one segmented send.
//!
//! The kernel refuses some (EIO, EINVAL, EMSGSIZE): a device or transformation that can't, a segment that exceeds the
//! path's MTU. So the first of each larger size is a trial, sent alone; what is refused leaves datagram by datagram.

use std::cell::Cell;

/// How the datagrams of a run leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gso {
    /// In one segmented send, like others of this size before.
    Use,
    /// In one segmented send whose outcome must be known before anything else is sent on this output.
    Probe,
    /// Each in a send of its own.
    Off,
}

/// What one output is known to take; in cells, because it is learned while a table is in use.
#[derive(Debug)]
pub(crate) struct Segmentation {
    /// The largest segment that was taken.
    taken: Cell<u16>,
    /// The smallest segment that was refused.
    refused: Cell<u16>,
}

impl Default for Segmentation {
    fn default() -> Self {
        Self { taken: Cell::new(0), refused: Cell::new(u16::MAX) }
    }
}

impl Segmentation {
    /// How to send several datagrams of this size.
    #[inline]
    pub(crate) const fn gso(&self, segment_bytes: u16) -> Gso {
        if segment_bytes >= self.refused.get() {
            Gso::Off
        } else if segment_bytes <= self.taken.get() {
            Gso::Use
        } else {
            Gso::Probe
        }
    }

    /// A segmented send of this size left.
    #[inline]
    pub(crate) fn took(&self, segment_bytes: u16) {
        self.taken.set(self.taken.get().max(segment_bytes));
    }

    /// A segmented send of this size failed. Returns whether the datagrams should be sent apart.
    pub(crate) fn refuses(&self, segment_bytes: u16, errno: i32) -> bool {
        match errno {
            errno::EIO | errno::EOPNOTSUPP => self.refused.set(0),
            errno::EINVAL | errno::EMSGSIZE => self.refused.set(self.refused.get().min(segment_bytes)),
            _ => return false,
        }
        true
    }
}

/// Numbers of the generic Linux ABI (asm-generic/errno.h).
pub(crate) mod errno {
    pub(crate) const EIO: i32 = 5;
    pub(crate) const EINVAL: i32 = 22;
    pub(crate) const EMSGSIZE: i32 = 90;
    pub(crate) const EOPNOTSUPP: i32 = 95;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_larger_size_is_a_trial() {
        let path = Segmentation::default();
        assert_eq!(path.gso(1_000), Gso::Probe);
        path.took(1_000);
        assert_eq!(path.gso(1_000), Gso::Use);
        assert_eq!(path.gso(1_001), Gso::Probe);
        assert_eq!(path.gso(200), Gso::Use);
    }

    #[test]
    fn a_segment_too_large_for_the_path_is_remembered_and_smaller_ones_go_on() {
        let path = Segmentation::default();
        path.took(1_000);
        assert!(path.refuses(1_400, errno::EMSGSIZE));
        assert_eq!(path.gso(1_400), Gso::Off);
        assert_eq!(path.gso(1_000), Gso::Use);
        assert_eq!(path.gso(1_200), Gso::Probe);
    }

    #[test]
    fn a_device_that_can_not_is_not_asked_again() {
        let path = Segmentation::default();
        path.took(1_000);
        assert!(path.refuses(1_000, errno::EIO));
        assert_eq!(path.gso(1), Gso::Off);
        assert_eq!(path.gso(1_000), Gso::Off);
    }

    #[test]
    fn other_errors_say_nothing_about_segmentation() {
        let path = Segmentation::default();
        assert!(!path.refuses(1_000, 11));
        assert_eq!(path.gso(1_000), Gso::Probe);
    }
}
