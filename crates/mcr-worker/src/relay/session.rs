//! What the supervisor says while a worker relays.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use mcr_link::message::{self, FromWorker, Incoming, ToWorker};
use mcr_link::rule_set::{EgressId, RuleSet, RuleSetChange, RuleSetError};
use mcr_link::trace::TraceOrder;
use mcr_rules::log::DATAPLANE;
use mcr_sys::SysError;
use mcr_sys::channel::Channel;
use mcr_sys::shared_memory::read_sealed;
use tracing::{debug, info, warn};

use super::WorkerError;
use super::drift_check::Inspection;
use super::logging::LogControl;
use super::sockets::Sockets;
use super::stopwatch::Stopwatch;
use crate::engine::Engine;
use crate::engine::accounts::Accounts;
use crate::engine::table::Table;

/// What a loop does for the control side, between batches.
pub(super) trait Transport {
    /// The egress sockets.
    fn sockets(&self) -> &Sockets;

    /// Takes an egress socket.
    ///
    /// # Errors
    /// The ring can't take another.
    fn add_socket(&mut self, id: EgressId, socket: OwnedFd) -> Result<(), SysError>;

    /// Closes the egress sockets that are not wanted.
    ///
    /// # Errors
    /// The ring does not let go of one.
    fn keep_sockets(&mut self, wanted: &BTreeSet<EgressId>) -> Result<(), SysError>;

    /// Waits until every send has ended and is settled.
    ///
    /// # Errors
    /// The ring failed.
    fn finish_sends(&mut self, page: &Accounts) -> Result<(), SysError>;
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Continue,
    Stop,
}

/// What both loops share; `F` is how the loop names its frames.
pub(super) struct Relay<F> {
    pub(super) channel: Channel,
    pub(super) page: Accounts,
    pub(super) engine: Engine<F>,
    pub(super) log: LogControl,
    /// The rule set that was applied last.
    pub(super) rules: RuleSet,
    /// A rule set is in force: frames are taken.
    pub(super) started: bool,
    pub(super) inspection: Inspection,
    pub(super) stopwatch: Stopwatch,
    /// The next rule set is acknowledged and not applied.
    #[cfg(any(debug_assertions, feature = "fault-injection"))]
    pub(super) lose_update: bool,
}

impl<F: Copy> Relay<F> {
    /// Shows life, and begins to look at the table in use when that is due.
    pub(super) fn beat(&mut self) {
        self.page.beat();
        self.stopwatch.beat();
        if self.started {
            self.inspection.beat();
        }
    }

    /// Whether a look at the table in use is under way: then the loop must turn.
    #[inline]
    pub(super) const fn is_inspecting(&self) -> bool {
        self.inspection.is_under_way()
    }

    /// Goes on with the look at the table in use, by one slice.
    #[inline]
    pub(super) fn inspect(&mut self) {
        if self.inspection.is_under_way() {
            self.inspection.go_on(self.engine.table(), &self.page);
        }
    }

    /// Does what the supervisor has asked for since the last time.
    ///
    /// # Errors
    /// The channel or the ring failed.
    pub(super) fn handle_messages(&mut self, transport: &mut impl Transport) -> Result<Turn, WorkerError> {
        loop {
            match message::receive(&self.channel)? {
                Incoming::Message(message, descriptors) => {
                    if self.handle_message(message, descriptors, transport)? == Turn::Stop {
                        return Ok(Turn::Stop);
                    }
                }
                Incoming::WouldBlock => return Ok(Turn::Continue),
                Incoming::Closed => {
                    info!(target: DATAPLANE, "the supervisor is gone");
                    transport.finish_sends(&self.page)?;
                    return Ok(Turn::Stop);
                }
            }
        }
    }

    fn handle_message(
        &mut self,
        message: ToWorker,
        descriptors: Vec<OwnedFd>,
        transport: &mut impl Transport,
    ) -> Result<Turn, WorkerError> {
        match message {
            ToWorker::Start(_) => warn!(target: DATAPLANE, "a second start is ignored"),
            ToWorker::Egress(ids) if ids.len() == descriptors.len() => {
                debug!(target: DATAPLANE, sockets = ids.len(), "egress sockets");
                for (id, socket) in ids.into_iter().zip(descriptors) {
                    transport.add_socket(id, socket)?;
                }
            }
            ToWorker::Egress(ids) => {
                // The rule set that needs them will be refused, which tells the supervisor.
                warn!(target: DATAPLANE, named = ids.len(), passed = descriptors.len(), "egress sockets ignored");
            }
            ToWorker::RuleSet { generation, hash } => {
                let set = read(&descriptors, |bytes| RuleSet::decode(bytes, hash));
                self.apply_and_answer(generation, hash, set, transport)?;
                self.make_room(&descriptors, transport)?;
            }
            ToWorker::RuleSetChange { generation, hash } => {
                let set = read(&descriptors, |bytes| RuleSetChange::decode(bytes)?.apply(&self.rules, hash));
                self.apply_and_answer(generation, hash, set, transport)?;
                self.make_room(&descriptors, transport)?;
            }
            ToWorker::LogLevels(levels) => self.log.set(&levels),
            ToWorker::Trace(order) => self.trace(order, &descriptors),
            ToWorker::EndTrace(rule) => self.page.change_traces(|tracer| tracer.end(rule)),
            #[cfg(any(debug_assertions, feature = "fault-injection"))]
            ToWorker::Fault(fault) => self.commit(fault),
            ToWorker::Stop => {
                info!(target: DATAPLANE, "told to stop");
                transport.finish_sends(&self.page)?;
                return Ok(Turn::Stop);
            }
        }
        Ok(Turn::Continue)
    }

