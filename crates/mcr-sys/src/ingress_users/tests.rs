use std::process::Command;

use mcr_testnet::LinkSetup;
use rustix::net::{AddressFamily, SocketType, ipproto, socket};

use super::*;
use crate::fixture::{Cable, cable};

fn users(cable: &Cable) -> [Option<IngressUser>; 2] {
    cable.here.run(|| IngressUsers::look().unwrap().of(cable.here_index)).unwrap()
}

fn run(cable: &Cable, command: &str) {
    let words: Vec<String> = command.split(' ').map(|word| word.replace('_', " ")).collect();
    let run = || Command::new(&words[0]).args(&words[1..]).output().unwrap();
    let output = cable.here.run(run).unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn nobody_takes_what_arrives_on_a_cable() {
    let cable = cable();
    assert_eq!(users(&cable), [None; 2]);
    let gone = IfIndex::new(77);
    assert_eq!(
        cable.here.run(|| IngressUsers::look().unwrap().of(gone)).unwrap(),
        [Some(IngressUser::Gone); 2]
    );
}

#[test]
fn interfaces_above_are_found() {
    let one = cable();
    let mut setup = LinkSetup::in_namespace(&one.here).unwrap();
    setup.create_macvlan("above", "cable").unwrap();
    assert_eq!(users(&one), [Some(IngressUser::Upper); 2]);
    // In a container it is seen by what it listens to.
    setup.move_to("above", &one.there).unwrap();
    assert_eq!(users(&one), [None; 2]);
    let group = [239, 1, 1, 1].into();
    let mac = [1, 0, 0x5e, 1, 1, 1];
    let is_wanted =
        || one.here.run(|| IngressUsers::look().unwrap().is_wanted_above(one.here_index, mac)).unwrap();
    let join = |namespace: &mcr_testnet::NetNamespace, address: [u8; 4]| {
        let join = || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.join_multicast_v4(&group, &address.into()).unwrap();
            socket
        };
        namespace.run(join).unwrap()
    };
    let _own = join(&one.here, [10, 9, 0, 2]);
    assert!(!is_wanted());
    let mut there = LinkSetup::in_namespace(&one.there).unwrap();
    there.add_address("above", [10, 9, 1, 3].into(), 24).unwrap();
    there.set_up("above", true).unwrap();
    let _foreign = join(&one.there, [10, 9, 1, 3]);
    assert!(is_wanted());

    let bridged = cable();
    let mut setup = LinkSetup::in_namespace(&bridged.here).unwrap();
    setup.create_bridge("br0", false).unwrap();
    setup.set_master("cable", Some("br0")).unwrap();
    assert_eq!(users(&bridged), [Some(IngressUser::Master); 2]);
}

#[test]
fn raw_sockets_of_udp_are_found() {
    let cable = cable();
    let open = |family, protocol| {
        cable.here.run(|| socket(family, SocketType::RAW, Some(protocol)).unwrap()).unwrap()
    };
    let _other = open(AddressFamily::INET, ipproto::ICMP);
    assert_eq!(users(&cable), [None; 2]);
    let _four = open(AddressFamily::INET, ipproto::UDP);
    assert_eq!(users(&cable), [Some(IngressUser::RawSocket), None]);
    let _six = open(AddressFamily::INET6, ipproto::UDP);
    assert_eq!(users(&cable), [Some(IngressUser::RawSocket); 2]);
}

#[test]
fn rules_of_nftables_are_found() {
    let cable = cable();
    run(&cable, "nft add table ip t");
    run(&cable, "nft add chain ip t filter { type filter hook prerouting priority 0 ; }");
    run(&cable, "nft add chain ip t out { type nat hook postrouting priority 0 ; }");
    assert_eq!(users(&cable), [None; 2]);
    run(&cable, "nft add chain ip t in { type nat hook prerouting priority 0 ; }");
    assert_eq!(users(&cable), [Some(IngressUser::AddressTranslation), None]);
    run(&cable, "nft add table netdev t");
    run(&cable, "nft add chain netdev t other { type filter hook ingress device lo priority 0 ; }");
    assert_eq!(users(&cable), [Some(IngressUser::AddressTranslation), None]);
    run(&cable, "nft add chain netdev t in { type filter hook ingress device cable priority 0 ; }");
    assert_eq!(users(&cable), [Some(IngressUser::Filters); 2]);
}

#[test]
fn filters_of_tc_are_found() {
    let cable = cable();
    run(&cable, "tc qdisc add dev cable clsact");
    assert_eq!(users(&cable), [None; 2]);
    run(&cable, "tc filter add dev cable ingress bpf bytecode 1,6_0_0_0");
    assert_eq!(users(&cable), [Some(IngressUser::Filters); 2]);
}

#[test]
fn tables_of_proc_are_read() {
    let raw = "  sl  local_address rem_address\n  17: 00000000:0011 00000000:0000 07\n";
    assert!(receives_udp(raw));
    assert!(!receives_udp(&raw.replace(":0011", ":0001")));
    assert!(!receives_udp(""));
    let igmp = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n2\teth0      :     2      V3\n\t\t\t\t010101EF     1 0:00000000\t\t0\n";
    let igmp6 = "2    eth0            ff150000000000000000000000000001     1 00000004 0\n";
    let device =
        "2    eth0            1     0     01005e010101\n2    eth0            2     0     333300000001\n";
    let foreign = foreign_filters(device, igmp, igmp6);
    assert_eq!(foreign.into_iter().collect::<Vec<_>>(), [(2, [0x33, 0x33, 0, 0, 0, 1])]);
    assert_eq!(foreign_filters(device, "", "").len(), 2);
    assert_eq!(foreign_filters("nonsense\n1 2 3 4 5\n", "x", "y"), BTreeSet::new());
}
