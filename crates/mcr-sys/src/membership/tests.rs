//! Memberships are read from the kernel's lists in the namespace (/proc/net/igmp, igmp6, mcfilter, mcfilter6).

use super::*;
use crate::clock::monotonic;
use crate::fixture::{Cable, DEADLINE, cable, index};
use mcr_testnet::LinkSetup;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn proc_net(file: &str) -> String {
    std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap()
}

/// The kernel joins groups of link scope by itself, at any time.
fn is_the_kernels_own(group: &IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.octets()[..3] == [224, 0, 0],
        IpAddr::V6(group) => matches!(group.segments()[0], 0xff01 | 0xff02),
    }
}

/// Groups that some socket joined on an interface, from the thread's namespace.
fn groups(ifindex: IfIndex) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    let mut current = 0;
    for line in proc_net("igmp").lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with(|first: char| first.is_ascii_digit()) {
            current = fields[0].parse().unwrap();
        } else if current == ifindex.to_raw() {
            let address = u32::from_str_radix(fields[0], 16).unwrap();
            found.insert(IpAddr::from(address.to_ne_bytes()));
        }
    }
    for line in proc_net("igmp6").lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields[0].parse() == Ok(ifindex.to_raw()) {
            found.insert(IpAddr::from(u128::from_str_radix(fields[2], 16).unwrap().to_be_bytes()));
        }
    }
    found.retain(|group| !is_the_kernels_own(group));
    found
}

/// Pairs of group and source that the kernel includes or excludes on an interface.
fn sources(ifindex: IfIndex) -> BTreeSet<(IpAddr, IpAddr)> {
    let number = |text: &str| text.trim_start_matches("0x").to_owned();
    let four = |text: &str| IpAddr::from(u32::from_str_radix(&number(text), 16).unwrap().to_be_bytes());
    let six = |text: &str| IpAddr::from(u128::from_str_radix(&number(text), 16).unwrap().to_be_bytes());
    let mut found = BTreeSet::new();
    for (file, address) in
        [("mcfilter", &four as &dyn Fn(&str) -> IpAddr), ("mcfilter6", &six as &dyn Fn(&str) -> IpAddr)]
    {
        for line in proc_net(file).lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[0].parse() == Ok(ifindex.to_raw()) {
                found.insert((address(fields[2]), address(fields[3])));
            }
        }
    }
    found
}

/// The kernel joins the group that neighbors ask in (RFC 4861, section 2.3) some time after the address is given. Its
/// list of sources has nothing of an interface whose newest group has none, so that one must be there before ours.
fn wait_for_solicited_node_group() {
    let end = monotonic() + DEADLINE;
    while !proc_net("igmp6").contains("ff0200000000000000000001ff000002") {
        assert!(monotonic() < end, "{}", proc_net("igmp6"));
        std::thread::yield_now();
    }
}

fn in_namespace(test: impl FnOnce(&Cable) + Send) {
    let cable = cable();
    let run = || {
        wait_for_solicited_node_group();
        test(&cable);
    };
    cable.here.run(run).unwrap();
}

fn group4(number: u8) -> IpAddr {
    IpAddr::from([239, 5, 5, number])
}

fn group6(number: u8) -> IpAddr {
    IpAddr::from([0xff15, 0, 0, 0, 0, 0, 5, u16::from(number)])
}

#[test]
fn two_hundred_groups_without_a_sysctl() {
    in_namespace(|cable| {
        for (group, sockets) in [(group4 as fn(u8) -> IpAddr, Some(10)), (group6, None)] {
            let mut pool = MembershipPool::new();
            let memberships: Vec<Membership> = (0..200)
                .map(|number| Membership { ifindex: cable.here_index, group: group(number), source: None })
                .collect();
            for membership in &memberships {
                pool.join(*membership).unwrap();
            }
            let expected: BTreeSet<IpAddr> = (0..200).map(group).collect();
            assert_eq!(groups(cable.here_index), expected);
            assert!(pool.joined().eq(&memberships));
            if let Some(sockets) = sockets {
                assert_eq!(pool.socket_count(), sockets, "20 groups a socket");
            }
            for membership in &memberships[..100] {
                pool.leave(membership).unwrap();
            }
            let rest: BTreeSet<IpAddr> = (100..200).map(group).collect();
            assert_eq!(groups(cable.here_index), rest);
            assert_eq!(pool.joined().count(), 100);
            drop(pool);
            assert_eq!(groups(cable.here_index), BTreeSet::new());
        }
    });
}

