//! `mcrgen send`: a loop that sends the datagrams that are due, and waits for the next ones.

mod round_robin;
mod transmitter;

use crate::cli::{Segmentation, SendArguments};
use crate::groups::consecutive;
use crate::interrupt::Interrupt;
use crate::pacing::Schedule;
use crate::progress::Progress;
use crate::report::{SendReport, per_second};
use anyhow::{Context, Result, anyhow};
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
    let groups =
        consecutive(arguments.streams.group, arguments.streams.groups).map_err(|reason| anyhow!(reason))?;
    let ifindex = IfIndex::by_name(&arguments.streams.interface)
        .with_context(|| format!("interface {}", arguments.streams.interface))?;
    let port = arguments.streams.port;
    let destinations = groups.iter().map(|group| destination(*group, port, ifindex)).collect();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let content =
        Content { session: fastrand::u64(..), sizes: arguments.size, random: fastrand::Rng::with_seed(seed) };
    let socket = open_socket(arguments, ifindex)?;
    let mut transmitter = Transmitter::new(socket, destinations, content, segments(arguments));
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
        progress.show(monotonic_ns(), || format!("sent {}", transmitter.outcome().sent));
        if let Some(paced) = schedule.filter(|_| !round_robin.is_finished()) {
            wait_until(
                start_ns.saturating_add(paced.due_at(round_robin.assigned()).min(deadline_ns)),
                interrupt,
            );
        }
    }
    let finished = round_robin.is_finished();
    if !finished {
        transmitter.close(&mut round_robin, interrupt);
    }
    let seconds = (monotonic() - start).as_secs_f64();
    progress.clear();
    if !finished && schedule.is_some() && arguments.duration.is_some() && !interrupt.arrived() {
        eprintln!("mcrgen: this machine could not keep up with {} datagrams/s", arguments.rate);
    }
    let outcome = transmitter.outcome().clone();
    Ok(SendReport { pps: per_second(outcome.sent, seconds), outcome, seconds, seed })
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

fn open_socket(arguments: &SendArguments, ifindex: IfIndex) -> Result<OwnedFd> {
    let group = arguments.streams.group;
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
        let any = match group {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let source = destination(arguments.source.unwrap_or(any), port, ifindex);
        let source = source.get().context("source address")?;
        rustix::net::bind(&socket, &source).with_context(|| format!("bind to {source}"))?;
    }
    Ok(socket)
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
