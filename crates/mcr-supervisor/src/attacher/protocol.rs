//! Messages between a supervisor and the attacher. One message is one SEQPACKET datagram.

use mcr_sys::ingress_users::IngressUser;
use serde::{Deserialize, Serialize};

use crate::core::early_drop::{InterfaceState, Obstacle};

/// Interfaces in one message, well below what a channel takes.
pub(super) const MAX_INTERFACES_PER_MESSAGE: usize = 512;
/// The largest list of destinations, as bytes: 65,536 take about 1.5 MB.
pub(super) const MAX_LIST_BYTES: usize = 8 * 1024 * 1024;

/// By interface index: the destinations (address and port), and whether to attach the program that relays.
pub(super) type DestinationList = Vec<(u32, There)>;

/// What is wanted on one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct There {
    pub(super) destinations: Vec<(std::net::IpAddr, u16)>,
    pub(super) relays: bool,
}

/// Messages to the attacher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ToAttacher {
    /// Drop what is in the [`DestinationList`] that comes along as a sealed memfd, and nothing else. Answered by `State`.
    Want {
        /// Never used before on this channel, also by earlier supervisors.
        generation: u64,
        /// The supervisor has not got the maps of the programs that relay.
        lacks_maps: bool,
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
    /// The programs that relay are loaded. Comes with the descriptors of their maps
    /// ([`mcr_sys::bpf::relay::Programs::descriptors`]).
    Programs,
    /// They can't be loaded.
    NoPrograms {
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
