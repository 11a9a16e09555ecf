//! Which segmented sends (GSO, `UDP_SEGMENT`) the path of an output accepts.
//!
//! The kernel rejects some (EIO, EINVAL, EMSGSIZE): the device or an IPsec transformation can't segment, or a segment exceeds the
//! path MTU. Therefore the first send of each larger segment size is a probe, sent alone; if it is rejected, its datagrams are
//! sent one by one.

use std::cell::Cell;

use mcr_sys::errno;

/// How to send several datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gso {
    /// In one segmented send: the path accepts this size.
    Use,
    /// In one segmented send, which must complete before the next send on this output.
    Probe,
    /// One by one.
    Off,
}

/// The segment sizes that the path of an output accepts; in cells, because they are learned while the table is borrowed.
#[derive(Debug)]
pub(crate) struct Segmentation {
    /// The largest accepted segment size.
    accepted: Cell<u16>,
    /// The smallest rejected segment size.
    rejected: Cell<u16>,
}

impl Default for Segmentation {
    fn default() -> Self {
        Self { accepted: Cell::new(0), rejected: Cell::new(u16::MAX) }
    }
}

impl Segmentation {
    /// Of a socket that takes no segmented sends.
    pub(crate) const fn unsupported() -> Self {
        Self { accepted: Cell::new(0), rejected: Cell::new(0) }
    }

    /// How to send several datagrams of this size.
    #[inline]
    pub(crate) const fn gso(&self, segment_bytes: u16) -> Gso {
        if segment_bytes >= self.rejected.get() {
            Gso::Off
        } else if segment_bytes <= self.accepted.get() {
            Gso::Use
        } else {
            Gso::Probe
        }
    }

    /// Records that a segmented send of this size succeeded.
    #[inline]
    pub(crate) fn record_success(&self, segment_bytes: u16) {
        self.accepted.set(self.accepted.get().max(segment_bytes));
    }

    /// Records that a segmented send of this size failed. Returns whether to send the datagrams one by one.
    pub(crate) fn record_failure(&self, segment_bytes: u16, errno: i32) -> bool {
        match errno {
            errno::EIO | errno::EOPNOTSUPP => self.rejected.set(0),
            errno::EINVAL | errno::EMSGSIZE => self.rejected.set(self.rejected.get().min(segment_bytes)),
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_send_of_each_larger_size_is_a_probe() {
        let path = Segmentation::default();
        assert_eq!(path.gso(1_000), Gso::Probe);
        path.record_success(1_000);
        assert_eq!(path.gso(1_000), Gso::Use);
        assert_eq!(path.gso(1_001), Gso::Probe);
        assert_eq!(path.gso(200), Gso::Use);
    }

    #[test]
    fn smaller_segments_are_used_after_one_too_large_for_the_path() {
        let path = Segmentation::default();
        path.record_success(1_000);
        assert!(path.record_failure(1_400, errno::EMSGSIZE));
        assert_eq!(path.gso(1_400), Gso::Off);
        assert_eq!(path.gso(1_000), Gso::Use);
        assert_eq!(path.gso(1_200), Gso::Probe);
    }

    #[test]
    fn a_device_without_segmentation_is_not_probed_again() {
        let path = Segmentation::default();
        path.record_success(1_000);
        assert!(path.record_failure(1_000, errno::EIO));
        assert_eq!(path.gso(1), Gso::Off);
        assert_eq!(path.gso(1_000), Gso::Off);
    }

    #[test]
    fn other_errors_do_not_disable_segmentation() {
        let path = Segmentation::default();
        assert!(!path.record_failure(1_000, 11));
        assert_eq!(path.gso(1_000), Gso::Probe);
    }
}
