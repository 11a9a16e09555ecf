//! `mcrgen send`: a loop that sends the datagrams that are due, and waits for the next ones.

mod delay;
mod line;
pub(crate) mod replay;
mod round_robin;
mod transmitter;

use crate::cli::{Segmentation, SendArguments, StreamArguments};
use crate::framing::Framing;
use crate::groups::consecutive;
use crate::interrupt::Interrupt;
use crate::legs::{Impairment, Leg};
use crate::pacing::Schedule;
use crate::payload::HEADER_BYTES;
use crate::progress::Progress;
use crate::report::{Outcome, SendReport, SentLeg, per_second};
use anyhow::{Context, Result, anyhow, bail};
use delay::Path;
use line::Line;
use mcr_sys::clock::{monotonic, monotonic_ns};
use mcr_sys::egress::{EgressOptions, Family, Origin, open_egress};
use mcr_sys::link::IfIndex;
use mcr_sys::mmsg::{MAX_SEGMENTS, SocketAddress};
use round_robin::RoundRobin;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::Duration;
use transmitter::{Content, Transmitter};

/// Send buffer (`SO_SNDBUF`): several batches.
const SEND_BUFFER_BYTES: usize = 8 << 20;
/// Number of datagrams that a run without a rate sends between checks of the clock and of signals.
const UNPACED_DATAGRAMS: u64 = 1024;

/// Runs until all datagrams are sent or a limit is reached, and returns the report.
pub(crate) fn run(arguments: &SendArguments, interrupt: &mut Interrupt) -> Result<SendReport> {
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let legs: Vec<Leg> =
        std::iter::once(first_leg(arguments)).chain(arguments.legs.iter().cloned()).collect();
    let lines = legs.iter().zip(seed..).map(|(leg, seed)| line(arguments, leg, seed));
    let lines = lines.collect::<Result<_>>()?;
    let content = content(arguments, seed)?;
    let mut transmitter = Transmitter::new(lines, content, segments(arguments));
    let mut round_robin = RoundRobin::new(arguments.streams.groups, total(arguments));
    let schedule = NonZeroU64::new(arguments.rate).map(|rate| Schedule::new(rate, arguments.burst));
    let deadline = arguments.duration.map(|duration| match schedule {
        // A paced run sends a fixed total: it gets time to catch up after delays.
        Some(_) => duration + duration / 10 + Duration::from_millis(100),
        None => duration,
    });
    let deadline_ns = deadline.map_or(u64::MAX, nanoseconds);

    let start = monotonic();
    let start_ns = nanoseconds(start);
    let mut progress = Progress::new(start_ns);
    while !round_robin.is_finished() && !interrupt.arrived() {
        let elapsed_ns = monotonic_ns() - start_ns;
        if elapsed_ns >= deadline_ns {
            break;
        }
        let due = schedule
            .map_or(round_robin.assigned().saturating_add(UNPACED_DATAGRAMS), |paced| paced.due(elapsed_ns));
        while round_robin.assigned() < due && !round_robin.is_finished() && !interrupt.arrived() {
            let limit = due - round_robin.assigned();
            transmitter.send(&mut round_robin, limit, interrupt);
        }
        transmitter.release(interrupt);
        progress.show(monotonic_ns(), || format!("sent {}", round_robin.assigned()));
        if let Some(paced) = schedule.filter(|_| !round_robin.is_finished()) {
            let next_ns = start_ns.saturating_add(paced.due_at(round_robin.assigned()).min(deadline_ns));
            wait_until(transmitter.next_due_ns().map_or(next_ns, |due_ns| due_ns.min(next_ns)), interrupt);
        }
    }
    let finished = round_robin.is_finished();
    if !finished {
        transmitter.close(&mut round_robin, interrupt);
    }
    transmitter.finish();
    while let Some(due_ns) = transmitter.next_due_ns().filter(|_| !interrupt.arrived()) {
        wait_until(due_ns, interrupt);
        transmitter.release(interrupt);
    }
    let seconds = (monotonic() - start).as_secs_f64();
    progress.clear();
    if !finished && schedule.is_some() && arguments.duration.is_some() && !interrupt.arrived() {
        eprintln!("mcrgen: this machine could not keep up with {} datagrams/s", arguments.rate);
    }
    Ok(report(&transmitter, &legs, round_robin.assigned(), seconds, seed))
}

fn report(transmitter: &Transmitter, legs: &[Leg], datagrams: u64, seconds: f64, seed: u64) -> SendReport {
    let mut outcome = Outcome::default();
    transmitter.lines().iter().for_each(|line| outcome += line.outcome());
    let sent = legs.iter().zip(transmitter.lines()).map(|(leg, line)| SentLeg {
        interface: leg.interface.clone(),
        group: leg.group,
        port: leg.port,
        outcome: line.outcome().clone(),
    });
    SendReport {
        pps: per_second(outcome.sent, seconds),
        outcome,
        seconds,
        seed,
        datagrams,
        lost_by_all: transmitter.lost_by_all(),
        legs: if legs.len() > 1 { sent.collect() } else { Vec::new() },
    }
}

