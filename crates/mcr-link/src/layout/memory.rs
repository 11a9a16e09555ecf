//! The words that a worker writes to its telemetry page and to a trace ring: `index=value` for each call.

use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::time::Duration;

use mcr_rules::RuleId;
use mcr_sys::shared_memory::ReadOnlyWords;

use crate::message::IoBackend;
use crate::reason::{DropReason, SkipReason};
use crate::rule_set::{OutputSlot, RuleSlot};
use crate::telemetry::flows::{FlowKey, FlowSlot, MAX_FLOWS};
use crate::telemetry::health::HealthCount;
use crate::telemetry::latency::LATENCY_BOUNDS_US;
use crate::telemetry::merges::LegCount;
use crate::telemetry::skips::Skip;
use crate::telemetry::{MAX_OUTPUTS, MAX_RULES, PAGE_WORDS, PageWriter, Total, create_page};
use crate::trace::{Flow, RING_WORDS, RingWriter, TraceEvent, Words, create_ring};
use mcr_wire::AddressBits;

/// Compares the words before and after each call.
struct Recorder {
    words: ReadOnlyWords,
    before: Vec<u64>,
    text: String,
}

impl Recorder {
    fn new(words: ReadOnlyWords) -> Self {
        let before = vec![0; words.len()];
        Self { words, before, text: String::new() }
    }

    fn record(&mut self, call: &str) {
        self.changed(call, |index, value| format!(" {index}={value}"));
    }

    /// For a call that writes the time: indices only.
    fn record_indices(&mut self, call: &str) {
        self.changed(call, |index, _| format!(" {index}"));
    }

    fn changed(&mut self, call: &str, show: impl Fn(usize, u64) -> String) {
        self.text.push_str(call);
        for (index, before) in self.before.iter_mut().enumerate() {
            let now = self.words.load(index);
            if now != *before {
                self.text.push_str(&show(index, now));
                *before = now;
            }
        }
        self.text.push('\n');
    }
}

pub(super) fn text() -> String {
    let (page, ring) = (page_text(), ring_text());
    format!("telemetry page: {PAGE_WORDS} words\n{page}trace ring: {RING_WORDS} words\n{ring}")
}

fn page_text() -> String {
    let page = create_page().unwrap();
    let mut recorder = Recorder::new(ReadOnlyWords::map(page.as_fd(), PAGE_WORDS).unwrap());
    let writer = PageWriter::map(&page, 77, IoBackend::Recvmmsg).unwrap();
    recorder.record("map(77, Recvmmsg)");
    let totals = [
        Total::Frames,
        Total::Received,
        Total::Matched,
        Total::Due,
        Total::Sent,
        Total::Fragments,
        Total::Reassembled,
    ];
    for (total, n) in totals.into_iter().zip(101..) {
        writer.count(total, n);
    }
    writer.set_under_way(99);
    recorder.record("count(101…)");
    for (reason, n) in SkipReason::ALL.into_iter().zip(1..) {
        writer.skip(reason, n);
        let _ = write!(recorder.text, "{reason}={n} ");
    }
    recorder.record("skip");
    let output = OutputSlot(MAX_OUTPUTS - 1);
    for (reason, n) in DropReason::ALL.into_iter().zip(1..) {
        writer.dropped(output, reason, n, 11);
        let _ = write!(recorder.text, "{reason}={n} ");
    }
    recorder.record("dropped(last output, errno 11)");
    writer.due(output, 7);
    recorder.record("due(last output, 7)");
    writer.sent(output, 3, 300);
    recorder.record("sent(last output, 3, 300)");
    writer.sent(OutputSlot(0), 3, 300);
    recorder.record("sent(first output, 3, 300)");
    writer.replied(output, 4);
    recorder.record("replied(last output, 4)");
    let rule = RuleSlot(MAX_RULES - 1);
    writer.begin_rule(rule, RuleId::from_bits(0xa1));
    recorder.record("begin_rule(last rule, a1)");
    writer.matched(rule, 5, 500, 10);
    recorder.record("matched(last rule, 5, 500, 10)");
    writer.matched(RuleSlot(0), 5, 500, 10);
    recorder.record("matched(first rule, 5, 500, 10)");
    writer.merged(rule, 3);
    recorder.record("merged(last rule, 3)");
    flows(&writer, rule, &mut recorder);
    let source = AddressBits { ipv6: true, bits: 0xfd01 << 112 | 0x33 };
    merges(&writer, rule, &mut recorder);
    writer.skip_of_rule(rule, Skip { reason: SkipReason::ALL[3], source, port: 5_004 }, 6, 4_000);
    recorder.record("skip_of_rule(last rule, fragment, 6, 4000)");
    writer.applied(5, 0xabc);
    recorder.record("applied(5, abc)");
    writer.audited(4, 0xdef);
    recorder.record("audited(4, def)");
    writer.beat();
    recorder.record_indices("beat");
    for (bound, n) in LATENCY_BOUNDS_US.into_iter().chain([1_000_000]).zip(1..) {
        (0..n).for_each(|_| writer.latency(Duration::from_micros(bound)));
    }
    recorder.record("latency(each bound)");
    recorder.text
}

