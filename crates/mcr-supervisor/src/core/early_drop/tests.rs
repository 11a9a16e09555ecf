use super::*;
use crate::core::machine::{Event, Machine, Outcome};
use crate::core::plan::samples::{config, host_address, link, rule};
use crate::core::reconcile::Action;

const NOW: Duration = Duration::from_secs(10);

/// A machine with a group and a unicast input on eth0.
fn machine() -> Machine {
    let mut machine = Machine::new([0], None);
    let addresses = vec![host_address(10, "10.0.0.2")];
    machine.handle(NOW, Event::NetworkDump { links: vec![link(10, "eth0"), link(11, "eth1")], addresses });
    let rules = [rule("eth0", "239.1.1.1", 5000, "eth1"), rule("eth0", "10.0.0.2", 5000, "eth1")];
    machine.handle(NOW, Event::start(config(rules)));
    machine
}

fn absorber(machine: &Machine) -> Absorber {
    *machine.plan().absorbers.keys().next().unwrap()
}

/// The actions about early drop and absorbers; each list of destinations is sent with the next generation.
fn actions(machine: &mut Machine, now: Duration, generation: &mut u64) -> Vec<Action> {
    let mut found = Vec::new();
    for _ in 0..20 {
        let Some(crate::core::machine::Output::Actions(all)) = machine.poll(now) else { continue };
        for action in all {
            let outcome = match &action {
                Action::SetEarlyDrop(wanted) => {
                    *generation += 1;
                    Outcome::EarlyDropSet(wanted.clone(), *generation)
                }
                Action::OpenAbsorber(absorber) => {
                    Outcome::Absorbed(*absorber, crate::core::actual::Absorbed::Open)
                }
                Action::CloseAbsorber(absorber) => Outcome::AbsorberClosed(*absorber),
                Action::Join { membership, carrier_epoch, .. } => {
                    machine.handle(now, Outcome::Joined(*membership, Ok(*carrier_epoch)));
                    continue;
                }
                Action::OpenCapture { worker, .. } => {
                    machine.handle(now, Outcome::CaptureOpened(worker, Err("not now".to_owned())));
                    continue;
                }
                _ => continue,
            };
            machine.handle(now, outcome);
            found.push(action);
        }
    }
    found
}

fn state(obstacles: [Option<Obstacle>; 2], datagrams: u64) -> InterfaceState {
    let method = obstacles.contains(&None).then(|| "tcx".to_owned());
    InterfaceState {
        ifindex: IfIndex::new(10),
        method,
        obstacles,
        datagrams,
        bytes: 10 * datagrams,
        relays: false,
    }
}

fn report(machine: &mut Machine, now: Duration, generation: u64, one: InterfaceState) -> bool {
    let attached = Attached { generation, interfaces: vec![one] };
    machine.handle(now, Event::EarlyDrop(Report::Attached(attached)))
}

#[test]
fn without_an_attacher_the_port_is_held() {
    let mut machine = machine();
    let of = absorber(&machine);
    assert_eq!(actions(&mut machine, NOW, &mut 0), [Action::OpenAbsorber(of)]);
}

#[test]
fn an_absorber_waits_for_the_attacher_and_is_not_opened_where_it_drops() {
    let mut machine = machine();
    let mut generation = 0;
    let of = absorber(&machine);
    machine.handle(NOW, Event::EarlyDrop(Report::Present));
    let all = wanted(machine.plan());
    assert_eq!(all.values().map(|set| set.destinations.len()).sum::<usize>(), 2);
    assert_eq!(actions(&mut machine, NOW, &mut generation), [Action::SetEarlyDrop(all)]);
    assert!(report(&mut machine, NOW, 1, state([None; 2], 3)));
    assert!(!report(&mut machine, NOW, 1, state([None; 2], 7)), "counts alone change nothing");
    assert!(!report(&mut machine, NOW, 9, state([Some(Obstacle::Port); 2], 7)), "of another list");
    assert_eq!(actions(&mut machine, NOW, &mut generation), []);
    // An obstacle comes and goes; IPv6 does not matter here.
    report(&mut machine, NOW, 1, state([None, Some(Obstacle::RawSocket)], 8));
    assert_eq!(actions(&mut machine, NOW, &mut generation), []);
    report(&mut machine, NOW, 1, state([Some(Obstacle::RawSocket); 2], 8));
    assert_eq!(actions(&mut machine, NOW, &mut generation), [Action::OpenAbsorber(of)]);
    report(&mut machine, NOW, 1, state([None; 2], 8));
    assert_eq!(actions(&mut machine, NOW, &mut generation), [Action::CloseAbsorber(of)]);
    assert_eq!(machine.actual().early_drop.dropped(IfIndex::new(10)), (8, 80));
}

#[test]
fn an_attacher_that_does_not_answer_or_ends_is_no_reason_to_wait() {
    let mut machine = machine();
    let of = absorber(&machine);
    let mut generation = 0;
    machine.handle(NOW, Event::EarlyDrop(Report::Present));
    assert_eq!(actions(&mut machine, NOW, &mut generation).len(), 1);
    let later = NOW + ANSWER_WITHIN;
    assert_eq!(actions(&mut machine, later, &mut generation), [Action::OpenAbsorber(of)]);
    report(&mut machine, later, generation, state([None; 2], 5));
    assert_eq!(actions(&mut machine, later, &mut generation), [Action::CloseAbsorber(of)]);
    let gone = Report::Absent { reason: "it ended".to_owned(), no_permission: false };
    machine.handle(later, Event::EarlyDrop(gone));
    assert_eq!(actions(&mut machine, later, &mut generation), [Action::OpenAbsorber(of)]);
    assert_eq!(machine.actual().early_drop.dropped(IfIndex::new(10)), (5, 50), "counts stay");
}

#[test]
fn changes_are_sent_at_intervals() {
    let mut machine = machine();
    let mut generation = 0;
    machine.handle(NOW, Event::EarlyDrop(Report::Present));
    actions(&mut machine, NOW, &mut generation);
    report(&mut machine, NOW, generation, state([None; 2], 0));
    machine.handle(NOW, Event::NetworkDump { links: vec![link(11, "eth1")], addresses: Vec::new() });
    let at_once = actions(&mut machine, NOW, &mut generation);
    assert!(!at_once.iter().any(|action| matches!(action, Action::SetEarlyDrop(_))), "{at_once:?}");
    assert!(machine.next_deadline().is_some_and(|at| at <= NOW + SEND_EVERY));
    let sent = actions(&mut machine, NOW + SEND_EVERY, &mut generation);
    assert_eq!(sent, [Action::SetEarlyDrop(Wanted::new())], "also that there is nothing any more");
}