/// The leg of the main options.
fn first_leg(arguments: &SendArguments) -> Leg {
    let StreamArguments { interface, group, port, .. } = &arguments.streams;
    let SendArguments { loss, delay, reorder, .. } = *arguments;
    let impairment = Impairment { loss, delay, reorder };
    Leg { group: *group, port: *port, interface: interface.clone(), impairment }
}

/// Opens a leg's socket.
fn line(arguments: &SendArguments, leg: &Leg, seed: u64) -> Result<Line> {
    let groups = consecutive(leg.group, arguments.streams.groups).map_err(|reason| anyhow!(reason))?;
    let ifindex = IfIndex::by_name(&leg.interface).with_context(|| format!("interface {}", leg.interface))?;
    let destinations = groups.iter().map(|group| destination(*group, leg.port, ifindex)).collect();
    let socket = open_socket(arguments, leg.group, ifindex)?;
    let path = (!leg.impairment.is_none()).then(|| Path::new(leg.impairment, seed));
    Ok(Line::new(socket, destinations, path))
}

fn content(arguments: &SendArguments, seed: u64) -> Result<Content> {
    let framing = match arguments {
        SendArguments { rtp: true, .. } => Framing::Rtp,
        SendArguments { mold: true, .. } => Framing::Mold,
        _ => Framing::Plain,
    };
    let least = HEADER_BYTES + framing.header_bytes();
    if arguments.size.minimum() < least {
        bail!("with this header a payload has at least {least} bytes, see --size");
    }
    let (sizes, random) = (arguments.size, fastrand::Rng::with_seed(seed));
    Ok(Content { session: fastrand::u64(..), framing, sizes, random })
}

/// The number of datagrams to send, if limited.
fn total(arguments: &SendArguments) -> Option<u64> {
    let by_time = || {
        let duration_ns = arguments.duration.filter(|_| arguments.rate > 0)?.as_nanos();
        u64::try_from(duration_ns * u128::from(arguments.rate) / 1_000_000_000).ok()
    };
    arguments.count.map(NonZeroU64::get).or_else(by_time)
}

/// Maximum number of datagrams per send.
fn segments(arguments: &SendArguments) -> usize {
    let burst = usize::try_from(arguments.burst.get()).unwrap_or(usize::MAX);
    match (arguments.segment, arguments.rate) {
        (Segmentation::Never, _) | (Segmentation::Auto, 1..) => 1,
        (Segmentation::Auto | Segmentation::Always, 0) => MAX_SEGMENTS,
        (Segmentation::Always, _) => burst.min(MAX_SEGMENTS),
    }
}

fn open_socket(arguments: &SendArguments, group: IpAddr, ifindex: IfIndex) -> Result<OwnedFd> {
    let socket = open_egress(&EgressOptions {
        ifindex,
        family: Family::of(group),
        ttl: Some(arguments.ttl),
        dscp: Some(arguments.dscp),
        origin: match arguments.source {
            Some(source) if arguments.source_port.is_none() => Origin::Address(source),
            _ => Origin::Interface,
        },
        // A receiver on this host is a receiver.
        multicast_loop: true,
        send_buffer_bytes: SEND_BUFFER_BYTES,
        marked: false,
        mark: 0,
    })?;
    if let Some(port) = arguments.source_port {
        bind_source(&socket, arguments.source, port, group, ifindex)?;
    }
    Ok(socket)
}

/// Binds a socket that sends to `group`.
fn bind_source(
    socket: &OwnedFd,
    source: Option<IpAddr>,
    port: u16,
    group: IpAddr,
    ifindex: IfIndex,
) -> Result<()> {
    let any = match group {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = destination(source.unwrap_or(any), port, ifindex);
    let source = source.get().context("source address")?;
    rustix::net::bind(socket, &source).with_context(|| format!("bind to {source}"))
}

/// A socket address with the scope that link-local addresses require.
fn destination(address: IpAddr, port: u16, ifindex: IfIndex) -> SocketAddress {
    SocketAddress::new(match address {
        IpAddr::V4(address) => SocketAddr::from((address, port)),
        IpAddr::V6(address) => SocketAddr::V6(SocketAddrV6::new(address, port, 0, ifindex.to_raw())),
    })
}

fn wait_until(at_ns: u64, interrupt: &mut Interrupt) {
    let left_ns = at_ns.saturating_sub(monotonic_ns());
    if left_ns > 0 {
        interrupt.wait(Some(Duration::from_nanos(left_ns)));
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
