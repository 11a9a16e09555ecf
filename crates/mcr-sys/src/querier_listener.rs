//! Raw sockets (raw(7), icmpv6) that receive IGMP and MLD queries, as the kernel itself does, and the reports of this host. The
//! kernel reports the sender and the interface beside each packet, which is not read here.
//!
//! The kernel delivers a report of this host to the host itself if it is a member of the group that reports are sent to
//! ([`report_group`]), after the output filters: what is received here left, as far as the kernel knows. Reports of other hosts
//! to that group are not received.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, socket_with};
use socket2::{SockFilter, SockRef};

use crate::link::IfIndex;
use crate::recvmsg::receive;
use crate::{Result, failed, socket_option};

/// IGMP's types: a query of any version, reports of version 1, 2 and 3 (RFC 3376 section 4).
const IGMP_QUERY: u32 = 0x11;
const IGMP_REPORTS: [u32; 2] = [0x12, 0x16];
const IGMP_V3_REPORT: u32 = 0x22;
/// ICMPv6's types of MLD: a query, reports of version 1 and 2 (RFC 3810 section 5).
const MLD_QUERY: u32 = 130;
const MLD_REPORT: u32 = 131;
const MLD_V2_REPORT: u32 = 143;
/// A packet that this host sent and delivers to itself (linux/if_packet.h).
const PACKET_LOOPBACK: u32 = 5;
/// linux/icmpv6.h: a set bit blocks the type.
const ICMPV6_FILTER: libc::c_int = 1;

/// The group to which IGMPv3 and MLDv2 reports are sent (RFC 3376 section 4.2.14, RFC 3810 section 5.2.14).
#[must_use]
pub fn report_group(ipv6: bool) -> IpAddr {
    if ipv6 { IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, 0x16]) } else { IpAddr::from([224, 0, 0, 22]) }
}

/// The longest IPv4 header, and what a query has before its list of sources.
const HEAD_BYTES: usize = 96;

/// A query or a report that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// The interface it arrived on.
    pub ifindex: IfIndex,
    /// The sender; 0.0.0.0 for a switch without an address.
    pub from: IpAddr,
    packet: [u8; HEAD_BYTES],
    bytes: usize,
}

impl Query {
    /// The first bytes of what the socket delivered: an IPv4 packet, or an ICMPv6 message.
    #[must_use]
    pub fn packet(&self) -> &[u8] {
        self.packet.get(..self.bytes).unwrap_or(&self.packet)
    }
}

/// Receives the queries of one family, and this host's reports. Non-blocking.
#[derive(Debug)]
pub struct QueryListener {
    fd: OwnedFd,
    ipv6: bool,
}

