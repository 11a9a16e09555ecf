mod traced;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;

use crate::engine::table::tests::{shared, socket};
use mcr_link::message::IoBackend;
use mcr_link::rule_set::{EgressId, OutputSlot, Own, RelayOutput, RelayRule, RuleSet, RuleSlot};
use mcr_link::telemetry::{PageReader, PageWriter, TotalsSnapshot, create_page};
use mcr_rules::{Dscp, OutputOptions, RuleId, RuleOptions, SourceAddress, Ttl};
use mcr_sys::mmsg::{MAX_SEGMENTS, MAX_SEND_BYTES};
use proptest::prelude::*;
use std::os::fd::AsFd;

use super::send::datagrams;
use super::*;
use crate::captured::{Captured, group, source};

/// A datagram as it is sent: output slot; TTL, traffic class and source if set for the datagram; payload.
type SentDatagram = (u32, Option<u8>, Option<u8>, Option<IpAddr>, Vec<u8>);

/// Executes sends with outcomes from a script, some of them deferred.
struct Script<'a> {
    frames: &'a [Vec<u8>],
    outcomes: Vec<Result<(), i32>>,
    sends: usize,
    sent: Vec<SentDatagram>,
    deferred: Vec<(SendMeta, Result<(), i32>)>,
}

impl<'a> Script<'a> {
    fn new(frames: &'a [Vec<u8>], outcomes: Vec<Result<(), i32>>) -> Self {
        Self { frames, outcomes, sends: 0, sent: Vec::new(), deferred: Vec::new() }
    }

    fn settle_deferred(&mut self, page: &Accounts) {
        self.deferred.drain(..).for_each(|(meta, outcome)| meta.settle(page, outcome));
    }
}

impl Egress for Script<'_> {
    type Frame = usize;

    fn send(&mut self, page: &Accounts, meta: SendMeta, pieces: &[Piece<usize>]) {
        assert!(pieces.len() <= MAX_SEGMENTS && meta.datagrams as usize <= MAX_SEGMENTS);
        assert!(meta.datagrams == 1 || meta.bytes as usize <= MAX_SEND_BYTES);
        let bytes = |piece: Piece<usize>| {
            let start = piece.start as usize;
            self.frames[piece.frame][start..start + piece.bytes as usize].to_vec()
        };
        let each: Vec<_> = datagrams(pieces, meta.segment_bytes).map(bytes).collect();
        assert_eq!(each.len(), usize::from(meta.datagrams));
        // The kernel would split the whole into the same segments.
        let whole: Vec<u8> = pieces.iter().flat_map(|piece| bytes(*piece)).collect();
        assert_eq!(whole.len(), meta.bytes as usize);
        if meta.datagrams > 1 {
            assert_eq!(whole.chunks(meta.segment_bytes.into()).collect::<Vec<_>>(), each);
        }
        let outcome = self.outcomes[self.sends % self.outcomes.len()];
        self.sends += 1;
        if outcome.is_ok() {
            let (slot, ttl) = (meta.path.slot.0, meta.ttl.map(NonZeroU8::get));
            let from = meta.ancillary(std::iter::empty()).source;
            self.sent.extend(each.into_iter().map(|payload| (slot, ttl, meta.traffic_class, from, payload)));
        }
        if self.sends.is_multiple_of(3) {
            self.deferred.push((meta, outcome));
        } else {
            meta.settle(page, outcome);
        }
    }
}

fn relay_output(slot: u32, ttl: Ttl, dscp: Dscp, egress: Option<u32>) -> RelayOutput {
    let address = SocketAddr::from((Ipv4Addr::new(239, 9, 9, 9), 9_000));
    // What keeps the DSCP keeps the source, too.
    let source = (dscp == Dscp::Keep).then_some(SourceAddress::Keep);
    let options = OutputOptions { ttl, dscp, source, ..OutputOptions::default() };
    RelayOutput { address, options, source: None, egress: egress.map(EgressId), slot: OutputSlot(slot) }
}

fn relay_rule(slot: u32, to: u8, sources: &[u8], outputs: Vec<RelayOutput>) -> RelayRule {
    RelayRule {
        id: RuleId::from_bits(slot.into()),
        group: IpAddr::V4(group(to)),
        more_groups: Vec::new(),
        reassemble: true,
        port: 5_000,
        sources: sources.iter().map(|number| IpAddr::V4(source(*number))).collect(),
        slot: RuleSlot(slot),
        options: RuleOptions::default(),
        merge: None,
        outputs,
    }
}

