//! The loop over io_uring.
//!
//! ```text
//!  enter: submit sends, wait ─▶ take events ─▶ engine ─▶ queue sends ─┐
//!    ▲                          (frames, completed sends)             │
//!    └──────────── release buffers, messages, receive ◀───────────────┘
//! ```
//!
//! One system call per iteration. The sends of an iteration are executed by the next `enter`, which also receives what has
//! arrived in the meantime.

pub(super) mod linked;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use mcr_link::reason::DropReason;
use mcr_link::rule_set::EgressId;
use mcr_rules::log::DATAPLANE;
use mcr_sys::SysError;
use mcr_sys::clock::{monotonic, monotonic_ns};
use mcr_sys::errno::{EAGAIN, EINVAL, ENOBUFS};
use mcr_sys::mmsg::MAX_SEGMENTS;
use mcr_sys::uring::{BufferId, Event, FileSlot, Piece as RingPiece, Ring, SendId, SendRequest, Wait};
use tracing::warn;

use super::lost::LostFrames;
use super::retry::RetrySender;
use super::session::{Session, Transport};
use super::sockets::Sockets;
use super::{HEARTBEAT, RECEIVE_PAUSE, WorkerError};
use crate::engine::Engine;
use crate::engine::accounts::Accounts;
use crate::engine::coalescing::Coalescing;
use crate::engine::path::EgressSocket;
use crate::engine::segmentation::Gso;
use crate::engine::send::{Egress, Piece, SendMeta};

const CHANNEL: u16 = 0;
const CAPTURE: u16 = 1;
const HEARTBEAT_TIMER: u16 = 0;
const RESUME_TIMER: u16 = 1;
const HELD_TIMER: u16 = 2;

/// After an iteration with this number of frames, more are received immediately, without coalescing.
const BUSY: u32 = 16;
/// Approximate maximum number of frames that the kernel receives for one request.
const FULL: u32 = 32;
/// Maximum number of requests of one receive: together they fill half of the default buffers, while sends hold the other half.
const MAX_REQUESTS: u16 = 4;

/// Relays until the supervisor sends `Stop`, or is gone. Fails if the channel or the ring failed.
pub(super) fn run(
    mut session: Session<BufferId>,
    ring: Ring,
    capture: &OwnedFd,
    budget: Duration,
) -> Result<(), WorkerError> {
    let mut sender = RingSender::new(ring);
    let mut receiver = Receiver::new(sender.ring.register(capture.as_fd())?, budget);
    let channel = sender.ring.register(session.channel.as_fd())?;
    sender.ring.poll_readable(channel, CHANNEL)?;
    sender.ring.start_timer(HEARTBEAT_TIMER, HEARTBEAT)?;
    session.beat(&sender.sockets);
    loop {
        let wait = if sender.is_busy() || session.is_checking_drift() { Wait::No } else { receiver.wait() };
        receiver.enter(&mut sender.ring, wait)?;
        sender.take_events(&session.page);
        stop_stopwatch(&mut session, &sender);
        if session.stopwatch.is_due() && !sender.arrived.is_empty() {
            session.stopwatch.start(capture, &session.page);
        }
        process(&mut session, &mut sender);
        stop_stopwatch(&mut session, &sender);
        if let Some(error) = sender.fault.take() {
            return Err(error.into());
        }
        let signals = std::mem::take(&mut sender.signals);
        if signals.heartbeat {
            session.beat(&sender.sockets);
            sender.ring.start_timer(HEARTBEAT_TIMER, HEARTBEAT)?;
        }
        if signals.message {
            if session.handle_messages(&mut sender)?.is_break() {
                return finish(&mut session, &mut sender);
            }
            sender.ring.poll_readable(channel, CHANNEL)?;
        }
        session.check_drift();
        if session.started {
            receiver.receive_again(&mut sender.ring, &signals)?;
        }
    }
}

/// Ends a measurement when every send is complete.
#[inline]
fn stop_stopwatch(session: &mut Session<BufferId>, sender: &RingSender) {
    if session.stopwatch.is_running() && sender.ring.sends_in_flight() == 0 {
        session.stopwatch.stop(&session.page);
    }
}

/// Relays the frames received so far. A receive in progress continues until the socket is empty or, because buffers are no longer
/// released, until no buffer is free.
fn finish(session: &mut Session<BufferId>, sender: &mut RingSender) -> Result<(), WorkerError> {
    loop {
        let taken = relay_arrived(session, sender);
        sender.arrived.drain(..taken);
        sender.finish_sends(&session.page)?;
        if sender.ring.is_receiving() {
            sender.ring.enter(Wait::No)?;
            sender.take_events(&session.page);
        } else if sender.arrived.is_empty() {
            return Ok(());
        }
    }
}

