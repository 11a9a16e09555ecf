//! Keys and values of the maps, as `bpf/relay.h` has them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::{COUNT_WORDS, Map};
use crate::Result;
use crate::bpf::early_drop::{Destination, Key};
use crate::link::IfIndex;

/// Which frames to a destination the filter accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Accepts {
    /// Whole datagrams; of port 0: to all ports.
    pub whole: bool,
    /// Of port 0: what has no port that is known, as fragments.
    pub odd: bool,
    /// Whole datagrams to other hosts' MAC addresses.
    pub promiscuous_whole: bool,
    /// The same of what has no port.
    pub promiscuous_odd: bool,
}

/// What the filter does with frames to a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Verdict {
    /// What it accepts.
    pub accepts: Accepts,
    /// The place of the rule by which the kernel relays, if it does.
    pub relay: Option<u32>,
}

impl Verdict {
    pub(super) fn encode(self) -> [u8; 8] {
        let Accepts { whole, odd, promiscuous_whole, promiscuous_odd } = self.accepts;
        let flags = [whole, odd, promiscuous_whole, promiscuous_odd];
        let flags = flags.iter().rev().fold(0, |bits, flag| bits << 1 | u32::from(*flag));
        let relay = self.relay.map_or(0, |place| place + 1);
        join([&flags.to_ne_bytes()[..], &relay.to_ne_bytes()])
    }

    pub(super) fn decode(bytes: [u8; 8]) -> Self {
        let [flags, relay] = words(&bytes);
        let [whole, odd, promiscuous_whole, promiscuous_odd] = [1, 2, 4, 8].map(|bit| flags & bit != 0);
        let accepts = Accepts { whole, odd, promiscuous_whole, promiscuous_odd };
        Self { accepts, relay: relay.checked_sub(1) }
    }
}

/// A rule that the kernel relays.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Where its datagrams arrive.
    pub to: Destination,
    /// The slot of its counters.
    pub slot: u32,
    /// The largest IP packet that it relays; a worker sends larger ones in fragments.
    pub max_bytes: u16,
    /// The smallest TTL that it relays.
    pub min_ttl: u8,
    /// Only certain sources are admitted.
    pub has_sources: bool,
}

impl Rule {
    pub(super) fn encode(&self, first: u32, outputs: usize) -> [u8; 48] {
        let count = u16::try_from(outputs).unwrap_or_default();
        join([
            &self.to.key()[..],
            &self.slot.to_ne_bytes(),
            &first.to_ne_bytes(),
            &count.to_ne_bytes(),
            &self.max_bytes.to_ne_bytes(),
            &[self.min_ttl, u8::from(self.has_sources)],
        ])
    }
}

/// An output of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Output {
    /// Where it sends.
    pub ifindex: IfIndex,
    /// The slot of its counters.
    pub slot: u32,
    /// The MAC address that it sends to.
    pub mac: [u8; 6],
    /// The MAC address that it sends from.
    pub source_mac: [u8; 6],
    /// Destination, of the family of what arrives.
    pub to: SocketAddr,
    /// The source address.
    pub source: IpAddr,
    /// The source port; `None`: the arriving one.
    pub source_port: Option<u16>,
    /// The packet mark.
    pub mark: u32,
    /// `None`: one less than the arriving one.
    pub ttl: Option<u8>,
    /// `None`: the arriving one.
    pub dscp: Option<u8>,
}

impl Output {
    pub(super) fn encode(&self) -> [u8; 64] {
        join([
            &self.ifindex.to_raw().to_ne_bytes()[..],
            &self.slot.to_ne_bytes(),
            &self.mac,
            &self.source_mac,
            &self.source_port.unwrap_or(0).to_be_bytes(),
            &self.to.port().to_be_bytes(),
            &address(self.source),
            &address(self.to.ip()),
            &self.mark.to_ne_bytes(),
            &[self.ttl.unwrap_or(0), self.dscp.unwrap_or(0) << 2, u8::from(self.dscp.is_none())],
        ])
    }
}

/// What was counted of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleCount {
    /// Matched datagrams.
    pub datagrams: u64,
    /// Their payload.
    pub bytes: u64,
    /// Sends due for them.
    pub due: u64,
    /// Frames in which they came.
    pub frames: u64,
    /// Monotonic time of the first datagram; zero if there was none.
    pub first: Duration,
    /// Of the last.
    pub last: Duration,
}

