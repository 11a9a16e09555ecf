//! What most end-to-end tests do: a configuration, traffic into it, and an account of what came out.

use mcr_testnet::frames::{self, UdpFrame, super_frame_header};
use mcr_testnet::{Daemon, Generator, Host, IoBackend, RawPrefix, Topology, assert_accounting};
use serde_json::{Value, json};
use std::net::IpAddr;

/// The port of inputs ...
pub(crate) const INPUT_PORT: u16 = 5000;
/// ... and of outputs: another one, so that every test translates it.
pub(crate) const OUTPUT_PORT: u16 = 6001;

/// An input on the relay's `eth0`.
pub(crate) fn input(group: impl ToString) -> Value {
    input_on("eth0", group)
}

pub(crate) fn input_on(interface: &str, group: impl ToString) -> Value {
    json!({"interface": interface, "group": group.to_string(), "port": INPUT_PORT})
}

/// An output on the relay's `eth1`.
pub(crate) fn output(group: impl ToString) -> Value {
    output_on("eth1", group)
}

pub(crate) fn output_on(interface: &str, group: impl ToString) -> Value {
    json!({"interface": interface, "group": group.to_string(), "port": OUTPUT_PORT})
}

pub(crate) fn rule(input: Value, outputs: impl IntoIterator<Item = Value>) -> Value {
    json!({"input": input, "outputs": Vec::from_iter(outputs)})
}

/// The value with one more field.
pub(crate) fn with(mut value: Value, field: &str, content: impl Into<Value>) -> Value {
    value[field] = content.into();
    value
}

/// The address `offset` after `first`.
pub(crate) fn nth(first: &str, offset: u8) -> String {
    match first.parse().expect("an address") {
        IpAddr::V4(first) => std::net::Ipv4Addr::from_bits(first.to_bits() + u32::from(offset)).to_string(),
        IpAddr::V6(first) => std::net::Ipv6Addr::from_bits(first.to_bits() + u128::from(offset)).to_string(),
    }
}

/// Starts a daemon with these rules on the relay and waits until all are active.
pub(crate) fn relay(topology: &Topology, io: IoBackend, rules: &[Value]) -> Daemon {
    let daemon = Daemon::start(&topology.relay, io, &json!({"rules": rules}).to_string());
    daemon.wait_until_active(rules.len());
    let workers = daemon.ctl_json(&["workers"]);
    let backends: Vec<&str> = workers["workers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|worker| worker["io"].as_str())
        .collect();
    assert!(backends.iter().all(|backend| *backend == io.as_str()), "{io:?}: {workers}");
    daemon
}

/// `mcrgen send` to an input; `options` as on the command line.
pub(crate) fn send(host: &Host, interface: &str, group: &str, options: &str) -> Generator {
    let line = format!("--interface {interface} --group {group} --port {INPUT_PORT} {options}");
    Generator::send(host, &line.split_whitespace().collect::<Vec<_>>())
}

/// The option of `mcrgen send` for this rate per second, or a lower one on slow machines: for tests that assert no rate.
pub(crate) fn at_rate(pps: u32) -> String {
    format!("--rate {}", pps / mcr_testnet::patience())
}

/// `mcrgen recv` from an output, ready to receive.
pub(crate) fn recv(host: &Host, interface: &str, group: &str, options: &str) -> Generator {
    let line = format!("--interface {interface} --group {group} --port {OUTPUT_PORT} {options}");
    Generator::recv(host, &line.split_whitespace().collect::<Vec<_>>())
}

/// Checks that a receiver got exactly `datagrams`, each once, intact and in order, and nothing else.
pub(crate) fn assert_received(report: &Value, datagrams: u64) {
    let expected = json!({
        "received": datagrams, "lost": 0, "duplicates": 0, "reordered": 0, "corrupted": 0, "unknown": 0,
        "stale": 0, "receiver_drops": 0, "silent_groups": 0,
    });
    for (field, value) in expected.as_object().into_iter().flatten() {
        assert_eq!(&report[field], value, "{field} of {report:#}");
    }
}

/// The statistics of a daemon whose traffic has ceased, checked: the accounts add up, and nothing was dropped.
pub(crate) fn stats_without_drops(daemon: &Daemon) -> Value {
    let stats = daemon.settled_stats();
    assert_accounting(&stats);
    for worker in stats["workers"].as_array().into_iter().flatten() {
        assert_eq!(worker["kernel_drops"], 0, "{stats:#}");
    }
    for (reason, drops) in stats["drops"].as_object().into_iter().flatten() {
        assert_eq!(drops, 0, "drops by {reason}: {stats:#}");
    }
    stats
}

/// The datagrams that left for a group.
pub(crate) fn packets_of(stats: &Value, output_group: &str) -> u64 {
    let outputs = stats["rules"].as_array().into_iter().flatten().flat_map(|rule| rule["outputs"].as_array());
    let mut of_group = outputs.flatten().filter(|output| output["group"] == output_group);
    let output = of_group.next().unwrap_or_else(|| panic!("no output to {output_group}: {stats:#}"));
    output["packets"].as_u64().unwrap_or_else(|| panic!("no packets: {output}"))
}

/// Whether the kernel discards UDP super-frames that a packet socket reads (Linux before 6.2).
pub(crate) fn kernel_loses_super_frames(host: &Host) -> bool {
    !host.run(mcr_sys::packet::delivers_super_frames).expect("a super-frame over loopback")
}

/// Sends the payload of an IPv4 frame as a super-frame; by itself its datagrams, where the kernel has no super-frames for packet
/// sockets.
pub(crate) fn send_super_frame(host: &Host, interface: &str, frame: &UdpFrame, segment_bytes: u16) {
    /// Where UDP starts in a frame without options.
    const UDP_OFFSET: usize = 34;
    if kernel_loses_super_frames(host) {
        let sender = frames::sender(host, interface, RawPrefix::None);
        for datagram in frame.payload.chunks(segment_bytes.into()) {
            sender.send(&UdpFrame { payload: datagram.to_vec(), ..frame.clone() }.bytes()).unwrap();
        }
        return;
    }
    let sender = frames::sender(host, interface, RawPrefix::VnetHeader);
    sender.send(&[&super_frame_header(UDP_OFFSET, segment_bytes)[..], &frame.bytes()].concat()).unwrap();
}

/// Has the kernel split segmented sends before they leave an interface, as ethtool(8) does. Every veth interface can.
pub(crate) fn split_before_sending(host: &Host, interface: &str) {
    let output = host.output("ethtool", &["-K", interface, "tx-udp-segmentation", "off"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Lets packet sockets see all that a host sends on these interfaces, also where the kernel loses super-frames.
pub(crate) fn split_if_super_frames_are_lost(host: &Host, interfaces: &[&str]) {
    if kernel_loses_super_frames(host) {
        interfaces.iter().for_each(|interface| split_before_sending(host, interface));
    }
}

/// Whether the host's `net.core.rmem_max` is below this receive buffer.
pub(crate) fn limits_receive_buffer_to_less_than(bytes: u64) -> bool {
    let limit = std::fs::read_to_string("/proc/sys/net/core/rmem_max").expect("a limit");
    limit.trim().parse::<u64>().expect("a number") < bytes
}

/// In a user namespace, nobody has the rights over the system that large receive buffers and receive steering take.
pub(crate) fn is_in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").expect("a map");
    map.split_whitespace().nth(2) != Some("4294967295")
}
