//! Commands, network events, deaths, stalls, refusals, lost and late messages, programs that take ports, and time, in an order
//! given by a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use mcr_rules::{AggregateChoice, Config, EngineChoice, Rule, RuleId};
use mcr_sys::ethtool::ReceiveOffload;
use mcr_sys::link::IfIndex;
use mcr_sys::network::{Link, NetworkEvent};

use super::World;
use crate::core::machine::{Event, Unacknowledged};
use crate::core::plan::WorkerId;
use crate::core::plan::samples::{config, host_address, link, merged_rule, output, rule};

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: usize) -> usize {
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

/// A rule with the outputs of another one, merged from legs on these interfaces, which may be the same.
fn merged(dice: &mut Dice, rule: Rule, interfaces: &[&str]) -> Rule {
    let mut merged = merged_rule(interfaces, "eth0");
    let groups = ["239.1.1.7", "239.1.1.8", "232.1.1.9", "10.1.0.2"];
    for (number, input) in (0_u16..).zip(merged.inputs_mut()) {
        input.group = groups[dice.roll(groups.len())].parse().unwrap();
        input.port += number;
    }
    merged.outputs = rule.outputs;
    merged
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
        if dice.roll(4) == 0 {
            let legs = [rule.input.interface.as_str(), &format!("eth{}", dice.roll(4))].map(str::to_owned);
            let legs: Vec<&str> = legs.iter().map(String::as_str).collect();
            rule = merged(dice, rule, &legs);
        }
        rules.insert(rule.id(), rule);
    }
    let mut config = config(rules.into_values());
    if dice.roll(3) == 0 {
        config.settings.ring_buffers = 256 << dice.roll(2);
        config.settings.receive_buffer_bytes <<= dice.roll(2);
        config.settings.send_buffer_bytes <<= dice.roll(2);
    }
    config.settings.engine = EngineChoice::ALL[dice.roll(3)];
    config.settings.aggregate = AggregateChoice::ALL[dice.roll(3)];
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

/// One run of the world for a seed.
pub(super) struct Run {
    dice: Dice,
    pub(super) world: World,
    fresh_index: u32,
}

impl Run {
    pub(super) fn new(seed: u64) -> Self {
        Self { dice: Dice(seed), world: World::new(), fresh_index: 100 }
    }

    /// One random event, and sometimes an iteration of the loop.
    pub(super) fn step(&mut self) {
        let Self { dice, world, fresh_index } = self;
        happen(dice, world, fresh_index);
        // Sometimes several events happen before the loop runs.
        if dice.roll(3) > 0 {
            world.settle();
            if !world.failing {
                world.check();
            }
            world.states.clear();
        }
    }

    /// Ends all faults, lets everything settle, and checks that the world is as planned.
    pub(super) fn quiesce(&mut self) {
        let world = &mut self.world;
        world.failing = false;
        world.refusing = false;
        world.kill_after = None;
        world.pass(Duration::from_secs(120));
        assert!(!world.machine.is_changing(), "a change is still under way");
        assert_eq!(world.machine.lasting_config().0, world.machine.config(), "a trial did not end");
        world.check();
        world.check_converged();
        assert!(world.settle().is_empty(), "something is left to do");
    }
}

fn happen(dice: &mut Dice, world: &mut World, fresh_index: &mut u32) {
    let processes: Vec<WorkerId> = world.processes.keys().cloned().collect();
    let one = dice.pick(&processes);
    match dice.roll(47) {
        0 | 1 => {
            let unacknowledged = [Unacknowledged::Undo, Unacknowledged::Keep][dice.roll(2)];
            let config = any_config(dice);
            let now = world.now;
            match dice.roll(8) {
                0 => _ = world.begin_trial(config, Duration::from_millis(1 << dice.roll(16))),
                1 => _ = world.machine.handle(now, Event::Confirm),
                _ if world.machine.trial_deadline().is_some() => _ = world.machine.handle(now, Event::Revert),
                _ => _ = world.begin(config, unacknowledged),
            }
        }
        2 | 3 => {
            let events = any_event(dice, fresh_index, world);
            world.network(events);
        }
        4 => one.iter().for_each(|id| world.die(id)),
        5 => world.failing = dice.roll(3) == 0,
        6 => world.refusing = dice.roll(4) == 0,
        7..=9 => world.now += Duration::from_millis(1 << dice.roll(14)),
        10..=12 => world.traffic(),
        13 => one.iter().for_each(|id| world.lose_message(id)),
        14 => one.iter().for_each(|id| world.lose_answer(id)),
        15 => one.iter().for_each(|id| world.stall(id, dice.roll(2) == 0)),
        16 => world.pass(Duration::from_millis(1 << dice.roll(16))),
        17 => one.iter().for_each(|id| world.drift(id)),
        18 => one.iter().for_each(|id| world.lose_update(id)),
        19..=20 => world.look(),
        36 => world.crash(dice.roll(3) == 0),
        37 => world.kill_after = Some((u32::try_from(dice.roll(24)).unwrap(), dice.roll(3) == 0)),
        38 => world.replace_keeper(),
        40 | 41 => world.arrive([20_000, 100, 200_000][dice.roll(3)]),
        42 => {
            let links: Vec<IfIndex> = world.machine.network().links().map(|link| link.ifindex).collect();
            let offload =
                ReceiveOffload { gro: dice.roll(2) == 0, udp_forwarding: dice.roll(2) == 0, lists: false };
            let one = dice.pick(&links);
            // To set what is set is nothing that could be noticed.
            let noticed = |ifindex: &IfIndex| world.machine.aggregation().would_notice(*ifindex, offload);
            one.filter(noticed).into_iter().for_each(|ifindex| world.operate(ifindex, offload));
        }
        39 => {
            let absorbers: Vec<_> = world.machine.plan().absorbers.keys().copied().collect();
            dice.pick(&absorbers).into_iter().for_each(|absorber| world.toggle_program(absorber));
        }
        43 => world.toggle_attacher(),
        44 => world.obstruct([dice.roll(3) == 0, dice.roll(3) == 0]),
        45 => _ = world.attacher_answers(),
        46 => {
            let links: Vec<IfIndex> = world.machine.network().links().map(|link| link.ifindex).collect();
            dice.pick(&links).into_iter().for_each(|ifindex| world.disturb_kernel_engine(ifindex));
        }
        21..=28 => one.iter().for_each(|id| _ = world.turn(id)),
        _ => one.iter().for_each(|id| _ = world.deliver_report(id)),
    }
}
