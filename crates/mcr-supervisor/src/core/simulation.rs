//! A world for the machine to be tested in: kernel and workers as values that do what they are told, late or not at
//! all, and check on the way that what they are told is safe. No clock, no socket; a seed replays a run.
//!
//! - this file: the world, and how time and messages move in it;
//! - [`kernel`]: what each action does to it;
//! - [`invariants`]: what must hold after each step, and when all is quiet;
//! - [`keeper`]: what is stored, and when the supervisor may be killed;
//! - [`crash`]: the supervisor dies, and another one goes on;
//! - [`faults`]: commands, network events and faults, drawn by a seed;
//! - [`tests`]: many seeds.

mod crash;
mod faults;
mod invariants;
mod keeper;
mod kernel;
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mcr_link::message::IoBackend;
use mcr_link::rule_set::{EgressId, OutputSlot, RuleSet, RuleSetChange, RuleSlot};
use mcr_link::telemetry::{AuditSnapshot, OutputSnapshot, RuleSnapshot};
use mcr_rules::Config;
use mcr_sys::network::NetworkEvent;

use crate::core::actual::Readied;
use crate::core::filter_set::FilterSet;
use crate::core::health::{CHECK_EVERY, Finding, LATE_AFTER, Observation};
use crate::core::ledger::{Counters, RuleCount};
use crate::core::machine::{Event, Machine, Output, Report, Unacknowledged};
use crate::core::notices::StateChange;
use crate::core::plan::{Absorber, RuleKey, WorkerId, WorkerSettings};
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
enum Told {
    Egress(Vec<EgressId>),
    RuleSet(Arc<RuleSet>, u64, Vec<RuleKey>, Option<RuleSetChange>),
    Stop,
}

#[derive(Clone, Debug, PartialEq)]
enum Says {
    Ready,
    Applied(u64, u64),
    Refused(u64),
}

/// A worker process.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) settings: WorkerSettings,
    pid: u32,
    inbox: VecDeque<Told>,
    outbox: VecDeque<Says>,
    egress: BTreeSet<EgressId>,
    /// The rule set in force and the rules' keys, in its order.
    pub(crate) applied: Option<(Arc<RuleSet>, Vec<RuleKey>)>,
    killed: bool,
    /// It reads nothing and says nothing until it is killed.
    pub(crate) stalled: bool,
    /// It acknowledges the next rule set and goes on with the one before.
    pub(crate) losing_update: bool,
    beat_at: Duration,
    table: AuditSnapshot,
    /// The generation that it acknowledged last.
    acknowledged: u64,
}

impl Process {
    /// Whether a change starts from the set in force; it leads to the announced one then.
    fn can_take(&self, change: &RuleSetChange, set: &RuleSet, hash: u64) -> bool {
        let before = self.applied.as_ref().map(|(before, _)| before);
        let Some(before) = before.filter(|before| before.generation == change.since) else { return false };
        assert_eq!(change.clone().apply(before, hash).as_ref(), Ok(set));
        true
    }

    /// It relays by other rules than those that it acknowledged last.
    pub(crate) fn has_drifted(&self) -> bool {
        let used = self.applied.as_ref().map(|(set, _)| (set.generation, set.table_hash()));
        used != Some((self.table.generation, self.table.hash)) || self.acknowledged != self.table.generation
    }
}

