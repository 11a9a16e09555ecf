//! The kernel's verdicts on veth, loopback and tun interfaces.

use std::os::fd::AsFd;

use super::*;
use crate::fixture::packets::{ethernet, text_of};
use crate::fixture::{Cable, cable, capture, index, receive, send_frames, take, texts_until};
use crate::packet::{Capture, Fanout, attach};
use crate::test_env::create_tun;
use mcr_testnet::LinkSetup;
use mcr_testnet::NetNamespace;

const END: &str = "end";

fn with_end() -> FilterProgram {
    let mut list = destinations();
    list.push(wanted("239.9.9.9", 9));
    FilterProgram::for_destinations(&list)
}

/// The texts of the cases that must pass: their places in the list.
fn expected() -> Vec<String> {
    let cases = cases();
    let passing = cases.iter().enumerate().filter(|(_, (_, _, expected))| *expected);
    passing.map(|(place, _)| place.to_string()).collect()
}

fn frames() -> Vec<Vec<u8>> {
    let packets = cases().into_iter().map(|(_, packet, _)| packet);
    packets.chain([datagram("239.9.9.9", 9, END)]).map(|packet| ethernet(&packet)).collect()
}

#[test]
fn on_a_cable() {
    let cable = cable();
    let capture = cable.capture_here(&with_end());
    cable.send_frames(&frames());
    assert_eq!(texts_until(&capture, END), expected());
}

#[test]
fn on_loopback() {
    let namespace = NetNamespace::create().unwrap();
    let mut setup = LinkSetup::in_namespace(&namespace).unwrap();
    setup.set_up("lo", true).unwrap();
    let lo = index(&mut setup, "lo");
    let capture = namespace.run(|| capture(lo, &with_end(), Fanout::New).0).unwrap();
    namespace.run(|| send_frames(lo, &frames())).unwrap();
    assert_eq!(texts_until(&capture, END), expected());
}

#[test]
fn on_an_interface_without_link_header() {
    let namespace = NetNamespace::create().unwrap();
    let mut setup = LinkSetup::in_namespace(&namespace).unwrap();
    let tun = match namespace.run(|| create_tun("tun0")).unwrap() {
        Ok(tun) => tun,
        Err(error) => {
            println!("skipped: no tun interface: {error}");
            return;
        }
    };
    setup.disable_automatic_ipv6("tun0").unwrap();
    setup.set_up("tun0", true).unwrap();
    let index = index(&mut setup, "tun0");
    let capture = namespace.run(|| capture(index, &with_end(), Fanout::New).0).unwrap();
    for (_, packet, _) in cases() {
        rustix::io::write(&tun, &packet).unwrap();
    }
    rustix::io::write(&tun, &datagram("239.9.9.9", 9, END)).unwrap();
    assert_eq!(texts_until(&capture, END), expected());
    rustix::io::write(&tun, &datagram("239.1.1.1", 5000, "again")).unwrap();
    let frame = receive(&capture);
    assert_eq!(frame[10], 0x45, "the IP header follows the virtio header");
}

#[test]
fn replaced_while_frames_arrive() {
    let cable = cable();
    let old = FilterProgram::for_destinations(&[wanted("239.1.1.1", 5000), wanted("239.9.9.9", 9)]);
    let new = FilterProgram::for_destinations(&[wanted("239.1.1.2", 5000), wanted("239.9.9.9", 9)]);
    let capture = cable.capture_here(&old);
    let send = |text: &str| {
        let both = ["239.1.1.1", "239.1.1.2"].map(|group| format!("{group} {text}"));
        let packets = both.iter().map(|full| datagram(full.split(' ').next().unwrap(), 5000, full));
        let all: Vec<_> =
            packets.chain([datagram("239.9.9.9", 9, END)]).map(|packet| ethernet(&packet)).collect();
        cable.send_frames(&all);
    };
    send("before");
    assert_eq!(capture.attach_filter(&new).unwrap(), Precision::Exact);
    send("after");
    assert_eq!(texts_until(&capture, END), ["239.1.1.1 before"], "what is queued stays");
    assert_eq!(texts_until(&capture, END), ["239.1.1.2 after"]);
    capture.attach_filter(&FilterProgram::reject_all()).unwrap();
    send("refused");
    capture.attach_filter(&old).unwrap();
    send("last");
    assert_eq!(texts_until(&capture, END), ["239.1.1.1 last"]);
}

/// Sends to the first, a middle, the last and two unwanted destinations.
fn assert_filters(cable: &Cable, capture: &Capture, wanted: &[FilterDestination]) {
    let chosen = [0, wanted.len() / 2, wanted.len() - 1].map(|place| wanted[place].address.to_string());
    let strangers = ["239.200.0.1".to_owned(), "ff15::ffff:1".to_owned()];
    let all = strangers.iter().chain(&chosen);
    let frames: Vec<_> = all.map(|address| ethernet(&datagram(address, 5000, address))).collect();
    cable.send_frames(&frames);
    let arrived: Vec<_> = (0..chosen.len()).map(|_| text_of(&receive(capture))).collect();
    assert_eq!(arrived, chosen);
    assert_eq!(take(capture), None);
}

#[test]
fn two_thousand_destinations_on_a_real_socket() {
    let cable = cable();
    for group in [group4, group6] {
        let list = many(2_000, |n| FilterDestination { address: group(n), port: 5000, promiscuous: false });
        let capture = cable.capture_here(&FilterProgram::for_destinations(&list));
        assert_filters(&cable, &capture, &list);
        // The old one still counts against the socket's memory while the new one is taken.
        let other =
            many(2_000, |n| FilterDestination { address: group(n + 1), port: 5000, promiscuous: false });
        let precision = capture.attach_filter(&FilterProgram::for_destinations(&other)).unwrap();
        assert_eq!(precision, Precision::Exact);
        assert_filters(&cable, &capture, &other);
    }
}

/// `net.core.optmem_max` was 20 KiB for decades.
#[test]
fn a_kernel_with_little_memory_gets_a_coarser_filter() {
    let cable = cable();
    let limited =
        cable.here.run(|| std::fs::write("/proc/sys/net/core/optmem_max", "20480").is_ok()).unwrap();
    if !limited {
        println!("skipped: net.core.optmem_max can't be set in a network namespace here");
        return;
    }
    let list = many(2_000, |n| FilterDestination { address: group4(n), port: 5000, promiscuous: false });
    let capture = cable.capture_here(&with_end());
    let precision = attach(capture.as_fd(), &FilterProgram::for_destinations(&list)).unwrap();
    assert!(precision > Precision::Addresses, "{precision:?}");
    assert_filters(&cable, &capture, &list);
}
