//! Merging received datagrams on input interfaces (`settings.aggregate`; developer_docs/decisions/030): which device settings to change,
//! what to restore, and when the operator wants it otherwise.
//!
//! ```text
//!   rules, setting ─▶ wanted? ──┐
//!   datagrams per frame ─▶ judge ┴─▶ actions() ─▶ ReadOffload, SetOffload ─▶ outcome: note_read(), note_set()
//!   links that changed ─▶ to be read again ──▶ differs from what was set: the operator's from then on
//! ```
//!
//! What is changed is recorded before it is executed, in the checkpoint, too: a supervisor that is killed at any point leaves a
//! successor that knows what to restore.

mod judge;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mcr_control::reply::{AggregationReason, AggregationStatus};
use mcr_rules::AggregateChoice;
use mcr_sys::ethtool::ReceiveOffload;
use mcr_sys::link::IfIndex;
use mcr_sys::network::{LinkKind, NetworkEvent};

use self::judge::{Arrived, Judge, Stage};
pub(crate) use self::record::OffloadRecord;
use crate::core::network::NetworkState;
use crate::core::plan::Plan;
use crate::core::reconcile::Action;
use crate::core::restart::Restart;

/// Datagrams and frames that an interface's workers have received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) datagrams: u64,
    pub(crate) frames: u64,
}

/// Why a device setting was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The process lacks CAP_NET_ADMIN over the network namespace.
    NotPermitted,
    /// The kernel discards super-frames that a packet socket reads (decision 025).
    KernelTooOld,
    /// The device or the kernel does not do it; human-readable.
    Device(String),
}

impl Refusal {
    /// Whether it is the same at every attempt of this process.
    const fn is_final(&self) -> bool {
        matches!(self, Self::NotPermitted | Self::KernelTooOld)
    }
}

/// A refusal, and when to try again if that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refused {
    why: Refusal,
    restart: Restart,
}

/// What was changed and is to be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Changed {
    before: ReceiveOffload,
    /// In force.
    set: ReceiveOffload,
    /// About to be set.
    next: Option<ReceiveOffload>,
}

impl Changed {
    fn is_different(&self) -> bool {
        !are_alike(self.set, self.before)
    }
}

/// One interface.
#[derive(Clone, Debug, Default)]
struct Interface {
    name: String,
    /// What was in force when it was read or set last.
    seen: Option<ReceiveOffload>,
    /// It is to be read, since it may have changed.
    stale: bool,
    changed: Option<Changed>,
    /// Somebody else has set it after mcrd had seen or set it.
    overridden: bool,
    refused: Option<Refused>,
    judge: Judge,
    received: Option<(Duration, Received)>,
    arrived: Arrived,
    /// What [`Aggregation::take_changes`] has told.
    told: Option<(bool, AggregationReason)>,
}

/// An interface that began or ceased to merge, or is kept from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Aggregated {
    pub(crate) interface: String,
    pub(crate) on: bool,
    pub(crate) reason: AggregationReason,
}

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Aggregation {
    interfaces: BTreeMap<IfIndex, Interface>,
    /// The setting; `None` before the first plan, when what was adopted stands.
    choice: Option<AggregateChoice>,
    /// The input interfaces of the plan on which frames can be merged.
    inputs: BTreeSet<IfIndex>,
    wake: Option<Duration>,
}

/// Whether the two settings that mcrd changes are alike.
fn are_alike(one: ReceiveOffload, other: ReceiveOffload) -> bool {
    (one.gro, one.udp_forwarding) == (other.gro, other.udp_forwarding)
}

const fn merges(offload: ReceiveOffload) -> bool {
    offload.gro && (offload.udp_forwarding || offload.lists)
}

/// A sentence about an interface that began or ceased to merge, or is kept from it.
pub(crate) fn words(name: &str, on: bool, reason: AggregationReason) -> String {
    let because = match (reason, on) {
        (AggregationReason::Setting, _) => "settings.aggregate",
        (AggregationReason::Trial, _) => "a trial of some seconds",
        (AggregationReason::Pays, _) => "several come together",
        (AggregationReason::LowRate, _) => "too few arrive",
        (AggregationReason::DoesNotPay, _) => "few came together",
        (AggregationReason::MergedBefore, _) => "a sender on this host has merged them",
        (AggregationReason::Operator, true) => "it was switched on by somebody else",
        (AggregationReason::Operator, false) => "it was switched off by somebody else",
        (AggregationReason::NotPermitted, _) => "mcrd lacks CAP_NET_ADMIN",
        (AggregationReason::KernelTooOld, _) => {
            "this kernel can't give super-frames to workers (Linux before 6.2)"
        }
        (AggregationReason::Unsupported, _) => "the device refuses",
    };
    let what = if on { "merges received datagrams" } else { "does not merge received datagrams" };
    format!("{name} {what}: {because}")
}

