//! `mcrgen` over a veth pair between two network namespaces; some tests modify the datagrams in between.

use mcr_sys::process::{PidFd, Signal};
use mcr_testnet::{Generator, Host, wait_until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Output, Stdio};
use std::time::Duration;

/// `a` is 10.0.0.1 and fd00::1, `b` is 10.0.0.2 and fd00::2.
fn two_hosts() -> (Host, Host) {
    let (a, b) = (Host::new("a"), Host::new("b"));
    a.cable("eth0", &b, "eth0");
    for (host, number) in [(&a, 1), (&b, 2)] {
        host.add_address("eth0", &format!("10.0.0.{number}/24"));
        host.add_address("eth0", &format!("fd00::{number}/64"));
        host.add_address("eth0", &format!("fe80::{number}/64"));
    }
    (a, b)
}

fn arguments(group: &str, options: &str) -> Vec<String> {
    let line = format!("--interface eth0 --group {group} --port 5000 {options}");
    line.split_whitespace().map(str::to_owned).collect()
}

fn send(host: &Host, group: &str, options: &str) -> Generator {
    Generator::send(host, &arguments(group, options).iter().map(String::as_str).collect::<Vec<_>>())
}

fn recv(host: &Host, group: &str, options: &str) -> Generator {
    Generator::recv(host, &arguments(group, options).iter().map(String::as_str).collect::<Vec<_>>())
}

fn run(host: &Host, line: &str) -> Output {
    let mut command = host.command(mcr_testnet::binary("mcrgen"));
    command.args(line.split_whitespace()).stdin(Stdio::null()).output().expect("start mcrgen")
}

fn assert_fields(report: &Value, expected: &Value) {
    for (field, value) in expected.as_object().into_iter().flatten() {
        assert_eq!(&report[field], value, "{field} of {report:#}");
    }
}

fn assert_complete(report: &Value, datagrams: u64) {
    assert_fields(
        report,
        &json!({
            "received": datagrams, "lost": 0, "duplicates": 0, "reordered": 0, "corrupted": 0, "unknown": 0,
            "stale": 0, "receiver_drops": 0, "latency_unknown": 0, "sessions": 1, "silent_groups": 0,
            "ended": "complete",
        }),
    );
}

#[test]
fn every_kind_of_address() {
    let (a, b) = two_hosts();
    for group in ["239.1.1.1", "10.0.0.2", "ff15::1", "ff02::1:5", "fd00::2", "fe80::2"] {
        let receiver = recv(&b, group, "");
        let sent = send(&a, group, "--count 500 --rate 10000 --size 48-1472").finish();
        assert_fields(&sent, &json!({"sent": 500, "errors": 0}));
        let report = receiver.finish();
        assert_complete(&report, 500);
        assert_eq!(report["bytes"], sent["bytes"]);
        let latency = |name: &str| report["latency_ns"][name].as_u64().expect("a latency");
        let ordered = ["min", "p50", "p99", "p999", "max"].map(latency);
        assert!(ordered.is_sorted() && ordered[4] < 1_000_000_000, "{ordered:?}");
    }
}

/// More groups than one socket may join, in both families.
#[test]
fn many_groups() {
    let (a, b) = two_hosts();
    for group in ["239.1.1.250", "ff15::fff0"] {
        let receiver = recv(&b, group, "--groups 100");
        let _ = send(&a, group, "--groups 100 --count 1950 --rate 10000 --burst 10").finish();
        let report = receiver.finish();
        assert_complete(&report, 1950);
        let per_stream = report["per_stream"].as_array().expect("a report of each stream");
        let received: Vec<u64> = per_stream.iter().filter_map(|stream| stream["received"].as_u64()).collect();
        assert_eq!(received, [[20; 50], [19; 50]].concat());
    }
}

#[test]
fn datagrams_of_other_sources_are_unknown_or_not_delivered() {
    let (a, b) = two_hosts();
    a.add_address("eth0", "10.0.0.9/24");
    let receiver = recv(&b, "232.1.1.1", "--source 10.0.0.1");
    let _ = send(&a, "232.1.1.1", "--count 100 --source 10.0.0.9 --source-port 7000").finish();
    let _ = send(&a, "232.1.1.1", "--count 100 --source 10.0.0.1").finish();
    assert_fields(&receiver.finish(), &json!({"received": 100, "lost": 0, "sessions": 1}));
}

