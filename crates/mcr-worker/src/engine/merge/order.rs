//! Holds the datagrams behind a gap, for rules that relay in order: until the gap is filled, or has been there for the window.
//!
//! ```text
//!  1 2 _ 4 5        held: 4 5; next: 3        3 arrives, or the window is over: 4 5 are due
//! ```

use std::collections::VecDeque;

use super::Place;

/// What is held.
#[derive(Debug)]
struct Waiting<T> {
    place: Place,
    since_ns: u64,
    item: T,
}

/// When a datagram leaves that the merge lets leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Now,
    /// Behind a gap.
    Later,
    /// Its gap was given up, and what is behind it has left.
    Over,
}

/// See the module documentation. Not shared: a replacement of the worker begins anew.
#[derive(Debug)]
pub(crate) struct Order<T> {
    epoch: u64,
    next: Option<u64>,
    /// By number.
    waiting: VecDeque<Waiting<T>>,
    /// Those that may leave, in order.
    due: VecDeque<T>,
}

impl<T> Default for Order<T> {
    fn default() -> Self {
        Self { epoch: 0, next: None, waiting: VecDeque::new(), due: VecDeque::new() }
    }
}

impl<T> Order<T> {
    /// Decides on a datagram. Afterwards, [`Self::take_due`] returns what may leave: before it if the epoch is another one, else after it.
    pub(crate) fn turn(&mut self, place: Place) -> Turn {
        if place.epoch < self.epoch {
            return Turn::Now;
        }
        if place.epoch > self.epoch {
            self.give_up_all();
            (self.epoch, self.next) = (place.epoch, None);
        }
        match self.next {
            Some(next) if place.next <= next => Turn::Over,
            Some(next) if place.number > next => Turn::Later,
            _ => {
                self.next = Some(place.next);
                self.collect();
                Turn::Now
            }
        }
    }

    /// Holds a datagram whose turn is later.
    pub(crate) fn hold(&mut self, place: Place, since_ns: u64, item: T) {
        let at = self.waiting.partition_point(|other| other.place.number <= place.number);
        self.waiting.insert(at, Waiting { place, since_ns, item });
    }

    /// The next one that may leave.
    pub(crate) fn take_due(&mut self) -> Option<T> {
        self.due.pop_front()
    }

    /// Number of datagrams that are held, those that may leave among them.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.due.len()
    }

    /// When the first gap is given up.
    pub(crate) fn deadline_ns(&self, window_ns: u64) -> Option<u64> {
        // A gap is as old as the first datagram that came behind it.
        let oldest = self.waiting.iter().map(|waiting| waiting.since_ns).min();
        oldest.map(|since| since.saturating_add(window_ns))
    }

    /// Gives up gaps that have been there for the window.
    pub(crate) fn expire(&mut self, now_ns: u64, window_ns: u64) {
        while self.deadline_ns(window_ns).is_some_and(|deadline| deadline <= now_ns) {
            self.give_up_first();
        }
    }

    /// Gives up the first gap: for lack of memory.
    pub(crate) fn give_up_first(&mut self) {
        self.next = self.waiting.front().map(|waiting| waiting.place.number).or(self.next);
        self.collect();
    }

    /// Gives up all gaps.
    pub(crate) fn give_up_all(&mut self) {
        while !self.waiting.is_empty() {
            self.give_up_first();
        }
    }

    fn collect(&mut self) {
        while let Some(first) = self.waiting.pop_front() {
            let next = self.next.unwrap_or(first.place.number);
            if first.place.number > next {
                self.waiting.push_front(first);
                break;
            }
            self.next = Some(next.max(first.place.next));
            self.due.push_back(first.item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(number: u64) -> Place {
        Place { epoch: 1, number, next: number + 1 }
    }

    #[test]
    fn a_gap_is_waited_for_and_given_up() {
        let mut order = Order::default();
        assert_eq!(order.turn(place(5)), Turn::Now);
        for (number, since) in [(8, 100), (7, 110), (10, 120)] {
            assert_eq!(order.turn(place(number)), Turn::Later);
            order.hold(place(number), since, number);
        }
        assert_eq!((order.deadline_ns(50), order.take_due()), (Some(150), None));
        order.expire(149, 50);
        assert_eq!(order.take_due(), None);
        order.expire(150, 50);
        assert_eq!([order.take_due(), order.take_due(), order.take_due()], [Some(7), Some(8), None]);
        assert_eq!(order.turn(place(6)), Turn::Over);
        assert_eq!(order.turn(place(9)), Turn::Now);
        assert_eq!((order.take_due(), order.len()), (Some(10), 0));
        assert_eq!(order.turn(Place { epoch: 2, number: 3, next: 4 }), Turn::Now, "another epoch");
        assert_eq!(order.turn(place(12)), Turn::Now, "what comes late of the epoch before");
    }

    proptest! {
        /// Each datagram leaves once and in order, unless its gap was given up.
        #[test]
        fn what_leaves_is_in_order(numbers in Just((0..60_u64).collect::<Vec<_>>()).prop_shuffle(), window in 1..40_u64) {
            let (mut order, mut left, mut over) = (Order::default(), Vec::new(), 0);
            for (now, number) in (1..).zip(numbers) {
                order.expire(now, window);
                left.extend(std::iter::from_fn(|| order.take_due()));
                match order.turn(place(number)) {
                    Turn::Now => left.push(number),
                    Turn::Later => order.hold(place(number), now, number),
                    Turn::Over => over += 1,
                }
                left.extend(std::iter::from_fn(|| order.take_due()));
            }
            order.give_up_all();
            left.extend(std::iter::from_fn(|| order.take_due()));
            prop_assert!(left.is_sorted(), "{left:?}");
            prop_assert_eq!(left.len() + over, 60);
        }
    }
}
