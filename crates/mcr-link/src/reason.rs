//! Why a received frame was not matched, and why a matched datagram did not leave: closed lists, each entry with
//! its own counter. The accounting identity (ARCHITECTURE.md) rests on them:
//!
//! ```text
//! received = matched + Σ skips        due = sent + Σ drops
//! ```

use mcr_sys::errno;

/// Declares a closed list of reasons: an enum, its length, all its entries in order, and the name of each.
macro_rules! reasons {
    ($(#[$list_doc:meta])* $list:ident { $($(#[$doc:meta])* $entry:ident = $name:literal,)+ }) => {
        $(#[$list_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// Why a received datagram (or a frame that carries none) was not matched to a rule.
    SkipReason {
        /// Neither IPv4 nor IPv6, or too short to identify.
        NotIp = "not_ip",
        /// A VLAN tag inside the frame: rules on a VLAN use the VLAN's own interface.
        Vlan = "vlan",
        /// An IP packet that does not carry UDP.
        NotUdp = "not_udp",
        /// A fragment of an IP packet.
        Fragment = "fragment",
        /// Fewer bytes received than the IP header announces.
        Truncated = "truncated",
        /// An inconsistent header: version, header length, extension chain.
        BadHeader = "bad_header",
        /// A UDP length below 8 or beyond the IP payload.
        BadLength = "bad_length",
        /// A UDP or IPv4 header checksum that is wrong.
        BadChecksum = "bad_checksum",
        /// TTL or hop limit 0.
        TtlZero = "ttl_zero",
        /// A super-frame with an invalid segment size.
        BadSuperFrame = "bad_super_frame",
        /// Sent by one of this host's own addresses.
        OwnSource = "own_source",
        /// No rule has this group and port.
        NoRule = "no_rule",
        /// Rules have this group and port, but none admits this source.
        SourceExcluded = "source_excluded",
        /// The worker died between receiving the datagram and matching it.
        WorkerDied = "worker_died",
    }
}

reasons! {
    /// Why a matched datagram did not leave on an output.
    DropReason {
        /// The output can't send now: its interface is missing, down or without address.
        OutputDown = "output_down",
        /// EAGAIN: the socket's send buffer is full.
        SocketFull = "socket_full",
        /// ENOBUFS: the interface's queue is full.
        QueueFull = "queue_full",
        /// EMSGSIZE: too large for the path.
        TooBig = "too_big",
        /// ENETUNREACH, EHOSTUNREACH, ENETDOWN, EADDRNOTAVAIL: no way to the destination.
        Unreachable = "unreachable",
        /// ECONNREFUSED: the destination host has no listener on the port.
        Refused = "refused",
        /// EPERM, EACCES: a firewall refused it.
        Firewall = "firewall",
        /// ENODEV, ENXIO: the interface behind the socket is gone.
        NoDevice = "no_device",
        /// TTL "decrement" would have reached 0.
        TtlExpired = "ttl_expired",
        /// More than its rule's `max_pps`.
        RateLimited = "rate_limited",
        /// The worker had no free place for the send.
        NoBuffer = "no_buffer",
        /// The worker died before the send completed.
        WorkerDied = "worker_died",
        /// Any other error; the output's `last_errno` has it.
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
    fn every_reason_has_its_own_place_and_name() {
        for (place, reason) in SkipReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), place, "{reason}");
        }
        for (place, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), place, "{reason}");
        }
        let names: std::collections::BTreeSet<_> = DropReason::ALL.map(DropReason::name).into();
        assert_eq!(names.len(), DropReason::COUNT);
        let names: std::collections::BTreeSet<_> = SkipReason::ALL.map(SkipReason::name).into();
        assert_eq!(names.len(), SkipReason::COUNT);
    }

    #[test]
    fn the_manual_has_every_reason_under_its_heading_and_no_other() {
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
    fn errno_maps_to_the_reason_of_the_sending_table() {
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
