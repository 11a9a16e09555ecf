//! Selects the stream of the next datagrams, round robin; each stream has its own sequence. Pure.

use crate::payload::share;

/// Consecutive datagrams of one stream that are sent together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) stream: u16,
    pub(crate) first_sequence: u64,
    pub(crate) datagrams: usize,
}

/// Assigns datagrams to streams round robin.
#[derive(Debug)]
pub(crate) struct RoundRobin {
    /// Next sequence number of each stream.
    next: Vec<u64>,
    total: Option<u64>,
    assigned: u64,
    next_stream: u16,
}

impl RoundRobin {
    /// `total`: of all streams together; `None`: unlimited.
    pub(crate) fn new(streams: u16, total: Option<u64>) -> Self {
        Self { next: vec![0; streams.into()], total, assigned: 0, next_stream: 0 }
    }

    pub(crate) fn streams(&self) -> u16 {
        u16::try_from(self.next.len()).unwrap_or(u16::MAX)
    }

    /// The planned total, 0 if there is none.
    pub(crate) fn total(&self) -> u64 {
        self.total.unwrap_or(0)
    }

    pub(crate) fn assigned(&self) -> u64 {
        self.assigned
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.total.is_some_and(|total| self.assigned >= total)
    }

    /// Returns the next datagrams, at most `limit`, all of one stream; `None` after the last one.
    pub(crate) fn next_run(&mut self, limit: usize) -> Option<Run> {
        for _ in 0..self.next.len() {
            let stream = self.next_stream;
            self.next_stream = (self.next_stream + 1) % self.streams();
            let left =
                self.stream_total(stream).map_or(u64::MAX, |total| total - self.next[usize::from(stream)]);
            let datagrams = limit.min(usize::try_from(left).unwrap_or(usize::MAX));
            if datagrams > 0 {
                return Some(self.take(stream, datagrams));
            }
        }
        None
    }

    /// Returns one more datagram of the stream, to close a run that ended before its total.
    pub(crate) fn close(&mut self, stream: u16) -> Run {
        self.take(stream, 1)
    }

    /// Whether this is the last datagram of its stream.
    pub(crate) fn is_last(&self, stream: u16, sequence: u64) -> bool {
        self.stream_total(stream).is_some_and(|total| sequence + 1 >= total)
    }

    fn take(&mut self, stream: u16, datagrams: usize) -> Run {
        let next = &mut self.next[usize::from(stream)];
        let run = Run { stream, first_sequence: *next, datagrams };
        *next += datagrams as u64;
        self.assigned += datagrams as u64;
        run
    }

    fn stream_total(&self, stream: u16) -> Option<u64> {
        Some(share(self.total?, self.streams(), stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(round_robin: &mut RoundRobin, limit: usize) -> Vec<(u16, u64)> {
        let mut assigned = Vec::new();
        while let Some(run) = round_robin.next_run(limit) {
            assigned
                .extend((0..run.datagrams as u64).map(|offset| (run.stream, run.first_sequence + offset)));
        }
        assigned
    }

    #[test]
    fn streams_are_selected_round_robin() {
        let mut round_robin = RoundRobin::new(2, Some(5));
        assert_eq!(all(&mut round_robin, 1), [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]);
        assert!(
            round_robin.is_finished()
                && round_robin.is_last(0, 2)
                && round_robin.is_last(1, 1)
                && !round_robin.is_last(0, 1)
        );
    }

    #[test]
    fn an_endless_run_is_closed_stream_by_stream() {
        let mut round_robin = RoundRobin::new(2, None);
        assert_eq!(round_robin.next_run(3).map(|run| (run.stream, run.datagrams)), Some((0, 3)));
        assert!(!round_robin.is_finished());
        assert_eq!(round_robin.close(0), Run { stream: 0, first_sequence: 3, datagrams: 1 });
        assert_eq!(round_robin.close(1), Run { stream: 1, first_sequence: 0, datagrams: 1 });
        assert_eq!(round_robin.assigned(), 5);
    }

    proptest! {
        #[test]
        fn each_stream_gets_its_share_in_order(streams in 1u16..20, total in 0u64..500, limit in 1usize..70) {
            let assigned = all(&mut RoundRobin::new(streams, Some(total)), limit);
            prop_assert_eq!(assigned.len() as u64, total);
            for stream in 0..streams {
                let sequences: Vec<u64> = assigned.iter().filter(|(of, _)| *of == stream).map(|(_, s)| *s).collect();
                prop_assert_eq!(sequences, (0..share(total, streams, stream)).collect::<Vec<_>>());
            }
        }
    }
}
