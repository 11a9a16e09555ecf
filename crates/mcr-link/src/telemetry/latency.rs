//! The relay latency: a histogram in the header of a worker's page.

use std::time::Duration;

use super::{HEADER_WORDS, PageReader, PageWriter, header};

/// Upper bounds of the buckets in microseconds; the last bucket has no bound.
pub const LATENCY_BOUNDS_US: [u64; 28] = [
    4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024, 1_536, 2_048, 3_072, 4_096,
    6_144, 8_192, 12_288, 16_384, 24_576, 32_768, 65_536,
];
const BUCKETS: usize = LATENCY_BOUNDS_US.len() + 1;
const SUM: usize = header::LATENCY + BUCKETS;

const _: () = assert!(SUM < HEADER_WORDS, "the histogram overlaps rule slots");

/// A histogram read from a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencySnapshot {
    /// Samples up to each of [`LATENCY_BOUNDS_US`] and above the previous bound; the last: above all bounds.
    pub buckets: [u64; BUCKETS],
    /// The sum of all samples, in nanoseconds.
    pub sum_ns: u64,
}

impl PageWriter {
    /// Adds a sample: the time from the receive timestamp of a frame to the completion of its sends.
    pub fn latency(&self, took: Duration) {
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| Duration::from_micros(*bound) < took);
        self.add(header::LATENCY + bucket, 1);
        self.add(SUM, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
}

impl PageReader {
    /// Reads the histogram since the page was created.
    #[must_use]
    pub fn latency(&self) -> LatencySnapshot {
        LatencySnapshot {
            buckets: std::array::from_fn(|bucket| self.get(header::LATENCY + bucket)),
            sum_ns: self.get(SUM),
        }
    }
}

impl LatencySnapshot {
    /// Number of samples.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the upper bound, in microseconds, of the bucket of a percentile; for the last bucket, the greatest bound.
    /// `None` without samples.
    #[must_use]
    pub fn percentile_us(&self, percent: u64) -> Option<u64> {
        let samples = self.samples();
        let rank = (samples * percent).div_ceil(100).max(1);
        let mut sum = 0;
        let bucket = self.buckets.iter().position(|count| {
            sum += count;
            sum >= rank
        })?;
        LATENCY_BOUNDS_US.get(bucket).or(LATENCY_BOUNDS_US.last()).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::message::IoBackend;
    use crate::telemetry::create_page;

    #[test]
    fn samples_are_within_the_bounds_of_their_buckets() {
        let page = create_page().unwrap();
        let writer = PageWriter::map(&page, 1, IoBackend::IoUring).unwrap();
        let reader = PageReader::map(page.as_fd()).unwrap();
        assert_eq!(reader.latency().percentile_us(50), None);
        for us in [1, 4, 5, 64, 65, 1_000_000] {
            writer.latency(Duration::from_micros(us));
        }
        let latency = reader.latency();
        let full: Vec<(usize, u64)> =
            latency.buckets.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
        assert_eq!(full, [(0, 2), (1, 1), (8, 1), (9, 1), (BUCKETS - 1, 1)]);
        assert_eq!(latency.sum_ns, 1_000_139_000);
        assert_eq!([1, 50, 66, 99].map(|of_100| latency.percentile_us(of_100)), [4, 6, 64, 65_536].map(Some));
    }
}
