//! Raw frames, well-formed and malformed, and a sender for them.
//!
//! [`UdpFrame::new`] is a well-formed datagram in an Ethernet frame. Every field is public: setting one makes the
//! frame inconsistent, and all others stay consistent, checksums included. This module shares no code with the parser
//! under test.
//!
//! ```text
//!   UdpFrame { ttl: 0, ..UdpFrame::new(source, group, b"x") }.bytes()
//! ```

mod fragment;
mod layers;
pub mod mutation;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{Host, RawPrefix, RawSender};

pub use fragment::fragments;

/// EtherTypes of VLAN tags: customer (802.1Q), provider (802.1ad) and its predecessor.
pub const VLAN: u16 = 0x8100;
/// The outer tag of QinQ.
pub const PROVIDER_VLAN: u16 = 0x88a8;

/// A checksum field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Correct for the fields as set.
    Right,
    /// One bit flipped.
    Wrong,
    /// This value.
    Is(u16),
}

/// One IPv6 extension header: its number, and its bytes. The first byte is overwritten with the next header's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Its number as a next header.
    pub kind: u8,
    /// The whole header.
    pub bytes: Vec<u8>,
}

/// A UDP datagram in a frame. `None` in a field: the correct value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpFrame {
    /// Destination and source MAC; `None` for interfaces without link header.
    pub macs: Option<([u8; 6], [u8; 6])>,
    /// VLAN tags behind the MACs, outermost first: EtherType and VLAN.
    pub tags: Vec<(u16, u16)>,
    /// EtherType.
    pub ether_type: Option<u16>,
    /// IP version in the header.
    pub version: Option<u8>,
    /// IPv4 header length in words of four bytes.
    pub header_words: Option<u8>,
    /// DSCP, 0 to 63.
    pub dscp: u8,
    /// IPv4 total length, or IPv6 payload length, bytes.
    pub ip_length: Option<u16>,
    /// Identification, of IPv4 and of fragments.
    pub identification: u16,
    /// IPv4: the 16 bits of flags and fragment offset; 0x4000 is "don't fragment".
    pub flags_and_offset: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IP protocol, or the last next header.
    pub protocol: u8,
    /// IPv4 header checksum.
    pub header_checksum: Checksum,
    /// IPv4 options, up to 40 bytes in words of four.
    pub options: Vec<u8>,
    /// IPv6 extension headers.
    pub extensions: Vec<Extension>,
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port, of the same family.
    pub destination: SocketAddr,
    /// UDP length, bytes.
    pub udp_length: Option<u16>,
    /// UDP checksum.
    pub udp_checksum: Checksum,
    /// The payload.
    pub payload: Vec<u8>,
    /// Number of 0xee bytes after the IP packet.
    pub padding: usize,
    /// Truncates the frame to this number of bytes.
    pub cut: Option<usize>,
}

impl UdpFrame {
    /// A well-formed datagram with TTL 16, in a frame to the group's MAC (broadcast for a unicast address).
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Self {
        Self {
            macs: Some((mac_of(destination.ip()), [0x02, 0, 0, 0, 0, 0x01])),
            tags: Vec::new(),
            ether_type: None,
            version: None,
            header_words: None,
            dscp: 0,
            ip_length: None,
            identification: 0x1234,
            flags_and_offset: 0x4000,
            ttl: 16,
            protocol: layers::UDP,
            header_checksum: Checksum::Right,
            options: Vec::new(),
            extensions: Vec::new(),
            source,
            destination,
            udp_length: None,
            udp_checksum: Checksum::Right,
            payload: payload.to_vec(),
            padding: 0,
            cut: None,
        }
    }

    /// The frame.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = self.link_header();
        frame.extend(self.ip_header(self.datagram().len()));
        frame.extend(self.datagram());
        frame.resize(frame.len() + self.padding, 0xee);
        frame.truncate(self.cut.unwrap_or(frame.len()));
        frame
    }
}

/// A group's MAC address (RFC 1112 section 6.4, RFC 2464 section 7), shared by 32 IPv4 groups. Broadcast for unicast.
#[must_use]
pub fn mac_of(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(group) if group.is_multicast() => {
            let [_, b, c, d] = group.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) if group.is_multicast() => {
            let [.., a, b, c, d] = group.octets();
            [0x33, 0x33, a, b, c, d]
        }
        _ => [0xff; 6],
    }
}

/// Another IPv4 group with the same MAC.
#[must_use]
pub fn twin_of(group: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, d] = group.octets();
    Ipv4Addr::new(a, b ^ 0x80, c, d)
}

/// Another IPv6 group with the same MAC.
#[must_use]
pub fn twin_of_v6(group: Ipv6Addr) -> Ipv6Addr {
    let mut octets = group.octets();
    octets[8] ^= 1;
    Ipv6Addr::from(octets)
}

/// The ten bytes in front of a frame for [`RawPrefix::VnetHeader`] that make it a UDP super-frame with datagrams of
/// `segment_bytes`, its checksum at `checksum_start` partial (`struct virtio_net_hdr`).
#[must_use]
pub fn super_frame_header(checksum_start: usize, segment_bytes: u16) -> [u8; 10] {
    const NEEDS_CHECKSUM: u8 = 1;
    const UDP_SEGMENTS: u8 = 5;
    const CHECKSUM_IN_UDP: u16 = 6;
    let start = u16::try_from(checksum_start).expect("an offset in a frame");
    let headers = start + 8;
    let mut header = [NEEDS_CHECKSUM, UDP_SEGMENTS, 0, 0, 0, 0, 0, 0, 0, 0];
    for (place, value) in [(2, headers), (4, segment_bytes), (6, start), (8, CHECKSUM_IN_UDP)] {
        header[place..place + 2].copy_from_slice(&value.to_ne_bytes());
    }
    header
}

/// A sender of raw frames on an interface of a host.
#[must_use]
pub fn sender(host: &Host, interface: &str, prefix: RawPrefix) -> RawSender {
    let ifindex = host.index(interface);
    host.run(|| RawSender::open(ifindex, prefix))
        .unwrap_or_else(|error| panic!("a raw sender on {interface}: {error}"))
}

#[cfg(test)]
mod tests;
