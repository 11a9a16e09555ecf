//! Captures packets on all interfaces for a short time, for diagnosis: a cooked packet socket that is not bound to an
//! interface (packet(7)). The supervisor opens it and passes it to an unprivileged process, which reads it.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use crate::filter::{Instruction, observation};
use crate::interface_mode::{self, Mode};
use crate::link::IfIndex;
use crate::recvmsg::receive;
use crate::{Result, failed, packet, socket_option};

/// Packets that do not fit are counted; diagnosis does not need all of them.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
const TP_STATUS_CSUMNOTREADY: u32 = 1 << 3;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_CSUM_VALID: u32 = 1 << 7;

/// Metadata of a captured packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketInfo {
    /// The interface it arrived on.
    pub ifindex: IfIndex,
    /// The VLAN of its outer tag, 1 to 4094. A priority tag (VLAN 0) names none.
    pub vlan: Option<u16>,
    /// How it concerns this host.
    pub kind: FrameKind,
    /// The source MAC address; zeroes without one.
    pub mac: [u8; 6],
    /// Length of the packet from its IP header on, bytes; may exceed the buffer.
    pub bytes: usize,
    /// It is from this host and its checksum is not computed yet (`CHECKSUM_PARTIAL`).
    pub checksum_pending: bool,
    /// The device has verified its checksum.
    pub checksum_verified: bool,
}

/// How a frame concerns this host (packet(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// It arrived, for this host or many.
    Received,
    /// It arrived, for another host's MAC address (`PACKET_OTHERHOST`).
    OtherHost,
    /// A program of this host sent it (`PACKET_OUTGOING`).
    Sent,
}

/// A socket that captures on all interfaces. Non-blocking.
#[derive(Debug)]
pub struct ObservationSocket {
    fd: OwnedFd,
}

impl ObservationSocket {
    /// Starts to capture incoming UDP for these groups and addresses (for all groups if they are many), IGMP and MLD on all interfaces
    /// of the calling thread's network namespace; and what programs of this host send to them on some interfaces.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`; no memory for the filter (`net.core.optmem_max`).
    pub fn open(groups: &[IpAddr], senders: &[IfIndex]) -> Result<Self> {
        Self::with_filter(&observation::program(groups, senders))
    }

    /// The same for all multicast, and for the first 128 of these addresses.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for_all_multicast_and(addresses: &[IpAddr]) -> Result<Self> {
        Self::with_filter(&observation::all_multicast_and(addresses))
    }

    fn with_filter(program: &[Instruction]) -> Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, None)
            .map_err(failed("open observation socket"))?;
        packet::attach_instructions(fd.as_fd(), program).map_err(failed("attach filter"))?;
        let set = |step, name| socket_option::set(step, fd.as_fd(), libc::SOL_PACKET, name, &1_i32);
        set("set PACKET_AUXDATA", libc::PACKET_AUXDATA)?;
        sockopt::set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER_BYTES)
            .map_err(failed("set receive buffer size"))?;
        // Where the kernel has no such lock, the observer's system call filter still denies what it needs to send.
        let _ = packet::lock_sends(fd.as_fd());
        packet::bind(fd.as_fd(), IfIndex::new(0))?;
        Ok(Self { fd })
    }

    /// Turns on `IFF_ALLMULTI` on an interface for as long as this socket is open; otherwise its MAC filter passes only
    /// groups that this host has joined.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn receive_all_multicast(&self, ifindex: IfIndex) -> Result<()> {
        interface_mode::set(self.fd.as_fd(), ifindex, Mode::AllMulticast, true)
    }

    /// Takes the next packet, from its IP header on; `None` if there is none.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<PacketInfo>> {
        let message = receive::<libc::sockaddr_ll>("receive observation", self.fd.as_fd(), buffer)?;
        Ok(message.map(|message| {
            let auxiliary = message.entry(libc::SOL_PACKET, libc::PACKET_AUXDATA).unwrap_or_default();
            // `struct tpacket_auxdata`: status 4, len 4, snaplen 4, mac 2, net 2, vlan_tci 2, vlan_tpid 2.
            let status = auxiliary.first_chunk().map_or(0, |word| u32::from_ne_bytes(*word));
            let tag = auxiliary.get(16..).and_then(|rest| rest.first_chunk());
            let vlan = tag.map(|tag| u16::from_ne_bytes(*tag) & 0xfff);
            PacketInfo {
                ifindex: IfIndex::new(message.address.sll_ifindex.cast_unsigned()),
                vlan: vlan.filter(|vlan| *vlan != 0 && status & TP_STATUS_VLAN_VALID != 0),
                kind: match message.address.sll_pkttype {
                    libc::PACKET_OTHERHOST => FrameKind::OtherHost,
                    libc::PACKET_OUTGOING => FrameKind::Sent,
                    _ => FrameKind::Received,
                },
                mac: match message.address {
                    libc::sockaddr_ll { sll_halen: 6, sll_addr: [a, b, c, d, e, f, ..], .. } => {
                        [a, b, c, d, e, f]
                    }
                    _ => [0; 6],
                },
                bytes: message.bytes,
                checksum_pending: status & TP_STATUS_CSUMNOTREADY != 0,
                checksum_verified: status & TP_STATUS_CSUM_VALID != 0,
            }
        }))
    }

    /// Number of packets that did not fit the queue since the last call.
    pub fn lost(&self) -> Result<u32> {
        Ok(packet::statistics(self.fd.as_fd())?.drops)
    }
}

