//! The reasons for which a frame is not relayed.

/// Why a frame is not relayed. Each has its own counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Neither IPv4 nor IPv6, or too short for either.
    NotIp,
    /// A VLAN tag in the frame. Rules for a VLAN name its interface.
    Vlan,
    /// An IP packet that does not carry UDP.
    NotUdp,
    /// A fragment of a datagram; [`crate::Reassembly`] puts them together.
    Fragment,
    /// Fewer bytes than the IP header announces.
    Truncated,
    /// An invalid IP header: version, header length, extension headers.
    BadHeader,
    /// A UDP length below 8, or beyond the IP payload.
    BadLength,
    /// A wrong checksum of UDP or of the IPv4 header, or none with IPv6.
    BadChecksum,
    /// TTL or hop limit 0.
    TtlZero,
    /// A super-frame with segments of 0 bytes, or with more of them than [`crate::frame::MAX_SEGMENTS`].
    BadSuperFrame,
}
