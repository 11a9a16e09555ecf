use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::bpf::attachment::{Attachment, Method};
use crate::filter::{ANY_PORT, FilterDestination, FilterProgram};
use crate::fixture::packets::{UDP, datagram, ethernet, ipv4, ipv6, tagged, udp};
use crate::fixture::{Cable, cable, capture, receive_ours, send_frames, texts_until};
use crate::packet::{Capture, Fanout};

const PORT: u16 = 5000;
const LONG: Duration = Duration::from_secs(60);
const GROUP: &str = "239.1.1.1";
const TO: &str = "239.7.7.7";
const GROUP6: &str = "ff15::1";
const TO6: &str = "ff15::7";
const ALL: Accepts = Accepts { whole: true, odd: false, promiscuous_whole: false, promiscuous_odd: false };
const ODD: Accepts = Accepts { odd: true, whole: false, ..ALL };

/// A cable on which one group of each family is relayed back to where it comes from.
struct Relay {
    cable: Cable,
    programs: Programs,
    early_drop: EarlyDrop,
    tables: Tables,
}

fn tables(programs: &Programs) -> Tables {
    let fds = programs.descriptors().map(|fd| fd.try_clone_to_owned().unwrap());
    Tables::adopt(fds.into()).unwrap()
}

fn relay() -> Relay {
    let cable = cable();
    let early_drop = EarlyDrop::load().unwrap();
    let programs = Programs::load(&early_drop).unwrap();
    let tables = tables(&programs);
    programs.stay(LONG).unwrap();
    tables.set_epoch(cable.here_index, 7).unwrap();
    let relay = Relay { cable, programs, early_drop, tables };
    for (place, from, to) in [(0, GROUP, TO), (1, GROUP6, TO6)] {
        relay.accept(from, PORT, Verdict { accepts: ALL, relay: Some(place) });
        relay.accept(from, ANY_PORT, Verdict { accepts: ODD, relay: None });
        relay.tables.write_rule(place, &relay.rule(from, place), &[relay.output(to, place)]).unwrap();
    }
    relay
}

impl Relay {
    fn destination(&self, address: &str, port: u16) -> Destination {
        Destination { ifindex: self.cable.here_index, address: address.parse().unwrap(), port }
    }

    fn accept(&self, address: &str, port: u16, verdict: Verdict) {
        self.tables.set_verdict(&self.destination(address, port), verdict).unwrap();
    }

    fn rule(&self, from: &str, slot: u32) -> Rule {
        Rule { to: self.destination(from, PORT), slot, max_bytes: 1500, min_ttl: 1, has_sources: false }
    }

    fn output(&self, to: &str, slot: u32) -> Output {
        let address: IpAddr = to.parse().unwrap();
        let source = if address.is_ipv4() { "10.9.0.2" } else { "fd09::2" };
        Output {
            ifindex: self.cable.here_index,
            slot,
            mac: [1, 0, 0x5e, 7, 7, 7],
            source_mac: [2, 0, 0, 0, 0, 9],
            to: (address, 6000).into(),
            source: source.parse().unwrap(),
            source_port: Some(4000),
            mark: 0,
            ttl: Some(9),
            dscp: Some(34),
        }
    }

    /// A capture socket with the program as its filter.
    fn capture(&self) -> Capture {
        let capture = self.cable.capture_here(&FilterProgram::reject_all());
        capture.attach_program(self.tables.filter()).unwrap();
        capture
    }

    fn attach(&self, method: Method) -> Attachment {
        let (index, program) = (self.cable.here_index, self.programs.ingress());
        self.cable.here.run(|| Attachment::by(method, program, index)).unwrap().unwrap()
    }

    /// What comes back, sent on the cable.
    fn peer(&self, group: &str) -> Capture {
        let wanted = FilterDestination { address: group.parse().unwrap(), port: 6000, promiscuous: true };
        let filter = FilterProgram::for_destinations(&[wanted]);
        self.cable.there.run(|| capture(self.cable.there_index, &filter, Fanout::New).0).unwrap()
    }

