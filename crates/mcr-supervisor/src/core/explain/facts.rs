//! What an explanation is made of.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use mcr_control::reply::Engine;
use mcr_link::observation::Observation;
use mcr_link::reason::{DropReason, SkipReason};
use mcr_link::telemetry::OutputSnapshot;
use mcr_link::telemetry::health::HealthSnapshot;
use mcr_rules::{Config, Output, Rule};
use mcr_sys::host_network::{Bridge, BridgeMembership, Description, Neighbor};
use mcr_sys::link::IfIndex;
use mcr_sys::network::Link;

use super::words;
use crate::core::actual::Actual;
use crate::core::ledger::RuleCount;
use crate::core::network::NetworkState;
use crate::core::plan::{OutputKey, Plan, PlannedRule, Readiness, RuleKey, WorkerId};

/// Counters at one moment; the default is the moment when nothing had been counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// When, by the monotonic clock.
    pub(crate) at: Duration,
    /// Of every rule in question.
    pub(crate) rules: BTreeMap<RuleKey, RuleCount>,
    /// Of every worker.
    pub(crate) workers: BTreeMap<WorkerId, WorkerReading>,
}

/// A worker's counters, and its queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerReading {
    /// Datagrams received.
    pub(crate) received: u64,
    /// By [`SkipReason::index`].
    pub(crate) skips: [u64; SkipReason::COUNT],
    /// Frames for which the kernel's queue had no room.
    pub(crate) kernel_drops: u64,
    /// The size of that queue, as the option counts it.
    pub(crate) receive_buffer_bytes: u64,
}

/// Queriers that were heard since the daemon runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queries {
    /// Since when it is listened; `None` if it can't be.
    pub(crate) since: Option<Duration>,
    /// Since when links that came, or got their carrier, later than that can be listened to.
    pub(crate) links: BTreeMap<IfIndex, Duration>,
    /// The last query on each interface, in IPv4 and (true) IPv6.
    pub(crate) last: BTreeMap<(IfIndex, bool), HeardQuery>,
}

impl Queries {
    /// Whether a bridge of this host sends groups only to ports that asked. It floods all while it hears no querier and is
    /// none itself.
    pub(super) fn narrow(&self, now: Duration, link: IfIndex, ipv6: bool, bridge: &Bridge) -> bool {
        bridge.snooping && (bridge.querier || self.asks(now, link, ipv6, bridge))
    }

    /// For how long queries on a link would have been heard; `None` if they can't be.
    pub(super) fn listening(&self, now: Duration, link: IfIndex) -> Option<Duration> {
        let since = self.since?.max(self.links.get(&link).copied().unwrap_or_default());
        Some(now.saturating_sub(since))
    }

    /// Whether a querier elsewhere was heard lately, as the bridge counts it.
    pub(super) fn asks(&self, now: Duration, link: IfIndex, ipv6: bool, bridge: &Bridge) -> bool {
        let last = self.last.get(&(link, ipv6));
        last.is_some_and(|heard| now.saturating_sub(heard.at) <= bridge.querier_interval)
    }
}

/// A query that was heard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeardQuery {
    /// When, by the monotonic clock.
    pub(crate) at: Duration,
    /// Who asked.
    pub(crate) from: IpAddr,
    /// How often it asks, if it said so.
    pub(crate) interval: Option<Duration>,
}

/// How long a querier that tells nothing waits between queries, and half of the time that it gives hosts to answer (RFC 3376
/// sections 8.2 and 8.3, RFC 3810 sections 9.2 and 9.3).
const QUERY_INTERVAL: Duration = Duration::from_secs(125);
const HALF_RESPONSE_INTERVAL: Duration = Duration::from_secs(5);

impl HeardQuery {
    /// How often the querier asks whose last query this is, if there was one.
    pub(super) fn interval(last: Option<&Self>) -> Duration {
        last.and_then(|last| last.interval).unwrap_or(QUERY_INTERVAL)
    }

    /// How long it is silent before it is missed (as RFC 3376 section 8.5, for one query).
    pub(super) fn patience(last: Option<&Self>) -> Duration {
        Self::interval(last) + HALF_RESPONSE_INTERVAL
    }
}

