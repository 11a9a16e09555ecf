//! A simulated world for testing the machine: kernel and workers as values that execute what they are asked to, late
//! or never, and check that it is safe. No clock, no socket; a seed replays a run.
//!
//! - this file: the world, its time and its messages;
//! - [`kernel`]: the effect of each action;
//! - [`invariants`]: what must hold after each step, and in the quiescent state;
//! - [`keeper`]: stored items, and the points at which the supervisor may be killed;
//! - [`offloads`]: which interfaces merge what they receive, by the machine or by an operator;
//! - [`attacher`]: what is dropped early;
//! - [`kernel_engine`]: what the kernel relays;
//! - [`crash`]: the supervisor dies, and another one resumes;
//! - [`faults`]: commands, network events and faults, drawn by a seed;
//! - [`tests`]: many seeds.

mod attacher;
mod crash;
mod faults;
mod invariants;
mod keeper;
mod kernel;
mod kernel_engine;
mod offloads;
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mcr_link::message::IoBackend;
use mcr_link::rule_set::{EgressId, OutputSlot, RuleSet, RuleSetChange, RuleSlot};
use mcr_link::telemetry::{AuditSnapshot, OutputSnapshot, RuleSnapshot};
use mcr_rules::Config;
use mcr_sys::network::NetworkEvent;

use crate::core::actual::kernel_engine::ledger_id;
use crate::core::actual::{Death, Readied};
use crate::core::filter_set::FilterSet;
use crate::core::health::{CHECK_EVERY, Finding, LATE_AFTER, Observation};
use crate::core::ledger::{Counters, RuleCount};
use crate::core::machine::{Event, Machine, Output, Report, Unacknowledged};
use crate::core::notices::StateChange;
use crate::core::plan::{Absorber, RuleKey, WorkerId, WorkerSettings};
use crate::core::ports::PortHolder;
use crate::core::reconcile::Action;

/// A telemetry page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    rules: BTreeMap<RuleSlot, RuleSnapshot>,
    outputs: BTreeMap<OutputSlot, OutputSnapshot>,
}

impl Counters for Page {
    fn rule(&self, slot: RuleSlot) -> RuleSnapshot {
        self.rules.get(&slot).copied().unwrap_or_default()
    }

    fn output(&self, slot: OutputSlot) -> OutputSnapshot {
        self.outputs.get(&slot).copied().unwrap_or_default()
    }
}

#[derive(Clone, Debug)]
enum ToWorker {
    Egress(Vec<EgressId>),
    RuleSet(Arc<RuleSet>, u64, Vec<RuleKey>, Option<RuleSetChange>),
    Stop,
}

#[derive(Clone, Debug, PartialEq)]
enum FromWorker {
    Ready,
    Applied(u64, u64),
    Refused(u64),
}

/// A worker process.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) settings: WorkerSettings,
    pid: u32,
    inbox: VecDeque<ToWorker>,
    outbox: VecDeque<FromWorker>,
    egress: BTreeSet<EgressId>,
    /// The rule set in force and the rules' keys, in its order.
    pub(crate) applied: Option<(Arc<RuleSet>, Vec<RuleKey>)>,
    killed: bool,
    /// It neither reads nor writes until it is killed.
    pub(crate) stalled: bool,
    /// It acknowledges the next rule set without applying it.
    pub(crate) losing_update: bool,
    beat_at: Duration,
    table: AuditSnapshot,
    /// The generation that it acknowledged last.
    acknowledged: u64,
}

impl Process {
    /// Whether a change is based on the set in force; asserts that it yields the announced one.
    fn can_take(&self, change: &RuleSetChange, set: &RuleSet, hash: u64) -> bool {
        let before = self.applied.as_ref().map(|(before, _)| before);
        let Some(before) = before.filter(|before| before.generation == change.base_generation) else {
            return false;
        };
        assert_eq!(change.clone().apply(before, hash).as_ref(), Ok(set));
        true
    }

    /// Whether it relays by another set than it acknowledged last.
    pub(crate) fn has_drifted(&self) -> bool {
        let used = self.applied.as_ref().map(|(set, _)| (set.generation, set.table_hash()));
        used != Some((self.table.generation, self.table.hash)) || self.acknowledged != self.table.generation
    }
}

