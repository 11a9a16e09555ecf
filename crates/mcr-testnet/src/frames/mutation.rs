//! An endless sequence of malformed frames: each is a datagram that matches a rule, with one mutation that forbids
//! relaying it.
//!
//! Mutations after which a datagram is still valid are excluded, such as another hop limit, a shorter UDP length with
//! padding behind it, or IP options. So a relayed frame is always a bug in the relay.

use std::net::SocketAddr;

use super::{Checksum, UdpFrame, VLAN};

/// The start of the payload of each of these frames.
pub const HOSTILE: &[u8] = b"HOSTILE";

const ETHERNET: usize = 14;
/// Offsets of the IPv6 header fields that no checksum covers: traffic class and flow label, hop limit.
const UNCOVERED_IPV6: [usize; 5] = [ETHERNET, ETHERNET + 1, ETHERNET + 2, ETHERNET + 3, ETHERNET + 7];

/// An endless sequence of such frames.
#[derive(Debug)]
pub struct Mutations {
    random: fastrand::Rng,
    targets: Vec<(SocketAddr, SocketAddr)>,
    own: Vec<SocketAddr>,
}

/// A mutation.
type Mutate = fn(&mut Mutations, UdpFrame) -> Vec<u8>;

/// Every kind of mutation.
const KINDS: [Mutate; 14] = [
    flipped_bit,
    flipped_bit,
    cut,
    ip_length,
    udp_length,
    no_time_to_live,
    version,
    header_words,
    fragment,
    checksum,
    noise,
    tagged,
    protocol,
    elsewhere,
];

impl Mutations {
    /// Frames to these rules' inputs: pairs of source and destination. `own` are addresses of the relay.
    #[must_use]
    pub fn new(seed: u64, targets: Vec<(SocketAddr, SocketAddr)>, own: Vec<SocketAddr>) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), targets, own }
    }

    /// The next frame.
    pub fn frame(&mut self) -> Vec<u8> {
        let (source, destination) = self.targets[self.random.usize(..self.targets.len())];
        let mut payload = HOSTILE.to_vec();
        let bytes = self.random.usize(0..=400);
        payload.extend((0..bytes).map(|at| at.to_le_bytes()[0]));
        let mutate = KINDS[self.random.usize(..KINDS.len())];
        mutate(self, UdpFrame::new(source, destination, &payload))
    }

    fn number(&mut self) -> u16 {
        self.random.u16(..)
    }
}

/// Flips one bit; those not covered by a checksum are excluded.
fn flipped_bit(own: &mut Mutations, frame: UdpFrame) -> Vec<u8> {
    let ipv4 = frame.is_ipv4();
    let checksum = if ipv4 { ETHERNET + 26 } else { ETHERNET + 46 };
    let right = frame.bytes();
    loop {
        let mut bytes = right.clone();
        let at = 12 + own.random.usize(..bytes.len() - 12);
        let bit = own.random.usize(..8);
        bytes[at] ^= 1 << bit;
        // The version shares a byte with the traffic class.
        let uncovered = !ipv4 && UNCOVERED_IPV6.contains(&at) && !(at == ETHERNET && bit >= 4);
        // A UDP checksum of 0 means none.
        if !uncovered && bytes[checksum..checksum + 2] != [0, 0] {
            return bytes;
        }
    }
}

fn cut(own: &mut Mutations, frame: UdpFrame) -> Vec<u8> {
    let bytes = frame.bytes().len();
    UdpFrame { cut: Some(ETHERNET + own.random.usize(..bytes - ETHERNET)), ..frame }.bytes()
}

fn ip_length(own: &mut Mutations, frame: UdpFrame) -> Vec<u8> {
    let header = if frame.is_ipv4() { 20 } else { 0 };
    let right = header + 8 + u16::try_from(frame.payload.len()).unwrap_or(u16::MAX);
    let wrong = own.number();
    UdpFrame { ip_length: Some(if wrong == right { right - 1 } else { wrong }), ..frame }.bytes()
}

