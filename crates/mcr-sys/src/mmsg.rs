//! Many datagrams with one system call: recvmmsg(2) and sendmmsg(2) over arrays that are allocated once.
//!
//! ```text
//!  ReceiveBatch   [header 0][header 1]…      SendBatch   [header 0][header 1]…
//!                     │         │                            │         │
//!                 [buffer 0][buffer 1]…                  address, ancillary data, pieces of the caller's memory
//! ```
//!
//! Used by the relay where io_uring is denied, by the relay's rare synchronous sends, and by the traffic generator.
//! Nothing here allocates after `new`.

mod address;
mod ancillary;
mod receive;
mod send;
#[cfg(test)]
mod tests;

pub use address::SocketAddress;
pub use ancillary::Ancillary;
use ancillary::CONTROL_BYTES;
pub(crate) use ancillary::{Control, find};
pub use receive::{ReceiveBatch, ReceiveOptions, ReceivedMessage, receive_segmented};
pub use send::{BatchFull, Progress, SendBatch, Sending};

/// The most datagrams one segmented send may carry (`UDP_MAX_SEGMENTS`, udp(7); newer kernels take 128).
pub const MAX_SEGMENTS: usize = 64;
/// The most payload bytes one send may carry, segmented or not: 65,535 less the IPv4 and UDP headers.
pub const MAX_SEND_BYTES: usize = 65_507;

/// The distance between buffers that hold `bytes`: an odd number of 64-byte cache lines, so that the first lines
/// of small frames spread over all sets of a cache instead of meeting in a few.
#[must_use]
pub const fn buffer_stride(bytes: usize) -> usize {
    let lines = bytes.div_ceil(64);
    (lines | 1) * 64
}
