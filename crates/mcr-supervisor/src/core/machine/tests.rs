use super::*;
use crate::core::plan::samples::{config, host_address, link, output, rule};
use crate::core::simulation::World;
use mcr_rules::Rule;

#[test]
fn a_refused_change_is_undone_and_everything_is_as_before() {
    let before = config([rule("eth0", "239.1.1.1", 5000, "eth1")]);
    let mut world = World::with(before.clone());
    world.traffic();
    world.refusing = true;
    let other = config([rule("eth0", "239.1.1.2", 5000, "eth1"), rule("eth2", "239.1.1.2", 5000, "eth1")]);
    let reason = world.change(other).unwrap_err();
    assert!(reason.contains("refuses"), "{reason}");
    world.refusing = false;
    assert_eq!(world.machine.config(), &before);
    world.pass(Duration::from_secs(120));
    world.traffic();
    world.check();
    world.check_converged();
    let key = world.machine.key_of(before.rules[0].id()).unwrap();
    assert_eq!(world.counts()[&key].packets, 2, "the rule kept its counters");
}

#[test]
fn a_silent_worker_undoes_a_change_after_the_deadline_and_never_a_removal() {
    for (unacknowledged, kept) in [(Unacknowledged::Undo, false), (Unacknowledged::Keep, true)] {
        let before = config([rule("eth0", "239.1.1.1", 5000, "eth1")]);
        let mut world = World::with(before.clone());
        let begun = world.now;
        assert!(world.machine.begin_change(Config::default(), unacknowledged, world.now));
        assert!(!world.machine.begin_change(before.clone(), unacknowledged, world.now), "one at a time");
        world.settle();
        assert_eq!(world.machine.finish_change(world.now), None);
        assert_eq!(world.machine.next_deadline(), Some(begun + CHANGE_DEADLINE));
        world.now = begun + CHANGE_DEADLINE;
        world.settle();
        let result = world.machine.finish_change(world.now).unwrap();
        assert_eq!(result.is_ok(), kept, "{result:?}");
        assert_eq!(world.machine.config().rules.is_empty(), kept);
    }
}

#[test]
fn trouble_of_another_interface_does_not_hold_a_change_up() {
    let one = rule("eth0", "239.1.1.1", 5000, "eth3");
    let mut world = World::with(config([one.clone()]));
    world.failing = true;
    let id = world.captures.keys().next().unwrap().clone();
    for _ in 0..3 {
        world.die(&id);
        world.settle();
    }
    world.failing = false;
    assert!(world.processes.is_empty(), "eth0's worker waits for its next try");
    assert_eq!(world.change(config([one, rule("eth1", "239.1.1.1", 5000, "eth3")])), Ok(()));
}

#[test]
fn a_rule_for_a_missing_interface_is_a_change_that_succeeds() {
    let mut world = World::new();
    assert_eq!(world.change(config([rule("eth9", "239.1.1.1", 5000, "eth8")])), Ok(()));
    let changes = world.machine.state_changes();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].state, RuleState::Pending);
    assert_eq!(changes[0].reason.as_deref(), Some("interface eth9 does not exist"));
    assert!(world.machine.state_changes().is_empty(), "told once");
}

#[test]
fn counters_follow_a_rule_and_start_at_zero_for_another_life() {
    let one = rule("eth0", "239.1.1.1", 5000, "eth1");
    let mut world = World::with(config([one.clone()]));
    world.traffic();
    let with_output =
        Rule { outputs: vec![one.outputs[0].clone(), output("eth2", "239.3.3.3", 1)], ..one.clone() };
    world.change(config([with_output])).unwrap();
    world.traffic();
    world.check();
    let packets = |world: &World| {
        let key = world.machine.key_of(one.id()).unwrap();
        world.counts().get(&key).map(|count| count.packets).unwrap_or_default()
    };
    assert_eq!(packets(&world), 2);
    world.change(Config::default()).unwrap();
    world.change(config([one.clone()])).unwrap();
    assert_eq!(packets(&world), 0);
    world.traffic();
    assert_eq!(packets(&world), 1);
    world.check();
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % sides as u64).unwrap()
    }

    fn pick<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        (!all.is_empty()).then(|| all[self.roll(all.len())].clone())
    }
}