/// Relays the frames that arrived, and releases their buffers.
fn process(session: &mut Session<BufferId>, sender: &mut RingSender) {
    let taken = relay_arrived(session, sender);
    for (buffer, _) in sender.arrived.drain(..taken) {
        sender.ring.release(buffer);
    }
}

/// Passes the frames that arrived through the engine. Returns their number.
fn relay_arrived(session: &mut Session<BufferId>, sender: &mut RingSender) -> usize {
    sender.retry.begin_batch();
    let Session { engine, page, .. } = session;
    engine.begin_batch(monotonic_ns());
    let taken = if page.is_tracing() {
        process_frames::<true>(engine, page, sender)
    } else {
        process_frames::<false>(engine, page, sender)
    };
    engine.finish_batch(page, sender);
    taken
}

/// Returns the number of frames.
#[inline]
fn process_frames<const TRACED: bool>(
    engine: &mut Engine<BufferId>,
    page: &Accounts,
    sender: &mut RingSender,
) -> usize {
    // More frames may arrive when sends are completed to make room; their number is limited by the buffers.
    let mut at = 0;
    while let Some((buffer, bytes)) = sender.arrived.get(at).copied() {
        let frame = sender.ring.frame(buffer, bytes);
        let parsed = engine.parse(frame, page);
        if TRACED {
            engine.trace_frame(frame, &parsed, page);
        }
        if engine.checks_streams() {
            let own = engine.is_from_this_host(frame);
            engine.find_flow::<TRACED, _>(own, &parsed, page, sender);
            engine.check_stream(sender.ring.frame(buffer, bytes), &parsed, page);
        }
        if engine.process::<TRACED, _>(buffer, &parsed, page, sender)
            && let Some(whole) = engine.process_further::<TRACED, _>(buffer, bytes as usize, page, sender)
            && let Some(arrived) = sender.arrived.get_mut(at)
        {
            arrived.1 = u32::try_from(whole).unwrap_or_default();
            continue;
        }
        at += 1;
    }
    at
}

/// Receives continuously: while frames arrive, the next receive is submitted with the sends; when the socket is empty, a poll
/// waits.
struct Receiver {
    socket: FileSlot,
    /// A poll waits for frames.
    waiting: bool,
    /// The last receive failed.
    failing: bool,
    /// A timer runs before the next receive.
    paused: bool,
    /// Number of requests of the last receive.
    requests: u16,
    coalescing: Coalescing,
    /// The duration of the last wait, until frames have arrived.
    waited: Option<Duration>,
}

impl Receiver {
    const fn new(socket: FileSlot, budget: Duration) -> Self {
        Self {
            socket,
            waiting: false,
            failing: false,
            paused: false,
            requests: 1,
            coalescing: Coalescing::new(budget),
            waited: None,
        }
    }

    /// How to wait when idle.
    fn wait(&self) -> Wait {
        self.coalescing.window().filter(|_| self.waiting).map_or(Wait::Event, Wait::Coalesce)
    }

    fn enter(&mut self, ring: &mut Ring, wait: Wait) -> Result<(), SysError> {
        if wait == Wait::No {
            return ring.enter(wait);
        }
        let start = monotonic();
        ring.enter(wait)?;
        self.waited = Some(monotonic().saturating_sub(start));
        Ok(())
    }

    /// Starts the next receive if the last has ended: when there are frames; immediately after a first failure (ENETDOWN is
    /// reported once per outage) and if there was no buffer; after a delay if it failed again, so that the loop never spins.
    fn receive_again(&mut self, ring: &mut Ring, signals: &Signals) -> Result<(), SysError> {
        if signals.arrived > 0 {
            self.failing = false;
            if let Some(time) = self.waited.take() {
                self.coalescing.record_wait(time, signals.arrived as usize);
            }
        }
        self.paused &= !signals.resume;
        self.waiting &= !signals.frames;
        if ring.is_receiving() || self.paused || self.waiting {
            return Ok(());
        }
        // After a large batch there are probably more frames. After a small one, wait for them.
        let enough = if self.coalescing.is_disabled() { 1 } else { BUSY };
        match signals.receive_error {
            // The socket is empty, or the request has reached its limit.
            Some(EAGAIN) if signals.arrived < enough => {
                self.waiting = true;
                return ring.poll_readable(self.socket, CAPTURE);
            }
            Some(errno) if ![0, EAGAIN, ENOBUFS].contains(&errno) => {
                if std::mem::replace(&mut self.failing, true) {
                    self.paused = true;
                    return ring.start_timer(RESUME_TIMER, RECEIVE_PAUSE);
                }
                warn!(target: DATAPLANE, errno, "receive failed, continuing");
            }
            // Sends hold all buffers: retried after one completes.
            _ if ring.free_buffers() == 0 => return Ok(()),
            _ => {}
        }
        let full = signals.arrived >= FULL * u32::from(self.requests);
        self.requests = if full { (2 * self.requests).min(MAX_REQUESTS) } else { 1 };
        ring.start_receive(self.socket, self.requests)
    }
}

