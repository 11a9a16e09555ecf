//! A world for the machine to be tested in: kernel and workers as values that do what they are told, late or not at
//! all, and check on the way that what they are told is safe. No clock, no socket; a seed replays a run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mcr_link::message::IoBackend;
use mcr_link::rule_set::{EgressId, OutputSlot, RuleSet, RuleSlot};
use mcr_link::telemetry::{OutputSnapshot, RuleSnapshot, TotalsSnapshot};
use mcr_rules::Config;
use mcr_sys::filter::WantedDestination;
use mcr_sys::membership::Membership;
use mcr_sys::network::NetworkEvent;

use crate::core::actual::{Capture, Readied};
use crate::core::ledger::{Counters, RuleCount};
use crate::core::machine::{Machine, Unacknowledged};
use crate::core::plan::{Absorber, RuleKey, WorkerId};
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
    RuleSet(Arc<RuleSet>, u64, Vec<RuleKey>),
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
    inbox: VecDeque<Told>,
    outbox: VecDeque<Says>,
    egress: BTreeSet<EgressId>,
    /// The rule set in force and the rules' keys, in its order.
    pub(crate) applied: Option<(Arc<RuleSet>, Vec<RuleKey>)>,
    killed: bool,
}

/// What the machine can reach.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) machine: Machine,
    pub(crate) now: Duration,
    pub(crate) joined: BTreeSet<Membership>,
    pub(crate) absorbed: BTreeSet<Absorber>,
    pub(crate) captures: BTreeMap<WorkerId, Arc<[WantedDestination]>>,
    pub(crate) pages: BTreeMap<WorkerId, Page>,
    pub(crate) processes: BTreeMap<WorkerId, Process>,
    /// What was really relayed, by rule.
    truth: BTreeMap<RuleKey, u64>,
    /// Every system call fails.
    pub(crate) failing: bool,
    /// Workers refuse every rule set.
    pub(crate) refusing: bool,
    pids: u32,
}

impl World {
    /// Two cores, the sample network, no rules.
    pub(crate) fn new() -> Self {
        let mut machine = Machine::new([0, 1]);
        let network = crate::core::plan::samples::network();
        let links = network.links().cloned().collect();
        let addresses = network.links().flat_map(|link| network.addresses(link.ifindex).to_vec()).collect();
        machine.network_dump(links, addresses);
        Self { machine, now: Duration::from_secs(1000), ..Self::default() }
    }

    /// A world in which this config is in force.
    pub(crate) fn with(config: Config) -> Self {
        let mut world = Self::new();
        assert_eq!(world.change(config), Ok(()));
        world
    }

    /// Puts a config in force and waits until that is done or undone.
    pub(crate) fn change(&mut self, config: Config) -> Result<(), String> {
        assert!(self.machine.begin_change(config, Unacknowledged::Undo, self.now));
        self.await_change()
    }

    /// Lets everybody work until the change under way is done or undone.
    pub(crate) fn await_change(&mut self) -> Result<(), String> {
        loop {
            self.settle();
            if let Some(result) = self.machine.finish_change(self.now) {
                self.calm();
                return result;
            }
            if !self.work() {
                self.now = self.machine.next_deadline().expect("a deadline for the change");
            }
        }
    }

    pub(crate) fn network(&mut self, events: impl IntoIterator<Item = NetworkEvent>) {
        self.machine.network_events(events);
    }

    /// Runs actions until there are none. Gives what was done.
    pub(crate) fn settle(&mut self) -> Vec<Action> {
        let mut done = Vec::new();
        for _ in 0..100 {
            let actions = self.machine.actions(self.now);
            if actions.is_empty() {
                return done;
            }
            for action in actions {
                self.execute(action.clone());
                done.push(action);
            }
        }
        panic!("no rest after {done:#?}");
    }

    /// Every worker does one thing and is heard. Gives whether there was anything.
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

