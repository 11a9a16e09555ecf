use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use mcr_control::explanation::{Explanation, Finding, Severity, StepState, Verdict};
use mcr_link::observation::{Flow, Observation, Querier, Receiver};
use mcr_link::reason::DropReason;
use mcr_link::telemetry::OutputSnapshot;
use mcr_rules::{Config, Rule};
use mcr_sys::link::IfIndex;

use super::*;
use crate::core::actual::Actual;
use crate::core::ledger::RuleCount;
use crate::core::machine::Machine;
use crate::core::network::NetworkState;
use crate::core::plan::samples::{address, config, network, rule};
use crate::core::plan::{OutputKey, Plan, RuleKey};

const NOW: Duration = Duration::from_secs(1000);

/// A rule from eth0 to eth1 with all that can be known of it; nothing runs, so its worker is down.
struct Case {
    config: Config,
    plan: std::sync::Arc<Plan>,
    network: NetworkState,
    actual: Actual,
    before: Reading,
    after: Reading,
    observation: Option<Observation>,
    queries: Queries,
    host: HostFacts,
}

impl Case {
    fn of(rule: Rule) -> Self {
        let config = config([rule]);
        let mut machine = Machine::new([0, 1]);
        let network = network();
        let links = network.links().cloned().collect();
        let addresses = network.links().flat_map(|link| network.addresses(link.ifindex)).cloned().collect();
        machine.network_dump(links, addresses);
        machine.start_with(config.clone());
        let mut actual = Actual::default();
        for membership in machine.plan().memberships.keys() {
            actual.joined(*membership, 0);
        }
        let reading = |at| Reading { at, ..Reading::default() };
        Self {
            plan: std::sync::Arc::new(machine.plan().clone()),
            config,
            network,
            actual,
            before: reading(NOW - Duration::from_secs(2)),
            after: reading(NOW),
            observation: Some(Observation { elapsed_ms: 2000, ..Observation::default() }),
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

    /// The rule got so many datagrams, of which its output sent so many.
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
            before: &self.before,
            after: &self.after,
            observation: self.observation.as_ref(),
            queries: &self.queries,
            host: &self.host,
        }
    }

    /// What is found, the absent worker left out.
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
        frames: 10,
        fragments: 0,
        bad_checksums: 0,
        ttl_zero: 0,
        malformed: 0,
        largest_bytes: 1028,
    }
}

#[test]
fn a_worker_that_is_absent_is_told() {
    let case = Case::usual().relayed(10, 10, &[]);
    let explained = explain(&case.facts(), &case.config.rules[0], &case.plan.rules[0]);
    assert_eq!(explained.verdict, Verdict::Stopped);
    assert_eq!(explained.findings[0].id, "worker_down");
    assert_eq!(case.ids(), [""; 0], "and nothing else");
}

#[test]
fn where_a_group_is_instead_is_told_by_what_tells_most() {
    let [port, vlan, interface] = [
        flow(10, None, 5004, "10.0.0.9"),
        flow(10, Some(7), 5000, "10.0.0.9"),
        flow(12, None, 5000, "10.0.0.9"),
    ];
    assert!(Case::usual().seen([]).only("nothing_arrives").words.contains("not one frame for 2.0 s"));
    assert_eq!(Case::usual().seen([interface.clone()]).only("other_interface").evidence["interface"], "eth2");
    assert_eq!(Case::usual().seen([vlan.clone(), interface.clone()]).only("other_vlan").evidence["vlan"], 7);
    Case::usual().seen([port, vlan, interface]).only("other_port");
    Case::usual().seen([flow(10, None, 5000, "10.0.0.9")]).only("not_taken");
    Case::usual().seen([flow(10, None, 5000, "10.3.0.2")]).only("own_source");
    let mut with_sources = rule("eth0", "239.1.1.1", 5000, "eth1");
    with_sources.input.sources = vec![address("10.0.0.7")];
    Case::of(with_sources.clone()).seen([flow(10, None, 5000, "10.0.0.9")]).only("source_excluded");
    // A stranger beside the right one is what sources are for.
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
    assert_eq!(case.ids(), ["querier_silent", "nothing_arrives"]);
    let words = case.explain().findings.remove(0).words;
    assert!(words.contains("no IGMP querier was heard on eth0 for 131 s"), "{words}");
    let relaying = case.relayed(10, 10, &[]);
    assert_eq!(relaying.only("querier_silent").severity, Severity::Note);
    // It was there once.
    let heard = |ago: u64, interval: Option<u64>| {
        let mut case = Case::usual();
        case.queries.since = Some(NOW - Duration::from_secs(500));
        let (at, interval) = (NOW - Duration::from_secs(ago), interval.map(Duration::from_secs));
        let query = HeardQuery { at, from: address("10.0.0.254"), interval };
        case.queries.last.insert((IfIndex::new(10), false), query);
        case
    };
    let words = heard(200, None).explain().findings.remove(0).words;
    assert!(words.contains("for 200 s (the last one came from 10.0.0.254)"), "{words}");
    assert_eq!(heard(12, None).ids(), ["nothing_arrives"]);
    let join = heard(12, None).explain().path.remove(1).words;
    assert!(join.ends_with("the last IGMP query came 12 s ago from 10.0.0.254"), "{join}");
    // It said how often it asks.
    for (ago, interval, silent) in [(66, 60, true), (65, 60, false), (250, 255, false)] {
        let ids = heard(ago, Some(interval)).ids();
        assert_eq!(ids.contains(&"querier_silent".to_owned()), silent, "{ago} s of {interval}: {ids:?}");
    }
    let hint = heard(70, Some(60)).explain().findings.remove(0).hint.unwrap();
    assert!(hint.ends_with("a querier there asks every 60 s"), "{hint}");
    // It is on the wire only.
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
fn datagrams_that_leave_in_fragments_are_told() {
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
fn a_queue_that_overflows_is_told_with_its_arithmetic() {
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
    // 100,000/s for 0.8 s are 80,000 frames of 2,304 bytes, and the kernel doubles what is asked for.
    let number = |name: &str| finding.evidence[name].as_u64();
    assert_eq!((number("pps"), number("frames_held")), (Some(100_000), Some(7_281)));
    assert_eq!(number("needed_bytes"), Some(92_160_000));
    let hint = finding.hint.as_deref().unwrap();
    assert!(
        hint.starts_with(
            "at 100,000/s that lasts 73 ms; for a pause of 0.8 s set receive_buffer_bytes to 92160000"
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
    assert_eq!((step.state, step.words.as_str()), (StepState::Ok, "10.1.0.9 on eth1 wants 239.2.0.1"));
}

#[test]
fn the_host_is_told_what_it_lacks() {
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

/// Nothing is certain of what a rule's facts are, and every explanation has its stages.
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
