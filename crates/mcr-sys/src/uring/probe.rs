//! Checks that the kernel permits and supports the io_uring operations that the relay uses.

use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::{Event, Ring, RingOptions, Wait};
use crate::{Result, SysError, failed};

/// Tries everything the relay relies on, with a small ring and a socket pair: a buffer ring, registered sockets, a
/// multishot receive (Linux 6.0), a timer; restricted if the relay's ring will be.
///
/// # Errors
/// The step that the kernel refuses.
pub fn probe(restricted: bool) -> Result<()> {
    let mut ring = Ring::new(&RingOptions { buffers: 4, buffer_bytes: 256, sends: 2, restricted })?;
    let (ours, theirs) = UnixDatagram::pair().map_err(failed("socketpair"))?;
    theirs.send(b"probe").map_err(failed("send"))?;
    let socket = ring.register(ours.as_fd())?;
    ring.start_receive(socket, 1)?;
    ring.start_timer(0, Duration::from_secs(2))?;
    loop {
        ring.enter(Wait::Event)?;
        while let Some(event) = ring.next_event() {
            let refused = |errno| {
                Err(SysError::new("io_uring multishot receive", std::io::Error::from_raw_os_error(errno)))
            };
            match event {
                Event::Received { .. } if ring.is_receiving() => return Ok(()),
                Event::Received { .. } => return refused(libc::EOPNOTSUPP),
                Event::ReceiveEnded { errno } => return refused(errno),
                Event::Timer { .. } => return refused(libc::ETIMEDOUT),
                Event::Sent { .. } | Event::Readable { .. } => {}
            }
        }
    }
}