#[test]
fn source_port_and_address_are_those_given() {
    let (a, b) = two_hosts();
    let listener = b.run(|| UdpSocket::bind("10.0.0.2:5000").expect("bind"));
    listener.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    for (options, source) in
        [("--source 10.0.0.1 --source-port 7001", "10.0.0.1:7001"), ("--source-port 7002", "10.0.0.1:7002")]
    {
        let _ = send(&a, "10.0.0.2", &format!("--count 1 {options}")).finish();
        let (_, from) = listener.recv_from(&mut [0; 2000]).expect("a datagram");
        assert_eq!(from, source.parse::<SocketAddr>().expect("an address"));
    }
}

/// A network with loss, duplicates, reordering and corruption: `a` → this thread on `b` → `c`.
#[test]
fn impairments_of_the_network_are_reported() {
    let (a, b) = two_hosts();
    let c = Host::new("c");
    b.cable("eth1", &c, "eth0");
    b.add_address("eth1", "10.0.1.1/24");
    c.add_address("eth0", "10.0.1.2/24");
    let receiver = recv(&c, "10.0.1.2", "--idle 1");
    let network = b.run(|| UdpSocket::bind("0.0.0.0:5000").expect("bind"));
    network.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    // Slow enough for the default buffer: only root outside of user namespaces may force a larger one.
    let sender = send(&a, "10.0.0.2", "--count 1000 --rate 2000 --size 200");
    let forward = |datagram: &[u8]| {
        network.send_to(datagram, "10.0.1.2:5000").expect("send");
    };
    let mut held = Vec::new();
    for sequence in 0..1000 {
        let mut datagram = vec![0; 2000];
        let (bytes, _) = network.recv_from(&mut datagram).expect("a datagram");
        datagram.truncate(bytes);
        match sequence {
            0 | 1 | 500 | 998 | 999 => {}
            100..105 => (0..3).for_each(|_| forward(&datagram)),
            200 => held = datagram,
            250 => (forward(&datagram), forward(&held)).1,
            300..307 => {
                datagram[150] ^= 1;
                forward(&datagram);
            }
            400 => (forward(&datagram), forward(b"not of mcrgen"), forward(b"")).1,
            _ => forward(&datagram),
        }
    }
    assert_fields(&sender.finish(), &json!({"sent": 1000, "errors": 0, "bytes": 200_000}));
    assert_fields(
        &receiver.finish(),
        &json!({
            "received": 988, "lost": 12, "duplicates": 10, "reordered": 1, "corrupted": 7, "unknown": 2,
            "stale": 0, "bytes": 988 * 200, "receiver_drops": 0, "ended": "idle",
        }),
    );
}

#[test]
fn rate_a_paced_run_keeps_its_rate_and_its_duration() {
    let (a, b) = two_hosts();
    let receiver = recv(&b, "239.1.1.1", "");
    let sent = send(&a, "239.1.1.1", "--duration 1 --rate 20000 --size 500").finish();
    assert_fields(&sent, &json!({"sent": 20_000, "errors": 0}));
    let seconds = sent["seconds"].as_f64().expect("seconds");
    assert!((0.99..1.1).contains(&seconds), "{sent}");
    assert_complete(&receiver.finish(), 20_000);
}

/// Without a rate, the receiver may lose datagrams, but each is accounted for.
#[test]
fn as_fast_as_possible() {
    let (a, b) = two_hosts();
    for segment in ["auto", "never"] {
        let receiver = recv(&b, "239.1.1.1", "--groups 2 --idle 1");
        let options = format!("--groups 2 --rate 0 --count 100001 --size 1000 --segment {segment}");
        let sent = send(&a, "239.1.1.1", &options).finish();
        assert_fields(&sent, &json!({"sent": 100_001, "errors": 0, "bytes": 100_001_000}));
        let report = receiver.finish();
        let number = |name: &str| report[name].as_u64().expect("a number");
        assert_eq!(number("received") + number("lost"), 100_001, "{report:#}");
        assert!(number("received") > 1000, "{report:#}");
        assert!(number("lost") == 0 || number("receiver_drops") > 0, "{report:#}");
        assert_fields(&report, &json!({"duplicates": 0, "reordered": 0, "corrupted": 0, "unknown": 0}));
    }
}