/// Everything the machine interacts with.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) machine: Machine,
    pub(crate) now: Duration,
    pub(crate) joined: keeper::Sockets,
    pub(crate) absorbed: BTreeSet<Absorber>,
    /// Programs that have ports of unicast inputs.
    pub(crate) programs: BTreeSet<Absorber>,
    attacher: Option<attacher::Attacher>,
    kernel: Option<kernel_engine::KernelEngine>,
    pub(crate) captures: BTreeMap<WorkerId, FilterSet>,
    /// The receive buffer size of each capture socket.
    pub(crate) receive_buffers: BTreeMap<WorkerId, u32>,
    pub(crate) pages: BTreeMap<WorkerId, Page>,
    pub(crate) processes: BTreeMap<WorkerId, Process>,
    /// Datagrams actually relayed, by rule.
    truth: BTreeMap<RuleKey, u64>,
    last_look: Duration,
    /// The result of the last change, and the remark about who had not acknowledged it.
    pub(crate) changed: Option<Result<(), String>>,
    pub(crate) remark: Option<String>,
    /// State changes.
    pub(crate) states: Vec<StateChange>,
    /// Every system call fails.
    pub(crate) failing: bool,
    /// Workers refuse every rule set.
    pub(crate) refusing: bool,
    pids: u32,
    /// Lists of destinations that were sent to attachers.
    generations: u64,
    keeper: keeper::Keeper,
    pub(crate) offloads: offloads::Offloads,
    /// The supervisor is killed after this many kill points; whether the next one runs another program.
    pub(crate) kill_after: Option<(u32, bool)>,
}

impl World {
    /// Two cores, the sample network, no rules.
    pub(crate) fn new() -> Self {
        let mut machine = Machine::new([0, 1], None);
        let network = crate::core::plan::samples::network();
        let links = network.links().cloned().collect();
        let addresses = network.links().flat_map(|link| network.addresses(link.ifindex).to_vec()).collect();
        let now = Duration::from_secs(1000);
        machine.handle(now, Event::NetworkDump { links, addresses });
        Self { machine, now, ..Self::default() }
    }

    /// A world in which this config is in force.
    pub(crate) fn with(config: Config) -> Self {
        let mut world = Self::new();
        assert_eq!(world.change(config), Ok(()));
        world
    }

    /// Applies a config and waits until that is complete or undone.
    pub(crate) fn change(&mut self, config: Config) -> Result<(), String> {
        assert!(self.begin(config, Unacknowledged::Undo));
        self.await_change()
    }

    /// Begins to apply a config. Returns false if that is refused.
    pub(crate) fn begin(&mut self, config: Config, unacknowledged: Unacknowledged) -> bool {
        self.changed = None;
        self.machine.handle(self.now, Event::Change { config, unacknowledged, confirm_within: None })
    }

    /// The same on trial.
    pub(crate) fn begin_trial(&mut self, config: Config, within: Duration) -> bool {
        self.changed = None;
        let (unacknowledged, confirm_within) = (Unacknowledged::Undo, Some(within));
        self.machine.handle(self.now, Event::Change { config, unacknowledged, confirm_within })
    }

    /// Runs until the pending change is complete or undone.
    pub(crate) fn await_change(&mut self) -> Result<(), String> {
        loop {
            self.settle();
            if let Some(result) = self.changed.take() {
                self.calm();
                return result;
            }
            if !self.work() {
                self.now = self.machine.next_deadline().expect("a deadline for the change");
            }
        }
    }

    pub(crate) fn network(&mut self, events: impl IntoIterator<Item = NetworkEvent>) {
        let events: Vec<NetworkEvent> = events.into_iter().collect();
        self.offloads.note(&events);
        self.machine.handle(self.now, Event::Network(events));
    }

    /// Executes the machine's actions until there are no more. Returns them.
    pub(crate) fn settle(&mut self) -> Vec<Action> {
        let mut done = Vec::new();
        for _ in 0..100 {
            match self.machine.poll(self.now) {
                Some(Output::Actions(actions)) => self.act(actions, &mut done),
                Some(Output::Changed { result, remark }) => {
                    (self.changed, self.remark) = (Some(result), remark);
                }
                Some(Output::States(states)) => self.states.extend(states),
                Some(Output::Found { .. } | Output::TrialExpired | Output::Aggregated(_)) => {}
                None if self.store(&[]) => {}
                None => return done,
            }
        }
        panic!("no rest after {done:#?}");
    }

