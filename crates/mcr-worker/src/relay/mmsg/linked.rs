//! The loop of a worker of linked interfaces: it receives from its capture sockets in turn, as much from each.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use mcr_rules::log::DATAPLANE;
use mcr_sys::clock::{monotonic, monotonic_ns};
use mcr_sys::errno::{EINVAL, ENETDOWN};
use mcr_sys::mmsg::ReceiveBatch;
use mcr_sys::poll::{readable_among, wait_readable};
use tracing::warn;

use super::{CHANNEL_INTERVAL, CopyEgress, Pause, QueueEgress, QueueSender, is_due};
use crate::engine::Engine;
use crate::engine::accounts::Accounts;
use crate::engine::coalescing::Coalescing;
use crate::relay::lost::LostFrames;
use crate::relay::session::Session;
use crate::relay::{HEARTBEAT, RECEIVE_PAUSE, WorkerError};

/// Relays until the supervisor sends `Stop`, or is gone. Fails if the channel or poll(2) failed.
pub(in crate::relay) fn run(
    mut session: Session<u16>,
    captures: &[OwnedFd],
    mut received: ReceiveBatch,
    budget: Duration,
) -> Result<(), WorkerError> {
    let mut sender = QueueSender::new();
    let mut coalescing = Coalescing::new(budget);
    let mut next_heartbeat = monotonic();
    let mut next_poll = next_heartbeat;
    let mut paused_at = None;
    let mut failing = vec![false; captures.len()];
    let mut lost = LostFrames::default();
    loop {
        let mut pause = Pause::Idle;
        let mut all = 0;
        let open = if session.started { captures } else { &[] };
        for (index, capture) in open.iter().enumerate() {
            match received.receive(capture.as_fd()) {
                Ok(0) => {}
                Ok(count) => {
                    all += count;
                    failing[index] = false;
                    if count == received.capacity() {
                        pause = Pause::No;
                    }
                    relay(&mut session, &mut received, &mut sender, (index, capture));
                }
                Err(error) if error.errno() == Some(EINVAL) => lost.count(&session.page),
                Err(error) => {
                    if error.errno() == Some(ENETDOWN) {
                        session.engine.socket_down(u8::try_from(index).unwrap_or_default());
                    }
                    if std::mem::replace(&mut failing[index], true) {
                        wait_readable([session.channel.as_fd()], Some(RECEIVE_PAUSE))?;
                    } else {
                        warn!(target: DATAPLANE, %error, socket = index, "receive failed, continuing");
                    }
                }
            }
        }
        if all > 0 {
            if let Some(start) = paused_at.take() {
                coalescing.record_wait(monotonic().saturating_sub(start), all);
            }
            if pause != Pause::No {
                pause = Pause::after(all, usize::MAX, &coalescing);
            }
        }
        let now_ns = monotonic_ns();
        let held = session.engine.expire_held(now_ns, &session.page, &mut CopyEgress(&mut sender));
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
        let beat = next_heartbeat.saturating_sub(now);
        let longest = held.map_or(beat, |at| beat.min(Duration::from_nanos(at.saturating_sub(now_ns))));
        if (pause != Pause::No || is_due(&mut next_poll, now, CHANNEL_INTERVAL))
            && wait_and_handle_messages(&mut session, &mut sender, captures, pause, longest)?.is_break()
        {
            return Ok(());
        }
    }
}

/// Waits at most `longest`, and handles the messages of the supervisor.
fn wait_and_handle_messages(
    session: &mut Session<u16>,
    sender: &mut QueueSender,
    captures: &[OwnedFd],
    pause: Pause,
    longest: Duration,
) -> Result<ControlFlow<()>, WorkerError> {
    let channel = session.channel.as_fd();
    let has_message = match pause {
        Pause::No => wait_readable([channel], Some(Duration::ZERO))?[0],
        Pause::Coalesce(budget) => wait_readable([channel], Some(budget.min(longest)))?[0],
        Pause::Idle if session.started => {
            let mut all = vec![channel];
            all.extend(captures.iter().map(AsFd::as_fd));
            readable_among(&all, Some(longest))?.first().copied().unwrap_or_default()
        }
        Pause::Idle => wait_readable([channel], Some(longest))?[0],
    };
    if has_message { session.handle_messages(sender) } else { Ok(ControlFlow::Continue(())) }
}

/// Relays what was received from a socket.
fn relay(
    session: &mut Session<u16>,
    received: &mut ReceiveBatch,
    sender: &mut QueueSender,
    (index, capture): (usize, &OwnedFd),
) {
    if session.stopwatch.is_due() {
        session.stopwatch.start(capture, &session.page);
    }
    sender.retry.begin_batch();
    let Session { engine, page, .. } = &mut *session;
    let socket = u8::try_from(index).unwrap_or_default();
    engine.begin_linked_batch(monotonic_ns(), socket, received.len());
    let mut egress = QueueEgress { received, sender };
    if page.is_tracing() {
        process_frames::<true>(engine, page, &mut egress);
    } else {
        process_frames::<false>(engine, page, &mut egress);
    }
    engine.finish_batch(page, &mut egress);
    egress.flush(page);
    if session.stopwatch.is_running() {
        session.stopwatch.stop(&session.page);
    }
}

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
        if engine.process_linked::<TRACED, _>((index, bytes), &parsed, page, egress)
            && let Some(whole) = engine.process_further::<TRACED, _>(index, bytes, page, egress)
        {
            egress.received.set_bytes(index.into(), whole);
            continue;
        }
        index += 1;
    }
}
