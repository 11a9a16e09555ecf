//! Who has the port of a unicast input. A UDP socket that is bound to the same address and port, or to the port on all
//! addresses, receives the datagrams from the kernel, too, and keeps it from answering with ICMP port unreachable: beside it
//! no absorber is needed, and an absorber would take the datagrams from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use mcr_sys::udp_sockets::UdpSocket;

use crate::core::plan::Absorber;

/// How often the sockets at the ports of unicast inputs are examined. A program that binds such a port with SO_REUSEADDR
/// receives nothing until then.
pub(crate) const EXAMINE_EVERY: Duration = Duration::from_secs(1);

/// The program that has the port of a unicast input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortHolder {
    /// The kernel says that there is one.
    Unknown,
    /// The owner of this socket.
    Socket {
        /// The user who opened it.
        uid: u32,
        /// Its inode.
        inode: u32,
        /// Process id and name, where the daemon may read them.
        program: Option<(u32, String)>,
    },
}

/// `socat (pid 12)`, or what is known of it.
impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("another program"),
            Self::Socket { program: Some((pid, name)), .. } => write!(f, "{name} (pid {pid})"),
            Self::Socket { uid, inode, program: None } => {
                write!(f, "a program of uid {uid} (socket inode {inode})")
            }
        }
    }
}

/// The holders of ports, by absorber.
pub(crate) type PortHolders = BTreeMap<Absorber, PortHolder>;

/// Returns the socket that receives an absorber's datagrams instead of it: the most specific one that is not among `own`.
#[must_use]
pub(crate) fn holder<'a>(
    absorber: &Absorber,
    sockets: &'a [UdpSocket],
    own: &BTreeSet<u32>,
) -> Option<&'a UdpSocket> {
    let Absorber { ifindex, address, port } = *absorber;
    let takes = |socket: &&UdpSocket| {
        socket.port == port
            && !socket.connected
            && socket.interface.is_none_or(|only| only == ifindex)
            && !own.contains(&socket.inode)
            && receives(socket, address)
    };
    sockets.iter().filter(takes).min_by_key(|socket| (socket.address.is_unspecified(), socket.inode))
}

/// Whether a socket's local address admits datagrams to this address.
fn receives(socket: &UdpSocket, address: IpAddr) -> bool {
    match (socket.address, address) {
        (bound, to) if bound == to => true,
        (IpAddr::V4(bound), IpAddr::V4(_)) => bound.is_unspecified(),
        (IpAddr::V6(bound), IpAddr::V6(_)) => bound.is_unspecified(),
        (IpAddr::V6(bound), IpAddr::V4(to)) => {
            !socket.ipv6_only && (bound.is_unspecified() || bound.to_ipv4_mapped() == Some(to))
        }
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use mcr_sys::link::IfIndex;

    use super::*;

    fn socket(address: &str, inode: u32) -> UdpSocket {
        UdpSocket {
            address: address.parse().unwrap(),
            port: 514,
            connected: false,
            interface: None,
            ipv6_only: false,
            uid: 0,
            inode,
        }
    }

    fn absorber(address: &str) -> Absorber {
        Absorber { ifindex: IfIndex::new(3), address: address.parse().unwrap(), port: 514 }
    }

    fn found(address: &str, socket: UdpSocket) -> bool {
        holder(&absorber(address), &[socket], &BTreeSet::new()).is_some()
    }

    #[test]
    fn a_socket_that_receives_the_datagrams_holds_the_port() {
        for (bound, to, holds) in [
            ("0.0.0.0", "10.1.0.2", true),
            ("10.1.0.2", "10.1.0.2", true),
            ("10.1.0.3", "10.1.0.2", false),
            ("239.1.1.1", "10.1.0.2", false),
            ("::", "10.1.0.2", true),
            ("::ffff:10.1.0.2", "10.1.0.2", true),
            ("::1", "10.1.0.2", false),
            ("::", "fd01::2", true),
            ("fd01::2", "fd01::2", true),
            ("fd01::3", "fd01::2", false),
            ("0.0.0.0", "fd01::2", false),
        ] {
            assert_eq!(found(to, socket(bound, 1)), holds, "{bound} {to}");
        }
        let any = || socket("::", 1);
        assert!(!found("10.1.0.2", UdpSocket { ipv6_only: true, ..any() }));
        assert!(!found("10.1.0.2", UdpSocket { port: 515, ..any() }));
        assert!(!found("10.1.0.2", UdpSocket { connected: true, ..any() }));
        assert!(!found("10.1.0.2", UdpSocket { interface: Some(IfIndex::new(4)), ..any() }));
        assert!(found("10.1.0.2", UdpSocket { interface: Some(IfIndex::new(3)), ..any() }));
    }

    #[test]
    fn own_sockets_do_not_count_and_the_most_specific_other_one_does() {
        let sockets = [socket("0.0.0.0", 1), socket("10.1.0.2", 3), socket("10.1.0.2", 2)];
        let inode = |own: &[u32]| {
            let own = own.iter().copied().collect();
            holder(&absorber("10.1.0.2"), &sockets, &own).map(|socket| socket.inode)
        };
        assert_eq!(
            [inode(&[]), inode(&[2]), inode(&[2, 3]), inode(&[1, 2, 3])],
            [Some(2), Some(3), Some(1), None]
        );
    }

    #[test]
    fn holders_are_named_by_what_is_known_of_them() {
        let program = Some((12, "socat".to_owned()));
        let known = |program| PortHolder::Socket { uid: 104, inode: 99, program }.to_string();
        assert_eq!(known(program), "socat (pid 12)");
        assert_eq!(known(None), "a program of uid 104 (socket inode 99)");
        assert_eq!(PortHolder::Unknown.to_string(), "another program");
    }
}