    /// A set came without its file if this process can have no more descriptors. Then sockets that only the refused set
    /// names are closed, or no other set would ever arrive; the supervisor takes them for closed, too.
    fn make_room(&self, descriptors: &[OwnedFd], transport: &mut impl Transport) -> Result<(), WorkerError> {
        if descriptors.is_empty() {
            transport.keep_sockets(&named_sockets(&self.rules))?;
        }
        Ok(())
    }

    fn apply_and_answer(
        &mut self,
        generation: u64,
        hash: u64,
        set: Result<RuleSet, ApplyError>,
        transport: &mut impl Transport,
    ) -> Result<(), WorkerError> {
        let answer = match set.and_then(|set| self.apply(generation, set, transport)) {
            Ok(()) => FromWorker::Applied { generation, hash },
            Err(ApplyError::Unusable(reason)) => {
                warn!(target: DATAPLANE, generation, %reason, "rule set refused");
                FromWorker::Refused { generation, reason }
            }
            Err(ApplyError::System(error)) => return Err(error.into()),
        };
        Ok(message::send(&self.channel, &answer, &[])?)
    }

    /// Puts a rule set into force between two batches: what is under way ends on the old sockets, then those that the
    /// new set does not name are closed.
    fn apply(
        &mut self,
        generation: u64,
        set: RuleSet,
        transport: &mut impl Transport,
    ) -> Result<(), ApplyError> {
        let unusable = |error: &dyn std::fmt::Display| ApplyError::Unusable(error.to_string());
        if set.generation != generation {
            let reason = format!("generation {} was announced as {generation}", set.generation);
            return Err(ApplyError::Unusable(reason));
        }
        self.page.beat();
        let table = Table::build(&set, |id| transport.sockets().get(id)).map_err(|error| unusable(&error))?;
        #[cfg(any(debug_assertions, feature = "fault-injection"))]
        if std::mem::take(&mut self.lose_update) {
            return Ok(());
        }

        transport.finish_sends(&self.page)?;
        if !self.started {
            let outputs = table.rules().iter().flat_map(|rule| &rule.outputs);
            outputs.for_each(|output| self.page.settle_output(output.slot()));
            self.page.settle_totals();
        }
        self.engine.replace(table, &self.page);
        transport.keep_sockets(&named_sockets(&set))?;
        self.page.applied(generation, self.engine.table().hash);
        self.started = true;
        self.inspection = Inspection::begun();
        self.page.beat();
        debug!(target: DATAPLANE, generation, rules = set.rules.len(), "rule set applied");
        self.rules = set;
        if self.page.is_tracing() {
            self.page.trace(|tracer| {
                tracer.forget_runs();
                tracer.find_rules(&self.rules);
            });
        }
        Ok(())
    }

    fn trace(&mut self, order: TraceOrder, descriptors: &[OwnedFd]) {
        let begun = descriptors
            .first()
            .is_some_and(|ring| self.page.change_traces(|tracer| tracer.begin(order, ring, &self.rules)));
        if begun {
            debug!(target: DATAPLANE, rule = %order.rule, "traced");
        } else {
            warn!(target: DATAPLANE, rule = %order.rule, "can't be traced");
        }
    }

    #[cfg(any(debug_assertions, feature = "fault-injection"))]
    fn commit(&mut self, fault: mcr_link::message::Fault) {
        use mcr_link::message::Fault;
        warn!(target: DATAPLANE, ?fault, "a fault on purpose");
        match fault {
            Fault::ForgetRule => self.engine.spoil(Table::forget_rule),
            Fault::AlterOutput => self.engine.spoil(Table::alter_output),
            Fault::LoseUpdate => self.lose_update = true,
        }
    }
}

/// The rule set that a message brings.
fn named_sockets(set: &RuleSet) -> BTreeSet<EgressId> {
    set.rules.iter().flat_map(|rule| &rule.outputs).filter_map(|output| output.egress).collect()
}

fn read(
    descriptors: &[OwnedFd],
    decode: impl FnOnce(&[u8]) -> Result<RuleSet, RuleSetError>,
) -> Result<RuleSet, ApplyError> {
    let [file] = descriptors else {
        return Err(ApplyError::Unusable(format!("{} descriptors instead of 1", descriptors.len())));
    };
    let bytes = read_sealed(file.as_fd(), RuleSet::MAX_BYTES)
        .map_err(|error| ApplyError::Unusable(error.to_string()))?;
    decode(&bytes).map_err(|error| ApplyError::Unusable(error.to_string()))
}

#[derive(Debug)]
enum ApplyError {
    Unusable(String),
    System(SysError),
}

impl From<SysError> for ApplyError {
    fn from(error: SysError) -> Self {
        Self::System(error)
    }
}
