//! All counters, from the telemetry pages and the ledger; no worker is asked.

use std::collections::BTreeMap;

use mcr_control::reply::{OutputStats, PastWorkers, RuleStats, StatsReply, WorkerStats};
use mcr_link::reason::{DropReason, SkipReason};
use mcr_link::telemetry::{OutputSnapshot, TotalsSnapshot};
use mcr_rules::Rule;

use crate::core::ledger::RuleCount;
use crate::core::machine::Machine;
use crate::core::plan::{OutputKey, PlannedRule, RuleKey};
use crate::core::rates::Rates;
use crate::hands::Hands;

/// Every rule's counters now.
pub(crate) fn counts(machine: &Machine, hands: &Hands) -> BTreeMap<RuleKey, RuleCount> {
    let pages =
        hands.seats().filter_map(|(id, seat)| Some((id, machine.actual.workers.get(id)?, seat.reader())));
    machine.ledger.count(pages)
}

/// The reply to `GetStats`.
pub(crate) fn reply(machine: &Machine, hands: &Hands, rates: &Rates) -> StatsReply {
    // Workers before rules: what a worker's totals hold, the rules' counters hold too.
    let mut totals = *machine.ledger.left();
    let past_workers = past_workers(machine);
    let workers = hands
        .seats()
        .map(|(id, seat)| {
            let snapshot = seat.reader().worker();
            totals.add(&snapshot.totals);
            let TotalsSnapshot { frames, received, matched, due, sent, .. } = snapshot.totals;
            let process = machine.actual.workers.get(id).and_then(|worker| worker.process.pid());
            WorkerStats {
                interface: id.interface.name.clone(),
                core: id.core,
                pid: process.unwrap_or_default(),
                received,
                frames,
                matched,
                due,
                sent,
                kernel_drops: seat.kernel_drops(),
            }
        })
        .collect();
    let counts = counts(machine, hands);
    let none = RuleCount::default();
    let rules =
        machine.config().rules.iter().zip(&machine.plan().rules).map(|(rule, planned)| {
            rule_stats(rule, planned, counts.get(&planned.key).unwrap_or(&none), rates)
        });
    StatsReply {
        rules: rules.collect(),
        workers,
        past_workers,
        drops: DropReason::ALL.iter().map(|r| (r.name().to_owned(), totals.drops[r.index()])).collect(),
        skips: SkipReason::ALL.iter().map(|r| (r.name().to_owned(), totals.skips[r.index()])).collect(),
    }
}

fn past_workers(machine: &Machine) -> PastWorkers {
    let TotalsSnapshot { frames, received, matched, due, sent, .. } = *machine.ledger.left();
    PastWorkers { received, frames, matched, due, sent, kernel_drops: machine.ledger.left_kernel_drops() }
}

fn rule_stats(rule: &Rule, planned: &PlannedRule, count: &RuleCount, rates: &Rates) -> RuleStats {
    let keys = OutputKey::all_of(rule);
    let rate = rates.of(planned.key);
    RuleStats {
        id: planned.key.id,
        name: rule.name.clone(),
        packets: count.packets,
        bytes: count.bytes,
        pps: rate.pps,
        bps: rate.bps,
        due: count.due_on(&keys),
        outputs: keys.iter().map(|key| output_stats(key, count.outputs.get(key))).collect(),
    }
}

fn output_stats(key: &OutputKey, counted: Option<&OutputSnapshot>) -> OutputStats {
    let counted = counted.copied().unwrap_or_default();
    let (group, port) = key.to;
    let drops =
        DropReason::ALL.iter().map(|reason| (reason.name().to_owned(), counted.drops[reason.index()]));
    let errno = i32::try_from(counted.last_errno).ok().filter(|errno| *errno != 0);
    OutputStats {
        interface: key.interface.clone(),
        group,
        port,
        packets: counted.packets,
        bytes: counted.bytes,
        errors: counted.dropped(),
        drops: drops.filter(|(_, n)| *n != 0).collect(),
        last_error: errno.map(|errno| std::io::Error::from_raw_os_error(errno).to_string()),
    }
}
