use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use mcr_control::explanation::{Explanation, Finding, Severity, StepState, Verdict};
use mcr_link::observation::{Flow, FlowKind, Observation, Querier, Receiver};
use mcr_link::reason::{DropReason, SkipReason};
use mcr_link::telemetry::OutputSnapshot;
use mcr_link::telemetry::health::HealthSnapshot;
use mcr_link::telemetry::skips::{LastSkip, RuleSkips};
use mcr_rules::{Config, Rule, StreamFormat};
use mcr_sys::host_network::{Bridge, Description, Neighbor};
use mcr_sys::link::IfIndex;

use super::*;
use crate::core::actual::Actual;
use crate::core::aggregation::Aggregation;
use crate::core::ledger::RuleCount;
use crate::core::machine::{Event, Machine};
use crate::core::network::NetworkState;
use crate::core::plan::samples::{address, config, network, rule};
use crate::core::plan::{OutputKey, Plan, RuleKey};

const NOW: Duration = Duration::from_secs(1000);

/// A rule from eth0 to eth1 with all input data; nothing runs, so its worker is down.
struct Case {
    config: Config,
    plan: std::sync::Arc<Plan>,
    network: NetworkState,
    aggregation: Aggregation,
    actual: Actual,
    before: Reading,
    after: Reading,
    observation: Option<Observation>,
    surroundings: Option<Observation>,
    queries: Queries,
    host: HostFacts,
}

impl Case {
    fn of(rule: Rule) -> Self {
        let config = config([rule]);
        let mut machine = Machine::new([0, 1], None);
        let network = network();
        let links = network.links().cloned().collect();
        let addresses = network.links().flat_map(|link| network.addresses(link.ifindex)).cloned().collect();
        machine.handle(NOW, Event::NetworkDump { links, addresses });
        machine.handle(NOW, Event::start(config.clone()));
        let mut actual = Actual::default();
        for membership in machine.plan().memberships.keys() {
            actual.joined(*membership, Ok(0), NOW);
        }
        let reading = |at| Reading { at, ..Reading::default() };
        Self {
            plan: std::sync::Arc::new(machine.plan().clone()),
            config,
            network,
            aggregation: Aggregation::default(),
            actual,
            before: reading(NOW - Duration::from_secs(2)),
            after: reading(NOW),
            observation: Some(Observation { elapsed_ms: 2000, ..Observation::default() }),
            surroundings: None,
            queries: Queries { since: Some(NOW), ..Queries::default() },
            host: HostFacts::default(),
        }
    }

    fn usual() -> Self {
        Self::of(rule("eth0", "239.1.1.1", 5000, "eth1"))
    }

    fn key(&self) -> RuleKey {
        self.plan.rules[0].key
    }

    /// The rule received `packets` datagrams, of which its output sent `sent`.
    fn relayed(mut self, packets: u64, sent: u64, drops: &[(DropReason, u64)]) -> Self {
        let key = OutputKey::all_of(&self.config.rules[0]).remove(0);
        let mut output = OutputSnapshot { packets: sent, ..OutputSnapshot::default() };
        drops.iter().for_each(|(reason, n)| output.drops[reason.index()] = *n);
        let count = RuleCount {
            packets,
            bytes: packets * 1000,
            due: packets,
            outputs: [(key, output)].into_iter().collect(),
            ..RuleCount::default()
        };
        self.after.rules.insert(self.key(), count);
        self
    }

    fn seen(mut self, flows: impl IntoIterator<Item = Flow>) -> Self {
        self.observation.as_mut().unwrap().flows.extend(flows);
        self
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            config: &self.config,
            plan: &self.plan,
            actual: &self.actual,
            network: &self.network,
            aggregation: &self.aggregation,
            before: &self.before,
            after: &self.after,
            observation: self.observation.as_ref(),
            surroundings: self.surroundings.as_ref(),
            queries: &self.queries,
            host: &self.host,
        }
    }

    /// The explanation, without the finding for the absent worker.
    fn explain(&self) -> Explanation {
        let mut explained = explain(&self.facts(), &self.config.rules[0], &self.plan.rules[0]);
        explained.findings.retain(|finding| finding.id != "worker_down");
        explained
    }

    fn ids(&self) -> Vec<String> {
        self.explain().findings.into_iter().map(|finding| finding.id).collect()
    }

    fn only(&self, id: &str) -> Finding {
        let explained = self.explain();
        assert_eq!(self.ids(), [id], "{explained:#?}");
        explained.findings.into_iter().next().unwrap()
    }
}

