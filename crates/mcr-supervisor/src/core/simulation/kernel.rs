//! What each action does to the world, and whether it was safe to ask for it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use mcr_link::rule_set::{RuleSet, RuleSetChange};
use mcr_link::telemetry::{AuditSnapshot, TotalsSnapshot};
use mcr_sys::filter::FilterDestination;
use mcr_sys::membership::Membership;

use super::{Page, Process, Says, Told, World};
use crate::core::actual::Capture;
use crate::core::plan::{WorkerId, WorkerSettings};
use crate::core::reconcile::Action;

impl World {
    pub(super) fn execute(&mut self, action: Action) {
        let now = self.now;
        let actual = &mut self.machine.actual;
        let failure = || "refused by the test".to_owned();
        match action {
            Action::OpenAbsorber(absorber) if self.failing => {
                actual.absorber_failed(absorber, failure(), now)
            }
            Action::OpenAbsorber(absorber) => {
                assert!(self.absorbed.insert(absorber), "absorbed twice: {absorber:?}");
                actual.absorbing(absorber);
            }
            Action::CloseAbsorber(absorber) => {
                self.absorbed.remove(&absorber);
                actual.absorber_closed(&absorber);
            }
            Action::Join { membership, .. } if self.failing => {
                self.joined.leave(&membership);
                actual.join_failed(membership, failure(), now);
            }
            Action::Join { membership, carrier_epoch, again } => {
                assert_eq!(again, self.joined.leave(&membership), "{membership:?}");
                assert!(self.joined.join(membership));
                actual.joined(membership, carrier_epoch);
            }
            Action::Leave(membership) => {
                self.joined.leave(&membership);
                actual.left(&membership);
            }
            Action::OpenCapture { worker, .. } if self.failing => {
                actual.capture_failed(&worker, failure(), now)
            }
            Action::OpenCapture { worker, wanted, receive_buffer_bytes } => {
                actual.capture_opened(&worker, Arc::clone(&wanted), receive_buffer_bytes);
                self.receive_buffers.insert(worker.clone(), receive_buffer_bytes);
                assert!(self.captures.insert(worker.clone(), wanted).is_none(), "opened twice: {worker}");
                self.pages.insert(worker, Page::default());
            }
            Action::AttachFilter { worker, .. } if self.failing => {
                actual.filter_failed(&worker, failure(), now)
            }
            Action::AttachFilter { worker, wanted } => {
                actual.filter_attached(&worker, Arc::clone(&wanted));
                self.captures.insert(worker, wanted).expect("a capture socket");
            }
            Action::ResizeReceiveBuffer { worker, bytes } => {
                actual.receive_buffer_resized(&worker, bytes);
                self.receive_buffers.insert(worker, bytes).expect("a capture socket");
            }
            Action::Spawn { worker, .. } if self.failing => actual.spawn_failed(&worker, failure(), now),
            Action::Spawn { worker, interface } => self.spawn(worker, interface.settings),
            Action::SendEgress { worker, sockets } => {
                for (egress, key) in sockets {
                    if self.failing {
                        self.machine.actual.egress_failed(&worker, key, failure(), now);
                    } else {
                        self.tell(&worker, Told::Egress(vec![egress]));
                        self.machine.actual.egress_sent(&worker, &[(egress, key)]);
                    }
                }
            }
            Action::SendRuleSet { worker, set, hash, since } => {
                let change = since.map(|since| RuleSetChange::between(&since, &set));
                self.send_rule_set(&worker, set, hash, change);
            }
            Action::Stop(worker) => self.tell(&worker, Told::Stop),
            Action::Kill { worker, .. } => self.processes.get_mut(&worker).expect("a process").killed = true,
            Action::Discard(worker) => self.discard(&worker),
        }
    }

    fn spawn(&mut self, worker: WorkerId, settings: WorkerSettings) {
        assert!(self.captures.contains_key(&worker), "{worker} without a capture socket");
        self.pids += 1;
        self.machine.actual.spawned(&worker, self.pids, settings, self.now);
        let process = Process {
            settings,
            pid: self.pids,
            inbox: VecDeque::new(),
            outbox: VecDeque::from([Says::Ready]),
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

    fn tell(&mut self, worker: &WorkerId, told: Told) {
        self.processes.get_mut(worker).expect("a process to tell").inbox.push_back(told);
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
        // A filter that can't be attached makes its rules pending, but holds no other change back.
        let capture = &self.machine.actual.workers[worker].capture;
        let narrow = self.failing || matches!(capture, Capture::Open { failure: Some(_), .. });
        let mut slots = BTreeSet::new();
        for rule in &set.rules {
            let wanted = FilterDestination { address: rule.group, port: rule.port };
            assert!(narrow || filter.contains(&wanted), "{worker}: the filter stops {wanted:?}");
            assert!(slots.insert(rule.slot), "{worker}: two rules count in {:?}", rule.slot);
            let ifindex = worker.interface.ifindex;
            if rule.group.is_multicast() {
                let tried = |source| {
                    let membership = Membership { ifindex, group: rule.group, source };
                    self.machine.actual.memberships.contains_key(&membership)
                };
                let sources = rule.sources.iter().map(|source| Some(*source));
                let mut all = sources.chain(rule.sources.is_empty().then_some(None));
                assert!(all.all(tried), "{worker}: relays {} before joining", rule.group);
            }
        }
        let keys = set
            .rules
            .iter()
            .map(|rule| self.machine.key_of(rule.id).expect("a rule of the config"))
            .collect();
        self.tell(worker, Told::RuleSet(set, hash, keys, change));
    }

    fn discard(&mut self, id: &WorkerId) {
        assert!(!self.processes.contains_key(id), "{id} is discarded alive");
        self.receive_buffers.remove(id);
        let open = self.captures.remove(id).zip(self.pages.remove(id));
        if let Some((capture, page)) = open
            && let Some(worker) = self.machine.actual.workers.get(id)
        {
            self.machine.ledger.discard(id, worker, &page, &TotalsSnapshot::default(), 0);
            // The keeper has duplicates until it is told.
            self.keeper.closed.insert(id.clone(), (capture, page));
        }
        self.machine.actual.discarded(id);
    }
}