#[test]
fn sockets_with_room_are_reused_after_leaving() {
    in_namespace(|cable| {
        let mut pool = MembershipPool::new();
        let at = |number| Membership { ifindex: cable.here_index, group: group4(number), source: None };
        (0..40).for_each(|number| pool.join(at(number)).unwrap());
        assert_eq!(pool.socket_count(), 2);
        (0..5).for_each(|number| pool.leave(&at(number)).unwrap());
        (40..45).for_each(|number| pool.join(at(number)).unwrap());
        assert_eq!(pool.socket_count(), 2);
        (0..45).for_each(|number| pool.leave(&at(number)).unwrap());
        assert_eq!(pool.socket_count(), 0, "empty sockets are closed");
    });
}

#[test]
fn joining_and_leaving_twice_is_the_same_as_once() {
    in_namespace(|cable| {
        let mut pool = MembershipPool::new();
        for source in [None, Some(ip("10.9.0.1"))] {
            let membership = Membership { ifindex: cable.here_index, group: group4(1), source };
            pool.join(membership).unwrap();
            pool.join(membership).unwrap();
            assert_eq!(pool.joined().count(), 1);
            pool.leave(&membership).unwrap();
            pool.leave(&membership).unwrap();
            assert_eq!(groups(cable.here_index), BTreeSet::new());
        }
    });
}

#[test]
fn more_sources_than_a_socket_takes() {
    in_namespace(|cable| {
        let source4 = |number: u8| IpAddr::from([10, 50, 0, number]);
        let source6 = |number: u8| IpAddr::from([0xfd50, 0, 0, 0, 0, 0, 0, u16::from(number)]);
        for (group, source) in [
            (ip("232.1.1.1"), &source4 as &dyn Fn(u8) -> IpAddr),
            (ip("ff35::8000:1"), &source6 as &dyn Fn(u8) -> IpAddr),
        ] {
            let mut pool = MembershipPool::new();
            let at = |number| Membership { ifindex: cable.here_index, group, source: Some(source(number)) };
            let pairs = |numbers: std::ops::Range<u8>| -> BTreeSet<_> {
                numbers.map(|number| (group, source(number))).collect()
            };
            (0..150).for_each(|number| pool.join(at(number)).unwrap());
            assert_eq!(sources(cable.here_index), pairs(0..150));
            if group.is_ipv4() {
                assert_eq!(pool.socket_count(), 15, "10 sources a socket");
            }
            (0..149).for_each(|number| pool.leave(&at(number)).unwrap());
            assert_eq!(sources(cable.here_index), pairs(149..150));
            assert!(groups(cable.here_index).contains(&group));
            pool.leave(&at(149)).unwrap();
            assert_eq!(sources(cable.here_index), BTreeSet::new());
            assert!(!groups(cable.here_index).contains(&group));
            assert_eq!(pool.socket_count(), 0);
        }
    });
}

#[test]
fn any_source_and_source_specific_joins_of_one_group() {
    in_namespace(|cable| {
        for (group, source) in [("239.5.5.5", "10.50.0.1"), ("ff15::5", "fd50::1")] {
            let any = Membership { ifindex: cable.here_index, group: ip(group), source: None };
            let one = Membership { source: Some(ip(source)), ..any };
            let joined = || groups(cable.here_index).contains(&any.group);
            for (first, second) in [(any, one), (one, any)] {
                let mut pool = MembershipPool::new();
                pool.join(first).unwrap();
                pool.join(second).unwrap();
                assert_eq!(pool.joined().count(), 2);
                assert!(joined());
                pool.leave(&any).unwrap();
                assert!(joined());
                assert_eq!(sources(cable.here_index), BTreeSet::from([(any.group, ip(source))]));
                pool.leave(&one).unwrap();
                assert!(!joined());
            }
        }
    });
}