    fn send(&self, frames: &[Vec<u8>]) {
        self.cable.send_frames(frames);
    }
}

fn end(group: &str) -> Vec<u8> {
    ethernet(&datagram(group, PORT, "end"))
}

/// IPv4 or IPv6 of a frame, with its checksums checked.
fn parsed(frame: &[u8]) -> mcr_wire::Datagram {
    let meta = mcr_wire::FrameMeta::default();
    mcr_wire::parse_frame(&frame[10..], mcr_wire::LinkLayer::Ethernet, meta).unwrap()
}

/// A datagram with the right UDP checksum.
fn summed(group: &str, text: &str) -> Vec<u8> {
    let mut frame = ethernet(&datagram(group, PORT, text));
    let start = if group.contains(':') { 54 } else { 34 };
    let from: IpAddr = if group.contains(':') { "fd09::1" } else { "10.9.0.1" }.parse().unwrap();
    let payload = frame[start + 8..].to_vec();
    let header = mcr_wire::udp::udp_header(
        (from, 0x3039).into(),
        (group.parse::<IpAddr>().unwrap(), PORT).into(),
        [payload.as_slice()].into_iter(),
    );
    frame[start..start + 8].copy_from_slice(&header);
    frame
}

#[test]
fn the_kernel_relays_what_the_filter_leaves_to_it() {
    for method in [Method::Tcx, Method::Clsact] {
        for (place, group, to) in [(0, GROUP, TO), (1, GROUP6, TO6)] {
            let relay = relay();
            let _attached = relay.attach(method);
            let (worker, peer) = (relay.capture(), relay.peer(to));
            relay.send(&[summed(group, "one more text that is longer")]);
            let (frame, text) = receive_ours(&peer);
            assert_eq!(text, "one more text that is longer");
            let datagram = parsed(&frame);
            assert_eq!((datagram.ttl, datagram.dscp), (9, 34));
            assert_eq!((datagram.source.1, datagram.destination.1), (4000, 6000));
            assert_eq!(&frame[10..22], &[1, 0, 0x5e, 7, 7, 7, 2, 0, 0, 0, 0, 9]);
            assert_eq!(crate::fixture::take(&worker), None, "a worker would relay it, too");
            let count = relay.tables.rule_count(place);
            assert_eq!((count.datagrams, count.bytes, count.due, count.frames), (1, 30, 1, 1));
            let count = relay.tables.output_count(place);
            assert_eq!((count.datagrams, count.bytes, count.due), (1, 30, 1));
        }
    }
}

/// A program of the host gets what arrived, not what was sent.
#[test]
fn behind_the_relay_the_frame_is_as_it_arrived() {
    for (group, to) in [(GROUP, TO), (GROUP6, TO6)] {
        let relay = relay();
        let _attached = relay.attach(Method::Tcx);
        let (_worker, peer) = (relay.capture(), relay.peer(to));
        let socket = relay
            .cable
            .here
            .run(|| {
                let any: std::net::SocketAddr =
                    if group == GROUP { "0.0.0.0:5000" } else { "[::]:5000" }.parse().unwrap();
                let socket = std::net::UdpSocket::bind(any).unwrap();
                match group.parse().unwrap() {
                    IpAddr::V4(group) => {
                        socket.join_multicast_v4(&group, &Ipv4Addr::new(10, 9, 0, 2)).unwrap()
                    }
                    IpAddr::V6(group) => {
                        socket.join_multicast_v6(&group, relay.cable.here_index.to_raw()).unwrap()
                    }
                }
                socket.set_read_timeout(Some(crate::fixture::DEADLINE)).unwrap();
                socket
            })
            .unwrap();
        // Dropped early unless a socket receives it.
        relay.early_drop.count_on(relay.cable.here_index).unwrap();
        relay.early_drop.set_destinations(&[relay.destination(group, PORT)]).unwrap();
        relay.early_drop.stay(LONG).unwrap();
        relay.send(&[summed(group, "to both of them")]);
        assert_eq!(receive_ours(&peer).1, "to both of them");
        let mut buffer = [0; 100];
        let (bytes, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..bytes], from.port()), (&b"<to both of them>"[..], 0x3039));
        drop(socket);
        relay.send(&[summed(group, "now to one of them")]);
        assert_eq!(receive_ours(&peer).1, "now to one of them");
        let dropped = relay.early_drop.dropped(relay.cable.here_index).unwrap().unwrap();
        assert_eq!(dropped.datagrams, 1);
    }
}

