//! Parses one frame, from its first byte to the payload of its datagram.

use std::iter::successors;
use std::ops::Range;

use crate::address::AddressBits;
use crate::ethernet::{
    ETHERNET_HEADER_BYTES, IpVersion, VLAN_TAG_BYTES, parse_ethernet, parse_priority_tagged,
};
use crate::ip::IpPacket;
use crate::ipv4::parse_ipv4;
use crate::ipv6::parse_ipv6;
use crate::refusal::Refusal;
use crate::udp::{ChecksumRule, UDP_HEADER_BYTES, parse_udp};

/// The first header of an interface's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkLayer {
    /// An Ethernet header; the loopback interface has one too.
    Ethernet,
    /// The IP header: tun, WireGuard, GRE, IP in IP.
    None,
}

/// What the kernel reports about a frame; see [`crate::parse_vnet_header`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameMeta {
    /// The frame was sent by this host, and its UDP checksum is partial.
    pub checksum_pending: bool,
    /// The device or the kernel has verified the UDP checksum.
    ///
    /// Some virtual NICs report this for frames between guests of one host, whose checksum was never computed. It must be
    /// trusted, as the kernel itself does.
    pub checksum_verified: bool,
    /// The frame is a super-frame: its payload holds datagrams of this many bytes each; the last may be shorter.
    pub segment_bytes: Option<u16>,
}

/// The most datagrams in a super-frame: 64 KiB in segments of 64 bytes. Senders on the host make at most 128
/// (`UDP_MAX_SEGMENTS`), the virtual NIC of a guest can make more.
pub const MAX_SEGMENTS: usize = 1024;

/// A datagram, or the datagrams of a super-frame, which differ in their payload only. Ranges count from the first byte of
/// the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Source address and port.
    pub source: (AddressBits, u16),
    /// Destination address and port.
    pub destination: (AddressBits, u16),
    /// TTL or hop limit; at least 1.
    pub ttl: u8,
    /// Differentiated services code point, 0 to 63 (RFC 2474).
    pub dscp: u8,
    /// The payload in the frame: of all the datagrams, for a super-frame.
    pub payload: Range<usize>,
    /// Bytes of payload per datagram of a super-frame; the last may be shorter. Never 0.
    pub segment_bytes: Option<u16>,
}

/// Parses one frame as a packet socket delivers it, behind the virtio header.
///
/// Padding behind the IP packet is not payload. The lengths in the headers of a super-frame cover all of it.
///
/// # Errors
/// The first fault between the link header and the payload.
#[inline(always)]
pub fn parse_frame(frame: &[u8], link: LinkLayer, meta: FrameMeta) -> Result<Datagram, Refusal> {
    let (version, ip_offset) = locate_packet(frame, link)?;
    parse_packet(frame, version, ip_offset, meta)
}

/// The IP version of a frame, and where its IP header starts.
#[inline(always)]
pub(crate) fn locate_packet(frame: &[u8], link: LinkLayer) -> Result<(IpVersion, usize), Refusal> {
    match link {
        LinkLayer::Ethernet => match parse_ethernet(frame) {
            Ok(version) => Ok((version, ETHERNET_HEADER_BYTES)),
            Err(Refusal::Vlan) => Ok((tagged_version(frame)?, ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES)),
            Err(refusal) => Err(refusal),
        },
        LinkLayer::None => Ok((version_by_first_byte(frame)?, 0)),
    }
}

/// The IP version of a frame whose tag is still in it: one that this host sends, or one with two tags.
#[cold]
#[inline(never)]
fn tagged_version(frame: &[u8]) -> Result<IpVersion, Refusal> {
    parse_priority_tagged(frame)
}

/// Parses from the IP header on.
#[inline(always)]
fn parse_packet(
    frame: &[u8],
    version: IpVersion,
    ip_offset: usize,
    meta: FrameMeta,
) -> Result<Datagram, Refusal> {
    let packet = frame.get(ip_offset..).ok_or(Refusal::NotIp)?;
    // Each version has the rest for itself, which is cheaper than one for both.
    match version {
        IpVersion::V4 => parse_payload(packet, &parse_ipv4(packet)?, ip_offset, meta, ChecksumRule::Optional),
        IpVersion::V6 => {
            parse_payload(packet, &parse_ipv6(packet)?, ip_offset, meta, ChecksumRule::Mandatory)
        }
    }
}

/// Parses from the UDP header on.
#[inline(always)]
fn parse_payload(
    packet: &[u8],
    ip: &IpPacket,
    ip_offset: usize,
    meta: FrameMeta,
    by_version: ChecksumRule,
) -> Result<Datagram, Refusal> {
    // The checksum of a super-frame is that of no datagram: receive offload verified each before it merged them, and
    // segmentation computes each when it splits them.
    let trust = meta.checksum_pending || meta.checksum_verified || meta.segment_bytes.is_some();
    let rule = if trust { ChecksumRule::Trust } else { by_version };
    let ip_payload = packet.get(ip.payload.clone()).ok_or(Refusal::Truncated)?;
    let (udp, udp_bytes) = parse_udp(ip_payload, ip.addresses, rule)?;

    let udp_offset = ip_offset + ip.payload.start;
    let payload = udp_offset + UDP_HEADER_BYTES..udp_offset + udp_bytes;
    if meta.segment_bytes.is_some_and(|bytes| bytes == 0 || payload.len() > usize::from(bytes) * MAX_SEGMENTS)
    {
        return Err(Refusal::BadSuperFrame);
    }
    Ok(Datagram {
        source: (ip.source, udp.source_port.get()),
        destination: (ip.destination, udp.destination_port.get()),
        ttl: ip.ttl,
        dscp: ip.dscp,
        payload,
        segment_bytes: meta.segment_bytes,
    })
}

/// The IP version of a packet without a link header.
fn version_by_first_byte(packet: &[u8]) -> Result<IpVersion, Refusal> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => Ok(IpVersion::V4),
        Some(6) => Ok(IpVersion::V6),
        _ => Err(Refusal::NotIp),
    }
}

impl Datagram {
    /// The payload of each datagram in the frame, in order; at least one, possibly empty.
    #[inline]
    pub fn segments(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let end = self.payload.end;
        let step = self.segment_bytes.map_or(usize::MAX, usize::from).max(1);
        let piece = move |start: usize| start..end.min(start.saturating_add(step));
        successors(Some(piece(self.payload.start)), move |last| (last.end < end).then(|| piece(last.end)))
    }

    /// The number of datagrams in the frame; at least 1.
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
