use std::sync::Arc;

use mcr_link::message::IoBackend;
use mcr_link::rule_set::{RelayRule, RuleSet, RuleSlot};
use mcr_rules::RuleOptions;
use mcr_sys::link::IfIndex;

use super::*;
use crate::core::actual::{Readied, SentRuleSet};
use crate::core::plan::InterfaceId;

const OPTIONS: TraceOptions =
    TraceOptions { sample: 1, drops_only: false, max_records: 100, max_time: Duration::from_secs(60) };

fn key(id: u64) -> RuleKey {
    RuleKey { id: RuleId::from_bits(id), incarnation: 1 }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn worker(core: u16) -> WorkerId {
    let interface = InterfaceId::new("eth0".parse().unwrap(), IfIndex::new(2));
    WorkerId { interface, core }
}

fn running(pid: u32, rules: &[u64]) -> ActualWorker {
    let rule = |id: &u64| RelayRule {
        id: RuleId::from_bits(*id),
        group: "239.1.1.1".parse().unwrap(),
        more_groups: Vec::new(),
        reassemble: true,
        port: 5000,
        sources: Vec::new(),
        slot: RuleSlot(0),
        options: RuleOptions::default(),
        merge: None,
        outputs: Vec::new(),
    };
    let set = RuleSet { rules: rules.iter().map(|id| rule(id).into()).collect(), ..RuleSet::default() };
    ActualWorker {
        process: Process::Running {
            pid,
            since: seconds(0),
            ready_at: seconds(0),
            readied: Readied {
                io: IoBackend::IoUring,
                uid: 0,
                notes: Vec::new(),
                sandbox: Vec::new(),
                sandbox_notes: Vec::new(),
            },
        },
        applied: Some(SentRuleSet {
            set: Arc::new(set),
            hash: 0,
            table_hash: 0,
            named: std::collections::BTreeSet::new(),
            wanted: Arc::default(),
            at: seconds(0),
            as_change: false,
        }),
        ..ActualWorker::default()
    }
}

/// Traces and the existing workers.
#[derive(Default)]
struct World {
    traces: Traces,
    workers: BTreeMap<WorkerId, ActualWorker>,
    written: u64,
    removed: bool,
}

impl World {
    fn actions(&mut self, now: Duration) -> Vec<TraceAction> {
        let (removed, written) = (self.removed, self.written);
        let incarnation = |id: RuleId| (!removed).then_some(RuleKey { id, incarnation: 1 });
        self.traces.actions(now, &self.workers, incarnation, |_| written)
    }
}

fn begin(trace: u64, number: usize, core: u16, rule: u64) -> TraceAction {
    let request =
        TraceRequest { rule: RuleId::from_bits(rule), sample: 1, drops_only: false, max_records: 100 };
    TraceAction::Begin { ring: RingId { trace, number }, worker: worker(core), request }
}

fn end(core: u16, rule: u64) -> TraceAction {
    TraceAction::End { worker: worker(core), rule: RuleId::from_bits(rule) }
}

#[test]
fn every_worker_with_the_rule_gets_the_ring_once_and_a_replacement_gets_the_same() {
    let mut world = World::default();
    world.workers.insert(worker(0), running(10, &[7]));
    world.workers.insert(worker(1), running(11, &[8]));
    world.traces.enable(key(7), OPTIONS, seconds(0), seconds(0)).unwrap();
    assert_eq!(world.actions(seconds(0)), [begin(1, 0, 0, 7)]);
    assert_eq!(world.actions(seconds(1)), []);
    world.workers.insert(worker(0), ActualWorker::default());
    assert_eq!(world.actions(seconds(2)), [], "it is dead");
    world.workers.insert(worker(0), running(12, &[7]));
    world.workers.insert(worker(1), running(11, &[7, 8]));
    assert_eq!(world.actions(seconds(3)), [begin(1, 0, 0, 7), begin(1, 1, 1, 7)]);
}

#[test]
fn it_ends_by_itself_and_the_records_stay() {
    for (written, at, ending) in [(100, 1, Ending::Records), (5, 60, Ending::Time)] {
        let mut world = World::default();
        world.workers.insert(worker(0), running(10, &[7]));
        world.traces.enable(key(7), OPTIONS, seconds(0), seconds(0)).unwrap();
        world.actions(seconds(0));
        world.written = written;
        assert_eq!(world.actions(seconds(at)), [end(0, 7)]);
        let trace = world.traces.of(key(7).id).unwrap();
        assert_eq!((trace.ended, trace.rings().count()), (Some(ending), 1));
        assert_eq!(world.actions(seconds(99)), []);
        assert!(!world.traces.disable(key(7).id), "it has ended already");
    }
}

#[test]
fn disabled_and_enabled_anew() {
    let mut world = World::default();
    world.workers.insert(worker(0), running(10, &[7]));
    world.traces.enable(key(7), OPTIONS, seconds(0), seconds(0)).unwrap();
    world.actions(seconds(0));
    assert!(world.traces.disable(key(7).id));
    assert_eq!(world.actions(seconds(1)), [end(0, 7)]);
    world.traces.enable(key(7), OPTIONS, seconds(2), seconds(0)).unwrap();
    assert_eq!(world.actions(seconds(2)), [TraceAction::Forget { trace: 1 }, begin(2, 0, 0, 7)]);
}

#[test]
fn a_rule_that_is_removed_takes_its_trace_along() {
    let mut world = World::default();
    world.workers.insert(worker(0), running(10, &[7]));
    world.traces.enable(key(7), OPTIONS, seconds(0), seconds(0)).unwrap();
    world.actions(seconds(0));
    world.removed = true;
    assert_eq!(world.actions(seconds(1)), [end(0, 7), TraceAction::Forget { trace: 1 }]);
    assert!(world.traces.is_empty());
}

#[test]
fn the_oldest_that_ended_makes_room_and_a_running_one_does_not() {
    let mut traces = Traces::default();
    for id in 0..MAX_TRACES as u64 {
        traces.enable(key(id), OPTIONS, seconds(0), seconds(0)).unwrap();
    }
    assert_eq!(traces.enable(key(99), OPTIONS, seconds(0), seconds(0)), Err(TooMany));
    traces.disable(key(5).id);
    traces.disable(key(3).id);
    traces.enable(key(99), OPTIONS, seconds(0), seconds(0)).unwrap();
    assert!(traces.of(key(3).id).is_none() && traces.of(key(5).id).is_some());
}