impl QueryListener {
    /// Listens in the calling thread's network namespace.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`, `EAFNOSUPPORT` on a host without the family.
    pub fn open(ipv6: bool) -> Result<Self> {
        let (family, protocol): (_, Protocol) =
            if ipv6 { (AddressFamily::INET6, ipproto::ICMPV6) } else { (AddressFamily::INET, ipproto::IGMP) };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(family, SocketType::RAW, flags, Some(protocol))
            .map_err(failed("open raw socket for queries"))?;
        if ipv6 {
            let mut blocked = [u32::MAX; 8];
            for kind in [MLD_QUERY, MLD_REPORT, MLD_V2_REPORT] {
                if let Some(word) = blocked.get_mut((kind / 32) as usize) {
                    *word &= !(1 << (kind % 32));
                }
            }
            // The type; accept all but a version 2 report that another host sent.
            attach(
                fd.as_fd(),
                &[
                    (LOAD_BYTE, 0, 0, 0),
                    (TEST_EQUAL, 0, 2, MLD_V2_REPORT),
                    LOAD_PACKET_TYPE,
                    (TEST_EQUAL, 0, 1, PACKET_LOOPBACK),
                    (RETURN, 0, 0, u32::MAX),
                    (RETURN, 0, 0, 0),
                ],
            )?;
            socket_option::set(
                "set ICMPV6_FILTER",
                fd.as_fd(),
                libc::IPPROTO_ICMPV6,
                ICMPV6_FILTER,
                &blocked,
            )?;
            let level = libc::IPPROTO_IPV6;
            socket_option::set("set IPV6_RECVPKTINFO", fd.as_fd(), level, libc::IPV6_RECVPKTINFO, &1_i32)?;
        } else {
            // X = header length; the byte behind it; accept a query, a report of version 1 or 2 to a group of this host, and a
            // version 3 report of this host.
            let [v1, v2] = IGMP_REPORTS;
            attach(
                fd.as_fd(),
                &[
                    (LOAD_HEADER_LENGTH, 0, 0, 0),
                    (LOAD_BYTE_AT_X, 0, 0, 0),
                    (TEST_EQUAL, 5, 0, IGMP_QUERY),
                    (TEST_EQUAL, 4, 0, v1),
                    (TEST_EQUAL, 3, 0, v2),
                    (TEST_EQUAL, 0, 3, IGMP_V3_REPORT),
                    LOAD_PACKET_TYPE,
                    (TEST_EQUAL, 0, 1, PACKET_LOOPBACK),
                    (RETURN, 0, 0, u32::MAX),
                    (RETURN, 0, 0, 0),
                ],
            )?;
            socket_option::set("set IP_PKTINFO", fd.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, &1_i32)?;
        }
        Ok(Self { fd, ipv6 })
    }

    /// Takes the next query or report; `None` if there is none.
    pub fn receive(&self) -> Result<Option<Query>> {
        const STEP: &str = "receive query";
        // `struct in6_pktinfo`: address 16, index 4. `struct in_pktinfo`: index 4, two addresses.
        let index = |info: Option<&[u8]>, at: usize| {
            let raw = info.and_then(|info| info.get(at..)?.first_chunk().copied());
            IfIndex::new(raw.map_or(0, u32::from_ne_bytes))
        };
        let mut packet = [0; HEAD_BYTES];
        let fd = self.fd.as_fd();
        let (ifindex, from, bytes) = if self.ipv6 {
            let Some(message) = receive::<libc::sockaddr_in6>(STEP, fd, &mut packet)? else {
                return Ok(None);
            };
            let ifindex = index(message.entry(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO), 16);
            (ifindex, IpAddr::from(Ipv6Addr::from(message.address.sin6_addr.s6_addr)), message.bytes)
        } else {
            let Some(message) = receive::<libc::sockaddr_in>(STEP, fd, &mut packet)? else { return Ok(None) };
            let ifindex = index(message.entry(libc::IPPROTO_IP, libc::IP_PKTINFO), 0);
            let from = Ipv4Addr::from(message.address.sin_addr.s_addr.to_ne_bytes());
            (ifindex, IpAddr::from(from), message.bytes)
        };
        Ok(Some(Query { ifindex, from, packet, bytes }))
    }
}

/// Instructions of classic BPF (linux/bpf_common.h): code, jump if true, jump if false, operand.
type Line = (u16, u8, u8, u32);
const LOAD_BYTE: u16 = 0x30;
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const LOAD_BYTE_AT_X: u16 = 0x50;
const TEST_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const LOAD_PACKET_TYPE: Line = (0x20, 0, 0, (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE).cast_unsigned());

fn attach(fd: BorrowedFd<'_>, program: &[Line]) -> Result<()> {
    let program: Vec<SockFilter> =
        program.iter().map(|&(code, jt, jf, k)| SockFilter::new(code, jt, jf, k)).collect();
    SockRef::from(&fd).attach_filter(&program).map_err(failed("attach filter"))
}