/// What the kernel and the system say of the host.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostFacts {
    /// `uname -r`.
    pub(crate) kernel: String,
    /// `kernel.io_uring_disabled`; `None` on kernels that lack it.
    pub(crate) io_uring_disabled: Option<u8>,
    /// `net.core.rmem_max`.
    pub(crate) rmem_max: Option<u64>,
    /// Reverse path filtering that is in force, by interface.
    pub(crate) rp_filter: BTreeMap<String, u8>,
    /// Interfaces.
    pub(crate) descriptions: BTreeMap<IfIndex, Description>,
    /// Whether received frames are steered to several cores in software (RPS); nothing of interfaces that can't be told.
    pub(crate) steered: BTreeMap<IfIndex, bool>,
    /// Whether received frames are merged (GRO).
    pub(crate) gro_enabled: BTreeMap<IfIndex, bool>,
    /// What bridges of this host snooped.
    pub(crate) bridge_memberships: Vec<BridgeMembership>,
    /// The neighbor table.
    pub(crate) neighbors: Vec<Neighbor>,
    /// Whom packets to a host are given to on a link, by the routes as they are; the host itself where that is not known.
    pub(crate) next_hops: BTreeMap<(IfIndex, IpAddr), IpAddr>,
    /// Capabilities that the daemon would use and lacks.
    pub(crate) missing_capabilities: Vec<&'static str>,
    /// Why nothing could be observed.
    pub(crate) not_observed: Option<String>,
}

/// Everything that is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    /// The running config.
    pub(crate) config: &'a Config,
    /// The goal.
    pub(crate) plan: &'a Plan,
    /// What became of it.
    pub(crate) actual: &'a Actual,
    /// Links and addresses.
    pub(crate) network: &'a NetworkState,
    /// Counters when it began; the default if all since the start is meant.
    pub(crate) before: &'a Reading,
    /// Counters now.
    pub(crate) after: &'a Reading,
    /// What arrived in between, if it was looked.
    pub(crate) observation: Option<&'a Observation>,
    /// Queriers.
    pub(crate) queries: &'a Queries,
    /// The host.
    pub(crate) host: &'a HostFacts,
}

/// A stream pauses for up to this multiple of the average interval between its datagrams.
const PAUSES: u32 = 3;

/// One rule with what is known.
pub(super) struct Subject<'a> {
    pub(super) facts: &'a Facts<'a>,
    pub(super) rule: &'a Rule,
    pub(super) planned: &'a PlannedRule,
    pub(super) link: Option<&'a Link>,
    keys: Vec<OutputKey>,
}

impl<'a> Subject<'a> {
    pub(super) fn new(facts: &'a Facts<'a>, rule: &'a Rule, planned: &'a PlannedRule) -> Self {
        let link = facts.network.link(rule.input.interface.as_str());
        Self { facts, rule, planned, link, keys: OutputKey::all_of(rule) }
    }

    fn counts(&self) -> (Option<&'a RuleCount>, Option<&'a RuleCount>) {
        let key = &self.planned.key;
        (self.facts.before.rules.get(key), self.facts.after.rules.get(key))
    }

    fn moved(&self, counter: impl Fn(&RuleCount) -> u64) -> u64 {
        let (before, after) = self.counts();
        after.map_or(0, &counter).saturating_sub(before.map_or(0, &counter))
    }

    /// Datagrams that the rule admitted meanwhile.
    pub(super) fn packets(&self) -> u64 {
        self.moved(|rule| rule.packets)
    }