fn flow(ifindex: u32, vlan: Option<u16>, port: u16, source: &str) -> Flow {
    Flow {
        ifindex,
        vlan,
        group: address("239.1.1.1"),
        port: Some(port),
        source: address(source),
        kind: FlowKind::Received,
        mac: [9; 6],
        frames: 10,
        fragments: 0,
        bad_checksums: 0,
        ttl_zero: 0,
        malformed: 0,
        largest_bytes: 1028,
    }
}

#[test]
fn a_worker_that_is_absent_is_reported() {
    let case = Case::usual().relayed(10, 10, &[]);
    let explained = explain(&case.facts(), &case.config.rules[0], &case.plan.rules[0]);
    assert_eq!(explained.verdict, Verdict::Stopped);
    assert_eq!(explained.findings[0].id, "worker_down");
    assert_eq!(case.ids(), [""; 0], "and nothing else");
}

#[test]
fn a_group_elsewhere_is_reported_by_the_best_evidence() {
    let [port, vlan, interface] = [
        flow(10, None, 5004, "10.0.0.9"),
        flow(10, Some(7), 5000, "10.0.0.9"),
        flow(12, None, 5000, "10.0.0.9"),
    ];
    assert!(Case::usual().seen([]).only("nothing_arrives").words.contains("no frame for 2.0 s"));
    assert_eq!(Case::usual().seen([interface.clone()]).only("other_interface").evidence["interface"], "eth2");
    assert_eq!(Case::usual().seen([vlan.clone(), interface.clone()]).only("other_vlan").evidence["vlan"], 7);
    Case::usual().seen([port, vlan, interface]).only("other_port");
    Case::usual().seen([flow(10, None, 5000, "10.0.0.9")]).only("not_taken");
    Case::usual().seen([flow(10, None, 5000, "10.0.0.2")]).only("own_source");
    // Another host has an address that this host has on another interface.
    let elsewhere = flow(10, None, 5000, "10.3.0.2");
    Case::usual().seen([elsewhere.clone()]).only("not_taken");
    Case::usual().seen([Flow { mac: [2, 0, 0, 0, 0, 13], ..elsewhere }]).only("own_source");
    let other_host = Flow { kind: FlowKind::OtherHost, ..flow(10, None, 5000, "10.0.0.9") };
    Case::usual().seen([other_host.clone()]).only("other_host");
    let sent = Flow { kind: FlowKind::Sent, ..flow(10, None, 5000, "10.0.0.2") };
    Case::usual().seen([sent.clone()]).only("local_sender");
    Case::usual().seen([Flow { ifindex: 12, ..sent.clone() }]).only("nothing_arrives");
    let mut echoing = rule("eth0", "239.1.1.1", 5000, "eth1");
    echoing.input.options.promiscuous = true;
    Case::of(echoing.clone()).seen([other_host]).only("not_taken");
    let mut back = rule("eth1", "239.9.9.9", 5000, "eth0");
    back.outputs[0].group = address("239.1.1.1");
    let case = Case::of(rule("eth0", "239.1.1.1", 5000, "eth1"));
    let config = config([case.config.rules[0].clone(), back]);
    Case { config, ..case }.seen([sent]).only("nothing_arrives");
    let mut with_sources = rule("eth0", "239.1.1.1", 5000, "eth1");
    with_sources.input.sources = vec![address("10.0.0.7")];
    Case::of(with_sources.clone()).seen([flow(10, None, 5000, "10.0.0.9")]).only("source_excluded");
    // An unadmitted source next to the admitted one is what `sources` is for.
    let both = [flow(10, None, 5000, "10.0.0.9"), flow(10, None, 5000, "10.0.0.7")];
    assert_eq!(Case::of(with_sources).seen(both).relayed(10, 10, &[]).ids(), [""; 0]);
}

