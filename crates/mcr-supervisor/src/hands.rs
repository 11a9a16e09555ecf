//! What the supervisor does to the kernel and to its workers: executes the core's actions, one file per kind, and
//! tells the core what came of each.

mod capture;
mod egress;
mod joins;
mod memory;
mod process;
mod running_config;
mod takeover;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use mcr_link::log::{LogLevels, MEMBERSHIP, WORKERS};
use mcr_rules::{IoChoice, Settings};
use mcr_sys::process::Signal;
use tokio::sync::mpsc;

pub(crate) use self::capture::Seat;
pub(crate) use self::process::{WorkerEvent, WorkerNews};
pub(crate) use self::takeover::{check_kept, kept_config};
use crate::core::machine::Machine;
use crate::core::plan::WorkerId;
use crate::core::reconcile::Action;

/// Messages of workers that may wait for the loop; more wait in the channels.
const MAX_WAITING_NEWS: usize = 256;

/// Everything the supervisor holds of the kernel.
#[derive(Debug)]
pub(crate) struct Hands {
    seats: BTreeMap<WorkerId, Seat>,
    processes: BTreeMap<WorkerId, process::WorkerProcess>,
    joins: joins::Joins,
    memory: memory::Memory,
    events: mpsc::Sender<WorkerEvent>,
    instances: u64,
    warned_of_clamped_buffer: bool,
    /// What new workers are told.
    pub(crate) terms: Terms,
}

/// What sockets and workers are set up with.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// From the running config.
    pub(crate) settings: Settings,
    /// Overrides the setting.
    pub(crate) io: Option<IoChoice>,
    /// For the workers.
    pub(crate) log_levels: LogLevels,
    /// For the workers.
    pub(crate) log_json: bool,
}

/// What tells this daemon and its workers from others.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Where its keeper is found.
    pub(crate) door: PathBuf,
    /// Where its config comes from.
    pub(crate) startup_file: String,
    /// The program that its workers run.
    pub(crate) program: String,
}

impl Hands {
    /// Hands that hold nothing, and where the news of workers will arrive.
    pub(crate) fn new(terms: Terms, identity: Identity) -> (Self, mpsc::Receiver<WorkerEvent>) {
        let (events, news) = mpsc::channel(MAX_WAITING_NEWS);
        let hands = Self {
            seats: BTreeMap::new(),
            processes: BTreeMap::new(),
            joins: joins::Joins::default(),
            memory: memory::Memory::new(identity.door, identity.startup_file, identity.program),
            events,
            instances: 0,
            warned_of_clamped_buffer: false,
            terms,
        };
        (hands, news)
    }

    /// Does one thing and notes its outcome.
    pub(crate) fn execute(&mut self, action: Action, machine: &mut Machine, now: Duration) {
        match action {
            Action::OpenAbsorber(absorber) => {
                self.joins.absorb(absorber, &mut machine.actual, now);
                if let Some(socket) = self.joins.absorber(&absorber) {
                    let socket = socket.and_then(|socket| socket.try_clone().ok());
                    self.remember_absorber(&absorber, socket.as_ref());
                }
            }
            Action::CloseAbsorber(absorber) => {
                self.joins.release(&absorber, &mut machine.actual);
                self.forget([memory::name::of_absorber(&absorber)]);
            }
            Action::Join { membership, carrier_epoch, again } => {
                if again {
                    // What the network has forgotten may be gone here too; the join that follows counts.
                    let _ = self.joins.pool.leave(&membership);
                }
                self.joins.join(membership, carrier_epoch, &mut machine.actual, now);
            }
            Action::Leave(membership) => self.joins.leave(&membership, &mut machine.actual),
            Action::OpenCapture { worker, wanted } => self.open_seat(&worker, &wanted, machine, now),
            Action::AttachFilter { worker, wanted } => self.attach_filter(&worker, &wanted, machine, now),
            Action::Spawn(worker) => self.spawn(&worker, machine, now),
            Action::SendEgress { worker, sockets } => self.send_egress(&worker, &sockets, machine, now),
            Action::SendRuleSet { worker, set, hash, since } => {
                self.send_rule_set(&worker, &set, hash, since.as_deref());
            }
            Action::Stop(worker) => self.stop(&worker),
            Action::Kill { worker, reason } => {
                tracing::warn!(target: WORKERS, worker = %worker, "killed: {reason}");
                self.signal(&worker, Signal::KILL);
            }
            Action::Discard(worker) => self.discard(&worker, machine),
        }
    }

    /// A worker's capture socket and telemetry, if it has them.
    pub(crate) fn seat(&self, worker: &WorkerId) -> Option<&Seat> {
        self.seats.get(worker)
    }

    /// All capture sockets and telemetry pages.
    pub(crate) fn seats(&self) -> impl Iterator<Item = (&WorkerId, &Seat)> {
        self.seats.iter()
    }

    /// Reads what the kernel dropped since the last time; it forgets it with that.
    pub(crate) fn collect_kernel_drops(&mut self) {
        let mut changed = Vec::new();
        for (worker, seat) in &mut self.seats {
            let before = seat.kernel_drops();
            if seat.collect_kernel_drops() {
                let rolled_over = seat.facts().rolled_over;
                tracing::warn!(
                    target: WORKERS, %worker, rolled_over,
                    "does not keep up: other workers of its interface take its datagrams, and order may suffer"
                );
            }
            if seat.kernel_drops() != before {
                changed.push((worker.clone(), seat.kernel_drops()));
            }
        }
        self.remember_kernel_drops(&changed);
    }

    /// Lets go of everything but the processes: leaves all groups, closes all sockets. Each capture socket takes the
    /// kernel some 14 ms (KERNEL_FACTS.md 17), so they are closed in parallel.
    pub(crate) fn let_go(&mut self) {
        let groups = self.joins.pool.joined().count();
        self.joins = joins::Joins::default();
        tracing::debug!(target: MEMBERSHIP, groups, "left all groups");
        let closing: Vec<_> = std::mem::take(&mut self.seats)
            .into_values()
            .map(|seat| std::thread::spawn(move || drop(seat)))
            .collect();
        for thread in closing {
            // A thread that only closes can't panic.
            let _ = thread.join();
        }
    }
}
