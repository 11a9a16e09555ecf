//! Sources by rule: the flows of all workers combined, with their rates, by sample.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use mcr_link::telemetry::flows::FlowSnapshot;
use mcr_rules::RuleId;

use crate::core::rates::{Rate, Sample};

/// Identifies a flow: the rule that admits it, and its source.
pub(crate) type FlowId = (RuleId, SocketAddr);

/// The flows of all workers; one seen by several workers counts as one.
pub(crate) fn gather(seen: impl IntoIterator<Item = FlowSnapshot>) -> BTreeMap<FlowId, FlowSnapshot> {
    let mut flows: BTreeMap<FlowId, FlowSnapshot> = BTreeMap::new();
    for flow in seen {
        flows
            .entry((flow.rule, flow.source))
            .and_modify(|all| {
                all.packets += flow.packets;
                all.bytes += flow.bytes;
                all.first = all.first.min(flow.first);
                all.last = all.last.max(flow.last);
                all.health.add(&flow.health);
            })
            .or_insert(flow);
    }
    flows
}

/// A flow that started or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowChange {
    pub(crate) flow: FlowId,
    pub(crate) started: bool,
}

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    at: Duration,
    /// With whether the flow is active.
    known: BTreeMap<FlowId, (Sample, bool)>,
}

impl Sources {
    /// Takes a sample. Returns the flows that started or stopped; flows that are not in the sample are dropped.
    pub(crate) fn sample(
        &mut self,
        now: Duration,
        silence: Duration,
        flows: &BTreeMap<FlowId, FlowSnapshot>,
    ) -> Vec<FlowChange> {
        let seconds = now.saturating_sub(self.at).as_secs_f64();
        let before = std::mem::take(&mut self.known);
        let mut flow_changes = Vec::new();
        for (id, flow) in flows {
            let was = before.get(id);
            let flowing = now.saturating_sub(flow.last) < silence;
            if flowing != was.is_some_and(|(_, flowing)| *flowing) {
                flow_changes.push(FlowChange { flow: *id, started: flowing });
            }
            let sample = Sample::next(was.map(|(sample, _)| sample), flow.packets, flow.bytes, seconds);
            self.known.insert(*id, (sample, flowing));
        }
        self.at = now;
        flow_changes
    }

    /// A flow's rate over the last sample.
    pub(crate) fn rate(&self, flow: &FlowId) -> Rate {
        self.known.get(flow).map(|(sample, _)| sample.rate).unwrap_or_default()
    }

    /// The active flows of a rule.
    pub(crate) fn flowing(&self, rule: RuleId) -> impl Iterator<Item = SocketAddr> + '_ {
        let first = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0);
        let from = self.known.range((rule, first)..);
        from.take_while(move |((of, _), _)| *of == rule)
            .filter(|(_, (_, flowing))| *flowing)
            .map(|((_, source), _)| *source)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use mcr_link::telemetry::health::HealthSnapshot;

    pub(in crate::core) fn flow(rule: RuleId, source: &str, packets: u64, last_s: u64) -> FlowSnapshot {
        FlowSnapshot {
            rule,
            source: source.parse().unwrap(),
            packets,
            bytes: packets * 100,
            first: Duration::from_secs(1),
            last: Duration::from_secs(last_s),
            health: HealthSnapshot::default(),
        }
    }

    #[test]
    fn a_flow_through_two_workers_is_one_and_its_rate_is_theirs_together() {
        let rule = RuleId::from_bits(1);
        let mut sources = Sources::default();
        let silence = Duration::from_secs(10);
        let id = (rule, "10.0.0.1:4000".parse().unwrap());
        let mut sample = |now: u64, flows: Vec<FlowSnapshot>| {
            let gathered = gather(flows);
            let flow_changes = sources.sample(Duration::from_secs(now), silence, &gathered);
            let started: Vec<_> = flow_changes.iter().map(|change| change.started).collect();
            (gathered.len(), started, sources.rate(&id))
        };
        let both = |n, last| vec![flow(rule, "10.0.0.1:4000", n, last), flow(rule, "10.0.0.1:4000", n, 3)];
        assert_eq!(sample(10, both(10, 10)), (1, vec![true], Rate::default()));
        assert_eq!(sample(12, both(30, 12)), (1, vec![], Rate { pps: 20.0, bps: 16_000.0 }));
        assert_eq!(sample(22, both(30, 12)), (1, vec![false], Rate::default()));
        assert_eq!(sample(23, both(31, 23)), (1, vec![true], Rate { pps: 2.0, bps: 1_600.0 }));
        let ports = vec![flow(rule, "10.0.0.1:4000", 31, 23), flow(rule, "10.0.0.1:4001", 1, 24)];
        assert_eq!(sample(24, ports), (2, vec![true], Rate::default()));
        assert_eq!(sources.flowing(rule).count(), 2);
        assert_eq!(sources.flowing(RuleId::from_bits(2)).count(), 0);
    }
}
