//! What the IPv4 and the IPv6 parser have in common.

use std::ops::Range;

use crate::address::AddressBits;
use crate::checksum::Sum;

/// A checked IP packet that carries UDP. Ranges count from the first byte of the IP header.
#[derive(Debug)]
pub(crate) struct IpPacket {
    pub(crate) source: AddressBits,
    pub(crate) destination: AddressBits,
    pub(crate) ttl: u8,
    pub(crate) dscp: u8,
    /// The UDP header and what follows it, to the end of the packet.
    pub(crate) payload: Range<usize>,
    /// The sum of both addresses, for the UDP pseudo header.
    pub(crate) addresses: Sum,
}
