//! Sends frames exactly as given (packet(7)), malformed ones included.

use std::os::fd::OwnedFd;

use mcr_sys::link::IfIndex;
use mcr_sys::{Result, SysError, test_env};
use rustix::net::SendFlags;

/// A packet socket that transmits on one interface and receives nothing.
#[derive(Debug)]
pub struct RawSender {
    fd: OwnedFd,
}

/// What each frame that is passed to a [`RawSender`] starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawPrefix {
    /// The link header.
    None,
    /// A `struct virtio_net_hdr` (`PACKET_VNET_HDR`): checksum and segmentation offload, which the kernel trusts.
    VnetHeader,
}

impl RawSender {
    /// Opens a sender on an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// There is no such interface, or no CAP_NET_RAW.
    pub fn open(ifindex: IfIndex, prefix: RawPrefix) -> Result<Self> {
        Ok(Self { fd: test_env::packet_sender(ifindex, prefix == RawPrefix::VnetHeader)? })
    }

    /// Sends one frame; blocks while the socket's buffer is full.
    ///
    /// # Errors
    /// `EMSGSIZE` for a frame beyond the MTU, `EINVAL` for one without room for its link header, `ENETDOWN`.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        rustix::net::send(&self.fd, frame, SendFlags::empty())
            .map(drop)
            .map_err(|errno| SysError::from_errno("send raw frame", errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LinkSetup, NetNamespace};
    use std::net::{Ipv4Addr, UdpSocket};
    use std::time::Duration;

    const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    /// From 192.0.2.1:7 to 10.0.0.1:`port` (the kernel refuses loopback addresses in frames), no UDP checksum, payload "raw".
    fn frame(port: u16) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0x6e, 0xcc]);
        frame.extend([192, 0, 2, 1, 10, 0, 0, 1]);
        frame.extend([0, 7]);
        frame.extend(port.to_be_bytes());
        frame.extend([0, 11, 0, 0, b'r', b'a', b'w']);
        frame
    }

    fn received_on_loopback(prefix: RawPrefix, before: &[u8]) -> Vec<u8> {
        let namespace = NetNamespace::create().unwrap();
        let mut setup = LinkSetup::in_namespace(&namespace).unwrap();
        setup.set_up("lo", true).unwrap();
        setup.add_address("lo", HOST.into(), 32).unwrap();
        namespace
            .run(|| {
                let socket = UdpSocket::bind((HOST, 0)).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let sender = RawSender::open(IfIndex::by_name("lo").unwrap(), prefix).unwrap();
                let frame = frame(socket.local_addr().unwrap().port());
                sender.send(&[before, &frame].concat()).unwrap();
                let mut buffer = [0; 64];
                let (bytes, source) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(source.port(), 7);
                buffer[..bytes].to_vec()
            })
            .unwrap()
    }

    #[test]
    fn a_valid_frame_reaches_a_socket() {
        assert_eq!(received_on_loopback(RawPrefix::None, &[]), b"raw");
        assert_eq!(received_on_loopback(RawPrefix::VnetHeader, &[0; 10]), b"raw");
    }

    #[test]
    fn no_interface_and_no_link_header_are_errors() {
        let namespace = NetNamespace::create().unwrap();
        let error = namespace.run(|| RawSender::open(IfIndex::new(999_999), RawPrefix::None).unwrap_err());
        assert_eq!(error.unwrap().errno(), Some(rustix::io::Errno::NODEV.raw_os_error()));
        LinkSetup::in_namespace(&namespace).unwrap().set_up("lo", true).unwrap();
        let error = namespace.run(|| {
            let sender = RawSender::open(IfIndex::by_name("lo").unwrap(), RawPrefix::None).unwrap();
            sender.send(&[0; 13]).unwrap_err()
        });
        assert_eq!(error.unwrap().errno(), Some(rustix::io::Errno::INVAL.raw_os_error()));
    }
}
