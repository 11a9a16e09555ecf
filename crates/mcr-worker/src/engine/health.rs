//! Stream health, for rules with a stream format: loss upstream of this host, by the sequence numbers of a flow. Without such a
//! rule, the cost is one branch.
//!
//! ```text
//!  frame ─▶ flow ─▶ its state, if there is room ─▶ RTP: gaps, late, duplicates, jitter │ MPEG-TS: continuity ─▶ page
//! ```

use mcr_link::telemetry::PageWriter;
use mcr_link::telemetry::flows::{FlowKey, FlowSlot, MAX_FLOWS};
use mcr_link::telemetry::health::HealthCount;
use mcr_rules::StreamFormat;
use mcr_wire::mpegts::{PIDS, check_continuity};
use mcr_wire::rtp::{RtpStream, Sequence, parse_rtp};

use super::table::{Table, TableRule};

/// Maximum number of checked flows; others are relayed unchecked. The continuity counters take 8 KiB per flow.
pub(crate) const MAX_CHECKED: usize = 64;
/// A flow that was idle for this time may be evicted.
const IDLE_NS: u64 = 60_000_000_000;
const NONE: u8 = u8::MAX;
const _: () = assert!(MAX_CHECKED < NONE as usize, "the index of a checked flow has 8 bits");

/// The state of one flow.
#[derive(Debug)]
struct Checked {
    flow: FlowSlot,
    key: Option<FlowKey>,
    last_ns: u64,
    rtp: RtpStream,
    continuity: Box<[u8]>,
}

impl Checked {
    fn none() -> Self {
        Self {
            flow: FlowSlot(MAX_FLOWS),
            key: None,
            last_ns: 0,
            rtp: RtpStream::default(),
            continuity: vec![0; PIDS].into(),
        }
    }

    fn begin(&mut self, flow: FlowSlot, key: FlowKey) {
        self.flow = flow;
        self.key = Some(key);
        self.rtp = RtpStream::default();
        self.continuity.fill(0);
    }
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct HealthTable {
    /// Empty while no rule has a stream format.
    checked: Vec<Checked>,
    /// The index of each flow's state.
    of_flow: Vec<u8>,
}

impl HealthTable {
    /// Adapts to a new table. The state of flows that continue is kept.
    pub(crate) fn begin_table(&mut self, table: &Table) {
        if !table.rules().iter().any(|rule| rule.stream.is_some()) {
            *self = Self::default();
        } else if self.checked.is_empty() {
            self.checked = (0..MAX_CHECKED).map(|_| Checked::none()).collect();
            self.of_flow = vec![NONE; usize::from(MAX_FLOWS)];
        }
    }

    /// Whether a rule has a stream format.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        !self.checked.is_empty()
    }

    /// Checks a datagram of the rule's current flow.
    pub(crate) fn check(
        &mut self,
        rule: &TableRule,
        format: StreamFormat,
        datagram: &[u8],
        now_ns: u64,
        page: &PageWriter,
    ) {
        let flow = rule.flow.record();
        let Some(index) = self.index_of(flow, now_ns, page) else { return };
        let Some(checked) = self.checked.get_mut(index) else { return };
        checked.last_ns = now_ns;
        let count = |what, n: u64| {
            if n > 0 {
                page.count_health(rule.slot, flow, what, n);
            }
        };
        count(HealthCount::Checked, 1);
        match format {
            StreamFormat::Rtp => {
                let Some(header) = parse_rtp(datagram) else { return count(HealthCount::Malformed, 1) };
                match checked.rtp.record(&header, now_ns) {
                    Sequence::Next { missing } => count(HealthCount::Lost, missing.into()),
                    Sequence::Late => {
                        count(HealthCount::Reordered, 1);
                        page.uncount_loss(rule.slot, flow);
                    }
                    Sequence::Duplicate => count(HealthCount::Duplicates, 1),
                    Sequence::Start | Sequence::Stray => {}
                }
                page.set_jitter(rule.slot, flow, checked.rtp.jitter_ns());
            }
            StreamFormat::MpegTs => {
                let found = check_continuity(datagram, &mut checked.continuity);
                count(HealthCount::Continuity, found.discontinuities);
                count(HealthCount::Malformed, u64::from(found.malformed));
            }
        }
    }

    /// Returns the index of a flow's state, which is allocated for a new flow if possible.
    fn index_of(&mut self, flow: FlowSlot, now_ns: u64, page: &PageWriter) -> Option<usize> {
        let index = usize::from(*self.of_flow.get(usize::from(flow.0))?);
        let known = self.checked.get(index).filter(|checked| checked.flow == flow);
        // If the record was reassigned to another flow, its key differs.
        let key = page.flow_key(flow)?;
        if known.is_some_and(|checked| checked.key == Some(key)) {
            return Some(index);
        }
        let free = |checked: &Checked| {
            checked.flow == flow || checked.key.is_none() || now_ns.saturating_sub(checked.last_ns) >= IDLE_NS
        };
        let index = self.checked.iter().position(free)?;
        let checked = self.checked.get_mut(index)?;
        if let Some(before) = self.of_flow.get_mut(usize::from(checked.flow.0)) {
            *before = NONE;
        }
        checked.begin(flow, key);
        *self.of_flow.get_mut(usize::from(flow.0))? = u8::try_from(index).ok()?;
        Some(index)
    }
}
