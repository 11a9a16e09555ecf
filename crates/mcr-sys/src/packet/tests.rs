use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::egress::{EgressOptions, Family, Origin, open_egress};
use crate::filter::FilterDestination;
use crate::fixture::packets::{datagram, ethernet, tagged, text_of};
use crate::fixture::{
    Cable, cable, capture, index, raw_sender, receive, receive_ours, send_frames, take, texts_until, wanted,
};
use crate::process::{online_cores, pin_to_core};
use mcr_testnet::LinkSetup;

const GROUP: &str = "239.1.1.1";
const PORT: u16 = 5000;
const VIRTIO_HEADER_BYTES: usize = 10;
const ETHERNET_HEADER_BYTES: usize = 14;

fn one_group() -> FilterProgram {
    FilterProgram::for_destinations(&[wanted(GROUP, PORT)])
}

fn frame(text: &str) -> Vec<u8> {
    ethernet(&datagram(GROUP, PORT, text))
}

fn options(ifindex: IfIndex, filter: &FilterProgram) -> CaptureOptions<'_> {
    CaptureOptions { ifindex, filter, receive_buffer_bytes: 1 << 20, fanout: Fanout::New }
}

/// Fact 1: a socket that is opened under a flood of unwanted frames queues none of them.
#[test]
fn a_new_socket_queues_no_unwanted_frame() {
    let cable = cable();
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let flood = || {
                let (sender, foreign) =
                    (raw_sender(cable.there_index), ethernet(&datagram("239.7.7.7", 7, "foreign")));
                while !stop.load(Ordering::Relaxed) {
                    sender.send(&foreign).unwrap();
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            };
            cable.there.run(flood).unwrap();
        });
        let _guard = StopWhenDropped(&stop);
        let seen = cable.capture_here(&FilterProgram::reject_all().all_udp());
        assert_eq!(text_of(&receive(&seen)), "foreign", "the flood reaches this interface");
        let filter = one_group();
        for round in 0..50 {
            let before = sent.load(Ordering::Relaxed);
            let capture = cable.capture_here(&filter);
            while sent.load(Ordering::Relaxed) == before {
                std::thread::yield_now();
            }
            assert_eq!(take(&capture), None, "socket {round}");
        }
    });
}

/// Stops a thread, also when the test fails.
struct StopWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn egress_here(cable: &Cable) -> UdpSocket {
    let options = EgressOptions {
        ifindex: cable.here_index,
        family: Family::V4,
        ttl: Some(16),
        dscp: None,
        origin: Origin::Interface,
        multicast_loop: true,
        send_buffer_bytes: 1 << 20,
        marked: false,
        mark: 0,
    };
    cable.here.run(|| open_egress(&options).unwrap()).unwrap().into()
}

/// Fact 2, its first half: the fan-out group itself ignores what this host sends.
#[test]
fn outgoing_frames_are_not_captured_in_a_fanout_group() {
    let cable = cable();
    let capture = cable.capture_here(&FilterProgram::accept_all());
    let egress = egress_here(&cable);
    for _ in 0..10 {
        egress.send_to(b"<outgoing>", (GROUP, PORT)).unwrap();
    }
    cable.send_frames(&[frame("incoming")]);
    assert_eq!(receive_ours(&capture).1, "incoming");
}

/// Fact 2, its second half: on kernels whose fan-out groups do not know that flag, the filter does it.
#[test]
fn outgoing_frames_are_dropped_by_the_filter() {
    let cable = cable();
    let open = |filter: &FilterProgram| {
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
        attach(fd.as_fd(), filter).unwrap();
        bind(fd.as_fd(), cable.here_index).unwrap();
        rustix::io::ioctl_fionbio(&fd, true).unwrap();
        Capture { fd }
    };
    let (capture, control) =
        cable.here.run(|| (open(&one_group()), open(&FilterProgram::accept_all()))).unwrap();
    egress_here(&cable).send_to(b"<outgoing>", (GROUP, PORT)).unwrap();
    cable.send_frames(&[frame("incoming")]);
    assert_eq!(receive_ours(&control).1, "outgoing", "without the filter it would be there");
    assert_eq!(texts_until(&capture, "incoming"), Vec::<String>::new());
}

