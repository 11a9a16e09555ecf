//! Sends outside a batch, each with its outcome at once: the first segmented send of an output, sends that must be made
//! in turn, and sends that failed for a reason that does not lie with their own datagrams.
//!
//! Two reasons are cured. A path that refuses segmentation gets the datagrams one by one. And a UDP socket that reports
//! errors (`IP_RECVERR`, which a full queue needs to be seen) fails its next send for what the network answered to
//! an earlier one, perhaps to another destination: then the send that was hit is repeated.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use mcr_sys::error_queue::{self, MAX_TAKEN};
use mcr_sys::mmsg::{MAX_SEGMENTS, SendBatch};

use crate::engine::accounts::Accounts;
use crate::engine::segmentation::Gso;
use crate::engine::send::{SendMeta, settle};
use crate::engine::table::TableOutput;

/// Errors that the network can answer with (ICMP, as ip(7) and icmp(7) translate it): ENETUNREACH, EHOSTUNREACH,
/// ECONNREFUSED, EMSGSIZE, EHOSTDOWN, ENOPROTOOPT, EACCES, EPROTO, ENONET, EOPNOTSUPP.
const ANSWERS: [i32; 10] = [101, 113, 111, 90, 112, 92, 13, 71, 64, 95];

/// How often a send is repeated that others' errors keep hitting.
const MAX_REPEATS: usize = 3;

/// A send with what is needed to execute it.
#[derive(Clone, Copy)]
pub(super) struct Outgoing<'a> {
    pub(super) page: &'a Accounts,
    pub(super) output: &'a TableOutput,
    /// The output's socket and its place.
    pub(super) socket: (BorrowedFd<'a>, u32),
    pub(super) meta: SendMeta,
}

/// See the module.
pub(super) struct DirectSender {
    batch: SendBatch,
    single: SendBatch,
    /// Destinations whose errors were taken from a socket's queue since [`DirectSender::forget`].
    answers: Vec<(u32, SocketAddr)>,
}

impl DirectSender {
    pub(super) fn new() -> Self {
        Self {
            batch: SendBatch::new(MAX_SEGMENTS, MAX_SEGMENTS),
            single: SendBatch::new(1, MAX_SEGMENTS),
            answers: Vec::with_capacity(MAX_TAKEN),
        }
    }

    /// Begins a batch: errors taken so far explain nothing any more.
    #[inline]
    pub(super) fn forget(&mut self) {
        self.answers.clear();
    }

    /// Sends datagrams, as segments of one send where they are several and that is not refused, and settles them.
    pub(super) fn send<'p>(
        &mut self,
        outgoing: &Outgoing<'_>,
        pieces: impl Iterator<Item = &'p [u8]> + Clone,
    ) {
        let Outgoing { page, output, meta, .. } = outgoing;
        let several = meta.datagrams > 1;
        if several && output.segmentation.gso(meta.segment_bytes) == Gso::Off {
            return self.send_apart(outgoing, pieces);
        }
        match send_once(&mut self.single, outgoing, meta, pieces.clone()) {
            Ok(()) => {
                if several {
                    output.segmentation.took(meta.segment_bytes);
                }
                settle(page, output, meta, Ok(()));
            }
            Err(errno) => self.after_failure(outgoing, errno, pieces),
        }
    }

    /// Does what can be done after a send failed, and settles its datagrams.
    pub(super) fn after_failure<'p>(
        &mut self,
        outgoing: &Outgoing<'_>,
        mut errno: i32,
        pieces: impl Iterator<Item = &'p [u8]> + Clone,
    ) {
        let Outgoing { page, output, meta, .. } = outgoing;
        for _ in 0..=MAX_REPEATS {
            if meta.datagrams > 1 && output.segmentation.refuses(meta.segment_bytes, errno) {
                return self.send_apart(outgoing, pieces);
            }
            if !self.is_anothers_error(outgoing, errno) {
                break;
            }
            match send_once(&mut self.single, outgoing, meta, pieces.clone()) {
                Ok(()) => return settle(page, output, meta, Ok(())),
                Err(again) => errno = again,
            }
        }
        settle(page, output, meta, Err(errno));
    }

    fn send_apart<'p>(&mut self, outgoing: &Outgoing<'_>, pieces: impl Iterator<Item = &'p [u8]> + Clone) {
        let Outgoing { page, output, socket, meta } = outgoing;
        let size = usize::from(meta.segment_bytes).max(1);
        let datagrams = || pieces.clone().flat_map(|piece| piece.chunks(size));
        let alone = |payload: &[u8]| meta.alone(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        let mut sending = self.batch.begin();
        let mut pushed = 0_u16;
        for payload in datagrams() {
            // There is room: a meta has no more datagrams than the batch.
            if sending.push(Some(&output.address), &alone(payload).ancillary(), [payload]).is_err() {
                break;
            }
            pushed += 1;
        }
        let single = &mut self.single;
        let answers = &mut self.answers;
        sending.send(socket.0, |place, outcome| {
            let Some(payload) = datagrams().nth(place) else { return };
            let meta = alone(payload);
            let mut outcome = outcome.map(drop);
            for _ in 0..MAX_REPEATS {
                match outcome {
                    Err(errno) if is_anothers(answers, outgoing, errno) => {
                        outcome = send_once(single, outgoing, &meta, [payload]);
                    }
                    _ => break,
                }
            }
            settle(page, output, &meta, outcome);
        });
        debug_assert_eq!(pushed, meta.datagrams, "a meta's datagrams start in its pieces");
    }

    fn is_anothers_error(&mut self, outgoing: &Outgoing<'_>, errno: i32) -> bool {
        is_anothers(&mut self.answers, outgoing, errno)
    }
}

/// Whether a send failed because of what was answered to other destinations, and to its own nothing was.
fn is_anothers(answers: &mut Vec<(u32, SocketAddr)>, outgoing: &Outgoing<'_>, errno: i32) -> bool {
    if !ANSWERS.contains(&errno) {
        return false;
    }
    let (socket, place) = outgoing.socket;
    error_queue::drain(socket, |destination| {
        if let Some(destination) = destination.filter(|_| answers.len() < MAX_TAKEN) {
            answers.push((place, destination));
        }
    });
    let own = outgoing.output.address.get().map(|address| (address.ip(), address.port()));
    let mut of_socket = answers.iter().filter(|(at, _)| *at == place).peekable();
    of_socket.peek().is_some() && of_socket.all(|(_, answer)| Some((answer.ip(), answer.port())) != own)
}

fn send_once<'p>(
    batch: &mut SendBatch,
    outgoing: &Outgoing<'_>,
    meta: &SendMeta,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> Result<(), i32> {
    let mut sending = batch.begin();
    let mut result = Err(crate::engine::segmentation::errno::EINVAL);
    if sending.push(Some(&outgoing.output.address), &meta.ancillary(), pieces).is_ok() {
        sending.send(outgoing.socket.0, |_, outcome| result = outcome.map(drop));
    }
    result
}
