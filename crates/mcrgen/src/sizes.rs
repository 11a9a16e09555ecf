//! Payload sizes: fixed, or random for each datagram.

use crate::payload::{HEADER_BYTES, MAX_PAYLOAD_BYTES};
use fastrand::Rng;
use std::str::FromStr;

/// Payload bytes of a datagram, from `minimum` to `maximum`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SizeRange {
    minimum: usize,
    maximum: usize,
}

impl SizeRange {
    /// The size of all datagrams, if fixed.
    pub(crate) fn fixed(&self) -> Option<usize> {
        (self.minimum == self.maximum).then_some(self.maximum)
    }

    pub(crate) fn minimum(&self) -> usize {
        self.minimum
    }

    pub(crate) fn maximum(&self) -> usize {
        self.maximum
    }

    /// Returns the size of the next datagram.
    pub(crate) fn pick(&self, random: &mut Rng) -> usize {
        random.usize(self.minimum..=self.maximum)
    }
}

impl FromStr for SizeRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| {
            part.trim()
                .parse::<usize>()
                .map_err(|_| format!("{part:?} is not a number of bytes (BYTES or MIN-MAX)"))
        };
        let (minimum, maximum) = match text.split_once('-') {
            Some((minimum, maximum)) => (number(minimum)?, number(maximum)?),
            None => (number(text)?, number(text)?),
        };
        if minimum > maximum {
            return Err(format!("the minimum must be first: {maximum}-{minimum}"));
        }
        if minimum < HEADER_BYTES {
            return Err(format!(
                "{minimum} bytes are too few: each datagram has a {HEADER_BYTES}-byte header"
            ));
        }
        if maximum > MAX_PAYLOAD_BYTES {
            return Err(format!("the maximum UDP payload is {MAX_PAYLOAD_BYTES} bytes"));
        }
        Ok(Self { minimum, maximum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_and_a_range_are_parsed() {
        assert_eq!("1400".parse(), Ok(SizeRange { minimum: 1400, maximum: 1400 }));
        assert_eq!("48-65507".parse(), Ok(SizeRange { minimum: 48, maximum: 65_507 }));
        for (text, reason) in [
            ("47", "too few"),
            ("1-100", "too few"),
            ("100-65508", "maximum"),
            ("200-100", "must be first"),
            ("big", "not a number"),
            ("-5", "not a number"),
            ("", "not a number"),
        ] {
            let error = text.parse::<SizeRange>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn random_sizes_cover_the_range_and_repeat_with_the_seed() {
        let sizes: SizeRange = "48-57".parse().unwrap();
        let picked = |seed| {
            let mut random = Rng::with_seed(seed);
            (0..1000).map(|_| sizes.pick(&mut random)).collect::<Vec<_>>()
        };
        let mut distinct = picked(7);
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct, (48..=57).collect::<Vec<_>>());
        assert_eq!(picked(7), picked(7));
        assert_ne!(picked(7), picked(8));
        assert_eq!("60".parse::<SizeRange>().unwrap().pick(&mut Rng::with_seed(1)), 60);
    }
}
