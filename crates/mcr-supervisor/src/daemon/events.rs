//! Events from workers and the network.

use mcr_link::message::FromWorker;
use mcr_rules::log::{NETWORK, WORKERS};
use mcr_sys::clock;
use mcr_sys::network::{NetworkEvent, NetworkMonitor};
use mcr_sys::process::Signal;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::{AUDIT_EVERY, DUMP_PAUSE, Daemon};
use crate::async_fd::Watched;
use crate::core::actual::{Death, Readied};
use crate::core::ledger::Counters;
use crate::core::machine::{Event, Report};
use crate::core::plan::WorkerId;
use crate::executor::{WorkerEvent, WorkerEventKind};

impl Daemon {
    pub(super) fn worker_event(&mut self, event: WorkerEvent) {
        if !self.executor.is_present(&event) {
            return;
        }
        let WorkerEvent { worker, kind, .. } = event;
        match kind {
            WorkerEventKind::Message(message) => self.worker_message(&worker, message),
            WorkerEventKind::ProtocolError(error) => {
                tracing::error!(target: WORKERS, %worker, "protocol error; killed: {error}");
                self.executor.signal(&worker, Signal::KILL);
            }
            WorkerEventKind::Ended => {
                let how = self.executor.reap(&worker);
                self.died(&worker, how);
            }
        }
    }

    fn died(&mut self, worker: &WorkerId, how: Death) {
        let now = clock::monotonic();
        let Death { how: told, by_sandbox } = how.clone();
        let retiring = self.machine.worker(worker).is_some_and(|worker| worker.retiring);
        self.machine.handle(now, Event::Worker(worker, Report::Died(how)));
        let Some(state) = self.machine.worker(worker) else { return };
        if by_sandbox {
            tracing::error!(target: WORKERS, %worker, "{told}");
        }
        if state.leaving {
            tracing::debug!(target: WORKERS, %worker, "{told}");
            return;
        }
        if retiring {
            tracing::info!(target: WORKERS, %worker, "{told}; its replacement runs the current program and settings");
            return;
        }
        let pause_ms = state.restart.not_before().saturating_sub(now).as_millis();
        let deaths = state.restart.failures(now, None);
        if state.restart.is_pausing() {
            tracing::error!(target: WORKERS, %worker, deaths, pause_ms, "{told}; degraded: the next one starts after a pause");
        } else {
            tracing::warn!(target: WORKERS, %worker, deaths, "{told}; it is replaced");
        }
    }

    fn worker_message(&mut self, worker: &WorkerId, message: FromWorker) {
        let now = clock::monotonic();
        match message {
            FromWorker::Ready { io, io_note, uid, privilege_notes, sandbox, sandbox_notes } => {
                for note in io_note.iter().chain(&privilege_notes).chain(&sandbox_notes) {
                    tracing::warn!(target: WORKERS, %worker, "{note}");
                }
                let layers = sandbox.join(", ");
                tracing::info!(target: WORKERS, %worker, io = io.name(), uid, sandbox = layers, "ready");
                let notes = io_note.into_iter().chain(privilege_notes).collect();
                let ready = Report::Ready(Readied { io, uid, notes, sandbox, sandbox_notes });
                self.machine.handle(now, Event::Worker(worker, ready));
            }
            FromWorker::Applied { generation, hash } => {
                tracing::debug!(target: WORKERS, %worker, generation, "rule set applied");
                let died_at = self.machine.worker(worker).and_then(|worker| worker.died_at);
                let page = self.executor.slot(worker).map(|slot| &slot.reader as &dyn Counters);
                let applied = Report::Applied { generation, hash, page };
                self.machine.handle(now, Event::Worker(worker, applied));
                let recovery = self.machine.worker(worker).and_then(|worker| worker.recovery);
                if let Some(after) = recovery.filter(|_| died_at.is_some()) {
                    let after_ms = after.as_millis();
                    tracing::info!(target: WORKERS, %worker, after_ms, "recovered: rules applied after a restart");
                }
            }
            FromWorker::Refused { generation, reason } => {
                tracing::error!(target: WORKERS, %worker, generation, "refuses its rule set: {reason}");
                self.machine.handle(now, Event::Worker(worker, Report::Refused { generation, reason }));
            }
            FromWorker::Failed { reason } => {
                tracing::error!(target: WORKERS, %worker, "fails: {reason}");
                self.machine.handle(now, Event::Worker(worker, Report::Failing(reason)));
            }
        }
    }

    pub(super) fn network_events(&mut self, events: mcr_sys::Result<Vec<NetworkEvent>>) {
        let events = events.unwrap_or_else(|error| {
            tracing::error!(target: NETWORK, %error, "can't read events");
            vec![NetworkEvent::Overrun]
        });
        if events.contains(&NetworkEvent::Overrun) {
            tracing::warn!(target: NETWORK, "events were lost; reading all links and addresses again");
            self.next_dump = self.next_dump.min(self.last_dump + DUMP_PAUSE);
        }
        tracing::debug!(target: NETWORK, ?events);
        events.iter().for_each(|event| self.explanations.note(event, self.machine.network()));
        self.machine.handle(clock::monotonic(), Event::Network(events));
    }

    /// Dumps the network and compares it with the known state.
    pub(super) fn audit(&mut self, monitor: &mut AsyncFd<Watched<NetworkMonitor>>) {
        self.last_dump = Instant::now();
        match monitor.get_mut().0.dump() {
            Ok((links, addresses)) => {
                let dump = Event::NetworkDump { links, addresses };
                if self.machine.handle(clock::monotonic(), dump) {
                    tracing::info!(target: NETWORK, "the network differed from its netlink events: resynchronized");
                }
                self.next_dump = self.last_dump + AUDIT_EVERY;
            }
            Err(error) => {
                tracing::error!(target: NETWORK, %error, "can't read links and addresses");
                self.next_dump = self.last_dump + AUDIT_EVERY / 10;
            }
        }
    }
}
