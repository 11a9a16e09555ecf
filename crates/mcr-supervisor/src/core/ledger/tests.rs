use super::*;
use crate::core::plan::InterfaceId;
use mcr_rules::RuleId;
use mcr_sys::link::IfIndex;

#[derive(Default)]
struct Page(BTreeMap<u32, u64>);

impl Counters for Page {
    fn rule(&self, slot: RuleSlot) -> RuleSnapshot {
        let packets = self.0.get(&slot.0).copied().unwrap_or_default();
        RuleSnapshot { packets, bytes: packets * 10, due: packets * 2, ..RuleSnapshot::default() }
    }

    fn output(&self, slot: OutputSlot) -> OutputSnapshot {
        let packets = self.0.get(&slot.0).copied().unwrap_or_default();
        let mut drops = [0; DropReason::COUNT];
        drops[DropReason::SocketFull.index()] = packets / 2;
        OutputSnapshot { packets, bytes: packets * 10, last_errno: 11, drops, replies: packets }
    }
}

fn worker_id() -> WorkerId {
    let interface = InterfaceId::new("eth0".parse().unwrap(), IfIndex::new(1));
    WorkerId { interface, core: 0 }
}

fn rule(n: u64) -> RuleKey {
    RuleKey { id: RuleId::from_bits(n), incarnation: 1 }
}

fn output(port: u16) -> OutputKey {
    let to = ("239.2.0.1".parse().unwrap(), port);
    OutputKey { to, interface: "eth1".parse().unwrap(), source: None, ordinal: 0 }
}

#[test]
fn who_gets_a_used_place_starts_at_zero() {
    let mut ledger = Ledger::default();
    let page = Page(BTreeMap::from([(0, 100)]));
    let released = |n| Released { rules: vec![(rule(n), RuleSlot(0))], outputs: vec![] };
    ledger.release(&worker_id(), &released(1), &page);
    let page = Page(BTreeMap::from([(0, 130)]));
    ledger.release(&worker_id(), &released(2), &page);
    let counts = ledger.count(std::iter::empty::<(&WorkerId, &ActualWorker, &dyn Counters)>());
    assert_eq!((counts[&rule(1)].packets, counts[&rule(2)].packets), (100, 30));
    assert_eq!((counts[&rule(2)].bytes, counts[&rule(2)].due), (300, 60));
}

#[test]
fn what_past_outputs_settled_is_taken_off_what_is_due() {
    let mut ledger = Ledger::default();
    let released = Released {
        rules: vec![(rule(1), RuleSlot(9))],
        outputs: vec![((rule(1), output(1)), OutputSlot(3)), ((rule(1), output(2)), OutputSlot(4))],
    };
    ledger.release(&worker_id(), &released, &Page(BTreeMap::from([(9, 30), (3, 20), (4, 20)])));
    let count = &ledger.count(std::iter::empty::<(&WorkerId, &ActualWorker, &dyn Counters)>())[&rule(1)];
    assert_eq!(count.due, 60);
    assert_eq!(count.outputs.get(&output(1)).unwrap().dropped(), 10);
    assert_eq!(count.outputs.get(&output(1)).unwrap().last_errno, 11);
    assert_eq!(count.due_on(&[output(1), output(2)]), 60);
    assert_eq!(count.due_on(&[output(1)]), 30);
}

#[test]
fn the_totals_of_a_worker_that_left_remain() {
    let mut ledger = Ledger::default();
    let totals = TotalsSnapshot { received: 7, ..TotalsSnapshot::default() };
    ledger.discard(&worker_id(), &ActualWorker::default(), &Page::default(), &totals, 3);
    ledger.discard(&worker_id(), &ActualWorker::default(), &Page::default(), &totals, 3);
    assert_eq!(ledger.left().received, 14);
    ledger.retain(&Incarnations::new());
    assert_eq!(ledger.left().received, 14);
}