    /// Their payload bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.moved(|rule| rule.bytes)
    }

    /// Datagrams that it admitted before.
    pub(super) fn packets_before(&self) -> u64 {
        self.counts().0.map_or(0, |rule| rule.packets)
    }

    /// Whether anything for the group was seen on the rule's interface.
    pub(super) fn was_seen(&self) -> bool {
        let here = self.link.map(|link| link.ifindex.to_raw());
        let mut flows = self.facts.observation.into_iter().flat_map(|seen| &seen.flows);
        flows.any(|flow| {
            flow.group == self.rule.input.group && Some(flow.ifindex) == here && flow.vlan.is_none()
        })
    }

    /// How long ago the last datagram came, if that is no longer than the pauses of this stream are.
    pub(super) fn pause(&self) -> Option<Duration> {
        let rule = self.counts().1.filter(|rule| rule.packets > 1)?;
        let between =
            rule.last.saturating_sub(rule.first) / u32::try_from(rule.packets - 1).unwrap_or(u32::MAX);
        let ago = self.facts.after.at.saturating_sub(rule.last);
        let silence = Duration::from_secs(self.facts.config.settings.flow_silence_s.into());
        (ago <= silence && ago <= between * PAUSES).then_some(ago)
    }

    /// What the check of the stream found meanwhile.
    pub(super) fn health(&self) -> HealthSnapshot {
        let (before, after) = self.counts();
        let before = before.map(|rule| rule.health).unwrap_or_default();
        after.map(|rule| rule.health.since(&before)).unwrap_or_default()
    }

    /// How long "meanwhile" was; `None` for "since the start".
    pub(super) fn time(&self) -> Option<Duration> {
        let Facts { before, after, .. } = self.facts;
        (before.at > Duration::ZERO).then(|| after.at.saturating_sub(before.at))
    }

    pub(super) fn seconds(&self) -> Option<f64> {
        self.time().map(|time| time.as_secs_f64())
    }

    /// "in 2.0 s" or "so far".
    pub(super) fn meanwhile(&self) -> String {
        self.time().map_or_else(|| "so far".to_owned(), |time| format!("in {}", words::time(time)))
    }

    /// The outputs with what they sent and dropped meanwhile.
    pub(super) fn outputs(&self) -> impl Iterator<Item = OutputFacts<'a>> + use<'a, '_> {
        let (before, after) = self.counts();
        let of = |counts: Option<&RuleCount>, key: &OutputKey| {
            counts.and_then(|rule| rule.outputs.get(key)).copied().unwrap_or_default()
        };
        self.rule.outputs.iter().enumerate().zip(&self.keys).map(move |((place, output), key)| OutputFacts {
            place,
            output,
            link: self.facts.network.link(output.interface.as_str()),
            readiness: self.planned.outputs.get(place),
            engine: self.planned.engines.get(place).copied().unwrap_or_default(),
            before: of(before, key),
            after: of(after, key),
        })
    }

    /// Whether every output is held back, or dropped all that it was given.
    pub(super) fn no_output_sends(&self) -> bool {
        self.outputs().all(|output| {
            let waits = matches!(output.readiness, Some(Readiness::Waiting(_)));
            waits || (output.sent() == 0 && output.dropped() > 0)
        })
    }

    /// The rule's workers with what they counted meanwhile.
    pub(super) fn workers(&self) -> impl Iterator<Item = (&'a WorkerId, WorkerReading)> + use<'a> {
        let (facts, installed) = (self.facts, self.planned.installed.as_ref());
        let ours = facts.after.workers.iter().filter(move |(id, _)| installed == Some(&id.interface));
        ours.map(move |(id, after)| {
            let none = WorkerReading::default();
            let before = facts.before.workers.get(id).unwrap_or(&none);
            let skips = std::array::from_fn(|n| after.skips[n].saturating_sub(before.skips[n]));
            let moved = WorkerReading {
                received: after.received.saturating_sub(before.received),
                skips,
                kernel_drops: after.kernel_drops.saturating_sub(before.kernel_drops),
                receive_buffer_bytes: after.receive_buffer_bytes,
            };
            (id, moved)
        })
    }

    /// What the workers of its interface skipped meanwhile, if that can be the rule's: it is the only one there.
    pub(super) fn skipped_alone(&self, reason: SkipReason) -> u64 {
        let relays = self.planned.installed.as_ref().and_then(|id| self.facts.plan.interfaces.get(id));
        if relays.is_none_or(|interface| interface.relays.len() != 1) {
            return 0;
        }
        self.workers().map(|(_, worker)| worker.skips[reason.index()]).sum()
    }
}

/// One output with what it did.
pub(super) struct OutputFacts<'a> {
    pub(super) place: usize,
    pub(super) output: &'a Output,
    pub(super) link: Option<&'a Link>,
    pub(super) readiness: Option<&'a Readiness>,
    pub(super) engine: Engine,
    before: OutputSnapshot,
    after: OutputSnapshot,
}

impl OutputFacts<'_> {
    pub(super) fn sent(&self) -> u64 {
        self.after.packets.saturating_sub(self.before.packets)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.after.dropped().saturating_sub(self.before.dropped())
    }

    pub(super) fn dropped_before(&self) -> u64 {
        self.before.dropped()
    }

    /// Why some were dropped before.
    pub(super) fn reasons_before(&self) -> impl Iterator<Item = String> {
        let drops = self.before.drops;
        DropReason::ALL
            .into_iter()
            .filter(move |reason| drops[reason.index()] > 0)
            .map(|reason| reason.name().to_owned())
    }

    pub(super) fn drops(&self, reason: DropReason) -> u64 {
        let n = reason.index();
        self.after.drops[n].saturating_sub(self.before.drops[n])
    }

    /// What the last failed send said.
    pub(super) fn last_error(&self) -> Option<String> {
        let errno = i32::try_from(self.after.last_errno).ok().filter(|errno| *errno != 0);
        errno.map(|errno| std::io::Error::from_raw_os_error(errno).to_string())
    }
}