fn merges(writer: &PageWriter, rule: RuleSlot, recorder: &mut Recorder) {
    let _ = writer.begin_merge(rule, 0xbeef);
    writer.set_region(rule, 6);
    recorder.record("begin_merge(last rule, beef), region 6");
    writer.came_on_leg(rule, 3, 5_000, Some(160));
    recorder.record("came_on_leg(last rule, 3, 5000, 160)");
    let counts = [
        LegCount::Packets,
        LegCount::Lost,
        LegCount::Duplicates,
        LegCount::Unique,
        LegCount::TooLate,
        LegCount::OtherStream,
    ];
    for (what, n) in counts.into_iter().zip(21..) {
        writer.count_leg(rule, 0, what, n);
    }
    recorder.record("count_leg(21…)");
    writer.count_merge(rule, 31, 32, 33);
    recorder.record("count_merge(31, 32, 33)");
    writer.set_held(rule, 41, 42);
    recorder.record("set_held(41, 42)");
}

fn flows(writer: &PageWriter, rule: RuleSlot, recorder: &mut Recorder) {
    let record = FlowSlot(MAX_FLOWS - 1);
    let source = AddressBits { ipv6: true, bits: 0xfd01 << 112 | 0x22 };
    let key = FlowKey { rule: RuleId::from_bits(0xa1), slot: rule, source, port: 5_004 };
    writer.set_flow(record, Some(&key), 1_000);
    recorder.record("set_flow(last record, 1000)");
    writer.switch_flow(rule, record, 2_000);
    recorder.record("switch_flow(last rule, last record, 2000)");
    writer.count_flow(record, 4, 400);
    recorder.record("count_flow(last record, 4, 400)");
    writer.set_last(rule, 3_000);
    recorder.record("set_last(last rule, 3000)");
    writer.set_flows_used(MAX_FLOWS);
    recorder.record("set_flows_used(1024)");
    let counts = [
        HealthCount::Checked,
        HealthCount::Lost,
        HealthCount::Reordered,
        HealthCount::Duplicates,
        HealthCount::Continuity,
        HealthCount::Malformed,
    ];
    for (what, n) in counts.into_iter().zip(11..) {
        writer.count_health(rule, record, what, n);
    }
    recorder.record("count_health(11…)");
    writer.set_jitter(rule, record, 99);
    recorder.record("set_jitter(99)");
}

fn ring_text() -> String {
    let ring = create_ring().unwrap();
    let mut recorder = Recorder::new(ReadOnlyWords::map(ring.as_fd(), RING_WORDS).unwrap());
    let writer = RingWriter::map(&ring, 6).unwrap();
    recorder.record("map(6)");
    let _ = [writer.count_arrival(), writer.count_arrival()];
    (0..3).for_each(|_| writer.count_sampled());
    (0..4).for_each(|_| writer.count_unrecorded());
    let _ = [(); 5].map(|()| writer.next_run());
    recorder.record("2 arrivals, 3 sampled, 4 unrecorded, 5 runs");
    let output = OutputSlot(0x0102);
    let events = [
        TraceEvent::Received,
        TraceEvent::Matched,
        TraceEvent::Skipped(SkipReason::ALL[1]),
        TraceEvent::Sent(output),
        TraceEvent::Dropped { output, reason: DropReason::ALL[1], errno: 105 },
    ];
    for (event, time_ns) in events.into_iter().zip(1_000..) {
        let mut words = Words::default();
        words.set_event(time_ns, event);
        words.set_numbers(8, 9);
        let source = ("10.1.0.1".parse().unwrap(), 5_004);
        words.set_flow(&Flow { source, destination: ("ff15::1".parse().unwrap(), 5_005) }, 16, 34);
        words.set_sizes(3, 3_600, 1_200);
        words.set_frame(&[0xee; 9]);
        writer.write(&words, true);
        recorder.record(&format!("write({event:?})"));
    }
    writer.write(&Words::default(), false);
    recorder.record("write: full");
    recorder.text
}