/// A worker gets everything at once when the program at ingress does not get it, but for one frame on each CPU.
#[test]
fn what_is_not_executed_is_not_decided_again() {
    let relay = relay();
    let worker = relay.capture();
    let frames: Vec<Vec<u8>> = (0..10).map(|n| summed(GROUP, &format!("a longer text {n}"))).collect();
    relay.send(&frames);
    relay.send(&[end(GROUP)]);
    assert_eq!(texts_until(&worker, "end").len(), 9);
    assert_eq!(relay.tables.epoch(relay.cable.here_index).unwrap(), Some((7, true)));
    // Another epoch begins with the program attached.
    let (_attached, peer) = (relay.attach(Method::Tcx), relay.peer(TO));
    relay.tables.set_epoch(relay.cable.here_index, 8).unwrap();
    relay.send(&[summed(GROUP, "again by the kernel")]);
    assert_eq!(receive_ours(&peer).1, "again by the kernel");
    assert_eq!(relay.tables.epoch(relay.cable.here_index).unwrap(), Some((8, false)));
}

#[test]
fn a_worker_gets_what_only_a_worker_understands() {
    let relay = relay();
    let _attached = relay.attach(Method::Tcx);
    let (worker, peer) = (relay.capture(), relay.peer(TO));
    let group: Ipv4Addr = GROUP.parse().unwrap();
    let with = |place: usize, byte: u8| {
        let mut frame = summed(GROUP, &format!("changed at {place}"));
        frame[place] = byte;
        frame
    };
    relay.tables.set_own(&["10.9.0.77".parse().unwrap()]).unwrap();
    let mut own = ipv4(group, UDP, 0, 0, &udp(PORT, "own address, long enough"));
    own[12..16].copy_from_slice(&[10, 9, 0, 77]);
    let sum = u16::from_be_bytes([own[10], own[11]]);
    // The checksum of a header in which a byte is 76 more.
    own[10..12].copy_from_slice(&(sum - 76).to_be_bytes());
    let frames = [
        ethernet(&ipv4(group, UDP, 1, 0, &udp(PORT, "options are not for the kernel"))),
        ethernet(&ipv4(group, UDP, 0, 0x2000, &udp(PORT, "a fragment is not"))),
        ethernet(&datagram(GROUP, PORT, "padded")).into_iter().chain([0; 20]).collect(),
        with(22, 0),
        with(24, 0xff),
        ethernet(&own),
        tagged(&summed(GROUP, "a priority tag"), 0x8100, 0xe000),
        end(GROUP),
    ];
    // TTL 0 has a wrong checksum, too; both are for the worker to count.
    relay.send(&frames[..7]);
    // Short frames are padded by Ethernet.
    relay.send(&[frames[7].clone().into_iter().chain([0; 20]).collect()]);
    assert_eq!(texts_until(&worker, "end").len(), 7);
    relay.send(&[summed(GROUP, "for the kernel")]);
    assert_eq!(receive_ours(&peer).1, "for the kernel");
    assert_eq!(relay.tables.rule_count(0).datagrams, 1);
}