#[test]
fn faults_of_datagrams_are_a_warning_while_others_pass() {
    let faulty = Flow { bad_checksums: 10, ..flow(10, None, 5000, "10.0.0.9") };
    assert_eq!(Case::usual().seen([faulty.clone()]).only("bad_checksum").severity, Severity::Error);
    let case = Case::usual().seen([faulty]).relayed(10, 10, &[]);
    assert_eq!(case.only("bad_checksum").severity, Severity::Warning);
}

#[test]
fn a_querier_that_is_silent_matters_while_nothing_comes() {
    let mut case = Case::usual();
    case.queries.since = Some(NOW - Duration::from_secs(131));
    assert_eq!(case.ids(), ["nothing_arrives", "querier_silent"]);
    let words = case.explain().findings.remove(1).words;
    assert!(words.contains("no IGMP querier was heard on eth0 for 131 s"), "{words}");
    let relaying = case.relayed(10, 10, &[]);
    assert_eq!(relaying.only("querier_silent").severity, Severity::Note);
    // It was heard once.
    let heard = |ago: u64, interval: Option<u64>| {
        let mut case = Case::usual();
        case.queries.since = Some(NOW - Duration::from_secs(500));
        let (at, interval) = (NOW - Duration::from_secs(ago), interval.map(Duration::from_secs));
        let query = HeardQuery { at, from: address("10.0.0.254"), interval };
        case.queries.last.insert((IfIndex::new(10), false), query);
        case
    };
    let words = heard(200, None).explain().findings.remove(1).words;
    assert!(words.contains("for 200 s (the last one came from 10.0.0.254)"), "{words}");
    assert_eq!(heard(12, None).ids(), ["nothing_arrives"]);
    let join = heard(12, None).explain().path.remove(1).words;
    assert!(join.ends_with("the last IGMP query came 12 s ago from 10.0.0.254"), "{join}");
    // The query states its interval.
    for (ago, interval, silent) in [(66, 60, true), (65, 60, false), (250, 255, false)] {
        let ids = heard(ago, Some(interval)).ids();
        assert_eq!(ids.contains(&"querier_silent".to_owned()), silent, "{ago} s of {interval}: {ids:?}");
    }
    let hint = heard(70, Some(60)).explain().findings.remove(1).hint.unwrap();
    assert!(hint.contains("the query interval is 60 s."), "{hint}");
    // The interface was recreated.
    let mut case = Case::usual();
    case.queries.since = Some(NOW - Duration::from_secs(500));
    case.queries.links.insert(IfIndex::new(10), NOW - Duration::from_secs(3));
    assert_eq!(case.ids(), ["nothing_arrives"]);
    // The group arrives, and another fault keeps it from the rule.
    let mut case = Case::usual().seen([flow(10, None, 5004, "10.0.0.9")]);
    case.queries.since = Some(NOW - Duration::from_secs(131));
    assert_eq!(case.ids(), ["other_port", "querier_silent"]);
    assert_eq!(case.explain().findings[1].severity, Severity::Note);
    // It is only on the wire.
    let mut case = Case::usual().relayed(10, 10, &[]);
    let querier = Querier { ifindex: 10, vlan: None, from: address("172.31.0.1") };
    case.observation.as_mut().unwrap().queriers.push(querier);
    assert_eq!(case.only("querier_filtered").severity, Severity::Note);
}

