//! The network that most tests need:
//!
//! ```text
//!  sender                     relay                       receiver
//!  eth0 ───────────────────── eth0   eth1 ─────────────── eth0
//!  10.1.0.1/24  fd01::1/64    .2  ::2   10.2.0.1/24  fd02::1/64    .2  ::2
//!  ethN ───────────────────── inN    outN ─────────────── ethN          more segments, N = 1…
//!  10.1.N.1/24  fd01:0:0:N::1                 10.2.N.1/24  fd02:0:0:N::1
//! ```
//!
//! The only path between sender and receiver is the relay.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::Host;

/// One link between the relay and another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The interface of the relay.
    pub relay: String,
    /// The relay's addresses on it.
    pub relay_addresses: (Ipv4Addr, Ipv6Addr),
    /// The interface of the sender or receiver.
    pub far: String,
    /// Its addresses on it.
    pub far_addresses: (Ipv4Addr, Ipv6Addr),
}

/// Three hosts in a row.
#[derive(Debug)]
pub struct Topology {
    /// Sends.
    pub sender: Host,
    /// Runs the daemon.
    pub relay: Host,
    /// Receives.
    pub receiver: Host,
}

impl Topology {
    /// The network above, without further segments.
    #[must_use]
    pub fn sender_relay_receiver() -> Self {
        let topology =
            Self { sender: Host::new("sender"), relay: Host::new("relay"), receiver: Host::new("receiver") };
        topology.add_input(0);
        topology.add_output(0);
        topology
    }

    /// A segment from the sender: `ethN` there, `inN` at the relay. 0 is the first one, again after it was deleted.
    pub fn add_input(&self, number: u8) -> Segment {
        let relay = if number == 0 { "eth0".to_owned() } else { format!("in{number}") };
        self.lay(&self.sender, 1, number, &relay, &format!("eth{number}"))
    }

    /// A segment to the receiver: `outN` at the relay, `ethN` there. 0 is the first one, again after it was deleted.
    pub fn add_output(&self, number: u8) -> Segment {
        let relay = if number == 0 { "eth1".to_owned() } else { format!("out{number}") };
        self.lay(&self.receiver, 2, number, &relay, &format!("eth{number}"))
    }

    /// The sender is host 1 of its segments, the relay host 1 of the others.
    fn lay(&self, far: &Host, side: u8, number: u8, relay_interface: &str, far_interface: &str) -> Segment {
        self.relay.cable(relay_interface, far, far_interface);
        let address = |host: u8| {
            let v6 = Ipv6Addr::new(0xfd00 | u16::from(side), 0, 0, number.into(), 0, 0, 0, host.into());
            (Ipv4Addr::new(10, side, number, host), v6)
        };
        let (relay_host, far_host) = if side == 1 { (2, 1) } else { (1, 2) };
        for (host, interface, number) in
            [(&self.relay, relay_interface, relay_host), (far, far_interface, far_host)]
        {
            let (v4, v6) = address(number);
            // MLD reports are sent from a link-local address (RFC 3810 §5.2.13).
            let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, side.into(), number.into());
            host.setup(interface, |links| {
                links.add_address(interface, v4.into(), 24)?;
                links.add_address(interface, v6.into(), 64)?;
                links.add_address(interface, link_local.into(), 64)
            });
        }
        Segment {
            relay: relay_interface.to_owned(),
            relay_addresses: address(relay_host),
            far: far_interface.to_owned(),
            far_addresses: address(far_host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    fn passes(from: &Host, source: &str, to: &Host, destination: &str) -> bool {
        let receiver = to.run(|| UdpSocket::bind(format!("{destination}:4000")).unwrap());
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let sender = from.run(|| UdpSocket::bind(format!("{source}:0")).unwrap());
        sender.send_to(b"x", format!("{destination}:4000")).is_ok() && receiver.recv(&mut [0; 8]).is_ok()
    }

    #[test]
    fn neighbors_reach_each_other_in_both_families_and_no_further() {
        let topology = Topology::sender_relay_receiver();
        assert!(passes(&topology.sender, "10.1.0.1", &topology.relay, "10.1.0.2"));
        assert!(passes(&topology.sender, "[fd01::1]", &topology.relay, "[fd01::2]"));
        assert!(passes(&topology.relay, "10.2.0.1", &topology.receiver, "10.2.0.2"));
        assert!(passes(&topology.relay, "[fd02::1]", &topology.receiver, "[fd02::2]"));
        let lost = topology.sender.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", "10.2.0.2:1"));
        assert!(lost.is_err(), "the sender has a route to the receiver");
    }

    #[test]
    fn further_segments_have_addresses_of_their_own() {
        let topology = Topology::sender_relay_receiver();
        let (input, output) = (topology.add_input(3), topology.add_output(4));
        assert_eq!((input.relay.as_str(), input.far.as_str()), ("in3", "eth3"));
        assert_eq!(input.far_addresses.0, Ipv4Addr::new(10, 1, 3, 1));
        assert_eq!((output.relay.as_str(), output.far.as_str()), ("out4", "eth4"));
        assert!(passes(&topology.sender, "10.1.3.1", &topology.relay, "10.1.3.2"));
        assert!(passes(&topology.relay, "[fd02:0:0:4::1]", &topology.receiver, "[fd02:0:0:4::2]"));
    }
}
