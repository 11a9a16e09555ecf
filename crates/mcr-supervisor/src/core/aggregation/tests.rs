use mcr_control::reply::AggregationReason as Reason;
use mcr_rules::{AggregateChoice, Config};
use mcr_sys::network::NetworkEvent;

use super::*;
use crate::core::plan::samples::{config, host_address, link, rule};
use crate::core::simulation::World;

const ON: ReceiveOffload = ReceiveOffload { gro: true, udp_forwarding: true, lists: false };
const OFF: ReceiveOffload = ReceiveOffload { gro: false, udp_forwarding: false, lists: false };
/// What stays of a trial while a rule does.
const RESTING: ReceiveOffload = ReceiveOffload { gro: true, udp_forwarding: false, lists: false };

fn eth0() -> IfIndex {
    IfIndex::new(10)
}

fn chosen(aggregate: AggregateChoice) -> Config {
    let mut config = config([rule("eth0", "239.1.1.1", 5000, "eth1")]);
    config.settings.aggregate = aggregate;
    config
}

/// The state of eth0: what is in force, and what is said of it.
fn state(world: &mut World) -> (ReceiveOffload, Option<(bool, Reason)>) {
    world.calm();
    let status = world.machine.aggregation().status(eth0());
    (world.offloads.of(eth0()), status.map(|status| (status.on, status.reason)))
}

/// Seconds at a rate.
fn pass(world: &mut World, seconds: u32, pps: u64) {
    for _ in 0..seconds {
        world.arrive(pps);
        world.calm();
    }
}

#[test]
fn on_is_on_while_there_are_rules_and_is_restored() {
    let mut world = World::with(chosen(AggregateChoice::On));
    assert_eq!(state(&mut world), (ON, Some((true, Reason::Setting))));
    assert_eq!(world.offloads.of(IfIndex::new(11)), OFF, "an output");
    world.change(config([])).unwrap();
    assert_eq!(state(&mut world), (OFF, None));
    world.change(chosen(AggregateChoice::On)).unwrap();
    world.change(chosen(AggregateChoice::Off)).unwrap();
    assert_eq!(state(&mut world), (OFF, Some((false, Reason::Setting))));
}

#[test]
fn what_was_on_before_stays_on() {
    let mut world = World::new();
    world.operate(eth0(), ON);
    for choice in AggregateChoice::ALL {
        world.change(chosen(choice)).unwrap();
        pass(&mut world, 100, 100_000);
        assert_eq!(state(&mut world), (ON, Some((true, Reason::Operator))), "{choice}");
    }
    world.change(config([])).unwrap();
    assert_eq!(state(&mut world).0, ON);
    assert_eq!(world.offloads.sets, 0);
}

#[test]
fn an_operator_who_sets_it_otherwise_is_never_contradicted() {
    for choice in [AggregateChoice::On, AggregateChoice::Auto] {
        let mut world = World::with(chosen(choice));
        world.offloads.together = 20;
        pass(&mut world, 10, 100_000);
        assert_eq!(state(&mut world).0, ON);
        let sets = world.offloads.sets;
        world.operate(eth0(), OFF);
        pass(&mut world, 1_000, 100_000);
        assert_eq!(state(&mut world), (OFF, Some((false, Reason::Operator))));
        world.operate(eth0(), ON);
        world.crash(false);
        pass(&mut world, 100, 100_000);
        world.operate(eth0(), RESTING);
        pass(&mut world, 100, 100_000);
        assert_eq!(state(&mut world), (RESTING, Some((false, Reason::Operator))));
        assert_eq!(world.offloads.sets, sets);
        // Another setting is a new decision.
        world.change(chosen(AggregateChoice::Off)).unwrap();
        world.change(chosen(AggregateChoice::On)).unwrap();
        assert_eq!(state(&mut world).0, ON);
        world.change(config([])).unwrap();
        assert_eq!(state(&mut world).0, RESTING, "what the operator had set");
    }
}

