//! Messages between a supervisor and the attacher. One message is one SEQPACKET datagram.

use mcr_sys::ingress_users::IngressUser;
use serde::{Deserialize, Serialize};

use crate::core::early_drop::{InterfaceState, Obstacle};

/// Interfaces in one message, well below what a channel takes.
pub(super) const MAX_INTERFACES_PER_MESSAGE: usize = 512;
/// The largest list of destinations, as bytes: 65,536 take about 1.5 MB.
pub(super) const MAX_LIST_BYTES: usize = 8 * 1024 * 1024;

/// The destinations by interface index: address and port.
pub(super) type DestinationList = Vec<(u32, Vec<(std::net::IpAddr, u16)>)>;

/// Messages to the attacher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ToAttacher {
    /// Drop what is in the [`DestinationList`] that comes along as a sealed memfd, and nothing else. Answered by `State`.
    Want {
        /// Never used before on this channel, also by earlier supervisors.
        generation: u64,
    },
}

/// Messages from the attacher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FromAttacher {
    /// The program can't be loaded, and the attacher ends.
    Unavailable {
        /// Why, human-readable.
        reason: String,
    },
    /// What is in force, after each `Want` and each second.
    State {
        /// Of the `Want` that it follows.
        generation: u64,
        /// Some of the interfaces.
        interfaces: Vec<InterfaceState>,
        /// The next message has more of them.
        more: bool,
    },
}

/// What the core calls what was found in the kernel.
pub(super) fn obstacle(user: IngressUser) -> Obstacle {
    match user {
        IngressUser::Gone => Obstacle::Gone,
        IngressUser::Master => Obstacle::Port,
        IngressUser::Upper => Obstacle::Upper,
        IngressUser::MulticastRouting => Obstacle::MulticastRouting,
        IngressUser::RawSocket => Obstacle::RawSocket,
        IngressUser::AddressTranslation => Obstacle::AddressTranslation,
        IngressUser::SocketLookup => Obstacle::SocketLookup,
        IngressUser::Filters => Obstacle::Filters,
    }
}
