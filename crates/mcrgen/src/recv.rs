//! `mcrgen recv`: a loop that counts received datagrams until one of its limits is reached.

mod ending;
mod listener;

use crate::account::Expectation;
use crate::account::legs::{Accounts, LegTotals};
use crate::cli::{RecvArguments, StreamArguments};
use crate::framing::Framing;
use crate::groups::consecutive;
use crate::interrupt::Interrupt;
use crate::latency::Latency;
use crate::payload::Unusable;
use crate::progress::Progress;
use crate::report::{Reason, ReceivedLeg, RecvReport, StreamReport, per_second};
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
    let other_groups: Vec<Vec<IpAddr>> = arguments
        .legs
        .iter()
        .map(|leg| consecutive(leg.group, streams.groups).map_err(|reason| anyhow!(reason)))
        .collect::<Result<_>>()?;
    let subscription =
        |interface, groups, port| Subscription { interface, groups, port, sources: &arguments.source };
    let others = arguments.legs.iter().zip(&other_groups);
    let subscriptions: Vec<Subscription<'_>> =
        std::iter::once(subscription(streams.interface.as_str(), &groups[..], streams.port))
            .chain(others.map(|(leg, groups)| subscription(&leg.interface, groups, leg.port)))
            .collect();
    let mut listener = Listener::open(&subscriptions, interrupt)?;
    eprintln!("ready");
    let limits = Limits {
        count: arguments.count.map(Into::into),
        duration: arguments.duration,
        idle: arguments.idle,
        wait: arguments.wait,
    };
    let mut receiver = Receiver::new(subscriptions.len(), groups.len(), &arguments.source);
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
        for place in ready {
            let Some(socket) = listener.socket(place) else { continue };
            for _ in 0..CALLS_PER_SOCKET {
                let received = batch.receive(socket)?;
                let now_ns = monotonic_ns();
                batch.iter().for_each(|message| receiver.record(place, &message, now_ns));
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
            let missing = receiver.accounts.missing(late, monotonic_ns());
            format!("received {}, missing {missing}", receiver.accounts.received())
        });
    }
}

/// The received datagrams.
struct Receiver<'a> {
    sources: &'a [IpAddr],
    /// Number of groups of each leg.
    groups: usize,
    accounts: Accounts,
    latency: Latency,
    first_ns: Option<u64>,
    last_ns: u64,
}

impl<'a> Receiver<'a> {
    fn new(legs: usize, groups: usize, sources: &'a [IpAddr]) -> Self {
        let accounts = Accounts::new(legs, groups);
        Self { sources, groups, accounts, latency: Latency::new(), first_ns: None, last_ns: 0 }
    }

    fn progress(&self) -> ending::Progress {
        ending::Progress {
            received: self.accounts.received(),
            last_ns: self.first_ns.map(|_| self.last_ns),
            complete: self.accounts.is_complete(),
        }
    }

    /// Records each datagram of a message that came by the socket in this place.
    fn record(&mut self, place: usize, message: &ReceivedMessage<'_>, now_ns: u64) {
        let (leg, group) = (place / self.groups, place % self.groups);
        let segment_bytes = message.segment_bytes.map_or(message.payload.len(), usize::from).max(1);
        let accepted = self.sources.is_empty()
            || message.source.is_some_and(|source| self.sources.contains(&source.ip()));
        for datagram in message.payload.chunks(segment_bytes) {
            match Framing::read(datagram) {
                _ if !accepted => self.accounts.reject(Unusable::Foreign),
                Err(unusable) => self.accounts.reject(unusable),
                Ok(header) => {
                    if self.accounts.record(leg, group, &header, datagram.len(), now_ns) {
                        self.latency.record(header.time_ns, now_ns);
                    }
                    self.first_ns.get_or_insert(now_ns);
                    self.last_ns = now_ns;
                }
            }
        }
        if message.payload.is_empty() {
            self.accounts.reject(Unusable::Foreign);
        }
    }

    fn report(&self, arguments: &RecvArguments, groups: &[IpAddr], ended: Reason, drops: u64) -> RecvReport {
        let cut_off = matches!(ended, Reason::Count | Reason::Duration | Reason::Interrupted);
        let expectation = Expectation { late: arguments.late, cut_off_ns: cut_off.then(monotonic_ns) };
        let (mut account, legs) = self.accounts.summary(expectation);
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
            legs: received_legs(arguments, legs),
        }
    }
}

fn received_legs(arguments: &RecvArguments, totals: Vec<LegTotals>) -> Vec<ReceivedLeg> {
    let StreamArguments { interface, group, port, .. } = &arguments.streams;
    let first = (interface.clone(), *group, *port);
    let others = arguments.legs.iter().map(|leg| (leg.interface.clone(), leg.group, leg.port));
    let legs = std::iter::once(first).chain(others).zip(totals);
    legs.map(|((interface, group, port), totals)| ReceivedLeg { interface, group, port, totals }).collect()
}
