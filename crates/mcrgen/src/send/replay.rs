//! `mcrgen replay`: sends the datagrams of a capture file at the times at which they were captured.

mod capture;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mcr_sys::clock::monotonic_ns;
use mcr_sys::egress::{EgressOptions, Family, Origin, open_egress};
use mcr_sys::link::IfIndex;

use self::capture::{Capture, Captured};
use super::line::{BATCH_SENDS, Entry, Line};
use super::{SEND_BUFFER_BYTES, bind_source, destination, wait_until};
use crate::cli::ReplayArguments;
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::report::{Outcome, ReplayReport, per_second};

/// Runs until the file has been sent as often as wanted, and returns the report.
pub(crate) fn run(arguments: &ReplayArguments, interrupt: &mut Interrupt) -> Result<ReplayReport> {
    let start_ns = monotonic_ns();
    let mut player = Player::new(arguments, start_ns)?;
    let mut skipped = BTreeMap::new();
    let mut repetition = 0;
    while !interrupt.arrived() && (arguments.repeat == 0 || repetition < arguments.repeat) {
        let mut capture = Capture::open(&arguments.file)?;
        let before = player.played;
        while let Some(datagram) = capture.next()? {
            if interrupt.arrived() {
                break;
            }
            if arguments.wants(&datagram.destination) {
                player.play(datagram, interrupt)?;
            } else {
                *skipped.entry("other_destination").or_default() += 1;
            }
        }
        for (reason, packets) in capture.skipped() {
            *skipped.entry(*reason).or_default() += packets;
        }
        if player.played == before && !interrupt.arrived() {
            bail!("{}: nothing to send: {}", arguments.file.display(), Skipped(&skipped));
        }
        player.rewind();
        repetition += 1;
    }
    player.flush(interrupt);
    player.progress.clear();
    let elapsed = Duration::from_nanos(monotonic_ns() - start_ns);
    Ok(player.report(skipped, elapsed.as_secs_f64()))
}

/// Packets that were passed over, for people.
struct Skipped<'a>(&'a BTreeMap<&'static str, u64>);

impl std::fmt::Display for Skipped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("it has no packets");
        }
        let listed: Vec<String> =
            self.0.iter().map(|(reason, packets)| format!("{reason} {packets}")).collect();
        write!(f, "packets passed over: {}", listed.join(", "))
    }
}

/// Sends datagrams at their times.
struct Player<'a> {
    arguments: &'a ReplayArguments,
    ifindex: IfIndex,
    /// IPv4 and IPv6.
    lines: [Option<Batch>; 2],
    /// Monotonic time at which the first datagram of this repetition is due.
    base_ns: u64,
    /// Capture times of this repetition's first and last datagram.
    span: Option<(u64, u64)>,
    played: u64,
    in_repetition: u64,
    /// The most by which a datagram left late.
    late_ns: u64,
    progress: Progress,
}

/// A family's socket, and what will be sent next on it.
struct Batch {
    line: Line,
    destinations: BTreeMap<SocketAddr, usize>,
    memory: Vec<u8>,
    entries: Vec<Entry>,
}

impl<'a> Player<'a> {
    fn new(arguments: &'a ReplayArguments, now_ns: u64) -> Result<Self> {
        let interface = &arguments.interface;
        let ifindex = IfIndex::by_name(interface).with_context(|| format!("interface {interface}"))?;
        Ok(Self {
            arguments,
            ifindex,
            lines: [None, None],
            base_ns: now_ns,
            span: None,
            played: 0,
            in_repetition: 0,
            late_ns: 0,
            progress: Progress::new(now_ns),
        })
    }

    /// Waits until the datagram is due, and sends it.
    fn play(&mut self, datagram: Captured, interrupt: &mut Interrupt) -> Result<()> {
        let (first, last) = self.span.unwrap_or((datagram.at_ns, datagram.at_ns));
        // Packets of several interfaces can be out of order in a file: one that is behind its time leaves at once.
        let last = last.max(datagram.at_ns);
        self.span = Some((first, last));
        let due_ns = self.base_ns + self.arguments.scaled(last - first);
        if due_ns > monotonic_ns() {
            self.flush(interrupt);
            while due_ns > monotonic_ns() && !interrupt.arrived() {
                wait_until(due_ns, interrupt);
            }
        }
        if self.arguments.speed > 0.0 {
            self.late_ns = self.late_ns.max(monotonic_ns().saturating_sub(due_ns));
        }
        let batch = self.push(datagram)?;
        if batch.entries.len() == BATCH_SENDS {
            batch.flush(interrupt);
        }
        self.played += 1;
        self.in_repetition += 1;
        let played = self.played;
        self.progress.show(monotonic_ns(), || format!("sent {played}"));
        Ok(())
    }

    fn push(&mut self, datagram: Captured) -> Result<&mut Batch> {
        let to = self.arguments.to.unwrap_or(datagram.destination);
        let batch = match &mut self.lines[usize::from(to.is_ipv6())] {
            Some(batch) => batch,
            empty => empty.insert(Batch::open(self.arguments, to.ip(), self.ifindex)?),
        };
        let ifindex = self.ifindex;
        let line = &mut batch.line;
        let stream = *batch
            .destinations
            .entry(to)
            .or_insert_with(|| line.add_destination(destination(to.ip(), to.port(), ifindex)));
        let start = batch.memory.len();
        batch.memory.extend_from_slice(&datagram.payload);
        let range = start..batch.memory.len();
        batch.entries.push(Entry { stream, datagrams: 1, datagram_bytes: range.len(), range });
        Ok(batch)
    }

    fn flush(&mut self, interrupt: &mut Interrupt) {
        self.lines.iter_mut().flatten().for_each(|batch| batch.flush(interrupt));
    }

    /// The next repetition begins one mean interval behind the last datagram.
    fn rewind(&mut self) {
        let Some((first, last)) = self.span.take() else { return };
        let intervals = self.in_repetition.saturating_sub(1).max(1);
        self.base_ns += self.arguments.scaled(last - first + (last - first) / intervals);
        self.in_repetition = 0;
    }

    fn report(&self, skipped: BTreeMap<&'static str, u64>, seconds: f64) -> ReplayReport {
        let mut outcome = Outcome::default();
        self.lines.iter().flatten().for_each(|batch| outcome += batch.line.outcome());
        ReplayReport {
            pps: per_second(outcome.sent, seconds),
            outcome,
            seconds,
            destinations: self.lines.iter().flatten().map(|batch| batch.destinations.len()).sum(),
            late_max_us: self.late_ns / 1000,
            skipped,
        }
    }
}

impl Batch {
    fn open(arguments: &ReplayArguments, group: IpAddr, ifindex: IfIndex) -> Result<Self> {
        let socket = open_egress(&EgressOptions {
            ifindex,
            family: Family::of(group),
            ttl: Some(arguments.ttl),
            dscp: Some(arguments.dscp),
            origin: Origin::Interface,
            // A receiver on this host is a receiver.
            multicast_loop: true,
            send_buffer_bytes: SEND_BUFFER_BYTES,
            marked: false,
            mark: 0,
        })?;
        if let Some(port) = arguments.source_port {
            bind_source(&socket, None, port, group, ifindex)?;
        }
        let line = Line::new(socket, Vec::new(), None);
        Ok(Self { line, destinations: BTreeMap::new(), memory: Vec::new(), entries: Vec::new() })
    }

    fn flush(&mut self, interrupt: &mut Interrupt) {
        self.line.flush(monotonic_ns(), &self.memory, &self.entries, interrupt);
        self.memory.clear();
        self.entries.clear();
    }
}
