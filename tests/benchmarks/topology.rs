//! The hosts, their cores and their devices.

use std::cell::Cell;
use std::time::Duration;

use mcr_testnet::{Host, Topology};
use rustix::thread::{CpuSet, Pid, sched_setaffinity};

/// Where sender and receiver run, and this program.
pub(crate) const SENDER_CORE: u16 = 0;
/// Where what is measured runs.
pub(crate) const RELAY_CORE: u16 = 1;

/// The bytes of a device's count that are not payload, for each packet, super-frame or not: Ethernet, IPv4, UDP.
const HEADER_BYTES: u64 = 14 + 20 + 8;

/// Sender, relay and receiver.
pub(crate) struct Lab {
    pub(crate) network: Topology,
    steered: Cell<bool>,
    spared: Cell<bool>,
}

impl Lab {
    /// `device_segments`: the relay's output device takes segmented datagrams (super-frames), as many network cards
    /// do; else the kernel splits them before. `sender_segments`: the sender's, so that super-frames arrive.
    pub(crate) fn new(sender_segments: bool, device_segments: bool) -> Self {
        let network = Topology::sender_relay_receiver();
        if !sender_segments {
            without_segmentation(&network.sender, "eth0");
        }
        if !device_segments {
            without_segmentation(&network.relay, "eth1");
        }
        Self { network, steered: Cell::new(false), spared: Cell::new(false) }
    }

    /// Has the relay host's kernel take frames on the relay's core (RPS), not on the core that they arrive on.
    pub(crate) fn steer_to_relay_core(&self, on: bool) {
        if self.steered.replace(on) == on {
            return;
        }
        let mask = if on { 1 << RELAY_CORE } else { 0 };
        // The interfaces of a namespace are in a sysfs that is mounted there.
        let script =
            format!("mount -t sysfs sysfs /sys && echo {mask:x} > /sys/class/net/eth0/queues/rx-0/rps_cpus");
        let output = self.network.relay.output("unshare", &["--mount", "sh", "-c", &script]);
        assert!(output.status.success(), "steer frames: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Has the relay host's kernel drop multicast behind the packet sockets, before its own IP input: the line that
    /// user_docs/OPERATIONS.md shows.
    pub(crate) fn spare_ip_input(&self, on: bool) {
        if self.spared.replace(on) == on {
            return;
        }
        let ruleset = if on {
            "add table netdev spare
             add chain netdev spare input { type filter hook ingress device eth0 priority 0; }
             add rule netdev spare input ip daddr 239.1.0.0/16 udp dport 5000 drop"
        } else {
            "delete table netdev spare"
        };
        let output = self.network.relay.output("nft", &[ruleset]);
        assert!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What arrived at the receiver so far.
    pub(crate) fn delivered(&self) -> Count {
        Count::read(&self.network.receiver, "eth0")
    }

    /// What arrived at the relay so far: separate frames.
    pub(crate) fn offered(&self) -> Count {
        Count::read(&self.network.relay, "eth0")
    }
}

/// What an interface received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count {
    bytes: u64,
    packets: u64,
}

impl Count {
    fn read(host: &Host, interface: &str) -> Self {
        let table =
            host.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).expect("device counters");
        let prefix = format!("{interface}:");
        let line = table.lines().find_map(|line| line.trim().strip_prefix(&prefix)).expect("the interface");
        let mut numbers = line.split_whitespace().map(|number| number.parse().expect("a count"));
        Self { bytes: numbers.next().expect("bytes"), packets: numbers.next().expect("packets") }
    }

    /// Frames since an earlier count; where they are separate, that is datagrams. The bytes of a device that merges (GRO on a
    /// veth) lack the Ethernet header.
    pub(crate) fn frames_since(self, earlier: Self) -> u64 {
        self.packets - earlier.packets
    }

    /// Datagrams of this payload since an earlier count. A super-frame is one packet with one set of headers, and as
    /// many payloads as it has datagrams; so this is exact, whatever the device merges.
    pub(crate) fn datagrams_since(self, earlier: Self, payload_bytes: u64) -> u64 {
        let packets = self.packets - earlier.packets;
        let payload = (self.bytes - earlier.bytes).saturating_sub(packets * HEADER_BYTES);
        (payload + payload_bytes / 2) / payload_bytes
    }
}

fn without_segmentation(host: &Host, interface: &str) {
    let output = host.output("ethtool", &["-K", interface, "tx-udp-segmentation", "off"]);
    assert!(output.status.success(), "ethtool: {}", String::from_utf8_lossy(&output.stderr));
}

/// Binds this thread, and the programs that it starts, to a core.
pub(crate) fn pin(core: u16) {
    bind(None, &[core]);
}

/// Starts programs on another core.
pub(crate) fn on_core<T>(core: u16, start: impl FnOnce() -> T) -> T {
    pin(core);
    let value = start();
    pin(SENDER_CORE);
    value
}

/// Starts a program that binds its parts to cores by itself.
pub(crate) fn on_any_core<T>(start: impl FnOnce() -> T) -> T {
    bind(None, &[SENDER_CORE, RELAY_CORE]);
    let value = start();
    pin(SENDER_CORE);
    value
}

/// Binds the main thread of a process to the sender's core.
pub(crate) fn move_to_sender_core(pid: u32) {
    bind(i32::try_from(pid).ok().and_then(Pid::from_raw), &[SENDER_CORE]);
}

fn bind(thread: Option<Pid>, cores: &[u16]) {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(usize::from(*core)));
    sched_setaffinity(thread, &set).unwrap_or_else(|error| panic!("cores {cores:?} are needed: {error}"));
}

/// Lets traffic flow for a while.
#[expect(clippy::disallowed_methods, reason = "a measurement has a fixed duration")]
pub(crate) fn let_flow(time: Duration) {
    std::thread::sleep(time);
}
