use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use super::*;

fn pair(address: &str) -> (UdpSocket, UdpSocket, SocketAddress) {
    let receiver = UdpSocket::bind((address, 0)).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let to = SocketAddress::new(receiver.local_addr().unwrap());
    (UdpSocket::bind((address, 0)).unwrap(), receiver, to)
}

fn one_payload(receiver: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let bytes = receiver.recv(&mut buffer).unwrap();
    buffer.truncate(bytes);
    buffer
}

#[test]
fn addresses_survive_the_kernels_form() {
    let scoped = SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 9, 3);
    for address in [
        SocketAddr::from((Ipv4Addr::new(239, 1, 2, 3), 5000)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, 1)),
        SocketAddr::V6(scoped),
    ] {
        assert_eq!(SocketAddress::new(address).get(), Some(address));
    }
    assert_eq!(SocketAddress::EMPTY.get(), None);
}

#[test]
fn strides_are_an_odd_number_of_cache_lines_that_hold_the_bytes() {
    for bytes in [1, 64, 65, 128, 1_524, 9_024, 65_560, 65_600] {
        let stride = buffer_stride(bytes);
        assert!(
            stride >= bytes && stride.is_multiple_of(64) && (stride / 64) % 2 == 1,
            "{bytes} in {stride}"
        );
        assert!(stride - bytes < 128, "{bytes} in {stride}");
    }
}

#[test]
fn datagrams_of_several_pieces_arrive_whole_and_in_order() {
    for address in ["127.0.0.1", "::1"] {
        let (sender, receiver, to) = pair(address);
        let mut batch = SendBatch::new(3, 4);
        let mut sending = batch.begin();
        sending.push(Some(&to), &Ancillary::default(), [&b"ab"[..], b"cd"]).unwrap();
        sending.push(Some(&to), &Ancillary::default(), []).unwrap();
        sending.push(Some(&to), &Ancillary::default(), [&b"z"[..]]).unwrap();
        let full = sending.push(Some(&to), &Ancillary::default(), [&b"z"[..]]);
        assert_eq!(full, Err(BatchFull));
        let mut outcomes = Vec::new();
        sending.send(sender.as_fd(), |place, outcome| outcomes.push((place, outcome)));
        assert_eq!(outcomes, [(0, Ok(4)), (1, Ok(0)), (2, Ok(1))]);
        assert_eq!([(); 3].map(|()| one_payload(&receiver)), [b"abcd".to_vec(), vec![], b"z".to_vec()]);
    }
}

#[test]
fn a_batch_without_room_for_the_pieces_is_left_as_it_was() {
    let (sender, receiver, to) = pair("127.0.0.1");
    let mut batch = SendBatch::new(4, 2);
    let mut sending = batch.begin();
    sending.push(Some(&to), &Ancillary::default(), [&b"kept"[..]]).unwrap();
    assert_eq!(sending.push(Some(&to), &Ancillary::default(), [&b"a"[..], b"b"]), Err(BatchFull));
    sending.send(sender.as_fd(), |place, outcome| assert_eq!((place, outcome), (0, Ok(4))));
    assert_eq!(one_payload(&receiver), b"kept");
}

#[test]
fn one_failure_does_not_stop_the_others() {
    let (sender, receiver, to) = pair("127.0.0.1");
    let too_long = vec![0; MAX_SEND_BYTES + 1];
    let mut batch = SendBatch::new(3, 3);
    let mut sending = batch.begin();
    for payload in [&b"first"[..], &too_long, b"third"] {
        sending.push(Some(&to), &Ancillary::default(), [payload]).unwrap();
    }
    let mut outcomes = Vec::new();
    sending.send(sender.as_fd(), |place, outcome| outcomes.push((place, outcome)));
    assert_eq!(outcomes, [(0, Ok(5)), (1, Err(libc::EMSGSIZE)), (2, Ok(5))]);
    assert_eq!([one_payload(&receiver), one_payload(&receiver)], [b"first", b"third"]);
}

