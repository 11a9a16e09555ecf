//! Synchronous sends outside a batch: segmentation probes, sends that must wait for the outcome of the previous one, and
//! repeated sends.
//!
//! Two errors are not errors of the datagrams: if the path rejects segmentation, the datagrams are sent one by one. And a UDP
//! socket with `IP_RECVERR` (required to detect a full queue) fails its next send for an ICMP error of an earlier one, possibly
//! to another destination: then the send is repeated.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use mcr_link::rule_set::EgressId;
use mcr_sys::errno;
use mcr_sys::error_queue::{self, MAX_TAKEN};
use mcr_sys::mmsg::{Ancillary, MAX_SEGMENTS, SendBatch};

use crate::engine::accounts::Accounts;
use crate::engine::path::Path;
use crate::engine::segmentation::Gso;
use crate::engine::send::SendMeta;

/// Errors that result from ICMP messages (ip(7), icmp(7)).
const ICMP_ERRORS: [i32; 10] = [
    errno::ENETUNREACH,
    errno::EHOSTUNREACH,
    errno::ECONNREFUSED,
    errno::EMSGSIZE,
    errno::EHOSTDOWN,
    errno::ENOPROTOOPT,
    errno::EACCES,
    errno::EPROTO,
    errno::ENONET,
    errno::EOPNOTSUPP,
];

/// Maximum number of repetitions of a send that fails for errors of other destinations.
const MAX_REPEATS: usize = 3;

/// See the module documentation.
pub(super) struct RetrySender {
    batch: SendBatch,
    single: Single,
}

/// Sends one message at a time.
struct Single {
    batch: SendBatch,
    /// Destinations whose errors were read from the error queue of a socket in this batch.
    failed: Vec<(EgressId, SocketAddr)>,
}

impl RetrySender {
    pub(super) fn new() -> Self {
        let single = Single { batch: SendBatch::new(1, MAX_SEGMENTS), failed: Vec::with_capacity(MAX_TAKEN) };
        Self { batch: SendBatch::new(MAX_SEGMENTS, MAX_SEGMENTS), single }
    }

    /// Begins a batch: discards the errors of the previous one.
    #[inline]
    pub(super) fn begin_batch(&mut self) {
        self.single.failed.clear();
    }

    /// Sends datagrams, in one segmented send if the path accepts it, and counts them.
    pub(super) fn send<'p>(
        &mut self,
        page: &Accounts,
        meta: SendMeta,
        pieces: impl Iterator<Item = &'p [u8]> + Clone,
    ) {
        let several = meta.datagrams > 1;
        if several && meta.path.segmentation.gso(meta.segment_bytes) == Gso::Off {
            return self.send_one_by_one(page, meta, pieces);
        }
        match self.single.send(&meta, pieces.clone()) {
            Ok(()) => {
                if several {
                    meta.path.segmentation.record_success(meta.segment_bytes);
                }
                meta.settle(page, Ok(()));
            }
            Err(errno) => self.after_failure(page, meta, errno, pieces),
        }
    }

    /// Repeats a failed send if useful, and counts the datagrams.
    pub(super) fn after_failure<'p>(
        &mut self,
        page: &Accounts,
        meta: SendMeta,
        errno: i32,
        pieces: impl Iterator<Item = &'p [u8]> + Clone,
    ) {
        let mut outcome = Err(errno);
        for _ in 0..=MAX_REPEATS {
            let Err(errno) = outcome else { break };
            if meta.datagrams > 1 && meta.path.segmentation.record_failure(meta.segment_bytes, errno) {
                return self.send_one_by_one(page, meta, pieces);
            }
            if !self.single.is_of_another(&meta.path, errno) {
                break;
            }
            outcome = self.single.send(&meta, pieces.clone());
        }
        meta.settle(page, outcome);
    }

    fn send_one_by_one<'p>(
        &mut self,
        page: &Accounts,
        mut meta: SendMeta,
        pieces: impl Iterator<Item = &'p [u8]> + Clone,
    ) {
        let size = usize::from(meta.segment_bytes).max(1);
        let datagrams = || pieces.clone().flat_map(|piece| piece.chunks(size));
        let (path, ancillary) = (meta.path.clone(), Ancillary { segment_bytes: None, ..meta.ancillary() });
        let mut sending = self.batch.begin();
        for payload in datagrams() {
            // There is room: a send has no more datagrams than the batch.
            if sending.push(Some(&path.address), &ancillary, [payload]).is_err() {
                break;
            }
        }
        let (single, mut payloads) = (&mut self.single, datagrams());
        sending.send(path.socket.fd.as_fd(), |_, outcome| {
            let Some(payload) = payloads.next() else { return };
            let Some(one) = meta.split_off(u32::try_from(payload.len()).unwrap_or(u32::MAX)) else { return };
            let mut outcome = outcome.map(drop);
            for _ in 0..MAX_REPEATS {
                match outcome {
                    Err(errno) if single.is_of_another(&path, errno) => {
                        outcome = single.send(&one, [payload]);
                    }
                    _ => break,
                }
            }
            one.settle(page, outcome);
        });
        meta.refuse_rest(page);
    }
}

impl Single {
    fn send<'p>(&mut self, meta: &SendMeta, pieces: impl IntoIterator<Item = &'p [u8]>) -> Result<(), i32> {
        let mut sending = self.batch.begin();
        let mut result = Err(errno::EINVAL);
        if sending.push(Some(&meta.path.address), &meta.ancillary(), pieces).is_ok() {
            sending.send(meta.path.socket.fd.as_fd(), |_, outcome| result = outcome.map(drop));
        }
        result
    }

    /// Whether a send failed because of errors of other destinations of its socket, and not of its own.
    fn is_of_another(&mut self, path: &Path, errno: i32) -> bool {
        if !ICMP_ERRORS.contains(&errno) {
            return false;
        }
        let (id, failed) = (path.socket.id, &mut self.failed);
        error_queue::drain(path.socket.fd.as_fd(), |destination| {
            if let Some(destination) = destination.filter(|_| failed.len() < MAX_TAKEN) {
                failed.push((id, destination));
            }
        });
        let own = path.address.get().map(|address| (address.ip(), address.port()));
        let mut of_socket = failed.iter().filter(|(socket, _)| *socket == id).peekable();
        of_socket.peek().is_some() && of_socket.all(|(_, failed)| Some((failed.ip(), failed.port())) != own)
    }
}
