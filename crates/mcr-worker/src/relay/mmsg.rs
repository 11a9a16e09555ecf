//! The loop over recvmmsg(2) and sendmmsg(2), for hosts without io_uring.
//!
//! ```text
//!  recvmmsg ─▶ engine ─▶ queue ─ by socket ─▶ sendmmsg …      poll when the capture socket is empty
//! ```

pub(super) mod linked;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use mcr_link::reason::DropReason;
use mcr_link::rule_set::EgressId;
use mcr_rules::log::DATAPLANE;
use mcr_sys::SysError;
use mcr_sys::clock::{monotonic, monotonic_ns};
use mcr_sys::errno::EINVAL;
use mcr_sys::mmsg::{Progress, ReceiveBatch, SendBatch};
use mcr_sys::poll::wait_readable;
use tracing::warn;

use super::lost::LostFrames;
use super::retry::RetrySender;
use super::session::{Session, Transport};
use super::sockets::Sockets;
use super::{HEARTBEAT, RECEIVE_PAUSE, WorkerError};
use crate::engine::Engine;
use crate::engine::MAX_IN_FLIGHT;
use crate::engine::accounts::Accounts;
use crate::engine::coalescing::Coalescing;
use crate::engine::path::EgressSocket;
use crate::engine::segmentation::Gso;
use crate::engine::send::{Egress, Piece, SendMeta};

/// Maximum number of datagrams of one recvmmsg(2): several full segmented sends.
pub(super) const MAX_BATCH: usize = 256;
/// After an iteration with this number of datagrams, more are received immediately, without coalescing.
const BUSY: usize = 16;
/// The most queued sends.
const MAX_QUEUED: usize = MAX_IN_FLIGHT;
/// The most pieces of queued sends.
const MAX_QUEUED_PIECES: usize = 8_192;
/// Interval of polling the channel under load.
const CHANNEL_INTERVAL: Duration = Duration::from_millis(5);

/// Relays until the supervisor sends `Stop`, or is gone. Fails if the channel or poll(2) failed.
pub(super) fn run(
    mut session: Session<u16>,
    capture: &OwnedFd,
    mut received: ReceiveBatch,
    budget: Duration,
) -> Result<(), WorkerError> {
    let mut sender = QueueSender::new();
    let mut coalescing = Coalescing::new(budget);
    let mut next_heartbeat = monotonic();
    let mut next_poll = next_heartbeat;
    let mut paused_at = None;
    let mut failing = false;
    let mut lost = LostFrames::default();
    loop {
        let mut pause = Pause::Idle;
        if session.started {
            match received.receive(capture.as_fd()) {
                Ok(0) => {}
                Ok(count) => {
                    failing = false;
                    if let Some(start) = paused_at.take() {
                        coalescing.record_wait(monotonic().saturating_sub(start), count);
                    }
                    pause = Pause::after(count, received.capacity(), &coalescing);
                    if session.stopwatch.is_due() {
                        session.stopwatch.start(capture, &session.page);
                    }
                    process(&mut session, &mut received, &mut sender);
                    if session.stopwatch.is_running() {
                        session.stopwatch.stop(&session.page);
                    }
                }
                Err(error) if error.errno() == Some(EINVAL) => lost.count(&session.page),
                Err(error) => {
                    // ENETDOWN is reported once per outage; an error that repeats must not make the loop spin.
                    if std::mem::replace(&mut failing, true) {
                        wait_readable([session.channel.as_fd()], Some(RECEIVE_PAUSE))?;
                    } else {
                        warn!(target: DATAPLANE, %error, "receive failed, continuing");
                    }
                }
            }
        }
        let now = monotonic();
        if is_due(&mut next_heartbeat, now, HEARTBEAT) {
            session.beat(&sender.sockets);
        }
        session.check_drift();
        if session.is_checking_drift() {
            pause = Pause::No;
        }
        if pause != Pause::No {
            paused_at.get_or_insert(now);
        }
        let longest = next_heartbeat.saturating_sub(now);
        if (pause != Pause::No || is_due(&mut next_poll, now, CHANNEL_INTERVAL))
            && wait_and_handle_messages(&mut session, &mut sender, capture, pause, longest)?.is_break()
        {
            return Ok(());
        }
    }
}

/// How to wait after an iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// There is more to do.
    No,
    /// Coalesce datagrams for this time.
    Coalesce(Duration),
    /// Wake for the next datagram.
    Idle,
}

impl Pause {
    fn after(count: usize, capacity: usize, coalescing: &Coalescing) -> Self {
        if count == capacity || (count >= BUSY && !coalescing.is_disabled()) {
            return Self::No;
        }
        coalescing.window().map_or(Self::Idle, Self::Coalesce)
    }
}

