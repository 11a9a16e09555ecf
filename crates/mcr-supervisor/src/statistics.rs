//! All counters, from the telemetry pages and the ledger; workers are not asked.

use std::collections::BTreeMap;
use std::time::Duration;

use mcr_control::failure::Failure;
use mcr_control::method::parameter::RuleFilter;
use mcr_control::reply::{
    Engine, FlowStatus, FlowsReply, HealthStats, KernelStats, LastSkip, LatencyBucket, LatencyStats,
    LegStats, OutputStats, PastWorkers, RuleStats, StatsReply, WorkerStats,
};
use mcr_link::reason::{DropReason, SkipReason};
use mcr_link::telemetry::flows::FlowSnapshot;
use mcr_link::telemetry::health::HealthSnapshot;
use mcr_link::telemetry::latency::{LATENCY_BOUNDS_US, LatencySnapshot};
use mcr_link::telemetry::{OutputSnapshot, TotalsSnapshot};
use mcr_rules::{Rule, RuleId, RuleName};
use mcr_sys::clock;
use mcr_sys::link::IfIndex;

use crate::config_change::not_found;
use crate::core::actual::kernel_engine::ledger_id;
use crate::core::aggregation::Received;
use crate::core::flows::Flows;
use crate::core::ledger::{Counters, RuleCount};
use crate::core::machine::Machine;
use crate::core::plan::{OutputKey, PlannedRule, RuleKey, WorkerId};
use crate::core::rates::Rates;
use crate::core::senders::{FlowId, gather};
use crate::core::status::engine_of;
use crate::executor::Executor;

/// Returns every rule's counters.
pub(crate) fn counts(machine: &Machine, executor: &Executor) -> BTreeMap<RuleKey, RuleCount> {
    let kernel = ledger_id();
    let counting = machine.actual().kernel.counting();
    let pages = executor
        .slots()
        .filter_map(|(id, slot)| Some((id, machine.worker(id)?, &slot.reader as &dyn Counters)))
        .chain(executor.kernel_counters().map(|tables| (&kernel, counting, tables as &dyn Counters)));
    machine.ledger().count(pages)
}

fn kernel_stats(totals: &TotalsSnapshot) -> KernelStats {
    let TotalsSnapshot { frames, received, matched, due, sent, drops, .. } = *totals;
    KernelStats { received, frames, matched, due, sent, drops: drops_by_reason(&drops) }
}

/// Those that are not 0.
fn drops_by_reason(drops: &[u64; DropReason::COUNT]) -> BTreeMap<String, u64> {
    let drops = DropReason::ALL.iter().map(|reason| (reason.name().to_owned(), drops[reason.index()]));
    drops.filter(|(_, n)| *n != 0).collect()
}

/// Returns what the workers of each interface have received from it.
pub(crate) fn received(executor: &Executor) -> BTreeMap<IfIndex, Received> {
    let mut received: BTreeMap<IfIndex, Received> = BTreeMap::new();
    let alone = |id: &WorkerId| !id.interface.local && id.interface.linked.is_empty();
    for (id, slot) in executor.slots().filter(|(id, _)| alone(id)) {
        let totals = slot.reader.worker().totals;
        let sum = received.entry(id.interface.ifindex).or_default();
        sum.datagrams += totals.received;
        sum.frames += totals.frames;
    }
    received
}

fn latency(measured: &LatencySnapshot) -> LatencyStats {
    let bounds = LATENCY_BOUNDS_US.map(Some).into_iter().chain([None]);
    LatencyStats {
        samples: measured.samples(),
        sum_us: measured.sum_ns / 1000,
        p50_us: measured.percentile_us(50),
        p99_us: measured.percentile_us(99),
        buckets: bounds
            .zip(measured.buckets)
            .filter(|(_, count)| *count > 0)
            .map(|(le_us, count)| LatencyBucket { le_us, count })
            .collect(),
    }
}