/// Group 1: any source, two outputs; sources 1 and 2: also an output with "decrement" and "keep". Group 2: source 2 only, one
/// output that is down. Own address: source 3. Group 3: no rule.
fn rules() -> RuleSet {
    let plain = |slot, egress| relay_output(slot, Ttl::Fixed(16), Dscp::Fixed(0), egress);
    RuleSet {
        generation: 1,
        own: Own { addresses: vec![IpAddr::V4(source(3))], ..Own::default() },
        rules: shared(vec![
            relay_rule(0, 1, &[], vec![plain(0, Some(0)), plain(1, Some(1))]),
            relay_rule(1, 1, &[1, 2], vec![relay_output(2, Ttl::Decrement, Dscp::Keep, Some(0))]),
            relay_rule(2, 2, &[2], vec![plain(3, None), plain(4, Some(2))]),
        ]),
    }
}

/// The datagrams sent if every send succeeds.
fn expected(sent: &[Captured]) -> Vec<SentDatagram> {
    let mut expected = Vec::new();
    for frame in sent.iter().filter(|frame| !frame.damaged && frame.ttl > 0 && frame.source != 3) {
        for datagram in frame.datagrams() {
            if frame.group == 1 {
                expected.push((0, None, None, None, datagram.clone()));
                expected.push((1, None, None, None, datagram.clone()));
                if frame.source < 3 && frame.ttl > 1 {
                    let from = IpAddr::V4(source(frame.source));
                    let (ttl, class) = (frame.ttl - 1, frame.dscp << 2);
                    expected.push((2, Some(ttl), Some(class), Some(from), datagram.clone()));
                }
            } else if frame.group == 2 && frame.source == 2 {
                expected.push((4, None, None, None, datagram));
            }
        }
    }
    expected
}

/// The counters of the flows of a rule add up to those of the rule.
fn assert_flows(reader: &PageReader) {
    for rule in rules().rules {
        let flows: Vec<_> = reader.flows().filter(|flow| flow.rule == rule.id).collect();
        let counted = reader.rule(rule.slot);
        assert_eq!(flows.iter().map(|flow| flow.packets).sum::<u64>(), counted.packets, "{flows:?}");
        assert_eq!(flows.iter().map(|flow| flow.bytes).sum::<u64>(), counted.bytes, "{flows:?}");
        let mut sources: Vec<_> = flows.iter().map(|flow| flow.source).collect();
        sources.dedup();
        assert_eq!(sources.len(), flows.len(), "each flow once");
    }
}

struct Outcome {
    sent: Vec<SentDatagram>,
    reader: PageReader,
    totals: TotalsSnapshot,
}

fn relay(sent: &[Captured], batch: usize, outcomes: Vec<Result<(), i32>>) -> Outcome {
    let page = create_page().unwrap();
    let reader = PageReader::map(page.as_fd()).unwrap();
    let writer = Accounts::from(PageWriter::map(&page, 1, IoBackend::IoUring).unwrap());
    let frames: Vec<_> = sent.iter().map(Captured::frame).collect();
    let mut engine = Engine::new(LinkLayer::Ethernet);
    engine.replace(Table::build(&rules(), |id| Some(socket(id))).unwrap(), &writer);
    let mut script = Script::new(&frames, outcomes);
    for (number, frame) in frames.iter().enumerate() {
        engine.process_untraced(number, frame, &writer, &mut script);
        if number % batch.max(1) == 0 {
            engine.finish_batch(&writer, &mut script);
        }
    }
    engine.finish_batch(&writer, &mut script);
    script.settle_deferred(&writer);
    assert_flows(&reader);
    let totals = reader.worker().totals;
    Outcome { sent: script.sent, reader, totals }
}

fn assert_identity(outcome: &Outcome) {
    let totals = &outcome.totals;
    assert_eq!(totals.received, totals.matched + totals.skips.iter().sum::<u64>(), "{totals:?}");
    assert_eq!(totals.due, totals.sent + totals.drops.iter().sum::<u64>(), "{totals:?}");
    for rule in &rules().rules {
        let settled: u64 = rule
            .outputs
            .iter()
            .map(|output| outcome.reader.output(output.slot))
            .map(|seen| seen.packets + seen.dropped())
            .sum();
        assert_eq!(outcome.reader.rule(rule.slot).due, settled, "rule {}", rule.slot.0);
    }
}

fn by_output(sent: Vec<SentDatagram>) -> BTreeMap<u32, Vec<SentDatagram>> {
    sent.into_iter().fold(BTreeMap::new(), |mut map, entry| {
        map.entry(entry.0).or_insert_with(Vec::new).push(entry);
        map
    })
}