/// The command that an operator runs in place of mcrd.
pub(crate) fn command(name: &str) -> String {
    format!("ethtool -K {name} gro on rx-udp-gro-forwarding on")
}

impl Aggregation {
    /// Interfaces of links that changed, or that were removed.
    pub(super) fn note_events(&mut self, events: &[NetworkEvent]) {
        for event in events {
            match event {
                NetworkEvent::LinkChanged(link) => {
                    if let Some(interface) = self.interfaces.get_mut(&link.ifindex) {
                        interface.stale = true;
                        interface.retry_now();
                    }
                }
                // Before another one appears with this index.
                NetworkEvent::LinkRemoved(ifindex) => _ = self.interfaces.remove(ifindex),
                NetworkEvent::Overrun => self.note_dump(),
                NetworkEvent::AddressAdded(_) | NetworkEvent::AddressRemoved(_) => {}
            }
        }
    }

    /// Events may have been lost.
    pub(super) fn note_dump(&mut self) {
        self.interfaces.values_mut().for_each(|interface| interface.stale = true);
    }

    /// The plan may have changed.
    pub(super) fn note_plan(&mut self, plan: &Plan, network: &NetworkState, choice: AggregateChoice) {
        let inputs = plan.interfaces.iter().filter(|(id, planned)| !id.local && !planned.relays.is_empty());
        let merging = |ifindex: &IfIndex| {
            // Loopback delivers without merging.
            network.link_by_index(*ifindex).is_some_and(|link| link.kind != LinkKind::Loopback)
        };
        self.inputs = inputs.map(|(id, _)| id.ifindex).filter(merging).collect();
        if self.choice.replace(choice).is_some_and(|before| before != choice) {
            for interface in self.interfaces.values_mut() {
                interface.overridden = false;
                interface.retry_now();
                interface.judge = match interface.changed {
                    Some(changed) if merges(changed.set) => Judge::resumed(),
                    _ => Judge::default(),
                };
            }
        }
        for ifindex in &self.inputs {
            let known = self.interfaces.entry(*ifindex);
            known.or_insert_with(|| Interface { stale: true, ..Interface::default() });
        }
        for (ifindex, interface) in &mut self.interfaces {
            if let Some(link) = network.link_by_index(*ifindex) {
                interface.name.clone_from(&link.name);
            }
        }
        self.interfaces.retain(|ifindex, interface| {
            network.link_by_index(*ifindex).is_some()
                && (self.inputs.contains(ifindex) || interface.changed.is_some())
        });
    }

    /// Samples what arrived. Returns whether there may be something to do.
    pub(super) fn sample(&mut self, now: Duration, received: &BTreeMap<IfIndex, Received>) -> bool {
        let mut any = false;
        for (ifindex, interface) in &mut self.interfaces {
            let total = received.get(ifindex).copied().unwrap_or_default();
            let before = interface.received.replace((now, total));
            let Some((at, before)) = before.filter(|(at, _)| *at < now) else { continue };
            interface.arrived = Arrived {
                datagrams: total.datagrams.saturating_sub(before.datagrams),
                frames: total.frames.saturating_sub(before.frames),
                over: now.saturating_sub(at),
            };
            if interface.is_ours() && !interface.is_hopeless() {
                let was = interface.judge.is_on();
                interface.judge.sample(now, interface.arrived);
                any |= was != interface.judge.is_on();
            }
        }
        any
    }

    /// What is to be read or set now. What is to be set is recorded at once.
    pub(super) fn actions(&mut self, now: Duration) -> Vec<Action> {
        let choice = self.choice();
        let Self { interfaces, inputs, wake, .. } = self;
        *wake = None;
        let mut actions = Vec::new();
        for (ifindex, interface) in interfaces.iter_mut() {
            let ifindex = *ifindex;
            let wanted = interface.next(inputs.contains(&ifindex), choice);
            if !interface.stale && wanted.is_none() {
                continue;
            }
            if let Some(refused) = interface.refused.as_ref().filter(|refused| !refused.restart.is_due(now)) {
                let at = refused.restart.not_before();
                *wake = Some(wake.map_or(at, |wake| wake.min(at)));
                continue;
            }
            let name = interface.name.clone();
            if interface.stale {
                actions.push(Action::ReadOffload { ifindex, interface: name });
            } else if let Some(wanted) = wanted {
                let set = interface.seen.unwrap_or_default();
                let before = interface.changed.map_or(set, |changed| changed.before);
                interface.changed = Some(Changed { before, set, next: Some(wanted) });
                actions.push(Action::SetOffload { ifindex, interface: name, wanted });
            }
        }
        interfaces.retain(|ifindex, interface| inputs.contains(ifindex) || interface.changed.is_some());
        actions
    }