/// Events other than frames and sends.
#[derive(Clone, Copy, Debug, Default)]
struct Signals {
    /// The channel has a message.
    message: bool,
    /// The capture socket has frames, or an error.
    frames: bool,
    /// Which capture sockets have, of a worker of linked interfaces.
    readable: u8,
    heartbeat: bool,
    resume: bool,
    /// The time of what is held may be over.
    held: bool,
    /// Number of frames that arrived.
    arrived: u32,
    receive_error: Option<i32>,
}

impl Signals {
    const fn any(&self) -> bool {
        self.message
            || self.frames
            || self.heartbeat
            || self.resume
            || self.held
            || self.receive_error.is_some()
    }
}

/// The ring, the sends in it, and the events that it has returned.
struct RingSender {
    ring: Ring,
    sockets: Sockets,
    /// Sends in flight, by [`SendId::index`].
    in_flight: Vec<Option<SendMeta>>,
    /// The pieces of the send being prepared.
    pieces: Vec<RingPiece>,
    arrived: Vec<(BufferId, u32)>,
    signals: Signals,
    retry: RetrySender,
    lost: LostFrames,
    fault: Option<SysError>,
}

impl RingSender {
    fn new(ring: Ring) -> Self {
        Self {
            in_flight: (0..ring.send_count()).map(|_| None).collect(),
            pieces: Vec::with_capacity(MAX_SEGMENTS),
            arrived: Vec::with_capacity(usize::from(ring.buffer_count())),
            ring,
            sockets: Sockets::default(),
            signals: Signals::default(),
            retry: RetrySender::new(),
            lost: LostFrames::default(),
            fault: None,
        }
    }

    /// Whether events may be pending, so that the loop must not wait: queued requests complete within the next call, and frames and
    /// signals may have arrived while sends were completed.
    fn is_busy(&self) -> bool {
        !self.arrived.is_empty()
            || self.signals.any()
            || self.ring.sends_in_flight() > 0
            || self.ring.is_receiving()
    }

    #[inline]
    fn take_events(&mut self, page: &Accounts) {
        while let Some(event) = self.ring.next_event() {
            match event {
                Event::Received { buffer, bytes } => {
                    self.signals.arrived += 1;
                    self.arrived.push((buffer, bytes));
                }
                Event::ReceiveEnded { errno: EINVAL } => {
                    self.lost.count(page);
                    // A poll tells whether there are more frames.
                    self.signals.receive_error = Some(EAGAIN);
                }
                Event::ReceiveEnded { errno } => self.signals.receive_error = Some(errno),
                Event::Sent { send, outcome } => self.complete(page, send, outcome.map(drop)),
                Event::Readable { token: CHANNEL } => self.signals.message = true,
                Event::Readable { token } => {
                    self.signals.frames = true;
                    self.signals.readable |= 1 << (token - CAPTURE);
                }
                Event::Timer { token: HEARTBEAT_TIMER } => self.signals.heartbeat = true,
                Event::Timer { token: HELD_TIMER } => self.signals.held = true,
                Event::Timer { .. } => self.signals.resume = true,
            }
        }
    }

    #[inline]
    fn complete(&mut self, page: &Accounts, send: SendId, outcome: Result<(), i32>) {
        if let Some(meta) = self.in_flight.get_mut(usize::from(send.index())).and_then(Option::take) {
            match outcome {
                Ok(()) => meta.settle(page, Ok(())),
                Err(errno) => {
                    let pieces = self.ring.pieces(send).iter().map(|piece| self.ring.piece(piece));
                    self.retry.after_failure(page, meta, errno, pieces);
                }
            }
        }
        self.ring.finish(send);
    }

