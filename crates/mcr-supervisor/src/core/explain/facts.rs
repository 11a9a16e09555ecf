//! The input data of an explanation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use mcr_control::reply::Engine;
use mcr_link::observation::Observation;
use mcr_link::reason::{DropReason, SkipReason};
use mcr_link::telemetry::OutputSnapshot;
use mcr_link::telemetry::health::HealthSnapshot;
use mcr_link::telemetry::merges::MergeSnapshot;
use mcr_link::telemetry::skips::LastSkip;
use mcr_rules::{Config, Output, Rule};
use mcr_sys::host_network::{Bridge, BridgeMembership, Description, Neighbor};
use mcr_sys::link::IfIndex;
use mcr_sys::network::Link;

use super::words;
use crate::core::actual::Actual;
use crate::core::aggregation::Aggregation;
use crate::core::ledger::RuleCount;
use crate::core::network::NetworkState;
use crate::core::plan::{OutputKey, Plan, PlannedRule, Readiness, RuleKey, WorkerId};
use crate::core::status::engine_of;

/// Counters at one moment; the default is all zero.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    /// When, by the monotonic clock.
    pub(crate) at: Duration,
    /// Counters of the examined rules.
    pub(crate) rules: BTreeMap<RuleKey, RuleCount>,
    /// Counters of every worker.
    pub(crate) workers: BTreeMap<WorkerId, WorkerReading>,
}

/// A worker's counters and receive buffer.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerReading {
    pub(crate) received: u64,
    /// By [`SkipReason::index`].
    pub(crate) skips: [u64; SkipReason::COUNT],
    /// Frames dropped because the kernel's queue was full.
    pub(crate) kernel_drops: u64,
    /// The size of that queue, as `SO_RCVBUF` reports it.
    pub(crate) receive_buffer_bytes: u64,
}

/// Queriers heard since the daemon started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queries {
    /// Since when it listens; `None` if it can't.
    pub(crate) since: Option<Duration>,
    /// For links that appeared, or got their carrier, later than that: since when it can hear them.
    pub(crate) links: BTreeMap<IfIndex, Duration>,
    /// The last query on each interface, for IPv4 (false) and IPv6 (true).
    pub(crate) last: BTreeMap<(IfIndex, bool), HeardQuery>,
    /// Interfaces on which this host's reports can be heard, likewise.
    pub(crate) reports_heard_on: BTreeSet<(IfIndex, bool)>,
    /// Queries that no report of this host has followed yet.
    pub(crate) unanswered: BTreeMap<(IfIndex, bool), Unanswered>,
}

/// A query that was not answered yet; later ones change nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unanswered {
    /// When it was heard.
    pub(crate) since: Duration,
    /// When a report must have been sent.
    pub(crate) until: Duration,
}

/// A report is sent after the maximum response time at the latest; this is for a busy host.
const REPORT_DELAY: Duration = Duration::from_secs(1);
/// The longest maximum response time that is believed.
const MAX_RESPONSE: Duration = Duration::from_secs(60);

impl Queries {
    /// A query was heard; `max_response` is the time within which every member reports, if it asks for all groups.
    pub(crate) fn query(
        &mut self,
        place: (IfIndex, bool),
        query: HeardQuery,
        max_response: Option<Duration>,
    ) {
        self.last.insert(place, query);
        if let Some(max_response) = max_response.filter(|_| self.reports_heard_on.contains(&place)) {
            let until = query.at + max_response.min(MAX_RESPONSE) + REPORT_DELAY;
            self.unanswered.entry(place).or_insert(Unanswered { since: query.at, until });
        }
    }

    /// A report of this host was heard.
    pub(crate) fn report(&mut self, place: (IfIndex, bool)) {
        self.unanswered.remove(&place);
    }

    /// This host's reports can be heard on these interfaces, and on no others.
    pub(crate) fn hear_reports_on(&mut self, places: BTreeSet<(IfIndex, bool)>) {
        self.unanswered.retain(|place, _| places.contains(place));
        self.reports_heard_on = places;
    }

