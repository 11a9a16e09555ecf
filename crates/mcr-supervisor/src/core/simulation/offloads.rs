//! Which interfaces merge what they receive: set by the machine, or by an operator, who is never contradicted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mcr_rules::AggregateChoice;
use mcr_sys::ethtool::ReceiveOffload;
use mcr_sys::link::IfIndex;
use mcr_sys::network::{LinkKind, NetworkEvent};

use super::World;
use crate::core::aggregation::{Received, Refusal};
use crate::core::machine::{Event, Outcome};

/// The devices' settings.
#[derive(Debug, Default)]
pub(crate) struct Offloads {
    in_force: BTreeMap<IfIndex, ReceiveOffload>,
    /// What the operator, or nobody, has set last: what a device without rules must have.
    of_operator: BTreeMap<IfIndex, ReceiveOffload>,
    /// The process lacks the right.
    pub(crate) forbidden: bool,
    /// Datagrams that come in one frame where a device merges; 0 counts as 1.
    pub(crate) together: u64,
    received: BTreeMap<IfIndex, Received>,
    /// Changes by the machine.
    pub(crate) sets: u64,
}

impl Offloads {
    /// A new device has the default.
    pub(super) fn note(&mut self, events: &[NetworkEvent]) {
        for event in events {
            if let NetworkEvent::LinkRemoved(ifindex) = event {
                self.in_force.remove(ifindex);
                self.of_operator.remove(ifindex);
                self.received.remove(ifindex);
            }
        }
    }

    pub(crate) fn of(&self, ifindex: IfIndex) -> ReceiveOffload {
        self.in_force.get(&ifindex).copied().unwrap_or_default()
    }
}

impl World {
    pub(super) fn read_offload(&mut self, ifindex: IfIndex) {
        let read =
            if self.failing { Err("refused by the test".to_owned()) } else { Ok(self.offloads.of(ifindex)) };
        self.report(Outcome::OffloadRead(ifindex, read));
    }

    pub(super) fn set_offload(&mut self, ifindex: IfIndex, wanted: ReceiveOffload) {
        let set = match (self.failing, self.offloads.forbidden) {
            (_, true) => Err(Refusal::NotPermitted),
            (true, _) => Err(Refusal::Device("refused by the test".to_owned())),
            (false, false) => {
                self.offloads.in_force.insert(ifindex, wanted);
                self.offloads.sets += 1;
                Ok(wanted)
            }
        };
        self.report(Outcome::OffloadSet(ifindex, set));
    }

    /// An operator sets a device, and the kernel tells of it.
    pub(crate) fn operate(&mut self, ifindex: IfIndex, offload: ReceiveOffload) {
        self.offloads.in_force.insert(ifindex, offload);
        self.offloads.of_operator.insert(ifindex, offload);
        let link = self.machine.network().link_by_index(ifindex).cloned();
        self.network(link.map(NetworkEvent::LinkChanged));
    }

    /// A second in which as many datagrams arrive on every interface.
    pub(crate) fn arrive(&mut self, datagrams: u64) {
        self.now += Duration::from_secs(1);
        let links: BTreeSet<IfIndex> = self.machine.network().links().map(|link| link.ifindex).collect();
        for ifindex in links {
            let offload = self.offloads.of(ifindex);
            let merges = offload.gro && offload.udp_forwarding;
            let together = if merges { self.offloads.together.max(1) } else { 1 };
            let received = self.offloads.received.entry(ifindex).or_default();
            received.datagrams += datagrams;
            received.frames += datagrams / together;
        }
        self.machine.handle(self.now, Event::Received(&self.offloads.received));
    }

    /// Whoever lost its last rule is as the operator left it, and `"on"` is on unless the operator has said otherwise.
    pub(super) fn check_offloads(&self) {
        let plan = self.machine.plan();
        let inputs: BTreeSet<IfIndex> = plan
            .interfaces
            .iter()
            .filter(|(id, planned)| !id.local && !planned.relays.is_empty())
            .map(|(id, _)| id.ifindex)
            .collect();
        let choice = self.machine.config().settings.aggregate;
        for link in self.machine.network().links().filter(|link| link.kind != LinkKind::Loopback) {
            let ifindex = link.ifindex;
            let (now, left) = (
                self.offloads.of(ifindex),
                self.offloads.of_operator.get(&ifindex).copied().unwrap_or_default(),
            );
            let touched = self.machine.aggregation().is_overridden(ifindex);
            if !inputs.contains(&ifindex) || choice == AggregateChoice::Off || touched {
                assert_eq!(now, left, "{ifindex}: {:#?}", self.machine.aggregation());
            } else if choice == AggregateChoice::On && !self.offloads.forbidden {
                assert!(now.gro && now.udp_forwarding, "{ifindex}: {:#?}", self.machine.aggregation());
            }
        }
    }
}
