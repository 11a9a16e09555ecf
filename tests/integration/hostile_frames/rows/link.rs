//! Below IP: tags, foreign protocols, short frames, super-frames.

use mcr_testnet::frames::{PROVIDER_VLAN, UdpFrame, VLAN, super_frame_header};

use super::{ANY_SOURCE, IPV6, Outcome, PAYLOAD, Row, filtered, relayed, row, v4, v6};

/// Where UDP starts in a frame without options.
const UDP_OFFSET: usize = 34;

pub(super) fn rows() -> Vec<Row> {
    vec![
        relayed("a well-formed frame", ANY_SOURCE, &v4()),
        relayed("padding behind the packet", ANY_SOURCE, &UdpFrame { padding: 30, ..v4() }),
        filtered("a VLAN tag", &UdpFrame { tags: vec![(VLAN, 7)], ..v4() }),
        relayed("a priority tag", ANY_SOURCE, &UdpFrame { tags: vec![(VLAN, 0xa000)], ..v4() }),
        relayed("a priority tag before IPv6", IPV6, &UdpFrame { tags: vec![(VLAN, 0xa000)], ..v6() }),
        relayed(
            "a priority tag of 802.1ad",
            ANY_SOURCE,
            &UdpFrame { tags: vec![(PROVIDER_VLAN, 0)], ..v4() },
        ),
        relayed("two priority tags", ANY_SOURCE, &UdpFrame { tags: vec![(VLAN, 0xa000), (VLAN, 0)], ..v4() }),
        filtered("a priority tag before a VLAN tag", &UdpFrame { tags: vec![(VLAN, 0), (VLAN, 7)], ..v4() }),
        filtered("another host's MAC address", &to_another_host(v4())),
        filtered("another host's MAC address over IPv6", &to_another_host(v6())),
        filtered("a VLAN tag before IPv6", &UdpFrame { tags: vec![(VLAN, 7)], ..v6() }),
        filtered("QinQ", &UdpFrame { tags: vec![(PROVIDER_VLAN, 7), (VLAN, 8)], ..v4() }),
        filtered("two customer tags", &UdpFrame { tags: vec![(VLAN, 7), (VLAN, 8)], ..v4() }),
        filtered("EtherType 0x9100, QinQ before 802.1ad", &UdpFrame { tags: vec![(0x9100, 7)], ..v4() }),
        filtered("the EtherType of ARP", &UdpFrame { ether_type: Some(0x0806), ..v4() }),
        filtered("the EtherType of MPLS", &UdpFrame { ether_type: Some(0x8847), ..v4() }),
        filtered("an 802.3 length instead of an EtherType", &UdpFrame { ether_type: Some(64), ..v4() }),
        filtered("IPv4 with the EtherType of IPv6", &UdpFrame { ether_type: Some(0x86dd), ..v4() }),
        filtered("IPv6 with the EtherType of IPv4", &UdpFrame { ether_type: Some(0x0800), ..v6() }),
        filtered("only an Ethernet header", &UdpFrame { cut: Some(14), ..v4() }),
        filtered("truncated in the IPv4 header", &UdpFrame { cut: Some(30), ..v4() }),
        filtered("truncated in the IPv6 header", &UdpFrame { cut: Some(50), ..v6() }),
        super_frame(
            "a super-frame",
            10,
            PAYLOAD,
            Outcome::Relayed { rule: ANY_SOURCE, payloads: PAYLOAD.chunks(10).map(<[u8]>::to_vec).collect() },
        ),
        super_frame(
            "a super-frame of one datagram",
            1000,
            PAYLOAD,
            Outcome::Relayed { rule: ANY_SOURCE, payloads: vec![PAYLOAD.to_vec()] },
        ),
        // More in one, and the kernel refuses to send it: `bad_super_frame` is for the unit tests of mcr-wire.
        super_frame(
            "a super-frame of 64 datagrams of one byte",
            1,
            &[b'x'; 64],
            Outcome::Relayed { rule: ANY_SOURCE, payloads: vec![b"x".to_vec(); 64] },
        ),
    ]
}

fn to_another_host(frame: UdpFrame) -> UdpFrame {
    let macs = frame.macs.map(|(_, source)| ([2, 0, 0, 0, 0, 0x77], source));
    UdpFrame { macs, ..frame }
}

fn super_frame(what: &'static str, segment_bytes: u16, payload: &[u8], outcome: Outcome) -> Row {
    let frame = UdpFrame { payload: payload.to_vec(), ..v4() }.bytes();
    let header = super_frame_header(UDP_OFFSET, segment_bytes);
    Row { vnet_header: true, ..row(what, vec![[&header[..], &frame].concat()], outcome) }
}
