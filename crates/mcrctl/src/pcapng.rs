//! Capture files (pcapng, draft-ietf-opsawg-pcapng) as Wireshark and tcpdump read them: one interface, packets with a
//! comment each, times in nanoseconds.
//!
//! ```text
//!  section header ─ interface description ─ enhanced packet ─ enhanced packet …
//!  each block: type, length, content in pieces of 4 bytes, options, length again
//! ```

use std::io::{self, Write};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

const OPTION_END: u16 = 0;
const OPTION_COMMENT: u16 = 1;
const SECTION_PROGRAM: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_TIME_UNIT: u16 = 9;
const PACKET_FLAGS: u16 = 2;

/// Times count in 10^-9 s.
const NANOSECONDS: u8 = 9;
/// Bits 0 and 1 of a packet's flags.
const INBOUND: u32 = 1;
/// The longest option, less than the 16 bits of its length, so that padding fits too.
const MAX_OPTION_BYTES: usize = 65_000;

/// The first header of frames (tcpdump.org/linktypes.html).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkType {
    /// An Ethernet header.
    Ethernet = 1,
    /// The IP header.
    Raw = 101,
}

/// A packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Packet {
    /// When it was captured, in nanoseconds since 1970.
    pub(crate) at_ns: u64,
    /// The captured bytes.
    pub(crate) bytes: Vec<u8>,
    /// Length of the frame on the wire.
    pub(crate) length: u32,
    /// Comment of the packet.
    pub(crate) comment: String,
}

/// A block under construction.
struct Block(Vec<u8>);

impl Block {
    fn new(kind: u32) -> Self {
        let mut block = Self(Vec::new());
        block.number(kind);
        // The length, when it is known.
        block.number(0);
        block
    }

    fn number(&mut self, number: u32) {
        self.0.extend(number.to_le_bytes());
    }

    fn short(&mut self, number: u16) {
        self.0.extend(number.to_le_bytes());
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        let whole = self.0.len().next_multiple_of(4);
        self.0.resize(whole, 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        let value = value.get(..MAX_OPTION_BYTES).unwrap_or(value);
        self.short(code);
        self.short(u16::try_from(value.len()).unwrap_or_default());
        self.padded(value);
    }

    fn write(mut self, out: &mut impl Write) -> io::Result<()> {
        self.option(OPTION_END, &[]);
        let length = u32::try_from(self.0.len() + 4).unwrap_or_default();
        self.number(length);
        if let Some(place) = self.0.get_mut(4..8) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        out.write_all(&self.0)
    }
}

/// A capture file that is written packet by packet.
pub(crate) struct CaptureFile<W> {
    out: W,
}

impl<W: Write> CaptureFile<W> {
    /// Writes the headers of a file with one interface.
    pub(crate) fn begin(mut out: W, link: LinkType, interface: &str) -> io::Result<Self> {
        let mut section = Block::new(SECTION);
        section.number(BYTE_ORDER);
        // Version 1.0, and a section of unknown length.
        section.number(1);
        section.0.extend([0xff; 8]);
        section.option(SECTION_PROGRAM, concat!("mcrctl ", env!("CARGO_PKG_VERSION")).as_bytes());
        section.write(&mut out)?;
        let mut description = Block::new(INTERFACE);
        description.number(link as u32);
        // No limit on the length of packets.
        description.number(0);
        description.option(INTERFACE_NAME, interface.as_bytes());
        description.option(INTERFACE_TIME_UNIT, &[NANOSECONDS]);
        description.write(&mut out)?;
        Ok(Self { out })
    }

    /// Writes a packet.
    pub(crate) fn packet(&mut self, packet: &Packet) -> io::Result<()> {
        let mut block = Block::new(ENHANCED_PACKET);
        // The first interface.
        block.number(0);
        block.number(u32::try_from(packet.at_ns >> 32).unwrap_or_default());
        block.number(u32::try_from(packet.at_ns & 0xffff_ffff).unwrap_or_default());
        let captured = u32::try_from(packet.bytes.len()).unwrap_or_default();
        block.number(captured);
        block.number(packet.length.max(captured));
        block.padded(&packet.bytes);
        if !packet.comment.is_empty() {
            block.option(OPTION_COMMENT, packet.comment.as_bytes());
        }
        block.option(PACKET_FLAGS, &INBOUND.to_le_bytes());
        block.write(&mut self.out)
    }

    /// Flushes the output, so that the reader of a pipe sees it.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The blocks of a file: type and content, without the lengths.
    fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        let mut blocks = Vec::new();
        while !file.is_empty() {
            let length = number(&file[4..8]) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(number(&file[length - 4..length]) as usize, length, "the length stands at both ends");
            blocks.push((number(&file[..4]), file[8..length - 4].to_vec()));
            file = &file[length..];
        }
        blocks
    }

    fn options(mut content: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut options = Vec::new();
        loop {
            let code = u16::from_le_bytes([content[0], content[1]]);
            let length = usize::from(u16::from_le_bytes([content[2], content[3]]));
            if code == OPTION_END {
                assert_eq!(content.len(), 4, "nothing follows the end");
                return options;
            }
            options.push((code, content[4..4 + length].to_vec()));
            content = &content[4 + length.next_multiple_of(4)..];
        }
    }

    #[test]
    fn the_head_of_a_file() {
        let mut file = Vec::new();
        CaptureFile::begin(&mut file, LinkType::Raw, "wg0").unwrap();
        let blocks = blocks(&file);
        assert_eq!(blocks.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [SECTION, INTERFACE]);
        assert_eq!(blocks[0].1[..4], BYTE_ORDER.to_le_bytes());
        assert_eq!(blocks[1].1[..4], [101, 0, 0, 0]);
        let named = (INTERFACE_NAME, b"wg0".to_vec());
        assert_eq!(options(&blocks[1].1[8..]), [named, (INTERFACE_TIME_UNIT, vec![9])]);
    }

    proptest! {
        #[test]
        fn packets_read_back(
            at_ns: u64,
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            comment in "[a-z ]{0,40}",
            more in 0_u32..9_000,
        ) {
            let mut file = Vec::new();
            let length = u32::try_from(bytes.len()).unwrap() + more;
            let packet = Packet { at_ns, bytes, length, comment };
            let mut capture = CaptureFile::begin(&mut file, LinkType::Ethernet, "eth0").unwrap();
            capture.packet(&packet).unwrap();
            let (kind, content) = blocks(&file).pop().unwrap();
            let number = |at: usize| u32::from_le_bytes(content[at..at + 4].try_into().unwrap());
            prop_assert_eq!((kind, number(0)), (ENHANCED_PACKET, 0));
            prop_assert_eq!(u64::from(number(4)) << 32 | u64::from(number(8)), packet.at_ns);
            prop_assert_eq!((number(12) as usize, number(16)), (packet.bytes.len(), packet.length));
            prop_assert_eq!(&content[20..20 + packet.bytes.len()], &packet.bytes);
            let options = options(&content[20 + packet.bytes.len().next_multiple_of(4)..]);
            let told = options.iter().find(|(code, _)| *code == OPTION_COMMENT).map(|(_, value)| value.clone());
            prop_assert_eq!(told.unwrap_or_default(), packet.comment.into_bytes());
        }
    }
}
