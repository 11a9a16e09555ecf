use super::*;
use crate::core::plan::samples::{host_address, link, network};

#[test]
fn rules_follow_names_through_a_swap() {
    let mut network = network();
    for (ifindex, name) in [(10, "swap"), (11, "eth0"), (10, "eth1")] {
        assert!(network.apply(NetworkEvent::LinkChanged(link(ifindex, name))).is_some());
    }
    assert_eq!(network.link("eth0").map(|l| l.ifindex), Some(IfIndex::new(11)));
    assert_eq!(network.link("eth1").map(|l| l.ifindex), Some(IfIndex::new(10)));
    assert!(network.link("swap").is_none());
}

#[test]
fn what_is_known_already_is_no_change() {
    let mut network = network();
    assert_eq!(network.apply(NetworkEvent::LinkChanged(link(10, "eth0"))), None);
    assert_eq!(network.apply(NetworkEvent::AddressAdded(host_address(10, "10.0.0.2"))), None);
    assert_eq!(network.apply(NetworkEvent::AddressRemoved(host_address(10, "10.0.0.9"))), None);
    assert_eq!(network.apply(NetworkEvent::LinkRemoved(IfIndex::new(99))), None);
    assert_eq!(network.apply(NetworkEvent::Overrun), None);
}

#[test]
fn a_dump_tells_what_events_had_missed() {
    let mut network = network();
    let links: Vec<Link> = network
        .links()
        .filter(|l| l.name != "eth3")
        .map(|l| if l.name == "eth1" { Link { up: false, ..l.clone() } } else { l.clone() })
        .collect();
    let addresses: Vec<Address> = links
        .iter()
        .flat_map(|l| network.addresses(l.ifindex).to_vec())
        .filter(|a| a.ifindex.to_raw() != 12)
        .collect();
    let changed = network.replace(links.clone(), addresses.clone());
    assert_eq!(changed, [11, 12, 13].map(IfIndex::new).into());
    assert!(network.replace(links, addresses).is_empty(), "the same dump again changes nothing");
}

#[test]
fn a_carrier_that_returns_is_counted_by_events_and_dumps() {
    let mut network = network();
    let without = Link { carrier: false, ..link(10, "eth0") };
    network.apply(NetworkEvent::LinkChanged(without.clone()));
    assert_eq!(network.carrier_epoch(IfIndex::new(10)), 0);
    network.apply(NetworkEvent::LinkChanged(link(10, "eth0")));
    assert_eq!(network.carrier_epoch(IfIndex::new(10)), 1);
    network.replace(vec![without], vec![]);
    network.replace(vec![link(10, "eth0")], vec![]);
    assert_eq!(network.carrier_epoch(IfIndex::new(10)), 2);
}

#[test]
fn a_removed_link_takes_its_addresses_along() {
    let mut network = network();
    assert!(network.has_address("10.0.0.2".parse().unwrap()));
    network.apply(NetworkEvent::LinkRemoved(IfIndex::new(10)));
    assert!(!network.has_address("10.0.0.2".parse().unwrap()));
    assert_eq!(network.own_addresses().len(), 7);
}
