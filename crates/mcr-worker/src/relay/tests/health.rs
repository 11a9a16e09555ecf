//! A worker's heartbeats, and the hash of the table in use.

use std::sync::atomic::{AtomicBool, Ordering};

use mcr_link::telemetry::AuditSnapshot;

use super::*;

/// The last hash of the table in use.
fn audit(worker: &Worker) -> AuditSnapshot {
    worker.page.worker().audit.unwrap_or_default()
}

/// Waits for two more drift checks, the second of which starts after now.
fn next_audit(worker: &Worker) -> AuditSnapshot {
    let before = audit(worker).audits;
    eventually("the table is hashed", || audit(worker).audits >= before + 2);
    audit(worker)
}

fn set(worker: &Worker, rules: Vec<RelayRule>) -> RuleSet {
    RuleSet {
        generation: worker.generation,
        own: Own::default(),
        rules: rules.into_iter().map(Into::into).collect(),
    }
}

/// The interval is 100 ms; the bound is wider for loaded machines.
#[test]
fn heartbeats_continue_when_idle_and_under_overload() {
    for io in BOTH {
        let mut worker = Worker::ready(io);
        let receiver = udp();
        worker.pass(0, udp());
        worker.apply(vec![rule(1, vec![output(0, 0, receiver.local_addr().unwrap())])]);
        let ten_beats = |when: &str| {
            let (begun, before) = (monotonic(), worker.page.worker().heartbeat);
            let mut longest = Duration::ZERO;
            eventually(&format!("{io:?}: ten beats {when}"), || {
                let now = worker.page.worker();
                longest = longest.max(monotonic().saturating_sub(now.beat_at));
                now.heartbeat >= before + 10
            });
            println!("{io:?} {when}: ten beats in {:?}, longest silence {longest:?}", monotonic() - begun);
        };
        ten_beats("idle");
        let (over, frame) = (AtomicBool::new(false), Captured::plain(1, 1, &[7; 200]).frame());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    worker.input.send(&frame).unwrap();
                }
            });
            ten_beats("saturated");
            over.store(true, Ordering::Relaxed);
        });
        assert!(worker.page.worker().totals.received > 1_000, "{io:?}: the worker was not saturated");
        worker.stop();
    }
}

#[test]
fn the_table_in_use_has_the_hash_of_its_rule_set() {
    for io in BOTH {
        let mut worker = Worker::ready(io);
        assert_eq!(worker.page.worker().audit, None);
        let to = udp().local_addr().unwrap();
        for (round, sockets) in [[3, 4], [4, 5]].into_iter().enumerate() {
            // Ids are kept, while indices are reused.
            sockets.into_iter().filter(|id| round == 0 || *id == 5).for_each(|id| worker.pass(id, udp()));
            let rules = (0..100_u8)
                .map(|n| rule(n, vec![output(u32::from(n), sockets[usize::from(n) % 2], to)]))
                .collect::<Vec<_>>();
            worker.apply(rules.clone());
            let (found, wanted) = (next_audit(&worker), set(&worker, rules));
            assert_eq!((found.generation, found.hash), (wanted.generation, wanted.table_hash()), "{io:?}");
        }
        worker.stop();
    }
}

#[cfg(any(debug_assertions, feature = "fault-injection"))]
#[test]
fn each_fault_changes_the_hash_or_the_generation() {
    use mcr_link::message::Fault;

    for io in BOTH {
        let mut worker = Worker::ready(io);
        worker.pass(0, udp());
        let to = udp().local_addr().unwrap();
        let rules: Vec<_> = (0..3_u8).map(|n| rule(n, vec![output(u32::from(n), 0, to)])).collect();
        let mut hashes = Vec::new();
        for fault in [Fault::ForgetRule, Fault::AlterOutput] {
            worker.apply(rules.clone());
            let wanted = set(&worker, rules.clone()).table_hash();
            assert_eq!(next_audit(&worker).hash, wanted, "{io:?}");
            worker.send(&ToWorker::Fault(fault), &[]);
            let mut found = wanted;
            eventually(&format!("{io:?}: {fault:?} is detected"), || {
                found = audit(&worker).hash;
                found != wanted
            });
            hashes.push(found);
        }
        assert_ne!(hashes[0], hashes[1], "{io:?}");
        worker.send(&ToWorker::Fault(Fault::LoseUpdate), &[]);
        let (reply, hash) = worker.announce(rules);
        assert_eq!(reply, FromWorker::Applied { generation: worker.generation, hash });
        assert_eq!(next_audit(&worker).generation, worker.generation - 1, "{io:?}");
        worker.stop();
    }
}

/// Ten thousand rules are hashed while datagrams are relayed, without waiting for the end of the hash.
#[test]
fn a_large_table_is_hashed_in_slices() {
    for io in BOTH {
        let mut worker = Worker::ready(io);
        worker.pass(0, udp());
        let receiver = udp();
        let to = receiver.local_addr().unwrap();
        let rules: Vec<_> = (0..10_000_u32)
            .map(|n| RelayRule {
                id: RuleId::from_bits(n.into()),
                group: Ipv4Addr::from_bits(u32::from(group(0)) + n).into(),
                more_groups: Vec::new(),
                reassemble: true,
                slot: RuleSlot(n),
                ..rule(0, vec![output(n, 0, to)])
            })
            .collect();
        worker.apply(rules.clone());
        let wanted = set(&worker, rules).table_hash();
        let mut longest = Duration::ZERO;
        let before = audit(&worker).audits;
        while audit(&worker).audits < before + 3 {
            let sent_at = monotonic();
            worker.capture(&Captured::plain(1, 1, b"x"));
            assert_eq!(arrived(&receiver), b"x");
            longest = longest.max(monotonic() - sent_at);
        }
        println!("{io:?}: the longest relay time was {longest:?}");
        assert_eq!(audit(&worker).hash, wanted, "{io:?}");
        worker.stop();
    }
}
