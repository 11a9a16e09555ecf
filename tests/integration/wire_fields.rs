//! What the IP headers of relayed datagrams say, as seen on the wire: TTL, DSCP, source. The oracle is `etherparse`.

use crate::scenario::{
    INPUT_PORT, OUTPUT_PORT, input, output, relay, rule, send, split_if_super_frames_are_lost, with,
};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use mcr_sys::filter::{FilterDestination, FilterProgram};
use mcr_sys::packet::{Capture, CaptureOptions, Fanout};
use mcr_testnet::{Host, Topology, assert_accounting, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

const DATAGRAMS: usize = 20;
/// `struct virtio_net_hdr`, in front of each frame of a [`Capture`].
const VNET_HEADER_BYTES: usize = 10;

/// What a header said.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    destination: IpAddr,
    port: u16,
    source: IpAddr,
    ttl: u8,
    dscp: u8,
}

/// A capture of the datagrams for these groups on `eth0` of a host.
fn capture(host: &Host, groups: &[&str]) -> Capture {
    let wanted: Vec<FilterDestination> = groups
        .iter()
        .map(|group| FilterDestination {
            address: group.parse().expect("an address"),
            port: OUTPUT_PORT,
            promiscuous: false,
        })
        .collect();
    let filter = FilterProgram::for_destinations(&wanted);
    let options = CaptureOptions {
        ifindex: host.index("eth0"),
        filter: &filter,
        receive_buffer_bytes: 1 << 20,
        fanout: Fanout::New,
    };
    host.run(|| Capture::open(&options)).expect("a capture").0
}

/// Takes this number of datagrams from the wire.
fn take(capture: &Capture, datagrams: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut frame = vec![0; 70_000];
    wait_for("datagrams on the wire", Duration::from_secs(5), || {
        while let Ok((bytes, _)) =
            rustix::net::recv(capture.as_fd(), &mut frame[..], rustix::net::RecvFlags::DONTWAIT)
        {
            let (vnet_header, frame) = frame[..bytes].split_at(VNET_HEADER_BYTES);
            let (header, payload_bytes) = read(frame);
            seen.extend(std::iter::repeat_n(header, carried(vnet_header, payload_bytes)));
        }
        if seen.len() >= datagrams { Ok(()) } else { Err(seen.clone()) }
    });
    seen
}

/// How many datagrams a frame carries: more than one if the relay left the segmentation to the device.
fn carried(vnet_header: &[u8], payload_bytes: usize) -> usize {
    const UDP_SEGMENTS: u8 = 5;
    match vnet_header[1] {
        UDP_SEGMENTS => payload_bytes.div_ceil(u16::from_le_bytes([vnet_header[4], vnet_header[5]]).into()),
        _ => 1,
    }
}

/// What the headers of a frame say, and the length of its payload.
fn read(frame: &[u8]) -> (Seen, usize) {
    let packet = SlicedPacket::from_ethernet(frame).expect("a frame");
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { panic!("not UDP: {packet:?}") };
    let (source, destination, ttl, dscp): (IpAddr, IpAddr, u8, u8) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                header.ttl(),
                header.dcp().value(),
            )
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let class = header.traffic_class();
            (header.source_addr().into(), header.destination_addr().into(), header.hop_limit(), class >> 2)
        }
        other => panic!("not IP: {other:?}"),
    };
    (Seen { destination, port: udp.destination_port(), source, ttl, dscp }, udp.payload().len())
}

fn seen(destination: &str, source: &str, ttl: u8, dscp: u8) -> Seen {
    let address = |text: &str| text.parse().expect("an address");
    Seen { destination: address(destination), port: OUTPUT_PORT, source: address(source), ttl, dscp }
}

