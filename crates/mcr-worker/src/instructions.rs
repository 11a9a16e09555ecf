//! The workload of `cargo xtask instructions`: the engine, from a frame to a send, without system calls. Only with the feature
//! `instruction-count`.

use std::fs::File;
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use mcr_link::message::IoBackend;
use mcr_link::rule_set::{EgressId, OutputSlot, Own, RelayOutput, RelayRule, RuleSet, RuleSlot};
use mcr_link::telemetry::{PageWriter, create_page};
use mcr_link::trace::{TraceRequest, create_ring};
use mcr_rules::{OutputOptions, RuleId, RuleOptions};
use mcr_wire::checksum::Sum;

use crate::captured::{Captured, PORT, group};
use crate::engine::Engine;
use crate::engine::accounts::Accounts;
use crate::engine::path::EgressSocket;
use crate::engine::send::{Egress, Piece, SendMeta};
use crate::engine::table::Table;

/// Frames of a batch.
const BATCH: usize = 64;
/// Payload bytes of a datagram.
const PAYLOAD: usize = 200;

/// A workload.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The name in the recorded counts.
    pub name: &'static str,
    rules: u8,
    outputs: u32,
    /// Datagrams in a frame.
    segments: usize,
    checksum: bool,
    /// The frames are for a group without a rule.
    unmatched: bool,
    /// The first rule is traced.
    traced: bool,
}

const ONE: Case = Case {
    name: "1 rule, 1 output",
    rules: 1,
    outputs: 1,
    segments: 1,
    checksum: false,
    unmatched: false,
    traced: false,
};

/// All workloads.
pub const CASES: [Case; 7] = [
    ONE,
    Case { name: "1 rule, 8 outputs", outputs: 8, ..ONE },
    Case { name: "50 rules, 1 output", rules: 50, ..ONE },
    Case { name: "super-frames of 32", segments: 32, ..ONE },
    Case { name: "with checksum", checksum: true, ..ONE },
    Case { name: "no rule", unmatched: true, ..ONE },
    Case { name: "1 rule, traced", traced: true, ..ONE },
];

/// An egress whose sends succeed immediately.
struct Sent;

impl Egress for Sent {
    type Frame = u16;

    #[inline]
    fn send(&mut self, page: &Accounts, meta: SendMeta, _: &[Piece<u16>]) {
        black_box(meta).settle(page, Ok(()));
    }
}

impl Case {
    /// Passes `batches` batches through the engine. Returns the number of datagrams in them.
    ///
    /// # Errors
    /// The telemetry page can't be created, or /dev/null can't be opened.
    pub fn run(&self, batches: usize) -> mcr_sys::Result<u64> {
        let page = Accounts::from(PageWriter::map(&create_page()?, 1, IoBackend::IoUring)?);
        let mut engine = Engine::new(mcr_wire::LinkLayer::Ethernet);
        let fd =
            File::open("/dev/null").map_err(|error| mcr_sys::SysError::new("open /dev/null", error))?.into();
        let socket =
            Rc::new(EgressSocket { id: EgressId(0), fd, file: None, replies: std::cell::Cell::new(0) });
        let Ok(table) = Table::build(&self.rule_set(), |_| Some(Rc::clone(&socket))) else { return Ok(0) };
        engine.replace(table, &page);
        let frames: Vec<Vec<u8>> = (0..BATCH).map(|index| self.frame(index)).collect();
        if self.traced {
            self.trace(&page)?;
        }
        for _ in 0..batches {
            if page.is_tracing() {
                process_frames::<true>(&mut engine, &page, &frames);
            } else {
                process_frames::<false>(&mut engine, &page, &frames);
            }
            engine.finish_batch(&page, &mut Sent);
        }
        Ok((batches * BATCH * self.segments) as u64)
    }

    fn trace(&self, page: &Accounts) -> mcr_sys::Result<()> {
        let request =
            TraceRequest { rule: RuleId::from_bits(0), sample: 1, drops_only: false, max_records: u64::MAX };
        let ring = create_ring()?;
        let started = page.change_traces(|tracer| {
            tracer.set_clock(|| 1);
            tracer.begin(request, &ring, &self.rule_set())
        });
        debug_assert!(started, "one trace is within the limit");
        Ok(())
    }

    fn rule_set(&self) -> RuleSet {
        let output = |slot| RelayOutput {
            address: SocketAddr::from(([239, 9, 9, 9], 9_000)),
            options: OutputOptions::default(),
            source: None,
            egress: Some(EgressId(0)),
            slot: OutputSlot(slot),
        };
        let rules = (0..self.rules).map(|number| RelayRule {
            id: RuleId::from_bits(number.into()),
            group: IpAddr::V4(group(number)),
            more_groups: Vec::new(),
            reassemble: true,
            port: PORT,
            sources: Vec::new(),
            options: RuleOptions::default(),
            slot: RuleSlot(number.into()),
            merge: None,
            outputs: (0..self.outputs).map(|n| output(u32::from(number) * self.outputs + n)).collect(),
        });
        RuleSet { generation: 1, own: Own::default(), rules: rules.map(Into::into).collect() }
    }

    fn frame(&self, index: usize) -> Vec<u8> {
        let number =
            if self.unmatched { 250 } else { u8::try_from(index % usize::from(self.rules)).unwrap_or(0) };
        let payload = vec![index.to_le_bytes()[0]; PAYLOAD * self.segments];
        let mut captured = Captured::plain(1, number, &payload);
        if self.segments > 1 {
            captured.segment = u16::try_from(PAYLOAD).unwrap_or(u16::MAX);
        }
        let mut frame = captured.frame();
        if self.checksum {
            fill_in_checksum(&mut frame);
        }
        frame
    }
}

/// As in the relay loops.
#[inline]
fn process_frames<const TRACED: bool>(engine: &mut Engine<u16>, page: &Accounts, frames: &[Vec<u8>]) {
    for (index, frame) in (0_u16..).zip(frames) {
        let parsed = engine.parse(black_box(frame), page);
        if TRACED {
            engine.trace_frame(frame, &parsed, page);
        }
        assert!(!engine.process::<TRACED, _>(index, &parsed, page, &mut Sent), "no source is of this host");
    }
}

/// Fills in the UDP checksum (RFC 768) of a frame with virtio, Ethernet and IPv4 header.
fn fill_in_checksum(frame: &mut [u8]) {
    const ADDRESSES: usize = 10 + 14 + 12;
    const UDP: usize = ADDRESSES + 8;
    const CHECKSUM: usize = UDP + 6;
    let (Some(covered), Some(udp)) = (frame.get(ADDRESSES..), frame.get(UDP..)) else { return };
    let length = u16::try_from(udp.len()).unwrap_or_default();
    let checksum = Sum::default().add_u16(17).add_u16(length).add_bytes(covered).checksum();
    if let Some(place) = frame.get_mut(CHECKSUM..CHECKSUM + 2) {
        place.copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_processes_its_datagrams() {
        for case in CASES {
            let reader = |case: &Case| case.run(3).unwrap();
            assert_eq!(reader(&case), (3 * BATCH * case.segments) as u64, "{}", case.name);
        }
    }

    #[test]
    fn frames_with_checksum_are_accepted() {
        let case = CASES.iter().find(|case| case.checksum).unwrap();
        let engine: Engine<u16> = Engine::new(mcr_wire::LinkLayer::Ethernet);
        assert!(engine.parse_again(&case.frame(0)).is_ok());
        let mut wrong = case.frame(0);
        wrong[60] ^= 1;
        assert!(engine.parse_again(&wrong).is_err());
    }
}
