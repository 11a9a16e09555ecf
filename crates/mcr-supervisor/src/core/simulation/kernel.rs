//! The effect of each action on the world, and whether requesting it was safe.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use mcr_link::rule_set::{RelayRule, RuleSet, RuleSetChange};
use mcr_link::telemetry::{AuditSnapshot, TotalsSnapshot};
use mcr_sys::filter::FilterDestination;
use mcr_sys::link::IfIndex;
use mcr_sys::membership::Membership;

use super::{FromWorker, Page, Process, ToWorker, World};
use crate::core::actual::{Absorbed, Capture};
use crate::core::machine::{LastCounts, Outcome};
use crate::core::plan::{Absorber, WorkerId, WorkerSettings};
use crate::core::ports::PortHolder;
use crate::core::reconcile::Action;

impl World {
    pub(super) fn execute(&mut self, action: Action) {
        let result = |ok| if self.failing { Err("refused by the test".to_owned()) } else { Ok(ok) };
        match action {
            Action::OpenAbsorber(absorber) => self.open_absorber(absorber),
            Action::CloseAbsorber(absorber) => {
                self.absorbed.remove(&absorber);
                self.report(Outcome::AbsorberClosed(absorber));
            }
            Action::Join { membership, carrier_epoch, again } => {
                let joined = result(carrier_epoch);
                let left = self.joined.leave(&membership);
                if joined.is_ok() {
                    assert_eq!(again, left, "{membership:?}");
                    assert!(self.joined.join(membership));
                }
                self.report(Outcome::Joined(membership, joined));
            }
            Action::Leave(membership) => {
                self.joined.leave(&membership);
                self.report(Outcome::Left(membership));
            }
            Action::OpenCapture { worker, wanted, receive_buffer_bytes } => {
                let opened = result(0).map(|_| (Arc::clone(&wanted), receive_buffer_bytes));
                self.renew_capture(&worker);
                if opened.is_ok() {
                    assert!(self.captures.insert(worker.clone(), wanted).is_none(), "opened twice: {worker}");
                    self.receive_buffers.insert(worker.clone(), receive_buffer_bytes);
                    self.pages.insert(worker.clone(), Page::default());
                }
                self.report(Outcome::CaptureOpened(&worker, opened));
            }
            Action::AttachFilter { worker, wanted } => {
                let attached = result(0).map(|_| Arc::clone(&wanted));
                if attached.is_ok() {
                    self.captures.insert(worker.clone(), wanted).expect("a capture socket");
                }
                self.report(Outcome::FilterAttached(&worker, attached));
            }
            Action::ResizeReceiveBuffer { worker, bytes } => {
                assert!(self.captures.contains_key(&worker), "{worker} has no capture socket");
                self.report(Outcome::ReceiveBufferResized(&worker, bytes));
                self.receive_buffers.insert(worker, bytes);
            }
            Action::Spawn { worker, .. } if self.failing => {
                self.report(Outcome::Spawned(&worker, Err("refused by the test".to_owned())));
            }
            Action::Spawn { worker, interface } => self.spawn(worker, interface.settings),
            Action::SendEgress { worker, sockets } => {
                for (egress, key) in sockets {
                    if self.failing {
                        let reason = "refused by the test".to_owned();
                        self.report(Outcome::EgressFailed(&worker, key, reason));
                    } else {
                        self.send(&worker, ToWorker::Egress(vec![egress]));
                        self.report(Outcome::EgressSent(&worker, &[(egress, key)]));
                    }
                }
            }
            Action::SendRuleSet { worker, set, hash, since } => {
                let change = since.map(|since| RuleSetChange::between(&since, &set));
                self.send_rule_set(&worker, set, hash, change);
            }
            Action::Stop(worker) => self.send(&worker, ToWorker::Stop),
            Action::Kill { worker, .. } => self.processes.get_mut(&worker).expect("a process").killed = true,
            Action::SetEarlyDrop(wanted) => self.set_early_drop(wanted),
            Action::SetCaptureProgram { worker, on } => self.set_capture_program(&worker, on),
            Action::SetKernelRules(_) | Action::SettleKernelRules(_) => self.change_kernel_rules(action),
            Action::Discard(worker) => self.discard(&worker),
            Action::ReadOffload { ifindex, .. } => self.read_offload(ifindex),
            Action::SetOffload { ifindex, wanted, .. } => self.set_offload(ifindex, wanted),
        }
    }

