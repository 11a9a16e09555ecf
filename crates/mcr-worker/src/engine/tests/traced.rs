//! The engine with traced rules: relaying is not affected, and records are consistent with counters.

use mcr_link::trace::{RingReader, TraceEvent, TraceRecord, TraceRequest, create_ring};

use super::*;

/// A worker's engine with some rules traced, one ring each.
struct Traced {
    engine: Engine<usize>,
    accounts: Accounts,
    page: PageReader,
    rings: Vec<RingReader>,
}

const EVERYTHING: TraceRequest =
    TraceRequest { rule: RuleId::from_bits(0), sample: 1, drops_only: false, max_records: u64::MAX };

fn request(rule: u64) -> TraceRequest {
    TraceRequest { rule: RuleId::from_bits(rule), ..EVERYTHING }
}

impl Traced {
    fn new(requests: &[TraceRequest]) -> Self {
        let page = create_page().unwrap();
        let accounts = Accounts::from(PageWriter::map(&page, 1, IoBackend::IoUring).unwrap());
        let mut engine = Engine::new(LinkLayer::Ethernet);
        engine.replace(Table::build(&rules(), |id| Some(socket(id))).unwrap(), &accounts);
        let mut rings = Vec::new();
        for request in requests {
            let ring = create_ring().unwrap();
            assert!(accounts.change_traces(|tracer| tracer.begin(*request, &ring, &rules())));
            rings.push(RingReader::map(ring.as_fd()).unwrap());
        }
        Self { engine, accounts, page: PageReader::map(page.as_fd()).unwrap(), rings }
    }

    fn relay(
        &mut self,
        sent: &[Captured],
        batch: usize,
        outcomes: Vec<Result<(), i32>>,
    ) -> Vec<SentDatagram> {
        let frames: Vec<_> = sent.iter().map(Captured::frame).collect();
        let mut script = Script::new(&frames, outcomes);
        let Self { engine, accounts, .. } = self;
        for (number, frame) in frames.iter().enumerate() {
            let parsed = engine.parse(frame, accounts);
            engine.trace_frame(frame, &parsed, accounts);
            assert!(!engine.process::<true, _>(number, &parsed, accounts, &mut script));
            if number % batch.max(1) == 0 {
                engine.finish_batch(accounts, &mut script);
            }
        }
        engine.finish_batch(accounts, &mut script);
        script.settle_deferred(accounts);
        script.sent
    }

    fn records(&self, ring: usize) -> Vec<TraceRecord> {
        let reading = self.rings[ring].read(0, usize::MAX);
        assert_eq!(reading.lost, 0);
        reading.records.into_iter().map(|(_, record)| record).collect()
    }
}

fn segments(records: &[TraceRecord], matches: impl Fn(&TraceEvent) -> bool) -> u64 {
    records.iter().filter(|record| matches(&record.event)).map(|record| u64::from(record.segments)).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn records_are_consistent_with_counters_and_do_not_affect_relaying(
        sent in proptest::collection::vec(any_sent(), 0..60),
        batch in 1..80_usize,
        outcomes in proptest::collection::vec(prop_oneof![Just(Ok(())), (1..120_i32).prop_map(Err)], 1..20),
    ) {
        let mut traced = Traced::new(&[request(0), request(2)]);
        let relayed = traced.relay(&sent, batch, outcomes.clone());
        let untraced = relay(&sent, batch, outcomes);
        prop_assert_eq!(relayed, untraced.sent);
        prop_assert_eq!(traced.page.worker().totals, untraced.totals);
        for (ring, rule) in [(0, 0), (1, 2)] {
            let records = traced.records(ring);
            let counted = traced.page.rule(RuleSlot(rule));
            prop_assert_eq!(segments(&records, |event| *event == TraceEvent::Received), counted.packets);
            prop_assert_eq!(segments(&records, |event| *event == TraceEvent::Matched), counted.packets);
            let is_complete = traced.rings[ring].state().unrecorded == 0;
            for output in &rules().rules[rule as usize].outputs {
                let counted = traced.page.output(output.slot);
                let sent = segments(&records, |event| *event == TraceEvent::Sent(output.slot));
                let dropped = segments(&records, |event| matches!(event, TraceEvent::Dropped { output: slot, .. } if *slot == output.slot));
                if is_complete {
                    prop_assert_eq!((sent, dropped), (counted.packets, counted.dropped()));
                } else {
                    prop_assert!(sent <= counted.packets && dropped <= counted.dropped());
                }
            }
        }
    }
}

#[test]
fn each_step_of_a_datagram_has_its_record() {
    let mut traced = Traced::new(&[request(0)]);
    traced.relay(
        &[Captured::plain(1, 1, b"hello"), Captured::plain(1, 3, b"other")],
        9,
        vec![Ok(()), Err(101)],
    );
    let records = traced.records(0);
    let events: Vec<_> = records.iter().map(|record| record.event).collect();
    let failed = TraceEvent::Dropped { output: OutputSlot(1), reason: DropReason::Unreachable, errno: 101 };
    assert_eq!(
        events,
        [TraceEvent::Received, TraceEvent::Matched, TraceEvent::Sent(OutputSlot(0)), failed],
        "rule 1 has the same group, but is not traced"
    );
    for record in &records {
        assert_eq!(record.flow.source, (IpAddr::V4(source(1)), 4_000));
        assert_eq!(record.flow.destination, (IpAddr::V4(group(1)), 5_000));
        assert_eq!((record.arrival, record.segments, record.bytes, record.ttl), (1, 1, 5, 9));
    }
    assert_eq!(records.iter().map(|record| record.run).collect::<Vec<_>>(), [0, 1, 1, 1]);
    let frame = Captured::plain(1, 1, b"hello").frame()[10..].to_vec();
    assert_eq!((&records[0].frame, records[0].frame_bytes as usize), (&frame, frame.len()));
    assert!(records[1].frame.is_empty() && records[2].frame.is_empty());
    assert_eq!(records[3].frame, frame, "a drop is recorded with its frame");
}

