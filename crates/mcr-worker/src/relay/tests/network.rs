//! The loops on real interfaces: a sender, a relay host and a receiver in namespaces, connected by veth.

use std::net::{IpAddr, Ipv4Addr};

use mcr_sys::filter::{FilterDestination, FilterProgram};
use mcr_sys::mmsg::{Ancillary, SendBatch, SocketAddress};
use mcr_sys::packet::{Capture, CaptureOptions, Fanout};
use mcr_testnet::{LinkSetup, NetNamespace};

use super::*;

const RELAYED_GROUP: Ipv4Addr = Ipv4Addr::new(239, 2, 2, 2);
/// Smaller than the segments that the test relays.
const OUTPUT_MTU: u32 = 1_280;

fn egress(ifindex: IfIndex) -> OwnedFd {
    let options = EgressOptions {
        ifindex,
        family: Family::V4,
        ttl: Some(16),
        dscp: Some(0),
        origin: Origin::Interface,
        multicast_loop: true,
        send_buffer_bytes: 4 << 20,
        marked: false,
        mark: 0,
    };
    open_egress(&options).unwrap()
}

struct Network {
    relay: NetNamespace,
    source: OwnedFd,
    receiver: UdpSocket,
}

fn connect(from: &NetNamespace, to: &NetNamespace, names: [&str; 2], network: u8) {
    LinkSetup::in_namespace(from).unwrap().create_veth(names[0], names[1], to).unwrap();
    for (namespace, name, host) in [(from, names[0], 1), (to, names[1], 2)] {
        let mut links = LinkSetup::in_namespace(namespace).unwrap();
        links.add_address(name, IpAddr::from([10, network, 0, host]), 24).unwrap();
        links.set_up(name, true).unwrap();
    }
}

fn index(namespace: &NetNamespace, name: &str) -> IfIndex {
    LinkSetup::in_namespace(namespace).unwrap().index(name).unwrap()
}

impl Network {
    fn new() -> Self {
        let [sender, relay, receiver] = [(); 3].map(|()| NetNamespace::create().unwrap());
        connect(&sender, &relay, ["out", "in0"], 1);
        connect(&relay, &receiver, ["out0", "in"], 2);
        for (namespace, name) in [(&relay, "out0"), (&receiver, "in")] {
            LinkSetup::in_namespace(namespace).unwrap().set_mtu(name, OUTPUT_MTU).unwrap();
        }
        let out = index(&sender, "out");
        let source = sender.run(|| egress(out)).unwrap();
        let receiver = receiver
            .run(|| {
                let socket = UdpSocket::bind((RELAYED_GROUP, PORT)).unwrap();
                socket.join_multicast_v4(&RELAYED_GROUP, &Ipv4Addr::new(10, 2, 0, 2)).unwrap();
                socket.set_read_timeout(Some(DEADLINE)).unwrap();
                socket
            })
            .unwrap();
        Self { relay, source, receiver }
    }

    /// A worker that captures on the relay's input and may send to the receiver's group.
    fn worker(&self, io: IoChoice) -> Worker {
        let filter = FilterProgram::for_destinations(&[FilterDestination {
            address: group(1).into(),
            port: PORT,
            promiscuous: false,
        }]);
        let options = CaptureOptions {
            ifindex: index(&self.relay, "in0"),
            filter: &filter,
            receive_buffer_bytes: 4 << 20,
            fanout: Fanout::New,
        };
        let output = index(&self.relay, "out0");
        let (capture, egress) =
            self.relay.run(|| (Capture::open(&options).unwrap().0, egress(output))).unwrap();
        let worker = Worker::spawn_on(capture.as_fd(), start_message(io), &create_page().unwrap());
        assert!(matches!(worker.reply(), FromWorker::Ready { .. }));
        worker.pass(0, egress);
        worker
    }

    fn rules() -> Vec<RelayRule> {
        vec![rule(1, vec![output(0, 0, (RELAYED_GROUP, PORT).into())])]
    }

    /// Sends a payload as datagrams of `size` bytes, in one segmented send if there are several.
    fn send(&self, payload: &[u8], size: usize) {
        let to = SocketAddress::new((group(1), PORT).into());
        let segment_bytes = (payload.len() > size).then(|| u16::try_from(size).unwrap());
        let ancillary = Ancillary { segment_bytes, ..Ancillary::default() };
        let mut batch = SendBatch::new(1, 1);
        let mut sending = batch.begin();
        sending.push(Some(&to), &ancillary, [payload]).unwrap();
        sending.send(self.source.as_fd(), |_, outcome| assert_eq!(outcome, Ok(payload.len())));
    }
}

/// Super-frames whose segments fit the output's MTU, and others, whose datagrams are sent one by one, fragmented.
#[test]
fn super_frames_arrive_completely_whether_or_not_the_output_accepts_their_segments() {
    for io in BOTH {
        let network = Network::new();
        let mut worker = network.worker(io);
        worker.apply(Network::rules());
        let mut count = 0;
        // The larger size fails once; the smaller size is still sent in segments.
        for (number, size) in [1_000, 1_400, 1_000, 1_400, 1_200].into_iter().enumerate() {
            let sent = payload(number, size * 20 + 77);
            network.send(&sent, size);
            for datagram in sent.chunks(size) {
                assert_eq!(arrived(&network.receiver), datagram, "{io:?}, size {size}");
                count += 1;
            }
        }
        let totals = worker.settled(5);
        assert_eq!((totals.received, totals.sent), (count, count));
        assert_eq!(count, 105);
        worker.stop();
    }
}

/// ENETDOWN ends a multishot receive; traffic after it must be relayed.
#[test]
fn relaying_continues_after_the_interface_was_down() {
    for io in BOTH {
        let network = Network::new();
        let mut worker = network.worker(io);
        worker.apply(Network::rules());
        for turn in 0..4_u8 {
            // An interface drops datagrams that are sent before it has carrier.
            eventually("datagrams are relayed", || {
                network.send(&[turn; 100], 100);
                let soon = Some(Duration::from_millis(20));
                wait_readable([network.receiver.as_fd()], soon).unwrap()[0]
                    && arrived(&network.receiver) == [turn; 100]
            });
            for up in [false, true] {
                LinkSetup::in_namespace(&network.relay).unwrap().set_up("in0", up).unwrap();
            }
        }
        eventually("the accounting identities hold", || worker.is_balanced());
        assert!(worker.page.worker().totals.sent >= 4);
        worker.stop();
    }
}