/// Waits at most `longest`, and handles the messages of the supervisor.
fn wait_and_handle_messages(
    session: &mut Session<u16>,
    sender: &mut QueueSender,
    capture: &OwnedFd,
    pause: Pause,
    longest: Duration,
) -> Result<ControlFlow<()>, WorkerError> {
    let channel = session.channel.as_fd();
    let has_message = match pause {
        Pause::No => wait_readable([channel], Some(Duration::ZERO))?[0],
        Pause::Coalesce(budget) => wait_readable([channel], Some(budget))?[0],
        Pause::Idle if session.started => wait_readable([channel, capture.as_fd()], Some(longest))?[0],
        Pause::Idle => wait_readable([channel], Some(longest))?[0],
    };
    if has_message { session.handle_messages(sender) } else { Ok(ControlFlow::Continue(())) }
}

fn process(session: &mut Session<u16>, received: &mut ReceiveBatch, sender: &mut QueueSender) {
    sender.retry.begin_batch();
    let Session { engine, page, .. } = session;
    engine.begin_batch(monotonic_ns());
    let mut egress = QueueEgress { received, sender };
    if page.is_tracing() {
        process_frames::<true>(engine, page, &mut egress);
    } else {
        process_frames::<false>(engine, page, &mut egress);
    }
    engine.finish_batch(page, &mut egress);
    egress.flush(page);
}

#[inline]
fn process_frames<const TRACED: bool>(
    engine: &mut Engine<u16>,
    page: &Accounts,
    egress: &mut QueueEgress<'_>,
) {
    let mut index = 0;
    while let Some(message) = egress.received.message(usize::from(index)) {
        let bytes = message.payload.len();
        let parsed = engine.parse(message.payload, page);
        if TRACED {
            engine.trace_frame(message.payload, &parsed, page);
        }
        if engine.checks_streams() {
            let own = engine.is_from_this_host(message.payload);
            engine.find_flow::<TRACED, _>(own, &parsed, page, egress);
            if let Some(message) = egress.received.message(usize::from(index)) {
                engine.check_stream(message.payload, &parsed, page);
            }
        }
        if engine.process::<TRACED, _>(index, &parsed, page, egress)
            && let Some(whole) = engine.process_further::<TRACED, _>(index, bytes, page, egress)
        {
            egress.received.set_bytes(index.into(), whole);
            continue;
        }
        index += 1;
    }
}

/// Whether a time has come; if so, the next is after the interval.
fn is_due(next: &mut Duration, now: Duration, interval: Duration) -> bool {
    let due = now >= *next;
    if due {
        *next = now + interval;
    }
    due
}

/// A send of the current batch.
struct Queued {
    /// Keeps the order among sends of one socket.
    order: u32,
    meta: SendMeta,
    first_piece: u32,
    pieces: u16,
}

/// Sends of a batch, executed by socket.
struct QueueSender {
    sockets: Sockets,
    queue: Vec<Queued>,
    pieces: Vec<Piece<u16>>,
    batch: SendBatch,
    retry: RetrySender,
}

impl QueueSender {
    fn new() -> Self {
        Self {
            sockets: Sockets::default(),
            queue: Vec::with_capacity(MAX_QUEUED),
            pieces: Vec::with_capacity(MAX_QUEUED_PIECES),
            batch: SendBatch::new(MAX_QUEUED, MAX_QUEUED_PIECES + MAX_QUEUED),
            retry: RetrySender::new(),
        }
    }
}

impl Transport for QueueSender {
    type Frame = u16;

    fn flush_held(&mut self, engine: &mut Engine<u16>, page: &Accounts) {
        engine.flush_held(page, &mut CopyEgress(self));
    }

    fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    fn add_socket(&mut self, id: EgressId, fd: OwnedFd) -> Result<(), SysError> {
        self.sockets.insert(EgressSocket { id, fd, file: None, replies: std::cell::Cell::new(0) });
        Ok(())
    }

    fn keep_sockets(&mut self, wanted: &BTreeSet<EgressId>) -> Result<(), SysError> {
        self.sockets.keep_only(wanted);
        Ok(())
    }

    /// Sends complete within their batch.
    fn finish_sends(&mut self, _page: &Accounts) -> Result<(), SysError> {
        Ok(())
    }
}

/// The sender, with the received frames.
struct QueueEgress<'a> {
    received: &'a mut ReceiveBatch,
    sender: &'a mut QueueSender,
}