/// Bursts are sent as super-frames and received as single datagrams; the last burst is shorter.
#[test]
fn segmented_bursts() {
    let (a, b) = two_hosts();
    let receiver = recv(&b, "ff15::1", "");
    let _ = send(&a, "ff15::1", "--count 1001 --rate 10000 --burst 40 --segment always --size 1400").finish();
    assert_complete(&receiver.finish(), 1001);
}

/// Segments can't exceed the MTU: the sender falls back to fragments, without an error.
#[test]
fn a_device_that_cannot_segment() {
    let (a, b) = two_hosts();
    let receiver = recv(&b, "239.1.1.1", "");
    let sent =
        send(&a, "239.1.1.1", "--count 200 --rate 2000 --burst 4 --segment always --size 3000").finish();
    assert_fields(&sent, &json!({"sent": 200, "errors": 0}));
    assert_complete(&receiver.finish(), 200);
}

#[test]
fn an_unlimited_sender_closes_its_streams_when_interrupted() {
    let (a, b) = two_hosts();
    let receiver = recv(&b, "239.1.1.1", "--groups 3");
    let sender = send(&a, "239.1.1.1", "--groups 3 --rate 5000");
    let arrived = || {
        let devices = b.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).expect("counters");
        let line = devices.lines().find_map(|line| line.trim().strip_prefix("eth0:").map(str::to_owned));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0_u64)
    };
    wait_until("some traffic", Duration::from_secs(10), || arrived() > 100);
    sender.interrupt();
    let sent = sender.finish()["sent"].as_u64().expect("a number");
    assert!(sent > 80, "{sent}");
    assert_complete(&receiver.finish(), sent);
}

#[test]
fn an_interrupted_receiver_reports() {
    let (_a, b) = two_hosts();
    let receiver = recv(&b, "239.1.1.1", "--max-loss 0");
    receiver.interrupt();
    let outcome = receiver.outcome();
    assert_eq!(outcome.code, 1, "without any datagram the loss is unknown: {outcome:?}");
    assert_fields(
        &outcome.json,
        &json!({"received": 0, "ended": "interrupted", "silent_groups": 1, "latency_ns": {
            "min": null, "p50": null, "p99": null, "p999": null, "max": null,
        }}),
    );
}

#[test]
fn loss_above_the_limit_exits_with_code_1() {
    let (a, b) = two_hosts();
    for (options, code, lost) in
        [("--count 110 --max-loss 9", 1, 10), ("--count 110 --max-loss 10", 0, 10), ("--count 110", 0, 10)]
    {
        let receiver = recv(&b, "239.1.1.1", &format!("{options} --idle 0.3"));
        let _ = send(&a, "239.1.1.1", "--count 100 --rate 10000").finish();
        let outcome = receiver.outcome();
        assert_eq!(outcome.code, code, "{options}: {outcome:?}");
        assert_fields(&outcome.json, &json!({"received": 100, "lost": lost, "ended": "idle"}));
    }
    let receiver = recv(&b, "239.1.1.1", "--count 60 --max-loss 0");
    let _ = send(&a, "239.1.1.1", "--count 100 --rate 10000").finish();
    assert_fields(&receiver.finish(), &json!({"lost": 0, "ended": "count"}));
}