#[test]
fn every_reason_of_a_failed_send_has_its_finding() {
    for (reason, id) in [
        (DropReason::Unreachable, "no_route"),
        (DropReason::TooBig, "too_big"),
        (DropReason::QueueFull, "queue_full"),
        (DropReason::SocketFull, "socket_full"),
        (DropReason::Refused, "refused"),
        (DropReason::Firewall, "firewall"),
        (DropReason::TtlExpired, "ttl_expired"),
        (DropReason::NoDevice, "send_failed"),
        (DropReason::Other, "send_failed"),
        (DropReason::NoBuffer, "no_buffer"),
        (DropReason::WorkerDied, "worker_died"),
        (DropReason::RateLimited, "rate_limited"),
    ] {
        let some = Case::usual().relayed(10, 9, &[(reason, 1)]);
        let finding = some.only(id);
        assert_eq!(
            (finding.severity, finding.evidence["dropped"].as_u64()),
            (Severity::Warning, Some(1)),
            "{reason}"
        );
        let stage = finding.stage;
        let all = Case::usual().relayed(10, 0, &[(reason, 10)]);
        let expected = if stage == Stage::Output { Severity::Error } else { Severity::Warning };
        assert_eq!(all.only(id).severity, expected, "{reason}");
    }
}

#[test]
fn datagrams_that_leave_in_fragments_are_reported() {
    let fits = flow(10, None, 5000, "10.0.0.9");
    let big = Flow { largest_bytes: 1501, ..fits.clone() };
    assert_eq!(Case::usual().seen([fits]).relayed(10, 10, &[]).ids(), [""; 0]);
    let finding = Case::usual().seen([big]).relayed(10, 10, &[]).only("output_fragments");
    assert_eq!(
        (finding.evidence["largest_bytes"].as_u64(), finding.evidence["mtu"].as_u64()),
        (Some(1501), Some(1500))
    );
}

#[test]
fn a_queue_that_overflows_is_reported_with_its_arithmetic() {
    let mut case = Case::usual().relayed(10, 10, &[]);
    let interface = case.plan.rules[0].installed.clone().unwrap();
    let id = crate::core::plan::WorkerId { interface, core: 0 };
    let reading = WorkerReading {
        received: 150_000,
        kernel_drops: 50_000,
        receive_buffer_bytes: 8 << 20,
        ..WorkerReading::default()
    };
    case.after.workers.insert(id, reading);
    let finding = case.only("queue_overflow");
    // 100,000/s for 0.8 s are 80,000 frames of 2,304 bytes, and the kernel doubles the requested size.
    let number = |name: &str| finding.evidence[name].as_u64();
    assert_eq!((number("pps"), number("frames_held")), (Some(100_000), Some(7_281)));
    assert_eq!(number("needed_bytes"), Some(92_160_000));
    let hint = finding.hint.as_deref().unwrap();
    assert!(
        hint.starts_with(
            "at 100,000/s it fills in 73 ms; to cover a stall of 0.8 s set receive_buffer_bytes to 92160000"
        ),
        "{hint}"
    );
}

#[test]
fn receivers_are_known_by_their_reports() {
    let mut case = Case::usual().relayed(10, 10, &[]);
    let downstream = |case: &Case| case.explain().path.pop().unwrap();
    assert_eq!(downstream(&case).state, StepState::Unknown);
    let receiver = Receiver { ifindex: 11, group: address("239.2.0.1"), from: IpAddr::from([10, 1, 0, 9]) };
    case.observation.as_mut().unwrap().receivers.push(receiver);
    let step = downstream(&case);
    assert_eq!(
        (step.state, step.words.as_str()),
        (StepState::Ok, "10.1.0.9 on eth1 is a member of 239.2.0.1")
    );
}

