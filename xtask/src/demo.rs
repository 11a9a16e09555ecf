//! `cargo xtask demo`: real multicast through a real relay, verified at the receiver.

mod report;
mod streams;

use std::io::{IsTerminal, Write};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use mcr_sys::clock;
use mcr_testnet::{Daemon, Generator, Topology, use_binaries_in, wait_until};

use self::report::{Row, Totals};
use self::streams::{ADDED, CONFIG, CONFIGURED, Stream};
use crate::{cargo, privilege};

/// Datagrams per second of each stream that is sent.
const RATE_PPS: u64 = 5_000;
const PAYLOAD_BYTES: &str = "1200";
const SECONDS: u64 = 10;
/// Time until a rule is added.
const BEFORE_ADDING: Duration = Duration::from_secs(2);
/// Maximum time until the last datagrams arrive.
const LAST_DATAGRAM: Duration = Duration::from_secs(5);

pub(crate) fn run() -> Result<()> {
    cargo::run(&["build", "--release", "--bins", "-p", "mcrd", "-p", "mcrctl", "-p", "mcrgen"])?;
    use_binaries_in(cargo::target_directory()?.join("release"));
    privilege::acquire()?;

    // The test network panics on errors; here a panic becomes an error message.
    std::panic::set_hook(Box::new(|_| ()));
    match std::panic::catch_unwind(AssertUnwindSafe(relay)) {
        Ok(result) => result,
        Err(panic) => Err(anyhow!("{}", message(&*panic))),
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown error")
}

fn relay() -> Result<()> {
    let topology = Topology::sender_relay_receiver();
    eprintln!(
        "three namespaces: sender ── relay ── receiver; mcrd on the relay with {} rules",
        CONFIGURED.len()
    );
    let mut daemon = Daemon::start_with(&topology.relay, CONFIG, |_| ());
    daemon.wait_until_active(CONFIGURED.len());

    let mut running: Vec<Running<'_>> =
        CONFIGURED.iter().map(|stream| Running::start(&topology, stream, SECONDS)).collect();
    let begin = clock::monotonic();
    progress("sending", || clock::monotonic() >= begin + BEFORE_ADDING);

    let added = daemon.ctl(
        &["add", "--name", ADDED.name, "--input-interface", "eth0"]
            .iter()
            .copied()
            .chain(["--input-group", ADDED.input, "--input-port", ADDED.input_port])
            .chain(["--outputs", streams::ADDED_OUTPUT])
            .collect::<Vec<_>>(),
    );
    if added.code != 0 {
        bail!("mcrctl add failed: {}", added.stderr);
    }
    daemon.wait_until_active(CONFIGURED.len() + 1);
    eprintln!("added rule {:?} with mcrctl while traffic flows", ADDED.name);
    running.push(Running::start(&topology, &ADDED, SECONDS - BEFORE_ADDING.as_secs()));

    progress("sending", || running.iter_mut().all(|stream| !stream.sender.is_running()));
    let rows: Vec<Row> = running.into_iter().flat_map(Running::finish).collect();
    let workers = daemon.ctl_json(&["workers"]);
    let stats = daemon.settled_stats();
    let log = daemon.log();
    daemon.terminate();

    report::print(&rows, &workers)?;
    let totals = Totals::of(&rows);
    if totals.is_clean() {
        eprintln!("no loss");
        return Ok(());
    }
    eprintln!("statistics of the relay:\n{stats:#}\nlog of mcrd:\n{log}");
    bail!("{totals}")
}

/// A stream in progress: a sender, and a receiver for each output.
struct Running<'a> {
    stream: &'a Stream,
    sender: Generator,
    receivers: Vec<Generator>,
}

impl<'a> Running<'a> {
    fn start(topology: &Topology, stream: &'a Stream, seconds: u64) -> Self {
        let count = (RATE_PPS * seconds).to_string();
        let receivers = stream.outputs.iter().map(|(group, port)| {
            let place = ["--interface", "eth0", "--group", group, "--port", port];
            Generator::recv(&topology.receiver, &[&place[..], &["--count", &count]].concat())
        });
        let receivers = receivers.collect();
        let rate = RATE_PPS.to_string();
        let place = ["--interface", "eth0", "--group", stream.input, "--port", stream.input_port];
        let amount = ["--rate", &rate, "--size", PAYLOAD_BYTES, "--count", &count];
        let sender = Generator::send(&topology.sender, &[place, amount].concat());
        Self { stream, sender, receivers }
    }

    fn finish(mut self) -> Vec<Row> {
        let sent = self.sender.finish();
        let deadline = clock::monotonic() + LAST_DATAGRAM;
        wait_until("the receivers", LAST_DATAGRAM * 2, || {
            clock::monotonic() > deadline || self.receivers.iter_mut().all(|receiver| !receiver.is_running())
        });
        let rows = self.receivers.into_iter().zip(self.stream.outputs).map(|(receiver, output)| {
            // A receiver that still waits for its last datagrams reports those received.
            receiver.interrupt();
            Row::new(self.stream, *output, &sent, &receiver.outcome().json)
        });
        rows.collect()
    }
}

/// Waits, and shows the elapsed time on a terminal.
fn progress(what: &str, mut done: impl FnMut() -> bool) {
    let terminal = std::io::stderr().is_terminal();
    let begin = clock::monotonic();
    let mut shown = None;
    let deadline = Duration::from_secs(SECONDS * 6);
    wait_until(what, deadline, || {
        let seconds = (clock::monotonic() - begin).as_secs();
        if terminal && shown != Some(seconds) {
            shown = Some(seconds);
            // Progress that can't be shown is not an error.
            let _ = write!(std::io::stderr(), "\r{what} … {seconds} s ");
        }
        done()
    });
    if terminal {
        let _ = write!(std::io::stderr(), "\r                \r");
    }
}