#[test]
fn sends_that_fail_are_counted() {
    let relay = relay();
    let _attached = relay.attach(Method::Tcx);
    let _worker = relay.capture();
    let nowhere = Output { ifindex: IfIndex::new(9_999), slot: 5, ..relay.output(TO, 5) };
    let (here, rule) = (relay.output(TO, 0), relay.rule(GROUP, 0));
    relay.tables.write_rule(9, &rule, &[nowhere, here]).unwrap();
    relay.accept(GROUP, PORT, Verdict { accepts: ALL, relay: Some(9) });
    let peer = relay.peer(TO);
    relay.send(&[summed(GROUP, "to one of two")]);
    assert_eq!(receive_ours(&peer).1, "to one of two");
    let count = relay.tables.output_count(5);
    assert_eq!((count.due, count.datagrams, count.no_device), (1, 0, 1), "{count:?}");
    assert_eq!(relay.tables.output_count(0).datagrams, 1);
    assert_eq!(relay.tables.rule_count(0).due, 2);
}

/// The attacher has the two capabilities, and the supervisor none.
#[test]
fn two_capabilities_load_and_none_is_needed_to_change() {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    let loading = || {
        crate::privileges::keep_only_bpf().unwrap();
        let programs = Programs::load(&EarlyDrop::load().unwrap()).unwrap();
        programs.descriptors().map(|fd| fd.try_clone_to_owned().unwrap())
    };
    let fds = std::thread::spawn(loading).join().unwrap();
    let changing = move || {
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
            .unwrap();
        let tables = Tables::adopt(fds.into()).unwrap();
        let to = Destination { ifindex: IfIndex::new(7), address: GROUP.parse().unwrap(), port: PORT };
        tables.set_verdict(&to, Verdict { accepts: ALL, relay: Some(3) }).unwrap();
        assert_eq!(tables.verdicts().unwrap().len(), 1);
        tables.set_sources(3, &["10.9.0.1".parse().unwrap()]).unwrap();
        tables.set_epoch(IfIndex::new(7), 1).unwrap();
        assert_eq!(tables.rule_count(MAX_RULES - 1), RuleCount::default());
        assert_eq!(tables.output_count(MAX_OUTPUTS - 1), OutputCount::default());
        assert!(EarlyDrop::load().is_err());
    };
    std::thread::spawn(changing).join().unwrap();
}

