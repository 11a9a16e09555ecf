//! Ancillary data (cmsg(3)).

use std::mem::size_of;
use std::net::IpAddr;

/// What one send asks for, beyond the socket's options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ancillary {
    /// `UDP_SEGMENT` (udp(7)): the payload is cut into datagrams of this many bytes; the last may be shorter.
    pub segment_bytes: Option<u16>,
    /// `IP_TTL` (ip(7)) or `IPV6_HOPLIMIT` (ipv6(7)).
    pub ttl: Option<u8>,
    /// `IP_TOS` or `IPV6_TCLASS`: the whole byte, DSCP in its upper six bits.
    pub traffic_class: Option<u8>,
    /// `IP_PKTINFO` or `IPV6_PKTINFO`: the source address, of the destination's family. One that the host does not have takes
    /// a transparent socket.
    pub source: Option<IpAddr>,
    /// The UDP header in front of the payload, on a raw socket.
    pub udp_header: Option<[u8; 8]>,
}

/// Room for one entry that carries an `int`.
const ENTRY_BYTES: usize = size_of::<libc::cmsghdr>() + size_of::<u64>();
/// Room for the entry of a source address, in whole words.
const SOURCE_ENTRY_BYTES: usize =
    size_of::<libc::cmsghdr>() + size_of::<libc::in6_pktinfo>().next_multiple_of(size_of::<u64>());
/// Room for every entry of an [`Ancillary`].
pub(crate) const CONTROL_BYTES: usize = 3 * ENTRY_BYTES + SOURCE_ENTRY_BYTES;

/// A control buffer, aligned for `cmsghdr`.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Control {
    pub(crate) bytes: [u8; CONTROL_BYTES],
}

impl Control {
    pub(crate) const EMPTY: Self = Self { bytes: [0; CONTROL_BYTES] };

    /// Writes the entries for a destination of the family and returns their length in bytes.
    pub(crate) fn write(&mut self, ancillary: &Ancillary, ipv6: bool) -> usize {
        let mut at = 0;
        if let Some(segment) = ancillary.segment_bytes {
            at = self.entry(at, (libc::SOL_UDP, libc::UDP_SEGMENT), &segment.to_ne_bytes());
        }
        if let Some(ttl) = ancillary.ttl {
            let kind =
                if ipv6 { (libc::SOL_IPV6, libc::IPV6_HOPLIMIT) } else { (libc::SOL_IP, libc::IP_TTL) };
            at = self.entry(at, kind, &i32::from(ttl).to_ne_bytes());
        }
        if let Some(class) = ancillary.traffic_class {
            let kind = if ipv6 { (libc::SOL_IPV6, libc::IPV6_TCLASS) } else { (libc::SOL_IP, libc::IP_TOS) };
            at = self.entry(at, kind, &i32::from(class).to_ne_bytes());
        }
        if let Some(source) = ancillary.source {
            at = self.source(at, source);
        }
        at
    }

    /// Writes the entry of a source address. The interface is the socket's.
    #[cold]
    fn source(&mut self, at: usize, source: IpAddr) -> usize {
        match source {
            // `struct in_pktinfo`: interface, source (`ipi_spec_dst`), an address that is not used.
            IpAddr::V4(source) => {
                let mut data = [0; size_of::<libc::in_pktinfo>()];
                data[4..8].copy_from_slice(&source.octets());
                self.entry(at, (libc::SOL_IP, libc::IP_PKTINFO), &data)
            }
            // `struct in6_pktinfo`: source, interface.
            IpAddr::V6(source) => {
                let mut data = [0; size_of::<libc::in6_pktinfo>()];
                data[..16].copy_from_slice(&source.octets());
                self.entry(at, (libc::SOL_IPV6, libc::IPV6_PKTINFO), &data)
            }
        }
    }

    /// Writes one `cmsghdr` and its data: length (`size_t`), level, type (both `int`), data, padding to 8 bytes.
    fn entry(&mut self, at: usize, (level, kind): (i32, i32), data: &[u8]) -> usize {
        let header = size_of::<libc::cmsghdr>();
        let bytes = header + data.len().next_multiple_of(size_of::<u64>());
        let Some(room) = self.bytes.get_mut(at..at + bytes) else { return at };
        let (head, tail) = room.split_at_mut(header);
        let (length, kinds) = head.split_at_mut(size_of::<usize>());
        length.copy_from_slice(&(header + data.len()).to_ne_bytes());
        let (level_bytes, kind_bytes) = kinds.split_at_mut(size_of::<i32>());
        level_bytes.copy_from_slice(&level.to_ne_bytes());
        kind_bytes.copy_from_slice(&kind.to_ne_bytes());
        let (value, padding) = tail.split_at_mut(data.len());
        value.copy_from_slice(data);
        padding.fill(0);
        at + bytes
    }

    /// The segment size that `UDP_GRO` reported (an `int`), in a control buffer of `length` bytes.
    pub(crate) fn segment_bytes(&self, length: usize) -> Option<u16> {
        find(self.bytes.get(..length)?, libc::SOL_UDP, libc::UDP_GRO).and_then(|data| {
            let value = i32::from_ne_bytes(data.get(..4)?.try_into().ok()?);
            u16::try_from(value).ok().filter(|size| *size > 0)
        })
    }
}

/// The data of the first entry of this level and type.
pub(crate) fn find(control: &[u8], level: i32, kind: i32) -> Option<&[u8]> {
    let header = size_of::<libc::cmsghdr>();
    let mut rest = control;
    while rest.len() >= header {
        let word = |at: usize| Some(i32::from_ne_bytes(rest.get(at..at + 4)?.try_into().ok()?));
        let entry = usize::from_ne_bytes(rest.get(..size_of::<usize>())?.try_into().ok()?);
        if entry < header || entry > rest.len() {
            return None;
        }
        if word(size_of::<usize>())? == level && word(size_of::<usize>() + 4)? == kind {
            return rest.get(header..entry);
        }
        rest = rest.get(entry.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
    }
    None
}
