//! The bytes of each layer of a [`UdpFrame`].

use std::net::IpAddr;

use super::{Checksum, UdpFrame};

/// UDP's protocol number.
pub(super) const UDP: u8 = 17;

impl UdpFrame {
    /// MACs, tags and EtherType; nothing without link header.
    pub(super) fn link_header(&self) -> Vec<u8> {
        let Some((destination, source)) = self.macs else { return Vec::new() };
        let mut header = [destination, source].concat();
        for (ether_type, vlan) in &self.tags {
            header.extend(ether_type.to_be_bytes());
            header.extend(vlan.to_be_bytes());
        }
        let ether_type = self.ether_type.unwrap_or(if self.is_ipv4() { 0x0800 } else { 0x86dd });
        header.extend(ether_type.to_be_bytes());
        header
    }

    /// The IP header in front of `datagram_bytes`, with options or extension headers.
    pub(super) fn ip_header(&self, datagram_bytes: usize) -> Vec<u8> {
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ipv4_header(source.octets(), destination.octets(), datagram_bytes)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.ipv6_header(source.octets(), destination.octets(), datagram_bytes)
            }
            _ => panic!("a frame has addresses of one family"),
        }
    }

    fn ipv4_header(&self, source: [u8; 4], destination: [u8; 4], datagram_bytes: usize) -> Vec<u8> {
        let bytes = 20 + self.options.len();
        let words =
            self.header_words.unwrap_or(u8::try_from(bytes / 4).expect("at most 40 bytes of options"));
        let length = self.ip_length.unwrap_or(length(bytes + datagram_bytes));
        let mut header = vec![self.version.unwrap_or(4) << 4 | words, self.dscp << 2];
        header.extend(length.to_be_bytes());
        header.extend(self.identification.to_be_bytes());
        header.extend(self.flags_and_offset.to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(source);
        header.extend(destination);
        header.extend(&self.options);
        let checksum = self.header_checksum.of(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn ipv6_header(&self, source: [u8; 16], destination: [u8; 16], datagram_bytes: usize) -> Vec<u8> {
        let kinds = self.extensions.iter().map(|extension| extension.kind).chain([self.protocol]);
        let kinds: Vec<u8> = kinds.collect();
        let mut extensions = Vec::new();
        for (extension, next) in self.extensions.iter().zip(&kinds[1..]) {
            extensions.push(*next);
            extensions.extend(&extension.bytes[1..]);
        }
        let length = self.ip_length.unwrap_or(length(extensions.len() + datagram_bytes));
        // The traffic class lies across two bytes: DSCP, then two bits of ECN.
        let mut header = vec![self.version.unwrap_or(6) << 4 | self.dscp >> 2, self.dscp << 6, 0, 0];
        header.extend(length.to_be_bytes());
        header.extend([kinds[0], self.ttl]);
        header.extend(source);
        header.extend(destination);
        header.extend(extensions);
        header
    }

    /// UDP header and payload.
    pub(super) fn datagram(&self) -> Vec<u8> {
        let length = self.udp_length.unwrap_or(length(8 + self.payload.len()));
        let mut datagram = Vec::new();
        datagram.extend(self.source.port().to_be_bytes());
        datagram.extend(self.destination.port().to_be_bytes());
        datagram.extend(length.to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(&self.payload);
        let covered = usize::from(length).clamp(8, datagram.len());
        let checksum =
            match self.udp_checksum.of(&[&self.pseudo_header(length), &datagram[..covered]].concat()) {
                // A computed checksum of 0 is sent as all ones (RFC 768).
                0 if self.udp_checksum == Checksum::Right => 0xffff,
                checksum => checksum,
            };
        datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
        datagram
    }

    /// Addresses, protocol number and length (RFC 768; RFC 8200 section 8.1).
    fn pseudo_header(&self, udp_length: u16) -> Vec<u8> {
        let mut header = Vec::new();
        for address in [self.source.ip(), self.destination.ip()] {
            match address {
                IpAddr::V4(address) => header.extend(address.octets()),
                IpAddr::V6(address) => header.extend(address.octets()),
            }
        }
        header.extend([0, UDP]);
        header.extend(udp_length.to_be_bytes());
        header
    }

    pub(super) fn is_ipv4(&self) -> bool {
        self.destination.is_ipv4()
    }
}

impl Checksum {
    fn of(self, covered: &[u8]) -> u16 {
        match self {
            Self::Right => internet_checksum(covered),
            Self::Wrong => internet_checksum(covered) ^ 0x0100,
            Self::Is(checksum) => checksum,
        }
    }
}

/// RFC 1071, word by word: slow, simple, and independent of the code under test.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u16;
    for word in bytes.chunks(2) {
        let word = u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]);
        let (added, carry) = sum.overflowing_add(word);
        sum = added + u16::from(carry);
    }
    !sum
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("a packet is at most 65,535 bytes")
}