/// One datagram every four seconds is normal, although none arrives within two.
#[test]
fn a_stream_with_pauses_is_not_one_that_ended() {
    let mut case = Case::usual().relayed(10, 10, &[]);
    case.before.rules = case.after.rules.clone();
    let rule = case.key();
    let mut last = |ago_ms: u64| {
        let count = case.after.rules.get_mut(&rule).unwrap();
        count.last = NOW - Duration::from_millis(ago_ms);
        count.first = count.last - Duration::from_secs(9 * 4);
        let finding = case.only("nothing_arrives");
        (finding.severity, finding.words)
    };
    let (severity, words) = last(2_300);
    assert_eq!(severity, Severity::Note, "{words}");
    assert!(words.contains("the last one arrived 2.3 s ago"), "{words}");
    // Longer than the silence timeout of a flow (10 s).
    assert_eq!(last(10_500).0, Severity::Error);
    // A stream of 200 a second that paused, or ended: no error before it is silent.
    let count = case.after.rules.get_mut(&rule).unwrap();
    (count.first, count.last) = (NOW - Duration::from_millis(2_545), NOW - Duration::from_millis(2_500));
    let finding = case.only("nothing_arrives");
    assert_eq!(finding.severity, Severity::Warning);
    assert!(finding.words.ends_with("the last one arrived 2.5 s ago"), "{}", finding.words);
}

#[test]
fn super_frames_that_the_kernel_discards_are_reported_during_and_after() {
    let lost = |case: &mut Case, before: u64, after: u64| {
        let interface = case.plan.rules[0].installed.clone().unwrap();
        let id = crate::core::plan::WorkerId { interface, core: 0 };
        for (reading, frames) in [(&mut case.before, before), (&mut case.after, after)] {
            let mut worker = WorkerReading::default();
            worker.skips[SkipReason::SuperFrameLost.index()] = frames;
            reading.workers.insert(id.clone(), worker);
        }
    };
    let mut during = Case::usual();
    lost(&mut during, 10, 30);
    let finding = during.only("super_frames_lost");
    assert_eq!((finding.severity, &finding.evidence["frames"]), (Severity::Error, &20.into()), "{finding:?}");
    assert!(finding.words.contains("20 frames") && finding.words.contains("in 2"), "{}", finding.words);
    assert!(finding.hint.unwrap().contains("tx-udp-segmentation off"));
    for (relayed, severity) in [(10, Severity::Note), (0, Severity::Warning)] {
        let mut after = Case::usual();
        if relayed > 0 {
            after = after.relayed(relayed, relayed, &[]);
        }
        lost(&mut after, 30, 30);
        let found = after.explain().findings;
        let finding = found.iter().find(|finding| finding.id == "super_frames_lost").unwrap();
        assert_eq!(finding.severity, severity, "{finding:?}");
        assert!(finding.words.contains("lost so far"), "{}", finding.words);
    }
}

/// A burst is over when the question comes: what was counted is reported.
#[test]
fn skips_of_a_burst_are_reported_after_it() {
    let skipped = |case: &mut Case, reason: SkipReason, ago_ms: u64| {
        let mut skips = RuleSkips::default();
        skips.counts[reason.index()] = 30;
        let at = NOW - Duration::from_millis(ago_ms);
        skips.last = Some(LastSkip { at, reason, source: address("10.9.0.7"), port: Some(5000) });
        let count = RuleCount { skips: Some(Box::new(skips)), ..RuleCount::default() };
        case.before.rules.insert(case.key(), count.clone());
        case.after.rules.insert(case.key(), count);
    };
    for (reason, id, words) in [
        (
            SkipReason::SourceExcluded,
            "source_excluded",
            "from 10.9.0.7 (the last one 2.5 s ago), but the rule",
        ),
        (SkipReason::OwnSource, "own_source", "come from 10.9.0.7 (the last one 2.5 s ago)"),
        (SkipReason::BadChecksum, "bad_checksum", "30 frames for the rule have a wrong checksum"),
        (SkipReason::Fragment, "fragments", "the last arrived 2.5 s ago from 10.9.0.7"),
        (
            SkipReason::FragmentIncomplete,
            "fragments_lost",
            "30 incomplete after a second; the last from 10.9.0.7",
        ),
        (
            SkipReason::FragmentOverlap,
            "fragments_lost",
            "30 datagrams for the rule arrived on eth0 in fragments",
        ),
        (SkipReason::TtlZero, "ttl_zero", "30 frames for the rule have TTL 0"),
        (SkipReason::Truncated, "malformed", "the last arrived 2.5 s ago from 10.9.0.7"),
        (SkipReason::NoRule, "other_port", "on port 5000"),
    ] {
        let mut case = Case::usual();
        skipped(&mut case, reason, 2_500);
        let finding = case.only(id);
        assert_eq!(finding.severity, Severity::Error, "{finding:?}");
        assert!(finding.words.contains(words), "{}", finding.words);
        skipped(&mut case, reason, 61_000);
        case.only("nothing_arrives");
    }
    // Beside a stream that is relayed, faults are a warning, and an excluded source is worth a note.
    // Companions of it on other ports are nothing to report.
    let cases: [(SkipReason, &[Severity]); 3] = [
        (SkipReason::BadChecksum, &[Severity::Warning]),
        (SkipReason::SourceExcluded, &[Severity::Note]),
        (SkipReason::NoRule, &[]),
    ];
    for (reason, severities) in cases {
        let mut case = Case::usual();
        skipped(&mut case, reason, 2_500);
        let skips = case.after.rules[&case.key()].skips.clone();
        let mut case = case.relayed(10, 10, &[]);
        let key = case.key();
        case.after.rules.get_mut(&key).unwrap().skips = skips;
        let found = case.explain().findings;
        assert_eq!(
            found.iter().map(|finding| finding.severity).collect::<Vec<_>>(),
            severities,
            "{found:#?}"
        );
    }
}

