//! When groups are joined once more after a carrier came back. The first time is at once; but a switch may bring its port
//! into service later than its carrier (a Linux bridge by up to a second), and what it was told before is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use mcr_sys::link::IfIndex;

/// After the carrier. The second is for hosts that are busy, whose bridges take longer then; the third for switches that take
/// their time. Later ones would cost more, on switches that drop a group at once when it is left, than they bring.
const AFTER: [Duration; 3] =
    [Duration::from_millis(1200), Duration::from_millis(2500), Duration::from_secs(5)];

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Rejoins {
    due: BTreeSet<(Duration, IfIndex)>,
}

impl Rejoins {
    /// These interfaces got their carrier back.
    pub(super) fn returned(&mut self, interfaces: &BTreeSet<IfIndex>, now: Duration) {
        self.due.retain(|(_, ifindex)| !interfaces.contains(ifindex));
        for ifindex in interfaces {
            self.due.extend(AFTER.map(|after| (now + after, *ifindex)));
        }
    }

    /// Interfaces whose groups are to be joined again now.
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

    /// When the next is due.
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
