//! A soak test: load, periodic fault injection, and a ledger of the loss that each fault caused.
//!
//! ```text
//!  sender ─ eth0 ─▶ eth0 ┐        ┌ eth1 ─▶ eth0 ─ receiver      leg 0: two groups, one worker
//!  sender ─ eth1 ─▶ in1 ─┤ relay  ├ out1 ─▶ eth1 ─ receiver      leg 1: two groups, one worker
//! ```
//!
//! Every datagram carries its flow, sequence number and send time. Time is divided into slots of 100 ms by send time;
//! a datagram sent in a slot and never received is lost in that slot, and each slot is attributed to a fault or to
//! none. Nothing may be lost in a slot without a fault, or on a leg that the fault does not affect.

mod faults;
mod ledger;
mod load;
mod processes;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use fastrand::Rng;
use mcr_sys::clock::monotonic;
use serde_json::{Value, json};

use crate::{Daemon, IoBackend, Topology, accounting};
use faults::{Fault, Site};
use ledger::{Event, Ledger};
use load::Load;
use processes::Processes;

pub use ledger::table;

/// Options of a run.
#[derive(Clone, Copy, Debug)]
pub struct SoakOptions {
    /// Duration.
    pub duration: Duration,
    /// Interval between the starts of two faults.
    pub fault_every: Duration,
    /// Datagrams per second, over all four flows.
    pub rate_pps: u64,
    /// Payload bytes.
    pub size_bytes: usize,
    /// The seed for the order of faults.
    pub seed: u64,
    /// The I/O backend of the workers.
    pub io: IoBackend,
    /// Called with progress messages.
    pub progress: fn(&str),
}

/// A datagram that takes longer counts as lost.
const LAST_DATAGRAM: Duration = Duration::from_secs(1);
/// Time after a fault in which its effects may still appear: a draining queue, a late answer.
const AFTERMATH: Duration = Duration::from_millis(500);

/// Runs the test and returns the report; `failures` is empty if all promises were kept.
#[must_use]
pub fn run(options: &SoakOptions) -> Value {
    let topology = Topology::sender_relay_receiver();
    topology.add_input(1);
    topology.add_output(1);
    let mut daemon = Daemon::start(&topology.relay, options.io, &load::config());
    // The report has them.
    daemon.expect_sandbox_kills();
    daemon.wait_until_active(load::FLOWS);
    let load = Load::start(&topology, options.rate_pps, options.size_bytes);
    let mut site = Site { topology: &topology, daemon, load: &load, io: options.io };
    let mut random = Rng::with_seed(options.seed);
    let mut processes = Processes::default();
    let mut ledger = Ledger::default();
    let begin = monotonic();
    let end = begin + options.duration;
    let mut agenda: Vec<Fault> = Vec::new();
    let mut cycles = 0;
    let mut next = begin + options.fault_every;
    while monotonic() < end {
        observe(&mut processes, &site, next.min(end), cycles);
        if monotonic() >= end {
            break;
        }
        if agenda.is_empty() {
            agenda = Fault::agenda(cycles, &mut random);
            cycles += 1;
        }
        let Some(fault) = agenda.pop() else { continue };
        let leg = fault.leg(&mut random);
        ledger.events.push(strike(&mut site, fault, leg, &mut random, options));
        next = (next + options.fault_every).max(monotonic() + Duration::from_millis(500));
    }
    site.load.stop_sending();
    crate::wait::pause_for(LAST_DATAGRAM);
    let stats = catch_unwind(AssertUnwindSafe(|| site.daemon.settled_stats())).ok();
    processes.sample(&site, cycles);
    report(options, &ledger, &load, &processes, (stats.as_ref(), &site.daemon.log()))
}

/// Samples the processes each second until the next fault is due.
fn observe(processes: &mut Processes, site: &Site<'_>, until: Duration, cycles: usize) {
    while monotonic() < until {
        processes.sample(site, cycles);
        crate::wait::pause_for((until.saturating_sub(monotonic())).min(Duration::from_secs(1)));
    }
}

/// Injects one fault and waits for recovery.
fn strike(site: &mut Site<'_>, fault: Fault, leg: usize, random: &mut Rng, options: &SoakOptions) -> Event {
    let before = site.totals();
    let begin = monotonic();
    // A failed injection is a line of the ledger, not the end of the run.
    let healed = catch_unwind(AssertUnwindSafe(|| faults::strike(site, fault, leg, random)));
    let healed_at = monotonic();
    let recovered = healed
        .map_err(|panic| faults::message(&*panic))
        .and_then(|note| site.wait_until_working(healed_at).map(|at| (note, at)));
    let (note, recovery, failure) = match recovered {
        Ok((note, at)) => (note, Some(at - healed_at), None),
        Err(failure) => (String::new(), None, Some(failure)),
    };
    crate::wait::pause_for(AFTERMATH);
    let event = Event {
        fault: fault.name(),
        leg: (!fault.is_lossless()).then_some(leg),
        begin,
        end: monotonic(),
        recovery,
        note,
        failure,
        counted: site.totals().since(&before),
    };
    (options.progress)(&event.line());
    event
}

fn report(
    options: &SoakOptions,
    ledger: &Ledger,
    load: &Load,
    processes: &Processes,
    (stats, log): (Option<&Value>, &str),
) -> Value {
    let traffic = load.traffic();
    let mut failures = ledger.failures(&traffic);
    failures.extend(processes.failures());
    failures.extend(killed_by_sandbox(log));
    match stats {
        None => failures.push("the counters did not settle, or the daemon did not answer".to_owned()),
        Some(stats) => failures.extend(accounting::check(stats).err()),
    }
    json!({
        "minutes": options.duration.as_secs_f64() / 60.0,
        "seed": options.seed,
        "rate_pps": options.rate_pps,
        "io": options.io.as_str(),
        "traffic": traffic.json(),
        "faults": ledger.json(&traffic),
        "fault_free": ledger.fault_free(&traffic).json(),
        "processes": processes.json(),
        "counters": stats,
        "failures": failures,
    })
}

/// Deaths by the sandbox, which no fault causes: what the log of all supervisors says of them.
fn killed_by_sandbox(log: &str) -> Option<String> {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("SIGSYS")).collect();
    let first = lines.first()?;
    Some(format!(
        "the sandbox killed a process, lines of the log that tell so: {}; the first: {first}",
        lines.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_by_the_sandbox_is_a_failure() {
        assert_eq!(killed_by_sandbox("started\nkilled by signal 9\n"), None);
        let failure = killed_by_sandbox("started\nits sandbox killed it (SIGSYS): …\n").unwrap();
        assert!(failure.contains(": 1;") && failure.contains("killed it (SIGSYS)"), "{failure}");
    }
}
