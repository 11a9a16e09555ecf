use mcr_sys::link::IfIndex;
use mcr_sys::network::NetworkEvent;

use super::*;
use crate::core::machine::Machine;
use crate::core::plan::samples::{config, host_address, link, output, rule};
use crate::core::reconcile::Action;
use crate::core::simulation::World;

fn two_workers() -> World {
    World::with(config([rule("eth0", "239.1.1.1", 5000, "eth2"), rule("eth1", "239.1.1.1", 5001, "eth2")]))
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let mut world = two_workers();
    world.traffic();
    let before = world.counts();
    world.crash(false);
    let done = world.calm();
    // Only filter and receive buffer are unknown; nothing is sent, joined or left.
    let of_the_socket =
        |action: &Action| matches!(action, Action::AttachFilter { .. } | Action::ResizeReceiveBuffer { .. });
    assert!(done.iter().all(of_the_socket), "{done:#?}");
    assert_eq!(world.changed.take(), Some(Ok(())));
    assert_eq!(world.counts(), before);
    world.traffic();
    world.check();
    world.check_converged();
}

#[test]
fn a_change_that_was_under_way_is_undone_and_its_numbers_are_not_used_again() {
    let mut world = two_workers();
    let before = world.machine.config().clone();
    let mut more = before.clone();
    more.rules.push(rule("eth0", "239.1.1.9", 5000, "eth3"));
    more.rules[0].outputs.push(output("eth1", "239.7.7.7", 7));
    for turns in 0..4 {
        assert!(world.begin(more.clone(), crate::core::machine::Unacknowledged::Undo));
        world.settle();
        let workers: Vec<_> = world.processes.keys().cloned().collect();
        (0..turns).for_each(|_| workers.iter().for_each(|id| _ = world.turn(id)));
        world.traffic();
        world.crash(false);
        assert_eq!(world.machine.config(), &before);
        world.calm();
        assert_eq!(world.changed.take(), Some(Ok(())));
        world.calm();
        world.traffic();
        world.check();
        world.check_converged();
    }
}

#[test]
fn workers_of_another_program_are_replaced_one_at_a_time() {
    let mut world = two_workers();
    world.traffic();
    let pids = |world: &World| -> Vec<u32> {
        world.machine.actual().workers.values().filter_map(|worker| worker.process.pid()).collect()
    };
    let before = pids(&world);
    world.crash(true);
    let mut least = usize::MAX;
    for _ in 0..100 {
        world.settle();
        least = least.min(world.processes.values().filter(|process| process.applied.is_some()).count());
        let _ = world.changed.take();
        world.work();
    }
    assert_eq!(least, 1, "both were away at once");
    assert!(pids(&world).iter().all(|pid| !before.contains(pid)));
    assert!(
        world.machine.actual().workers.values().all(|worker| worker.restarts == 0 && !worker.old_program)
    );
    world.traffic();
    world.check();
    world.check_converged();
}

#[test]
fn a_worker_that_died_meanwhile_is_replaced_at_once() {
    let mut world = two_workers();
    world.traffic();
    let id = world.processes.keys().next().cloned().unwrap();
    world.processes.remove(&id);
    world.crash(false);
    let done = world.calm();
    let spawns = |action: &Action| matches!(action, Action::Spawn { worker, .. } if *worker == id);
    assert!(done.iter().any(spawns), "{done:#?}");
    assert_eq!(world.machine.actual().workers[&id].restarts, 1);
    world.check();
    world.check_converged();
}

#[test]
fn what_no_config_wants_any_more_is_left() {
    let mut world = two_workers();
    let found = |machine: &Machine| machine.actual().memberships.len();
    assert_eq!(found(&world.machine), 2);
    world.crash(false);
    world.calm();
    assert_eq!(world.changed.take(), Some(Ok(())));
    assert_eq!(world.change(config([rule("eth1", "239.1.1.1", 5001, "eth2")])), Ok(()));
    assert_eq!(found(&world.machine), 1);
    world.pass(Duration::from_secs(60));
    world.check_converged();
}

/// A worker's interface gets another index: its counters move to the ledger while its rule goes on counting elsewhere.
#[test]
fn a_supervisor_may_be_killed_at_each_point_of_a_replacement() {
    for points in 0.. {
        let mut world = two_workers();
        world.traffic();
        world.kill_after = Some((points, false));
        let address = host_address(100, "10.0.0.1");
        world.network([
            NetworkEvent::LinkRemoved(IfIndex::new(10)),
            NetworkEvent::LinkChanged(link(100, "eth0")),
            NetworkEvent::AddressAdded(address),
        ]);
        world.pass(std::time::Duration::from_secs(3));
        let was_killed = world.kill_after.take().is_none();
        world.traffic();
        world.check();
        world.pass(std::time::Duration::from_secs(20));
        world.check();
        world.check_converged();
        assert!(world.captures.keys().all(|id| id.interface.ifindex != IfIndex::new(10)));
        if !was_killed {
            assert!(points > 40, "only {points} points were passed");
            return;
        }
    }
}