#[test]
fn a_skip_is_recorded_for_the_rule_of_its_group_and_port() {
    let mut traced = Traced::new(&[request(0), request(2)]);
    let damaged = Captured { damaged: true, ..Captured::plain(1, 1, b"damaged") };
    let sent = [damaged, Captured::plain(3, 1, b"own"), Captured::plain(4, 2, b"not admitted")];
    traced.relay(&sent, 9, vec![Ok(())]);
    let events = |ring| traced.records(ring).iter().map(|record| record.event).collect::<Vec<_>>();
    let skipped = |reason| TraceEvent::Skipped(reason);
    assert_eq!(events(0), [skipped(SkipReason::BadChecksum), skipped(SkipReason::OwnSource)]);
    assert_eq!(events(1), [skipped(SkipReason::SourceExcluded)]);
    assert_eq!(traced.records(0)[0].flow.source, (IpAddr::V4(source(1)), 4_000));
    // A frame without readable addresses is recorded for all.
    let frame = [0; 60];
    let Traced { engine, accounts, .. } = &mut traced;
    let parsed = engine.parse(&frame, accounts);
    engine.trace_frame(&frame, &parsed, accounts);
    assert!(!engine.process::<true, _>(0, &parsed, accounts, &mut Script::new(&[], vec![Ok(())])));
    for ring in 0..2 {
        assert_eq!(traced.records(ring).last().unwrap().event, skipped(SkipReason::NotIp));
    }
}

#[test]
fn a_sampled_arrival_has_all_its_records() {
    let mut traced = Traced::new(&[TraceRequest { sample: 10, ..EVERYTHING }]);
    let sent: Vec<_> = (0..95).map(|_| Captured::plain(4, 1, &[1; 200])).collect();
    traced.relay(&sent, 1, vec![Ok(())]);
    let records = traced.records(0);
    let mut arrivals: Vec<_> = records.iter().map(|record| record.arrival).collect();
    arrivals.sort_unstable();
    let expected: Vec<_> = (0..10).flat_map(|n| [n * 10 + 1; 4]).collect();
    assert_eq!(arrivals, expected, "received, matched, and sent on two outputs");
    let state = traced.rings[0].state();
    assert_eq!((state.arrivals, state.sampled), (95, 10));
}

#[test]
fn only_drops_if_requested() {
    let mut traced = Traced::new(&[TraceRequest { drops_only: true, ..EVERYTHING }]);
    let damaged = Captured { damaged: true, ..Captured::plain(1, 1, b"damaged") };
    traced.relay(&[Captured::plain(4, 1, b"x"), damaged], 9, vec![Ok(()), Err(11)]);
    let events: Vec<_> = traced.records(0).iter().map(|record| record.event).collect();
    let full = TraceEvent::Dropped { output: OutputSlot(1), reason: DropReason::SocketFull, errno: 11 };
    assert_eq!(events, [full, TraceEvent::Skipped(SkipReason::BadChecksum)]);
}

#[test]
fn a_trace_ends_at_its_limit_and_on_request() {
    let mut traced = Traced::new(&[TraceRequest { max_records: 5, ..EVERYTHING }]);
    let sent: Vec<_> = (0..9).map(|_| Captured::plain(4, 1, b"x")).collect();
    traced.relay(&sent, 1, vec![Ok(())]);
    assert_eq!((traced.records(0).len(), traced.rings[0].state().full), (5, true));
    assert!(traced.accounts.is_tracing(), "until the supervisor has seen it");
    traced.accounts.change_traces(|tracer| tracer.end(Some(RuleId::from_bits(7))));
    assert!(traced.accounts.is_tracing());
    traced.accounts.change_traces(|tracer| tracer.end(None));
    assert!(!traced.accounts.is_tracing());
    assert_eq!(traced.page.rule(RuleSlot(0)).packets, 9);
}

#[test]
fn a_rule_keeps_its_trace_while_it_moves_in_the_table() {
    let mut traced = Traced::new(&[request(1)]);
    let mut fewer = rules();
    fewer.rules.remove(0);
    traced.engine.replace(Table::build(&fewer, |id| Some(socket(id))).unwrap(), &traced.accounts);
    traced.accounts.trace(|tracer| tracer.find_rules(&fewer));
    traced.relay(&[Captured::plain(1, 1, b"x")], 1, vec![Ok(())]);
    let events: Vec<_> = traced.records(0).iter().map(|record| record.event).collect();
    assert_eq!(events, [TraceEvent::Received, TraceEvent::Matched, TraceEvent::Sent(OutputSlot(2))]);
}

#[test]
fn the_number_of_traces_is_limited() {
    let requests: Vec<_> = (0..mcr_link::trace::MAX_TRACES as u64).map(request).collect();
    let traced = Traced::new(&requests);
    let ring = create_ring().unwrap();
    assert!(!traced.accounts.change_traces(|tracer| tracer.begin(request(99), &ring, &rules())));
    assert!(
        traced.accounts.change_traces(|tracer| tracer.begin(request(3), &ring, &rules())),
        "a running trace is restarted"
    );
    let page = create_page().unwrap();
    assert!(!traced.accounts.change_traces(|tracer| tracer.begin(request(3), &page, &rules())), "no ring");
}