#[test]
fn what_could_not_be_looked_at_is_not_said_to_be_absent() {
    let mut case = Case::usual();
    case.observation = None;
    case.host.not_observed = Some("attach filter: Cannot allocate memory".to_owned());
    let finding = case.only("nothing_arrives");
    assert_eq!(finding.severity, Severity::Warning);
    assert!(finding.words.ends_with("could not be observed: attach filter: Cannot allocate memory"));
    // Together with the worker, absent here, the real cause is reported.
    let explained = explain(&case.facts(), &case.config.rules[0], &case.plan.rules[0]);
    assert_eq!((explained.verdict, explained.findings[0].id.as_str()), (Verdict::Stopped, "worker_down"));
}

#[test]
fn upstream_loss_is_reported_of_checked_streams() {
    let found = |stream, lost, continuity, malformed| {
        let mut of = rule("eth0", "239.1.1.1", 5000, "eth1");
        of.options.stream = stream;
        let mut case = Case::of(of).relayed(400, 400, &[]);
        let checked =
            HealthSnapshot { checked: 400, lost, continuity, malformed, ..HealthSnapshot::default() };
        case.after.rules.values_mut().for_each(|count| count.health = checked);
        case
    };
    let (rtp, ts) = (Some(StreamFormat::Rtp), Some(StreamFormat::MpegTs));
    assert_eq!(found(rtp, 0, 0, 0).ids(), [""; 0]);
    assert_eq!(found(None, 5, 5, 5).ids(), [""; 0]);
    let finding = found(rtp, 12, 0, 0).only("stream_loss");
    assert_eq!((finding.severity, finding.evidence["lost"].as_u64()), (Severity::Warning, Some(12)));
    assert!(finding.words.starts_with("12 of 412 RTP packets lost upstream, in 2.0 s"), "{}", finding.words);
    let words = found(ts, 0, 1, 0).only("stream_loss").words;
    assert!(words.starts_with("1 continuity error of the transport stream in 2.0 s"), "{words}");
    let words = found(rtp, 0, 0, 400).only("other_format").words;
    assert!(words.starts_with("none of the 400 datagrams in 2.0 s are RTP"), "{words}");
}

