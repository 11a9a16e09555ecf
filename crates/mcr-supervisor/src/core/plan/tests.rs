use super::samples::*;
use super::*;
use mcr_sys::filter::FilterDestination;
use mcr_sys::network::{Address, NetworkEvent};
use mcr_sys::network::{Link, LinkKind};

fn make(config: &Config, network: &NetworkState) -> Plan {
    let mut cores = Cores::new([0, 1]);
    cores.assign(config);
    plan(Inputs {
        config,
        incarnations: &Incarnations::new(),
        network,
        cores: &cores,
        io: None,
        closed: &ClosedGroups::new(),
    })
}

fn waiting(reason: &str) -> Readiness {
    Readiness::Waiting(reason.to_owned())
}

fn interface(plan: &Plan, ifindex: u32) -> &PlannedInterface {
    plan.interfaces.iter().find(|(id, _)| id.ifindex == IfIndex::new(ifindex)).unwrap().1
}

#[test]
fn a_rule_becomes_a_worker_a_membership_a_filter_entry_and_a_socket() {
    let plan = make(&config([rule("eth0", "239.1.1.1", 5000, "eth1")]), &network());
    let eth0 = interface(&plan, 10);
    assert_eq!(eth0.cores, BTreeSet::from([0]));
    assert_eq!(
        *eth0.wanted,
        [FilterDestination { address: address("239.1.1.1"), port: 5000, promiscuous: false }]
    );
    let mac = |ifindex: u8| [2, 0, 0, 0, 0, ifindex];
    for (source, from, own) in [
        ("10.0.0.2", [9; 6], true),
        ("fd00::2", [9; 6], true),
        ("10.3.0.2", [9; 6], false),
        ("10.3.0.2", mac(13), true),
        ("fd03::2", mac(10), true),
        ("10.9.0.1", mac(13), false),
    ] {
        assert_eq!(eth0.own.contains(address(source), from), own, "{source} from {from:?}");
    }
    let egress = EgressKey {
        ifindex: IfIndex::new(11),
        ipv6: false,
        ttl: Some(16),
        dscp: Some(0),
        source: None,
        per_datagram: PerDatagram::Nothing,
        multicast_loop: false,
        send_buffer_bytes: Settings::default().send_buffer_bytes,
        marked: false,
        mark: 0,
    };
    assert_eq!(eth0.relays[0].outputs[0].egress, Some(egress));
    assert_eq!(eth0.relays[0].outputs[0].address, "239.2.0.1:5000".parse().unwrap());
    let membership = Membership { ifindex: IfIndex::new(10), group: address("239.1.1.1"), source: None };
    assert_eq!(plan.memberships.keys().collect::<Vec<_>>(), [&membership]);
    assert!(plan.absorbers.is_empty());
    assert_eq!((&plan.rules[0].input, &plan.rules[0].outputs[0]), (&Readiness::Ready, &Readiness::Ready));
}

