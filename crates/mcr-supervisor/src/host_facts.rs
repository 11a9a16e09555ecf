//! Collects the facts about the host for an explanation: files of /proc and /sys, netlink, ethtool. Blocks for some
//! milliseconds; don't call it on the loop's thread.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::read_to_string;
use std::net::IpAddr;
use std::sync::OnceLock;

use mcr_sys::host_network::{Description, bridge_memberships, descriptions, neighbors, next_hop};
use mcr_sys::link::IfIndex;
use mcr_sys::packet::delivers_super_frames;
use mcr_sys::process::Status;

use crate::core::explain::HostFacts;

/// Optional capabilities, by their bits (linux/capability.h). CAP_NET_RAW is needed to start.
const CAPABILITIES: [(u32, &str); 5] = [
    (12, "CAP_NET_ADMIN"),
    (10, "CAP_NET_BIND_SERVICE"),
    (7, "CAP_SETUID"),
    (6, "CAP_SETGID"),
    (8, "CAP_SETPCAP"),
];

/// Collects the facts; `interfaces` are those whose settings are read, `hosts` the destinations, by interface.
pub(crate) fn gather(interfaces: &[(IfIndex, String)], hosts: &BTreeSet<(IfIndex, IpAddr)>) -> HostFacts {
    let number = |path: &str| read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    let descriptions: BTreeMap<IfIndex, Description> =
        descriptions().unwrap_or_default().into_iter().map(|one| (one.ifindex, one)).collect();
    let (missing_capabilities, is_root) = missing_capabilities();
    // Of this thread: it is in the daemon's network namespace.
    let rp_filter = |name: &str| -> Option<u8> {
        let of = |name| read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).ok();
        let values = [of("all"), of(name)].into_iter().flatten().filter_map(|text| text.trim().parse().ok());
        values.max()
    };
    let steered =
        |(ifindex, name): &(IfIndex, String)| Some((*ifindex, is_steered(name, descriptions.get(ifindex)?)?));
    HostFacts {
        kernel: read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        io_uring_disabled: number("/proc/sys/kernel/io_uring_disabled")
            .and_then(|n: u64| u8::try_from(n).ok()),
        rmem_max: number("/proc/sys/net/core/rmem_max"),
        rp_filter: interfaces.iter().filter_map(|(_, name)| Some((name.clone(), rp_filter(name)?))).collect(),
        steered: interfaces.iter().filter_map(steered).collect(),
        super_frames: super_frames(),
        bridge_memberships: bridge_memberships().unwrap_or_default(),
        neighbors: neighbors().unwrap_or_default(),
        next_hops: hosts
            .iter()
            .filter_map(|(through, to)| Some(((*through, *to), next_hop(*to, *through).ok()?)))
            .collect(),
        missing_capabilities,
        is_root,
        not_observed: None,
        descriptions,
    }
}

/// Whether super-frames can be received. A property of the kernel: tried until there is an answer, and not again.
pub(crate) fn super_frames() -> Option<bool> {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    ANSWER
        .get()
        .copied()
        .or_else(|| delivers_super_frames().ok().map(|answer| *ANSWER.get_or_init(|| answer)))
}

/// Whether the kernel's version is one that gives UDP super-frames to packet sockets (Linux 6.2).
pub(crate) fn is_kernel_with_super_frames() -> bool {
    let release = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|word| word.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(2))
}

/// Whether any receive queue is steered to cores in software. /sys may be of another network namespace than this
/// process: it is used only if it describes the same device.
fn is_steered(name: &str, described: &Description) -> Option<bool> {
    let directory = format!("/sys/class/net/{name}");
    let read = |file: &str| read_to_string(format!("{directory}/{file}")).ok();
    let hexadecimal: Vec<String> =
        described.hardware_address.iter().map(|byte| format!("{byte:02x}")).collect();
    let same = read("ifindex")?.trim() == described.ifindex.to_string()
        && read("address")?.trim() == hexadecimal.join(":");
    let queues = std::fs::read_dir(format!("{directory}/queues")).ok().filter(|_| same)?;
    let masks = queues.flatten().filter_map(|queue| read_to_string(queue.path().join("rps_cpus")).ok());
    Some(masks.flat_map(|mask| mask.into_bytes()).any(|digit| digit.is_ascii_hexdigit() && digit != b'0'))
}

/// The optional capabilities that the daemon lacks, and whether it is root.
fn missing_capabilities() -> (Vec<&'static str>, bool) {
    let Ok(status) = Status::read(None) else { return (Vec::new(), false) };
    let is_root = status.field("Uid").get(1).is_some_and(|uid| *uid == "0");
    let effective = status.field("CapEff").first().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let Some(effective) = effective else { return (Vec::new(), is_root) };
    let lacks = |(bit, name): (u32, &'static str)| (effective & (1 << bit) == 0).then_some(name);
    (CAPABILITIES.into_iter().filter_map(lacks).collect(), is_root)
}
