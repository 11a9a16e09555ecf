//! Early drop: what the relay takes is dropped behind its capture socket, at the ingress of the interface, unless a socket of
//! the host receives it. The attacher does it; here is what it is to do, and what it has reported.
//!
//! ```text
//!  plan: destinations by interface ─▶ Action::SetEarlyDrop ─▶ attacher ─▶ kernel
//!  absorbers of what is in force are closed ◀── Event::EarlyDrop ◀── state of each interface
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use mcr_sys::filter::FilterDestination;
use mcr_sys::link::IfIndex;
use serde::{Deserialize, Serialize};

use crate::core::filter_set::{FilterSet, is_same};
use crate::core::plan::{Absorber, Plan};

/// What the attacher is to do, by interface.
pub(crate) type Wanted = BTreeMap<IfIndex, WantedThere>;

/// What it is to do on one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WantedThere {
    /// Drop what arrives for these destinations.
    pub(crate) destinations: FilterSet,
    /// Attach the program that relays, too.
    pub(crate) relays: bool,
}

/// Changes are sent at most this often: each is a list of all destinations.
const SEND_EVERY: Duration = Duration::from_millis(100);
/// A new attacher answers within this time. Until then no absorber is opened, which would be closed at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Why nothing is dropped early of a family on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Obstacle {
    /// The interface is gone.
    Gone,
    /// It is a port of a bridge, bond or VRF.
    Port,
    /// An interface above it takes what arrives.
    Upper,
    /// The kernel routes multicast from it.
    MulticastRouting,
    /// A raw socket receives UDP.
    RawSocket,
    /// Addresses are translated.
    AddressTranslation,
    /// A program chooses sockets.
    SocketLookup,
    /// Filters of others come behind.
    Filters,
    /// The kernel did not answer, or refused.
    Unknown,
}

impl Obstacle {
    /// In words.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Gone => "the interface is gone",
            Self::Port => "it is a port of a bridge, bond or VRF, which gets what arrives",
            Self::Upper => {
                "an interface above it (macvlan, ipvlan), perhaps of a container, gets what arrives"
            }
            Self::MulticastRouting => "the kernel routes multicast from it (mc_forwarding)",
            Self::RawSocket => "a raw socket of this host receives UDP",
            Self::AddressTranslation => "nftables, iptables or IPVS translates addresses of what arrives",
            Self::SocketLookup => "a BPF program of this host chooses sockets (sk_lookup)",
            Self::Filters => "ingress filters of tc or nftables come behind, and would miss it",
            Self::Unknown => "the kernel did not tell who else gets what arrives",
        }
    }
}

/// The state of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InterfaceState {
    #[serde(with = "crate::core::plan::as_number")]
    pub(crate) ifindex: IfIndex,
    /// How the program is attached: `tcx` or `clsact`; `None` while it is not.
    pub(crate) method: Option<String>,
    /// Why it drops nothing of IPv4, and of IPv6; `None` where it does.
    pub(crate) obstacles: [Option<Obstacle>; 2],
    /// Datagrams that were dropped since it was attached first.
    pub(crate) datagrams: u64,
    /// Bytes of their payload.
    pub(crate) bytes: u64,
    /// The program that relays is attached.
    pub(crate) relays: bool,
}

impl InterfaceState {
    fn drops(&self, address: IpAddr) -> bool {
        let [v4, v6] = self.obstacles;
        let obstacle = if address.is_ipv4() { v4 } else { v6 };
        self.method.is_some() && obstacle.is_none()
    }
}

/// A report of the attacher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    /// Of the list of destinations that it follows.
    pub(crate) generation: u64,
    pub(crate) interfaces: Vec<InterfaceState>,
}

/// What happened to the attacher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// There is one; it has not answered yet.
    Present,
    /// Its state.
    Attached(Attached),
    /// There is none, for this reason, human-readable.
    Absent {
        reason: String,
        /// The daemon has not got the capabilities.
        no_permission: bool,
    },
}

/// Whether there is an attacher.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Attacher {
    Absent {
        reason: String,
        no_permission: bool,
    },
    /// Since when.
    Present(Duration),
}

impl Default for Attacher {
    fn default() -> Self {
        Self::Absent { reason: "it was not needed so far".to_owned(), no_permission: false }
    }
}

/// The actual state.
#[derive(Clone, Debug, Default)]
pub(crate) struct EarlyDrop {
    attacher: Attacher,
    /// What was sent last: when, with which generation.
    sent: Option<(Duration, u64, Wanted)>,
    /// What was in force when the attacher last reported.
    confirmed: Wanted,
    interfaces: BTreeMap<IfIndex, InterfaceState>,
    /// Counts of interfaces before the present attacher.
    counted_before: BTreeMap<IfIndex, (u64, u64)>,
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Now(Wanted),
    At(Duration),
}

impl EarlyDrop {
    /// Records a report. Returns whether it changes what is in force.
    pub(super) fn report(&mut self, report: Report, now: Duration) -> bool {
        match report {
            Report::Present => {
                self.forget();
                self.attacher = Attacher::Present(now);
                true
            }
            Report::Absent { reason, no_permission } => {
                let absent = Attacher::Absent { reason, no_permission };
                let changed = self.attacher != absent;
                if changed {
                    self.forget();
                    self.attacher = absent;
                }
                changed
            }
            Report::Attached(Attached { generation, interfaces }) => {
                let Some((_, _, wanted)) = self.sent.as_ref().filter(|(_, sent, _)| *sent == generation)
                else {
                    return false;
                };
                let new: BTreeMap<_, _> =
                    interfaces.into_iter().map(|state| (state.ifindex, state)).collect();
                let essence = |states: &BTreeMap<IfIndex, InterfaceState>| -> Vec<_> {
                    states
                        .values()
                        .map(|one| (one.ifindex, one.method.is_some(), one.relays, one.obstacles))
                        .collect()
                };
                let changed = essence(&new) != essence(&self.interfaces) || !same(wanted, &self.confirmed);
                self.confirmed = wanted.clone();
                let gone = std::mem::replace(&mut self.interfaces, new);
                self.keep_counts(
                    gone.into_values().filter(|one| !self.interfaces.contains_key(&one.ifindex)).collect(),
                );
                changed
            }
        }
    }

