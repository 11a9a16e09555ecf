//! Real interfaces in namespaces of their own.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::*;
use crate::clock;
use crate::fixture::index;
use crate::test_env::create_tun;
use mcr_testnet::LinkSetup;
use mcr_testnet::NetNamespace;

struct TestNamespace {
    namespace: NetNamespace,
    setup: LinkSetup,
    monitor: NetworkMonitor,
}

fn place() -> TestNamespace {
    let namespace = NetNamespace::create().unwrap();
    let setup = LinkSetup::in_namespace(&namespace).unwrap();
    let monitor = namespace.run(NetworkMonitor::open).unwrap().unwrap();
    TestNamespace { namespace, setup, monitor }
}

impl TestNamespace {
    /// Reads events until one fits.
    fn event(&mut self, what: &str, fits: impl Fn(&NetworkEvent) -> bool) -> NetworkEvent {
        let deadline = clock::monotonic() + Duration::from_secs(10);
        let mut seen = Vec::new();
        while clock::monotonic() < deadline {
            for event in self.monitor.read_events().unwrap() {
                if fits(&event) {
                    return event;
                }
                seen.push(event);
            }
            let timeout = Timespec { tv_sec: 1, tv_nsec: 0 };
            poll(&mut [PollFd::new(&self.monitor, PollFlags::IN)], Some(&timeout)).unwrap();
        }
        panic!("no event: {what}; seen {seen:?}");
    }

    fn link(&mut self, name: &str) -> Option<Link> {
        self.monitor.dump().unwrap().0.into_iter().find(|link| link.name == name)
    }

    fn addresses(&mut self, name: &str) -> Vec<Address> {
        let index = index(&mut self.setup, name);
        self.monitor.dump().unwrap().1.into_iter().filter(|address| address.ifindex == index).collect()
    }
}

#[test]
fn a_new_namespace_has_loopback_only() {
    let mut place = place();
    let (links, addresses) = place.monitor.dump().unwrap();
    let names: Vec<_> = links.iter().map(|link| (link.name.as_str(), link.kind, link.up)).collect();
    assert!(names.contains(&("lo", LinkKind::Loopback, false)), "{names:?}");
    assert!(addresses.is_empty());

    place.setup.set_up("lo", true).unwrap();
    let addresses = place.addresses("lo");
    assert!(
        addresses.iter().any(|address| address.address == IpAddr::V4(Ipv4Addr::LOCALHOST)),
        "{addresses:?}"
    );
}

#[test]
fn a_veth_is_followed_from_creation_to_removal() {
    let mut place = place();
    place.setup.create_veth("left", "right", &place.namespace).unwrap();
    let link = place.link("left").unwrap();
    assert_eq!((link.kind, link.mtu, link.up, link.carrier), (LinkKind::Ethernet, 1500, false, false));
    assert!(link.multicast && !link.bridge_port && !link.vlan);

    for name in ["left", "right"] {
        place.setup.set_up(name, true).unwrap();
    }
    place.event(
        "carrier",
        |event| matches!(event, NetworkEvent::LinkChanged(link) if link.name == "left" && link.carrier),
    );

    place.setup.set_mtu("left", 9000).unwrap();
    place.event(
        "MTU",
        |event| matches!(event, NetworkEvent::LinkChanged(link) if link.name == "left" && link.mtu == 9000),
    );

    place.setup.set_up("right", false).unwrap();
    place.event("carrier lost", |event| matches!(event, NetworkEvent::LinkChanged(link) if link.name == "left" && link.up && !link.carrier));

    place.setup.rename("left", "renamed").unwrap();
    place.event("rename", |event| matches!(event, NetworkEvent::LinkChanged(new) if new.name == "renamed" && new.ifindex == link.ifindex));

    place.setup.delete("renamed").unwrap();
    place.event("removal", |event| *event == NetworkEvent::LinkRemoved(link.ifindex));
    assert_eq!(place.link("renamed"), None);
    assert_eq!(place.setup.delete("renamed").unwrap_err().errno(), Some(libc::ENODEV));
}

#[test]
fn a_veth_connects_two_namespaces() {
    let mut here = place();
    let mut there = place();
    here.setup.create_veth("eth0", "eth0", &there.namespace).unwrap();
    assert!(here.link("eth0").is_some() && there.link("eth0").is_some());
    assert_eq!(
        here.setup.create_veth("eth0", "x", &there.namespace).unwrap_err().errno(),
        Some(libc::EEXIST)
    );
}