on_both_backends! {
    fn ttl_dscp_and_source_are_what_the_rule_says(io) {
        let cases = [
            ("239.1.1.1", ["239.2.2.0", "239.2.2.1", "239.2.2.2", "239.2.2.3"], ("10.2.0.1", "10.2.0.77")),
            ("ff15::1:1", ["ff15::2:0", "ff15::2:1", "ff15::2:2", "ff15::2:3"], ("fd02::77", "fd02::1")),
            ("239.1.1.2", ["ff15::3:0", "ff15::3:1", "ff15::3:2", "ff15::3:3"], ("fd02::77", "fd02::1")),
            ("ff15::1:2", ["239.2.3.0", "239.2.3.1", "239.2.3.2", "239.2.3.3"], ("10.2.0.1", "10.2.0.77")),
        ];
        let topology = Topology::sender_relay_receiver();
        split_if_super_frames_are_lost(&topology.relay, &["eth1"]);
        // Of two addresses that serve as well (RFC 6724 §5), Linux sends from the older one with IPv4 and from the newer
        // one with IPv6; a rule's `source` asks for the other.
        topology.relay.add_address("eth1", "10.2.0.77/24");
        topology.relay.add_address("eth1", "fd02::77/64");
        let rules = cases.map(|(group, [defaults, fixed, kept, sourced], (_, source))| {
            let fixed = with(with(output(fixed), "ttl", 33), "dscp", 34);
            let kept = with(with(output(kept), "ttl", "decrement"), "dscp", "keep");
            rule(input(group), [output(defaults), fixed, kept, with(output(sourced), "source", source)])
        });
        let daemon = relay(&topology, io, &rules);
        for (group, outputs, (default_source, source)) in cases {
            let capture = capture(&topology.receiver, &outputs);
            let options = format!("--count {DATAGRAMS} --ttl 7 --dscp 10");
            let sent = send(&topology.sender, "eth0", group, &options).finish();
            assert_eq!(sent["sent"], DATAGRAMS);
            let datagrams = take(&capture, DATAGRAMS * outputs.len());
            assert_eq!(datagrams.len(), DATAGRAMS * outputs.len(), "{datagrams:?}");
            let kinds: BTreeSet<Seen> = datagrams.into_iter().collect();
            let expected = BTreeSet::from([
                seen(outputs[0], default_source, 16, 0),
                seen(outputs[1], default_source, 33, 34),
                seen(outputs[2], default_source, 6, 10),
                seen(outputs[3], source, 16, 0),
            ]);
            assert_eq!(kinds, expected, "{group}");
        }
        assert_accounting(&daemon.settled_stats());
    }

    /// A TTL of 1 has nothing left to decrement: that output drops and counts; the other sends a new datagram.
    fn an_input_ttl_of_one(io) {
        let topology = Topology::sender_relay_receiver();
        split_if_super_frames_are_lost(&topology.relay, &["eth1"]);
        let decremented = with(output("239.2.2.1"), "ttl", "decrement");
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.0"), decremented])]);
        let capture = capture(&topology.receiver, &["239.2.2.0", "239.2.2.1"]);
        let options = format!("--count {DATAGRAMS} --ttl 1");
        let _ = send(&topology.sender, "eth0", "239.1.1.1", &options).finish();
        let stats = daemon.settled_stats();
        assert_accounting(&stats);
        let datagrams = take(&capture, DATAGRAMS);
        assert_eq!(datagrams, vec![seen("239.2.2.0", "10.2.0.1", 16, 0); DATAGRAMS]);
        let outputs = &stats["rules"][0]["outputs"];
        let errors: Vec<&Value> = outputs.as_array().into_iter().flatten().map(|output| &output["errors"]).collect();
        assert_eq!(errors, [&json!(0), &json!(DATAGRAMS)], "{stats:#}");
    }

    /// A unicast output has the same fields.
    fn unicast_outputs_too(io) {
        let topology = Topology::sender_relay_receiver();
        split_if_super_frames_are_lost(&topology.relay, &["eth1"]);
        let target = with(with(output("10.2.0.2"), "ttl", 64), "dscp", 46);
        let daemon = relay(&topology, io, &[rule(input("10.1.0.2"), [target])]);
        let capture = capture(&topology.receiver, &["10.2.0.2"]);
        // Without a listener the relay receives ICMP port unreachable.
        let _listener = topology.receiver.run(|| std::net::UdpSocket::bind(("10.2.0.2", OUTPUT_PORT)).expect("bind"));
        let sent = send(&topology.sender, "eth0", "10.1.0.2", &format!("--count {DATAGRAMS}")).finish();
        assert_eq!(sent["error_causes"], json!({}), "port {INPUT_PORT} of the relay is closed");
        let datagrams = take(&capture, DATAGRAMS);
        assert_eq!(datagrams, vec![seen("10.2.0.2", "10.2.0.1", 64, 46); DATAGRAMS]);
        assert_accounting(&daemon.settled_stats());
    }
}