#[test]
fn one_group_on_two_interfaces() {
    in_namespace(|cable| {
        let lo = index(&mut LinkSetup::in_namespace(&cable.here).unwrap(), "lo");
        for group in [group4(9), group6(9)] {
            let mut pool = MembershipPool::new();
            for ifindex in [cable.here_index, lo] {
                pool.join(Membership { ifindex, group, source: None }).unwrap();
                assert!(groups(ifindex).contains(&group));
            }
            pool.leave(&Membership { ifindex: lo, group, source: None }).unwrap();
            assert!(!groups(lo).contains(&group));
            assert!(groups(cable.here_index).contains(&group));
        }
    });
}

/// Fact 22: a join needs no address on the interface.
#[test]
fn an_interface_without_address_can_join() {
    in_namespace(|cable| {
        let mut setup = LinkSetup::in_namespace(&cable.here).unwrap();
        setup.remove_address("cable", ip("10.9.0.2"), 24).unwrap();
        setup.remove_address("cable", ip("fd09::2"), 64).unwrap();
        let mut pool = MembershipPool::new();
        for (group, source) in [
            ("239.5.5.5", None),
            ("232.1.1.1", Some("10.50.0.1")),
            ("ff15::5", None),
            ("ff35::1", Some("fd50::1")),
        ] {
            let membership =
                Membership { ifindex: cable.here_index, group: ip(group), source: source.map(ip) };
            pool.join(membership).unwrap();
            assert!(groups(cable.here_index).contains(&ip(group)), "{group}");
        }
    });
}

/// Fact 24: the memberships of an interface end with it, and leaving them succeeds.
#[test]
fn memberships_of_a_deleted_interface_can_be_left_and_joined_on_its_replacement() {
    in_namespace(|cable| {
        let mut setup = LinkSetup::in_namespace(&cable.here).unwrap();
        let mut pool = MembershipPool::new();
        let all = |ifindex| {
            let with = |group: &str, source: Option<&str>| Membership {
                ifindex,
                group: ip(group),
                source: source.map(ip),
            };
            let mut all = vec![
                with("239.5.5.5", None),
                with("232.1.1.1", Some("10.50.0.1")),
                with("232.1.1.1", Some("10.50.0.2")),
                with("ff15::5", None),
                with("ff35::1", Some("fd50::1")),
                with("ff35::1", Some("fd50::2")),
            ];
            all.extend((0..40).map(|number| Membership { ifindex, group: group4(number), source: None }));
            all
        };
        let old = all(cable.here_index);
        old.iter().for_each(|membership| pool.join(*membership).unwrap());
        setup.delete("cable").unwrap();
        setup.create_veth("cable", "cable", &cable.there).unwrap();
        setup.set_up("cable", true).unwrap();
        let replacement = index(&mut setup, "cable");
        assert_ne!(replacement, cable.here_index);
        let new = all(replacement);
        for (old, new) in old.iter().zip(&new) {
            pool.leave(old).unwrap();
            pool.join(*new).unwrap();
            assert!(groups(replacement).contains(&new.group));
        }
        new.iter().for_each(|membership| pool.leave(membership).unwrap());
        assert_eq!(pool.socket_count(), 0);
    });
}

