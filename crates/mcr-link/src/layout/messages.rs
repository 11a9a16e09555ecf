//! The encoding of a sample of each message and of a rule set, and the hashes that both sides compare.

use std::fmt::Write as _;
use std::num::NonZeroU32;

use mcr_rules::{
    Dscp, IoChoice, MergeBy, MergeOptions, MergeOrder, OutputOptions, RuleId, RuleOptions, SandboxChoice,
    SourceAddress, SourcePort, StreamFormat, Ttl,
};
use serde::Serialize;

use crate::message::{FromWorker, IoBackend, LinkLayer, ToWorker, WorkerStart};
use crate::rule_set::{
    EgressId, OutputSlot, Own, RelayLeg, RelayMerge, RelayOutput, RelayRule, RuleSet, RuleSetChange, RuleSlot,
};
use crate::trace::TraceRequest;

pub(super) fn text() -> String {
    let mut text = "messages\n".to_owned();
    let mut before = None;
    while let Some(message) = to_worker_after(before.as_ref()) {
        line(&mut text, "to worker", &message);
        before = Some(message);
    }
    let mut before = None;
    while let Some(message) = from_worker_after(before.as_ref()) {
        line(&mut text, "from worker", &message);
        before = Some(message);
    }
    for (name, choices) in [
        ("io choice", IoChoice::ALL.map(encoded).concat()),
        ("sandbox choice", SandboxChoice::ALL.map(encoded).concat()),
        ("stream", streams()),
        ("merge by", MergeBy::ALL.map(encoded).concat()),
        ("order", MergeOrder::ALL.map(encoded).concat()),
    ] {
        let _ = writeln!(text, "{name}: {choices}");
    }
    let set = rule_set();
    line(&mut text, "rule set", &set);
    line(&mut text, "rule set change", &RuleSetChange::between(&RuleSet::default(), &set));
    let (content, table) = (set.content_hash(), set.table_hash());
    let _ = writeln!(text, "content hash {content:016x}, table hash {table:016x}");
    text
}

fn streams() -> String {
    StreamFormat::ALL.map(encoded).concat()
}

fn encoded<T: Serialize>(value: T) -> String {
    postcard::to_stdvec(&value).unwrap().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn line<T: Serialize + std::fmt::Debug>(text: &mut String, what: &str, value: &T) {
    let shown = format!("{value:?}");
    let name = shown.split([' ', '(']).next().unwrap_or_default();
    let _ = writeln!(text, "{what} {name}: {}", encoded(value));
}

/// The next sample. The `match` is exhaustive, so that no message is omitted.
fn to_worker_after(before: Option<&ToWorker>) -> Option<ToWorker> {
    let Some(before) = before else {
        return Some(ToWorker::Start(WorkerStart {
            version: 1,
            interface: "eth0".to_owned(),
            core: 2,
            link: LinkLayer::None,
            linked: vec![LinkLayer::None, LinkLayer::Ethernet],
            mtu: 1_500,
            io: IoChoice::IoUring,
            ring_buffers: 256,
            latency_budget_us: 50,
            sandbox: SandboxChoice::On,
            log_levels: "warn,control=debug".parse().unwrap(),
            log_json: true,
        }));
    };
    Some(match before {
        ToWorker::Start(_) => ToWorker::Egress(vec![EgressId(3), EgressId(300)]),
        ToWorker::Egress(_) => ToWorker::RuleSet { generation: 4, hash: 5 },
        ToWorker::RuleSet { .. } => ToWorker::RuleSetChange { generation: 4, hash: 5 },
        ToWorker::RuleSetChange { .. } => ToWorker::LogLevels("off".parse().unwrap()),
        ToWorker::LogLevels(_) => ToWorker::Trace(TraceRequest {
            rule: RuleId::from_bits(0xa1),
            sample: 7,
            drops_only: true,
            max_records: 1_000,
        }),
        ToWorker::Trace(_) => ToWorker::EndTrace(Some(RuleId::from_bits(0xa1))),
        ToWorker::EndTrace(_) => ToWorker::Stop,
        ToWorker::Stop => return None,
        // The last one; not in release builds.
        #[cfg(any(debug_assertions, feature = "fault-injection"))]
        ToWorker::Fault(_) => return None,
    })
}

fn from_worker_after(before: Option<&FromWorker>) -> Option<FromWorker> {
    let Some(before) = before else {
        return Some(FromWorker::Ready {
            io: IoBackend::Recvmmsg,
            io_note: Some("denied".to_owned()),
            uid: 65_534,
            privilege_notes: vec!["note".to_owned()],
            sandbox: vec!["layer".to_owned()],
            sandbox_notes: vec!["missing".to_owned()],
        });
    };
    Some(match before {
        FromWorker::Ready { .. } => FromWorker::Applied { generation: 4, hash: 5 },
        FromWorker::Applied { .. } => FromWorker::Refused { generation: 4, reason: "why".to_owned() },
        FromWorker::Refused { .. } => FromWorker::Failed { reason: "why".to_owned() },
        FromWorker::Failed { .. } => return None,
    })
}

fn rule_set() -> RuleSet {
    let output = |slot, address: &str, options| RelayOutput {
        address: address.parse().unwrap(),
        options,
        source: options.source_port.and(Some("10.0.0.9".parse().unwrap())),
        egress: Some(EgressId(slot)),
        slot: OutputSlot(slot),
    };
    let received = OutputOptions {
        ttl: Ttl::Decrement,
        dscp: Dscp::Keep,
        source: Some(SourceAddress::Keep),
        source_port: None,
        loopback: true,
    };
    let fixed = OutputOptions {
        ttl: Ttl::Fixed(64),
        dscp: Dscp::Fixed(34),
        source: Some("fd01::2".parse().unwrap()),
        source_port: Some(SourcePort::Fixed(5_353)),
        loopback: false,
    };
    let rule = |slot: u32, sources: &[&str], options| RelayRule {
        id: RuleId::from_bits(slot.into()),
        group: "232.1.1.1".parse().unwrap(),
        more_groups: vec!["232.1.1.2".parse().unwrap()],
        reassemble: true,
        port: 5_000,
        sources: sources.iter().map(|source| source.parse().unwrap()).collect(),
        slot: RuleSlot(slot),
        options,
        merge: (slot == 1).then(|| RelayMerge {
            options: MergeOptions { by: MergeBy::Moldudp64, window_ms: 450, order: MergeOrder::Sequence },
            legs: vec![RelayLeg {
                socket: Some(1),
                group: "232.1.1.1".parse().unwrap(),
                more_groups: vec!["232.1.1.2".parse().unwrap()],
                port: 5_000,
                sources: vec!["10.9.0.1".parse().unwrap()],
            }],
        }),
        outputs: vec![
            output(2 * slot, "239.2.2.2:6000", received),
            output(2 * slot + 1, "[ff12::1%4]:6000", fixed),
        ],
    };
    let options = RuleOptions { max_pps: NonZeroU32::new(9), stream: Some(StreamFormat::MpegTs) };
    let rules = [rule(0, &["10.9.0.1"], RuleOptions::default()), rule(1, &[], options)];
    RuleSet {
        generation: 3,
        own: Own {
            addresses: vec!["10.0.0.1".parse().unwrap()],
            host: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            macs: vec![[2, 0, 0, 0, 0, 1]],
            kept_source: vec![("239.1.1.1".parse().unwrap(), 5_000)],
        },
        rules: rules.into_iter().map(Into::into).collect(),
    }
}