#[test]
fn a_segmented_send_arrives_as_the_datagrams_it_carries() {
    for address in ["127.0.0.1", "::1"] {
        let (sender, receiver, to) = pair(address);
        let payload: Vec<u8> = (0..2_500_u32).map(|n| n.to_le_bytes()[0]).collect();
        let ancillary = Ancillary { segment_bytes: Some(1_000), ..Ancillary::default() };
        let mut batch = SendBatch::new(1, 3);
        let mut sending = batch.begin();
        // Pieces need not end where datagrams end.
        sending
            .push(Some(&to), &ancillary, [&payload[..700], &payload[700..2_100], &payload[2_100..]])
            .unwrap();
        sending.send(sender.as_fd(), |_, outcome| assert_eq!(outcome, Ok(2_500)));
        for expected in payload.chunks(1_000) {
            assert_eq!(one_payload(&receiver), expected);
        }
    }
}

#[test]
fn a_receiver_with_gro_gets_the_segments_as_one() {
    let (sender, receiver, to) = pair("127.0.0.1");
    receive_segmented(receiver.as_fd()).unwrap();
    let payload = [7; 3_000];
    let ancillary = Ancillary {
        segment_bytes: Some(1_000),
        ttl: Some(3),
        traffic_class: Some(8),
        ..Ancillary::default()
    };
    let mut batch = SendBatch::new(1, 1);
    let mut sending = batch.begin();
    sending.push(Some(&to), &ancillary, [&payload[..]]).unwrap();
    sending.send(sender.as_fd(), |_, outcome| assert_eq!(outcome, Ok(3_000)));

    let mut received = ReceiveBatch::new(&ReceiveOptions { messages: 4, buffer_bytes: 65_536 }).unwrap();
    let mut datagrams = 0;
    while datagrams < 3 {
        receiver.peek(&mut [0]).unwrap();
        assert!(received.receive(receiver.as_fd()).unwrap() > 0);
        for message in received.iter() {
            let size = usize::from(message.segment_bytes.unwrap_or(1_000));
            assert_eq!(size, 1_000);
            assert_eq!(message.source, Some(sender.local_addr().unwrap()));
            assert!(!message.truncated);
            datagrams += message.payload.len() / size;
        }
    }
    assert_eq!(datagrams, 3);
    assert_eq!(received.receive(receiver.as_fd()).unwrap(), 0, "nothing is left");
    assert!(received.is_empty() && received.message(0).is_none());
}

#[test]
fn a_datagram_longer_than_the_buffer_is_marked() {
    let (sender, receiver, to) = pair("127.0.0.1");
    sender.send_to(&[1; 100], to.get().unwrap()).unwrap();
    receiver.peek(&mut [0]).unwrap();
    let mut received = ReceiveBatch::new(&ReceiveOptions { messages: 1, buffer_bytes: 60 }).unwrap();
    assert_eq!(received.receive(receiver.as_fd()).unwrap(), 1);
    let message = received.message(0).unwrap();
    assert!(message.truncated);
    assert_eq!(message.payload, [1; 60]);
}

#[test]
fn ttl_and_traffic_class_are_written_for_the_family() {
    let all = |source: &str| Ancillary {
        segment_bytes: Some(512),
        ttl: Some(9),
        traffic_class: Some(0xb8),
        source: Some(source.parse().unwrap()),
        udp_header: None,
    };
    let mut control = Control::EMPTY;
    assert_eq!(control.write(&all("10.0.0.1"), false), CONTROL_BYTES - 8);
    assert_eq!(control.write(&all("fd00::1"), true), CONTROL_BYTES);
    assert_eq!(control.write(&Ancillary { ttl: Some(1), ..Ancillary::default() }, true), 24);
    assert_eq!(control.write(&Ancillary::default(), true), 0);
    assert_eq!(control.segment_bytes(CONTROL_BYTES), None, "a UDP_SEGMENT entry is not a UDP_GRO entry");
}