#[test]
fn a_host_behind_a_gateway_is_reached_if_the_gateway_is() {
    let mut case = Case::of(to_host()).relayed(10, 10, &[]);
    let (far, gateway, eth1) = (address("172.16.1.1"), address("10.1.0.77"), IfIndex::new(11));
    let neighbor = |address, unreachable| Neighbor { ifindex: eth1, address, unreachable };
    // From before the route existed.
    case.host.neighbors = vec![neighbor(far, true)];
    case.host.next_hops = BTreeMap::from([((eth1, far), gateway)]);
    assert_eq!(case.ids(), [""; 0]);
    case.host.neighbors.push(neighbor(gateway, false));
    let step = case.explain().path.pop().unwrap();
    assert_eq!(step.words, "172.16.1.1 is behind the gateway 10.1.0.77, a neighbor on eth1");
    case.host.neighbors[1].unreachable = true;
    let words = case.only("receiver_silent").words;
    assert!(
        words.starts_with("10.1.0.77, the gateway to 172.16.1.1, does not answer ARP on eth1"),
        "{words}"
    );
    case.host.next_hops.clear();
    let finding = case.only("receiver_silent");
    assert!(finding.words.starts_with("172.16.1.1 does not answer ARP"), "{}", finding.words);
}

fn to_host() -> Rule {
    let mut rule = rule("eth0", "239.1.1.1", 5000, "eth1");
    rule.outputs[0].group = address("172.16.1.1");
    rule
}

#[test]
fn a_bridge_that_floods_cuts_nobody_off() {
    let bridge = Bridge { snooping: true, querier: false, querier_interval: Duration::from_secs(255) };
    let case = |group: &str, heard_ago_s: Option<u64>, querier| {
        let mut of = rule("eth0", "239.1.1.1", 5000, "eth1");
        of.outputs[0].group = address(group);
        let mut case = Case::of(of).relayed(10, 10, &[]);
        let (eth1, group) = (IfIndex::new(11), address(group));
        let bridge = Some(Bridge { querier, ..bridge });
        let described = Description {
            ifindex: eth1,
            hardware_address: vec![],
            receive_queues: None,
            master: None,
            bridge,
        };
        case.host.descriptions.insert(eth1, described);
        let query = |ago| HeardQuery {
            at: NOW - Duration::from_secs(ago),
            from: address("10.1.0.9"),
            interval: None,
        };
        case.queries.last.extend(heard_ago_s.map(|ago| ((eth1, group.is_ipv6()), query(ago))));
        case.ids()
    };
    assert_eq!(case("239.2.2.1", None, true), ["no_receiver"]);
    assert_eq!(case("239.2.2.1", Some(200), false), ["no_receiver"]);
    assert_eq!(case("239.2.2.1", Some(256), false), [""; 0]);
    assert_eq!(case("239.2.2.1", None, false), [""; 0]);
    assert_eq!(case("224.0.0.200", None, true), [""; 0]);
}

#[test]
fn what_the_host_lacks_is_reported() {
    let mut case = Case::usual();
    case.host.kernel = "5.15.0-91-generic".to_owned();
    case.host.missing_capabilities = vec!["CAP_NET_ADMIN", "CAP_SETUID"];
    case.host.rp_filter = BTreeMap::from([("eth0".to_owned(), 1)]);
    case.host.rmem_max = Some(212_992);
    case.host.not_observed = Some("no".to_owned());
    let interface = case.plan.rules[0].installed.clone().unwrap();
    let id = crate::core::plan::WorkerId { interface, core: 0 };
    let reading = WorkerReading { receive_buffer_bytes: 212_992, ..WorkerReading::default() };
    case.after.workers.insert(id, reading);
    let report = explain_host(&case.facts(), &[]);
    let ids: Vec<&str> = report.findings.iter().map(|finding| finding.id.as_str()).collect();
    let expected = [
        "kernel_old",
        "buffer_clamped",
        "rp_filter",
        "capability_missing",
        "capability_missing",
        "no_early_drop",
        "not_observed",
    ];
    assert_eq!(ids, expected);
    assert_eq!(report.findings[1].evidence["frames_held"], 184);
    let state = |topic: &str| report.checks.iter().find(|check| check.topic == topic).unwrap().state;
    assert_eq!(
        (state("kernel"), state("rp_filter"), state("bridges")),
        (StepState::Warning, StepState::Ok, StepState::Ok)
    );
}

