//! The table: what is sent, and the outcome.

mod fragments;
mod interfaces;
mod ipv4;
mod ipv6;
mod link;

use mcr_testnet::frames::UdpFrame;

use super::{INPUTS, RULES, address};

/// The interface of the relay that a row's frames arrive on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interface {
    /// A veth interface.
    Ethernet,
    /// A tun interface: no link header, as with WireGuard.
    Tun,
    /// The relay's own loopback.
    Loopback,
}

impl Interface {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ethernet => "Ethernet",
            Self::Tun => "tun",
            Self::Loopback => "loopback",
        }
    }
}

/// One line of the table.
pub(super) struct Row {
    /// What is unusual about it.
    pub(super) what: &'static str,
    /// What is sent, in order.
    pub(super) frames: Vec<Vec<u8>>,
    /// Each frame has a virtio header.
    pub(super) vnet_header: bool,
    /// The interface they arrive on.
    pub(super) interface: Interface,
    pub(super) outcome: Outcome,
}

/// The outcome of the frames of a row.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// These payloads leave on the output of the rule with this number, in this order.
    Relayed { rule: usize, payloads: Vec<Vec<u8>> },
    /// Nothing leaves, and this skip counter grows by `count`.
    Skipped { reason: &'static str, count: u64 },
    /// Nothing is sent: the kernel filter drops the frames before the worker.
    Filtered,
}

impl Outcome {
    /// What leaves on the output of each rule.
    pub(super) fn payloads(&self) -> [Vec<Vec<u8>>; RULES] {
        let mut all = [const { Vec::new() }; RULES];
        if let Self::Relayed { rule, payloads } = self {
            all[*rule].clone_from(payloads);
        }
        all
    }
}

/// The number of a rule in the configuration.
const ANY_SOURCE: usize = 0;
const ONE_SOURCE: usize = 1;
const IPV6: usize = 2;
const TUN: usize = 3;
const LOOPBACK: usize = 4;

const PAYLOAD: &[u8] = b"twenty-three bytes long";

pub(super) fn rows() -> Vec<Row> {
    [
        link::rows(),
        ipv4::unusual(),
        ipv4::malformed(),
        ipv4::malformed_udp(),
        ipv4::foreign(),
        fragments::rows(),
        ipv6::unusual(),
        ipv6::malformed(),
        ipv6::malformed_chains(),
        ipv6::foreign(),
        interfaces::rows(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A well-formed frame to the input of a rule.
fn frame_to(rule: usize) -> UdpFrame {
    let (source, destination) = INPUTS[rule];
    UdpFrame::new(address(source), address(destination), PAYLOAD)
}

fn v4() -> UdpFrame {
    frame_to(ANY_SOURCE)
}

fn v6() -> UdpFrame {
    frame_to(IPV6)
}

/// A frame whose fragments are of no other row's datagram.
fn one_of(identification: u16, frame: UdpFrame) -> UdpFrame {
    UdpFrame { identification, flags_and_offset: 0, ..frame }
}

/// Fragments that are put together to the payload.
fn put_together(what: &'static str, rule: usize, frames: Vec<Vec<u8>>) -> Row {
    row(what, frames, Outcome::Relayed { rule, payloads: vec![PAYLOAD.to_vec()] })
}

fn skipped_once(what: &'static str, reason: &'static str, frames: Vec<Vec<u8>>) -> Row {
    row(what, frames, Outcome::Skipped { reason, count: 1 })
}

fn row(what: &'static str, frames: Vec<Vec<u8>>, outcome: Outcome) -> Row {
    Row { what, frames, vnet_header: false, interface: Interface::Ethernet, outcome }
}

fn relayed(what: &'static str, rule: usize, frame: &UdpFrame) -> Row {
    relayed_as(what, rule, frame, &frame.payload)
}

fn relayed_as(what: &'static str, rule: usize, frame: &UdpFrame, payload: &[u8]) -> Row {
    row(what, vec![frame.bytes()], Outcome::Relayed { rule, payloads: vec![payload.to_vec()] })
}

fn skipped(what: &'static str, reason: &'static str, frame: &UdpFrame) -> Row {
    row(what, vec![frame.bytes()], Outcome::Skipped { reason, count: 1 })
}

fn filtered(what: &'static str, frame: &UdpFrame) -> Row {
    row(what, vec![frame.bytes()], Outcome::Filtered)
}
