//! Names of the keeper's items.

use std::fmt;

use mcr_sys::link::IfIndex;

use crate::core::plan::{Absorber, InterfaceId, LinkedInterface, WorkerId};

/// Behind the core of a worker that captures what programs of this host send.
const LOCAL: &str = "-local";

/// The name of an item. Items are derived in key order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// One part of the running config's rules.
    Rules(usize),
    /// The running config without its rules.
    Config,
    /// Accumulated counters.
    Ledger,
    /// A worker's capture socket and telemetry page.
    Slot(WorkerId),
    /// A worker's process: its channel and pidfd.
    Process(WorkerId),
    /// What was sent to a worker, and its failures.
    Worker(WorkerId),
    /// The slot assignment of a worker's telemetry page.
    PageSlots(WorkerId),
    /// Number of frames that the kernel dropped on a worker's capture socket.
    KernelDrops(WorkerId),
    /// Interfaces that were made to merge what they receive.
    Offloads,
    /// Memberships that are about to be joined.
    Joining,
    /// A socket with the memberships joined on it.
    Memberships(u64),
    /// The socket of a unicast input; no socket if another program has the port.
    Absorber(Absorber),
    /// The attacher: its channel and pidfd.
    Attacher,
    /// The maps of the kernel engine, with the slots of its counters.
    KernelEngine,
    /// A name that this version does not use.
    Unknown(String),
}

impl Key {
    /// The worker that the item belongs to.
    pub(crate) fn worker(&self) -> Option<&WorkerId> {
        match self {
            Self::Slot(id)
            | Self::Process(id)
            | Self::Worker(id)
            | Self::PageSlots(id)
            | Self::KernelDrops(id) => Some(id),
            _ => None,
        }
    }

    /// Parses a name written by [`Display`](fmt::Display).
    pub(crate) fn parse(name: &str) -> Self {
        Self::parse_known(name).unwrap_or_else(|| Self::Unknown(name.to_owned()))
    }

    fn parse_known(name: &str) -> Option<Self> {
        let Some((kind, rest)) = name.split_once('/') else {
            return match name {
                "config" => Some(Self::Config),
                "ledger" => Some(Self::Ledger),
                "offloads" => Some(Self::Offloads),
                "joining" => Some(Self::Joining),
                "attacher" => Some(Self::Attacher),
                "kernel-engine" => Some(Self::KernelEngine),
                _ => None,
            };
        };
        Some(match kind {
            "rules" => Self::Rules(rest.parse().ok()?),
            "slot" => Self::Slot(worker(rest)?),
            "process" => Self::Process(worker(rest)?),
            "worker" => Self::Worker(worker(rest)?),
            "page-slots" => Self::PageSlots(worker(rest)?),
            "kernel-drops" => Self::KernelDrops(worker(rest)?),
            "memberships" => Self::Memberships(rest.parse().ok()?),
            "absorber" => Self::Absorber(absorber(rest)?),
            _ => return None,
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut of = |kind: &str, id: &WorkerId| {
            let InterfaceId { name, ifindex, local, linked } = &id.interface;
            let what = if *local { LOCAL } else { "" };
            write!(f, "{kind}/{ifindex}/{}{what}/{name}", id.core)?;
            linked.iter().try_for_each(|linked| write!(f, "/{}/{}", linked.ifindex, linked.name))
        };
        match self {
            Self::Slot(id) => of("slot", id),
            Self::Process(id) => of("process", id),
            Self::Worker(id) => of("worker", id),
            Self::PageSlots(id) => of("page-slots", id),
            Self::KernelDrops(id) => of("kernel-drops", id),
            Self::Rules(part) => write!(f, "rules/{part}"),
            Self::Config => f.write_str("config"),
            Self::Ledger => f.write_str("ledger"),
            Self::Offloads => f.write_str("offloads"),
            Self::Joining => f.write_str("joining"),
            Self::Attacher => f.write_str("attacher"),
            Self::KernelEngine => f.write_str("kernel-engine"),
            Self::Memberships(socket) => write!(f, "memberships/{socket}"),
            Self::Absorber(Absorber { ifindex, address, port }) => {
                write!(f, "absorber/{ifindex}/{port}/{address}")
            }
            Self::Unknown(name) => f.write_str(name),
        }
    }
}

fn worker(text: &str) -> Option<WorkerId> {
    let mut parts = text.split('/');
    let ifindex = index(parts.next()?)?;
    let core = parts.next()?;
    let (core, local) = core.strip_suffix(LOCAL).map_or((core, false), |core| (core, true));
    let (core, name) = (core.parse().ok()?, parts.next()?.parse().ok()?);
    let mut linked = Vec::new();
    while let Some(ifindex) = parts.next() {
        linked.push(LinkedInterface { ifindex: index(ifindex)?, name: parts.next()?.parse().ok()? });
    }
    Some(WorkerId { interface: InterfaceId { name, ifindex, local, linked }, core })
}

fn absorber(text: &str) -> Option<Absorber> {
    let mut parts = text.splitn(3, '/');
    let ifindex = index(parts.next()?)?;
    let port = parts.next()?.parse().ok()?;
    Some(Absorber { ifindex, address: parts.next()?.parse().ok()?, port })
}

fn index(text: &str) -> Option<IfIndex> {
    text.parse().ok().map(IfIndex::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_as_it_was_written() {
        let interface = InterfaceId::new("eth0.7".parse().unwrap(), IfIndex::new(3));
        let id = || WorkerId { interface: interface.clone(), core: 5 };
        let local = || WorkerId { interface: interface.local(), core: 5 };
        let absorber = |address: &str| {
            Key::Absorber(Absorber {
                ifindex: IfIndex::new(2),
                address: address.parse().unwrap(),
                port: 5000,
            })
        };
        let all = [
            Key::Rules(12),
            Key::Config,
            Key::Ledger,
            Key::Slot(id()),
            Key::Slot(local()),
            Key::Process(id()),
            Key::Worker(id()),
            Key::PageSlots(id()),
            Key::KernelDrops(id()),
            Key::Offloads,
            Key::Joining,
            Key::Memberships(u64::MAX),
            absorber("10.0.0.1"),
            absorber("fd00::1"),
            Key::Attacher,
            Key::KernelEngine,
        ];
        assert!(all.is_sorted());
        for key in all {
            assert_eq!(Key::parse(&key.to_string()), key);
        }
        for name in
            ["", "config/", "slot/3/5", "slot/x/5/eth0", "rules/-1", "absorber/1/2/3", "seat/3/5/eth0"]
        {
            assert_eq!(Key::parse(name), Key::Unknown(name.to_owned()));
        }
    }
}
