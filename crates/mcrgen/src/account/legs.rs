//! The accounts of a receiver of several legs: each leg's own, and that of an ideal merge, which passes the first copy of each
//! datagram. What only one leg brought is what a merge of all the others lacks.

use super::{Account, Expectation, Summary, Totals};
use crate::payload::{Header, Unusable};

/// The accounts of one or more legs.
#[derive(Debug)]
pub(crate) struct Accounts {
    merged: Account,
    /// Empty if there is only one leg: the merged account is its own.
    legs: Vec<LegAccount>,
}

#[derive(Debug)]
struct LegAccount {
    own: Account,
    /// Of a merge of the other legs.
    others: Account,
}

/// The totals of a leg.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct LegTotals {
    #[serde(flatten)]
    pub(crate) totals: Totals,
    /// Datagrams that no other leg brought.
    pub(crate) unique: u64,
}

impl Accounts {
    /// Accounts for a number of legs with this number of groups each.
    pub(crate) fn new(legs: usize, groups: usize) -> Self {
        let account = || LegAccount { own: Account::new(groups), others: Account::new(groups) };
        let legs = if legs > 1 { (0..legs).map(|_| account()).collect() } else { Vec::new() };
        Self { merged: Account::new(groups), legs }
    }

    /// Records a datagram of a group of a leg. Returns whether it is the first copy.
    pub(crate) fn record(
        &mut self,
        leg: usize,
        group: usize,
        header: &Header,
        bytes: usize,
        now_ns: u64,
    ) -> bool {
        for (number, one) in self.legs.iter_mut().enumerate() {
            let account = if number == leg { &mut one.own } else { &mut one.others };
            account.record(group, header, bytes, now_ns);
        }
        self.merged.record(group, header, bytes, now_ns)
    }

    /// Counts an unusable datagram.
    pub(crate) fn reject(&mut self, unusable: Unusable) {
        self.merged.reject(unusable);
    }

    /// Datagrams received so far, each counted once.
    pub(crate) fn received(&self) -> u64 {
        self.merged.received()
    }

    /// Whether every leg has delivered all that its sender announced.
    pub(crate) fn is_complete(&self) -> bool {
        self.merged.is_complete() && self.legs.iter().all(|leg| leg.own.is_complete())
    }

    /// Number of datagrams missing so far, for the progress line.
    pub(crate) fn missing(&self, late: bool, now_ns: u64) -> u64 {
        self.merged.missing(late, now_ns)
    }

    /// Returns the totals after a merge, and those of each leg if there are several. Copies of other legs are no duplicates.
    pub(crate) fn summary(&self, expectation: Expectation) -> (Summary, Vec<LegTotals>) {
        let mut merged = self.merged.summary(expectation);
        let legs: Vec<LegTotals> = self
            .legs
            .iter()
            .map(|leg| LegTotals {
                totals: leg.own.summary(expectation).totals,
                unique: merged.totals.received - leg.others.received(),
            })
            .collect();
        if !legs.is_empty() {
            merged.totals.duplicates = legs.iter().map(|leg| leg.totals.duplicates).sum();
        }
        (merged, legs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Expectation = Expectation { late: false, cut_off_ns: None };

    fn header(sequence: u64) -> Header {
        Header { last: false, stream: 0, streams: 1, session: 1, sequence, planned_total: 6, time_ns: 0 }
    }

    #[test]
    fn each_leg_has_its_loss_and_a_merge_what_all_lost() {
        let mut accounts = Accounts::new(2, 1);
        let mut record = |leg, sequence| accounts.record(leg, 0, &header(sequence), 100, 0);
        let first: Vec<bool> = [(0, 0), (1, 0), (0, 1), (0, 1), (1, 2), (0, 3), (1, 3), (1, 5)]
            .map(|(leg, n)| record(leg, n))
            .into();
        assert_eq!(first, [true, false, true, false, true, true, false, true]);
        let (merged, legs) = accounts.summary(ALL);
        // Number 4 came by neither.
        assert_eq!((merged.totals.received, merged.totals.lost, merged.totals.duplicates), (5, 1, 1));
        let of = |leg: &LegTotals| (leg.totals.received, leg.totals.lost, leg.totals.duplicates, leg.unique);
        assert_eq!(legs.iter().map(of).collect::<Vec<_>>(), [(3, 3, 1, 1), (4, 2, 0, 2)]);
    }

    #[test]
    fn one_leg_is_the_whole() {
        let mut accounts = Accounts::new(1, 1);
        (0..6).for_each(|sequence| assert!(accounts.record(0, 0, &header(sequence), 100, 0)));
        assert!(accounts.is_complete());
        let (merged, legs) = accounts.summary(ALL);
        assert_eq!((merged.totals.received, legs.len()), (6, 0));
    }
}