fn any_sent() -> impl Strategy<Value = Captured> {
    let payload = prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 100..=100),
        2 => proptest::collection::vec(any::<u8>(), 0..400),
        1 => proptest::collection::vec(any::<u8>(), 30_000..60_000),
    ];
    let segment = prop_oneof![3 => Just(0_u16), 1 => Just(100_u16), 1 => 90_u16..3_000];
    (1..5_u8, 1..4_u8, 0..4_u8, 0..64_u8, segment, payload, proptest::bool::weighted(0.1)).prop_map(
        |(source, group, ttl, dscp, segment, payload, damaged)| Captured {
            source,
            group,
            ttl,
            dscp,
            segment,
            payload,
            damaged,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn each_datagram_is_sent_once_and_in_order(
        sent in proptest::collection::vec(any_sent(), 0..60), batch in 1..80_usize,
    ) {
        let outcome = relay(&sent, batch, vec![Ok(())]);
        assert_identity(&outcome);
        prop_assert_eq!(by_output(outcome.sent), by_output(expected(&sent)));
    }

    #[test]
    fn counters_add_up_for_any_outcome_of_sends(
        sent in proptest::collection::vec(any_sent(), 0..60),
        batch in 1..80_usize,
        outcomes in proptest::collection::vec(prop_oneof![Just(Ok(())), (1..120_i32).prop_map(Err)], 1..20),
    ) {
        assert_identity(&relay(&sent, batch, outcomes));
    }

    #[test]
    fn arbitrary_bytes_are_counted(frame: Vec<u8>, header in any::<bool>()) {
        let page = create_page().unwrap();
        let reader = PageReader::map(page.as_fd()).unwrap();
        let writer = Accounts::from(PageWriter::map(&page, 1, IoBackend::IoUring).unwrap());
        let mut engine = Engine::new(if header { LinkLayer::Ethernet } else { LinkLayer::None });
        engine.process_untraced(0, &frame, &writer, &mut Script::new(&[], vec![Ok(())]));
        let totals = reader.worker().totals;
        prop_assert_eq!((totals.frames, totals.matched), (1, 0));
        prop_assert_eq!(totals.received, totals.skips.iter().sum::<u64>());
    }
}

/// An address that this host has on another interface may be another host's here: the MAC address decides, for each frame.
#[test]
fn a_host_address_is_own_if_the_frame_is_from_a_mac_address_of_this_host() {
    let page = create_page().unwrap();
    let reader = PageReader::map(page.as_fd()).unwrap();
    let writer = Accounts::from(PageWriter::map(&page, 1, IoBackend::IoUring).unwrap());
    let own = Own {
        addresses: vec![IpAddr::V4(source(3))],
        host: vec![IpAddr::V4(source(1)), IpAddr::V4(source(3))],
        macs: vec![[2, 0, 0, 0, 0, 9]],
        kept_source: Vec::new(),
    };
    let mut engine = Engine::new(LinkLayer::Ethernet);
    let set = RuleSet { own, ..rules() };
    engine.replace(Table::build(&set, |id| Some(socket(id))).unwrap(), &writer);
    let frame = |from: u8, mac: u8| {
        let mut frame = Captured::plain(from, 1, b"x").frame();
        frame[16..22].copy_from_slice(&[2, 0, 0, 0, 0, mac]);
        frame
    };
    let frames = [(1, 7), (1, 9), (1, 7), (2, 9), (3, 7), (1, 9), (1, 8)].map(|(from, mac)| frame(from, mac));
    let mut script = Script::new(&frames, vec![Ok(())]);
    for (number, bytes) in frames.iter().enumerate() {
        engine.process_untraced(number, bytes, &writer, &mut script);
    }
    engine.finish_batch(&writer, &mut script);
    script.settle_deferred(&writer);
    let totals = reader.worker().totals;
    assert_eq!((totals.received, totals.matched), (7, 4), "{totals:?}");
    assert_eq!(totals.skips[SkipReason::OwnSource.index()], 3);
    let of_rule = reader.rule_skips(RuleSlot(0)).expect("skips of the rule");
    assert_eq!(of_rule.of(SkipReason::OwnSource), 3);
    assert_eq!(totals.due, totals.sent);
    let flows: Vec<_> = reader.flows().filter(|flow| flow.rule == RuleId::from_bits(0)).collect();
    let packets: Vec<_> = flows.iter().map(|flow| (flow.source.ip(), flow.packets)).collect();
    assert_eq!(packets, [(IpAddr::V4(source(1)), 3), (IpAddr::V4(source(2)), 1)], "{flows:?}");
}

/// Where this host sends with the addresses of others, a datagram from any address may be its own.
#[test]
fn a_kept_source_is_own_if_the_frame_is_from_a_mac_address_of_this_host() {
    let page = create_page().unwrap();
    let reader = PageReader::map(page.as_fd()).unwrap();
    let writer = Accounts::from(PageWriter::map(&page, 1, IoBackend::IoUring).unwrap());
    let own = Own {
        macs: vec![[2, 0, 0, 0, 0, 9]],
        kept_source: vec![(IpAddr::V4(group(1)), 5_000)],
        ..Own::default()
    };
    let mut engine = Engine::new(LinkLayer::Ethernet);
    let set = RuleSet { own, ..rules() };
    engine.replace(Table::build(&set, |id| Some(socket(id))).unwrap(), &writer);
    let frames = [(1, 1, 7), (1, 1, 9), (2, 1, 9), (2, 2, 9)].map(|(from, to, mac)| {
        let mut frame = Captured::plain(from, to, b"x").frame();
        frame[16..22].copy_from_slice(&[2, 0, 0, 0, 0, mac]);
        frame
    });
    let mut script = Script::new(&frames, vec![Ok(())]);
    for (number, bytes) in frames.iter().enumerate() {
        engine.process_untraced(number, bytes, &writer, &mut script);
    }
    engine.finish_batch(&writer, &mut script);
    script.settle_deferred(&writer);
    let totals = reader.worker().totals;
    assert_eq!((totals.received, totals.matched), (4, 2), "{totals:?}");
    assert_eq!(totals.skips[SkipReason::OwnSource.index()], 2);
    let of_rule = reader.rule_skips(RuleSlot(0)).expect("skips of the rule");
    assert_eq!(of_rule.of(SkipReason::OwnSource), 2);
}

#[test]
fn each_outcome_has_its_counter() {
    let super_frame = Captured { segment: 4, payload: vec![7; 10], ..Captured::plain(1, 1, b"") };
    let sent = [
        Captured::plain(1, 1, b"two rules"),
        super_frame,
        Captured { ttl: 1, ..Captured::plain(1, 1, b"expires on one output") },
        Captured::plain(4, 2, b"source not admitted"),
        Captured::plain(3, 1, b"own"),
        Captured::plain(1, 3, b"no rule"),
        Captured { damaged: true, ..Captured::plain(1, 1, b"damaged") },
        Captured::plain(2, 2, b"half down"),
    ];
    let outcome = relay(&sent, 100, vec![Ok(())]);
    assert_identity(&outcome);
    let totals = outcome.totals;
    assert_eq!((totals.frames, totals.received, totals.matched), (8, 10, 6));
    assert_eq!((totals.due, totals.sent), (17, 15));
    for (reason, count) in [
        (SkipReason::SourceExcluded, 1),
        (SkipReason::OwnSource, 1),
        (SkipReason::NoRule, 1),
        (SkipReason::BadChecksum, 1),
    ] {
        assert_eq!(totals.skips[reason.index()], count, "{reason}");
    }
    assert_eq!(totals.drops[DropReason::TtlExpired.index()], 1);
    assert_eq!(totals.drops[DropReason::OutputDown.index()], 1);
    assert_eq!(outcome.reader.rule(RuleSlot(0)).packets, 5);
    assert_eq!(outcome.reader.output(OutputSlot(4)).bytes, 9);
}

#[test]
fn a_batch_of_one_flow_takes_few_sends() {
    let sent: Vec<_> = (0..100).map(|_| Captured::plain(4, 1, &[1; 200])).collect();
    let frames: Vec<_> = sent.iter().map(Captured::frame).collect();
    let page = create_page().unwrap();
    let writer = Accounts::from(PageWriter::map(&page, 1, IoBackend::IoUring).unwrap());
    let mut engine = Engine::new(LinkLayer::Ethernet);
    engine.replace(Table::build(&rules(), |id| Some(socket(id))).unwrap(), &writer);
    let mut script = Script::new(&frames, vec![Ok(())]);
    for (n, frame) in frames.iter().enumerate() {
        engine.process_untraced(n, frame, &writer, &mut script);
    }
    engine.finish_batch(&writer, &mut script);
    assert_eq!(script.sends, 4, "64 and 36 datagrams, to two outputs");
}

#[test]
fn a_rate_limit_drops_and_counts_without_affecting_other_rules() {
    let output = |slot| vec![relay_output(slot, Ttl::Fixed(1), Dscp::Fixed(0), Some(0))];
    let limited = |max_pps| {
        let options = RuleOptions { max_pps: NonZeroU32::new(max_pps), stream: None };
        RelayRule { options, ..relay_rule(0, 1, &[], output(0)) }
    };
    let table = |max_pps| {
        let rules = vec![limited(max_pps), relay_rule(1, 2, &[], output(1))];
        Table::build(&RuleSet { rules: shared(rules), ..RuleSet::default() }, |id| Some(socket(id))).unwrap()
    };
    let page = create_page().unwrap();
    let reader = PageReader::map(page.as_fd()).unwrap();
    let writer = Accounts::from(PageWriter::map(&page, 1, IoBackend::IoUring).unwrap());
    let mut engine = Engine::new(LinkLayer::Ethernet);
    let frames = [1, 2].map(|to| Captured::plain(1, to, b"much").frame());
    let mut script = Script::new(&frames, vec![Ok(())]);
    for (at_s, max_pps) in [(9, 100), (10, 100), (10, 200), (10, 0)] {
        engine.replace(table(max_pps), &writer);
        for _ in 0..50 {
            engine.begin_batch(at_s * 1_000_000_000);
            for n in 0..20 {
                engine.process_untraced(n % 2, &frames[n % 2], &writer, &mut script);
            }
            engine.finish_batch(&writer, &mut script);
        }
    }
    script.settle_deferred(&writer);
    let totals = reader.worker().totals;
    let dropped = totals.drops[DropReason::RateLimited.index()];
    assert_eq!((totals.matched, totals.due, totals.sent + dropped), (4_000, 4_000, 4_000));
    assert_eq!(reader.output(OutputSlot(1)).packets, 2_000);
    // The full bucket and a run, then one second's tokens, then the bucket of another limit, then all datagrams.
    assert_eq!(reader.output(OutputSlot(0)).packets, 110 + 100 + 210 + 500);
    assert_eq!(reader.output(OutputSlot(0)).dropped(), dropped);
}

#[test]
fn more_rules_than_runs_lose_nothing() {
    let count = u32::try_from(super::runs::MAX_OPEN).unwrap() + 10;
    let rules = (0..count)
        .map(|n| relay_rule(n, 1, &[], vec![relay_output(n, Ttl::Fixed(1), Dscp::Fixed(0), Some(0))]))
        .collect();
    let page = create_page().unwrap();
    let reader = PageReader::map(page.as_fd()).unwrap();
    let writer = Accounts::from(PageWriter::map(&page, 1, IoBackend::IoUring).unwrap());
    let mut engine = Engine::new(LinkLayer::Ethernet);
    let set = RuleSet { rules: shared(rules), ..RuleSet::default() };
    engine.replace(Table::build(&set, |id| Some(socket(id))).unwrap(), &writer);
    let frames: Vec<_> = (0..7).map(|_| Captured::plain(1, 1, b"many").frame()).collect();
    let mut script = Script::new(&frames, vec![Ok(())]);
    for (n, frame) in frames.iter().enumerate() {
        engine.process_untraced(n, frame, &writer, &mut script);
    }
    engine.finish_batch(&writer, &mut script);
    script.settle_deferred(&writer);
    let totals = reader.worker().totals;
    assert_eq!((totals.matched, totals.sent, totals.due), (7, 7 * u64::from(count), 7 * u64::from(count)));
}

/// What a rule does not relay of what came for it is counted for it, with the sender.
#[test]
fn skips_are_counted_for_the_rules_that_they_concern() {
    let excluded = Captured { segment: 2, ..Captured::plain(1, 2, b"abcdef") };
    let damaged = Captured { damaged: true, ..Captured::plain(2, 2, b"x") };
    let sent = [Captured::plain(3, 1, b"x"), excluded, Captured::plain(1, 3, b"no rule"), damaged];
    let outcome = relay(&sent, 1, vec![Ok(())]);
    let told = |slot: u32| {
        let skips = outcome.reader.rule_skips(RuleSlot(slot))?;
        let counted = SkipReason::ALL.iter().filter(|reason| skips.of(**reason) > 0);
        let last = skips.last?;
        Some((
            counted.map(|reason| (*reason, skips.of(*reason))).collect::<Vec<_>>(),
            (last.reason, last.source, last.port),
        ))
    };
    let port = Some(crate::captured::PORT);
    let own = vec![(SkipReason::OwnSource, 1)];
    for slot in [0, 1] {
        assert_eq!(told(slot), Some((own.clone(), (SkipReason::OwnSource, source(3).into(), port))));
    }
    let both = vec![(SkipReason::BadChecksum, 1), (SkipReason::SourceExcluded, 3)];
    assert_eq!(told(2), Some((both, (SkipReason::BadChecksum, source(2).into(), port))));
    assert_eq!(outcome.totals.skips[SkipReason::NoRule.index()], 1);
    assert_eq!(outcome.totals.skips.iter().sum::<u64>(), 6);
}
