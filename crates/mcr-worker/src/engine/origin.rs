//! Source address and port of datagrams, for outputs whose socket does not have them.
//!
//! A kept sender is known when a run is sent, and needed until the outcome of its last send: an output may have sends of several
//! senders in flight. So each send names its sender by an index into a ring of [`Senders`], which is longer than sends can be in
//! flight.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use mcr_link::rule_set::RelayOutput;
use mcr_rules::{OutputOptions, SourceAddress, SourcePort};
use mcr_sys::mmsg::SocketAddress;
use mcr_wire::udp::udp_header;

use super::MAX_IN_FLIGHT;

/// The length of the ring, a power of two.
const SENDERS: usize = 4_096;
const _: () = {
    assert!(SENDERS > MAX_IN_FLIGHT, "a sender would be forgotten while its datagrams are sent");
    assert!(SENDERS <= 1 << 16, "an index has 16 bits");
};

const NOBODY: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Names a sender of [`Senders`].
pub(crate) type SenderIndex = u16;

/// The last senders of all rules that keep them; see the module.
#[derive(Debug)]
pub(crate) struct Senders {
    ring: Box<[Cell<(IpAddr, u16)>]>,
    last: Cell<SenderIndex>,
}

impl Default for Senders {
    fn default() -> Self {
        Self { ring: (0..SENDERS).map(|_| Cell::new(NOBODY)).collect(), last: Cell::new(0) }
    }
}

impl Senders {
    /// Adds a sender. `None`: nothing can be sent from this address.
    pub(crate) fn push(&self, sender: (IpAddr, u16)) -> Option<SenderIndex> {
        let unusable = match sender.0 {
            IpAddr::V4(address) => {
                address.octets()[0] == 0 || address.is_broadcast() || address.is_multicast()
            }
            IpAddr::V6(address) => address.is_unspecified() || address.is_multicast(),
        };
        if unusable {
            return None;
        }
        let last = self.last.get();
        if self.get(last) == sender {
            return Some(last);
        }
        let index = last.wrapping_add(1) & SenderIndex::try_from(SENDERS - 1).unwrap_or(SenderIndex::MAX);
        self.ring.get(usize::from(index))?.set(sender);
        self.last.set(index);
        Some(index)
    }

    fn get(&self, index: SenderIndex) -> (IpAddr, u16) {
        self.ring.get(usize::from(index)).map_or(NOBODY, Cell::get)
    }
}

/// Where an output's source address and port are from.
#[derive(Debug)]
pub(crate) struct Origin {
    /// The address that is set; `None`: the arriving one.
    pub(crate) source: Option<IpAddr>,
    /// The port that is set; `None`: that of the socket.
    pub(crate) port: Option<SourcePort>,
    /// The destination as a raw socket takes it: without port.
    pub(crate) raw_address: SocketAddress,
    pub(crate) senders: Rc<Senders>,
}

impl Origin {
    /// What an output sets; `None` if the socket has address and port.
    pub(crate) fn of_output(
        output: &RelayOutput,
        senders: impl FnOnce() -> Rc<Senders>,
    ) -> Option<Box<Self>> {
        let OutputOptions { source, source_port, .. } = output.options;
        (source == Some(SourceAddress::Keep) || source_port.is_some()).then(|| {
            let mut address = output.address;
            address.set_port(0);
            let raw_address = SocketAddress::new(address);
            Box::new(Self { source: output.source, port: source_port, raw_address, senders: senders() })
        })
    }

    /// The source address of a send, and the UDP header of its only datagram if the socket is a raw one.
    pub(crate) fn of<'p>(
        &self,
        sender: SenderIndex,
        destination: &SocketAddress,
        payload: impl Iterator<Item = &'p [u8]>,
    ) -> (IpAddr, Option<[u8; 8]>) {
        let sender = self.senders.get(sender);
        let source = self.source.unwrap_or(sender.0);
        let port = self.port.map(|port| port.fixed().unwrap_or(sender.1));
        let header = port
            .zip(destination.get())
            .map(|(port, destination)| udp_header(SocketAddr::new(source, port), destination, payload));
        (source, header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_kept_until_as_many_others_as_the_ring_holds() {
        let senders = Senders::default();
        let sender = |number: u32| (IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number)), 7);
        let first = senders.push(sender(0)).unwrap();
        assert_eq!(senders.push(sender(0)), Some(first));
        for number in 1..u32::try_from(SENDERS).unwrap() {
            assert_ne!(senders.push(sender(number)), Some(first));
            assert_eq!(senders.get(first), sender(0));
        }
        assert_eq!(senders.push(sender(0)), Some(first));
        assert_eq!(senders.push((sender(0).0, 8)), Some(first + 1), "another port");
    }

    #[test]
    fn nothing_is_sent_from_an_address_that_no_sender_can_have() {
        let senders = Senders::default();
        for address in ["0.0.0.0", "0.0.0.7", "255.255.255.255", "239.1.1.1", "::", "ff15::1"] {
            assert_eq!(senders.push((address.parse().unwrap(), 7)), None, "{address}");
        }
    }
}
