//! All inputs of the supervisor as one type: the only way to change the state of [`Machine`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mcr_control::reply::EngineReason;
use mcr_link::rule_set::EgressId;
use mcr_link::telemetry::TotalsSnapshot;
use mcr_rules::{Config, InterfaceName, RuleId};
use mcr_sys::ethtool::ReceiveOffload;
use mcr_sys::link::IfIndex;
use mcr_sys::membership::Membership;
use mcr_sys::network::{Address, Link, NetworkEvent};

use super::{Machine, Output, Unacknowledged};
use crate::core::actual::kernel_engine::{KernelRuleSet, ledger_id};
use crate::core::actual::{Absorbed, Actual, Death, Readied, Released};
use crate::core::aggregation::{OffloadRecord, Received, Refusal};
use crate::core::early_drop::{Report as EarlyDropReport, Wanted};
use crate::core::filter_set::FilterSet;
use crate::core::health::Observation;
use crate::core::ledger::{Counters, Ledger, RuleCount};
use crate::core::plan::{Absorber, EgressKey, Incarnations, RuleKey, WorkerId, WorkerSettings};
use crate::core::ports::PortHolders;
use crate::core::rate_limits::RateLimits;

pub(crate) enum Event<'a> {
    /// All links and addresses of the host were read.
    NetworkDump { links: Vec<Link>, addresses: Vec<Address> },
    /// Links or addresses changed.
    Network(Vec<NetworkEvent>),
    /// State of an earlier supervisor was adopted. For a machine that knows the network and has no config yet.
    Adopted {
        adopted: Box<Adopted>,
        /// The telemetry page of a worker.
        page: &'a dyn Fn(&WorkerId) -> Option<&'a dyn Counters>,
    },
    /// Request for another config. Refused while a change is pending or on trial.
    Change {
        config: Config,
        /// What to do if it is not acknowledged in time.
        unacknowledged: Unacknowledged,
        /// It is reverted unless confirmed within this time after it is in force.
        confirm_within: Option<Duration>,
    },
    /// Keep the change on trial. Refused if there is none.
    Confirm,
    /// Revert the change on trial. Refused if there is none, or a change is pending.
    Revert,
    /// The counters of all rules were sampled.
    Counted(&'a BTreeMap<RuleKey, RuleCount>),
    /// What the workers of each interface have received was sampled.
    Received(&'a BTreeMap<IfIndex, Received>),
    /// The sockets at the ports of unicast inputs were examined: these are of other programs.
    PortsExamined(PortHolders),
    /// The attacher of the early drop came, reported or went.
    EarlyDrop(EarlyDropReport),
    /// Something happened to the kernel engine.
    Kernel(KernelReport<'a>),
    /// An action was executed, with this outcome.
    Outcome(Outcome<'a>),
    /// A report about a worker.
    Worker(&'a WorkerId, Report<'a>),
}

#[cfg(test)]
impl Event<'_> {
    /// A config to be put in force in any case.
    pub(crate) fn start(config: Config) -> Self {
        Self::Change { config, unacknowledged: Unacknowledged::Keep, confirm_within: None }
    }
}

impl<'a> From<Outcome<'a>> for Event<'a> {
    fn from(outcome: Outcome<'a>) -> Self {
        Self::Outcome(outcome)
    }
}

/// The outcome of an [`Action`](crate::core::reconcile::Action). An error is human-readable.
pub(crate) enum Outcome<'a> {
    /// A group was joined, in this carrier epoch.
    Joined(Membership, Result<u64, String>),
    Left(Membership),
    /// An absorber was opened, or not.
    Absorbed(Absorber, Absorbed),
    AbsorberClosed(Absorber),
    /// A capture socket was opened, with this filter and receive buffer.
    CaptureOpened(&'a WorkerId, Result<(FilterSet, u32), String>),
    /// A filter was attached to a capture socket; on an error the previous one stays.
    FilterAttached(&'a WorkerId, Result<FilterSet, String>),
    /// This receive buffer size was requested for a capture socket.
    ReceiveBufferResized(&'a WorkerId, u32),
    /// A process with this id was started with these settings, and sent its start message.
    Spawned(&'a WorkerId, Result<(u32, WorkerSettings), String>),
    /// Egress sockets were passed.
    EgressSent(&'a WorkerId, &'a [(EgressId, EgressKey)]),
    /// Opening an egress socket failed.
    EgressFailed(&'a WorkerId, EgressKey, String),
    /// The attacher was told to drop this, with this generation.
    EarlyDropSet(Wanted, u64),
    /// The filter of a capture socket is the program now, or not.
    CaptureProgramSet(&'a WorkerId, Result<bool, String>),
    /// The kernel relays these rules now, or none because that failed.
    KernelRulesSet(Arc<KernelRuleSet>, bool),
    /// The counters of rules before this generation can be read.
    KernelRulesSettled(u64, Option<&'a dyn Counters>),
    /// The capture socket and telemetry page of a worker were closed; these are its last counters.
    Discarded(&'a WorkerId, Option<LastCounts<'a>>),
    /// Which received frames an interface merges was read.
    OffloadRead(IfIndex, Result<ReceiveOffload, String>),
    /// It was set, and this is in force.
    OffloadSet(IfIndex, Result<ReceiveOffload, Refusal>),
}

/// The last counters of a worker.
pub(crate) struct LastCounts<'a> {
    pub(crate) page: &'a dyn Counters,
    pub(crate) totals: &'a TotalsSnapshot,
    /// Frames dropped because the kernel's queue was full.
    pub(crate) kernel_drops: u64,
}

/// What happened to the kernel engine.
pub(crate) enum KernelReport<'a> {
    /// The attacher has loaded the programs, and passed the maps.
    Present,
    /// It can't.
    Unavailable(EngineReason),
    /// The attacher is gone, and with it what it has attached; these are the last counters.
    Gone(&'a dyn Counters, &'a TotalsSnapshot),
    /// On these interfaces, decisions are not executed.
    NotExecuted(BTreeSet<IfIndex>),
    /// These rules are traced, which workers do.
    Traced(BTreeSet<RuleId>),
}

/// A report about a worker's process.
pub(crate) enum Report<'a> {
    Ready(Readied),
    /// It applied a rule set, and counts in this page.
    Applied {
        generation: u64,
        hash: u64,
        page: Option<&'a dyn Counters>,
    },
    /// It refused a rule set; the one before stays in force.
    Refused {
        generation: u64,
        reason: String,
    },
    /// It is about to exit, for this reason.
    Failing(String),
    /// It exited in this way.
    Died(Death),
    /// Its telemetry page was read.
    Observed {
        /// The health data in it.
        seen: Observation,
        /// The read happened when it was due.
        on_time: bool,
    },
}

/// The state of an earlier supervisor, converted to this one's.
#[derive(Debug, Default)]
pub(crate) struct Adopted {
    pub(crate) actual: Actual,
    pub(crate) ledger: Ledger,
    /// The incarnations of the rules of the running config.
    pub(crate) incarnations: Incarnations,
    /// The newest incarnation of any rule.
    pub(crate) last_incarnation: u64,
    /// The cores of interfaces that are not pinned.
    pub(crate) cores: BTreeMap<InterfaceName, u16>,
    /// Which interfaces were made to merge what they receive.
    pub(crate) offloads: Vec<OffloadRecord>,
    /// Slots that workers no longer count in.
    pub(crate) released: Vec<(WorkerId, Released)>,
}

impl Machine {
    /// Handles an event. Returns whether it changed anything, so that [`Self::poll`] may have work; false for a
    /// command means that it is refused.
    pub(crate) fn handle<'a>(&mut self, now: Duration, event: impl Into<Event<'a>>) -> bool {
        match event.into() {
            Event::NetworkDump { links, addresses } => {
                self.aggregation.note_dump();
                let changed = self.network.replace(links, addresses);
                self.network_changed(&changed)
            }
            Event::Network(events) => {
                self.aggregation.note_events(&events);
                let changed = events.into_iter().filter_map(|event| self.network.apply(event)).collect();
                self.network_changed(&changed)
            }
            Event::Adopted { adopted, page } => {
                self.adopt(*adopted, page);
                true
            }
            Event::Change { config, unacknowledged, confirm_within } => {
                self.begin_change(config, unacknowledged, confirm_within, now)
            }
            Event::Confirm => self.confirm(),
            Event::Revert => self.end_trial(now),
            Event::Counted(counts) => self.sample(now, counts),
            Event::Received(received) => self.aggregation.sample(now, received),
            Event::PortsExamined(holders) => self.actual.ports_examined(holders),
            Event::EarlyDrop(report) => self.actual.early_drop_reported(report, now),
            Event::Kernel(report) => {
                self.note_kernel(report, now);
                true
            }
            Event::Outcome(outcome) => {
                self.note(outcome, now);
                true
            }
            Event::Worker(id, report) => self.worker_report(id, report, now),
        }
    }

    fn note_kernel(&mut self, report: KernelReport<'_>, now: Duration) {
        let kernel = &mut self.actual.kernel;
        match report {
            KernelReport::Present => kernel.present(),
            KernelReport::Unavailable(reason) => kernel.unavailable(reason),
            KernelReport::Gone(page, totals) => {
                self.ledger.discard(&ledger_id(), kernel.counting(), page, totals, 0);
                kernel.gone();
            }
            KernelReport::NotExecuted(interfaces) => kernel.not_executed(&interfaces, now),
            KernelReport::Traced(rules) => kernel.trace(rules),
        }
    }

    fn note(&mut self, outcome: Outcome<'_>, now: Duration) {
        let actual = &mut self.actual;
        match outcome {
            Outcome::Joined(membership, joined) => actual.joined(membership, joined, now),
            Outcome::Left(membership) => actual.left(&membership),
            Outcome::Absorbed(absorber, absorbed) => actual.absorbed(absorber, absorbed, now),
            Outcome::AbsorberClosed(absorber) => actual.absorber_closed(&absorber),
            Outcome::CaptureOpened(id, opened) => actual.capture_opened(id, opened, now),
            Outcome::FilterAttached(id, attached) => actual.filter_attached(id, attached, now),
            Outcome::ReceiveBufferResized(id, bytes) => actual.receive_buffer_resized(id, bytes),
            Outcome::Spawned(id, spawned) => actual.spawned(id, spawned, now),
            Outcome::EgressSent(id, sockets) => actual.egress_sent(id, sockets),
            Outcome::EgressFailed(id, key, reason) => actual.egress_failed(id, key, reason, now),
            Outcome::EarlyDropSet(wanted, generation) => actual.early_drop_sent(generation, wanted, now),
            Outcome::CaptureProgramSet(id, set) => actual.kernel.capture_set(id, set, now),
            Outcome::KernelRulesSet(set, done) => actual.kernel.rules_set(set, done, now),
            Outcome::KernelRulesSettled(generation, page) => {
                let released = actual.kernel.settled(generation);
                if let Some(page) = page {
                    self.ledger.release(&ledger_id(), &released, page);
                }
            }
            Outcome::Discarded(id, last) => {
                if let Some((last, worker)) = last.zip(actual.workers.get(id)) {
                    self.ledger.discard(id, worker, last.page, last.totals, last.kernel_drops);
                }
                actual.workers.remove(id);
                actual.kernel.capture_renewed(id);
            }
            Outcome::OffloadRead(ifindex, read) => self.aggregation.note_read(ifindex, read, now),
            Outcome::OffloadSet(ifindex, set) => self.aggregation.note_set(ifindex, set, now),
        }
    }

    fn worker_report(&mut self, id: &WorkerId, report: Report<'_>, now: Duration) -> bool {
        let Some(worker) = self.actual.workers.get_mut(id) else { return false };
        match report {
            Report::Ready(readied) => worker.ready(readied, now),
            Report::Applied { generation, hash, page } => {
                let released = worker.applied(generation, hash, now);
                if let Some(page) = page {
                    self.ledger.release(id, &released, page);
                }
            }
            Report::Refused { generation, reason } => worker.refused(generation, reason, now),
            Report::Failing(reason) => worker.last_failure = Some(reason),
            Report::Died(death) => worker.died(death, now),
            Report::Observed { seen, on_time } => {
                let finding = worker.check(&seen, on_time, now);
                let found = finding.map(|finding| Output::Found { worker: id.clone(), finding });
                let any = found.is_some();
                self.found.extend(found);
                return any;
            }
        }
        true
    }

    fn adopt<'a>(&mut self, adopted: Adopted, page: &'a dyn Fn(&WorkerId) -> Option<&'a dyn Counters>) {
        let Adopted { actual, ledger, incarnations, last_incarnation, cores, offloads, released } = adopted;
        self.aggregation.adopt(offloads);
        self.rate_limits = RateLimits::adopted();
        (self.actual, self.ledger) = (actual, ledger);
        (self.incarnations, self.last_incarnation) = (incarnations, last_incarnation);
        self.cores.resume(cores);
        for (id, released) in released {
            if let Some(page) = page(&id) {
                self.ledger.release(&id, &released, page);
            }
        }
    }
}
