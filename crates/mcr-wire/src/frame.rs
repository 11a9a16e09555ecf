//! The walk over one frame, from its first byte to the payload of its datagram.

use std::iter::successors;
use std::net::IpAddr;
use std::ops::Range;

use crate::ethernet::{ETHERNET_HEADER_BYTES, IpVersion, parse_ethernet};
use crate::ipv4::parse_ipv4;
use crate::ipv6::parse_ipv6;
use crate::refusal::Refusal;
use crate::udp::{ChecksumRule, UDP_HEADER_BYTES, parse_udp};

/// What a frame of an interface starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkLayer {
    /// An Ethernet header; the loopback interface has one too.
    Ethernet,
    /// The IP header: tun, WireGuard, GRE, IP in IP.
    None,
}

/// What the kernel knows of a frame beyond its bytes; see [`crate::parse_vnet_header`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameMeta {
    /// The frame comes from this host, and its UDP checksum is unfinished.
    pub checksum_pending: bool,
    /// The device or the kernel has verified the UDP checksum already.
    ///
    /// Some virtual NICs say so of frames between machines of one host, whose checksum was never made: it must be
    /// believed, as the kernel itself does.
    pub checksum_verified: bool,
    /// The frame carries several datagrams: one in each piece of payload of this many bytes, the last may be shorter.
    pub segment_bytes: Option<u16>,
}

/// The most datagrams in a super-frame: 64 KiB in pieces of 64 bytes. The kernel's own senders make at most 128
/// (`UDP_MAX_SEGMENTS`), a guest's virtual NIC may make more.
pub const MAX_SEGMENTS: usize = 1024;

/// A datagram, or the several like datagrams of a super-frame. Ranges count from the frame's first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Source address and port.
    pub source: (IpAddr, u16),
    /// Destination address and port.
    pub destination: (IpAddr, u16),
    /// TTL or hop limit; at least 1.
    pub ttl: u8,
    /// Differentiated services code point, 0 to 63 (RFC 2474).
    pub dscp: u8,
    /// The payload in the frame: of all the datagrams, for a super-frame.
    pub payload: Range<usize>,
    /// Bytes of payload per datagram of a super-frame; the last may be shorter. Never 0.
    pub segment_bytes: Option<u16>,
}

/// Reads one frame as a packet socket gave it (behind the virtio header), each header once.
///
/// Padding behind the IP packet is not payload. The lengths in a super-frame's headers describe all of it.
///
/// # Errors
/// The first fault met on the way from the link header to the payload.
#[inline(always)]
pub fn parse_frame(frame: &[u8], link: LinkLayer, meta: FrameMeta) -> Result<Datagram, Refusal> {
    let (version, ip_offset) = match link {
        LinkLayer::Ethernet => (parse_ethernet(frame)?, ETHERNET_HEADER_BYTES),
        LinkLayer::None => (version_by_first_byte(frame)?, 0),
    };
    let packet = frame.get(ip_offset..).ok_or(Refusal::NotIp)?;
    let (ip, strictest) = match version {
        IpVersion::V4 => (parse_ipv4(packet)?, ChecksumRule::Optional),
        IpVersion::V6 => (parse_ipv6(packet)?, ChecksumRule::Mandatory),
    };
    // A super-frame's checksum describes no datagram: receive offload has verified each before it merged them, and
    // a sender's segmentation will make each when it splits them.
    let trust = meta.checksum_pending || meta.checksum_verified || meta.segment_bytes.is_some();
    let rule = if trust { ChecksumRule::Trust } else { strictest };
    let ip_payload = packet.get(ip.payload.clone()).ok_or(Refusal::Truncated)?;
    let (udp, udp_bytes) = parse_udp(ip_payload, ip.addresses, rule)?;

    let udp_offset = ip_offset + ip.payload.start;
    let datagram = Datagram {
        source: (ip.source, udp.source_port.get()),
        destination: (ip.destination, udp.destination_port.get()),
        ttl: ip.ttl,
        dscp: ip.dscp,
        payload: udp_offset + UDP_HEADER_BYTES..udp_offset + udp_bytes,
        segment_bytes: meta.segment_bytes,
    };
    if meta.segment_bytes == Some(0) || datagram.segment_count() > MAX_SEGMENTS {
        return Err(Refusal::BadSuperFrame);
    }
    Ok(datagram)
}

/// Without a link header only the IP version tells what a packet is.
fn version_by_first_byte(packet: &[u8]) -> Result<IpVersion, Refusal> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => Ok(IpVersion::V4),
        Some(6) => Ok(IpVersion::V6),
        _ => Err(Refusal::NotIp),
    }
}

impl Datagram {
    /// The payload of each datagram in the frame, in order. There is at least one, perhaps empty.
    #[inline]
    pub fn segments(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let end = self.payload.end;
        let step = self.segment_bytes.map_or(usize::MAX, usize::from).max(1);
        let piece = move |start: usize| start..end.min(start.saturating_add(step));
        successors(Some(piece(self.payload.start)), move |last| (last.end < end).then(|| piece(last.end)))
    }

    /// How many datagrams the frame carries; at least 1.
    #[inline]
    #[must_use]
    pub fn segment_count(&self) -> usize {
        match self.segment_bytes {
            None => 1,
            Some(bytes) => self.payload.len().div_ceil(usize::from(bytes).max(1)).max(1),
        }
    }
}

#[cfg(test)]
mod tests;
