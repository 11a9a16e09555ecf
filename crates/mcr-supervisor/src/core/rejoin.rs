//! Repeated joins after a carrier came back. The first is immediate; but a switch may enable its port later than its
//! carrier (a Linux bridge by up to a second), and reports sent before are lost.

use std::collections::BTreeSet;
use std::time::Duration;

use mcr_sys::link::IfIndex;

/// Delays after the carrier. The second is for busy hosts, whose bridges take longer; the third for slow switches.
/// Later ones would cost more than they gain, on switches that drop a group at once when it is left.
const AFTER: [Duration; 3] =
    [Duration::from_millis(1200), Duration::from_millis(2500), Duration::from_secs(5)];

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Rejoins {
    due: BTreeSet<(Duration, IfIndex)>,
}

impl Rejoins {
    /// Schedules joins on these interfaces, which regained their carrier.
    pub(super) fn returned(&mut self, interfaces: &BTreeSet<IfIndex>, now: Duration) {
        self.due.retain(|(_, ifindex)| !interfaces.contains(ifindex));
        for ifindex in interfaces {
            self.due.extend(AFTER.map(|after| (now + after, *ifindex)));
        }
    }

    /// Returns the interfaces whose groups are due to be joined again.
    pub(super) fn take_due(&mut self, now: Duration) -> BTreeSet<IfIndex> {
        let mut interfaces = BTreeSet::new();
        while let Some((at, ifindex)) = self.due.first().copied()
            && at <= now
        {
            self.due.pop_first();
            interfaces.insert(ifindex);
        }
        interfaces
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_return_is_echoed_and_a_new_one_starts_over() {
        let (one, other) = (IfIndex::new(1), IfIndex::new(2));
        let mut rejoins = Rejoins::default();
        assert_eq!(rejoins.next(), None);
        rejoins.returned(&BTreeSet::from([one, other]), Duration::ZERO);
        assert_eq!(rejoins.next(), Some(AFTER[0]));
        rejoins.returned(&BTreeSet::from([other]), Duration::from_secs(1));
        assert_eq!(rejoins.take_due(AFTER[0]), BTreeSet::from([one]));
        assert_eq!(rejoins.take_due(AFTER[0]), BTreeSet::new());
        assert_eq!(rejoins.take_due(AFTER[0] + Duration::from_secs(1)), BTreeSet::from([other]));
        assert_eq!(rejoins.take_due(Duration::from_secs(60)), BTreeSet::from([one, other]));
        assert_eq!(rejoins.next(), None);
    }
}