crate::owned_fd::as_fd!(QueryListener, fd);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fixture::{index, raw_sender};
    use crate::membership::{Membership, MembershipPool};
    use mcr_testnet::LinkSetup;
    use mcr_testnet::NetNamespace;

    /// A message of this type to all hosts, from a querier; the checksum is not verified.
    fn igmp(kind: u8) -> Vec<u8> {
        let mut frame = vec![1, 0, 0x5e, 0, 0, 1, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend([0x46, 0xc0, 0, 32, 0, 0, 0x40, 0, 1, 2, 0x41, 0x25, 10, 9, 0, 9, 224, 0, 0, 1]);
        frame.extend([0x94, 4, 0, 0]);
        frame.extend([kind, 100, 0, 0, 0, 0, 0, 0]);
        let sum = frame[14..38]
            .chunks(2)
            .filter(|_| true)
            .fold(0_u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            - 0x4125;
        let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    #[test]
    fn receives_queries_with_querier_and_interface_but_no_reports_of_others() {
        let (near, far) = (NetNamespace::create().unwrap(), NetNamespace::create().unwrap());
        let mut setup = LinkSetup::in_namespace(&near).unwrap();
        setup.create_veth("eth0", "eth0", &far).unwrap();
        setup.set_up("eth0", true).unwrap();
        setup.add_address("eth0", IpAddr::from([10, 9, 0, 1]), 24).unwrap();
        LinkSetup::in_namespace(&far).unwrap().set_up("eth0", true).unwrap();
        let ifindex = index(&mut setup, "eth0");
        let listener = near.run(|| QueryListener::open(false).unwrap()).unwrap();
        far.run(|| {
            let sender = raw_sender(IfIndex::by_name("eth0").unwrap());
            sender.send(&igmp(0x22)).unwrap();
            sender.send(&igmp(0x11)).unwrap();
        })
        .unwrap();
        let wait = Some(Duration::from_secs(5));
        assert_eq!(crate::poll::wait_readable([listener.as_fd()], wait).unwrap(), [true]);
        let query = listener.receive().unwrap().unwrap();
        assert_eq!((query.ifindex, query.from), (ifindex, IpAddr::from([10, 9, 0, 9])));
        assert_eq!(query.packet(), &igmp(0x11)[14..]);
        assert_eq!(listener.receive().unwrap(), None, "the report");
    }

    /// The kernel's own reports come back to a member of their group.
    #[test]
    fn receives_reports_of_this_host() {
        let (near, far) = (NetNamespace::create().unwrap(), NetNamespace::create().unwrap());
        let mut setup = LinkSetup::in_namespace(&near).unwrap();
        setup.create_veth("eth0", "eth0", &far).unwrap();
        setup.set_up("eth0", true).unwrap();
        setup.add_address("eth0", IpAddr::from([10, 9, 0, 1]), 24).unwrap();
        setup.add_address("eth0", "fe80::9".parse().unwrap(), 64).unwrap();
        LinkSetup::in_namespace(&far).unwrap().set_up("eth0", true).unwrap();
        let ifindex = index(&mut setup, "eth0");
        for (ipv6, types) in [(false, [0x22; 2]), (true, [143, 131])] {
            let test = || {
                let listener = QueryListener::open(ipv6).unwrap();
                let mut pool = MembershipPool::new();
                let group = report_group(ipv6);
                pool.join(Membership { ifindex, group, source: None }).unwrap();
                let wait = Some(Duration::from_secs(5));
                assert_eq!(crate::poll::wait_readable([listener.as_fd()], wait).unwrap(), [true], "{group}");
                let report = listener.receive().unwrap().unwrap();
                let kind = report.packet()[if ipv6 { 0 } else { 24 }];
                assert!(types.contains(&kind), "{group}: {report:?}");
                assert_eq!(report.ifindex, ifindex);
            };
            near.run(test).unwrap();
        }
    }

    #[test]
    fn the_other_family_opens() {
        let host = NetNamespace::create().unwrap();
        host.run(|| assert_eq!(QueryListener::open(true).unwrap().receive().unwrap(), None)).unwrap();
    }
}
