//! Starts a worker: from the first message to the loop.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use mcr_link::log::LogControl;
use mcr_link::message::{
    self, FromWorker, Incoming, IoBackend, LINK_VERSION, LinkLayer, ToWorker, WorkerStart,
};
use mcr_link::rule_set::RuleSet;
use mcr_link::telemetry::PageWriter;
use mcr_rules::log::{DATAPLANE, WORKERS};
use mcr_rules::{IoChoice, SandboxChoice};
use mcr_sys::SysError;
use mcr_sys::channel::Channel;
use mcr_sys::mmsg::{ReceiveBatch, ReceiveOptions};
use mcr_sys::poll::{set_exact_timers, wait_readable};
use mcr_sys::privileges::{Dropped, drop_privileges};
use mcr_sys::process::pin_to_core;
use mcr_sys::sandbox::prime;
use mcr_sys::uring::{Ring, RingOptions, probe};
use mcr_wire::VNET_HEADER_BYTES;
use tracing::{error_span, info, warn};

use super::confinement::{Confinement, confine};
use super::drift_check::DriftCheck;
use super::session::Session;
use super::stopwatch::Stopwatch;
use super::{WorkerError, mmsg, uring};
use crate::engine::Engine;
use crate::engine::MAX_IN_FLIGHT;

/// The largest IP packet: an IPv6 header and 65,535 bytes. Super-frames reach it, regardless of the MTU.
const MAX_PACKET_BYTES: usize = 40 + 65_535;
/// Bytes of an Ethernet header.
const LINK_HEADER_BYTES: usize = 14;
/// Maximum number of sends in the ring: those of several batches, because sends complete within the call that submits them.
const RING_SENDS: u16 = 1_024;
const _: () = assert!(RING_SENDS as usize <= MAX_IN_FLIGHT, "the engine counts on it");

/// Whether to drop privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privileges {
    Drop,
    /// For tests that run a worker in a thread.
    #[cfg(test)]
    Keep,
}

/// Runs a worker for the supervisor at the other end of the channel, until it sends `Stop` or closes the channel.
///
/// # Errors
/// The worker can't start, or can't continue. The supervisor has been informed if possible.
pub fn run(channel: Channel) -> Result<(), WorkerError> {
    run_with(channel, Privileges::Drop)
}

pub(super) fn run_with(channel: Channel, privileges: Privileges) -> Result<(), WorkerError> {
    let Some((start, descriptors)) = await_start(&channel)? else { return Ok(()) };
    let log = LogControl::start(&start.log_levels, start.log_json);
    let span = error_span!(target: WORKERS, "worker", interface = %start.interface, core = start.core);
    let _inside = span.enter();
    // The worker takes the channel; the duplicate is for reporting a failure.
    let for_failure = channel.as_fd().try_clone_to_owned().ok().map(Channel::from);
    work(channel, &start, descriptors, log, privileges).inspect_err(|error| {
        tracing::error!(target: WORKERS, %error, "worker failed");
        let reason = error.to_string();
        if let Some(channel) = for_failure {
            // If the supervisor has exited, the log has the reason.
            let _ = message::send(&channel, &FromWorker::Failed { reason }, &[]);
        }
    })
}

/// Waits for the first message; `None` if the supervisor closed the channel.
fn await_start(channel: &Channel) -> Result<Option<(WorkerStart, Vec<OwnedFd>)>, WorkerError> {
    loop {
        match message::receive(channel)? {
            Incoming::Message(ToWorker::Start(start), descriptors) => return Ok(Some((start, descriptors))),
            Incoming::Message(ToWorker::Stop, _) | Incoming::Closed => return Ok(None),
            Incoming::Message(other, _) => {
                return Err(WorkerError::Start(format!("the first message is {other:?}")));
            }
            Incoming::WouldBlock => wait_readable([channel.as_fd()], None)?,
        };
    }
}

