//! The loop over recvmmsg(2) and sendmmsg(2), for hosts where io_uring is denied.
//!
//! ```text
//!  recvmmsg ─▶ engine ─▶ queue ─ by socket ─▶ sendmmsg …      poll when the capture socket is empty
//! ```

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use mcr_link::reason::DropReason;
use mcr_link::rule_set::EgressId;
use mcr_rules::log::DATAPLANE;
use mcr_sys::SysError;
use mcr_sys::clock::{monotonic, monotonic_ns};
use mcr_sys::mmsg::{ReceiveBatch, ReceiveOptions, SendBatch};
use mcr_sys::poll::wait_readable;
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

/// The most datagrams of one recvmmsg(2): several full segmented sends.
pub(super) const MAX_BATCH: usize = 256;
/// Datagrams in one turn after which more are taken at once, without waiting for them to gather.
const BUSY: usize = 16;
/// Sends queued before they are executed.
const MAX_QUEUED: usize = 1_024;
/// Pieces of queued sends.
const MAX_QUEUED_PIECES: usize = 8_192;
/// Under load, how often the channel is looked at.
const CHANNEL_INTERVAL: Duration = Duration::from_millis(5);

/// Relays until told to stop.
///
/// # Errors
/// The channel failed, or poll(2).
pub(super) fn run(
    mut relay: Relay<u16>,
    capture: &OwnedFd,
    options: &ReceiveOptions,
    budget: Duration,
) -> Result<(), WorkerError> {
    let mut received = ReceiveBatch::new(options)?;
    let mut sender = QueueSender::new();
    let mut pace = Pace::new(budget);
    let mut schedule = Schedule::new(monotonic());
    let mut rested_at = None;
    let mut failing = false;
    loop {
        let mut rest = Rest::Idle;
        if relay.started {
            match received.receive(capture.as_fd()) {
                Ok(0) => {}
                Ok(count) => {
                    failing = false;
                    if let Some(start) = rested_at.take() {
                        pace.waited(monotonic().saturating_sub(start), count);
                    }
                    rest = Rest::after(count, received.capacity(), &pace);
                    if relay.stopwatch.is_due() {
                        relay.stopwatch.start(capture, &relay.page);
                    }
                    process(&mut relay, &received, &mut sender);
                    if relay.stopwatch.is_running() {
                        relay.stopwatch.stop(&relay.page);
                    }
                }
                Err(error) => {
                    // ENETDOWN is told once per outage; anything that repeats must not spin.
                    if std::mem::replace(&mut failing, true) {
                        wait_readable([relay.channel.as_fd()], Some(RECEIVE_PAUSE))?;
                    } else {
                        warn!(target: DATAPLANE, %error, "receiving failed, going on");
                    }
                }
            }
        }
        let now = monotonic();
        if schedule.beat(now) {
            relay.beat();
        }
        relay.inspect();
        if relay.is_inspecting() {
            rest = Rest::No;
        }
        if rest != Rest::No {
            rested_at.get_or_insert(now);
        }
        if (rest != Rest::No || schedule.look(now))
            && !wait_and_talk(&mut relay, &mut sender, capture, rest, schedule.next_beat.saturating_sub(now))?
        {
            return Ok(());
        }
    }
}

/// How to go on after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// There is more.
    No,
    /// A few came: whoever comes within this time waits for others.
    Coalesce(Duration),
    /// None came: the next wakes the loop.
    Idle,
}

impl Rest {
    fn after(count: usize, capacity: usize, pace: &Pace) -> Self {
        if count == capacity || (count >= BUSY && !pace.is_immediate()) {
            return Self::No;
        }
        pace.gather().map_or(Self::Idle, Self::Coalesce)
    }
}

/// Waits as `rest` says, at most `longest`, and hears the supervisor. `false` to end.
fn wait_and_talk(
    relay: &mut Relay<u16>,
    sender: &mut QueueSender,
    capture: &OwnedFd,
    rest: Rest,
    longest: Duration,
) -> Result<bool, WorkerError> {
    let channel = relay.channel.as_fd();
    let spoken = match rest {
        Rest::No => wait_readable([channel], Some(Duration::ZERO))?[0],
        Rest::Coalesce(budget) => wait_readable([channel], Some(budget))?[0],
        Rest::Idle if relay.started => wait_readable([channel, capture.as_fd()], Some(longest))?[0],
        Rest::Idle => wait_readable([channel], Some(longest))?[0],
    };
    Ok(!spoken || relay.handle_messages(sender)? == Turn::Continue)
}

