//! Handles the messages of the supervisor while a worker relays.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};

use mcr_link::log::LogControl;
use mcr_link::message::{self, FromWorker, Incoming, ToWorker};
use mcr_link::rule_set::{EgressId, RuleSet, RuleSetChange, RuleSetError};
use mcr_link::trace::TraceRequest;
use mcr_rules::log::DATAPLANE;
use mcr_sys::SysError;
use mcr_sys::channel::Channel;
use mcr_sys::shared_memory::read_sealed;
use tracing::{debug, info, warn};

use super::WorkerError;
use super::drift_check::DriftCheck;
use super::sockets::Sockets;
use super::stopwatch::Stopwatch;
use crate::engine::Engine;
use crate::engine::accounts::Accounts;
use crate::engine::table::Table;

/// Operations of a loop for the session, between batches.
pub(super) trait Transport {
    /// The loop's frame handle.
    type Frame: Copy;

    /// Sends what merges hold.
    fn flush_held(&mut self, engine: &mut Engine<Self::Frame>, page: &Accounts);

    /// The egress sockets.
    fn sockets(&self) -> &Sockets;

    /// Adds an egress socket. Fails if the ring can't register it.
    fn add_socket(&mut self, id: EgressId, socket: OwnedFd) -> Result<(), SysError>;

    /// Closes the other egress sockets. Fails if the ring can't unregister one.
    fn keep_sockets(&mut self, wanted: &BTreeSet<EgressId>) -> Result<(), SysError>;

    /// Waits until every send is complete and counted. Fails if the ring failed.
    fn finish_sends(&mut self, page: &Accounts) -> Result<(), SysError>;
}

/// The state that both loops share; `F` is the loop's frame handle.
pub(super) struct Session<F> {
    pub(super) channel: Channel,
    pub(super) page: Accounts,
    pub(super) engine: Engine<F>,
    pub(super) log: LogControl,
    /// The rule set in force.
    pub(super) rules: RuleSet,
    /// Whether a rule set is in force, so that frames are received.
    pub(super) started: bool,
    pub(super) drift_check: DriftCheck,
    pub(super) stopwatch: Stopwatch,
    /// Number of heartbeats.
    pub(super) beats: usize,
    /// The next rule set will be acknowledged without being applied.
    #[cfg(any(debug_assertions, feature = "fault-injection"))]
    pub(super) lose_update: bool,
}

impl<F: Copy> Session<F> {
    /// Records a heartbeat, counts replies, and starts a drift check and a measurement when they are due.
    pub(super) fn beat(&mut self, sockets: &Sockets) {
        self.page.beat();
        self.beats = self.beats.wrapping_add(1);
        self.engine.expire_fragments(&self.page);
        self.engine.settle_merges(&self.page);
        sockets.count_replies(self.beats, self.engine.table(), &self.page);
        self.stopwatch.beat();
        if self.started {
            self.drift_check.beat();
        }
    }

    /// Whether a drift check is in progress, so that the loop must not wait.
    #[inline]
    pub(super) const fn is_checking_drift(&self) -> bool {
        self.drift_check.is_running()
    }

    /// Continues the drift check, if there is one, by one slice.
    #[inline]
    pub(super) fn check_drift(&mut self) {
        if self.drift_check.is_running() {
            self.drift_check.step(self.engine.table(), &self.page);
        }
    }

