use std::collections::BTreeSet;

use mcr_rules::Config;
use mcr_sys::link::IfIndex;
use mcr_sys::network::{Link, NetworkEvent};

use super::*;
use crate::core::plan::InterfaceId;
use crate::core::plan::samples::{config, host_address, link, rule};
use crate::core::simulation::World;

fn worker(name: &str, ifindex: u32, core: u16) -> WorkerId {
    let interface = InterfaceId::new(name.parse().unwrap(), IfIndex::new(ifindex));
    WorkerId { interface, core }
}

/// One word per action; reading and setting what interfaces merge is tested with it.
fn words(actions: &[Action]) -> Vec<&'static str> {
    actions
        .iter()
        .map(|action| match action {
            Action::OpenAbsorber(_) => "absorb",
            Action::Join { again: false, .. } => "join",
            Action::Join { again: true, .. } => "join again",
            Action::OpenCapture { .. } => "capture",
            Action::ResizeReceiveBuffer { .. } => "resize",
            Action::Spawn { .. } => "spawn",
            Action::SendEgress { .. } => "egress",
            Action::AttachFilter { .. } => "filter",
            Action::SendRuleSet { .. } => "rules",
            Action::Leave(_) => "leave",
            Action::CloseAbsorber(_) => "let be",
            Action::Stop(_) => "stop",
            Action::Kill { .. } => "kill",
            Action::Discard(_) => "discard",
            Action::ReadOffload { .. } | Action::SetOffload { .. } => "",
            Action::SetCaptureProgram { .. }
            | Action::SetKernelRules(_)
            | Action::SettleKernelRules(_)
            | Action::SetEarlyDrop(_) => "early drop",
        })
        .filter(|word| !word.is_empty())
        .collect()
}

fn changed(world: &mut World, config: Config) -> Vec<Action> {
    assert!(world.begin(config, crate::core::machine::Unacknowledged::Undo));
    let done = world.calm();
    assert_eq!(world.changed.take(), Some(Ok(())));
    done
}

fn no_rules() -> Config {
    config([])
}

#[test]
fn a_first_rule_is_built_up_from_the_kernel_side() {
    let mut world = World::new();
    let done = changed(&mut world, config([rule("eth0", "239.1.1.1", 5000, "eth1")]));
    assert_eq!(words(&done), ["join", "capture", "spawn", "egress", "rules"]);
    world.check_converged();
}

#[test]
fn a_second_rule_widens_the_filter_before_and_a_removed_one_narrows_it_after() {
    let first = rule("eth0", "239.1.1.1", 5000, "eth1");
    let second = rule("eth0", "239.1.1.2", 5000, "eth1");
    let mut world = World::with(config([first.clone()]));
    let done = changed(&mut world, config([first.clone(), second]));
    assert_eq!(words(&done), ["join", "filter", "rules"]);
    let done = changed(&mut world, config([first]));
    assert_eq!(words(&done), ["rules", "leave", "filter"]);
    world.check_converged();
}

#[test]
fn a_third_interface_does_not_touch_the_workers_of_others() {
    let two = [rule("eth0", "239.1.1.1", 5000, "eth3"), rule("eth1", "239.1.1.1", 5001, "eth3")];
    let mut world = World::with(config(two.clone()));
    let third = rule("eth2", "239.1.1.1", 5002, "eth3");
    let done = changed(&mut world, config(two.into_iter().chain([third])));
    assert_eq!(words(&done), ["join", "capture", "spawn", "egress", "rules"]);
    for action in &done {
        if let Action::SendRuleSet { worker, .. } | Action::AttachFilter { worker, .. } = action {
            assert_eq!(worker.interface.name.as_str(), "eth2");
        }
    }
}

#[test]
fn a_dead_worker_gets_its_sockets_and_rules_back_at_once() {
    let mut world = World::with(config([rule("eth0", "239.1.1.1", 5000, "eth1")]));
    let id = worker("eth0", 10, 0);
    world.die(&id);
    assert_eq!(words(&world.calm()), ["spawn", "egress", "rules"]);
    world.check_converged();
    assert_eq!(world.machine.actual().workers[&id].restarts, 1);

    world.die(&id);
    assert!(world.settle().is_empty(), "the second death in a row is followed by a pause");
    let pause = world.machine.next_deadline().unwrap() - world.now;
    assert_eq!(pause, crate::core::restart::FIRST_PAUSE);
    world.now += pause;
    assert_eq!(words(&world.calm()), ["spawn", "egress", "rules"]);
}