/// Fact 3: the kernel strips the tag before a socket receives the frame.
#[test]
fn tagged_frames_are_dropped() {
    let cable = cable();
    let (capture, control) =
        (cable.capture_here(&one_group()), cable.capture_here(&FilterProgram::accept_all()));
    cable.send_frames(&[
        tagged(&frame("802.1Q"), 0x8100, 5),
        tagged(&frame("802.1ad"), 0x88a8, 5),
        tagged(&tagged(&frame("QinQ"), 0x8100, 6), 0x88a8, 5),
        frame("untagged"),
    ]);
    assert_eq!(texts_until(&capture, "untagged"), Vec::<String>::new());
    let (plain, text) = receive_ours(&control);
    assert_eq!(text, "802.1Q");
    assert_eq!(plain[VIRTIO_HEADER_BYTES + 12..][..2], [8, 0], "it looks untagged, so the filter must know");
    assert_eq!([(); 3].map(|()| receive_ours(&control).1), ["802.1ad", "QinQ", "untagged"]);
}

/// Fact 4: a sender that segments sends frames with many datagrams, as the virtio header shows.
#[test]
fn a_super_frame_has_its_segment_size() {
    let cable = cable();
    let capture = cable.capture_here(&one_group());
    let sender = cable.there.run(|| UdpSocket::bind("10.9.0.1:0").unwrap()).unwrap();
    let segment_bytes: libc::c_int = 1000;
    socket_option::set("set UDP_SEGMENT", sender.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, &segment_bytes)
        .unwrap();
    let payload: Vec<u8> = (0..7_500_u32).map(|n| n.to_le_bytes()[0]).collect();
    assert_eq!(sender.send_to(&payload, (GROUP, PORT)).unwrap(), payload.len());
    let frame = receive(&capture);
    let (header, frame) = frame.split_at(VIRTIO_HEADER_BYTES);
    assert_eq!(header[0] & 1, 1, "VIRTIO_NET_HDR_F_NEEDS_CSUM");
    assert_eq!(header[1], 5, "VIRTIO_NET_HDR_GSO_UDP_L4");
    assert_eq!(u16::from_ne_bytes([header[4], header[5]]), 1000, "gso_size");
    assert_eq!(frame.len(), ETHERNET_HEADER_BYTES + 28 + payload.len());
    assert_eq!(frame[ETHERNET_HEADER_BYTES + 28..], payload);
    assert_eq!(take(&capture), None);
}

/// Fact 14: two sockets share an interface, each frame goes to one of them.
#[test]
fn a_fanout_group_shares_the_frames_by_core() {
    let cable = cable();
    let filter = one_group();
    let (first, second) = cable
        .here
        .run(|| {
            let (first, report) = capture(cable.here_index, &filter, Fanout::New);
            let (second, joined) = capture(cable.here_index, &filter, Fanout::Join(report.fanout));
            assert_eq!(joined.fanout, report.fanout);
            (first, second)
        })
        .unwrap();
    let cores = online_cores().unwrap();
    const EACH: u32 = 20;
    for core in &cores {
        let send = || {
            pin_to_core(*core).unwrap();
            let sender = raw_sender(cable.there_index);
            for number in 0..EACH {
                sender.send(&frame(&format!("{core}/{number}"))).unwrap();
            }
        };
        cable.there.run(send).unwrap();
    }
    let everything: BTreeSet<String> =
        cores.iter().flat_map(|core| (0..EACH).map(move |number| format!("{core}/{number}"))).collect();
    let mut shares = [0, 0];
    let mut arrived = BTreeSet::new();
    while arrived.len() < everything.len() {
        let both = [first.as_fd(), second.as_fd()];
        let ready = crate::poll::wait_readable(both, Some(crate::fixture::DEADLINE)).unwrap();
        assert_ne!(ready, [false, false], "frames are missing: {:?}", everything.difference(&arrived));
        for (place, member) in [&first, &second].into_iter().enumerate() {
            while let Some(frame) = take(member) {
                shares[place] += 1;
                assert!(arrived.insert(text_of(&frame)), "a frame came twice");
            }
        }
    }
    assert_eq!(arrived, everything);
    assert_eq!((take(&first), take(&second)), (None, None));
    let members: BTreeSet<u16> = cores.iter().map(|core| core % 2).collect();
    if members.len() == 2 {
        assert!(shares[0] > 0 && shares[1] > 0, "each member has its cores: {shares:?}");
    }
}