    /// When the first query was heard to which this host should have reported by now, and has not.
    pub(super) fn no_report_since(&self, now: Duration, link: IfIndex, ipv6: bool) -> Option<Duration> {
        let unanswered = self.unanswered.get(&(link, ipv6))?;
        (now > unanswered.until).then_some(unanswered.since)
    }

    /// Whether a bridge of this host forwards groups only to member ports. It floods while it hears no querier and is
    /// not one itself.
    pub(super) fn prunes(&self, now: Duration, link: IfIndex, ipv6: bool, bridge: &Bridge) -> bool {
        bridge.snooping && (bridge.querier || self.other_querier(now, link, ipv6, bridge))
    }

    /// How long queries on a link could have been heard; `None` if they can't be.
    pub(super) fn listening(&self, now: Duration, link: IfIndex) -> Option<Duration> {
        let since = self.since?.max(self.links.get(&link).copied().unwrap_or_default());
        Some(now.saturating_sub(since))
    }

    /// Whether another querier was heard recently, by the bridge's timeout.
    pub(super) fn other_querier(&self, now: Duration, link: IfIndex, ipv6: bool, bridge: &Bridge) -> bool {
        let last = self.last.get(&(link, ipv6));
        last.is_some_and(|heard| now.saturating_sub(heard.at) <= bridge.querier_interval)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct HeardQuery {
    /// When, by the monotonic clock.
    pub(crate) at: Duration,
    /// The querier's address.
    pub(crate) from: IpAddr,
    /// The query interval, if the query states it.
    pub(crate) interval: Option<Duration>,
}

/// Default query interval, and half of the default query response interval (RFC 3376 sections 8.2 and 8.3, RFC 3810
/// sections 9.2 and 9.3).
const QUERY_INTERVAL: Duration = Duration::from_secs(125);
const HALF_RESPONSE_INTERVAL: Duration = Duration::from_secs(5);

impl HeardQuery {
    /// The interval of the querier that sent this last query, if there was one.
    pub(super) fn interval(last: Option<&Self>) -> Duration {
        last.and_then(|last| last.interval).unwrap_or(QUERY_INTERVAL)
    }

    /// The time after which a querier is considered gone (as RFC 3376 section 8.5, for one query).
    pub(super) fn querier_timeout(last: Option<&Self>) -> Duration {
        Self::interval(last) + HALF_RESPONSE_INTERVAL
    }
}

/// Facts about the host from the kernel and the system.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostFacts {
    /// `uname -r`.
    pub(crate) kernel: String,
    /// `kernel.io_uring_disabled`; `None` on kernels without it.
    pub(crate) io_uring_disabled: Option<u8>,
    /// `net.core.rmem_max`.
    pub(crate) rmem_max: Option<u64>,
    /// Effective reverse path filtering, by interface.
    pub(crate) rp_filter: BTreeMap<String, u8>,
    pub(crate) descriptions: BTreeMap<IfIndex, Description>,
    /// Whether received frames are steered to several cores in software (RPS); no entry if unknown.
    pub(crate) steered: BTreeMap<IfIndex, bool>,
    /// Whether the kernel gives UDP super-frames to a packet socket; `None` if that could not be tried.
    pub(crate) super_frames: Option<bool>,
    /// Snooped memberships of this host's bridges.
    pub(crate) bridge_memberships: Vec<BridgeMembership>,
    pub(crate) neighbors: Vec<Neighbor>,
    /// Next hop to a host on a link, by the current routes; the host itself if unknown.
    pub(crate) next_hops: BTreeMap<(IfIndex, IpAddr), IpAddr>,
    /// Capabilities that the daemon would use but lacks.
    pub(crate) missing_capabilities: Vec<&'static str>,
    /// Whether the daemon's effective user is root.
    pub(crate) is_root: bool,
    /// Why the observation failed.
    pub(crate) not_observed: Option<String>,
}

/// All input data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) config: &'a Config,
    pub(crate) plan: &'a Plan,
    pub(crate) actual: &'a Actual,
    pub(crate) network: &'a NetworkState,
    pub(crate) aggregation: &'a Aggregation,
    /// Counters at the start; the default for the time since the daemon's start.
    pub(crate) before: &'a Reading,
    /// Counters at the end.
    pub(crate) after: &'a Reading,
    /// What arrived in between, if it was observed.
    pub(crate) observation: Option<&'a Observation>,
    /// What else arrived: all multicast, as far as it fitted.
    pub(crate) surroundings: Option<&'a Observation>,
    pub(crate) queries: &'a Queries,
    pub(crate) host: &'a HostFacts,
}