/// What the machine can reach.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) machine: Machine,
    pub(crate) now: Duration,
    pub(crate) joined: keeper::Sockets,
    pub(crate) absorbed: BTreeSet<Absorber>,
    pub(crate) captures: BTreeMap<WorkerId, FilterSet>,
    /// The size of each one's queue.
    pub(crate) receive_buffers: BTreeMap<WorkerId, u32>,
    pub(crate) pages: BTreeMap<WorkerId, Page>,
    pub(crate) processes: BTreeMap<WorkerId, Process>,
    /// What was really relayed, by rule.
    truth: BTreeMap<RuleKey, u64>,
    last_look: Duration,
    /// What became of the last change, and who had not acknowledged it.
    pub(crate) changed: Option<Result<(), String>>,
    pub(crate) remark: Option<String>,
    /// What changed its state.
    pub(crate) states: Vec<StateChange>,
    /// Every system call fails.
    pub(crate) failing: bool,
    /// Workers refuse every rule set.
    pub(crate) refusing: bool,
    pids: u32,
    keeper: keeper::Keeper,
    /// The supervisor is killed when it has passed this many points; whether the next one runs another program.
    kill_after: Option<(u32, bool)>,
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

    /// Puts a config in force and waits until that is done or undone.
    pub(crate) fn change(&mut self, config: Config) -> Result<(), String> {
        assert!(self.begin(config, Unacknowledged::Undo));
        self.await_change()
    }

    /// Begins to put a config in force. Returns false if that is refused.
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

    /// Lets everybody work until the change under way is done or undone.
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
        self.machine.handle(self.now, Event::Network(events.into_iter().collect()));
    }

    /// Does what the machine wants until it wants nothing more. Returns the actions.
    pub(crate) fn settle(&mut self) -> Vec<Action> {
        let mut done = Vec::new();
        for _ in 0..100 {
            match self.machine.poll(self.now) {
                Some(Output::Actions(actions)) => self.act(actions, &mut done),
                Some(Output::Changed { result, remark }) => {
                    (self.changed, self.remark) = (Some(result), remark);
                }
                Some(Output::States(states)) => self.states.extend(states),
                Some(Output::Found { .. } | Output::TrialExpired) => {}
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
            done.push(action);
            if self.is_killed_here() {
                return;
            }
        }
    }

    /// Every worker does one thing and is heard. Returns whether there was anything.
    pub(crate) fn work(&mut self) -> bool {
        let all: Vec<WorkerId> = self.processes.keys().cloned().collect();
        all.into_iter().fold(false, |any, id| self.turn(&id) | self.hear(&id) | any)
    }

    /// Lets everybody work until nothing is left to do now.
    pub(crate) fn calm(&mut self) -> Vec<Action> {
        let mut done = self.settle();
        while self.work() {
            done.extend(self.settle());
        }
        done
    }

    /// Lets the time pass in which everything that waits is done, with a look at every page now and then.
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

    /// A worker takes its next message. Returns whether there was one.
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
            Some(Told::Egress(sockets)) => {
                for egress in sockets {
                    assert!(process.egress.insert(egress), "{id}: number {egress:?} is used again");
                }
            }
            Some(Told::RuleSet(set, ..)) if self.refusing => {
                process.outbox.push_back(Says::Refused(set.generation));
            }
            Some(Told::RuleSet(set, hash, ..)) if std::mem::take(&mut process.losing_update) => {
                process.acknowledged = set.generation;
                process.outbox.push_back(Says::Applied(set.generation, hash));
            }
            Some(Told::RuleSet(set, hash, _, Some(change))) if !process.can_take(&change, &set, hash) => {
                process.outbox.push_back(Says::Refused(set.generation));
            }
            Some(Told::RuleSet(set, hash, keys, _)) => {
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
                process.outbox.push_back(Says::Applied(set.generation, hash));
                process.applied = Some((set, keys));
            }
            Some(Told::Stop) => self.die(id),
        }
        true
    }

    /// The machine hears the next thing that a worker said. Returns whether there was one.
    pub(crate) fn hear(&mut self, id: &WorkerId) -> bool {
        let Some(said) = self.processes.get_mut(id).and_then(|process| process.outbox.pop_front()) else {
            return false;
        };
        let report = match said {
            Says::Ready => Report::Ready(Readied::new(IoBackend::IoUring, 65534, Vec::new())),
            Says::Refused(generation) => Report::Refused { generation, reason: "no".to_owned() },
            Says::Applied(generation, hash) => {
                Report::Applied { generation, hash, page: Some(&self.pages[id]) }
            }
        };
        self.machine.handle(self.now, Event::Worker(id, report));
        true
    }

    /// A worker stops working, or goes on.
    pub(crate) fn stall(&mut self, id: &WorkerId, stalled: bool) {
        if let Some(process) = self.processes.get_mut(id) {
            process.stalled = stalled;
        }
    }

    /// A worker will not use its next rule set.
    pub(crate) fn lose_update(&mut self, id: &WorkerId) {
        if let Some(process) = self.processes.get_mut(id) {
            process.losing_update = true;
        }
    }

    /// A worker's table changes by itself.
    pub(crate) fn drift(&mut self, id: &WorkerId) {
        if let Some(process) = self.processes.get_mut(id) {
            process.table.hash ^= 1;
        }
    }

    /// Living workers show a heartbeat and look at their tables, and all pages are looked at. Nobody is suspected who
    /// works as told.
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
    }

    /// The next message to a worker never gets there.
    pub(crate) fn lose_message(&mut self, id: &WorkerId) {
        if let Some(process) = self.processes.get_mut(id)
            && let Some(Told::RuleSet(..) | Told::Stop) = process.inbox.front()
        {
            process.inbox.pop_front();
        }
    }

    /// The next thing that a worker says is not heard.
    pub(crate) fn lose_answer(&mut self, id: &WorkerId) {
        if let Some(process) = self.processes.get_mut(id) {
            process.outbox.pop_front();
        }
    }

    /// A worker's process ends.
    pub(crate) fn die(&mut self, id: &WorkerId) {
        if self.processes.remove(id).is_some() {
            let how = "killed by the test".to_owned();
            self.machine.handle(self.now, Event::Worker(id, Report::Died(how)));
        }
    }

    /// Every rule in force relays one datagram to each of its outputs.
    pub(crate) fn traffic(&mut self) {
        for (id, process) in &self.processes {
            // A drifted worker counts where nobody knows; that is what the drift check is for.
            if process.has_drifted() {
                continue;
            }
            let Some((set, keys)) = &process.applied else { continue };
            let page = self.pages.get_mut(id).expect("a page");
            for (rule, key) in set.rules.iter().zip(keys) {
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
    }

    /// Every rule's counters, as statistics would tell them.
    pub(crate) fn counts(&self) -> BTreeMap<RuleKey, RuleCount> {
        let pages = self
            .pages
            .iter()
            .filter_map(|(id, page)| Some((id, self.machine.actual().workers.get(id)?, page)));
        self.machine.ledger().count(pages)
    }
}