/// A config of up to six rules over four interfaces.
fn any_config(dice: &mut Dice) -> Config {
    let groups = ["239.1.1.1", "239.1.1.2", "ff15::1", "10.1.0.2", "232.1.1.1"];
    let mut rules: BTreeMap<RuleId, Rule> = BTreeMap::new();
    for _ in 0..dice.roll(7) {
        let input = format!("eth{}", dice.roll(4));
        let mut rule = rule(&input, groups[dice.roll(groups.len())], 5000, "eth0");
        if dice.roll(3) == 0 && rule.input.group.is_multicast() && rule.input.group.is_ipv4() {
            rule.input.sources = vec![format!("10.9.0.{}", 1 + dice.roll(3)).parse().unwrap()];
        }
        let to = |dice: &mut Dice| output(&format!("eth{}", dice.roll(4)), "239.2.0.1", 6000);
        rule.outputs = (0..=dice.roll(3)).map(|_| to(dice)).collect();
        rules.insert(rule.id(), rule);
    }
    let mut config = config(rules.into_values());
    for interface in 0..4 {
        if dice.roll(4) == 0 {
            let cores = [vec![0], vec![1], vec![0, 1]][dice.roll(3)].clone();
            config.pinning.insert(format!("eth{interface}").parse().unwrap(), cores);
        }
    }
    config
}

fn any_event(dice: &mut Dice, fresh_index: &mut u32, world: &World) -> Vec<NetworkEvent> {
    let links: Vec<Link> =
        world.machine.network().links().filter(|link| link.name != "lo").cloned().collect();
    let Some(one) = dice.pick(&links) else { return vec![NetworkEvent::LinkChanged(link(10, "eth0"))] };
    match dice.roll(6) {
        0 => vec![NetworkEvent::LinkChanged(Link { up: !one.up, ..one })],
        1 => vec![NetworkEvent::LinkChanged(Link { carrier: !one.carrier, ..one })],
        2 => {
            *fresh_index += 1;
            let n = one.ifindex.to_raw() % 4;
            let again = Link { ifindex: IfIndex::new(*fresh_index), up: true, ..one.clone() };
            let address = host_address(*fresh_index, &format!("10.{n}.0.2"));
            vec![
                NetworkEvent::LinkRemoved(one.ifindex),
                NetworkEvent::LinkChanged(again),
                NetworkEvent::AddressAdded(address),
            ]
        }
        3 => {
            let Some(other) = dice.pick(&links).filter(|other| other.ifindex != one.ifindex) else {
                return vec![];
            };
            let named = |link: &Link, name: &str| {
                NetworkEvent::LinkChanged(Link { name: name.to_owned(), ..link.clone() })
            };
            vec![named(&one, "swap"), named(&other, &one.name), named(&one, &other.name)]
        }
        4 => {
            let all = world.machine.network().addresses(one.ifindex);
            dice.pick(all).map(NetworkEvent::AddressRemoved).into_iter().collect()
        }
        _ => vec![NetworkEvent::AddressAdded(host_address(one.ifindex.to_raw(), "10.1.0.2"))],
    }
}

fn step(dice: &mut Dice, world: &mut World, fresh_index: &mut u32) {
    let processes: Vec<WorkerId> = world.processes.keys().cloned().collect();
    match dice.roll(24) {
        0 | 1 => {
            let unacknowledged = [Unacknowledged::Undo, Unacknowledged::Keep][dice.roll(2)];
            let config = any_config(dice);
            let now = world.now;
            world.machine.begin_change(config, unacknowledged, now);
        }
        2 | 3 => {
            let events = any_event(dice, fresh_index, world);
            world.network(events);
        }
        4 => dice.pick(&processes).into_iter().for_each(|id| world.die(&id)),
        5 => world.failing = dice.roll(3) == 0,
        6 => world.refusing = dice.roll(4) == 0,
        7..=9 => world.now += Duration::from_millis(1 << dice.roll(14)),
        10..=12 => world.traffic(),
        13..=18 => dice.pick(&processes).into_iter().for_each(|id| _ = world.turn(&id)),
        _ => dice.pick(&processes).into_iter().for_each(|id| _ = world.hear(&id)),
    }
    // Sometimes several things happen before the loop gets its turn.
    if dice.roll(3) > 0 {
        world.settle();
        let _ = world.machine.finish_change(world.now);
        world.settle();
        if !world.failing {
            world.check();
        }
    }
}

/// Commands, network events, deaths, refusals, late messages and time in random order. A failing seed replays.
#[test]
fn whatever_happens_the_accounts_are_right_and_peace_brings_the_plan() {
    const SEEDS: u64 = 128;
    const STEPS: usize = 400;
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| {
            let mut dice = Dice(seed);
            let mut world = World::new();
            let mut fresh_index = 100;
            for _ in 0..STEPS {
                step(&mut dice, &mut world, &mut fresh_index);
            }
            world.failing = false;
            world.refusing = false;
            world.pass(Duration::from_secs(120));
            assert!(!world.machine.is_changing());
            world.check();
            world.check_converged();
            assert!(world.settle().is_empty(), "nothing is left to do");
        });
        assert!(run.is_ok(), "seed {seed}");
    }
}
