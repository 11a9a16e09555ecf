//! Promise R26: a thousand idle or trickling clients, and those that ask for all there is, delay neither a small request
//! nor the replacement of a killed worker.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mcr_sys::clock;
use mcr_testnet::{Daemon, Host, IoBackend, Topology, assert_accounting};
use serde_json::json;

use crate::scenario::{input, output, relay, rule};
use crate::supervisor_resilience::lost_in_one_kill;

const CLIENTS: usize = 1000;
const PATIENT: Duration = Duration::from_secs(30);

/// Connects, asks whether the daemon is alive, and returns how long that took.
fn ping(socket: &Path) -> Duration {
    let asked = clock::monotonic();
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENT)).unwrap();
    stream.write_all(b"{\"method\":\"io.mcr.Control.Ping\"}\0").unwrap();
    let mut reply = [0; 64];
    let read = stream.read(&mut reply).unwrap();
    assert_eq!(&reply[..read], b"{\"parameters\":{}}\0", "{}", String::from_utf8_lossy(&reply[..read]));
    clock::monotonic() - asked
}

/// Pings one after another and returns the 99th percentile of the times.
fn p99(socket: &Path, pings: usize) -> Duration {
    let mut times: Vec<Duration> = (0..pings).map(|_| ping(socket)).collect();
    times.sort_unstable();
    println!(
        "ping: median {:?}, p99 {:?}, worst {:?}",
        times[pings / 2],
        times[pings * 99 / 100],
        times[pings - 1]
    );
    times[pings * 99 / 100]
}

#[test]
fn rate_a_thousand_clients_delay_no_answer_and_no_replacement_of_a_killed_worker() {
    mcr_sys::process::use_all_descriptors().unwrap();
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, IoBackend::Uring, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]);
    let done = AtomicBool::new(false);
    let connect = || UnixStream::connect(daemon.socket()).unwrap();
    let mut clients: Vec<UnixStream> = (0..CLIENTS).map(|_| connect()).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Each second one byte from every second client; who was hung up on comes again.
            let pause = Duration::from_millis(2);
            for n in (0..CLIENTS).step_by(2).cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                if clients[n].write_all(b"{").is_err() {
                    clients[n] = connect();
                }
                // The read's deadline is the clock.
                clients[n].set_read_timeout(Some(pause)).unwrap();
                let _ = clients[n].read(&mut [0]);
            }
        });
        let latency = p99(&daemon.socket(), 300);
        let losses: Vec<u64> = (0..3).map(|_| lost_in_one_kill(&topology, &daemon, 1).0).collect();
        println!("lost per kill: {losses:?}");
        done.store(true, Ordering::Relaxed);
        assert!(latency <= Duration::from_millis(250), "p99 {latency:?}");
        assert!(losses.iter().all(|lost| *lost <= 32), "{losses:?}");
    });
    assert_accounting(&daemon.settled_stats());
}

/// A client that pulls the statistics of thousands of rules without pause gets a share of the daemon, and no more.
#[test]
fn rate_whoever_pulls_large_statistics_delays_no_small_request() {
    let host = Host::new("relay");
    let rules: Vec<_> = (0..16_000_u32)
        .map(|n| {
            let group = std::net::Ipv4Addr::from_bits(0xef01_0000 + n).to_string();
            rule(json!({"interface": "missing0", "group": group, "port": 5000}), [output("239.200.0.1")])
        })
        .collect();
    let daemon = Daemon::start(&host, IoBackend::Recvmmsg, &json!({"rules": rules}).to_string());
    let done = AtomicBool::new(false);
    let pulled = std::thread::scope(|scope| {
        let pulling = scope.spawn(|| {
            let mut stream = UnixStream::connect(daemon.socket()).unwrap();
            stream.set_read_timeout(Some(PATIENT)).unwrap();
            let mut chunk = vec![0; 1 << 20];
            let mut replies = 0;
            while !done.load(Ordering::Relaxed) {
                stream.write_all(b"{\"method\":\"io.mcr.Control.GetStats\"}\0").unwrap();
                while {
                    let read = stream.read(&mut chunk).unwrap();
                    assert!(read > 0, "the daemon hung up");
                    chunk[read - 1] != 0
                } {}
                replies += 1;
            }
            replies
        });
        let latency = p99(&daemon.socket(), 1000);
        done.store(true, Ordering::Relaxed);
        assert!(latency <= Duration::from_millis(500), "p99 {latency:?}");
        pulling.join().unwrap()
    });
    println!("{pulled} large replies meanwhile");
    assert!(pulled > 0, "and it is answered too");
}
