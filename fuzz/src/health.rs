//! Stream health: packets of RTP or MPEG-TS, by the first byte. RTP packets follow, each behind its length.

use std::collections::BTreeSet;

use mcr_wire::mpegts::{PACKET_BYTES, PIDS, check_continuity};
use mcr_wire::rtp::{RtpStream, Sequence, parse_rtp};

/// Asserts the property.
///
/// # Panics
/// It does not hold.
pub fn check(data: &[u8]) {
    match data {
        [what, packets @ ..] if what % 2 == 0 => check_rtp(packets),
        [_, datagram @ ..] => check_mpegts(datagram),
        [] => {}
    }
}

/// The packets counted as missing are those between the first and the newest that were not received; a late packet was missing,
/// a duplicate was not.
fn check_rtp(mut packets: &[u8]) {
    let mut stream = RtpStream::default();
    let mut seen = Seen::default();
    let mut at_ns = 0_u64;
    while let [length, rest @ ..] = packets {
        let (packet, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        packets = rest;
        // Up to three minutes apart.
        at_ns = at_ns.wrapping_add(u64::from(*length) << 30);
        let Some(header) = parse_rtp(packet) else { continue };
        assert!(header.payload_offset <= packet.len(), "a payload behind the end: {header:?}");
        let found = stream.record(&header, at_ns);
        seen.take(header.sequence, found);
        let _ = stream.jitter_ns();
    }
}

/// An independent record of a stream: every packet received, in numbers that don't wrap.
#[derive(Default)]
struct Seen {
    come: BTreeSet<u64>,
    first: u64,
    newest: u64,
    missing: u64,
}

impl Seen {
    fn take(&mut self, sequence: u16, found: Sequence) {
        match found {
            Sequence::Start => {
                // Room for packets from before the start.
                self.first = u64::from(sequence) + (1 << 16);
                (self.newest, self.missing) = (self.first, 0);
                self.come = BTreeSet::from([self.first]);
            }
            Sequence::Next { missing } => {
                self.newest += u64::from(missing) + 1;
                self.missing += u64::from(missing);
                assert_eq!(self.newest as u16, sequence, "after {missing} missing");
                assert!(self.come.insert(self.newest));
            }
            Sequence::Late => {
                let number = self.at_or_before_newest(sequence);
                assert!(number > self.first && self.come.insert(number), "{number} was not missing");
                self.missing -= 1;
            }
            Sequence::Duplicate => {
                let number = self.at_or_before_newest(sequence);
                assert!(number < self.first || self.come.contains(&number), "{number} had not come");
            }
            Sequence::Stray => return,
        }
        let span = self.newest - self.first + 1;
        assert_eq!(self.missing, span - self.come.len() as u64, "missing of {span}");
    }

    fn at_or_before_newest(&self, sequence: u16) -> u64 {
        self.newest - u64::from((self.newest as u16).wrapping_sub(sequence))
    }
}

/// The packets of a datagram are checked as if each had a datagram of its own, and those of one identifier regardless of what is
/// between them.
fn check_mpegts(datagram: &[u8]) {
    // The same holds for what follows an RTP header.
    let stream = match datagram.first() {
        Some(0x47) => datagram,
        _ => parse_rtp(datagram).map_or(datagram, |header| &datagram[header.payload_offset..]),
    };
    let mut state = vec![0; PIDS];
    let together = check_continuity(datagram, &mut state);
    let packets = stream.chunks_exact(PACKET_BYTES);
    let whole = !stream.is_empty() && packets.remainder().is_empty();
    let synced = || packets.clone().filter(|packet| packet[0] == 0x47);
    assert_eq!(together.packets, synced().count() as u64);
    assert_eq!(together.malformed, !whole || synced().count() < packets.len());

    let mut single = vec![0; PIDS];
    let alone: u64 = synced().map(|packet| check_continuity(packet, &mut single).discontinuities).sum();
    assert_eq!((together.discontinuities, &state), (alone, &single));

    let pid = |packet: &[u8]| u16::from_be_bytes([packet[1] & 0x1f, packet[2]]);
    let pids: BTreeSet<u16> = synced().map(pid).collect();
    let apart: u64 = pids
        .into_iter()
        .map(|wanted| {
            let own: Vec<u8> = synced().filter(|packet| pid(packet) == wanted).flatten().copied().collect();
            check_continuity(&own, &mut vec![0; PIDS]).discontinuities
        })
        .sum();
    assert_eq!(together.discontinuities, apart);
}
