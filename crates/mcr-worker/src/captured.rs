//! Test frames, as delivered by the packet socket.

use std::net::Ipv4Addr;

use mcr_wire::checksum::Sum;

/// The destination port of all frames.
pub(crate) const PORT: u16 = 5_000;

/// A frame whose addresses are given by their last byte.
#[derive(Clone, Debug)]
pub(crate) struct Captured {
    pub(crate) source: u8,
    pub(crate) group: u8,
    pub(crate) ttl: u8,
    pub(crate) dscp: u8,
    /// Payload bytes of each datagram; 0 for one datagram.
    pub(crate) segment: u16,
    pub(crate) payload: Vec<u8>,
    /// The IPv4 header has a wrong checksum.
    pub(crate) damaged: bool,
}

pub(crate) fn group(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(239, 1, 1, number)
}

pub(crate) fn source(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 0, number)
}

impl Captured {
    pub(crate) fn plain(source: u8, group: u8, payload: &[u8]) -> Self {
        Self { source, group, ttl: 9, dscp: 10, segment: 0, payload: payload.to_vec(), damaged: false }
    }

    /// The frame with virtio header, Ethernet, IPv4, and UDP without checksum.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0_u8; 10];
        if self.segment > 0 {
            frame[1] = 5;
            frame[4..6].copy_from_slice(&self.segment.to_ne_bytes());
        }
        frame.extend([0; 12]);
        frame.extend([8, 0]);
        let start = frame.len();
        let udp_bytes = u16::try_from(self.payload.len() + 8).unwrap_or(u16::MAX);
        frame.extend([0x45, self.dscp << 2]);
        frame.extend((udp_bytes + 20).to_be_bytes());
        frame.extend([0, 0, 0, 0, self.ttl, 17, 0, 0]);
        frame.extend(source(self.source).octets());
        frame.extend(group(self.group).octets());
        let checksum = Sum::default().add_bytes(&frame[start..]).checksum() ^ u16::from(self.damaged);
        frame[start + 10..start + 12].copy_from_slice(&checksum.to_be_bytes());
        frame.extend(4_000_u16.to_be_bytes());
        frame.extend(PORT.to_be_bytes());
        frame.extend(udp_bytes.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(&self.payload);
        frame
    }

    pub(crate) fn datagrams(&self) -> Vec<Vec<u8>> {
        match usize::from(self.segment) {
            size if size > 0 && !self.payload.is_empty() => {
                self.payload.chunks(size).map(<[u8]>::to_vec).collect()
            }
            _ => vec![self.payload.clone()],
        }
    }
}