impl Egress for QueueEgress<'_> {
    type Frame = u16;

    fn buffer(&mut self, frame: u16) -> &mut [u8] {
        self.received.buffer(frame.into())
    }

    fn frame(&self, frame: u16, bytes: usize) -> &[u8] {
        let message = self.received.message(frame.into());
        message.and_then(|message| message.payload.get(..bytes)).unwrap_or_default()
    }

    fn send_copy(&mut self, page: &Accounts, meta: SendMeta, payload: &[u8]) {
        // After all sends of the socket that are queued.
        self.flush(page);
        self.sender.retry.send(page, meta, std::iter::once(payload));
    }

    #[inline]
    fn send(&mut self, page: &Accounts, meta: SendMeta, pieces: &[Piece<u16>]) {
        // sendmmsg stops at an error, so a rejected segmented send is repeated before the next send: no probe is needed.
        if meta.datagrams > 1 && meta.path.segmentation.gso(meta.segment_bytes) == Gso::Off {
            meta.split(page, pieces, |one, piece| self.queue(page, one, &[piece]));
        } else {
            self.queue(page, meta, pieces);
        }
    }
}

/// The sender outside a batch, when nothing is queued and there are no frames.
struct CopyEgress<'a>(&'a mut QueueSender);

impl Egress for CopyEgress<'_> {
    type Frame = u16;

    fn send_copy(&mut self, page: &Accounts, meta: SendMeta, payload: &[u8]) {
        self.0.retry.send(page, meta, std::iter::once(payload));
    }

    fn send(&mut self, page: &Accounts, meta: SendMeta, _pieces: &[Piece<u16>]) {
        meta.refuse(page, DropReason::NoBuffer);
    }
}

impl QueueEgress<'_> {
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "both lists are far below 65,536 long")]
    fn queue(&mut self, page: &Accounts, meta: SendMeta, pieces: &[Piece<u16>]) {
        if self.sender.queue.len() >= MAX_QUEUED
            || self.sender.pieces.len() + pieces.len() > MAX_QUEUED_PIECES
        {
            self.flush(page);
        }
        let QueueSender { queue, pieces: queued_pieces, .. } = &mut *self.sender;
        queue.push(Queued {
            order: queue.len() as u32,
            meta,
            first_piece: queued_pieces.len() as u32,
            pieces: pieces.len() as u16,
        });
        queued_pieces.extend_from_slice(pieces);
    }

    /// Executes the queued sends, grouped by socket.
    fn flush(&mut self, page: &Accounts) {
        let QueueSender { queue, pieces, batch, retry, .. } = &mut *self.sender;
        queue.sort_unstable_by_key(|queued| (queued.meta.path.socket.id, queued.order));
        let received = &*self.received;
        let bytes_of = |first: u32, count: u16| {
            let first = first as usize;
            let own = pieces.get(first..first + usize::from(count)).unwrap_or_default();
            own.iter().map(|piece| piece_bytes(received, piece))
        };
        let mut queue = queue.drain(..);
        while let Some(first) = queue.as_slice().first() {
            let (socket, serialized) = (Rc::clone(&first.meta.path.socket), first.meta.path.serialized);
            let mut sending = batch.begin();
            for Queued { meta, first_piece, pieces, .. } in queue.as_slice() {
                let bytes = || bytes_of(*first_piece, *pieces);
                // The batch has room for the whole queue.
                if meta.path.socket.id != socket.id
                    || sending.push(Some(meta.destination()), &meta.ancillary(bytes()), bytes()).is_err()
                {
                    break;
                }
            }
            let (count, mut ended) = (sending.len().max(1), 0);
            sending.execute(socket.fd.as_fd(), |progress| {
                let Progress::Outcome(_, outcome) = progress else {
                    return if serialized {
                        retry.take_errors(&socket)
                    };
                };
                let Some(Queued { meta, first_piece, pieces, .. }) = queue.next() else { return };
                ended += 1;
                match outcome {
                    Ok(_) => retry.settle(page, meta, Ok(())),
                    Err(errno) => retry.after_failure(page, meta, errno, bytes_of(first_piece, pieces)),
                }
            });
            // A send without an outcome was not executed.
            for Queued { meta, .. } in queue.by_ref().take(count - ended) {
                meta.refuse(page, DropReason::NoBuffer);
            }
        }
        pieces.clear();
    }
}

fn piece_bytes<'a>(received: &'a ReceiveBatch, piece: &Piece<u16>) -> &'a [u8] {
    let start = piece.start as usize;
    received
        .message(usize::from(piece.frame))
        .and_then(|message| message.payload.get(start..start + piece.bytes as usize))
        .unwrap_or_default()
}
