//! The loop over io_uring.
//!
//! ```text
//!  enter: submit sends, wait ─▶ take every event ─▶ engine ─▶ queue sends ─┐
//!    ▲                            arrived frames, ended sends,             │
//!    └──────────── release, listen, resume ◀───────────────────────────────┘
//! ```
//!
//! One system call per turn. The sends of a turn are executed by the next `enter`, which also takes what has arrived
//! in the meantime.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use mcr_link::reason::DropReason;
use mcr_link::rule_set::EgressId;
use mcr_rules::log::DATAPLANE;
use mcr_sys::SysError;
use mcr_sys::clock::{monotonic, monotonic_ns};
use mcr_sys::mmsg::MAX_SEGMENTS;
use mcr_sys::uring::{BufferId, Event, FileSlot, Piece as RingPiece, Ring, SendId, SendRequest, Wait};
use tracing::warn;

use super::retry::RetrySender;
use super::session::{Relay, Transport, Turn};
use super::sockets::Sockets;
use super::{HEARTBEAT, RECEIVE_PAUSE, WorkerError};
use crate::engine::Engine;
use crate::engine::accounts::Accounts;
use crate::engine::coalescing::Pace;
use crate::engine::path::EgressSocket;
use crate::engine::segmentation::Gso;
use crate::engine::send::{Egress, Piece, SendMeta};

const CHANNEL: u16 = 0;
const CAPTURE: u16 = 1;
const BEAT_TIMER: u16 = 0;
const RESUME_TIMER: u16 = 1;
/// EAGAIN (asm-generic/errno.h): the socket has no more frames, or its turn is over.
const EMPTY: i32 = 11;
/// ENOBUFS (asm-generic/errno.h): the kernel found no free buffer.
const NO_BUFFERS: i32 = 105;

/// Frames in one turn after which more are taken at once, without waiting for them to gather.
const BUSY: u32 = 16;
/// What the kernel lets one request take, about.
const FULL: u32 = 32;
/// The most requests of one receive: together they take half of the default buffers, while sends hold the other half.
const MAX_REQUESTS: u16 = 4;

/// Relays until told to stop.
///
/// # Errors
/// The channel or the ring failed.
pub(super) fn run(
    mut relay: Relay<BufferId>,
    ring: Ring,
    capture: &OwnedFd,
    budget: Duration,
) -> Result<(), WorkerError> {
    let mut sender = RingSender::new(ring);
    let mut receiver = Receiver::new(sender.ring.register(capture.as_fd())?, budget);
    let channel = sender.ring.register(relay.channel.as_fd())?;
    sender.ring.poll_readable(channel, CHANNEL)?;
    sender.ring.start_timer(BEAT_TIMER, HEARTBEAT)?;
    relay.beat();
    loop {
        let wait = if sender.is_busy() || relay.is_inspecting() { Wait::No } else { receiver.wait() };
        receiver.enter(&mut sender.ring, wait)?;
        sender.take_events(&relay.page);
        stop_the_watch(&mut relay, &sender);
        if relay.stopwatch.is_due() && !sender.arrived.is_empty() {
            relay.stopwatch.start(capture, &relay.page);
        }
        process(&mut relay, &mut sender);
        stop_the_watch(&mut relay, &sender);
        if let Some(error) = sender.fault.take() {
            return Err(error.into());
        }
        let signals = std::mem::take(&mut sender.signals);
        if signals.beat {
            relay.beat();
            sender.ring.start_timer(BEAT_TIMER, HEARTBEAT)?;
        }
        if signals.message {
            if relay.handle_messages(&mut sender)? == Turn::Stop {
                return finish(&mut relay, &mut sender);
            }
            sender.ring.poll_readable(channel, CHANNEL)?;
        }
        relay.inspect();
        if relay.started {
            receiver.keep_going(&mut sender.ring, &signals)?;
        }
    }
}

/// Ends a measurement when no send is under way.
#[inline]
fn stop_the_watch(relay: &mut Relay<BufferId>, sender: &RingSender) {
    if relay.stopwatch.is_running() && sender.ring.sends_under_way() == 0 {
        relay.stopwatch.stop(&relay.page);
    }
}

/// Sends what was taken from the socket: a receive that is under way takes until the socket is empty or, since no buffer
/// is given back any more, until there are none.
fn finish(relay: &mut Relay<BufferId>, sender: &mut RingSender) -> Result<(), WorkerError> {
    loop {
        let taken = relay_arrived(relay, sender);
        sender.arrived.drain(..taken);
        sender.finish_sends(&relay.page)?;
        if sender.ring.is_receiving() {
            sender.ring.enter(Wait::No)?;
            sender.take_events(&relay.page);
        } else if sender.arrived.is_empty() {
            return Ok(());
        }
    }
}

