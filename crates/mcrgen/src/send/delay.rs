//! What a path does to the datagrams of a leg: loss, delay, another order. Pure: the time is an argument.

use crate::legs::Impairment;
use fastrand::Rng;
use std::collections::{BTreeMap, VecDeque};

/// A datagram that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Late {
    due_ns: u64,
    pub(super) stream: usize,
    pub(super) datagram: Box<[u8]>,
}

/// A path with its impairments.
#[derive(Debug)]
pub(crate) struct Path {
    impairment: Impairment,
    random: Rng,
    /// In order of sending, so also of time: all have the same delay.
    under_way: VecDeque<Late>,
    /// By stream; each leaves behind the next one of its stream.
    held: BTreeMap<usize, Late>,
}

impl Path {
    /// The same seed loses and reorders the same datagrams.
    pub(crate) fn new(impairment: Impairment, seed: u64) -> Self {
        Self { impairment, random: Rng::with_seed(seed), under_way: VecDeque::new(), held: BTreeMap::new() }
    }

    /// Takes a datagram; returns whether it will arrive.
    pub(super) fn admit(&mut self, now_ns: u64, stream: usize, datagram: &[u8]) -> bool {
        if self.random.f64() < self.impairment.loss {
            return false;
        }
        let delay_ns = u64::try_from(self.impairment.delay.as_nanos()).unwrap_or(u64::MAX);
        let due_ns = now_ns.saturating_add(delay_ns);
        let late = Late { due_ns, stream, datagram: datagram.into() };
        if !self.held.contains_key(&stream) && self.random.f64() < self.impairment.reorder {
            self.held.insert(stream, late);
            return true;
        }
        self.under_way.push_back(late);
        self.under_way.extend(self.held.remove(&stream).map(|held| Late { due_ns, ..held }));
        true
    }

    /// Nothing comes any more behind which a held datagram could leave.
    pub(super) fn close(&mut self) {
        self.under_way.extend(std::mem::take(&mut self.held).into_values());
    }

    /// Returns when the next datagram is due.
    pub(super) fn next_due_ns(&self) -> Option<u64> {
        self.under_way.front().map(|late| late.due_ns)
    }

    /// Returns the next datagram that is due.
    pub(super) fn take_due(&mut self, now_ns: u64) -> Option<Late> {
        self.under_way.pop_front_if(|late| late.due_ns <= now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// The datagrams 0 to `count` - 1, one each millisecond, as they leave a path: number and time in ms.
    fn pass(impairment: Impairment, count: u64, seed: u64) -> Vec<(u64, u64)> {
        let mut path = Path::new(impairment, seed);
        let mut left = Vec::new();
        let mut release = |path: &mut Path, ms: u64| {
            while let Some(late) = path.take_due(ms * 1_000_000) {
                left.push((u64::from_be_bytes(late.datagram[..].try_into().unwrap()), ms));
            }
        };
        for number in 0..count {
            path.admit(number * 1_000_000, 0, &number.to_be_bytes());
            release(&mut path, number);
        }
        path.close();
        (count..count + 1000).for_each(|ms| release(&mut path, ms));
        assert_eq!(path.next_due_ns(), None);
        left
    }

    #[test]
    fn a_delay_moves_all_by_the_same_time() {
        let delayed = pass(Impairment { delay: Duration::from_millis(5), ..Impairment::default() }, 20, 1);
        assert_eq!(delayed, (0..20).map(|number| (number, number + 5)).collect::<Vec<_>>());
    }

    #[test]
    fn losses_are_as_frequent_as_wanted_and_the_same_for_a_seed() {
        let lossy = Impairment { loss: 0.05, ..Impairment::default() };
        let left = pass(lossy, 20_000, 7).len();
        assert!((18_850..19_150).contains(&left), "{left} of 20,000 left");
        assert_eq!(pass(lossy, 1000, 7), pass(lossy, 1000, 7));
        assert_ne!(pass(lossy, 1000, 7), pass(lossy, 1000, 8));
        assert!(pass(Impairment { loss: 1.0, ..lossy }, 100, 7).is_empty());
    }

    #[test]
    fn a_reordered_datagram_leaves_behind_the_next_one_and_none_is_lost() {
        let all = pass(Impairment { reorder: 1.0, ..Impairment::default() }, 5, 1);
        assert_eq!(all.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 0, 3, 2, 4]);
        let mut some: Vec<u64> = pass(Impairment { reorder: 0.2, ..Impairment::default() }, 1000, 3)
            .into_iter()
            .map(|(n, _)| n)
            .collect();
        let changed = some.windows(2).filter(|pair| pair[0] > pair[1]).count();
        assert!((100..300).contains(&changed), "{changed}");
        some.sort_unstable();
        assert_eq!(some, (0..1000).collect::<Vec<_>>());
    }
}