/// A skip is reported for this long: whoever asks was probably alarmed by it.
const RECENT: Duration = Duration::from_secs(60);

/// A pause of a stream is normal up to this multiple of its mean inter-arrival time.
const PAUSES: u32 = 3;

/// One rule with its data.
pub(super) struct Subject<'a> {
    pub(super) facts: &'a Facts<'a>,
    pub(super) rule: &'a Rule,
    pub(super) planned: &'a PlannedRule,
    pub(super) link: Option<&'a Link>,
    keys: Vec<OutputKey>,
    /// It is a leg of a merged rule: counted by what it brought.
    leg: Option<usize>,
}

impl<'a> Subject<'a> {
    /// A leg of a merged rule, as a rule of its own.
    pub(super) fn of_leg(
        facts: &'a Facts<'a>,
        rule: &'a Rule,
        planned: &'a PlannedRule,
        index: usize,
    ) -> Self {
        Self { leg: Some(index), ..Self::new(facts, rule, planned) }
    }

    /// What the merge has counted in the interval, and the present skews; `None` if the rule is not merged.
    pub(super) fn merged(&self) -> Option<MergeSnapshot> {
        let (before, after) = self.counts();
        let after = after?.merge.as_deref()?;
        let before = before.and_then(|rule| rule.merge.as_deref()).copied().unwrap_or_default();
        Some(after.since(&before))
    }

    pub(super) fn new(facts: &'a Facts<'a>, rule: &'a Rule, planned: &'a PlannedRule) -> Self {
        let link = facts.network.link(rule.input.interface.as_str());
        Self { facts, rule, planned, link, keys: OutputKey::all_of(rule), leg: None }
    }

    fn counts(&self) -> (Option<&'a RuleCount>, Option<&'a RuleCount>) {
        let key = &self.planned.key;
        (self.facts.before.rules.get(key), self.facts.after.rules.get(key))
    }

    fn moved(&self, counter: impl Fn(&RuleCount) -> u64) -> u64 {
        let (before, after) = self.counts();
        after.map_or(0, &counter).saturating_sub(before.map_or(0, &counter))
    }

    /// Datagrams admitted in the interval.
    pub(super) fn packets(&self) -> u64 {
        let leg = self.leg;
        self.moved(|rule| match leg {
            None => rule.packets,
            Some(leg) => {
                let leg = rule.merge.as_ref().and_then(|merge| merge.legs.get(leg));
                leg.map_or(0, |leg| leg.packets)
            }
        })
    }

