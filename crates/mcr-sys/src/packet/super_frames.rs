//! Whether the kernel gives UDP super-frames to a packet socket.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::netdevice::name_to_index;

use super::{Capture, CaptureOptions, Fanout};
use crate::errno::EINVAL;
use crate::filter::{FilterDestination, FilterProgram};
use crate::link::IfIndex;
use crate::mmsg::{Ancillary, ReceiveBatch, ReceiveOptions, SendBatch, SocketAddress};
use crate::poll::wait_readable;
use crate::{Result, SysError, failed};

/// A frame on loopback arrives within the call that sends it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a UDP super-frame can be received through a [`Capture`]: one of two bytes is sent over the loopback of this
/// network namespace, from a port of the kernel's choice to itself. Linux before 6.2 discards it when it is read
/// (`PACKET_VNET_HDR` and `SKB_GSO_UDP_L4`).
///
/// # Errors
/// It can't be tried: loopback is down, no `CAP_NET_RAW`, no `UDP_SEGMENT`.
pub fn delivers_super_frames() -> Result<bool> {
    const STEP: &str = "send a super-frame over loopback";
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(failed(STEP))?;
    let address = socket.local_addr().map_err(failed(STEP))?;
    let ifindex =
        name_to_index(&socket, "lo").map_err(|errno| SysError::from_errno("look up loopback", errno))?;
    let wanted = FilterDestination { address: address.ip(), port: address.port(), promiscuous: false };
    let options = CaptureOptions {
        ifindex: IfIndex::new(ifindex),
        filter: &FilterProgram::for_destinations(&[wanted]),
        receive_buffer_bytes: 1 << 16,
        fanout: Fanout::New,
    };
    let (capture, _) = Capture::open(&options)?;

    let to = SocketAddress::new(address);
    let ancillary = Ancillary { segment_bytes: Some(1), ..Ancillary::default() };
    let mut batch = SendBatch::new(1, 1);
    let mut sending = batch.begin();
    let full = || SysError::invalid(STEP, "there is no room for one send");
    sending.push(Some(&to), &ancillary, [&b"ab"[..]]).map_err(|_| full())?;
    let mut result = Ok(());
    sending.send(socket.as_fd(), |_, outcome| result = outcome.map(drop));
    result.map_err(|errno| SysError::new(STEP, std::io::Error::from_raw_os_error(errno)))?;

    let mut received = ReceiveBatch::new(&ReceiveOptions { messages: 1, buffer_bytes: 256 })?;
    if !wait_readable([capture.as_fd()], Some(PATIENCE))?[0] {
        return Err(SysError::invalid(STEP, "nothing arrives"));
    }
    match received.receive(capture.as_fd()) {
        Ok(frames) => Ok(frames > 0),
        Err(error) if error.errno() == Some(EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}
