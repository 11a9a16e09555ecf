//! `mcrgen recv`: a loop that counts received datagrams until one of its limits is reached.

mod ending;
mod listener;

use crate::account::{Account, Expectation};
use crate::cli::RecvArguments;
use crate::groups::consecutive;
use crate::interrupt::Interrupt;
use crate::latency::Latency;
use crate::payload::{self, Unusable};
use crate::progress::Progress;
use crate::report::{Reason, RecvReport, StreamReport, per_second};
use anyhow::{Result, anyhow};
use ending::{Limits, Verdict};
use listener::{Listener, Subscription};
use mcr_sys::clock::monotonic_ns;
use mcr_sys::mmsg::{ReceiveBatch, ReceiveOptions, ReceivedMessage};
use std::net::IpAddr;

/// Maximum number of datagrams, or super-frames, received by one call.
const BATCH: usize = 64;
/// The largest datagram, or super-frame.
const BUFFER_BYTES: usize = 65_536;
/// Calls for one socket before the next socket is served.
const CALLS_PER_SOCKET: usize = 8;

/// Runs until a limit is reached, and returns the report.
pub(crate) fn run(arguments: &RecvArguments, interrupt: &mut Interrupt) -> Result<RecvReport> {
    let streams = &arguments.streams;
    let groups = consecutive(streams.group, streams.groups).map_err(|reason| anyhow!(reason))?;
    let subscription = Subscription {
        interface: &streams.interface,
        groups: &groups,
        port: streams.port,
        sources: &arguments.source,
    };
    let mut listener = Listener::open(&subscription, interrupt)?;
    eprintln!("ready");
    let limits = Limits {
        count: arguments.count.map(Into::into),
        duration: arguments.duration,
        idle: arguments.idle,
        wait: arguments.wait,
    };
    let mut receiver = Receiver::new(groups.len(), &arguments.source);
    let reason = receive(&mut listener, &mut receiver, limits, arguments.late, interrupt)?;
    Ok(receiver.report(arguments, &groups, reason, listener.drops()))
}

fn receive(
    listener: &mut Listener,
    receiver: &mut Receiver<'_>,
    limits: Limits,
    late: bool,
    interrupt: &mut Interrupt,
) -> Result<Reason> {
    let start_ns = monotonic_ns();
    let mut progress = Progress::new(start_ns);
    let mut batch = ReceiveBatch::new(&ReceiveOptions { messages: BATCH, buffer_bytes: BUFFER_BYTES })?;
    loop {
        let now_ns = monotonic_ns();
        let until_ns = match limits.verdict(start_ns, now_ns, receiver.progress()) {
            Verdict::End(reason) => {
                progress.clear();
                return Ok(reason);
            }
            Verdict::WaitUntil(until_ns) => until_ns.into_iter().chain(progress.next_ns()).min(),
        };
        let ready = listener.wait(until_ns.map(|until_ns| until_ns.saturating_sub(now_ns)))?;
        for group in ready {
            let Some(socket) = listener.socket(group) else { continue };
            for _ in 0..CALLS_PER_SOCKET {
                let received = batch.receive(socket)?;
                let now_ns = monotonic_ns();
                batch.iter().for_each(|message| receiver.record(group, &message, now_ns));
                if received < BATCH {
                    break;
                }
            }
        }
        if interrupt.arrived() {
            progress.clear();
            return Ok(Reason::Interrupted);
        }
        progress.show(monotonic_ns(), || {
            let missing = receiver.account.missing(late, monotonic_ns());
            format!("received {}, missing {missing}", receiver.account.received())
        });
    }
}

/// The received datagrams.
struct Receiver<'a> {
    sources: &'a [IpAddr],
    account: Account,
    latency: Latency,
    first_ns: Option<u64>,
    last_ns: u64,
}

impl<'a> Receiver<'a> {
    fn new(groups: usize, sources: &'a [IpAddr]) -> Self {
        Self { sources, account: Account::new(groups), latency: Latency::new(), first_ns: None, last_ns: 0 }
    }

    fn progress(&self) -> ending::Progress {
        ending::Progress {
            received: self.account.received(),
            last_ns: self.first_ns.map(|_| self.last_ns),
            complete: self.account.is_complete(),
        }
    }

    /// Records each datagram of a message.
    fn record(&mut self, group: usize, message: &ReceivedMessage<'_>, now_ns: u64) {
        let segment_bytes = message.segment_bytes.map_or(message.payload.len(), usize::from).max(1);
        let accepted = self.sources.is_empty()
            || message.source.is_some_and(|source| self.sources.contains(&source.ip()));
        for datagram in message.payload.chunks(segment_bytes) {
            match payload::read(datagram) {
                _ if !accepted => self.account.reject(Unusable::Foreign),
                Err(unusable) => self.account.reject(unusable),
                Ok(header) => {
                    if self.account.record(group, &header, datagram.len(), now_ns) {
                        self.latency.record(header.time_ns, now_ns);
                    }
                    self.first_ns.get_or_insert(now_ns);
                    self.last_ns = now_ns;
                }
            }
        }
        if message.payload.is_empty() {
            self.account.reject(Unusable::Foreign);
        }
    }

    fn report(&self, arguments: &RecvArguments, groups: &[IpAddr], ended: Reason, drops: u64) -> RecvReport {
        let cut_off = matches!(ended, Reason::Count | Reason::Duration | Reason::Interrupted);
        let expectation = Expectation { late: arguments.late, cut_off_ns: cut_off.then(monotonic_ns) };
        let mut account = self.account.summary(expectation);
        let totals = &mut account.totals;
        if let Some(count) = arguments.count {
            totals.lost = totals.lost.max(count.get().saturating_sub(totals.received));
        }
        #[expect(clippy::cast_precision_loss, reason = "a run lasts less than 2^52 ns, 52 days")]
        let seconds = (self.last_ns - self.first_ns.unwrap_or(self.last_ns)) as f64 / 1e9;
        let per_stream = (arguments.per_stream || groups.len() > 1)
            .then(|| account.streams.iter().filter_map(|stream| StreamReport::new(groups, stream)).collect());
        RecvReport {
            pps: per_second(account.totals.received.saturating_sub(1), seconds),
            account,
            receiver_drops: drops,
            seconds,
            latency_ns: self.latency.percentiles(),
            latency_unknown: self.latency.incomparable(),
            ended,
            per_stream,
        }
    }
}
