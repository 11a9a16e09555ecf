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

mod arrival;
mod host;

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
fn faults_of_datagrams_are_a_warning_while_others_pass() {
    let faulty = Flow { bad_checksums: 10, ..flow(10, None, 5000, "10.0.0.9") };
    assert_eq!(Case::usual().seen([faulty.clone()]).only("bad_checksum").severity, Severity::Error);
    let case = Case::usual().seen([faulty]).relayed(10, 10, &[]);
    assert_eq!(case.only("bad_checksum").severity, Severity::Warning);
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