    /// When [`Self::actions`] has something to do without another event, as of its last run.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.wake
    }

    /// An interface was read.
    pub(super) fn note_read(
        &mut self,
        ifindex: IfIndex,
        read: Result<ReceiveOffload, String>,
        now: Duration,
    ) {
        let Some(interface) = self.interfaces.get_mut(&ifindex) else { return };
        match read {
            Err(reason) => interface.refuse(Refusal::Device(reason), now),
            Ok(found) => {
                interface.stale = false;
                interface.found(found);
            }
        }
    }

    /// An interface was set, and this is in force now.
    pub(super) fn note_set(&mut self, ifindex: IfIndex, set: Result<ReceiveOffload, Refusal>, now: Duration) {
        let Some(interface) = self.interfaces.get_mut(&ifindex) else { return };
        match (set, interface.changed) {
            (Ok(found), Some(Changed { before, next, .. })) => {
                interface.seen = Some(found);
                let took = next.is_none_or(|next| are_alike(found, next));
                let changed = Changed { before, set: found, next: None };
                interface.changed = Some(changed).filter(Changed::is_different);
                interface.refused = None;
                if !took {
                    interface.refuse(Refusal::Device("the device does not take the setting".to_owned()), now);
                }
            }
            (Ok(found), None) => interface.seen = Some(found),
            (Err(why), changed) => {
                let kept = changed.map(|changed| Changed { next: None, ..changed });
                // Without the right, what was set before stays.
                interface.changed = kept.filter(|kept| !why.is_final() && kept.is_different());
                interface.refuse(why, now);
            }
        }
    }

    /// Interfaces whose state changed since the last call. One that does not merge and is not kept from it is none at first.
    pub(super) fn take_changes(&mut self) -> Vec<Aggregated> {
        let choice = self.choice();
        let Self { interfaces, inputs, .. } = self;
        let inputs = interfaces.iter_mut().filter(|(ifindex, _)| inputs.contains(*ifindex));
        let changed = inputs.filter_map(|(_, one)| {
            let on = merges(one.seen?);
            let reason = one.reason(on, choice);
            let before = one.told.replace((on, reason));
            let ordinary = !on
                && matches!(
                    reason,
                    AggregationReason::Setting | AggregationReason::LowRate | AggregationReason::MergedBefore
                );
            if before == Some((on, reason)) || (ordinary && before.is_none_or(|(was_on, _)| !was_on)) {
                return None;
            }
            Some(Aggregated { interface: one.name.clone(), on, reason })
        });
        changed.collect()
    }

    /// What an orderly stop restores: interface, what was set, and what was there before.
    pub(crate) fn to_restore(&self) -> impl Iterator<Item = (&str, ReceiveOffload, ReceiveOffload)> {
        self.interfaces
            .values()
            .filter_map(|one| one.changed.map(|Changed { before, set, .. }| (one.name.as_str(), set, before)))
    }

    /// The state of an input interface; `None` for any other.
    pub(crate) fn status(&self, ifindex: IfIndex) -> Option<AggregationStatus> {
        let interface = self.interfaces.get(&ifindex).filter(|_| self.inputs.contains(&ifindex))?;
        let on = merges(interface.seen?);
        Some(AggregationStatus {
            on,
            reason: interface.reason(on, self.choice()),
            per_frame: interface.arrived.per_frame(),
        })
    }

    /// The input interfaces, by name, with their state.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = (IfIndex, &str, AggregationStatus)> {
        let all = self.interfaces.iter();
        all.filter_map(move |(ifindex, one)| Some((*ifindex, one.name.as_str(), self.status(*ifindex)?)))
    }

    /// Whether somebody else has set an interface, which is left alone.
    #[cfg(test)]
    pub(crate) fn is_overridden(&self, ifindex: IfIndex) -> bool {
        self.interfaces.get(&ifindex).is_some_and(|one| one.overridden)
    }

    /// Whether this setting by somebody else could be noticed: it differs from what was read last, and nothing is to be read.
    #[cfg(test)]
    pub(crate) fn would_notice(&self, ifindex: IfIndex, offload: ReceiveOffload) -> bool {
        let differs = |one: &Interface| !one.stale && one.seen.is_some_and(|seen| !are_alike(seen, offload));
        self.interfaces.get(&ifindex).is_none_or(differs)
    }

    fn choice(&self) -> AggregateChoice {
        self.choice.unwrap_or_default()
    }
}

