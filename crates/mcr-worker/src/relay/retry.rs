//! Synchronous sends outside a batch: segmentation probes, sends that must wait for the outcome of the previous one, and
//! repeated sends.
//!
//! Two failures are not those of the datagrams sent. If the path refuses segmentation, the datagrams leave one by one. And a
//! UDP socket that reports errors (`IP_RECVERR`, without which a full queue would not be seen) fails its next send for what
//! the network answered to an earlier one, perhaps to another destination: then the send is repeated. The datagram that was
//! answered so has been counted as sent; in its place, the next one to its destination is counted as dropped.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use mcr_link::rule_set::EgressId;
use mcr_sys::errno;
use mcr_sys::error_queue::{self, MAX_TAKEN};
use mcr_sys::mmsg::{Ancillary, MAX_SEGMENTS, Progress, SendBatch};

use crate::engine::accounts::Accounts;
use crate::engine::path::{EgressSocket, Path};
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

/// The most destinations whose errors are still to be counted.
const MAX_OWED: usize = 256;

/// How often a send is repeated that fails for errors of other destinations.
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
    /// Errors that are to be counted at a destination.
    owed: Vec<Owed>,
}

/// An error that was reported for a datagram counted as sent.
struct Owed {
    socket: EgressId,
    destination: (IpAddr, u16),
    errno: i32,
    datagrams: u32,
}

impl RetrySender {
    pub(super) fn new() -> Self {
        let single = Single {
            batch: SendBatch::new(1, MAX_SEGMENTS + 1),
            failed: Vec::with_capacity(MAX_TAKEN),
            owed: Vec::with_capacity(MAX_OWED),
        };
        Self { batch: SendBatch::new(MAX_SEGMENTS, 2 * MAX_SEGMENTS), single }
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
                self.settle(page, meta, Ok(()));
            }
            Err(errno) => self.after_failure(page, meta, errno, pieces),
        }
    }

    /// Takes the errors that the network reported to a socket with several destinations.
    #[cold]
    pub(super) fn take_errors(&mut self, socket: &EgressSocket) {
        self.single.take_errors(socket, true);
    }

    /// Counts the outcome of a send.
    pub(super) fn settle(&mut self, page: &Accounts, meta: SendMeta, outcome: Result<(), i32>) {
        self.single.settle(page, meta, outcome);
    }

    /// Sends again what failed, if that can help, and counts the datagrams.
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
            if !self.single.is_of_earlier(&meta.path, errno) {
                break;
            }
            outcome = self.single.send(&meta, pieces.clone());
        }
        self.settle(page, meta, outcome);
    }

    fn send_one_by_one<'p>(
        &mut self,
        page: &Accounts,
        mut meta: SendMeta,
        pieces: impl Iterator<Item = &'p [u8]> + Clone,
    ) {
        let size = usize::from(meta.segment_bytes).max(1);
        let datagrams = || pieces.clone().flat_map(|piece| piece.chunks(size));
        let path = meta.path.clone();
        let mut sending = self.batch.begin();
        for payload in datagrams() {
            // There is room: a send has no more datagrams than the batch.
            let ancillary = Ancillary { segment_bytes: None, ..meta.ancillary([payload].into_iter()) };
            if sending.push(Some(meta.destination()), &ancillary, [payload]).is_err() {
                break;
            }
        }
        let (single, mut payloads) = (&mut self.single, datagrams());
        sending.execute(path.socket.fd.as_fd(), |progress| {
            let Progress::Outcome(_, outcome) = progress else {
                return if path.serialized {
                    single.take_errors(&path.socket, true)
                };
            };
            let Some(payload) = payloads.next() else { return };
            let Some(one) = meta.split_off(u32::try_from(payload.len()).unwrap_or(u32::MAX)) else { return };
            let mut outcome = outcome.map(drop);
            for _ in 0..MAX_REPEATS {
                match outcome {
                    Err(errno) if single.is_of_earlier(&path, errno) => {
                        outcome = single.send(&one, [payload].into_iter());
                    }
                    _ => break,
                }
            }
            single.settle(page, one, outcome);
        });
        meta.refuse_rest(page);
    }
}

impl Single {
    fn send<'p>(
        &mut self,
        meta: &SendMeta,
        pieces: impl Iterator<Item = &'p [u8]> + Clone,
    ) -> Result<(), i32> {
        let mut sending = self.batch.begin();
        let mut result = Err(errno::EINVAL);
        if sending.push(Some(meta.destination()), &meta.ancillary(pieces.clone()), pieces).is_ok() {
            sending.send(meta.path.socket.fd.as_fd(), |_, outcome| result = outcome.map(drop));
        }
        result
    }

    /// Whether a send failed for what was answered to earlier datagrams: on a socket with several destinations to any of them,
    /// where the errors are then owed; else to none of this destination, whose error is counted with this send.
    fn is_of_earlier(&mut self, path: &Path, errno: i32) -> bool {
        if !ICMP_ERRORS.contains(&errno) {
            return false;
        }
        self.take_errors(&path.socket, path.serialized);
        let own = path.address.get().map(place).filter(|_| !path.serialized);
        let mut of_socket = self.failed.iter().filter(|(socket, _)| *socket == path.socket.id).peekable();
        of_socket.peek().is_some() && of_socket.all(|(_, failed)| Some(place(*failed)) != own)
    }

    /// Takes the errors of a socket; with several destinations they are then owed.
    fn take_errors(&mut self, socket: &EgressSocket, several: bool) {
        let Self { failed, owed, .. } = self;
        error_queue::drain(socket.fd.as_fd(), |destination, errno| {
            let Some(destination) = destination else { return };
            if failed.len() < MAX_TAKEN {
                failed.push((socket.id, destination));
            }
            if several {
                owe(owed, Owed { socket: socket.id, destination: place(destination), errno, datagrams: 1 });
            }
        });
    }

    /// Counts the outcome of a send; of datagrams that left, as many as are owed are counted as dropped.
    #[inline]
    fn settle(&mut self, page: &Accounts, meta: SendMeta, outcome: Result<(), i32>) {
        if meta.path.serialized && outcome.is_ok() && !self.owed.is_empty() {
            self.settle_owed(page, meta);
        } else {
            meta.settle(page, outcome);
        }
    }

    #[cold]
    fn settle_owed(&mut self, page: &Accounts, mut meta: SendMeta) {
        let to = (meta.path.socket.id, meta.path.address.get().map(place));
        for owed in self.owed.iter_mut().filter(|owed| (owed.socket, Some(owed.destination)) == to) {
            while owed.datagrams > 0
                && let Some(one) = meta.split_off(meta.segment_bytes.into())
            {
                owed.datagrams -= 1;
                one.settle(page, Err(owed.errno));
            }
        }
        self.owed.retain(|owed| owed.datagrams > 0);
        if meta.datagrams > 0 {
            meta.settle(page, Ok(()));
        } else {
            meta.refuse_rest(page);
        }
    }
}

/// An address without scope, as outputs are compared.
const fn place(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip(), address.port())
}

/// Adds an error. If there are too many destinations, the one that was added first is forgotten: its output may be gone.
fn owe(all: &mut Vec<Owed>, one: Owed) {
    let key = |owed: &Owed| (owed.socket, owed.destination, owed.errno);
    if let Some(same) = all.iter_mut().find(|owed| key(owed) == key(&one)) {
        same.datagrams += 1;
        return;
    }
    if all.len() >= MAX_OWED {
        all.remove(0);
    }
    all.push(one);
}