/// Runs the frames that arrived through the engine and gives their buffers up.
fn process(relay: &mut Relay<BufferId>, sender: &mut RingSender) {
    let taken = relay_arrived(relay, sender);
    for (buffer, _) in sender.arrived.drain(..taken) {
        sender.ring.release(buffer);
    }
}

/// Runs the frames that arrived through the engine. Gives how many there were.
fn relay_arrived(relay: &mut Relay<BufferId>, sender: &mut RingSender) -> usize {
    sender.retry.begin_batch();
    let Relay { engine, page, .. } = relay;
    engine.begin_batch(monotonic_ns());
    let taken = if page.is_tracing() {
        take::<true>(engine, page, sender)
    } else {
        take::<false>(engine, page, sender)
    };
    engine.finish_batch(page, sender);
    taken
}

/// Gives how many frames there were.
#[inline]
fn take<const TRACED: bool>(
    engine: &mut Engine<BufferId>,
    page: &Accounts,
    sender: &mut RingSender,
) -> usize {
    // More may arrive meanwhile, where sends must be finished to make room; the buffers bound them.
    let mut at = 0;
    while let Some((buffer, bytes)) = sender.arrived.get(at).copied() {
        let frame = sender.ring.frame(buffer, bytes);
        let parsed = engine.parse(frame);
        if TRACED {
            engine.look_at(frame, &parsed, page);
        }
        if engine.is_checking() {
            engine.check(frame, &parsed, page);
        }
        engine.take::<TRACED, _>(buffer, parsed, page, sender);
        at += 1;
    }
    at
}

/// Keeps receiving: while frames come, the next receive goes with the sends; once the socket is empty, a poll waits.
struct Receiver {
    socket: FileSlot,
    /// A poll tells when there are frames again.
    waiting: bool,
    /// It failed, and nothing was received since.
    failing: bool,
    /// A timer runs before it is resumed.
    paused: bool,
    /// Requests of the last receive.
    requests: u16,
    pace: Pace,
    /// How long the last wait took, until frames came of it.
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
            pace: Pace::new(budget),
            waited: None,
        }
    }

    /// How to wait when there is nothing to do.
    fn wait(&self) -> Wait {
        self.pace.gather().filter(|_| self.waiting).map_or(Wait::Event, Wait::Coalesce)
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

    /// Receives again if that ended: when there are frames; at once after a first failure (ENETDOWN is told once per
    /// outage) and when buffers had run out; after a pause when it failed again, so that the loop never spins.
    fn keep_going(&mut self, ring: &mut Ring, signals: &Signals) -> Result<(), SysError> {
        if signals.arrived > 0 {
            self.failing = false;
            if let Some(time) = self.waited.take() {
                self.pace.waited(time, signals.arrived as usize);
            }
        }
        self.paused &= !signals.resume;
        self.waiting &= !signals.frames;
        if ring.is_receiving() || self.paused || self.waiting {
            return Ok(());
        }
        // After a large turn there are others by now. After a small one they may wait for each other, or for the poll.
        let enough = if self.pace.is_immediate() { 1 } else { BUSY };
        match signals.receive_error {
            Some(EMPTY) if signals.arrived < enough => {
                self.waiting = true;
                return ring.poll_readable(self.socket, CAPTURE);
            }
            Some(errno) if ![0, EMPTY, NO_BUFFERS].contains(&errno) => {
                if std::mem::replace(&mut self.failing, true) {
                    self.paused = true;
                    return ring.start_timer(RESUME_TIMER, RECEIVE_PAUSE);
                }
                warn!(target: DATAPLANE, errno, "receiving failed, going on");
            }
            // Sends hold all buffers: the event that frees one comes here again.
            _ if ring.free_buffers() == 0 => return Ok(()),
            _ => {}
        }
        let full = signals.arrived >= FULL * u32::from(self.requests);
        self.requests = if full { (2 * self.requests).min(MAX_REQUESTS) } else { 1 };
        ring.start_receive(self.socket, self.requests)
    }
}

/// What happened beside frames and sends.
#[derive(Clone, Copy, Debug, Default)]
struct Signals {
    /// The channel has a message.
    message: bool,
    /// The capture socket has frames, or an error.
    frames: bool,
    beat: bool,
    resume: bool,
    /// Frames.
    arrived: u32,
    receive_error: Option<i32>,
}

impl Signals {
    const fn any(&self) -> bool {
        self.message || self.frames || self.beat || self.resume || self.receive_error.is_some()
    }
}

/// The ring, what is under way in it, and what has come out of it.
struct RingSender {
    ring: Ring,
    sockets: Sockets,
    /// By the index of the send.
    under_way: Vec<Option<SendMeta>>,
    arrived: Vec<(BufferId, u32)>,
    signals: Signals,
    retry: RetrySender,
    fault: Option<SysError>,
}