#[test]
fn what_is_in_the_maps_is_read_back() {
    let relay = relay();
    let verdicts = relay.tables.verdicts().unwrap();
    assert_eq!(verdicts.len(), 4);
    assert_eq!(verdicts[&relay.destination(GROUP, PORT)], Verdict { accepts: ALL, relay: Some(0) });
    assert_eq!(verdicts[&relay.destination(GROUP6, ANY_PORT)], Verdict { accepts: ODD, relay: None });
    let (rule, output) = (relay.rule(GROUP, 0), relay.output(TO, 0));
    assert!(relay.tables.has_rule(0, &rule, std::slice::from_ref(&output)).unwrap());
    assert!(!relay.tables.has_rule(0, &rule, &[Output { mark: 1, ..output }]).unwrap());
    assert!(relay.tables.interfaces().unwrap() == [relay.cable.here_index]);
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let text = "[a-z]{0,40}";
    let groups =
        prop_oneof![Just(GROUP), Just("239.1.1.2"), Just("239.2.0.1"), Just(GROUP6), Just("ff15::2")];
    let ports = prop_oneof![Just(PORT), Just(5001), Just(0_u16)];
    (groups, ports, text, 0..8_u8, any::<u16>(), 0..64_usize, any::<u8>()).prop_map(
        |(group, port, text, kind, number, place, byte)| match (kind, group.parse::<IpAddr>().unwrap()) {
            (0, IpAddr::V4(group)) => ethernet(&ipv4(group, UDP, 0, number & 0x3fff, &udp(port, &text))),
            (1, IpAddr::V4(group)) => ethernet(&ipv4(group, UDP, (number % 10) as u8, 0, &udp(port, &text))),
            (1, IpAddr::V6(group)) => {
                let mut body = vec![17, 0, 1, 4, 0, 0, 0, 0];
                body.extend(udp(port, &text));
                ethernet(&ipv6(group, [0, 43, 44, 58, 60][usize::from(number) % 5], &body))
            }
            (2, _) => tagged(&ethernet(&datagram(group, port, &text)), 0x8100, number & 0xe003),
            (3, _) => {
                let mut frame = ethernet(&datagram(group, port, &text));
                let place = 14 + place % (frame.len() - 14);
                frame[place] = byte;
                frame
            }
            (4, _) => {
                let mut frame = ethernet(&datagram(group, port, &text));
                frame.truncate(20 + place);
                frame
            }
            (5, _) => summed(group, &text),
            _ => ethernet(&datagram(group, port, &text)),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

    /// The program, and the classic filter for the same destinations, accept the same frames; what the kernel relays is
    /// among them, is valid, and leaves as a valid datagram with the same payload.
    #[test]
    fn the_program_accepts_what_the_classic_filter_accepts(frames in proptest::collection::vec(piece(), 80)) {
        let relay = relay();
        let _attached = relay.attach(Method::Tcx);
        relay.accept("239.1.1.2", ANY_PORT, Verdict { accepts: Accepts { whole: true, ..ODD }, relay: None });
        relay.accept("239.1.1.2", PORT, Verdict { accepts: ALL, relay: None });
        let to = |address: &str, port| FilterDestination { address: address.parse().unwrap(), port, promiscuous: false };
        let wanted = [to(GROUP, PORT), to(GROUP6, PORT), to("239.1.1.2", ANY_PORT), to("239.1.1.2", PORT)];
        let classic = relay.cable.capture_here(&FilterProgram::for_destinations(&wanted));
        let (worker, peers) = (relay.capture(), [relay.peer(TO), relay.peer(TO6)]);
        relay.cable.there.run(|| send_frames(relay.cable.there_index, &frames)).unwrap();
        let last = ethernet(&datagram("239.1.1.2", PORT, "end"));
        relay.send(std::slice::from_ref(&last));
        let all = |capture: &Capture| {
            let mut all = Vec::new();
            loop {
                let frame = crate::fixture::receive(capture);
                if frame[10..].starts_with(&last) {
                    return all;
                }
                all.push(frame[10..].to_vec());
            }
        };
        let (by_classic, mut by_worker) = (all(&classic), all(&worker));
        let relayed: Vec<Vec<u8>> = peers.iter().flat_map(|peer| std::iter::from_fn(|| crate::fixture::take(peer))).collect();
        let mut texts: Vec<Vec<u8>> = Vec::new();
        for frame in by_classic {
            if by_worker.first() == Some(&frame) {
                by_worker.remove(0);
                continue;
            }
            let datagram = mcr_wire::parse_frame(&frame, mcr_wire::LinkLayer::Ethernet, mcr_wire::FrameMeta { checksum_verified: true, ..Default::default() });
            let datagram = datagram.expect("the kernel relays only what is valid");
            prop_assert_eq!(datagram.destination.1, PORT);
            texts.push(frame[datagram.payload].to_vec());
        }
        prop_assert!(by_worker.is_empty(), "more than the classic filter accepts");
        let mut sent: Vec<Vec<u8>> = Vec::new();
        for frame in &relayed {
            let datagram = mcr_wire::parse_frame(&frame[10..], mcr_wire::LinkLayer::Ethernet, mcr_wire::FrameMeta { checksum_verified: true, ..Default::default() }).unwrap();
            prop_assert_eq!((datagram.ttl, datagram.dscp, datagram.destination.1), (9, 34, 6000));
            sent.push(frame[10..][datagram.payload].to_vec());
        }
        texts.sort();
        sent.sort();
        prop_assert_eq!(texts, sent);
        let counted = relay.tables.rule_count(0).datagrams + relay.tables.rule_count(1).datagrams;
        prop_assert_eq!(counted, relayed.len() as u64);
    }
}
