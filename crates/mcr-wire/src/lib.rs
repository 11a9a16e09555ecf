//! Packet formats, and the only parser of frames: takes bytes as a packet socket delivers them, and returns one validated
//! [`Datagram`]. The worker calls [`parse_vnet_header`] and [`parse_frame`] for each received frame.
//!
//! ```text
//!   ┌────────────┬──────────┬───────────────────────┬─────┬───────────┬─────────┐
//!   │ virtio_net │ Ethernet │ IPv4 + options, or    │ UDP │  payload  │ padding │
//!   │  10 bytes  │ 14 or 0  │ IPv6 + ext. headers   │  8  │           │         │
//!   └────────────┴──────────┴───────────────────────┴─────┴───────────┴─────────┘
//!    vnet         ethernet   ipv4, ipv6              udp    Datagram::payload
//! ```
//!
//! - [`frame`]: parses a frame, from its first byte to the payload;
//! - [`refusal`]: the reasons for which a frame is not relayed;
//! - [`vnet`]: what the kernel reports with a frame: super-frames and partial checksums;
//! - [`fragment`], [`reassembly`]: fragments of datagrams, put together;
//! - [`membership`]: IGMP and MLD messages, for diagnosis;
//! - [`peek()`]: the addresses of a frame that is not relayed, for diagnosis;
//! - [`rtp`], [`mpegts`]: loss in a stream, by its own sequence numbers;
//! - [`mold`]: numbered messages of market data (MoldUDP64);
//! - [`ethernet`], [`ipv4`], [`ipv6`], [`udp`]: one header each;
//! - [`checksum`]: the Internet checksum.
//!
//! Nothing here panics or does I/O, for any input, or allocates, except [`Reassembly::new`].

mod address;
pub mod checksum;
pub mod ethernet;
pub mod fragment;
pub mod frame;
mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod membership;
pub mod mold;
pub mod mpegts;
pub mod peek;
pub mod reassembly;
pub mod refusal;
pub mod rtp;
pub mod udp;
pub mod vnet;

pub use address::AddressBits;
pub use fragment::{Fragment, FragmentHead, parse_fragment};
pub use frame::{Datagram, FrameMeta, LinkLayer, parse_frame};
pub use peek::{Peek, peek};
pub use reassembly::{Loss, Lost, Reassembly, Taken};
pub use refusal::Refusal;
pub use vnet::{VNET_HEADER_BYTES, parse_vnet_header};