/// A UDP length below the header's, or beyond the packet. In between it would be a shorter datagram.
fn udp_length(own: &mut Mutations, frame: UdpFrame) -> Vec<u8> {
    let right = 8 + u16::try_from(frame.payload.len()).unwrap_or(u16::MAX);
    let wrong = if own.random.bool() { own.random.u16(0..=7) } else { own.random.u16(right + 1..=u16::MAX) };
    // In IPv6, 0 would mean a jumbogram, and is refused like the others.
    UdpFrame { udp_length: Some(wrong), ..frame }.bytes()
}

fn no_time_to_live(_: &mut Mutations, frame: UdpFrame) -> Vec<u8> {
    UdpFrame { ttl: 0, ..frame }.bytes()
}

fn version(own: &mut Mutations, frame: UdpFrame) -> Vec<u8> {
    let right = if frame.is_ipv4() { 4 } else { 6 };
    let wrong = own.random.u8(0..=15);
    UdpFrame { version: Some(if wrong == right { 7 } else { wrong }), ..frame }.bytes()
}

fn header_words(own: &mut Mutations, frame: UdpFrame) -> Vec<u8> {
    if !frame.is_ipv4() {
        return flipped_bit(own, frame);
    }
    let wrong = own.random.u8(0..=15);
    UdpFrame { header_words: Some(if wrong == 5 { 4 } else { wrong }), ..frame }.bytes()
}

fn fragment(own: &mut Mutations, frame: UdpFrame) -> Vec<u8> {
    // Of other datagrams, and never the last one: they can't be put together.
    let mut pieces = super::fragments(&UdpFrame { identification: own.random.u16(..), ..frame }, 8);
    pieces.pop();
    pieces.swap_remove(own.random.usize(..pieces.len()))
}

fn checksum(own: &mut Mutations, frame: UdpFrame) -> Vec<u8> {
    if frame.is_ipv4() && own.random.bool() {
        return UdpFrame { header_checksum: Checksum::Wrong, ..frame }.bytes();
    }
    let bytes = UdpFrame { udp_checksum: Checksum::Wrong, ..frame.clone() }.bytes();
    let at = if frame.is_ipv4() { ETHERNET + 26 } else { ETHERNET + 46 };
    if bytes[at..at + 2] == [0, 0] { flipped_bit(own, frame) } else { bytes }
}

/// Random bytes after the link header.
fn noise(own: &mut Mutations, frame: UdpFrame) -> Vec<u8> {
    let mut bytes = frame.bytes();
    bytes.truncate(ETHERNET);
    let length = own.random.usize(..1_400);
    bytes.extend((0..length).map(|_| own.random.u8(..)));
    bytes
}

/// Not VLAN 0: a priority tag, which forbids nothing.
fn tagged(own: &mut Mutations, frame: UdpFrame) -> Vec<u8> {
    UdpFrame { tags: vec![(VLAN, (own.number() & 0xefff) | 1)], ..frame }.bytes()
}

fn protocol(own: &mut Mutations, frame: UdpFrame) -> Vec<u8> {
    // 17 is UDP; 0, 43, 44, 51 and 60 are IPv6 extension headers, and 59 is "no next header".
    let wrong = own.random.u8(61..=254);
    UdpFrame { protocol: wrong, ..frame }.bytes()
}

/// A port, group or source that matches no rule, or an address of the relay itself.
fn elsewhere(own: &mut Mutations, frame: UdpFrame) -> Vec<u8> {
    let ipv4 = frame.is_ipv4();
    let relay = own.own.iter().copied().find(|address| address.is_ipv4() == ipv4);
    match relay {
        Some(source) if own.random.bool() => UdpFrame { source, ..frame }.bytes(),
        _ => {
            let mut destination = frame.destination;
            destination.set_port(own.random.u16(1..=1_023));
            UdpFrame { destination, ..frame }.bytes()
        }
    }
}