/// Returns the reply to `GetStats`.
pub(crate) fn reply(machine: &Machine, executor: &Executor, rates: &Rates, flows: &Flows) -> StatsReply {
    // Workers before rules: what a worker's totals include, the rules' counters include too.
    let mut totals = *machine.ledger().left();
    let past_workers = past_workers(machine);
    let workers = executor
        .slots()
        .map(|(id, slot)| {
            let snapshot = slot.reader.worker();
            totals.add(&snapshot.totals);
            let TotalsSnapshot { frames, received, matched, due, sent, fragments, reassembled, .. } =
                snapshot.totals;
            let process = machine.worker(id).and_then(|worker| worker.process.pid());
            WorkerStats {
                interface: id.interface.name.clone(),
                core: id.core,
                interfaces: id.interface.captured().map(|(name, _)| name.clone()).collect(),
                held: snapshot.totals.held,
                local: id.interface.local,
                pid: process.unwrap_or_default(),
                received,
                frames,
                matched,
                due,
                sent,
                kernel_drops: slot.kernel_drops,
                fragments,
                reassembled,
                latency: latency(&slot.reader.latency()),
            }
        })
        .collect();
    let kernel = executor.kernel_totals(machine);
    kernel.iter().for_each(|kernel| totals.add(kernel));
    let counts = counts(machine, executor);
    let none = RuleCount::default();
    let utc_offset = utc_offset();
    let rules = machine.config().rules.iter().zip(&machine.plan().rules).map(|(rule, planned)| {
        let count = counts.get(&planned.key).unwrap_or(&none);
        let silent = flows.is_silent(planned.key);
        RuleStats {
            first_ms: utc_ms(count.first, utc_offset),
            last_ms: utc_ms(count.last, utc_offset),
            silent,
            last_skip: last_skip(count, utc_offset),
            ..rule_stats(rule, planned, count, rates, engine_of(planned, machine.actual()))
        }
    });
    StatsReply {
        rules: rules.collect(),
        workers,
        past_workers,
        kernel: kernel.as_ref().map(kernel_stats),
        drops: DropReason::ALL.iter().map(|r| (r.name().to_owned(), totals.drops[r.index()])).collect(),
        skips: SkipReason::ALL.iter().map(|r| (r.name().to_owned(), totals.skips[r.index()])).collect(),
    }
}

/// Returns every flow of every worker.
pub(crate) fn flows(executor: &Executor) -> BTreeMap<FlowId, FlowSnapshot> {
    gather(executor.slots().flat_map(|(_, slot)| slot.reader.flows()))
}

/// Returns the reply to `ListFlows`.
pub(crate) fn list_flows(
    machine: &Machine,
    executor: &Executor,
    known: &Flows,
    filter: &RuleFilter,
) -> Result<FlowsReply, Failure> {
    let selected = machine.config().rules.iter().filter(|rule| filter.selects(rule));
    let names: BTreeMap<RuleId, Option<&RuleName>> =
        selected.map(|rule| (rule.id(), rule.name.as_ref())).collect();
    if let (Some(selector), true) = (&filter.0, names.is_empty()) {
        return Err(not_found(selector));
    }
    let (utc_offset, now) = (utc_offset(), clock::monotonic());
    let silence = Duration::from_secs(machine.config().settings.flow_silence_s.into());
    let flows = flows(executor).into_iter().filter_map(|(id, flow)| {
        let rate = known.sources().rate(&id);
        Some(FlowStatus {
            rule: id.0,
            name: (*names.get(&id.0)?).cloned(),
            source: flow.source.ip(),
            port: flow.source.port(),
            packets: flow.packets,
            bytes: flow.bytes,
            pps: rate.pps,
            bps: rate.bps,
            first_ms: utc_ms(flow.first, utc_offset).unwrap_or_default(),
            last_ms: utc_ms(flow.last, utc_offset).unwrap_or_default(),
            flowing: now.saturating_sub(flow.last) < silence,
            health: (flow.health.checked > 0).then(|| health_stats(&flow.health)),
        })
    });
    let flows = flows.collect();
    Ok(FlowsReply { flows, unlisted: executor.slots().map(|(_, slot)| slot.reader.unlisted_packets()).sum() })
}

/// Offset from the monotonic clock to the time of day.
pub(crate) fn utc_offset() -> Duration {
    clock::since_epoch().saturating_sub(clock::monotonic())
}