    fn open_absorber(&mut self, absorber: Absorber) {
        let absorbed = match (self.failing, self.programs.contains(&absorber)) {
            (true, _) => Absorbed::Refused("refused by the test".to_owned()),
            (false, true) => Absorbed::PortTaken(PortHolder::Unknown),
            (false, false) => Absorbed::Open,
        };
        let open = absorbed == Absorbed::Open;
        assert!(!open || self.absorbed.insert(absorber), "absorbed twice: {absorber:?}");
        self.report(Outcome::Absorbed(absorber, absorbed));
    }

    pub(super) fn report(&mut self, outcome: Outcome<'_>) {
        self.machine.handle(self.now, outcome);
    }

    fn spawn(&mut self, worker: WorkerId, settings: WorkerSettings) {
        assert!(self.captures.contains_key(&worker), "{worker} without a capture socket");
        self.pids += 1;
        self.report(Outcome::Spawned(&worker, Ok((self.pids, settings))));
        let process = Process {
            settings,
            pid: self.pids,
            inbox: VecDeque::new(),
            outbox: VecDeque::from([FromWorker::Ready]),
            egress: BTreeSet::new(),
            applied: None,
            killed: false,
            stalled: false,
            losing_update: false,
            beat_at: self.now,
            table: AuditSnapshot::default(),
            acknowledged: 0,
        };
        assert!(self.processes.insert(worker.clone(), process).is_none(), "two processes of {worker}");
    }

    fn send(&mut self, worker: &WorkerId, message: ToWorker) {
        self.processes.get_mut(worker).expect("a process").inbox.push_back(message);
    }

    fn send_rule_set(
        &mut self,
        worker: &WorkerId,
        set: Arc<RuleSet>,
        hash: u64,
        change: Option<RuleSetChange>,
    ) {
        assert_eq!(set.content_hash(), hash);
        let filter = &self.captures[worker];
        // A filter that can't be attached makes its rules pending, but does not delay any other change.
        let capture = &self.machine.actual().workers[worker].capture;
        let narrow = self.failing || matches!(capture, Capture::Open { failure: Some(_), .. });
        let mut slots = BTreeSet::new();
        for rule in &set.rules {
            assert!(slots.insert(rule.slot), "{worker}: two rules count in {:?}", rule.slot);
            let captured: Vec<IfIndex> = worker.interface.captured().map(|(_, ifindex)| ifindex).collect();
            for (socket, group, port, sources) in inputs_of(rule) {
                let wanted = FilterDestination { address: group, port, promiscuous: false };
                assert!(narrow || filter.contains(&wanted), "{worker}: the filter stops {wanted:?}");
                let ifindex = captured[socket];
                if group.is_multicast() {
                    let tried = |source| {
                        let membership = Membership { ifindex, group, source };
                        self.machine.actual().memberships.contains_key(&membership)
                    };
                    let all = sources.iter().map(|source| Some(*source));
                    let mut all = all.chain(sources.is_empty().then_some(None));
                    assert!(all.all(tried), "{worker}: relays {group} before joining");
                }
            }
        }
        let keys = set
            .rules
            .iter()
            .map(|rule| self.machine.key_of(rule.id).expect("a rule of the config"))
            .collect();
        self.send(worker, ToWorker::RuleSet(set, hash, keys, change));
    }

    fn discard(&mut self, id: &WorkerId) {
        assert!(!self.processes.contains_key(id), "{id} is discarded alive");
        self.receive_buffers.remove(id);
        self.renew_capture(id);
        let open = self.captures.remove(id).zip(self.pages.remove(id));
        let totals = TotalsSnapshot::default();
        let last =
            open.as_ref().map(|(_, page)| LastCounts { page: page as _, totals: &totals, kernel_drops: 0 });
        self.machine.handle(self.now, Outcome::Discarded(id, last));
        // The keeper has duplicates until they are removed there.
        self.keeper.closed.extend(open.map(|open| (id.clone(), open)));
    }
}

/// What a rule takes: capture socket, group, port and sources of each input that has a socket.
fn inputs_of(rule: &RelayRule) -> Vec<(usize, IpAddr, u16, &[IpAddr])> {
    match &rule.merge {
        None => vec![(0, rule.group, rule.port, &rule.sources)],
        Some(merge) => {
            let legs = merge.legs.iter();
            legs.filter_map(|leg| Some((leg.socket?.into(), leg.group, leg.port, leg.sources.as_slice())))
                .collect()
        }
    }
}
