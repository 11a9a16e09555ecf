//! The loop of a worker of linked interfaces: it receives from its capture sockets in turn, so that none of them, however much arrives
//! there, takes the buffers or the time of the others.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use mcr_rules::log::DATAPLANE;
use mcr_sys::SysError;
use mcr_sys::clock::{monotonic, monotonic_ns};
use mcr_sys::errno::{EAGAIN, ENETDOWN, ENOBUFS};
use mcr_sys::uring::{BufferId, FileSlot, Ring, Wait};
use tracing::warn;

use super::{
    BUSY, CAPTURE, CHANNEL, FULL, HEARTBEAT_TIMER, HELD_TIMER, MAX_REQUESTS, RESUME_TIMER, RingSender,
    Signals, stop_stopwatch,
};
use crate::engine::Engine;
use crate::engine::accounts::Accounts;
use crate::engine::coalescing::Coalescing;
use crate::relay::session::{Session, Transport};
use crate::relay::{HEARTBEAT, RECEIVE_PAUSE, WorkerError};

/// One capture socket.
struct Leg {
    socket: FileSlot,
    /// A poll waits for frames.
    waiting: bool,
    failing: bool,
    paused: bool,
    /// Number of requests of the last receive.
    requests: u16,
}

/// See the module documentation.
struct Receiver {
    legs: Vec<Leg>,
    /// The socket of the receive that is under way, or was the last.
    turn: usize,
    coalescing: Coalescing,
    waited: Option<Duration>,
    /// A timer runs for what is held.
    timed: bool,
}

/// Relays until the supervisor sends `Stop`, or is gone. Fails if the channel or the ring failed.
pub(in crate::relay) fn run(
    mut session: Session<BufferId>,
    ring: Ring,
    captures: &[OwnedFd],
    budget: Duration,
) -> Result<(), WorkerError> {
    let mut sender = RingSender::new(ring);
    let mut receiver = Receiver::new(&mut sender.ring, captures, budget)?;
    let channel = sender.ring.register(session.channel.as_fd())?;
    sender.ring.poll_readable(channel, CHANNEL)?;
    sender.ring.start_timer(HEARTBEAT_TIMER, HEARTBEAT)?;
    session.beat(&sender.sockets);
    loop {
        let wait = if sender.is_busy() || session.is_checking_drift() { Wait::No } else { receiver.wait() };
        receiver.enter(&mut sender.ring, wait)?;
        sender.take_events(&session.page);
        stop_stopwatch(&mut session, &sender);
        if session.stopwatch.is_due()
            && !sender.arrived.is_empty()
            && let Some(capture) = captures.get(receiver.turn)
        {
            session.stopwatch.start(capture, &session.page);
        }
        process(&mut session, &mut sender, receiver.turn);
        receiver.expire_held(&mut session, &mut sender)?;
        stop_stopwatch(&mut session, &sender);
        if let Some(error) = sender.fault.take() {
            return Err(error.into());
        }
        let signals = std::mem::take(&mut sender.signals);
        if signals.receive_error == Some(ENETDOWN) {
            session.engine.socket_down(u8::try_from(receiver.turn).unwrap_or_default());
        }
        if signals.heartbeat {
            session.beat(&sender.sockets);
            sender.ring.start_timer(HEARTBEAT_TIMER, HEARTBEAT)?;
        }
        if signals.message {
            if session.handle_messages(&mut sender)?.is_break() {
                return finish(&mut session, &mut sender, receiver.turn);
            }
            sender.ring.poll_readable(channel, CHANNEL)?;
        }
        session.check_drift();
        if session.started {
            receiver.receive_again(&mut sender, &signals)?;
        }
    }
}

/// Relays the frames that arrived, and releases their buffers.
fn process(session: &mut Session<BufferId>, sender: &mut RingSender, turn: usize) {
    if sender.arrived.is_empty() {
        return;
    }
    sender.retry.begin_batch();
    let Session { engine, page, .. } = session;
    let socket = u8::try_from(turn).unwrap_or_default();
    engine.begin_linked_batch(monotonic_ns(), socket, sender.arrived.len());
    let taken = if page.is_tracing() {
        process_frames::<true>(engine, page, sender)
    } else {
        process_frames::<false>(engine, page, sender)
    };
    engine.finish_batch(page, sender);
    for (buffer, _) in sender.arrived.drain(..taken) {
        sender.ring.release(buffer);
    }
}

/// Returns the number of frames.
fn process_frames<const TRACED: bool>(
    engine: &mut Engine<BufferId>,
    page: &Accounts,
    sender: &mut RingSender,
) -> usize {
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
        let bytes = bytes as usize;
        if engine.process_linked::<TRACED, _>((buffer, bytes), &parsed, page, sender)
            && let Some(whole) = engine.process_further::<TRACED, _>(buffer, bytes, page, sender)
            && let Some(arrived) = sender.arrived.get_mut(at)
        {
            arrived.1 = u32::try_from(whole).unwrap_or_default();
            continue;
        }
        at += 1;
    }
    at
}

