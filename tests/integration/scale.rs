//! R20: as many rules as a large site has: `MCR_RULES=10000`, on half as many groups; 2,000 unless told otherwise. On the
//! relay's host there are many interfaces (`MCR_INTERFACES`, 100 unless told otherwise); two of them have the inputs, and
//! the outputs are spread over half of the others. (Rules with a thousand *inputs* would be a thousand processes: that is
//! a question of the machine, not of the rules.) `MCR_ADDITIONS` says how many are added one by one while traffic flows.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mcr_sys::clock::monotonic;
use mcr_testnet::{Daemon, Topology, assert_accounting};
use serde_json::{Value, json};

use crate::scenario::{INPUT_PORT, OUTPUT_PORT, recv, send};

const INTERFACES: u32 = 100;
const RULES: u32 = 2000;
const ADDITIONS: u32 = 20;

#[expect(clippy::disallowed_methods, reason = "a setting of the test")]
fn setting(name: &str) -> Option<u32> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// The rule with this number: of two with one group, one has port 5000 and the other 5001.
fn nth_rule(number: u32, outputs: u32) -> Value {
    let group = std::net::Ipv4Addr::from_bits(0xef01_0000 + number / 2);
    let to = std::net::Ipv4Addr::from_bits(0xef80_0000 + number);
    let interface = if number == 0 { "eth1".to_owned() } else { format!("v{}", number % outputs) };
    json!({
        "input": {
            "interface": if number % 4 < 2 { "eth0" } else { "in1" },
            "group": group.to_string(),
            "port": u32::from(INPUT_PORT) + number % 2,
        },
        "outputs": [{ "interface": interface, "group": to.to_string(), "port": OUTPUT_PORT }],
    })
}

fn percentile(times: &[Duration], of_100: usize) -> Duration {
    times[(times.len() * of_100 / 100).min(times.len() - 1)]
}

on_both_backends! {
    fn rate_thousands_of_rules_start_change_relay_and_stop(io) {
        let rules = setting("MCR_RULES").unwrap_or(RULES);
        let interfaces = setting("MCR_INTERFACES").unwrap_or(INTERFACES);
        let outputs = interfaces / 2;
        let topology = Topology::sender_relay_receiver();
        topology.add_input(1);
        let host = &topology.relay;
        host.setup("many", |links| {
            for number in 0..outputs {
                let (one, other) = (format!("v{number}"), format!("w{number}"));
                links.create_veth(&one, &other, host.namespace())?;
                // Five hundred addresses that come one by one are another matter (R19).
                links.disable_automatic_ipv6(&one)?;
                links.disable_automatic_ipv6(&other)?;
                links.set_up(&one, true)?;
                links.set_up(&other, true)?;
                let address = std::net::Ipv4Addr::from_bits(0x0a40_0001 + number * 256);
                links.add_address(&one, address.into(), 24)?;
            }
            Ok(())
        });
        let all: Vec<Value> = (0..rules).map(|number| nth_rule(number, outputs)).collect();
        let begun = monotonic();
        let mut daemon = Daemon::start(host, io, &json!({"rules": all}).to_string());
        let started = monotonic().saturating_sub(begun);
        daemon.wait_until_active(all.len());
        let mut told = format!("R20 {rules} rules, {interfaces} interfaces: start {started:?}");

        let receiver = recv(&topology.receiver, "eth0", "239.128.0.0", "");
        let sender = send(&topology.sender, "eth0", "239.1.0.0", "--rate 10000 --count 30000 --size 1400");
        let mut client = Client::connect(&daemon);
        let mut times: Vec<Duration> = (0..setting("MCR_ADDITIONS").unwrap_or(ADDITIONS))
            .map(|number| {
                let rule = nth_rule(rules + number, outputs);
                let begun = monotonic();
                let reply = client.call("io.mcr.Control.AddRule", json!({"rule": rule}));
                assert!(reply["error"].is_null(), "{reply}");
                monotonic().saturating_sub(begun)
            })
            .collect();
        times.sort_unstable();
        let [median, worst] = [50, 99].map(|of_100| percentile(&times, of_100));
        let _ = write!(told, ", an addition median {median:?} p99 {worst:?}");
        assert_eq!(sender.finish()["errors"], 0);
        let report = receiver.finish();
        assert_eq!((&report["received"], &report["lost"]), (&json!(30_000), &json!(0)), "{report:#}");
        assert_accounting(&daemon.settled_stats());
        let latency = &report["latency_ns"];
        let _ = write!(told, ", latency during additions p50 {} p99.9 {} max {} ns", latency["p50"], latency["p999"], latency["max"]);

        let begun = monotonic();
        assert!(daemon.terminate().success());
        let _ = write!(told, ", stop {:?}", monotonic().saturating_sub(begun));
        println!("{told}");
        assert!(started < Duration::from_secs(12), "{told}");
        assert!(median < Duration::from_secs(1), "{told}");
    }
}

/// A client that stays connected: a message is JSON and a zero byte.
struct Client {
    stream: UnixStream,
}

impl Client {
    fn connect(daemon: &Daemon) -> Self {
        Self { stream: UnixStream::connect(daemon.socket()).expect("connect") }
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        let mut request = json!({"method": method, "parameters": parameters}).to_string().into_bytes();
        request.push(0);
        self.stream.write_all(&request).expect("send");
        let mut reply = Vec::new();
        let mut bytes = [0; 4096];
        while reply.last() != Some(&0) {
            let count = self.stream.read(&mut bytes).expect("receive");
            assert!(count > 0, "the daemon hung up");
            reply.extend_from_slice(&bytes[..count]);
        }
        reply.pop();
        serde_json::from_slice(&reply).expect("JSON")
    }
}