#[test]
fn addresses_are_added_and_removed_and_usable_immediately() {
    let mut place = place();
    place.setup.create_veth("left", "right", &place.namespace).unwrap();
    for name in ["left", "right"] {
        place.setup.disable_automatic_ipv6(name).unwrap();
        place.setup.set_up(name, true).unwrap();
    }
    assert_eq!(place.addresses("left"), [], "a link-local address appeared by itself");
    let index = index(&mut place.setup, "left");
    for (address, prefix) in [("10.1.0.1", 24), ("fd01::1", 64)] {
        let address: IpAddr = address.parse().unwrap();
        let expected = Address { ifindex: index, address, prefix, usable: true };
        place.setup.add_address("left", address, prefix).unwrap();
        assert!(place.addresses("left").contains(&expected));
        place.event("address", |event| *event == NetworkEvent::AddressAdded(expected.clone()));
        place.setup.remove_address("left", address, prefix).unwrap();
        place.event(
            "no address",
            |event| matches!(event, NetworkEvent::AddressRemoved(gone) if gone.address == address),
        );
        assert_eq!(place.addresses("left"), []);
    }
}

#[test]
fn an_address_under_detection_is_not_usable_yet() {
    let mut place = place();
    place.setup.create_veth("left", "right", &place.namespace).unwrap();
    for name in ["left", "right"] {
        place.setup.set_up(name, true).unwrap();
    }
    let tentative = |event: &NetworkEvent, usable: bool| matches!(event, NetworkEvent::AddressAdded(new) if new.address.is_ipv6() && new.usable == usable);
    place.event("link-local address after detection", |event| tentative(event, true));
    let all = place.addresses("left");
    assert!(all.iter().all(|address| address.prefix == 64), "{all:?}");
}

#[test]
fn a_bridge_port_is_recognized_and_leaving_the_bridge_is_not_a_removal() {
    let mut place = place();
    place.setup.create_bridge("bridge", true).unwrap();
    place.setup.create_veth("left", "right", &place.namespace).unwrap();
    place.setup.set_master("left", Some("bridge")).unwrap();
    assert!(place.link("left").unwrap().bridge_port);
    assert!(!place.link("bridge").unwrap().bridge_port);

    let index = place.link("left").unwrap().ifindex;
    place.event(
        "port",
        |event| matches!(event, NetworkEvent::LinkChanged(link) if link.ifindex == index && link.bridge_port),
    );
    place.setup.set_master("left", None).unwrap();
    place.setup.set_mtu("left", 1400).unwrap();
    let next = place.event("no port", |event| match event {
        NetworkEvent::LinkChanged(link) => link.ifindex == index && link.mtu == 1400,
        NetworkEvent::LinkRemoved(_) => true,
        _ => false,
    });
    assert!(matches!(next, NetworkEvent::LinkChanged(link) if !link.bridge_port));
}

#[test]
fn a_tun_interface_has_no_header_and_ends_with_its_descriptor() {
    let mut place = place();
    let held = match place.namespace.run(|| create_tun("tun0")).unwrap() {
        Err(error) if error.errno() == Some(libc::EACCES) => {
            println!("skipped: /dev/net/tun is for root only");
            return;
        }
        result => result.unwrap(),
    };
    let link = place.link("tun0").unwrap();
    assert_eq!(link.kind, LinkKind::NoHeader);
    drop(held);
    place.event("removal", |event| *event == NetworkEvent::LinkRemoved(link.ifindex));
    assert!(place.namespace.run(|| create_tun("a-name-too-long-for-one")).unwrap().is_err());
}

#[test]
fn more_events_than_fit_are_an_overrun_and_a_dump_still_works() {
    let mut place = place();
    place.monitor.events.set_receive_buffer(4096).unwrap();
    for mtu in 1300..1340 {
        place.setup.create_veth("left", "right", &place.namespace).unwrap();
        place.setup.set_mtu("left", mtu).unwrap();
        place.setup.delete("left").unwrap();
    }
    let events = place.monitor.read_events().unwrap();
    assert!(events.contains(&NetworkEvent::Overrun), "{} events", events.len());
    assert!(place.link("lo").is_some());
}

#[test]
fn routes_are_added() {
    let mut place = place();
    place.setup.create_veth("left", "right", &place.namespace).unwrap();
    for name in ["left", "right"] {
        place.setup.set_up(name, true).unwrap();
    }
    place.setup.add_address("left", "10.1.0.1".parse().unwrap(), 24).unwrap();
    place.setup.add_route("left", "192.0.2.0".parse().unwrap(), 24, None).unwrap();
    place.setup.add_route("left", "0.0.0.0".parse().unwrap(), 0, Some("10.1.0.2".parse().unwrap())).unwrap();
    let again = place.setup.add_route("left", "192.0.2.0".parse().unwrap(), 24, None);
    assert_eq!(again.unwrap_err().errno(), Some(libc::EEXIST));
}