impl Interface {
    /// Whether mcrd decides what is in force.
    fn is_ours(&self) -> bool {
        let foreign = self.seen.is_none_or(|seen| seen.lists || (self.changed.is_none() && merges(seen)));
        !self.overridden && !foreign
    }

    /// Whether it is refused for the life of this process.
    fn is_hopeless(&self) -> bool {
        self.refused.as_ref().is_some_and(|refused| refused.why.is_final())
    }

    fn wants(&self, choice: AggregateChoice) -> bool {
        match choice {
            AggregateChoice::Off => false,
            AggregateChoice::On => true,
            AggregateChoice::Auto => self.judge.is_on(),
        }
    }

    /// What is to be set; `None` if it is as it should be, or somebody else's.
    fn next(&self, is_input: bool, choice: AggregateChoice) -> Option<ReceiveOffload> {
        let seen = self.seen?;
        if self.overridden {
            return None;
        }
        if is_input && self.wants(choice) {
            let on = ReceiveOffload { gro: true, udp_forwarding: true, ..seen };
            return Some(on).filter(|on| self.is_ours() && !self.is_hopeless() && !are_alike(seen, *on));
        }
        let Changed { before, .. } = self.changed?;
        let resting = is_input && choice == AggregateChoice::Auto && !before.udp_forwarding;
        // A veth that stops merging loses what is in its ring: that is for when the last rule goes.
        let off = if resting { ReceiveOffload { gro: seen.gro, ..before } } else { before };
        Some(off).filter(|off| !are_alike(seen, *off))
    }

    /// This is in force, as read.
    fn found(&mut self, found: ReceiveOffload) {
        let known = self.seen.replace(found);
        match &mut self.changed {
            Some(Changed { set, next, .. })
                if !found.lists
                    && (are_alike(found, *set) || next.is_some_and(|next| are_alike(found, next))) =>
            {
                // `next` if an earlier supervisor was killed after it had set it.
                (*set, *next) = (found, None);
                self.changed = self.changed.filter(Changed::is_different);
            }
            Some(_) => (self.changed, self.overridden) = (None, true),
            None => self.overridden |= known.is_some_and(|known| known != found),
        }
    }

    fn refuse(&mut self, why: Refusal, now: Duration) {
        let before = self.refused.take();
        let mut restart = before.as_ref().map(|before| before.restart.clone()).unwrap_or_default();
        restart.refused(now);
        // What can't be read now is still not permitted.
        let why = before.map(|before| before.why).filter(Refusal::is_final).unwrap_or(why);
        self.refused = Some(Refused { why, restart });
    }

    /// A device may do now what it refused before; rights do not change.
    fn retry_now(&mut self) {
        if let Some(refused) = &mut self.refused
            && matches!(refused.why, Refusal::Device(_))
        {
            refused.restart.retry_now();
        }
    }

    fn reason(&self, on: bool, choice: AggregateChoice) -> AggregationReason {
        let refused = self.refused.as_ref().map(|refused| &refused.why);
        let refused = refused.filter(|why| !on && (self.wants(choice) || why.is_final()));
        match (refused, choice) {
            _ if self.overridden || (on && self.changed.is_none()) => AggregationReason::Operator,
            (_, AggregateChoice::Off) | (None, AggregateChoice::On) => AggregationReason::Setting,
            (Some(Refusal::NotPermitted), _) => AggregationReason::NotPermitted,
            (Some(Refusal::KernelTooOld), _) => AggregationReason::KernelTooOld,
            (Some(Refusal::Device(_)), _) => AggregationReason::Unsupported,
            (None, AggregateChoice::Auto) => match self.judge.stage {
                Stage::Quiet { .. } => AggregationReason::LowRate,
                Stage::MergedBefore => AggregationReason::MergedBefore,
                Stage::Trial { .. } => AggregationReason::Trial,
                Stage::On { .. } => AggregationReason::Pays,
                Stage::Pause { .. } => AggregationReason::DoesNotPay,
            },
        }
    }
}

#[cfg(test)]
mod tests;
