//! Why a received frame was not matched, and why a matched datagram did not leave: closed lists, each entry with
//! its own counter. The accounting identity (ARCHITECTURE.md) rests on them:
//!
//! ```text
//! received = matched + Σ skips + held        due = sent + Σ drops
//! ```

use mcr_sys::errno;
use serde::{Deserialize, Serialize};

/// Declares a list of reasons: an enum, the number of entries, all entries in order, and their names.
macro_rules! reasons {
    ($(#[$list_doc:meta])* $list:ident { $($(#[$doc:meta])* $entry:ident = $name:literal,)+ }) => {
        $(#[$list_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(usize)]
        pub enum $list { $($(#[$doc])* $entry,)+ }

        impl $list {
            /// Every entry, in the order of its counters.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$entry),+];
            /// Number of entries.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in statistics, metrics and documentation.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$entry => $name,)+ }
            }

            /// The index of this reason's counter.
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for $list {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

reasons! {
    /// Why a received datagram, or a frame without one, was not matched to a rule.
    SkipReason {
        /// Neither IPv4 nor IPv6, or too short to identify.
        NotIp = "not_ip",
        /// A VLAN tag in the frame: rules use the VLAN interface instead.
        Vlan = "vlan",
        /// An IP packet that does not carry UDP.
        NotUdp = "not_udp",
        /// A fragment of an IP packet, where none are put together.
        Fragment = "fragment",
        /// Fewer bytes than the length in the IP header.
        Truncated = "truncated",
        /// An inconsistent header: version, header length, extension chain.
        BadHeader = "bad_header",
        /// A UDP length below 8 or beyond the IP payload.
        BadLength = "bad_length",
        /// A wrong UDP or IPv4 header checksum.
        BadChecksum = "bad_checksum",
        /// TTL or hop limit 0.
        TtlZero = "ttl_zero",
        /// A super-frame with an invalid segment size.
        BadSuperFrame = "bad_super_frame",
        /// A super-frame that the kernel can't give to a packet socket, and discards when it is read (before Linux 6.2).
        SuperFrameLost = "super_frame_lost",
        /// Sent from an address of this host.
        OwnSource = "own_source",
        /// No rule has this group and port.
        NoRule = "no_rule",
        /// Rules have this group and port, but not this source.
        SourceExcluded = "source_excluded",
        /// The worker died after it received the datagram, before matching it.
        WorkerDied = "worker_died",
        /// A datagram of which fragments did not arrive in time.
        FragmentIncomplete = "fragment_incomplete",
        /// A datagram whose fragments overlap or contradict each other (RFC 5722), or are too many.
        FragmentOverlap = "fragment_overlap",
        /// A datagram that gave way to newer ones while its fragments were put together.
        FragmentEvicted = "fragment_evicted",
        /// A fragment of a length or at a place that no datagram has.
        FragmentInvalid = "fragment_invalid",
        /// A copy of a datagram of a merged rule that has left before.
        Duplicate = "duplicate",
        /// A datagram of a merged rule that comes after the window.
        TooLate = "too_late",
        /// A datagram of another stream than the one that a rule merges.
        OtherStream = "other_stream",
    }
}

reasons! {
    /// Why a matched datagram was not sent on an output.
    DropReason {
        /// The output can't send now: its interface is missing, down or without address.
        OutputDown = "output_down",
        /// EAGAIN: the socket's send buffer is full.
        SocketFull = "socket_full",
        /// ENOBUFS: the interface's queue is full.
        QueueFull = "queue_full",
        /// EMSGSIZE: too large for the path.
        TooBig = "too_big",
        /// ENETUNREACH, EHOSTUNREACH, ENETDOWN, EADDRNOTAVAIL: no route or no address.
        Unreachable = "unreachable",
        /// ECONNREFUSED: the destination host has no listener on the port.
        Refused = "refused",
        /// EPERM, EACCES: rejected by a firewall.
        Firewall = "firewall",
        /// ENODEV, ENXIO: the interface of the socket no longer exists.
        NoDevice = "no_device",
        /// `ttl: "decrement"` would result in TTL 0.
        TtlExpired = "ttl_expired",
        /// More than its rule's `max_pps`.
        RateLimited = "rate_limited",
        /// The worker had no free send slot.
        NoBuffer = "no_buffer",
        /// The worker died before the send completed.
        WorkerDied = "worker_died",
        /// Any other error; see the output's `last_errno`.
        Other = "other",
    }
}

impl DropReason {
    /// The reason for a failed send, by its errno (udp(7), packet(7), ip(7)).
    #[must_use]
    pub const fn from_errno(errno: i32) -> Self {
        match errno {
            errno::EAGAIN => Self::SocketFull,
            errno::ENOBUFS => Self::QueueFull,
            errno::EMSGSIZE => Self::TooBig,
            errno::ENETUNREACH | errno::EHOSTUNREACH | errno::ENETDOWN | errno::EADDRNOTAVAIL => {
                Self::Unreachable
            }
            errno::ECONNREFUSED => Self::Refused,
            errno::EPERM | errno::EACCES => Self::Firewall,
            errno::ENODEV | errno::ENXIO => Self::NoDevice,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_unique_index_and_name() {
        for (index, reason) in SkipReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index, "{reason}");
        }
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index, "{reason}");
        }
        let names: std::collections::BTreeSet<_> = DropReason::ALL.map(DropReason::name).into();
        assert_eq!(names.len(), DropReason::COUNT);
        let names: std::collections::BTreeSet<_> = SkipReason::ALL.map(SkipReason::name).into();
        assert_eq!(names.len(), SkipReason::COUNT);
    }

    #[test]
    fn the_manual_lists_every_reason_and_no_other() {
        let manual = include_str!("../../../user_docs/COUNTERS.md");
        let (_, skips) = manual.split_once("\n## Skips").unwrap();
        let (skips, drops) = skips.split_once("\n## Drops").unwrap();
        let rows = |text: &str| -> Vec<String> {
            text.lines()
                .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
                .collect()
        };
        assert_eq!(rows(skips), SkipReason::ALL.map(SkipReason::name));
        assert_eq!(rows(drops), DropReason::ALL.map(DropReason::name));
    }

    #[test]
    fn errno_maps_to_the_documented_reason() {
        for (errno, reason) in [
            (11, DropReason::SocketFull),
            (105, DropReason::QueueFull),
            (90, DropReason::TooBig),
            (101, DropReason::Unreachable),
            (113, DropReason::Unreachable),
            (111, DropReason::Refused),
            (1, DropReason::Firewall),
            (19, DropReason::NoDevice),
            (5, DropReason::Other),
        ] {
            assert_eq!(DropReason::from_errno(errno), reason, "errno {errno}");
        }
    }
}