#[test]
fn a_failed_join_leaves_no_socket_behind() {
    in_namespace(|cable| {
        let mut pool = MembershipPool::new();
        let at = |group: &str, source: Option<&str>| Membership {
            ifindex: cable.here_index,
            group: ip(group),
            source: source.map(ip),
        };
        for (membership, errno) in [
            (at("10.9.0.1", None), Some(libc::EINVAL)),
            (at("fd09::1", None), Some(libc::EINVAL)),
            (at("239.5.5.5", Some("fd50::1")), None),
            (Membership { ifindex: IfIndex::new(987_654), ..at("239.5.5.5", None) }, Some(libc::ENODEV)),
            (
                Membership { ifindex: IfIndex::new(987_654), ..at("232.1.1.1", Some("10.9.0.1")) },
                Some(libc::ENODEV),
            ),
            (Membership { ifindex: IfIndex::new(987_654), ..at("ff15::5", None) }, Some(libc::ENODEV)),
        ] {
            let error = pool.join(membership).unwrap_err();
            assert_eq!(error.errno(), errno, "{membership:?}: {error}");
        }
        assert_eq!((pool.joined().count(), pool.socket_count()), (0, 0));
    });
}

#[test]
fn an_adopted_pool_matches_the_kernels_memberships() {
    in_namespace(|cable| {
        let ifindex = cable.here_index;
        let at = |group| Membership { ifindex, group, source: None };
        let from = |group, source: &str| Membership { ifindex, group, source: Some(ip(source)) };
        let mut first = MembershipPool::new();
        let mut all: Vec<Membership> = (0..25).map(|number| at(group4(number))).collect();
        all.extend([at(group6(1)), from(group6(2), "fd00::5"), from(group4(30), "10.1.1.5")]);
        all.iter().for_each(|membership| first.join(*membership).unwrap());
        // The first socket has room.
        all.drain(10..12).for_each(|membership| first.leave(&membership).unwrap());
        let revisions: Vec<u64> = first.sockets().map(|socket| socket.revision).collect();
        let sockets: Vec<(u64, OwnedFd, Vec<Membership>)> = first
            .sockets()
            .map(|socket| {
                (socket.number, socket.fd.try_clone_to_owned().unwrap(), socket.memberships().collect())
            })
            .collect();
        // Joined after the list was made, and left after it.
        let late = at(group4(40));
        first.join(late).unwrap();
        first.leave(&all[3]).unwrap();
        let changed = first.sockets().zip(&revisions).filter(|(socket, before)| socket.revision > **before);
        assert_eq!(changed.count(), 1, "both on the first socket");
        // Joined on another socket than the list says.
        let moved = all[22];
        let place = |pool: &MembershipPool| {
            pool.sockets().find(|socket| socket.memberships().any(|joined| joined == moved)).unwrap().number
        };
        let listed = place(&first);
        first.leave(&moved).unwrap();
        first.join(moved).unwrap();
        assert_ne!(place(&first), listed);
        drop(first);
        let before = groups(ifindex);
        assert!(before.contains(&late.group) && !before.contains(&all[3].group));

        let mut second = MembershipPool::new();
        let mut joined = BTreeSet::new();
        for (number, fd, memberships) in sockets {
            assert!(second.adopt(number, fd.try_clone().unwrap(), []).unwrap().is_empty());
            joined.extend(second.adopt(number, fd, memberships).unwrap());
        }
        assert!(second.joined().eq(&joined));
        assert_eq!(joined, all.iter().copied().collect(), "what the list says is joined");
        second.leave_unrecorded(&late);
        second.leave_unrecorded(&all[0]);
        second.leave_unrecorded(&moved);
        assert_eq!(groups(ifindex), all.iter().map(|membership| membership.group).collect());
        second.leave(&moved).unwrap();
        assert!(!groups(ifindex).contains(&moved.group), "it was left on one socket of two");
        second.join(at(group4(41))).unwrap();
        let numbers: BTreeSet<u64> = second.sockets().map(|socket| socket.number).collect();
        assert_eq!(numbers.len(), second.socket_count());
        drop(second);
        assert_eq!(groups(ifindex), BTreeSet::new());
        assert_eq!(sources(ifindex), BTreeSet::new());

        let mut third = MembershipPool::new();
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        assert!(third.adopt(1, pipe, [late]).is_err(), "no socket at all");
    });
}
