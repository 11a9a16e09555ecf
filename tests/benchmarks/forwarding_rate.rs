//! How fast MCR forwards, beside what people use today: the same traffic through each of them in turn, on one machine.
//!
//! ```text
//!   core 0                        core 1                         core 0 (at set rates only)
//!   sender ── veth, separate ──▶ relay: one worker, or a peer ── veth ──▶ receiver
//!   mcrgen    frames             eth0                    eth1             mcrgen, or the interface's counters
//! ```
//!
//! Run by `cargo xtask bench`, which explains the options. Scenarios are in [`scenarios`], what is measured and how in
//! [`measurement`], the programs that compete in [`peers`].
#![expect(clippy::print_stdout, reason = "prints the results")]

mod chart;
mod cpu;
mod floor;
mod measurement;
mod options;
mod peers;
mod results;
mod scenarios;
mod targets;
mod topology;

use std::panic::AssertUnwindSafe;

use options::Options;
use peers::Peer;
use results::Results;
use scenarios::Scenario;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(place) = arguments.iter().position(|argument| argument == "--floor") {
        return floor::run(&arguments[place + 1..]);
    }
    let options = Options::parse(&arguments);
    let scenarios = scenarios::all();
    if options.list {
        for scenario in &scenarios {
            let peers: Vec<&str> = scenario.peers.iter().map(|peer| peer.name()).collect();
            println!("{:18} {} ({})", scenario.id, scenario.title, peers.join(", "));
        }
        return;
    }
    topology::pin(topology::SENDER_CORE);
    let mut results = Results::new(&options);
    for &peer in Peer::ALL {
        if let Some(reason) = peer.why_missing() {
            eprintln!("skipped: {}: {reason}", peer.name());
            results.skip(peer, &reason);
        }
    }
    for scenario in &scenarios {
        measure(scenario, &options, &mut results);
    }
    print!("{}", results.report());
    results.write(&options);
}

/// All peers take turns at one scenario.
fn measure(scenario: &Scenario, options: &Options, results: &mut Results) {
    let mut peers: Vec<Peer> = scenario.peers.to_vec();
    peers.retain(|peer| options.wants(scenario.id, peer.name()) && !results.is_skipped(*peer));
    if peers.is_empty() {
        return;
    }
    let lab = topology::Lab::new(scenario.sender_segments, scenario.device_segments);
    for repetition in 1..=options.repetitions {
        for peer in peers.clone() {
            eprint!("{repetition}/{} {}/{}: ", options.repetitions, scenario.id, peer.name());
            let run = AssertUnwindSafe(|| scenario.run(&lab, peer, options.seconds));
            // The test network panics, and has said why.
            if let Ok(sample) = std::panic::catch_unwind(run) {
                eprintln!("{}", results::in_short(&sample));
                results.add(scenario, peer, sample);
            } else {
                results.fail(scenario, peer);
                peers.retain(|other| *other != peer);
            }
        }
    }
}