    /// Handles all messages that are there. `Break` to stop. Fails if the channel or the ring failed.
    pub(super) fn handle_messages(
        &mut self,
        transport: &mut impl Transport<Frame = F>,
    ) -> Result<ControlFlow<()>, WorkerError> {
        loop {
            match message::receive(&self.channel)? {
                Incoming::Message(message, descriptors) => {
                    if self.handle_message(message, descriptors, transport)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Incoming::WouldBlock => return Ok(ControlFlow::Continue(())),
                Incoming::Closed => {
                    info!(target: DATAPLANE, "the supervisor closed the channel");
                    transport.flush_held(&mut self.engine, &self.page);
                    transport.finish_sends(&self.page)?;
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
    }

    fn handle_message(
        &mut self,
        message: ToWorker,
        descriptors: Vec<OwnedFd>,
        transport: &mut impl Transport<Frame = F>,
    ) -> Result<ControlFlow<()>, WorkerError> {
        match message {
            ToWorker::Start(_) => warn!(target: DATAPLANE, "second start message ignored"),
            ToWorker::Egress(ids) if ids.len() == descriptors.len() => {
                debug!(target: DATAPLANE, sockets = ids.len(), "egress sockets");
                for (id, socket) in ids.into_iter().zip(descriptors) {
                    transport.add_socket(id, socket)?;
                }
            }
            ToWorker::Egress(ids) => {
                // The supervisor is informed when the rule set that needs them is refused.
                warn!(target: DATAPLANE, named = ids.len(), passed = descriptors.len(), "egress sockets ignored");
            }
            ToWorker::RuleSet { generation, hash } | ToWorker::RuleSetChange { generation, hash } => {
                let set = read(&descriptors, |bytes| match message {
                    ToWorker::RuleSet { .. } => RuleSet::decode(bytes, hash),
                    _ => RuleSetChange::decode(bytes)?.apply(&self.rules, hash),
                });
                self.apply_and_answer(generation, hash, set, transport)?;
                // A rule set arrives without its file if this process is out of descriptors. Then the sockets that only
                // the refused set names are closed, or no other set could arrive; the supervisor assumes them closed,
                // too.
                if descriptors.is_empty() {
                    transport.keep_sockets(&used_sockets(&self.rules))?;
                }
            }
            ToWorker::LogLevels(levels) => self.log.replace(&levels),
            ToWorker::Trace(request) => self.trace(request, &descriptors),
            ToWorker::EndTrace(rule) => self.page.change_traces(|tracer| tracer.end(rule)),
            #[cfg(any(debug_assertions, feature = "fault-injection"))]
            ToWorker::Fault(fault) => self.inject(fault),
            ToWorker::Stop => {
                info!(target: DATAPLANE, "stopping");
                transport.flush_held(&mut self.engine, &self.page);
                transport.finish_sends(&self.page)?;
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn apply_and_answer(
        &mut self,
        generation: u64,
        hash: u64,
        set: Result<RuleSet, ApplyError>,
        transport: &mut impl Transport<Frame = F>,
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

    /// Applies a rule set between two batches: sends in flight complete on the old sockets, then sockets that the new set does not
    /// use are closed.
    fn apply(
        &mut self,
        generation: u64,
        set: RuleSet,
        transport: &mut impl Transport<Frame = F>,
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

        transport.flush_held(&mut self.engine, &self.page);
        transport.finish_sends(&self.page)?;
        if !self.started {
            let outputs = table.rules().iter().flat_map(|rule| &rule.outputs);
            outputs.for_each(|output| self.page.settle_output(output.slot()));
            self.page.settle_totals();
        }
        self.engine.replace(table, &self.page);
        transport.keep_sockets(&used_sockets(&set))?;
        self.page.applied(generation, self.engine.table().hash);
        self.started = true;
        self.drift_check = DriftCheck::started();
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

    fn trace(&mut self, request: TraceRequest, descriptors: &[OwnedFd]) {
        let begun = descriptors
            .first()
            .is_some_and(|ring| self.page.change_traces(|tracer| tracer.begin(request, ring, &self.rules)));
        if begun {
            debug!(target: DATAPLANE, rule = %request.rule, "trace started");
        } else {
            warn!(target: DATAPLANE, rule = %request.rule, "trace refused");
        }
    }

    #[cfg(any(debug_assertions, feature = "fault-injection"))]
    fn inject(&mut self, fault: mcr_link::message::Fault) {
        use mcr_link::message::Fault;
        warn!(target: DATAPLANE, ?fault, "injected fault");
        match fault {
            Fault::ForgetRule => self.engine.inject_fault(Table::forget_rule),
            Fault::AlterOutput => self.engine.inject_fault(Table::alter_output),
            Fault::LoseUpdate => self.lose_update = true,
        }
    }
}

/// The sockets that a rule set uses.
fn used_sockets(set: &RuleSet) -> BTreeSet<EgressId> {
    set.rules.iter().flat_map(|rule| &rule.outputs).filter_map(|output| output.egress).collect()
}

/// Reads the rule set in the file of a message.
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