crate::owned_fd::owned_fd!(ObservationSocket);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{index, raw_sender};
    use mcr_testnet::LinkSetup;
    use mcr_testnet::NetNamespace;

    use std::time::Duration;

    /// From 192.0.2.1 to `group`, with a VLAN tag or not; IGMP if there is no group.
    fn frame(vlan: Option<u16>, group: Option<[u8; 4]>) -> Vec<u8> {
        let mut frame = vec![1, 0, 0x5e, 1, 1, 1, 2, 0, 0, 0, 0, 1];
        if let Some(vlan) = vlan {
            frame.extend([0x81, 0]);
            frame.extend(vlan.to_be_bytes());
        }
        let protocol = if group.is_some() { 17 } else { 2 };
        frame.extend([8, 0, 0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 1]);
        frame.extend(group.unwrap_or([224, 0, 0, 1]));
        frame.extend([0, 7, 0x13, 0x88, 0, 11, 0, 0, b'r', b'a', b'w']);
        frame
    }

    #[test]
    fn sees_wanted_groups_with_their_vlan_and_interface_and_nothing_else() {
        let (near, far) = (NetNamespace::create().unwrap(), NetNamespace::create().unwrap());
        let mut setup = LinkSetup::in_namespace(&near).unwrap();
        setup.create_veth("eth0", "eth0", &far).unwrap();
        setup.set_up("eth0", true).unwrap();
        LinkSetup::in_namespace(&far).unwrap().set_up("eth0", true).unwrap();
        let ifindex = index(&mut setup, "eth0");
        let socket =
            near.run(|| ObservationSocket::open(&[IpAddr::from([239, 1, 1, 1])], &[]).unwrap()).unwrap();
        far.run(|| {
            let sender = raw_sender(IfIndex::by_name("eth0").unwrap());
            let frames = [
                (None, Some([239, 1, 1, 2])),
                (Some(0), Some([239, 1, 1, 1])),
                (Some(7), Some([239, 1, 1, 1])),
            ];
            for (vlan, group) in frames.into_iter().chain([(None, None)]) {
                sender.send(&frame(vlan, group)).unwrap();
            }
        })
        .unwrap();
        socket.receive_all_multicast(ifindex).unwrap();
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let wait = Some(Duration::from_secs(5));
            assert_eq!(crate::poll::wait_readable([socket.as_fd()], wait).unwrap(), [true], "{seen:?}");
            let mut buffer = [0; 100];
            if let Some(info) = socket.receive(&mut buffer).unwrap() {
                assert_eq!((info.ifindex, info.bytes), (ifindex, 31));
                assert_eq!((info.kind, info.mac), (FrameKind::Received, [2, 0, 0, 0, 0, 1]));
                seen.push((info.vlan, buffer[9], buffer[19]));
            }
        }
        assert_eq!(seen, [(None, 17, 1), (Some(7), 17, 1), (None, 2, 1)]);
        assert_eq!(socket.lost().unwrap(), 0);
    }
}