/// Relays the frames received so far.
fn finish(session: &mut Session<BufferId>, sender: &mut RingSender, turn: usize) -> Result<(), WorkerError> {
    loop {
        process(session, sender, turn);
        sender.flush_held(&mut session.engine, &session.page);
        sender.finish_sends(&session.page)?;
        if sender.ring.is_receiving() {
            sender.ring.enter(Wait::No)?;
            sender.take_events(&session.page);
        } else if sender.arrived.is_empty() {
            return Ok(());
        }
    }
}

impl Receiver {
    fn new(ring: &mut Ring, captures: &[OwnedFd], budget: Duration) -> Result<Self, SysError> {
        let leg = |capture: &OwnedFd| {
            let socket = ring.register(capture.as_fd())?;
            Ok(Leg { socket, waiting: false, failing: false, paused: false, requests: 1 })
        };
        let legs = captures.iter().map(leg).collect::<Result<_, SysError>>()?;
        Ok(Self { legs, turn: 0, coalescing: Coalescing::new(budget), waited: None, timed: false })
    }

    /// How to wait when idle.
    fn wait(&self) -> Wait {
        let all_waiting = self.legs.iter().all(|leg| leg.waiting);
        self.coalescing.window().filter(|_| all_waiting).map_or(Wait::Event, Wait::Coalesce)
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

    /// Sends what has been held for the window, and starts a timer for the rest.
    fn expire_held(
        &mut self,
        session: &mut Session<BufferId>,
        sender: &mut RingSender,
    ) -> Result<(), SysError> {
        self.timed &= !sender.signals.held;
        let now_ns = monotonic_ns();
        let Some(next_ns) = session.engine.expire_held(now_ns, &session.page, sender) else { return Ok(()) };
        if !self.timed {
            self.timed = true;
            let after = Duration::from_nanos(next_ns.saturating_sub(now_ns).max(1));
            sender.ring.start_timer(HELD_TIMER, after)?;
        }
        Ok(())
    }

    /// Starts the next receive if the last has ended: on the next socket in turn that may have frames.
    fn receive_again(&mut self, sender: &mut RingSender, signals: &Signals) -> Result<(), SysError> {
        if signals.arrived > 0
            && let Some(time) = self.waited.take()
        {
            self.coalescing.record_wait(time, signals.arrived as usize);
        }
        for (index, leg) in self.legs.iter_mut().enumerate() {
            leg.paused &= !signals.resume;
            leg.waiting &= signals.readable & 1 << index == 0;
        }
        let ring = &mut sender.ring;
        if ring.is_receiving() || !sender.arrived.is_empty() {
            return Ok(());
        }
        self.after_receive(ring, signals)?;
        if ring.free_buffers() == 0 {
            return Ok(());
        }
        let count = self.legs.len();
        let order = (1..=count).map(|step| (self.turn + step) % count);
        let ready = |index: &usize| self.legs.get(*index).is_some_and(|leg| !leg.waiting && !leg.paused);
        let Some(next) = order.into_iter().find(ready) else { return Ok(()) };
        self.turn = next;
        match self.legs.get(next) {
            Some(leg) => ring.start_receive(leg.socket, leg.requests),
            None => Ok(()),
        }
    }

    /// What follows for a socket from how its receive ended.
    fn after_receive(&mut self, ring: &mut Ring, signals: &Signals) -> Result<(), SysError> {
        let most = (MAX_REQUESTS / u16::try_from(self.legs.len()).unwrap_or(1)).max(1);
        let turn = u16::try_from(self.turn).unwrap_or_default();
        let enough = if self.coalescing.is_disabled() { 1 } else { BUSY };
        let Some(leg) = self.legs.get_mut(self.turn) else { return Ok(()) };
        if signals.arrived > 0 {
            leg.failing = false;
        }
        match signals.receive_error {
            Some(EAGAIN) if signals.arrived < enough && !leg.waiting => {
                leg.waiting = true;
                return ring.poll_readable(leg.socket, CAPTURE + turn);
            }
            Some(errno) if ![0, EAGAIN, ENOBUFS].contains(&errno) => {
                if std::mem::replace(&mut leg.failing, true) {
                    leg.paused = true;
                    return ring.start_timer(RESUME_TIMER, RECEIVE_PAUSE);
                }
                warn!(target: DATAPLANE, errno, socket = turn, "receive failed, continuing");
            }
            _ => {}
        }
        let full = signals.arrived >= FULL * u32::from(leg.requests);
        leg.requests = if full { (2 * leg.requests).min(most) } else { 1 };
        Ok(())
    }
}