    fn forget(&mut self) {
        let interfaces = std::mem::take(&mut self.interfaces);
        self.keep_counts(interfaces.into_values().collect());
        self.sent = None;
        self.confirmed = Wanted::new();
    }

    /// Counts of interfaces that are no longer reported.
    fn keep_counts(&mut self, gone: Vec<InterfaceState>) {
        for InterfaceState { ifindex, datagrams, bytes, .. } in gone {
            let sum = self.counted_before.entry(ifindex).or_default();
            *sum = (sum.0 + datagrams, sum.1 + bytes);
        }
    }

    /// A list was sent with this generation.
    pub(super) fn sent(&mut self, generation: u64, wanted: Wanted, now: Duration) {
        self.sent = Some((now, generation, wanted));
    }

    /// What is to be sent for a plan.
    pub(super) fn due(&self, plan: &Plan, now: Duration) -> Due {
        if matches!(self.attacher, Attacher::Absent { .. }) {
            return Due::Nothing;
        }
        let wanted = wanted(plan);
        // An adopted attacher may drop what an earlier supervisor wanted: it is told even if that is nothing now.
        match &self.sent {
            Some((_, _, sent)) if same(sent, &wanted) => Due::Nothing,
            Some((at, ..)) if now < *at + SEND_EVERY => Due::At(*at + SEND_EVERY),
            _ => Due::Now(wanted),
        }
    }

    /// Whether what arrives for an absorber is dropped, so that it is not needed.
    pub(in crate::core) fn covers(&self, absorber: &Absorber) -> bool {
        let Absorber { ifindex, address, .. } = absorber;
        self.interfaces.get(ifindex).is_some_and(|state| state.drops(*address))
            && self.sent.as_ref().is_some_and(|(_, _, sent)| has(sent, absorber))
            && has(&self.confirmed, absorber)
    }

    /// Whether the program that relays is attached to an interface, and stays there.
    pub(in crate::core) fn relays(&self, ifindex: IfIndex) -> bool {
        let wants = |wanted: &Wanted| wanted.get(&ifindex).is_some_and(|there| there.relays);
        self.interfaces.get(&ifindex).is_some_and(|state| state.relays)
            && self.sent.as_ref().is_some_and(|(_, _, sent)| wants(sent))
            && wants(&self.confirmed)
    }

    /// Until when it is not known whether a planned absorber is needed; `None` if it is known.
    pub(super) fn undecided_until(&self, absorber: &Absorber, wanted: &Wanted) -> Option<Duration> {
        let Attacher::Present(since) = self.attacher else { return None };
        if has(&self.confirmed, absorber) || !has(wanted, absorber) {
            return None;
        }
        let asked = self.sent.as_ref().filter(|(_, _, sent)| has(sent, absorber));
        // Before it is asked, it will be soon.
        let at = asked.map_or(since, |(at, ..)| *at).max(since);
        Some(at + ANSWER_WITHIN)
    }

    /// The state of an interface, if anything is to be dropped there, and why.
    pub(crate) fn state(&self, ifindex: IfIndex) -> Option<&InterfaceState> {
        self.interfaces.get(&ifindex)
    }

    /// Datagrams and bytes dropped on an interface.
    pub(crate) fn dropped(&self, ifindex: IfIndex) -> (u64, u64) {
        let before = self.counted_before.get(&ifindex).copied().unwrap_or_default();
        let now =
            self.interfaces.get(&ifindex).map(|state| (state.datagrams, state.bytes)).unwrap_or_default();
        (before.0 + now.0, before.1 + now.1)
    }

    /// Why there is no attacher, and whether the daemon lacks the right to have one.
    pub(crate) fn absence(&self) -> Option<(&str, bool)> {
        match &self.attacher {
            Attacher::Absent { reason, no_permission } => Some((reason, *no_permission)),
            Attacher::Present(_) => None,
        }
    }
}

/// What a plan wants to be dropped.
pub(crate) fn wanted(plan: &Plan) -> Wanted {
    let there = plan.interfaces.iter().filter(|(id, _)| !id.local).map(|(id, planned)| {
        let destinations = if planned.early_drop { planned.wanted.clone() } else { FilterSet::default() };
        (id.ifindex, WantedThere { destinations, relays: planned.kernel_rules > 0 })
    });
    there.filter(|(_, there)| there.relays || !there.destinations.is_empty()).collect()
}

/// Whether what arrives for an absorber is among the destinations.
fn has(wanted: &Wanted, absorber: &Absorber) -> bool {
    let Absorber { ifindex, address, port } = *absorber;
    let one = FilterDestination { address, port, promiscuous: false };
    wanted.get(&ifindex).is_some_and(|there| there.destinations.binary_search(&one).is_ok())
}

fn same(one: &Wanted, other: &Wanted) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|((at, there), (at_other, other))| {
            at == at_other
                && there.relays == other.relays
                && is_same(&there.destinations, &other.destinations)
        })
}

#[cfg(test)]
mod tests;