impl RingSender {
    fn new(ring: Ring) -> Self {
        Self {
            under_way: (0..ring.send_count()).map(|_| None).collect(),
            arrived: Vec::with_capacity(usize::from(ring.buffer_count())),
            ring,
            sockets: Sockets::default(),
            signals: Signals::default(),
            retry: RetrySender::new(),
            fault: None,
        }
    }

    /// What is queued ends within the next call, and what was taken on the side, while sends were finished, is there already:
    /// neither is to wait for events.
    fn is_busy(&self) -> bool {
        !self.arrived.is_empty()
            || self.signals.any()
            || self.ring.sends_under_way() > 0
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
                Event::ReceiveEnded { errno } => self.signals.receive_error = Some(errno),
                Event::Sent { send, outcome } => self.ended(page, send, outcome.map(drop)),
                Event::Readable { token: CAPTURE } => self.signals.frames = true,
                Event::Readable { .. } => self.signals.message = true,
                Event::Timer { token: BEAT_TIMER } => self.signals.beat = true,
                Event::Timer { .. } => self.signals.resume = true,
            }
        }
    }

    #[inline]
    fn ended(&mut self, page: &Accounts, send: SendId, outcome: Result<(), i32>) {
        if let Some(meta) = self.under_way.get_mut(usize::from(send.index())).and_then(Option::take) {
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

    /// Submits what is queued, so that it is executed before what follows, and takes what has ended.
    fn submit(&mut self, page: &Accounts) {
        if let Err(error) = self.ring.enter(Wait::No) {
            self.fault = Some(error);
        }
        self.take_events(page);
    }

    #[inline]
    fn queue(&mut self, page: &Accounts, meta: SendMeta, pieces: &[RingPiece]) {
        let Some(socket) = meta.path.socket.file else { return meta.refuse(page, DropReason::OutputDown) };
        let request =
            SendRequest { socket, destination: &meta.path.address, ancillary: meta.ancillary(), pieces };
        let mut queued = self.ring.send(&request);
        if queued.is_err() {
            // Sends end within the call that submits them, so one call makes room.
            self.submit(page);
            queued = self.ring.send(&request);
        }
        match queued.map(|send| self.under_way.get_mut(usize::from(send.index()))) {
            Ok(Some(entry)) => *entry = Some(meta),
            Ok(None) | Err(_) => meta.refuse(page, DropReason::NoBuffer),
        }
    }

    /// Sends without the ring, with the outcome at once.
    fn send_directly(&mut self, page: &Accounts, meta: SendMeta, pieces: &[RingPiece]) {
        self.retry.send(page, meta, pieces.iter().map(|piece| self.ring.piece(piece)));
    }
}

impl Egress for RingSender {
    type Frame = BufferId;

    #[inline]
    fn send(&mut self, page: &Accounts, meta: SendMeta, pieces: &[Piece<BufferId>]) {
        let gso = match meta.datagrams {
            0 | 1 => Gso::Use,
            _ => meta.path.segmentation.gso(meta.segment_bytes),
        };
        if gso == Gso::Off && !meta.path.in_turn {
            meta.split(page, pieces, |one, piece| self.queue(page, one, &[ring_piece(&piece)]));
            return;
        }
        let mut ring_pieces = [RingPiece::default(); MAX_SEGMENTS];
        let mut used = 0;
        for (place, piece) in ring_pieces.iter_mut().zip(pieces) {
            *place = ring_piece(piece);
            used += 1;
        }
        let pieces = ring_pieces.get(..used).unwrap_or_default();
        if meta.path.in_turn {
            // Nothing is queued for this socket, so nothing is overtaken.
            self.send_directly(page, meta, pieces);
        } else if gso == Gso::Probe {
            // If it is refused, its datagrams leave one by one: none of this output may overtake them, nor they others.
            self.submit(page);
            self.send_directly(page, meta, pieces);
        } else {
            self.queue(page, meta, pieces);
        }
    }
}

#[inline]
const fn ring_piece(piece: &Piece<BufferId>) -> RingPiece {
    RingPiece { buffer: piece.frame, start: piece.start, bytes: piece.bytes }
}

impl Transport for RingSender {
    fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    fn add_socket(&mut self, id: EgressId, fd: OwnedFd) -> Result<(), SysError> {
        let file = Some(self.ring.register(fd.as_fd())?);
        self.sockets.insert(EgressSocket { id, fd, file });
        Ok(())
    }

    fn keep_sockets(&mut self, wanted: &BTreeSet<EgressId>) -> Result<(), SysError> {
        let closed = self.sockets.keep_only(wanted);
        closed.iter().filter_map(|socket| socket.file).try_for_each(|file| self.ring.unregister(file))
    }

    fn finish_sends(&mut self, page: &Accounts) -> Result<(), SysError> {
        while self.ring.sends_under_way() > 0 {
            // Sends end within the call that submits them.
            self.ring.enter(Wait::No)?;
            self.take_events(page);
        }
        Ok(())
    }
}
