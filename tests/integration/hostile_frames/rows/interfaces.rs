//! Interfaces other than Ethernet: without link header, and loopback.

use mcr_testnet::frames::{Checksum, UdpFrame, VLAN};

use super::{Interface, LOOPBACK, Outcome, Row, TUN, address, filtered, frame_to, relayed, skipped};

pub(super) fn rows() -> Vec<Row> {
    let tun = [
        relayed("a well-formed packet on a tun interface", TUN, &bare()),
        relayed(
            "no UDP checksum on a tun interface",
            TUN,
            &UdpFrame { udp_checksum: Checksum::Is(0), ..bare() },
        ),
        skipped("TTL 0 on a tun interface", "ttl_zero", &UdpFrame { ttl: 0, ..bare() }),
        skipped(
            "a wrong UDP checksum on a tun interface",
            "bad_checksum",
            &UdpFrame { udp_checksum: Checksum::Wrong, ..bare() },
        ),
        skipped(
            "a total length beyond the packet on a tun interface",
            "truncated",
            &UdpFrame { ip_length: Some(500), ..bare() },
        ),
        skipped(
            "another port on a tun interface",
            "no_rule",
            &UdpFrame { destination: address("239.1.1.1:5001"), ..bare() },
        ),
    ];
    let loopback = [
        relayed("a well-formed frame on loopback", LOOPBACK, &frame_to(LOOPBACK)),
        relayed(
            "this host's own address as source, on loopback",
            LOOPBACK,
            &UdpFrame { source: address("10.2.0.1:7000"), ..frame_to(LOOPBACK) },
        ),
        skipped(
            "a wrong UDP checksum on loopback",
            "bad_checksum",
            &UdpFrame { udp_checksum: Checksum::Wrong, ..frame_to(LOOPBACK) },
        ),
        filtered("a VLAN tag on loopback", &UdpFrame { tags: vec![(VLAN, 7)], ..frame_to(LOOPBACK) }),
        filtered(
            "another group on loopback",
            &UdpFrame { destination: address("239.1.1.2:5000"), ..frame_to(LOOPBACK) },
        ),
    ];
    let at = |interface: Interface, rows: Vec<Row>| rows.into_iter().map(move |row| Row { interface, ..row });
    at(Interface::Tun, tun.into()).chain(at(Interface::Loopback, loopback.into())).collect()
}

/// Without link header.
fn bare() -> UdpFrame {
    UdpFrame { macs: None, ..frame_to(TUN) }
}

impl Outcome {
    /// For the document.
    pub(in super::super) fn columns(&self) -> (String, String) {
        match self {
            Self::Relayed { payloads, .. } if payloads.len() == 1 => {
                ("relayed".to_owned(), "`matched`".to_owned())
            }
            Self::Relayed { payloads, .. } => {
                (format!("relayed as {} datagrams", payloads.len()), "`matched`".to_owned())
            }
            Self::Skipped { reason, count: 1 } => ("skipped".to_owned(), format!("`{reason}`")),
            Self::Skipped { reason, count } => ("skipped".to_owned(), format!("`{reason}`, {count} times")),
            Self::Filtered => ("dropped by the kernel filter".to_owned(), "none".to_owned()),
        }
    }
}
