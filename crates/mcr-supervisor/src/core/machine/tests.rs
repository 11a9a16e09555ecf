use super::change::{CHANGE_DEADLINE, KEPT_CHANGE_DEADLINE};
use super::*;
use crate::core::plan::samples::{config, output, rule};
use crate::core::simulation::World;
use mcr_control::reply::RuleState;
use mcr_rules::Rule;
use mcr_sys::network::{Link, NetworkEvent};

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
    let (undo, keep) = (Unacknowledged::Undo, Unacknowledged::Keep);
    for (unacknowledged, deadline, kept) in
        [(undo, CHANGE_DEADLINE, false), (keep, KEPT_CHANGE_DEADLINE, true)]
    {
        let before = config([rule("eth0", "239.1.1.1", 5000, "eth1")]);
        let mut world = World::with(before.clone());
        let begun = world.now;
        assert!(world.begin(Config::default(), unacknowledged));
        assert!(!world.begin(before.clone(), unacknowledged), "one at a time");
        world.settle();
        assert_eq!(world.changed.take(), None);
        assert_eq!(
            world.machine.next_deadline(),
            Some(begun + CHANGE_DEADLINE),
            "who is silent is killed then"
        );
        world.now = begun + deadline;
        world.settle();
        let result = world.changed.take();
        assert_eq!(result, kept.then_some(Ok(())));
        assert_eq!(world.machine.config().rules.is_empty(), kept);
        if !kept {
            assert!(world.machine.is_changing(), "it is being undone");
            assert!(world.await_change().unwrap_err().contains("did not answer"));
            world.check();
        }
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
    let changes = std::mem::take(&mut world.states);
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].state, RuleState::Pending);
    assert_eq!(changes[0].reason.as_deref(), Some("interface eth9 does not exist"));
    world.settle();
    assert!(world.states.is_empty(), "told once");
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

#[test]
fn an_output_that_stops_is_reported_once_and_so_is_its_return() {
    use crate::core::plan::samples::link;
    let one = rule("eth0", "239.1.1.1", 5000, "eth1");
    let two = Rule { outputs: vec![one.outputs[0].clone(), output("eth2", "239.3.3.3", 1)], ..one };
    let mut world = World::with(config([two]));
    world.states.clear();
    for (up, state) in [(false, RuleState::Pending), (true, RuleState::Active)] {
        world.network([NetworkEvent::LinkChanged(Link { up, ..link(12, "eth2") })]);
        world.settle();
        let changes = std::mem::take(&mut world.states);
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert_eq!((changes[0].output.as_deref(), changes[0].state), (Some("eth2 239.3.3.3:1"), state));
        world.settle();
        assert!(world.states.is_empty(), "told once");
    }
}

#[test]
fn a_group_is_joined_again_with_the_carrier_and_three_times_after() {
    use crate::core::plan::samples::link;
    let mut world = World::with(config([rule("eth0", "239.1.1.1", 5000, "eth1")]));
    let epoch = |world: &World| {
        world.machine.actual().memberships.values().next().and_then(|held| held.carrier_epoch())
    };
    assert_eq!(epoch(&world), Some(0));
    world.network([NetworkEvent::LinkChanged(Link { carrier_ups: 2, ..link(10, "eth0") })]);
    world.settle();
    assert_eq!(epoch(&world), Some(1), "a flap that no event told of");
    for expected in [2, 3, 4] {
        world.now = world.machine.next_deadline().expect("an echo is due");
        world.settle();
        assert_eq!(epoch(&world), Some(expected));
    }
    assert!(world.machine.next_deadline().is_none_or(|at| at > world.now + Duration::from_secs(5)));
}

#[test]
fn a_stalled_worker_is_killed_and_replaced_at_once_and_says_why() {
    let mut world = World::with(config([rule("eth0", "239.1.1.1", 5000, "eth1")]));
    let id = world.processes.keys().next().unwrap().clone();
    world.pass(Duration::from_secs(5));
    world.stall(&id, true);
    let stalled = world.now;
    world.pass(Duration::from_millis(1000));
    let worker = &world.machine.actual().workers[&id];
    assert_eq!((worker.health.stalls, worker.restarts), (1, 1));
    assert!(worker.last_failure.as_ref().unwrap().contains("stalled"), "{worker:?}");
    let ready_at = worker.process.ready_at().unwrap();
    assert!(ready_at - stalled <= Duration::from_millis(750), "{:?}", ready_at - stalled);
    world.check_converged();
}

#[test]
fn drift_is_repaired_by_the_same_set_and_the_second_time_by_another_process() {
    let mut world = World::with(config([rule("eth0", "239.1.1.1", 5000, "eth1")]));
    let id = world.processes.keys().next().unwrap().clone();
    for (round, replaced) in [(1, 0), (2, 1), (3, 2)] {
        world.drift(&id);
        world.pass(Duration::from_secs(1));
        let worker = &world.machine.actual().workers[&id];
        assert_eq!((worker.health.drifts, worker.restarts), (round, replaced));
        assert!(!world.processes[&id].has_drifted());
        world.traffic();
        world.check();
        world.check_converged();
    }
    world.pass(Duration::from_secs(60));
    world.drift(&id);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.machine.actual().workers[&id].restarts, 2, "a minute later it is a first drift again");
}

#[test]
fn every_five_minutes_the_whole_set_is_sent_again() {
    let mut world = World::with(config([rule("eth0", "239.1.1.1", 5000, "eth1")]));
    let id = world.processes.keys().next().unwrap().clone();
    let generation =
        |world: &World| world.machine.actual().workers[&id].applied.as_ref().unwrap().set.generation;
    let first = generation(&world);
    world.pass(Duration::from_secs(299));
    assert_eq!(generation(&world), first);
    world.pass(Duration::from_secs(2));
    assert_eq!(generation(&world), first + 1);
    world.pass(Duration::from_secs(1500));
    assert_eq!(generation(&world), first + 6);
    assert_eq!(world.machine.actual().workers[&id].restarts, 0);
    world.check_converged();
}