    /// Submits queued requests, so that they are executed before later ones, and takes the events.
    fn submit(&mut self, page: &Accounts) {
        if let Err(error) = self.ring.enter(Wait::No) {
            self.fault = Some(error);
        }
        self.take_events(page);
    }

    #[inline]
    fn queue(&mut self, page: &Accounts, meta: SendMeta, pieces: &[RingPiece]) {
        let Some(socket) = meta.path.socket.file else { return meta.refuse(page, DropReason::OutputDown) };
        let ancillary = meta.ancillary(pieces.iter().map(|piece| self.ring.piece(piece)));
        let request = SendRequest { socket, destination: meta.destination(), ancillary, pieces };
        let mut queued = self.ring.send(&request);
        // After a fault the loop ends, and the supervisor must learn why before it finds that nothing happens.
        if queued.is_err() && self.fault.is_none() {
            // Sends complete within the call that submits them, so one call frees slots.
            self.submit(page);
            queued = self.ring.send(&request);
        }
        match queued.map(|send| self.in_flight.get_mut(usize::from(send.index()))) {
            Ok(Some(entry)) => *entry = Some(meta),
            Ok(None) | Err(_) => meta.refuse(page, DropReason::NoBuffer),
        }
    }

    /// Sends synchronously, without the ring.
    fn send_directly(&mut self, page: &Accounts, meta: SendMeta, pieces: &[RingPiece]) {
        self.retry.send(page, meta, pieces.iter().map(|piece| self.ring.piece(piece)));
    }
}

impl Egress for RingSender {
    type Frame = BufferId;

    fn buffer(&mut self, frame: BufferId) -> &mut [u8] {
        self.ring.buffer(frame)
    }

    fn frame(&self, frame: BufferId, bytes: usize) -> &[u8] {
        self.ring.frame(frame, u32::try_from(bytes).unwrap_or_default())
    }

    fn send_copy(&mut self, page: &Accounts, meta: SendMeta, payload: &[u8]) {
        // After all sends of the socket that are queued.
        self.submit(page);
        self.retry.send(page, meta, std::iter::once(payload));
    }

    #[inline]
    fn send(&mut self, page: &Accounts, meta: SendMeta, pieces: &[Piece<BufferId>]) {
        let gso = match meta.datagrams {
            0 | 1 => Gso::Use,
            _ => meta.path.segmentation.gso(meta.segment_bytes),
        };
        if gso == Gso::Off && !meta.path.serialized {
            meta.split(page, pieces, |one, piece| self.queue(page, one, &[ring_piece(&piece)]));
            return;
        }
        let mut ring_pieces = std::mem::take(&mut self.pieces);
        ring_pieces.clear();
        ring_pieces.extend(pieces.iter().map(ring_piece));
        if meta.path.serialized {
            // No send is queued for this socket, so the order is kept.
            self.send_directly(page, meta, &ring_pieces);
        } else if gso == Gso::Probe {
            // If it is rejected, its datagrams are sent one by one, after earlier sends of the output and before later ones.
            self.submit(page);
            self.send_directly(page, meta, &ring_pieces);
        } else {
            self.queue(page, meta, &ring_pieces);
        }
        self.pieces = ring_pieces;
    }
}

#[inline]
const fn ring_piece(piece: &Piece<BufferId>) -> RingPiece {
    RingPiece { buffer: piece.frame, start: piece.start, bytes: piece.bytes }
}

impl Transport for RingSender {
    type Frame = BufferId;

    fn flush_held(&mut self, engine: &mut Engine<BufferId>, page: &Accounts) {
        engine.flush_held(page, self);
    }

    fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    fn add_socket(&mut self, id: EgressId, fd: OwnedFd) -> Result<(), SysError> {
        let file = Some(self.ring.register(fd.as_fd())?);
        self.sockets.insert(EgressSocket { id, fd, file, replies: std::cell::Cell::new(0) });
        Ok(())
    }

    fn keep_sockets(&mut self, wanted: &BTreeSet<EgressId>) -> Result<(), SysError> {
        let closed = self.sockets.keep_only(wanted);
        closed.iter().filter_map(|socket| socket.file).try_for_each(|file| self.ring.unregister(file))
    }

    fn finish_sends(&mut self, page: &Accounts) -> Result<(), SysError> {
        while self.ring.sends_in_flight() > 0 {
            // Sends complete within the call that submits them.
            self.ring.enter(Wait::No)?;
            self.take_events(page);
        }
        Ok(())
    }
}