#[test]
fn an_interface_made_anew_is_switched_on_anew() {
    let mut world = World::with(chosen(AggregateChoice::On));
    world.operate(eth0(), OFF);
    assert_eq!(state(&mut world).0, OFF);
    let again = IfIndex::new(50);
    world.network([
        NetworkEvent::LinkRemoved(eth0()),
        NetworkEvent::LinkChanged(link(50, "eth0")),
        NetworkEvent::AddressAdded(host_address(50, "10.0.0.2")),
    ]);
    world.calm();
    assert_eq!(world.offloads.of(again), ON);
    assert_eq!(world.machine.aggregation().status(eth0()), None);
}

#[test]
fn a_successor_restores_what_a_killed_supervisor_has_set() {
    for kill_after in 0..40 {
        let mut world = World::with(chosen(AggregateChoice::On));
        assert_eq!(state(&mut world).0, ON);
        // At every point on the way, back and forth.
        world.kill_after = Some((kill_after, false));
        world.begin(config([]), crate::core::machine::Unacknowledged::Keep);
        world.pass(Duration::from_secs(30));
        world.kill_after = None;
        world.change(config([])).unwrap();
        assert_eq!(state(&mut world), (OFF, None), "killed at {kill_after}");
        world.kill_after = Some((kill_after, false));
        world.begin(chosen(AggregateChoice::On), crate::core::machine::Unacknowledged::Keep);
        world.pass(Duration::from_secs(30));
        world.kill_after = None;
        world.change(chosen(AggregateChoice::On)).unwrap();
        assert_eq!(state(&mut world), (ON, Some((true, Reason::Setting))), "killed at {kill_after}");
        world.change(config([])).unwrap();
        assert_eq!(state(&mut world), (OFF, None), "killed at {kill_after}");
    }
}

#[test]
fn auto_tries_it_at_a_rate_and_keeps_it_where_it_pays() {
    let mut world = World::with(chosen(AggregateChoice::Auto));
    pass(&mut world, 60, 10_000);
    assert_eq!(state(&mut world), (OFF, Some((false, Reason::LowRate))));
    world.offloads.together = 20;
    pass(&mut world, 4, 50_000);
    assert_eq!(state(&mut world), (ON, Some((true, Reason::Trial))));
    pass(&mut world, 10, 50_000);
    assert_eq!(state(&mut world), (ON, Some((true, Reason::Pays))));
    let status = world.machine.aggregation().status(eth0()).unwrap();
    assert!((status.per_frame - 20.0).abs() < 0.1, "{status:?}");
    world.crash(false);
    pass(&mut world, 10, 50_000);
    assert_eq!(state(&mut world), (ON, Some((true, Reason::Pays))), "adopted");
    world.offloads.together = 1;
    pass(&mut world, 10, 50_000);
    assert_eq!(state(&mut world), (RESTING, Some((false, Reason::DoesNotPay))));
    let before = world.offloads.sets;
    pass(&mut world, 600, 50_000);
    let tried = (world.offloads.sets - before) / 2;
    assert!((2..=6).contains(&tried), "{tried} trials in ten minutes");
    world.change(config([])).unwrap();
    assert_eq!(state(&mut world).0, OFF, "restored");
}

#[test]
fn without_the_right_it_is_asked_for_once_and_told() {
    let mut world = World::new();
    world.offloads.forbidden = true;
    world.change(chosen(AggregateChoice::On)).unwrap();
    pass(&mut world, 100, 100_000);
    assert_eq!(state(&mut world), (OFF, Some((false, Reason::NotPermitted))));
    world.change(chosen(AggregateChoice::Auto)).unwrap();
    pass(&mut world, 100, 100_000);
    assert_eq!(state(&mut world), (OFF, Some((false, Reason::NotPermitted))));
    world.change(chosen(AggregateChoice::Off)).unwrap();
    assert_eq!(state(&mut world), (OFF, Some((false, Reason::Setting))));
}

#[test]
fn a_device_that_refuses_is_asked_again() {
    let mut world = World::new();
    world.failing = true;
    world.begin(chosen(AggregateChoice::On), crate::core::machine::Unacknowledged::Keep);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.offloads.of(eth0()), OFF);
    world.failing = false;
    world.pass(Duration::from_secs(60));
    world.network([NetworkEvent::LinkChanged(link(10, "eth0"))]);
    assert_eq!(state(&mut world), (ON, Some((true, Reason::Setting))));
}