/// Facts may be missing for any rule, and every explanation has its stages.
#[test]
fn rules_without_anything_are_explained_too() {
    for (interface, group) in
        [("nope", "239.1.1.1"), ("eth0", "10.9.9.9"), ("lo", "239.1.1.1"), ("eth0", "ff15::1")]
    {
        let mut case = Case::of(rule(interface, group, 5000, "nope2"));
        for observation in [case.observation.take(), None] {
            case.observation = observation;
            let explained = case.explain();
            assert_eq!((explained.path.len(), explained.verdict), (7, Verdict::Stopped), "{explained:#?}");
            assert!(!explained.summary.is_empty());
        }
    }
}

/// When nothing arrives for the rule, what does arrive is named, the most similar first.
#[test]
fn what_arrives_instead_is_named() {
    let to =
        |group: &str, port: u16, source: &str| Flow { group: address(group), ..flow(10, None, port, source) };
    let around = |flows: Vec<Flow>| {
        let mut case = Case::usual();
        case.surroundings = Some(Observation { elapsed_ms: 2000, flows, ..Observation::default() });
        case
    };
    let case = around(vec![
        to("239.7.7.7", 5004, "10.9.0.1"),
        to("239.1.1.2", 5000, "10.9.0.1"),
        to("239.200.0.1", 5000, "10.9.0.1"),
        to("224.0.0.251", 5000, "10.9.0.1"),
        Flow { ifindex: 12, ..to("239.1.1.3", 5000, "10.9.0.1") },
        Flow { vlan: Some(7), ..to("239.1.1.3", 5000, "10.9.0.1") },
        to("239.1.1.3", 5000, "10.0.0.2"),
        to("ff15::1", 5000, "fd00::1"),
    ]);
    assert_eq!(case.ids(), ["nothing_arrives", "similar_arrives"]);
    let found = case.explain().findings.remove(1);
    assert_eq!(
        found.words,
        "239.1.1.2:5000 from 10.9.0.1, 5.0/s, 239.200.0.1:5000 from 10.9.0.1, 5.0/s and 239.7.7.7:5004 from 10.9.0.1, 5.0/s arrives on eth0: is that the one?"
    );
    assert_eq!((&found.evidence["group"], &found.evidence["port"]), (&"239.1.1.2".into(), &5000.into()));
    assert_eq!(around(Vec::new()).ids(), ["nothing_arrives"]);
    // What another rule takes is not it.
    let mut case = around(vec![to("239.1.1.2", 5000, "10.9.0.1")]);
    case.config.rules.push(rule("eth0", "239.1.1.2", 5000, "eth1"));
    assert_eq!(case.ids(), ["nothing_arrives"]);
}

/// A query asks every member to report, and own reports are heard if they leave.
#[test]
fn a_report_that_never_left_is_found() {
    let place = (IfIndex::new(10), false);
    let heard = |ago_s: u64| HeardQuery {
        at: NOW - Duration::from_secs(ago_s),
        from: address("10.9.0.1"),
        interval: None,
    };
    let mut case = Case::usual().relayed(10, 10, &[]);
    let second = Some(Duration::from_secs(1));
    case.queries.query(place, heard(30), second);
    assert_eq!(case.ids(), Vec::<String>::new(), "reports can't be heard there");
    case.queries.hear_reports_on([place].into());
    case.queries.query(place, heard(20), None);
    assert_eq!(case.ids(), Vec::<String>::new(), "a query for a group");
    case.queries.query(place, heard(20), second);
    case.queries.query(place, heard(1), second);
    let finding = case.only("report_not_seen");
    assert_eq!((finding.severity, &finding.evidence["seconds"]), (Severity::Warning, &20.into()));
    case.queries.report(place);
    assert_eq!(case.ids(), Vec::<String>::new());
    case.queries.query(place, heard(1), second);
    assert_eq!(case.ids(), Vec::<String>::new(), "there is time left");
    case.queries.query(place, heard(20), second);
    case.queries.report(place);
    case.queries.query(place, heard(20), second);
    case.queries.hear_reports_on(BTreeSet::new());
    assert_eq!(case.ids(), Vec::<String>::new(), "not any more");
}