/// A stopped receiver reports its own drops.
#[test]
fn drops_at_the_receiver_are_distinguished() {
    let (a, b) = two_hosts();
    let mut command = b.command(mcr_testnet::binary("mcrgen"));
    command.arg("recv").args(arguments("239.1.1.1", "--json --idle 1"));
    let mut receiver = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start mcrgen");
    let mut ready = [0; 6];
    let stderr = receiver.stderr.as_mut().expect("stderr");
    std::io::Read::read_exact(stderr, &mut ready).expect("ready");
    let process = PidFd::open(receiver.id()).expect("a handle");
    process.kill(Signal::STOP).expect("stop");
    let state = format!("/proc/{}/stat", receiver.id());
    wait_until("a stopped receiver", Duration::from_secs(5), || {
        std::fs::read_to_string(&state).is_ok_and(|stat| stat.contains(") T "))
    });
    let sent = send(&a, "239.1.1.1", "--rate 0 --count 60000 --segment never").finish();
    process.kill(Signal::CONT).expect("continue");
    let output = receiver.wait_with_output().expect("its report");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_fields(&sent, &json!({"sent": 60_000, "errors": 0}));
    let lost = report["lost"].as_u64().expect("a number");
    assert!(lost > 10_000, "{report:#}");
    assert_eq!(report["receiver_drops"], lost, "{report:#}");
}

#[test]
fn errors_of_the_kernel_are_counted_by_cause() {
    let (a, _b) = two_hosts();
    a.set_up("eth0", false);
    let outcome = send(&a, "239.1.1.1", "--count 10").outcome();
    assert_eq!((&outcome.json["sent"], &outcome.json["errors"]), (&json!(0), &json!(10)), "{outcome:?}");
    let causes = outcome.json["error_causes"].as_object().expect("causes");
    assert!(causes.keys().all(|cause| cause.contains("os error")) && causes.len() == 1, "{causes:?}");
}

/// The ICMP error for a datagram fails the next send, which is repeated: every datagram is sent.
#[test]
fn a_closed_port_does_not_prevent_sends() {
    let (a, _b) = two_hosts();
    let sent = send(&a, "10.0.0.2", "--count 200 --rate 2000").finish();
    assert_fields(&sent, &json!({"sent": 200, "errors": 0, "error_causes": {}}));
    assert!(sent["refused"].as_u64() > Some(0), "{sent}");
}

#[test]
fn errors_are_reported_with_their_cause() {
    let (a, _b) = two_hosts();
    let target = "--group 239.1.1.1 --port 5000";
    for (line, code, message) in [
        (format!("send --interface eth7 {target}"), 1, "interface eth7"),
        (format!("recv --interface eth7 {target}"), 1, "interface eth7"),
        (format!("send --interface eth0 {target} --size 47"), 2, "48-byte header"),
        (
            "recv --interface eth0 --group 239.255.255.255 --groups 2 --port 5000".to_owned(),
            1,
            "exceed the range",
        ),
        ("recv --interface eth0 --group 10.9.9.9 --port 5000".to_owned(), 1, "10.9.9.9:5000"),
    ] {
        let output = run(&a, &line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {stderr}");
        assert!(stderr.contains(message), "{line}: {stderr}");
        assert!(output.stdout.is_empty(), "{line}");
    }
}

#[test]
fn the_default_report_is_text() {
    let (a, _b) = two_hosts();
    let output = run(&a, "send --interface eth0 --group 239.1.1.1 --port 5000 --count 10");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.starts_with("sent 10 datagrams, 14000 bytes in ") && text.contains("\nerrors 0\n"),
        "{text}"
    );
}