    /// Their payload bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.moved(|rule| rule.bytes)
    }

    /// Datagrams admitted before the interval.
    pub(super) fn packets_before(&self) -> u64 {
        self.counts().0.map_or(0, |rule| rule.packets)
    }

    /// Whether a datagram for the group was seen on the rule's interface.
    pub(super) fn was_seen(&self) -> bool {
        let here = self.link.map(|link| link.ifindex.to_raw());
        let mut flows = self.facts.observation.into_iter().flat_map(|seen| &seen.flows);
        flows.any(|flow| {
            flow.group == self.rule.input.group && Some(flow.ifindex) == here && flow.vlan.is_none()
        })
    }

    /// Time since the last datagram, if the stream is not silent yet, and whether it is within its usual gaps.
    pub(super) fn pause(&self) -> Option<(Duration, bool)> {
        let rule = self.counts().1.filter(|rule| rule.packets > 0)?;
        let gaps = u32::try_from(rule.packets - 1).unwrap_or(u32::MAX);
        let between = rule.last.saturating_sub(rule.first).checked_div(gaps).unwrap_or_default();
        let ago = self.facts.after.at.saturating_sub(rule.last);
        let silence = Duration::from_secs(self.facts.config.settings.flow_silence_s.into());
        (ago <= silence).then_some((ago, ago <= between.saturating_mul(PAUSES)))
    }

    /// Stream health in the interval.
    pub(super) fn health(&self) -> HealthSnapshot {
        let (before, after) = self.counts();
        let before = before.map(|rule| rule.health).unwrap_or_default();
        after.map(|rule| rule.health.since(&before)).unwrap_or_default()
    }

    /// The length of the interval; `None` for "since the start".
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

    /// The outputs with their sends and drops in the interval.
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
            engine: engine_of(self.planned, self.facts.actual),
            before: of(before, key),
            after: of(after, key),
        })
    }

    /// Whether every output is held back, or dropped all its sends.
    pub(super) fn no_output_sends(&self) -> bool {
        self.outputs().all(|output| {
            let waits = matches!(output.readiness, Some(Readiness::Waiting(_)));
            waits || (output.sent() == 0 && output.dropped() > 0)
        })
    }

    /// The rule's workers with their counters in the interval.
    pub(super) fn workers(&self) -> impl Iterator<Item = (&'a WorkerId, WorkerReading)> + use<'a> {
        let (facts, installed) = (self.facts, self.planned.installed.as_ref());
        let ours = facts.after.workers.iter().filter(move |(id, _)| {
            installed.is_some_and(|installed| installed.is_of_same_interface(&id.interface))
        });
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

    /// The counters of the rule's workers since the daemon's start.
    pub(super) fn workers_so_far(&self) -> impl Iterator<Item = &'a WorkerReading> + use<'a> {
        let (facts, installed) = (self.facts, self.planned.installed.as_ref());
        let ours = facts.after.workers.iter().filter(move |(id, _)| {
            installed.is_some_and(|installed| installed.is_of_same_interface(&id.interface))
        });
        ours.map(|(_, reading)| reading)
    }

    /// Frames for the rule's destination that were skipped for a reason, in the interval.
    pub(super) fn skipped(&self, reason: SkipReason) -> u64 {
        self.moved(|rule| rule.skips.as_ref().map_or(0, |skips| skips.of(reason)))
    }

    /// The same since the daemon's start.
    pub(super) fn skipped_so_far(&self, reason: SkipReason) -> u64 {
        self.counts().1.and_then(|rule| rule.skips.as_ref()).map_or(0, |skips| skips.of(reason))
    }

    /// The last skip, and how long ago it was, if that is recent.
    pub(super) fn recent_skip(&self) -> Option<(LastSkip, Duration)> {
        let last = self.counts().1?.skips.as_ref()?.last?;
        let ago = self.facts.after.at.saturating_sub(last.at);
        (ago <= RECENT).then_some((last, ago))
    }

    /// How long ago the last datagram was admitted, if that is recent.
    pub(super) fn recently_admitted(&self) -> Option<Duration> {
        let last = self.counts().1?.last;
        let ago = self.facts.after.at.saturating_sub(last);
        (!last.is_zero() && ago <= RECENT).then_some(ago)
    }

    /// Whether any datagram was ever admitted.
    pub(super) fn has_relayed(&self) -> bool {
        self.counts().1.is_some_and(|rule| rule.packets > 0)
    }
}

/// One output with its counters.
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

    /// Datagrams that were sent before the interval.
    pub(super) fn sent_before(&self) -> u64 {
        self.before.packets
    }

    /// Datagrams that were dropped for a reason before the interval.
    pub(super) fn drops_before(&self, reason: DropReason) -> u64 {
        self.before.drops[reason.index()]
    }

    /// Datagrams that came back to its socket, so far.
    pub(super) fn replies(&self) -> u64 {
        self.after.replies
    }

    pub(super) fn dropped_before(&self) -> u64 {
        self.before.dropped()
    }

    /// Drop reasons before the interval.
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

    /// The error of the last failed send.
    pub(super) fn last_error(&self) -> Option<String> {
        let errno = i32::try_from(self.after.last_errno).ok().filter(|errno| *errno != 0);
        errno.map(|errno| std::io::Error::from_raw_os_error(errno).to_string())
    }
}
