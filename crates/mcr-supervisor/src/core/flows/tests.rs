use super::*;
use crate::core::ledger::RuleCount;
use crate::core::machine::{self, Machine};
use crate::core::plan::samples::{config, rule};
use crate::core::senders::gather;
use crate::core::senders::tests::flow;

fn machine(rules: u16) -> Machine {
    let mut machine = Machine::new([0], None);
    machine.handle(
        Duration::ZERO,
        machine::Event::start(config((1..=rules).map(|port| rule("eth0", "239.1.1.1", port, "eth1")))),
    );
    machine
}

/// A sample at `seconds`; the last datagram of every rule arrived at `last`.
fn sample(
    flows: &mut Flows,
    machine: &Machine,
    seconds: u64,
    last: u64,
    seen: &[FlowSnapshot],
) -> Vec<Event> {
    let count = RuleCount { packets: last, last: Duration::from_secs(last), ..RuleCount::default() };
    let mut rates = Rates::default();
    rates.sample(
        Duration::from_secs(seconds),
        &machine.plan().rules.iter().map(|rule| (rule.key, count.clone())).collect(),
    );
    flows.sample(Duration::from_secs(seconds), machine, &rates, &gather(seen.iter().copied()))
}

#[test]
fn a_flow_starts_with_its_first_datagram_and_stops_after_silence() {
    let (machine, mut flows) = (machine(1), Flows::default());
    let mut told = |seconds, last| -> Vec<_> {
        sample(&mut flows, &machine, seconds, last, &[]).into_iter().filter_map(|event| event.state).collect()
    };
    assert_eq!(told(100, 0), [""; 0], "it never came");
    assert_eq!(told(101, 101), ["started"]);
    assert_eq!(told(110, 101), [""; 0]);
    assert_eq!(told(111, 101), ["stopped"]);
    assert_eq!(told(150, 101), [""; 0]);
    assert_eq!(told(151, 151), ["started"]);
}

/// What flows and what has stopped at an adoption was reported by the supervisor before; what changes then is reported.
#[test]
fn what_an_earlier_supervisor_reported_is_not_reported_again() {
    let machine = machine(1);
    let id = machine.config().rules[0].id();
    let seen = |last| [flow(id, "10.0.0.1:5000", last, last)];
    let mut stopped = Flows::adopted();
    let mut told = |seconds, last| -> Vec<_> {
        let told = sample(&mut stopped, &machine, seconds, last, &seen(last));
        told.into_iter().filter_map(|event| event.state).collect()
    };
    assert_eq!(told(100, 50), [""; 0]);
    assert_eq!(told(130, 50), [""; 0], "it had stopped before");
    assert_eq!(told(131, 131), ["started"]);
    assert_eq!(told(142, 131), ["stopped"]);
    let mut flowing = Flows::adopted();
    let mut told = |seconds, last| -> Vec<_> {
        let told = sample(&mut flowing, &machine, seconds, last, &seen(last));
        told.into_iter().filter_map(|event| event.state).collect()
    };
    assert_eq!(told(100, 100), [""; 0]);
    assert_eq!(told(101, 101), [""; 0], "it flowed before");
    assert_eq!(told(112, 101), ["stopped"]);
}

#[test]
fn a_rule_that_is_ready_and_gets_nothing_is_silent_once() {
    let second = Duration::from_secs;
    let silence = second(10);
    let quiet = Flow::default();
    let waiting = next(quiet, second(5), silence, Duration::ZERO, || false);
    assert!(waiting.ready_since.is_none() && !waiting.silent);
    let ready = next(waiting, second(6), silence, Duration::ZERO, || true);
    assert!(!next(ready, second(15), silence, Duration::ZERO, || true).silent);
    let silent = next(ready, second(16), silence, Duration::ZERO, || true);
    assert!(silent.silent && !silent.flowing);
    assert!(!next(silent, second(17), silence, second(17), || true).silent, "one came");
    assert!(!next(silent, second(17), silence, Duration::ZERO, || false).silent, "the link went down");
    let again =
        next(Flow { ready_since: Some(second(1)), ..quiet }, second(40), silence, second(35), || true);
    assert!(again.flowing);
    let stopped = next(again, second(45), silence, second(35), || true);
    assert!(!stopped.flowing && stopped.silent, "it stopped, and is silent at once");
}

#[test]
fn many_at_once_are_one_event() {
    let (machine, mut flows) = (machine(100), Flows::default());
    let told = sample(&mut flows, &machine, 1, 1, &[]);
    assert_eq!(
        (told.len(), told[0].count, told[0].words.as_str()),
        (1, Some(100), "datagrams arrive: 100 rules")
    );
}

#[test]
fn a_second_source_is_reported_by_itself_and_the_first_with_its_rule() {
    let (machine, mut flows) = (machine(1), Flows::default());
    let id = machine.config().rules[0].id();
    let mut told = |seconds, last, seen: &[FlowSnapshot]| -> Vec<_> {
        let told = sample(&mut flows, &machine, seconds, last, seen);
        told.into_iter()
            .map(|event| (event.state.unwrap(), event.source.map(|s| s.to_string()), event.words))
            .collect()
    };
    let one = |last| flow(id, "10.0.0.1:4000", last, last);
    let other = |last| flow(id, "10.0.0.2:4000", last, last);
    let first = told(20, 20, &[one(20)]);
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!((first[0].0.as_str(), first[0].1.as_deref()), ("started", Some("10.0.0.1")));
    let second = told(21, 21, &[one(21), other(21)]);
    let words = "new flow from 10.0.0.2:4000 (eth0 239.1.1.1:1)";
    assert_eq!(second, [("started".to_owned(), Some("10.0.0.2".to_owned()), words.to_owned())]);
    let ended = told(31, 30, &[one(30), other(21)]);
    assert_eq!((ended.len(), ended[0].0.as_str(), ended[0].1.as_deref()), (1, "stopped", Some("10.0.0.2")));
    assert_eq!(told(40, 30, &[one(30), other(21)]).len(), 1, "the rule, and not its flow again");
}