    fn act(&mut self, actions: Vec<Action>, done: &mut Vec<Action>) {
        if self.store(&actions) {
            return;
        }
        for action in actions {
            self.execute(action.clone());
            // Reading changes nothing.
            if !matches!(action, Action::ReadOffload { .. }) {
                done.push(action);
            }
            if self.is_killed_here() {
                return;
            }
        }
    }

    /// Every worker takes one step, and its output is delivered. Returns whether there was any.
    pub(crate) fn work(&mut self) -> bool {
        let all: Vec<WorkerId> = self.processes.keys().cloned().collect();
        let answered = self.attacher_answers();
        all.into_iter().fold(answered, |any, id| self.turn(&id) | self.deliver_report(&id) | any)
    }

    /// Runs until nothing is left to do now.
    pub(crate) fn calm(&mut self) -> Vec<Action> {
        let mut done = self.settle();
        while self.work() {
            done.extend(self.settle());
        }
        done
    }

    /// Lets time pass, executes what falls due, and reads every page now and then.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut next_look = self.now;
        while self.now < end {
            self.calm();
            let deadline = self.machine.next_deadline().map_or(end, |at| at.max(self.now));
            self.now = end.min(deadline).min(next_look);
            if self.now == next_look {
                self.look();
                next_look += CHECK_EVERY;
            }
        }
        self.calm();
    }

    /// A worker handles its next message. Returns whether there was one.
    pub(crate) fn turn(&mut self, id: &WorkerId) -> bool {
        let Some(process) = self.processes.get_mut(id) else { return false };
        if process.killed {
            self.die(id);
            return true;
        }
        if process.stalled {
            return false;
        }
        match process.inbox.pop_front() {
            None => return false,
            Some(ToWorker::Egress(sockets)) => {
                for egress in sockets {
                    assert!(process.egress.insert(egress), "{id}: number {egress:?} is used again");
                }
            }
            Some(ToWorker::RuleSet(set, ..)) if self.refusing => {
                process.outbox.push_back(FromWorker::Refused(set.generation));
            }
            Some(ToWorker::RuleSet(set, hash, ..)) if std::mem::take(&mut process.losing_update) => {
                process.acknowledged = set.generation;
                process.outbox.push_back(FromWorker::Applied(set.generation, hash));
            }
            Some(ToWorker::RuleSet(set, hash, _, Some(change))) if !process.can_take(&change, &set, hash) => {
                process.outbox.push_back(FromWorker::Refused(set.generation));
            }
            Some(ToWorker::RuleSet(set, hash, keys, _)) => {
                process.table = AuditSnapshot {
                    generation: set.generation,
                    hash: set.table_hash(),
                    audits: process.table.audits,
                };
                process.acknowledged = set.generation;
                let named: BTreeSet<EgressId> =
                    set.rules.iter().flat_map(|r| &r.outputs).filter_map(|output| output.egress).collect();
                assert!(named.is_subset(&process.egress), "{id}: the set names sockets that were not passed");
                process.egress = named;
                process.outbox.push_back(FromWorker::Applied(set.generation, hash));
                process.applied = Some((set, keys));
            }
            Some(ToWorker::Stop) => self.die(id),
        }
        true
    }

    /// Delivers a worker's next message to the machine. Returns whether there was one.
    pub(crate) fn deliver_report(&mut self, id: &WorkerId) -> bool {
        let Some(message) = self.processes.get_mut(id).and_then(|process| process.outbox.pop_front()) else {
            return false;
        };
        let report = match message {
            FromWorker::Ready => Report::Ready(Readied {
                io: IoBackend::IoUring,
                uid: 65534,
                notes: Vec::new(),
                sandbox: Vec::new(),
                sandbox_notes: Vec::new(),
            }),
            FromWorker::Refused(generation) => Report::Refused { generation, reason: "no".to_owned() },
            FromWorker::Applied(generation, hash) => {
                Report::Applied { generation, hash, page: Some(&self.pages[id]) }
            }
        };
        self.machine.handle(self.now, Event::Worker(id, report));
        true
    }

    /// Stalls or resumes a worker.
    pub(crate) fn stall(&mut self, id: &WorkerId, stalled: bool) {
        if let Some(process) = self.processes.get_mut(id) {
            process.stalled = stalled;
        }
    }

    /// Makes a worker acknowledge its next rule set without applying it.
    pub(crate) fn lose_update(&mut self, id: &WorkerId) {
        if let Some(process) = self.processes.get_mut(id) {
            process.losing_update = true;
        }
    }

    /// Corrupts a worker's table.
    pub(crate) fn drift(&mut self, id: &WorkerId) {
        if let Some(process) = self.processes.get_mut(id) {
            process.table.hash ^= 1;
        }
    }

    /// Running workers update heartbeat and audit, and all pages are read. Asserts that no correct worker is found
    /// faulty.
    pub(crate) fn look(&mut self) {
        let on_time = self.now.saturating_sub(self.last_look) <= LATE_AFTER;
        self.last_look = self.now;
        for (id, process) in &mut self.processes {
            if !process.stalled {
                process.beat_at = self.now;
                process.table.audits += 1;
            }
            let audit = (process.table.generation != 0).then_some(process.table);
            let seen = Observation { beat_at: process.beat_at, audit };
            if !self.machine.handle(self.now, Event::Worker(id, Report::Observed { seen, on_time })) {
                continue;
            }
            match self.machine.poll(self.now) {
                Some(Output::Found { finding: Finding::Repaired { .. }, .. }) => {}
                Some(Output::Found { finding: Finding::Stalled { .. }, .. }) => {
                    assert!(process.stalled, "{id} is taken for dead")
                }
                other => assert!(process.has_drifted(), "{id}: a false alarm: {other:?}"),
            }
        }
        let planned = |absorber: &&Absorber| self.machine.plan().absorbers.contains_key(*absorber);
        let holders =
            self.programs.iter().filter(planned).map(|absorber| (*absorber, PortHolder::Unknown)).collect();
        self.machine.handle(self.now, Event::PortsExamined(holders));
    }

    /// A program binds the port of a unicast input, or closes its socket.
    pub(crate) fn toggle_program(&mut self, absorber: Absorber) {
        if !self.programs.remove(&absorber) {
            self.programs.insert(absorber);
        }
    }

    /// Loses the next message to a worker.
    pub(crate) fn lose_message(&mut self, id: &WorkerId) {
        if let Some(process) = self.processes.get_mut(id)
            && let Some(ToWorker::RuleSet(..) | ToWorker::Stop) = process.inbox.front()
        {
            process.inbox.pop_front();
        }
    }

    /// Loses the next message from a worker.
    pub(crate) fn lose_answer(&mut self, id: &WorkerId) {
        if let Some(process) = self.processes.get_mut(id) {
            process.outbox.pop_front();
        }
    }

    /// Kills a worker's process.
    pub(crate) fn die(&mut self, id: &WorkerId) {
        if self.processes.remove(id).is_some() {
            let how = "killed by the test".to_owned();
            self.machine.handle(self.now, Event::Worker(id, Report::Died(Death::of(how))));
        }
    }

    /// Every rule in force relays one datagram to each of its outputs.
    pub(crate) fn traffic(&mut self) {
        let mut by_kernel = Vec::new();
        for (id, process) in &self.processes {
            // Where a drifted worker counts is undefined; the drift check is for that.
            if process.has_drifted() {
                continue;
            }
            let Some((set, keys)) = &process.applied else { continue };
            let kernel: Vec<bool> = keys.iter().map(|key| self.is_relayed_by_kernel(id, key)).collect();
            let page = self.pages.get_mut(id).expect("a page");
            for ((rule, key), kernel) in set.rules.iter().zip(keys).zip(kernel) {
                if kernel {
                    by_kernel.push(*key);
                    continue;
                }
                let counters = page.rules.entry(rule.slot).or_default();
                counters.packets += 1;
                counters.bytes += 100;
                counters.due += rule.outputs.len() as u64;
                for output in &rule.outputs {
                    let counters = page.outputs.entry(output.slot).or_default();
                    counters.packets += 1;
                    counters.bytes += 100;
                }
                *self.truth.entry(*key).or_default() += 1;
            }
        }
        by_kernel.iter().for_each(|key| self.relay_by_kernel(key));
    }

    /// Every rule's counters, as statistics would report them.
    pub(crate) fn counts(&self) -> BTreeMap<RuleKey, RuleCount> {
        let kernel = ledger_id();
        let counting = self.machine.actual().kernel.counting();
        let engine = self.kernel.iter().map(|engine| (&kernel, counting, engine as &dyn Counters));
        let pages = self.pages.iter().filter_map(|(id, page)| {
            Some((id, self.machine.actual().workers.get(id)?, page as &dyn Counters))
        });
        self.machine.ledger().count(pages.chain(engine))
    }
}
