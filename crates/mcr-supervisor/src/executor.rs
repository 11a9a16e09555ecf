//! Side effects on the kernel and the workers: executes the core's actions, one file per kind, and reports each
//! outcome to the core.

mod adoption;
mod capture;
mod checkpoint;
mod early_drop;
mod egress;
mod joins;
mod kernel_engine;
mod offload;
mod ports;
mod prepared;
mod process;
mod relock;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use mcr_rules::log::{LogLevels, MEMBERSHIP, WORKERS};
use mcr_sys::process::Signal;
use tokio::sync::mpsc;

pub(crate) use self::capture::WorkerSlot;
pub(crate) use self::ports::ClosedSockets;
pub(crate) use self::process::{WorkerEvent, WorkerEventKind};
use crate::core::ledger::Counters;
use crate::core::machine::{Event, Machine, Outcome};
use crate::core::plan::WorkerId;
use crate::core::ports::PortHolders;
use crate::core::reconcile::Action;

/// Worker messages queued for the loop; more wait in the channels.
const MAX_WAITING_EVENTS: usize = 256;

/// All kernel resources of the supervisor.
#[derive(Debug)]
pub(crate) struct Executor {
    slots: BTreeMap<WorkerId, WorkerSlot>,
    processes: BTreeMap<WorkerId, process::WorkerProcess>,
    joins: joins::Joins,
    keeper: checkpoint::KeeperLink,
    attacher: early_drop::AttacherLink,
    kernel: Option<kernel_engine::KernelMaps>,
    prepared: prepared::PreparedSockets,
    /// The program that new workers run.
    program: String,
    events: mpsc::Sender<WorkerEvent>,
    instances: u64,
    warned_of_clamped_buffer: bool,
    pub(crate) worker_log: WorkerLog,
}

#[derive(Clone, Debug)]
pub(crate) struct WorkerLog {
    pub(crate) levels: LogLevels,
    /// As JSON instead of text.
    pub(crate) json: bool,
}

/// Distinguishes this daemon and its workers from others.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) keeper_socket: PathBuf,
    pub(crate) startup_file: String,
    /// The program that its workers run.
    pub(crate) program: String,
}

impl Executor {
    /// Creates an empty executor, and the receiver of worker events.
    pub(crate) fn new(worker_log: WorkerLog, identity: Identity) -> (Self, mpsc::Receiver<WorkerEvent>) {
        let (events, worker_events) = mpsc::channel(MAX_WAITING_EVENTS);
        let executor = Self {
            slots: BTreeMap::new(),
            processes: BTreeMap::new(),
            joins: joins::Joins::default(),
            keeper: checkpoint::KeeperLink::new(identity.keeper_socket, identity.startup_file),
            attacher: early_drop::AttacherLink::default(),
            kernel: None,
            prepared: prepared::PreparedSockets::new(),
            program: identity.program,
            events,
            instances: 0,
            warned_of_clamped_buffer: false,
            worker_log,
        };
        (executor, worker_events)
    }

    /// Prepares for actions, so that each of them is fast.
    pub(crate) fn prepare(&mut self, actions: &[Action]) {
        let captures = actions.iter().filter(|action| matches!(action, Action::OpenCapture { .. })).count();
        if captures > 0 {
            self.prepared.provide(captures);
        }
    }

