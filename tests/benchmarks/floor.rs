//! A plain relay with recvmmsg(2) and sendmmsg(2) on UDP sockets: what a careful programmer writes in an afternoon.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

use mcr_sys::egress::{EgressOptions, Family, Origin, open_egress};
use mcr_sys::link::IfIndex;
use mcr_sys::membership::{Membership, MembershipPool};
use mcr_sys::mmsg::{Ancillary, ReceiveBatch, ReceiveOptions, SendBatch, SocketAddress};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

const BATCH: usize = 256;
const DATAGRAM_BYTES: usize = 2048;
const RECEIVE_BUFFER_BYTES: usize = 16 << 20;
const SEND_BUFFER_BYTES: usize = 4 << 20;

/// Relays until it is killed. Arguments: input group and port, first output group and port, number of outputs.
pub(crate) fn run(arguments: &[String]) {
    let [input_group, input_port, output_group, output_port, outputs] = arguments else {
        panic!("--floor INPUT_GROUP INPUT_PORT OUTPUT_GROUP OUTPUT_PORT OUTPUTS");
    };
    let group: Ipv4Addr = input_group.parse().expect("input group");
    let first: Ipv4Addr = output_group.parse().expect("output group");
    let port: u16 = output_port.parse().expect("output port");
    let outputs: u32 = outputs.parse().expect("number of outputs");
    let destinations: Vec<SocketAddress> = (0..outputs)
        .map(|output| IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() + output)))
        .map(|group| SocketAddress::new(SocketAddr::new(group, port)))
        .collect();

    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let input = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None).expect("socket");
    sockopt::set_socket_recv_buffer_size_force(&input, RECEIVE_BUFFER_BYTES).expect("receive buffer");
    let input_port: u16 = input_port.parse().expect("input port");
    bind(&input, &SocketAddr::new(IpAddr::V4(group), input_port)).expect("bind");
    let mut memberships = MembershipPool::new();
    let ifindex = IfIndex::by_name("eth0").expect("eth0");
    memberships.join(Membership { ifindex, group: IpAddr::V4(group), source: None }).expect("join");
    let output = open_egress(&EgressOptions {
        ifindex: IfIndex::by_name("eth1").expect("eth1"),
        family: Family::V4,
        ttl: Some(16),
        dscp: None,
        origin: Origin::Interface,
        multicast_loop: true,
        send_buffer_bytes: SEND_BUFFER_BYTES,
        marked: false,
        mark: 0,
    })
    .expect("output socket");

    let mut received = ReceiveBatch::new(&ReceiveOptions { messages: BATCH, buffer_bytes: DATAGRAM_BYTES })
        .expect("receive buffers");
    let room = BATCH * destinations.len();
    let mut sends = SendBatch::new(room, room);
    loop {
        if received.receive(input.as_fd()).expect("recvmmsg") == 0 {
            poll(&mut [PollFd::new(&input, PollFlags::IN)], None).expect("poll");
            continue;
        }
        let mut sending = sends.begin();
        for message in received.iter() {
            for destination in &destinations {
                sending.push(Some(destination), &Ancillary::default(), [message.payload]).expect("room");
            }
        }
        // What the kernel has no room for is lost.
        sending.send(output.as_fd(), |_, _| ());
    }
}