#[test]
fn an_idle_worker_leaves_after_the_grace_period_and_a_pinned_one_stays() {
    for pinned in [false, true] {
        let mut with_rule = config([rule("eth0", "239.1.1.1", 5000, "eth1")]);
        let mut without = no_rules();
        if pinned {
            with_rule.pinning.insert("eth0".parse().unwrap(), vec![0]);
            without.pinning.clone_from(&with_rule.pinning);
        }
        let mut world = World::with(with_rule);
        assert_eq!(words(&changed(&mut world, without)), ["rules", "leave", "filter"]);
        let grace = world.machine.plan().grace;
        world.now += grace - Duration::from_millis(1);
        assert!(world.calm().is_empty());
        world.now += Duration::from_millis(1);
        let expected: &[&str] = if pinned { &[] } else { &["stop", "discard"] };
        assert_eq!(words(&world.calm()), expected);
        world.check_converged();
    }
}

#[test]
fn a_rule_that_returns_within_the_grace_period_finds_its_worker() {
    let with_rule = config([rule("eth0", "239.1.1.1", 5000, "eth1")]);
    let mut world = World::with(with_rule.clone());
    changed(&mut world, no_rules());
    world.now += Duration::from_secs(9);
    assert_eq!(words(&changed(&mut world, with_rule)), ["join", "egress", "filter", "rules"]);
    world.pass(Duration::from_secs(60));
    world.check_converged();
}

#[test]
fn an_interface_that_appears_later_starts_its_rules() {
    let mut world = World::with(config([rule("eth9", "239.1.1.1", 5000, "eth1")]));
    assert!(world.captures.is_empty());
    world.network([NetworkEvent::LinkChanged(Link { up: false, ..link(19, "eth9") })]);
    assert_eq!(words(&world.calm()), ["join"], "a capture socket has to wait until it is up");
    world.network([NetworkEvent::LinkChanged(link(19, "eth9"))]);
    assert_eq!(words(&world.calm()), ["capture", "spawn", "egress", "rules"]);
    world.check_converged();
}

#[test]
fn down_and_up_moves_nothing() {
    let mut world = World::with(config([rule("eth0", "239.1.1.1", 5000, "eth1")]));
    world.network([NetworkEvent::LinkChanged(Link { up: false, ..link(10, "eth0") })]);
    assert!(world.calm().is_empty());
    world.network([NetworkEvent::LinkChanged(link(10, "eth0"))]);
    assert!(world.calm().is_empty());
    world.check_converged();
}

#[test]
fn a_carrier_that_returns_is_followed_by_a_new_join() {
    let mut world = World::with(config([rule("eth0", "239.1.1.1", 5000, "eth1")]));
    world.network([NetworkEvent::LinkChanged(Link { carrier: false, ..link(10, "eth0") })]);
    assert!(world.calm().is_empty());
    world.network([NetworkEvent::LinkChanged(link(10, "eth0"))]);
    assert_eq!(words(&world.calm()), ["join again"]);
}

#[test]
fn a_re_created_interface_gets_new_sockets_and_the_old_ones_go_at_once() {
    let mut world = World::with(config([rule("eth0", "239.1.1.1", 5000, "eth1")]));
    world.network([NetworkEvent::LinkRemoved(IfIndex::new(10))]);
    assert_eq!(words(&world.calm()), ["stop", "leave", "discard"]);
    world.network([NetworkEvent::LinkChanged(link(20, "eth0"))]);
    assert_eq!(words(&world.calm()), ["join", "capture", "spawn", "egress", "rules"]);
    world.check_converged();
    assert_eq!(world.captures.keys().collect::<Vec<_>>(), [&worker("eth0", 20, 0)]);
}

#[test]
fn an_output_interface_that_is_re_created_changes_only_its_socket() {
    let mut world = World::with(config([rule("eth0", "239.1.1.1", 5000, "eth1")]));
    world.network([NetworkEvent::LinkRemoved(IfIndex::new(11))]);
    assert_eq!(words(&world.calm()), ["rules"]);
    world.network([
        NetworkEvent::LinkChanged(link(21, "eth1")),
        NetworkEvent::AddressAdded(host_address(21, "10.1.0.2")),
    ]);
    assert_eq!(words(&world.calm()), ["egress", "rules"]);
    world.check_converged();
}