/// A change to the sample network, the resulting obstacles of the rule eth0 → eth1 (input, output), and whether it is
/// installed.
type Obstacle = (&'static str, Vec<NetworkEvent>, Option<&'static str>, Option<&'static str>, bool);

fn obstacles() -> Vec<Obstacle> {
    let changed = |link: Link| vec![NetworkEvent::LinkChanged(link)];
    let gone = |ifindex| vec![NetworkEvent::LinkRemoved(IfIndex::new(ifindex))];
    let tentative = Address { usable: false, ..host_address(11, "10.1.0.2") };
    vec![
        ("nothing", vec![], None, None, true),
        ("no input", gone(10), Some("interface eth0 does not exist"), None, false),
        (
            "input down",
            changed(Link { up: false, ..link(10, "eth0") }),
            Some("interface eth0 is down"),
            None,
            true,
        ),
        (
            "input without carrier",
            changed(Link { carrier: false, ..link(10, "eth0") }),
            Some("interface eth0 has no carrier"),
            None,
            true,
        ),
        ("input renamed", changed(link(10, "other")), Some("interface eth0 does not exist"), None, false),
        (
            "input of a strange kind",
            changed(Link { kind: LinkKind::Other(801), ..link(10, "eth0") }),
            Some("interface eth0 has an unsupported link type (ARPHRD 801)"),
            None,
            false,
        ),
        (
            "input without multicast",
            changed(Link { routed_ipvlan: true, ..link(10, "eth0") }),
            Some("eth0 is an ipvlan in L3 mode, which carries no multicast"),
            None,
            true,
        ),
        (
            "output without multicast",
            changed(Link { routed_ipvlan: true, ..link(11, "eth1") }),
            None,
            Some("eth1 is an ipvlan in L3 mode, which carries no multicast"),
            true,
        ),
        ("no output", gone(11), None, Some("interface eth1 does not exist"), true),
        (
            "output down",
            changed(Link { up: false, ..link(11, "eth1") }),
            None,
            Some("interface eth1 is down"),
            true,
        ),
        (
            "output without address",
            vec![NetworkEvent::AddressRemoved(host_address(11, "10.1.0.2"))],
            None,
            Some("eth1 has no IPv4 address"),
            true,
        ),
        (
            "output with a tentative address",
            vec![NetworkEvent::AddressAdded(tentative)],
            None,
            Some("eth1 has no usable IPv4 address yet"),
            true,
        ),
    ]
}

#[test]
fn each_obstacle_has_its_words() {
    for (what, events, input, output, installed) in obstacles() {
        let mut network = network();
        events.into_iter().for_each(|event| assert!(network.apply(event).is_some(), "{what}"));
        let plan = make(&config([rule("eth0", "239.1.1.1", 5000, "eth1")]), &network);
        let readiness = |expected: Option<&str>| expected.map_or(Readiness::Ready, waiting);
        assert_eq!(plan.rules[0].input, readiness(input), "{what}");
        assert_eq!(plan.rules[0].outputs[0], readiness(output), "{what}");
        assert_eq!(plan.rules[0].installed.is_some(), installed, "{what}");
        assert_eq!(plan.memberships.len(), usize::from(installed), "{what}");
        assert_eq!(plan.rules[0].egress[0].is_some(), output.is_none(), "{what}");
    }
}

#[test]
fn sources_become_memberships_of_their_own_and_are_shared_between_rules() {
    let mut one = rule("eth0", "232.1.1.1", 5000, "eth1");
    one.input.sources = vec![address("10.9.0.1"), address("10.9.0.2")];
    let mut two = rule("eth0", "232.1.1.1", 5001, "eth1");
    two.input.sources = vec![address("10.9.0.2")];
    let plan = make(&config([one, two]), &network());
    let counted: Vec<_> = plan.memberships.iter().map(|(m, p)| (m.source, p.rules)).collect();
    assert_eq!(counted, [(Some(address("10.9.0.1")), 1), (Some(address("10.9.0.2")), 2)]);
    assert_eq!(interface(&plan, 10).wanted.len(), 2);
}

#[test]
fn a_unicast_input_is_absorbed_and_needs_the_address() {
    let mut config = config([rule("eth0", "10.0.0.2", 5000, "eth1")]);
    let plan_here = make(&config, &network());
    assert_eq!(plan_here.absorbers.len(), 1);
    assert!(plan_here.memberships.is_empty());
    config.rules[0].input.group = address("10.0.0.77");
    let elsewhere = make(&config, &network());
    assert_eq!(elsewhere.rules[0].input, waiting("this host has no address 10.0.0.77"));
    assert!(elsewhere.absorbers.is_empty() && elsewhere.interfaces.is_empty());
}

#[test]
fn outputs_that_differ_in_what_a_socket_fixes_get_their_own() {
    let mut rule = rule("eth0", "239.1.1.1", 5000, "eth1");
    rule.outputs = vec![
        output("eth1", "239.2.0.1", 1),
        output("eth1", "239.2.0.2", 2),
        output("eth1", "239.2.0.3", 3),
        output("eth1", "239.2.0.4", 4),
        output("eth1", "239.2.0.5", 5),
        output("eth1", "ff02::1234", 6),
        output("eth1", "ff15::1234", 7),
        output("eth1", "239.2.0.5", 8),
    ];
    let options = [(2, "ttl=decrement"), (3, "dscp=34"), (4, "source=10.1.0.2"), (7, "source=10.77.0.2")];
    for (at, option) in options {
        rule.outputs[at].options.set(option).unwrap();
    }
    let plan = make(&config([rule]), &network());
    let outputs = &interface(&plan, 10).relays[0].outputs;
    let keys: BTreeSet<_> = outputs.iter().filter_map(|o| o.egress).collect();
    assert_eq!(keys.len(), 5);
    assert_eq!(outputs[0].egress, outputs[1].egress);
    assert_eq!(outputs[5].address, "[ff02::1234%11]:6".parse().unwrap());
    assert_eq!(outputs[6].address, "[ff15::1234]:7".parse().unwrap());
    assert_eq!(plan.rules[0].outputs[7], waiting("this host has no address 10.77.0.2"));
}

#[test]
fn a_broadcast_input_takes_all_broadcast_addresses_of_its_interface() {
    let plan = make(
        &config([
            rule("eth0", "255.255.255.255", 9, "eth1"),
            rule("eth1", "10.1.0.255", 9, "eth0"),
            rule("eth1", "10.0.0.255", 9, "eth0"),
            rule("lo", "255.255.255.255", 9, "eth0"),
        ]),
        &network(),
    );
    let wanted = |text: &str| FilterDestination { address: address(text), port: 9, promiscuous: false };
    assert_eq!(*interface(&plan, 10).wanted, [wanted("10.0.0.255"), wanted("255.255.255.255")]);
    assert_eq!(*interface(&plan, 11).wanted, [wanted("10.1.0.255")]);
    assert!(plan.memberships.is_empty() && plan.absorbers.is_empty());
    let inputs = [0, 1, 2, 3].map(|n| plan.rules[n].input.clone());
    assert_eq!(
        inputs,
        [
            Readiness::Ready,
            Readiness::Ready,
            waiting("10.0.0.255 is the broadcast address of a network of eth0"),
            waiting("interface lo has no broadcast"),
        ]
    );
}

#[test]
fn loopback_relays_its_own_datagrams() {
    let plan = make(&config([rule("lo", "239.1.1.1", 5000, "eth1")]), &network());
    assert_eq!(interface(&plan, 1).own, Own::default());
}

#[test]
fn a_pinned_interface_is_planned_without_rules() {
    let mut config = config([]);
    config.pinning.insert("eth2".parse().unwrap(), vec![0, 1]);
    config.pinning.insert("eth9".parse().unwrap(), vec![1]);
    let plan = make(&config, &network());
    assert_eq!(plan.interfaces.len(), 1);
    let eth2 = interface(&plan, 12);
    assert!(eth2.pinned && eth2.relays.is_empty());
    assert_eq!(eth2.cores, BTreeSet::from([0, 1]));
}
