//! Replaces a capture socket that could send, which an earlier version opened, before a worker is started that must not have
//! such a socket (`sandbox: "on"`).
//!
//! ```text
//!  old socket ── queue full: its frames roll over ──▶ new socket, same fan-out group, locked ──▶ the new worker
//!      └─ read and counted as kernel drops, closed
//! ```
//!
//! The old worker has ended by then. What it left in the old socket can't be moved, and is counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mcr_rules::SandboxChoice;
use mcr_rules::log::WORKERS;
use mcr_sys::packet::{Capture, CaptureOptions, Fanout};

use super::Executor;
use super::capture::WorkerSlot;
use crate::core::plan::{PlannedInterface, WorkerId};

impl Executor {
    /// Makes sure that a worker with these settings gets a capture socket that can't send, if it must.
    ///
    /// # Errors
    /// It must, and there is none; human-readable.
    pub(super) fn ensure_send_lock(
        &mut self,
        id: &WorkerId,
        interface: &PlannedInterface,
    ) -> Result<(), String> {
        let Some(slot) = self.slots.get_mut(id) else { return Ok(()) };
        // Older versions, whose sockets could send, had no linked interfaces.
        let linked = !id.interface.linked.is_empty();
        if interface.settings.sandbox != SandboxChoice::On || slot.facts.send_locked || linked {
            return Ok(());
        }
        let socket = self.prepared.take().map_err(|error| error.to_string());
        self.prepared.refill();
        let replaced = socket.and_then(|socket| {
            if !socket.is_send_locked() {
                return Err("the kernel does not make a transmit ring (PACKET_TX_RING)".to_owned());
            }
            let filter = super::capture::program(id, &interface.accepted);
            let options = CaptureOptions {
                ifindex: id.interface.ifindex,
                filter: &filter,
                receive_buffer_bytes: interface.receive_buffer_bytes as usize,
                fanout: Fanout::Join(slot.fanout),
            };
            let (capture, _) = Capture::open_on(socket, &options).map_err(|error| error.to_string())?;
            slot.replace(id, capture, &filter);
            if let (Some(_), Some(kernel)) = (&slot.accepted_by_program, &self.kernel) {
                kernel.attach_filter(&slot.capture)?;
            }
            Ok(())
        });
        replaced.map_err(|reason| {
            format!("sandbox: \"on\", but its capture socket could send, and can't be replaced by one that can't: {reason}")
        })?;
        tracing::info!(target: WORKERS, worker = %id, "its capture socket was replaced by one that can't send");
        Ok(())
    }
}

impl WorkerSlot {
    /// Uses another capture socket with this filter from now on.
    fn replace(&mut self, id: &WorkerId, capture: Capture, filter: &mcr_sys::filter::FilterProgram) {
        // While its queue is full, its share goes to the new one (`PACKET_FANOUT_FLAG_ROLLOVER`).
        if let Err(error) = self.capture.resize_receive_buffer(0) {
            tracing::warn!(target: WORKERS, worker = %id, %error, "the old capture socket keeps its size");
        }
        self.collect_kernel_drops();
        self.facts.send_locked = true;
        self.facts.note = None;
        let old = std::mem::replace(&mut self.capture, capture);
        // The old one takes its request with it.
        self.promiscuous = false;
        self.filter.clear();
        self.follow_filter(id, filter);
        self.replaced = Some(old);
    }

    /// Counts the frames that a replaced socket had left as dropped, and closes it. By then the keeper has closed its duplicate.
    pub(super) fn close_replaced(&mut self) {
        let Some(old) = self.replaced.take() else { return };
        self.kernel_drops += left_in(&old);
        // Closing takes the kernel some 14 ms, and a thread its time to start; meanwhile the socket, which has room again, gets its
        // share of the frames. What arrives in the microseconds between the last look and the close is not counted.
        let left_behind = Arc::clone(&self.left_behind);
        tokio::task::spawn_blocking(move || {
            left_behind.fetch_add(left_in(&old), Ordering::Relaxed);
            drop(old);
        });
    }
}

/// Takes what a socket holds, and returns the number of frames that nobody will relay.
fn left_in(socket: &Capture) -> u64 {
    let held = socket.discard();
    held + socket.statistics().map_or(0, |statistics| u64::from(statistics.drops))
}
