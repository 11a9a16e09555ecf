//! The UDP datagrams of a capture file: pcap or pcapng, as tcpdump, Wireshark and `mcrctl trace` write them.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use etherparse::{EtherType, NetSlice, SlicedPacket, TransportSlice};
use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

/// Room for the largest packet that programs capture (tcpdump: 262,144 bytes) several times over.
const BUFFER_BYTES: usize = 1 << 20;
const NS_PER_SECOND: u128 = 1_000_000_000;
/// Link types that Linux interfaces have (<https://www.tcpdump.org/linktypes.html>), beside those with a name in the library.
const LINUX_SLL2: Linktype = Linktype(276);
const LINUX_SLL2_HEADER_BYTES: usize = 20;

/// A datagram of the file.
#[derive(Debug, PartialEq)]
pub(super) struct Captured {
    /// Since the epoch.
    pub(super) at_ns: u64,
    pub(super) destination: SocketAddr,
    pub(super) payload: Vec<u8>,
}

/// A file that is being read.
pub(super) struct Capture {
    reader: Box<dyn PcapReaderIterator + Send>,
    state: State,
}

/// What blocks say of the blocks behind them.
#[derive(Default)]
struct State {
    interfaces: Vec<Interface>,
    last_ns: u64,
    skipped: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Copy)]
struct Interface {
    link: Linktype,
    /// Units of a time stamp in a second.
    resolution: u64,
    /// Seconds that time stamps lack.
    offset: i64,
}

impl Capture {
    /// # Errors
    /// It can't be read, or is neither pcap nor pcapng.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let reader = create_reader(BUFFER_BYTES, file)
            .map_err(|error| anyhow!("{} is neither pcap nor pcapng: {error}", path.display()))?;
        Ok(Self { reader, state: State::default() })
    }

    /// The next UDP datagram; `None` at the end of the file, also where it ends within a packet.
    ///
    /// # Errors
    /// A block is malformed, or the file can't be read.
    pub(super) fn next(&mut self) -> Result<Option<Captured>> {
        loop {
            let error = match self.reader.next() {
                Ok((bytes, block)) => {
                    let found = self.state.take(&block)?;
                    self.reader.consume(bytes);
                    if found.is_some() {
                        return Ok(found);
                    }
                    continue;
                }
                Err(error) => error.to_owned_vec(),
            };
            match error {
                PcapError::Eof => return Ok(None),
                PcapError::Incomplete(_) if !self.reader.reader_exhausted() => {
                    self.reader.refill().map_err(|error| anyhow!("read the file: {error}"))?;
                }
                PcapError::UnexpectedEof | PcapError::Incomplete(_) => {
                    self.state.skip("cut_off");
                    return Ok(None);
                }
                PcapError::BufferTooSmall => bail!("a packet is larger than {BUFFER_BYTES} bytes"),
                PcapError::NomError(_, kind) | PcapError::OwnedNomError(_, kind) => {
                    bail!(
                        "the file is damaged behind byte {}: {}",
                        self.reader.position(),
                        kind.description()
                    )
                }
                other => bail!("read the file: {other}"),
            }
        }
    }

    /// What was passed over so far, by reason.
    pub(super) fn skipped(&self) -> &BTreeMap<&'static str, u64> {
        &self.state.skipped
    }
}

impl State {
    fn skip(&mut self, reason: &'static str) {
        *self.skipped.entry(reason).or_default() += 1;
    }

    fn take(&mut self, block: &PcapBlockOwned<'_>) -> Result<Option<Captured>> {
        let (interface, stamp, truncated, bytes) = match block {
            PcapBlockOwned::LegacyHeader(header) => {
                let resolution = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
                self.interfaces = vec![Interface { link: header.network, resolution, offset: 0 }];
                return Ok(None);
            }
            PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                self.interfaces.clear();
                return Ok(None);
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(described)) => {
                let resolution =
                    described.ts_resolution().context("a resolution of time stamps is invalid")?;
                let (link, offset) = (described.linktype, described.ts_offset());
                self.interfaces.push(Interface { link, resolution, offset });
                return Ok(None);
            }
            PcapBlockOwned::Legacy(packet) => {
                let resolution = self.interfaces.first().map_or(1, |interface| interface.resolution);
                let stamp = u64::from(packet.ts_sec) * resolution + u64::from(packet.ts_usec);
                let captured = packet.data.get(..packet.caplen as usize).unwrap_or(packet.data);
                (0, Some(stamp), packet.caplen < packet.origlen, captured)
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let stamp = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                let truncated = packet.caplen < packet.origlen;
                (packet.if_id as usize, Some(stamp), truncated, packet.packet_data())
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                let captured = packet.packet_data();
                (0, None, captured.len() < packet.origlen as usize, captured)
            }
            PcapBlockOwned::NG(_) => return Ok(None),
        };
        let interface =
            *self.interfaces.get(interface).context("a packet is of an interface that is not described")?;
        // A packet without a time stamp came with the one before it.
        self.last_ns = stamp.map_or(self.last_ns, |stamp| interface.nanoseconds(stamp));
        if truncated {
            self.skip("truncated");
            return Ok(None);
        }
        match datagram(interface.link, bytes) {
            Ok((destination, payload)) => {
                Ok(Some(Captured { at_ns: self.last_ns, destination, payload: payload.to_vec() }))
            }
            Err(reason) => {
                self.skip(reason);
                Ok(None)
            }
        }
    }
}

impl Interface {
    fn nanoseconds(self, stamp: u64) -> u64 {
        let ns = u128::from(stamp) * NS_PER_SECOND / u128::from(self.resolution.max(1));
        let offset = i128::from(self.offset) * NS_PER_SECOND.cast_signed();
        u64::try_from(ns.cast_signed().saturating_add(offset).max(0)).unwrap_or(u64::MAX)
    }
}

/// Destination and payload of a frame, or why it is no whole UDP datagram.
fn datagram(link: Linktype, frame: &[u8]) -> Result<(SocketAddr, &[u8]), &'static str> {
    let sliced = match link {
        Linktype::ETHERNET => SlicedPacket::from_ethernet(frame),
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 | Linktype(12) => SlicedPacket::from_ip(frame),
        Linktype::LINUX_SLL => SlicedPacket::from_linux_sll(frame),
        LINUX_SLL2 => {
            let (header, packet) = frame.split_at_checked(LINUX_SLL2_HEADER_BYTES).ok_or("not_udp")?;
            SlicedPacket::from_ether_type(EtherType(u16::from_be_bytes([header[0], header[1]])), packet)
        }
        _ => return Err("link_type"),
    };
    let sliced = sliced.map_err(|_| "not_udp")?;
    if sliced.is_ip_payload_fragmented() {
        return Err("fragment");
    }
    let Some(TransportSlice::Udp(udp)) = sliced.transport else { return Err("not_udp") };
    let address = match sliced.net {
        Some(NetSlice::Ipv4(ip)) => IpAddr::V4(ip.header().destination_addr()),
        Some(NetSlice::Ipv6(ip)) => IpAddr::V6(ip.header().destination_addr()),
        _ => return Err("not_udp"),
    };
    Ok((SocketAddr::new(address, udp.destination_port()), udp.payload()))
}

#[cfg(test)]
mod tests;
