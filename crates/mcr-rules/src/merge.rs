//! How the legs of a rule are merged: several inputs that carry one feed (SMPTE ST 2022-7, A/B market data).

use std::fmt;

use serde::{Deserialize, Serialize};

/// How legs are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MergeOptions {
    /// What tells copies.
    pub by: MergeBy,
    /// How far apart the legs may be, milliseconds: what is later than this on all of them is lost.
    #[serde(default = "default_window_ms")]
    pub window_ms: u16,
    /// When a datagram leaves that is behind a gap.
    #[serde(default = "default_order")]
    pub order: MergeOrder,
}

named! {
    /// What tells the copies of a datagram from other datagrams.
    pub enum MergeBy {
        /// RTP (RFC 3550): sequence number, timestamp and SSRC.
        Rtp = "rtp",
        /// MoldUDP64: session and message numbers.
        Moldudp64 = "moldudp64",
        /// The payload.
        Payload = "payload",
    }
}

named! {
    /// When a datagram leaves that is behind a gap.
    pub enum MergeOrder {
        /// At once.
        Arrival = "arrival",
        /// Once the gap is filled or the window is over.
        Sequence = "sequence",
    }
}

const fn default_order() -> MergeOrder {
    MergeOptions::DEFAULT_ORDER
}

const fn default_window_ms() -> u16 {
    MergeOptions::DEFAULT_WINDOW_MS
}

impl MergeOptions {
    /// The keys in the file, in the order in which they are written.
    pub(crate) const KEYS: [&str; 3] = ["by", "window_ms", "order"];
    /// `window_ms` if it is not given: class B of ST 2022-7.
    pub const DEFAULT_WINDOW_MS: u16 = 50;
    /// `order` if it is not given.
    pub const DEFAULT_ORDER: MergeOrder = MergeOrder::Arrival;

    /// With defaults for the rest.
    #[must_use]
    pub const fn by(by: MergeBy) -> Self {
        Self { by, window_ms: Self::DEFAULT_WINDOW_MS, order: MergeOrder::Arrival }
    }
}

/// `merge rtp window 50 ms`, with the order if it is not that of arrival.
impl fmt::Display for MergeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by, window_ms, order } = self;
        write!(f, "merge {by} window {window_ms} ms")?;
        if *order == MergeOrder::Arrival { Ok(()) } else { write!(f, " order {order}") }
    }
}
