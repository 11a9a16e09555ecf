//! The orderly stop: clients, workers, groups, sockets, in this order.

use std::time::Duration;

use mcr_link::message::ToWorker;
use mcr_rules::log::WORKERS;
use mcr_sys::process::Signal;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::Daemon;
use super::start::Server;
use crate::core::actual::STOP_DEADLINE;
use crate::executor::{Executor, WorkerEvent, WorkerEventKind};

/// A killed process exits within this time, or something is wrong that waiting does not fix.
const KILL_DEADLINE: Duration = Duration::from_secs(2);

impl Daemon {
    pub(super) async fn stop(mut self, worker_events: &mut mpsc::Receiver<WorkerEvent>, server: Server) {
        tracing::info!(target: WORKERS, "stopping");
        self.options.service.tell("STOPPING=1");
        if let Some(upgrade) = self.upgrade.take() {
            upgrade.abandon().await;
        }
        server.close().await;
        self.executor.tell_all(&ToWorker::Stop);
        await_ends(&mut self.executor, worker_events, Instant::now() + STOP_DEADLINE).await;
        for worker in self.executor.running() {
            tracing::warn!(target: WORKERS, %worker, "killed: it did not end in time");
            self.executor.signal(&worker, Signal::KILL);
        }
        await_ends(&mut self.executor, worker_events, Instant::now() + KILL_DEADLINE).await;
        Executor::restore_offloads(&self.machine);
        self.executor.dismiss_keeper();
        self.executor.dismiss_attacher();
        self.executor.release_all();
        tracing::info!(target: WORKERS, "stopped");
    }
}

async fn await_ends(
    executor: &mut Executor,
    worker_events: &mut mpsc::Receiver<WorkerEvent>,
    deadline: Instant,
) {
    while !executor.running().is_empty() {
        let Ok(Some(event)) = timeout_at(deadline, worker_events.recv()).await else { return };
        if matches!(event.kind, WorkerEventKind::Ended) && executor.is_present(&event) {
            executor.reap(&event.worker);
        }
    }
}