/// A monotonic time as milliseconds since 1970 (UTC); `None` for zero, which means never.
fn utc_ms(at: Duration, utc_offset: Duration) -> Option<u64> {
    (!at.is_zero()).then(|| u64::try_from((at + utc_offset).as_millis()).unwrap_or(u64::MAX))
}

fn past_workers(machine: &Machine) -> PastWorkers {
    let TotalsSnapshot { frames, received, matched, due, sent, fragments, reassembled, .. } =
        *machine.ledger().left();
    let kernel_drops = machine.ledger().left_kernel_drops();
    PastWorkers { received, frames, matched, due, sent, kernel_drops, fragments, reassembled }
}

fn rule_stats(
    rule: &Rule,
    planned: &PlannedRule,
    count: &RuleCount,
    rates: &Rates,
    engine: Engine,
) -> RuleStats {
    let keys = OutputKey::all_of(rule);
    let rate = rates.of(planned.key);
    RuleStats {
        id: planned.key.id,
        name: rule.name.clone(),
        packets: count.packets,
        bytes: count.bytes,
        pps: rate.pps,
        bps: rate.bps,
        frames: count.frames(),
        per_frame: rates.per_frame(planned.key),
        due: count.due_on(&keys),
        health: rule.options.stream.map(|_| health_stats(&count.health)),
        first_ms: None,
        last_ms: None,
        silent: false,
        skips: skips_by_reason(count),
        legs: legs(rule, count),
        lost: count.merge.as_ref().map(|merge| merge.lost),
        held: count.merge.as_ref().map(|merge| merge.held),
        last_skip: None,
        outputs: keys.iter().map(|key| output_stats(key, engine, count.outputs.get(key))).collect(),
    }
}

/// The legs of a merged rule; empty for others.
fn legs(rule: &Rule, count: &RuleCount) -> Vec<LegStats> {
    let Some(merge) = &rule.merge else { return Vec::new() };
    let counted = count.merge.as_deref().copied().unwrap_or_default();
    let legs = std::iter::once(&rule.input).chain(&merge.more).zip(counted.legs);
    legs.map(|(input, leg)| LegStats {
        interface: input.interface.clone(),
        group: input.group,
        port: input.port,
        packets: leg.packets,
        lost: leg.lost,
        duplicates: leg.duplicates,
        unique: leg.unique,
        too_late: leg.too_late,
        other_stream: leg.other_stream,
        skew_us: leg.skew_us,
    })
    .collect()
}

fn skips_by_reason(count: &RuleCount) -> BTreeMap<String, u64> {
    let Some(skips) = &count.skips else { return BTreeMap::new() };
    let by_reason = SkipReason::ALL.iter().map(|reason| (reason.name().to_owned(), skips.of(*reason)));
    by_reason.filter(|(_, n)| *n != 0).collect()
}

fn last_skip(count: &RuleCount, utc_offset: Duration) -> Option<LastSkip> {
    let last = count.skips.as_ref()?.last?;
    Some(LastSkip {
        at_ms: utc_ms(last.at, utc_offset)?,
        reason: last.reason.name().to_owned(),
        source: last.source,
        port: last.port,
    })
}

fn health_stats(found: &HealthSnapshot) -> HealthStats {
    HealthStats {
        checked: found.checked,
        lost: found.lost,
        reordered: found.reordered,
        duplicates: found.duplicates,
        continuity_errors: found.continuity,
        malformed: found.malformed,
        jitter_us: found.jitter_ns / 1_000,
    }
}

fn output_stats(key: &OutputKey, engine: Engine, counted: Option<&OutputSnapshot>) -> OutputStats {
    let counted = counted.copied().unwrap_or_default();
    let (group, port) = key.to;
    let errno = i32::try_from(counted.last_errno).ok().filter(|errno| *errno != 0);
    OutputStats {
        interface: key.interface.clone(),
        group,
        port,
        engine,
        packets: counted.packets,
        bytes: counted.bytes,
        errors: counted.dropped(),
        drops: drops_by_reason(&counted.drops),
        replies: counted.replies,
        last_error: errno.map(|errno| std::io::Error::from_raw_os_error(errno).to_string()),
    }
}