impl RuleCount {
    pub(super) fn plus(self, cpu: [u64; COUNT_WORDS]) -> Self {
        let [datagrams, bytes, due, frames, first, last, ..] = cpu;
        let first = Duration::from_nanos(first);
        Self {
            datagrams: self.datagrams.wrapping_add(datagrams),
            bytes: self.bytes.wrapping_add(bytes),
            due: self.due.wrapping_add(due),
            frames: self.frames.wrapping_add(frames),
            first: if self.first.is_zero() || (!first.is_zero() && first < self.first) {
                first
            } else {
                self.first
            },
            last: self.last.max(Duration::from_nanos(last)),
        }
    }
}

/// What was counted of an output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputCount {
    /// Datagrams sent.
    pub datagrams: u64,
    /// Their payload.
    pub bytes: u64,
    /// Datagrams to be sent.
    pub due: u64,
    /// The errno of the last failure; 0 if there was none.
    pub last_errno: u32,
    /// The interface's queue was full.
    pub queue_full: u64,
    /// The interface was down or without carrier.
    pub unreachable: u64,
    /// There was no such interface.
    pub no_device: u64,
    /// Other failures.
    pub other: u64,
}

impl OutputCount {
    pub(super) fn plus(self, cpu: [u64; COUNT_WORDS]) -> Self {
        let [datagrams, bytes, due, error, queue_full, unreachable, no_device, other] = cpu;
        Self {
            datagrams: self.datagrams.wrapping_add(datagrams),
            bytes: self.bytes.wrapping_add(bytes),
            due: self.due.wrapping_add(due),
            last_errno: if error == 0 { self.last_errno } else { errno(error.cast_signed()) },
            queue_full: self.queue_full.wrapping_add(queue_full),
            unreachable: self.unreachable.wrapping_add(unreachable),
            no_device: self.no_device.wrapping_add(no_device),
            other: self.other.wrapping_add(other),
        }
    }
}

/// What sending returned, as an errno: what is not negative is a queueing discipline's answer.
fn errno(result: i64) -> u32 {
    match result {
        1 => libc::ENOBUFS.cast_unsigned(),
        2 => libc::ENETDOWN.cast_unsigned(),
        _ => u32::try_from(result.unsigned_abs()).unwrap_or(u32::MAX),
    }
}

/// An address as the programs see it: in network byte order, IPv4 in the first word.
fn address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => join([&v4.octets()[..]]),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A `struct source`.
pub(super) fn source(relay: u32, from: IpAddr) -> Key {
    join([&relay.to_ne_bytes()[..], &[0; 4], &address(from)])
}

/// Reads the key of a destination.
pub(super) fn destination(key: &Key) -> Option<Destination> {
    let (head, address) = key.split_at(8);
    let address = match head.get(6)? {
        4 => Ipv4Addr::from(*address.first_chunk::<4>()?).into(),
        _ => Ipv6Addr::from(*address.first_chunk::<16>()?).into(),
    };
    let ifindex = IfIndex::new(u32::from_ne_bytes(*head.first_chunk()?));
    Some(Destination { ifindex, address, port: u16::from_be_bytes(*head.get(4..)?.first_chunk()?) })
}

pub(super) fn words(bytes: &[u8; 8]) -> [u32; 2] {
    let (words, _) = bytes.as_chunks::<4>();
    [0, 1].map(|at| words.get(at).map_or(0, |word| u32::from_ne_bytes(*word)))
}

fn join<const P: usize, const N: usize>(parts: [&[u8]; P]) -> [u8; N] {
    let mut all = [0; N];
    all.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, byte)| *to = *byte);
    all
}

/// Makes these the keys of a map, of those that `concerns` selects.
pub(super) fn replace(
    map: &Map<24, 4>,
    wanted: impl Iterator<Item = Key>,
    concerns: impl Fn(&Key) -> bool,
) -> Result<()> {
    let wanted: BTreeSet<Key> = wanted.collect();
    let present: BTreeSet<Key> = map.keys()?.into_iter().filter(|key| concerns(key)).collect();
    for key in present.difference(&wanted) {
        map.remove(key)?;
    }
    for key in wanted.difference(&present) {
        map.insert(key, &[1, 0, 0, 0])?;
    }
    Ok(())
}