    /// Executes one action and reports the outcome to the machine.
    pub(crate) fn execute(&mut self, action: Action, machine: &mut Machine, now: Duration) {
        let outcome = match &action {
            Action::OpenAbsorber(absorber) => self.joins.absorb(*absorber),
            Action::CloseAbsorber(absorber) => self.joins.release(*absorber),
            Action::Join { membership, carrier_epoch, again } => {
                if *again {
                    // The membership may already be gone here too; the following join counts.
                    let _ = self.joins.pool.leave(membership);
                }
                self.joins.join(*membership, *carrier_epoch)
            }
            Action::Leave(membership) => self.joins.leave(*membership),
            Action::OpenCapture { worker, wanted, receive_buffer_bytes } => {
                self.open_slot(worker, wanted, *receive_buffer_bytes)
            }
            Action::ResizeReceiveBuffer { worker, bytes } => self.resize_receive_buffer(worker, *bytes),
            Action::AttachFilter { worker, wanted } => match self.attach_filter(worker, wanted) {
                Some(outcome) => outcome,
                None => return,
            },
            Action::Spawn { worker, interface } => self.spawn(worker, interface),
            Action::SendEgress { worker, sockets } => {
                return self.send_egress(worker, sockets, machine, now);
            }
            Action::SendRuleSet { worker, set, hash, since } => {
                return self.send_rule_set(worker, set, *hash, since.as_deref());
            }
            Action::Stop(worker) => return self.stop(worker),
            Action::Kill { worker, reason } => {
                tracing::warn!(target: WORKERS, worker = %worker, "killed: {reason}");
                return self.signal(worker, Signal::KILL);
            }
            Action::SetEarlyDrop(wanted) => match self.set_early_drop(wanted, now) {
                Ok(outcome) => outcome,
                Err(report) => {
                    self.end_kernel_engine_without_attacher(machine, now);
                    machine.handle(now, Event::EarlyDrop(report));
                    return;
                }
            },
            Action::SetCaptureProgram { worker, on } => self.set_capture_program(worker, *on),
            Action::SetKernelRules(set) => self.set_kernel_rules(set),
            Action::SettleKernelRules(generation) => {
                let counters = self.kernel_counters().map(|tables| tables as &dyn Counters);
                machine.handle(now, Outcome::KernelRulesSettled(*generation, counters));
                return;
            }
            Action::Discard(worker) => return self.discard(worker, machine, now),
            Action::ReadOffload { ifindex, interface } => offload::read(*ifindex, interface),
            Action::SetOffload { ifindex, interface, wanted } => offload::set(*ifindex, interface, *wanted),
        };
        machine.handle(now, outcome);
    }

    /// Returns the programs that have the ports of unicast inputs.
    pub(crate) fn examine_ports(&mut self, machine: &Machine) -> PortHolders {
        self.joins.examine_ports(machine.plan().absorbers.keys())
    }

    /// Becomes readable when a UDP socket is closed; `None` while no program has the port of a unicast input.
    pub(crate) fn watch_ports(&mut self, machine: &Machine) -> Option<ClosedSockets> {
        self.joins.closed_sockets(!machine.actual().port_holders.is_empty())
    }

    /// Returns a worker's capture socket and telemetry page, if it has them.
    pub(crate) fn slot(&self, worker: &WorkerId) -> Option<&WorkerSlot> {
        self.slots.get(worker)
    }

    /// Returns all capture sockets and telemetry pages.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (&WorkerId, &WorkerSlot)> {
        self.slots.iter()
    }

    /// Restores what interfaces merged before, except where somebody else has changed it since.
    pub(crate) fn restore_offloads(machine: &Machine) {
        machine.aggregation().to_restore().for_each(|(interface, set, before)| {
            offload::restore(interface, set, before);
        });
    }

    /// Adds up the kernel's drop counters, which reading resets.
    pub(crate) fn collect_kernel_drops(&mut self) {
        for (worker, slot) in &mut self.slots {
            slot.close_replaced();
            if slot.collect_kernel_drops() {
                let rolled_over = slot.facts.rolled_over;
                tracing::warn!(
                    target: WORKERS, %worker, rolled_over,
                    "does not keep up: other workers of its interface receive its datagrams, which may be reordered"
                );
            }
        }
    }

    /// Releases everything but the processes: leaves all groups, closes all sockets. Closing a capture socket takes
    /// the kernel some 14 ms (`synchronize_net` in `packet_release`), so they are closed in parallel.
    pub(crate) fn release_all(&mut self) {
        let groups = self.joins.pool.joined().count();
        self.joins = joins::Joins::default();
        tracing::debug!(target: MEMBERSHIP, groups, "left all groups");
        let prepared =
            self.prepared.drain().into_iter().map(|socket| std::thread::spawn(move || drop(socket)));
        let slots = std::mem::take(&mut self.slots);
        let slots = slots.into_values().map(|slot| std::thread::spawn(move || drop(slot)));
        let closing: Vec<_> = prepared.chain(slots).collect();
        for thread in closing {
            // A thread that only closes descriptors can't panic.
            let _ = thread.join();
        }
    }
}