    /// Lets the time pass in which everything that waits is done.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.calm();
            match self.machine.next_deadline() {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
            let _ = self.machine.finish_change(self.now);
        }
        self.now = end;
        self.calm();
    }

    fn execute(&mut self, action: Action) {
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
                self.joined.remove(&membership);
                actual.join_failed(membership, failure(), now);
            }
            Action::Join { membership, carrier_epoch, again } => {
                assert_eq!(self.joined.insert(membership), !again, "{membership:?}");
                actual.joined(membership, carrier_epoch);
            }
            Action::Leave(membership) => {
                self.joined.remove(&membership);
                actual.left(&membership);
            }
            Action::OpenCapture { worker, .. } if self.failing => {
                actual.capture_failed(&worker, failure(), now)
            }
            Action::OpenCapture { worker, wanted } => {
                actual.capture_opened(&worker, Arc::clone(&wanted));
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
            Action::Spawn(worker) if self.failing => actual.spawn_failed(&worker, failure(), now),
            Action::Spawn(worker) => self.spawn(worker),
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
            Action::SendRuleSet { worker, set, hash } => self.send_rule_set(&worker, set, hash),
            Action::Stop(worker) => self.tell(&worker, Told::Stop),
            Action::Kill { worker, .. } => self.processes.get_mut(&worker).expect("a process").killed = true,
            Action::Discard(worker) => self.discard(&worker),
        }
    }

    fn spawn(&mut self, worker: WorkerId) {
        assert!(self.captures.contains_key(&worker), "{worker} without a capture socket");
        self.pids += 1;
        self.machine.actual.spawned(&worker, self.pids, self.now);
        let process = Process {
            inbox: VecDeque::new(),
            outbox: VecDeque::from([Says::Ready]),
            egress: BTreeSet::new(),
            applied: None,
            killed: false,
        };
        assert!(self.processes.insert(worker.clone(), process).is_none(), "two processes of {worker}");
    }

    fn tell(&mut self, worker: &WorkerId, told: Told) {
        self.processes.get_mut(worker).expect("a process to tell").inbox.push_back(told);
    }

    fn send_rule_set(&mut self, worker: &WorkerId, set: Arc<RuleSet>, hash: u64) {
        assert_eq!(set.content_hash(), hash);
        let filter = &self.captures[worker];
        // A filter that can't be attached makes its rules pending, but holds no other change back.
        let capture = &self.machine.actual.workers[worker].capture;
        let narrow = self.failing || matches!(capture, Capture::Open { failure: Some(_), .. });
        let mut slots = BTreeSet::new();
        for rule in &set.rules {
            let wanted = WantedDestination { address: rule.group, port: rule.port };
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
        self.tell(worker, Told::RuleSet(set, hash, keys));
    }

    fn discard(&mut self, id: &WorkerId) {
        assert!(!self.processes.contains_key(id), "{id} is discarded alive");
        self.captures.remove(id);
        if let (Some(page), Some(worker)) = (self.pages.remove(id), self.machine.actual.workers.get(id)) {
            self.machine.ledger.discard(id, worker, &page, &TotalsSnapshot::default());
        }
        self.machine.actual.discarded(id);
    }

    /// A worker takes its next message. Gives whether there was one.
    pub(crate) fn turn(&mut self, id: &WorkerId) -> bool {
        let Some(process) = self.processes.get_mut(id) else { return false };
        if process.killed {
            self.die(id);
            return true;
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
            Some(Told::RuleSet(set, hash, keys)) => {
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

    /// The machine hears the next thing that a worker said. Gives whether there was one.
    pub(crate) fn hear(&mut self, id: &WorkerId) -> bool {
        let Some(said) = self.processes.get_mut(id).and_then(|process| process.outbox.pop_front()) else {
            return false;
        };
        match said {
            Says::Ready => {
                self.machine.actual.ready(id, Readied::new(IoBackend::IoUring, 65534, Vec::new()), self.now);
            }
            Says::Refused(generation) => {
                self.machine.actual.refused(id, generation, "no".to_owned(), self.now)
            }
            Says::Applied(generation, hash) => {
                let released = self.machine.actual.applied(id, generation, hash);
                self.machine.ledger.release(id, &released, &self.pages[id]);
            }
        }
        true
    }

    /// A worker's process ends.
    pub(crate) fn die(&mut self, id: &WorkerId) {
        if self.processes.remove(id).is_some() {
            self.machine.actual.died(id, "killed by the test".to_owned(), self.now);
        }
    }

    /// Every rule in force relays one datagram to each of its outputs.
    pub(crate) fn traffic(&mut self) {
        for (id, process) in &self.processes {
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
        let pages =
            self.pages.iter().filter_map(|(id, page)| Some((id, self.machine.actual.workers.get(id)?, page)));
        self.machine.ledger.count(pages)
    }

    /// What must hold at any moment.
    pub(crate) fn check(&self) {
        let counts = self.counts();
        for (rule, planned) in self.machine.config().rules.iter().zip(&self.machine.plan().rules) {
            let truth = self.truth.get(&planned.key).copied().unwrap_or_default();
            let count = counts.get(&planned.key).cloned().unwrap_or_default();
            assert_eq!(count.packets, truth, "{:?}", planned.key);
            let outputs = crate::core::plan::OutputKey::all_of(rule);
            let sent: u64 =
                outputs.iter().filter_map(|key| count.outputs.get(key)).map(|output| output.packets).sum();
            assert_eq!(count.due_on(&outputs), sent, "{:?}", planned.key);
        }
        for (id, process) in &self.processes {
            let Some((set, _)) = &process.applied else { continue };
            if matches!(self.machine.actual.workers[id].capture, Capture::Open { failure: Some(_), .. }) {
                continue;
            }
            for rule in &set.rules {
                let wanted = WantedDestination { address: rule.group, port: rule.port };
                assert!(self.captures[id].contains(&wanted), "{id}: the filter stops a rule in force");
            }
        }
        self.check_states();
    }

    /// An active rule is in force in each of its workers and in no other, and its groups are joined.
    fn check_states(&self) {
        use mcr_control::reply::RuleState;
        let plan = self.machine.plan();
        let states = crate::core::status::rule_states(plan, &self.machine.actual);
        for ((key, (state, _), _), planned) in states.zip(&plan.rules) {
            if state != RuleState::Active {
                continue;
            }
            let interface = planned.installed.as_ref().expect("an active rule has an interface");
            for core in &plan.interfaces[interface].cores {
                let id = WorkerId { interface: interface.clone(), core: *core };
                let Some(process) = self.processes.get(&id) else { panic!("{id} has no process") };
                let (set, _) = process.applied.as_ref().expect("a rule set");
                assert!(set.rules.iter().any(|rule| rule.id == key.id), "{id} lacks {key:?}");
            }
            assert!(planned.memberships.iter().all(|membership| self.joined.contains(membership)));
            assert!(planned.absorber.iter().all(|absorber| self.absorbed.contains(absorber)));
        }
    }

    /// What must hold when nothing fails and everybody has had time.
    pub(crate) fn check_converged(&self) {
        let plan = self.machine.plan();
        assert_eq!(self.joined, plan.memberships.keys().copied().collect());
        assert_eq!(self.absorbed, plan.absorbers.keys().copied().collect());
        for (interface, planned) in plan.interfaces.iter().filter(|(_, planned)| planned.up) {
            for core in planned.cores.iter().filter(|_| !planned.relays.is_empty()) {
                let id = WorkerId { interface: interface.clone(), core: *core };
                let worker = &self.machine.actual.workers[&id];
                assert!(worker.is_current(Some(planned)), "{id} is not up to date: {worker:#?}");
            }
        }
        let wanted = |id: &WorkerId| {
            plan.interfaces.get(&id.interface).is_some_and(|planned| {
                // While the interface is down no successor can take over, so the old worker stays.
                !planned.up
                    || planned.cores.contains(&id.core) && (planned.pinned || !planned.relays.is_empty())
            })
        };
        for id in self.captures.keys() {
            assert!(wanted(id), "{id} is not wanted");
        }
        assert!(self.processes.keys().eq(self.captures.keys()), "a capture socket without a process");
    }
}