/// Two legs that lose at random: the receiver counts exactly what the sender left out, on each leg and on both.
#[test]
fn legs_lose_what_the_sender_left_out() {
    for framing in ["", "--rtp", "--mold"] {
        let (a, b) = two_hosts();
        let leg = "239.101.1.1:5001:eth0";
        let receiver = recv(&b, "239.1.1.1", &format!("--legs {leg} --groups 2 --idle 1"));
        let options = format!(
            "{framing} --groups 2 --count 4000 --rate 20000 --size 200 --seed 5 --loss 5 --legs {leg}/loss=20/delay=30/reorder=5"
        );
        let sent = send(&a, "239.1.1.1", &options).finish();
        let received = receiver.finish();
        let number = |report: &Value, field: &str| {
            report[field].as_u64().unwrap_or_else(|| panic!("{field}: {report:#}"))
        };
        assert_eq!(number(&sent, "datagrams"), 4000, "{sent:#}");
        let both = number(&sent, "lost_by_all");
        assert!((10..80).contains(&both), "about 1 % of 4,000: {sent:#}");
        assert_eq!(
            (number(&received, "lost"), number(&received, "received")),
            (both, 4000 - both),
            "{framing} {received:#}"
        );
        let legs = |report: &Value| report["legs"].as_array().cloned().unwrap_or_default();
        for (sent, received) in legs(&sent).iter().zip(legs(&received)) {
            let left_out = number(sent, "left_out");
            assert!(left_out > 0 && number(sent, "sent") == 4000 - left_out, "{sent:#}");
            assert_eq!(
                (number(&received, "lost"), number(&received, "duplicates")),
                (left_out, 0),
                "{received:#}"
            );
        }
        let unique: Vec<u64> = legs(&received).iter().map(|leg| number(leg, "unique")).collect();
        let left_out: Vec<u64> = legs(&sent).iter().map(|leg| number(leg, "left_out")).collect();
        assert_eq!(unique, [left_out[1] - both, left_out[0] - both], "{received:#}");
        let reordered = number(&legs(&received)[1], "reordered");
        assert!((80..320).contains(&reordered), "about 5 % of 3,200: {received:#}");
    }
}

#[test]
fn a_delay_is_seen_in_the_latency() {
    let (a, b) = two_hosts();
    let receiver = recv(&b, "239.1.1.1", "");
    let _ = send(&a, "239.1.1.1", "--count 200 --rate 2000 --delay 40").finish();
    let received = receiver.finish();
    assert_complete(&received, 200);
    // Latencies have three significant digits.
    assert!(received["latency_ns"]["min"].as_u64().is_some_and(|ns| ns >= 39_900_000), "{received:#}");
}

/// What tcpdump captured of a stream arrives again as it was, in the time that it took; and faster, elsewhere and more often
/// where that is wanted.
#[test]
fn a_capture_is_replayed_with_its_timing() {
    let (a, b) = two_hosts();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("stream.pcap");
    let file = file.to_str().expect("a path in UTF-8");
    let options =
        ["-i", "eth0", "-n", "-Z", "root", "--immediate-mode", "-c", "200", "-w", file, "udp port 5000"];
    let mut command = b.command("tcpdump");
    let mut tcpdump = match command.args(options).stderr(Stdio::piped()).spawn() {
        Ok(started) => started,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return println!("skipped: no tcpdump"),
        Err(error) => panic!("start tcpdump: {error}"),
    };
    let mut told = BufReader::new(tcpdump.stderr.take().expect("its stderr")).lines();
    assert!(told.any(|line| line.is_ok_and(|line| line.contains("listening on"))), "tcpdump does not listen");
    let sent = send(&a, "239.1.1.1", "--count 200 --rate 400 --size 300").finish();
    assert!(tcpdump.wait().expect("wait for tcpdump").success());

    let original = sent["seconds"].as_f64().unwrap();
    for (group, options, least) in [
        ("239.1.1.1", "", original - 0.02),
        ("239.1.1.1", "--speed 4", original / 4.0 - 0.02),
        ("ff15::7", "--speed 0 --to [ff15::7]:5000", 0.0),
    ] {
        let receiver = recv(&b, group, "");
        let output = run(&a, &format!("replay {file} --interface eth0 --json {options}"));
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        assert_fields(&report, &json!({ "sent": 200, "errors": 0, "destinations": 1, "skipped": {} }));
        let seconds = report["seconds"].as_f64().unwrap();
        assert!(seconds >= least, "{options:?}: {seconds} s for {original} s");
        assert_complete(&receiver.finish(), 200);
    }
    let output = run(&a, &format!("replay {file} --interface eth0 --speed 0 --repeat 3 --json"));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_fields(&report, &json!({ "sent": 600 }));
    let output = run(&a, &format!("replay {file} --interface eth0 --only 239.9.9.9:1"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success()
            && told.contains("nothing to send: packets passed over: other_destination 200"),
        "{told}"
    );
}