#[test]
fn swapped_names_get_their_own_sockets() {
    let rules = [rule("eth0", "239.1.1.1", 5000, "eth3"), rule("eth1", "239.1.1.2", 5000, "eth3")];
    let mut world = World::with(config(rules));
    world.network(
        [(10, "swap"), (11, "eth0"), (10, "eth1")].map(|(i, n)| NetworkEvent::LinkChanged(link(i, n))),
    );
    world.calm();
    let captures: BTreeSet<&WorkerId> = world.captures.keys().collect();
    let cores: Vec<u16> = captures.iter().map(|id| id.core).collect();
    assert_eq!(captures, BTreeSet::from([&worker("eth0", 11, cores[0]), &worker("eth1", 10, cores[1])]));
    world.check_converged();
}

#[test]
fn a_worker_on_a_core_that_is_no_longer_wanted_relays_until_its_replacement_does() {
    let mut here = config([rule("eth0", "239.1.1.1", 5000, "eth1")]);
    here.pinning.insert("eth0".parse().unwrap(), vec![0]);
    let mut there = here.clone();
    there.pinning.insert("eth0".parse().unwrap(), vec![1]);
    let mut world = World::with(here);
    let done = changed(&mut world, there);
    assert_eq!(words(&done), ["capture", "spawn", "egress", "rules", "stop", "discard"]);
    world.check_converged();
}

#[test]
fn a_refusal_of_the_kernel_is_retried_after_a_pause_and_when_the_interface_changes() {
    let mut world = World::new();
    world.failing = true;
    assert!(world.begin(
        config([rule("eth0", "239.1.1.1", 5000, "eth1")]),
        crate::core::machine::Unacknowledged::Keep
    ));
    assert_eq!(words(&world.settle()), ["join", "capture"]);
    assert!(world.settle().is_empty(), "not again at once");
    world.now = world.machine.next_deadline().unwrap();
    assert_eq!(words(&world.settle()), ["join", "capture"]);
    world.network([NetworkEvent::LinkChanged(Link { mtu: 9000, ..link(10, "eth0") })]);
    world.failing = false;
    assert_eq!(words(&world.calm()), ["join", "capture", "spawn", "egress", "rules"]);
}

#[test]
fn a_worker_that_does_not_answer_or_end_is_killed() {
    let mut world = World::new();
    let keep = crate::core::machine::Unacknowledged::Keep;
    world.begin(config([rule("eth0", "239.1.1.1", 5000, "eth1")]), keep);
    assert_eq!(words(&world.settle()), ["join", "capture", "spawn"]);
    world.now += READY_DEADLINE;
    assert_eq!(words(&world.settle()), ["kill"], "it never got ready");
    world.calm();

    let id = worker("eth0", 10, 0);
    let mut more = world.machine.config().clone();
    more.rules.push(rule("eth0", "239.1.1.2", 5000, "eth1"));
    let _ = world.changed.take();
    world.begin(more, keep);
    assert_eq!(words(&world.settle()), ["join", "filter", "rules"]);
    world.now += APPLY_DEADLINE;
    assert_eq!(words(&world.settle()), ["kill"], "it never answered");
    assert_eq!(world.machine.actual().workers[&id].process.pid(), Some(2));
}

#[test]
fn changed_settings_replace_the_workers_one_by_one_and_resize_their_queues() {
    let rules = [rule("eth0", "239.1.1.1", 5000, "eth3"), rule("eth1", "239.1.1.1", 5001, "eth3")];
    let mut world = World::with(config(rules.clone()));
    let mut other = config(rules);
    other.settings.ring_buffers = 512;
    other.settings.receive_buffer_bytes = 1 << 20;
    let done = changed(&mut world, other.clone());
    let replaced = ["stop", "spawn", "egress", "rules"];
    assert_eq!(words(&done), [&["resize", "resize"][..], &replaced, &replaced].concat());
    assert!(world.machine.actual().workers.values().all(|worker| worker.restarts == 0));
    world.check_converged();

    // Another send buffer size of the egress sockets needs no new process.
    other.settings.send_buffer_bytes = 1 << 20;
    assert_eq!(words(&changed(&mut world, other)), ["egress", "egress", "rules", "rules"]);
    world.check_converged();
}

#[test]
fn settings_with_which_no_worker_starts_are_taken_back() {
    let before = config([rule("eth0", "239.1.1.1", 5000, "eth1")]);
    let mut world = World::with(before.clone());
    let mut other = before.clone();
    other.settings.ring_buffers = 8192;
    assert!(world.begin(other, crate::core::machine::Unacknowledged::Undo));
    world.settle();
    world.failing = true;
    assert!(world.await_change().is_err());
    world.failing = false;
    assert_eq!(world.machine.config(), &before);
    world.pass(Duration::from_secs(120));
    world.check_converged();
}