fn process(relay: &mut Relay<u16>, received: &ReceiveBatch, sender: &mut QueueSender) {
    sender.retry.begin_batch();
    let Relay { engine, page, .. } = relay;
    engine.begin_batch(monotonic_ns());
    let mut egress = QueueEgress { received, sender };
    if page.is_tracing() {
        take::<true>(engine, page, &mut egress);
    } else {
        take::<false>(engine, page, &mut egress);
    }
    engine.finish_batch(page, &mut egress);
    egress.flush(page);
}

#[inline]
fn take<const TRACED: bool>(engine: &mut Engine<u16>, page: &Accounts, egress: &mut QueueEgress<'_>) {
    for (place, message) in (0_u16..).zip(egress.received.iter()) {
        let parsed = engine.parse(message.payload);
        if TRACED {
            engine.look_at(message.payload, &parsed, page);
        }
        if engine.is_checking() {
            engine.check(message.payload, &parsed, page);
        }
        engine.take::<TRACED, _>(place, parsed, page, egress);
    }
}

/// When to show life and when to listen, by the monotonic clock.
struct Schedule {
    next_beat: Duration,
    next_look: Duration,
}

impl Schedule {
    fn new(now: Duration) -> Self {
        Self { next_beat: now, next_look: now }
    }

    fn beat(&mut self, now: Duration) -> bool {
        let due = now >= self.next_beat;
        if due {
            self.next_beat = now + HEARTBEAT;
        }
        due
    }

    fn look(&mut self, now: Duration) -> bool {
        let due = now >= self.next_look;
        if due {
            self.next_look = now + CHANNEL_INTERVAL;
        }
        due
    }
}

/// A send of the batch at hand.
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
            batch: SendBatch::new(MAX_QUEUED, MAX_QUEUED_PIECES),
            retry: RetrySender::new(),
        }
    }
}

impl Transport for QueueSender {
    fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    fn add_socket(&mut self, id: EgressId, fd: OwnedFd) -> Result<(), SysError> {
        self.sockets.insert(EgressSocket { id, fd, file: None });
        Ok(())
    }

    fn keep_sockets(&mut self, wanted: &BTreeSet<EgressId>) -> Result<(), SysError> {
        self.sockets.keep_only(wanted);
        Ok(())
    }

    /// Every send has ended when its batch has.
    fn finish_sends(&mut self, _page: &Accounts) -> Result<(), SysError> {
        Ok(())
    }
}

/// The sender together with the frames it sends from.
struct QueueEgress<'a> {
    received: &'a ReceiveBatch,
    sender: &'a mut QueueSender,
}

impl Egress for QueueEgress<'_> {
    type Frame = u16;

    #[inline]
    fn send(&mut self, page: &Accounts, meta: SendMeta, pieces: &[Piece<u16>]) {
        // sendmmsg stops at a failure, so a segmented send that is refused is sent again in its turn: no probe is needed.
        if meta.datagrams > 1 && meta.path.segmentation.gso(meta.segment_bytes) == Gso::Off {
            meta.split(page, pieces, |one, piece| self.queue(page, one, &[piece]));
        } else {
            self.queue(page, meta, pieces);
        }
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

    /// Executes what is queued, socket by socket.
    fn flush(&mut self, page: &Accounts) {
        let QueueSender { queue, pieces, batch, retry, .. } = &mut *self.sender;
        queue.sort_unstable_by_key(|queued| (queued.meta.path.socket.id, queued.order));
        let received = self.received;
        let bytes_of = |first: u32, count: u16| {
            let first = first as usize;
            let own = pieces.get(first..first + usize::from(count)).unwrap_or_default();
            own.iter().map(|piece| piece_bytes(received, piece))
        };
        let mut queue = queue.drain(..);
        while let Some(first) = queue.as_slice().first() {
            let socket = Rc::clone(&first.meta.path.socket);
            let mut sending = batch.begin();
            for Queued { meta, first_piece, pieces, .. } in queue.as_slice() {
                // The batch has room for the whole queue.
                if meta.path.socket.id != socket.id
                    || sending
                        .push(Some(&meta.path.address), &meta.ancillary(), bytes_of(*first_piece, *pieces))
                        .is_err()
                {
                    break;
                }
            }
            let (count, mut ended) = (sending.len().max(1), 0);
            sending.send(socket.fd.as_fd(), |_, outcome| {
                let Some(Queued { meta, first_piece, pieces, .. }) = queue.next() else { return };
                ended += 1;
                match outcome {
                    Ok(_) => meta.settle(page, Ok(())),
                    Err(errno) => retry.after_failure(page, meta, errno, bytes_of(first_piece, pieces)),
                }
            });
            // One that has no outcome was not sent.
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