fn work(
    channel: Channel,
    start: &WorkerStart,
    descriptors: Vec<OwnedFd>,
    log: LogControl,
    privileges: Privileges,
) -> Result<(), WorkerError> {
    if start.version != LINK_VERSION {
        return Err(WorkerError::Start(format!(
            "the supervisor has link version {}, this worker {LINK_VERSION}",
            start.version
        )));
    }
    let (captures, page) = take_sockets(start, descriptors)?;
    // Before privileges are dropped: old kernels charge the ring to RLIMIT_MEMLOCK, which privileged processes may exceed.
    let (receiver, io, io_note) = match choose_io(start) {
        (Some(ring), note) => (Receiver::Ring(Box::new(ring)), IoBackend::IoUring, note),
        (None, note) => {
            let options = ReceiveOptions { messages: batch_size(start), buffer_bytes: buffer_bytes(start) };
            (Receiver::Batch(ReceiveBatch::new(&options)?), IoBackend::Recvmmsg, note)
        }
    };
    let page = map_page(page, io)?;
    if let Err(error) = set_exact_timers() {
        warn!(target: WORKERS, %error, "timers are not exact: short waits take longer");
    }
    if let Err(error) = pin_to_core(start.core) {
        warn!(target: WORKERS, %error, "not pinned to a core");
    }
    let (dropped, confinement) = match privileges {
        Privileges::Drop => {
            prime();
            let dropped = drop_privileges()?;
            let descriptors: Vec<_> = captures.iter().map(AsFd::as_fd).collect();
            (dropped, confine(start.sandbox, io, &descriptors, &log)?)
        }
        #[cfg(test)]
        Privileges::Keep => (Dropped { uid: 0, notes: Vec::new() }, Confinement::default()),
    };
    let Dropped { uid, notes: privilege_notes } = dropped;
    let Confinement { layers: sandbox, notes: sandbox_notes } = confinement;
    info!(target: WORKERS, io = io.name(), uid, sandbox = sandbox.join(", "), "ready");
    let ready = FromWorker::Ready { io, io_note, uid, privilege_notes, sandbox, sandbox_notes };
    message::send(&channel, &ready, &[])?;
    let budget = Duration::from_micros(start.latency_budget_us.into());
    match (receiver, captures.as_slice()) {
        (Receiver::Ring(ring), [capture]) if start.linked.is_empty() => {
            uring::run(session(channel, page, log, start), *ring, capture, budget)
        }
        (Receiver::Batch(batch), [capture]) if start.linked.is_empty() => {
            mmsg::run(session(channel, page, log, start), capture, batch, budget)
        }
        (Receiver::Ring(ring), captures) => {
            uring::linked::run(session(channel, page, log, start), *ring, captures, budget)
        }
        (Receiver::Batch(batch), captures) => {
            mmsg::linked::run(session(channel, page, log, start), captures, batch, budget)
        }
    }
}

/// The capture sockets of a start message, and the page.
fn take_sockets(
    start: &WorkerStart,
    mut descriptors: Vec<OwnedFd>,
) -> Result<(Vec<OwnedFd>, OwnedFd), WorkerError> {
    let wanted = 1 + start.linked.len().max(1);
    if descriptors.len() != wanted {
        return Err(WorkerError::Start(format!("{} descriptors instead of {wanted}", descriptors.len())));
    }
    let page = descriptors.remove(1);
    Ok((descriptors, page))
}

/// The memory to receive into, which is made before the worker is confined.
enum Receiver {
    Ring(Box<Ring>),
    Batch(ReceiveBatch),
}

fn session<F: Copy>(channel: Channel, page: PageWriter, log: LogControl, start: &WorkerStart) -> Session<F> {
    let mut engine = Engine::new(link_layer(start.link));
    if !start.linked.is_empty() {
        engine.link(start.linked.iter().copied().map(link_layer));
    }
    Session {
        channel,
        page: page.into(),
        engine,
        log,
        rules: RuleSet::default(),
        started: false,
        drift_check: DriftCheck::default(),
        stopwatch: Stopwatch::default(),
        beats: 0,
        #[cfg(any(debug_assertions, feature = "fault-injection"))]
        lose_update: false,
    }
}

const fn link_layer(link: LinkLayer) -> mcr_wire::LinkLayer {
    match link {
        LinkLayer::Ethernet => mcr_wire::LinkLayer::Ethernet,
        LinkLayer::None => mcr_wire::LinkLayer::None,
    }
}

/// Maps the telemetry page, and closes its descriptor.
fn map_page(page: OwnedFd, io: IoBackend) -> Result<PageWriter, SysError> {
    PageWriter::map(&page, std::process::id(), io)
}

/// Creates the ring; `None` and the reason if it was requested but is not available.
fn choose_io(start: &WorkerStart) -> (Option<Ring>, Option<String>) {
    if start.io == IoChoice::Recvmmsg {
        return (None, None);
    }
    let restricted = start.sandbox != SandboxChoice::Off;
    let (buffers, buffer_bytes) = (start.ring_buffers, buffer_bytes(start));
    let options = RingOptions { buffers, buffer_bytes, sends: RING_SENDS, restricted };
    match probe(restricted).and_then(|()| Ring::new(&options)) {
        Ok(ring) => (Some(ring), None),
        Err(error) => {
            let note = format!("io_uring is not available: {error}");
            // Falls back even if io_uring was set: slower relaying is better than none.
            if start.io == IoChoice::IoUring {
                warn!(target: DATAPLANE, %note, "using recvmmsg");
            }
            (None, Some(note))
        }
    }
}

/// Datagrams per recvmmsg(2).
fn batch_size(start: &WorkerStart) -> usize {
    usize::from(start.ring_buffers).clamp(1, mmsg::MAX_BATCH)
}

/// The largest received frame.
fn buffer_bytes(start: &WorkerStart) -> usize {
    let packet = usize::try_from(start.mtu).unwrap_or(MAX_PACKET_BYTES).max(MAX_PACKET_BYTES);
    VNET_HEADER_BYTES + LINK_HEADER_BYTES + packet
}
