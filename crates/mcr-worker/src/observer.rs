//! The observer: captures on all interfaces for some seconds, and reports a summary. `mcrd observe` calls [`run`] in a separate,
//! unprivileged process, because the supervisor must not parse frames. The supervisor passes the socket.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use mcr_link::observation::{
    Flow, FlowKind, MAX_FLOWS, MAX_FRAMES, MAX_NEIGHBORS, Observation, Querier, Receiver,
};
use mcr_rules::SandboxChoice;
use mcr_sys::clock;
use mcr_sys::observation::{FrameKind, ObservationSocket, PacketInfo};
use mcr_sys::poll::wait_readable;
use mcr_sys::privileges::drop_privileges;
use mcr_sys::sandbox::lists::OBSERVER;
use mcr_sys::sandbox::{self, Filter};
use mcr_wire::membership::{Membership, Message, parse_membership};
use mcr_wire::{FrameMeta, LinkLayer, Refusal, parse_frame, peek};

/// Maximum size of an IP packet.
const BUFFER_BYTES: usize = 40 + 65_535;

/// Why an observation failed.
#[derive(Debug, thiserror::Error)]
pub enum ObserverError {
    /// A system call failed.
    #[error(transparent)]
    System(#[from] mcr_sys::SysError),
    /// The observation could not be written.
    #[error("write the observation: {0}")]
    Write(#[from] std::io::Error),
    /// The observation could not be encoded.
    #[error("encode the observation: {0}")]
    Encode(String),
}

/// Drops all privileges, confines the process, observes for `time`, and writes the observation.
///
/// # Errors
/// Privileges could not be dropped, a layer of the sandbox is missing and the choice is `on`, the socket failed, or `to` is
/// closed.
pub fn run(
    socket: &ObservationSocket,
    time: Duration,
    choice: SandboxChoice,
    mut to: impl Write,
) -> Result<(), ObserverError> {
    sandbox::prime();
    drop_privileges()?;
    confine(choice)?;
    let bytes = observe(socket, time)?.encode().map_err(|error| ObserverError::Encode(error.to_string()))?;
    to.write_all(&bytes)?;
    Ok(to.flush()?)
}

/// For a process with one thread. With `auto`, a layer that the kernel lacks is done without: the workers say which.
fn confine(choice: SandboxChoice) -> mcr_sys::Result<()> {
    if choice == SandboxChoice::Off {
        return Ok(());
    }
    let landlock = sandbox::landlock().map(drop);
    let seccomp = match sandbox::is_available() || choice == SandboxChoice::On {
        true => Filter::new(&OBSERVER, None)?.install(),
        false => Ok(()),
    };
    if choice == SandboxChoice::On { landlock.and(seccomp) } else { seccomp }
}

fn observe(socket: &ObservationSocket, time: Duration) -> mcr_sys::Result<Observation> {
    let start = clock::monotonic();
    let end = start + time;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut summary = Summary::default();
    let mut frames = 0;
    while frames < MAX_FRAMES {
        let left = end.saturating_sub(clock::monotonic());
        if left.is_zero() {
            break;
        }
        match socket.receive(&mut buffer)? {
            Some(info) => {
                frames += 1;
                let packet = buffer.get(..info.bytes).unwrap_or(&buffer);
                summary.packet(packet, &info);
            }
            None => {
                wait_readable([socket.as_fd()], Some(left))?;
            }
        }
    }
    let elapsed = clock::monotonic().saturating_sub(start);
    Ok(summary.finish(elapsed, socket.lost()?.into()))
}

/// Interface, VLAN, group, port, source, kind.
type FlowKey = (u32, Option<u16>, IpAddr, Option<u16>, IpAddr, FlowKind);

/// The current state of the observation.
#[derive(Debug, Default)]
struct Summary {
    flows: BTreeMap<FlowKey, Flow>,
    queriers: std::collections::BTreeSet<Querier>,
    receivers: std::collections::BTreeSet<Receiver>,
    unlisted: u64,
}

impl Summary {
    /// Records a packet, from its IP header on.
    fn packet(&mut self, packet: &[u8], info: &PacketInfo) {
        let kind = match info.kind {
            FrameKind::Received => FlowKind::Received,
            FrameKind::OtherHost => FlowKind::OtherHost,
            FrameKind::Sent => FlowKind::Sent,
        };
        if let Some(membership) = parse_membership(packet) {
            if kind != FlowKind::Sent {
                self.membership(membership, info);
            }
            return;
        }
        let Some(addresses) = peek(packet, LinkLayer::None) else { return };
        let meta = FrameMeta {
            checksum_pending: info.checksum_pending,
            checksum_verified: info.checksum_verified,
            segment_bytes: None,
        };
        let refusal = parse_frame(packet, LinkLayer::None, meta).err();
        if matches!(refusal, Some(Refusal::NotUdp | Refusal::NotIp)) {
            return;
        }
        let (source, group) = (addresses.source, addresses.destination);
        let port = addresses.ports.map(|(_, destination)| destination);
        let ifindex = info.ifindex.to_raw();
        let key = (ifindex, info.vlan, group, port, source, kind);
        if !self.flows.contains_key(&key) && self.flows.len() >= MAX_FLOWS {
            self.unlisted += 1;
            return;
        }
        let flow = self.flows.entry(key).or_insert_with(|| Flow {
            ifindex,
            vlan: info.vlan,
            group,
            port,
            source,
            kind,
            mac: info.mac,
            frames: 0,
            fragments: 0,
            bad_checksums: 0,
            ttl_zero: 0,
            malformed: 0,
            largest_bytes: 0,
        });
        flow.frames += 1;
        flow.largest_bytes = flow.largest_bytes.max(u32::try_from(info.bytes).unwrap_or(u32::MAX));
        match refusal {
            None => {}
            Some(Refusal::Fragment) => flow.fragments += 1,
            Some(Refusal::BadChecksum) => flow.bad_checksums += 1,
            Some(Refusal::TtlZero) => flow.ttl_zero += 1,
            Some(_) => flow.malformed += 1,
        }
    }

    fn membership(&mut self, membership: Membership<'_>, info: &PacketInfo) {
        let (ifindex, from) = (info.ifindex.to_raw(), membership.source);
        match membership.message {
            Message::Query { .. } => {
                if self.queriers.len() < MAX_NEIGHBORS {
                    self.queriers.insert(Querier { ifindex, vlan: info.vlan, from });
                }
            }
            Message::Report(groups) => {
                for group in groups {
                    if self.receivers.len() < MAX_NEIGHBORS {
                        self.receivers.insert(Receiver { ifindex, group, from });
                    }
                }
            }
        }
    }

    fn finish(self, elapsed: Duration, lost: u64) -> Observation {
        Observation {
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            flows: self.flows.into_values().collect(),
            queriers: self.queriers.into_iter().collect(),
            receivers: self.receivers.into_iter().collect(),
            unlisted: self.unlisted,
            lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mcr_sys::link::IfIndex;

    fn packet(ttl: u8, fragment: u16, port: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 31, 0, 0];
        packet.extend(fragment.to_be_bytes());
        packet.extend([ttl, 17, 0, 0, 10, 0, 0, 1, 239, 1, 1, 1, 0, 7]);
        packet.extend(port.to_be_bytes());
        packet.extend([0, 11, 0, 0, 1, 2, 3]);
        let sum = packet[..20]
            .chunks(2)
            .fold(0_u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn info(vlan: Option<u16>) -> PacketInfo {
        let ifindex = IfIndex::new(3);
        let (kind, mac) = (FrameKind::Received, [2; 6]);
        PacketInfo { ifindex, vlan, kind, mac, bytes: 31, checksum_pending: false, checksum_verified: false }
    }

    #[test]
    fn flows_are_distinguished_and_faults_counted() {
        let mut summary = Summary::default();
        summary.packet(&packet(16, 0x4000, 5000), &info(None));
        summary.packet(&packet(0, 0x4000, 5000), &info(None));
        summary.packet(&packet(16, 0x2000, 5000), &info(None));
        summary.packet(&packet(16, 0x0003, 9), &info(None));
        let mut wrong = packet(16, 0x4000, 5000);
        wrong[10] ^= 1;
        summary.packet(&wrong, &info(None));
        let mut short = packet(16, 0x4000, 5000);
        short[25] = 3;
        summary.packet(&short, &info(None));
        summary.packet(&packet(16, 0x4000, 5000), &info(Some(7)));
        summary.packet(&[], &info(None));
        let observation = summary.finish(Duration::from_secs(1), 0);
        let flows: Vec<_> = observation
            .flows
            .iter()
            .map(|flow| {
                let faults = [flow.fragments, flow.bad_checksums, flow.ttl_zero, flow.malformed];
                (flow.vlan, flow.port, flow.frames, faults, flow.valid())
            })
            .collect();
        let expected = [
            (None, None, 1, [1, 0, 0, 0], 0),
            (None, Some(5000), 5, [1, 1, 1, 1], 1),
            (Some(7), Some(5000), 1, [0, 0, 0, 0], 1),
        ];
        assert_eq!(flows, expected);
    }

    #[test]
    fn the_number_of_flows_is_limited() {
        let mut summary = Summary::default();
        for port in 1..=2000 {
            summary.packet(&packet(16, 0x4000, port), &info(None));
        }
        let observation = summary.finish(Duration::from_secs(1), 0);
        assert_eq!((observation.flows.len(), observation.unlisted), (MAX_FLOWS, 2000 - 1024));
    }
}