#[test]
fn fanout_groups_are_unique_and_bound_to_their_interface() {
    let (cable, filter) = (cable(), one_group());
    let in_namespace = || {
        let mut setup = LinkSetup::in_namespace(&cable.here).unwrap();
        let lo = index(&mut setup, "lo");
        let (_first, one) = capture(cable.here_index, &filter, Fanout::New);
        let (_second, other) = capture(cable.here_index, &filter, Fanout::New);
        assert_ne!(one.fanout, other.fanout);
        let stranger = CaptureOptions { fanout: Fanout::Join(one.fanout), ..options(lo, &filter) };
        assert_eq!(Capture::open(&stranger).unwrap_err().step, "join fan-out group");
    };
    cable.here.run(in_namespace).unwrap();
}

#[test]
fn a_missing_interface_is_no_device() {
    // In a namespace of its own: only there may a test open packet sockets without being root.
    let cable = cable();
    let filter = one_group();
    let error =
        cable.here.run(|| Capture::open(&options(IfIndex::new(987_654), &filter)).unwrap_err()).unwrap();
    assert_eq!((error.step, error.errno()), ("bind packet socket", Some(libc::ENODEV)));
}

#[test]
fn queued_and_dropped_frames_are_counted_since_the_last_read() {
    let (cable, filter) = (cable(), one_group());
    let small = CaptureOptions { receive_buffer_bytes: 16_384, ..options(cable.here_index, &filter) };
    let (capture, report) = cable.here.run(|| Capture::open(&small).unwrap()).unwrap();
    assert_eq!((report.receive_buffer_bytes, report.clamped), (16_384, false));
    assert_eq!(capture.statistics().unwrap(), CaptureStatistics::default());
    let (wanted, foreign) = (frame("wanted"), ethernet(&datagram(GROUP, PORT + 1, "foreign")));
    cable.send_frames(&[wanted.clone(), foreign.clone(), wanted.clone()]);
    assert_eq!(capture.statistics().unwrap(), CaptureStatistics { packets: 2, drops: 0 });
    assert_eq!(capture.statistics().unwrap(), CaptureStatistics::default(), "reading clears");
    cable.send_frames(&vec![wanted; 500]);
    let CaptureStatistics { packets, drops } = capture.statistics().unwrap();
    let mut queued = 0;
    while take(&capture).is_some() {
        queued += 1;
    }
    assert_eq!(packets, 500);
    assert!(drops > 0);
    assert_eq!(packets - drops, queued - 2, "two were there before");
}

#[test]
fn a_frame_of_64_kib_keeps_its_length() {
    let cable = cable();
    for namespace in [&cable.here, &cable.there] {
        LinkSetup::in_namespace(namespace).unwrap().set_mtu("cable", 65_535).unwrap();
    }
    let capture = cable.capture_here(&one_group());
    let sender = cable.there.run(|| UdpSocket::bind("10.9.0.1:0").unwrap()).unwrap();
    let to = SocketAddr::from((GROUP.parse::<Ipv4Addr>().unwrap(), PORT));
    sender.send_to(&vec![7; 65_507], to).unwrap();
    assert_eq!(receive(&capture).len(), VIRTIO_HEADER_BYTES + ETHERNET_HEADER_BYTES + 28 + 65_507);
}

/// A socket that came through another process is the same socket.
#[test]
fn ownership_can_be_passed_on() {
    let cable = cable();
    let fd: OwnedFd = cable.capture_here(&one_group()).into();
    let capture = Capture::from(fd.try_clone().unwrap());
    drop(fd);
    cable.send_frames(&[frame("still here")]);
    assert_eq!(text_of(&receive(&capture)), "still here");
    let other = [FilterDestination { address: GROUP.parse().unwrap(), port: PORT + 1, promiscuous: false }];
    capture.attach_filter(&FilterProgram::for_destinations(&other)).unwrap();
    let namespace = &cable.there;
    namespace.run(|| send_frames(cable.there_index, &[frame("refused")])).unwrap();
    assert_eq!(take(&capture), None);
}
