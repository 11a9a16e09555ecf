//! A worker's slot: its capture socket and its telemetry page. They are kept when a worker dies, so that the
//! replacement finds queued frames and continues the counters.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mcr_link::message::{IoBackend, LINK_VERSION};
use mcr_link::telemetry::merges::MAX_REGIONS;
use mcr_link::telemetry::{PageReader, PageWriter, create_merging_page, create_page};
use mcr_rules::log::WORKERS;
use mcr_sys::egress::check_marking;
use mcr_sys::filter::{Direction, FilterProgram, Instruction};
use mcr_sys::packet::{Capture, CaptureOptions, CaptureReport, Fanout, FanoutGroup, PreparedSocket};

use super::Executor;
use crate::core::actual::ActualWorker;
use crate::core::capture_buffer::sustained_rate_pps;
use crate::core::checkpoint::SlotRecord;
use crate::core::filter_set::FilterSet;
use crate::core::machine::{LastCounts, Machine, Outcome};
use crate::core::plan::WorkerId;
use crate::core::status::CaptureFacts;

/// Resources a worker needs to start, and what the supervisor keeps for it.
#[derive(Debug)]
pub(crate) struct WorkerSlot {
    pub(super) capture: Capture,
    /// The sockets of further linked interfaces.
    pub(super) more: Vec<Capture>,
    /// The socket before, until what it left is counted.
    pub(super) replaced: Option<Capture>,
    /// What was found in it when it was closed, and is not yet part of `kernel_drops`.
    pub(super) left_behind: Arc<AtomicU64>,
    pub(super) fanout: FanoutGroup,
    pub(super) page: OwnedFd,
    /// The counters of this slot's workers, past ones included.
    pub(crate) reader: PageReader,
    /// Frames dropped because the kernel's queue was full.
    pub(crate) kernel_drops: u64,
    pub(crate) facts: CaptureFacts,
    /// The filter in force, as requested; empty if unknown.
    pub(super) filter: Vec<Instruction>,
    /// What its filter accepts; empty if unknown.
    pub(super) accepted: FilterSet,
    /// Its filter is the program of the kernel engine, which accepts this; `None`: the classic filter.
    pub(super) accepted_by_program: Option<FilterSet>,
    /// The socket sets its interface promiscuous.
    pub(super) promiscuous: bool,
    /// Other workers recently took some of its frames (fan-out rollover).
    rolling: bool,
}

impl WorkerSlot {
    fn new(
        socket: PreparedSocket,
        options: &CaptureOptions<'_>,
        id: &WorkerId,
    ) -> mcr_sys::Result<(Self, CaptureReport)> {
        let (capture, report) = Capture::open_on(socket, options)?;
        let others = id.interface.captured().skip(1);
        let more = others.map(|(_, ifindex)| {
            Capture::open(&CaptureOptions { ifindex, ..*options }).map(|(capture, _)| capture)
        });
        let more = more.collect::<mcr_sys::Result<Vec<_>>>()?;
        let page =
            if id.interface.linked.is_empty() { create_page() } else { create_merging_page(MAX_REGIONS) };
        let note =
            report.clamped.then(|| clamped_note(options.receive_buffer_bytes, report.receive_buffer_bytes));
        let record = SlotRecord {
            fanout: report.fanout.0,
            link_version: LINK_VERSION,
            note,
            promiscuous: false,
            send_locked: report.send_locked,
        };
        Ok((Self::adopted((capture, more), report.fanout, page?, 0, record)?, report))
    }

    /// Creates it from an earlier supervisor's resources.
    pub(super) fn adopted(
        (capture, more): (Capture, Vec<Capture>),
        fanout: FanoutGroup,
        page: OwnedFd,
        kernel_drops: u64,
        record: SlotRecord,
    ) -> mcr_sys::Result<Self> {
        let SlotRecord { note, promiscuous, .. } = record;
        let reader = PageReader::map(page.as_fd())?;
        let rolled_over = capture.rollover().unwrap_or_default().rolled_over;
        let receive_buffer_bytes = capture.receive_buffer_bytes()? as u64;
        let send_locked = capture.is_send_locked();
        let facts = CaptureFacts { receive_buffer_bytes, rolled_over, note, send_locked };
        Ok(Self {
            capture,
            more,
            replaced: None,
            left_behind: Arc::default(),
            fanout,
            page,
            reader,
            kernel_drops,
            facts,
            filter: Vec::new(),
            accepted: FilterSet::default(),
            accepted_by_program: None,
            promiscuous,
            rolling: false,
        })
    }

    pub(super) fn record(&self) -> SlotRecord {
        let note = self.facts.note.clone();
        let (fanout, promiscuous, send_locked) = (self.fanout.0, self.promiscuous, self.facts.send_locked);
        SlotRecord { fanout, link_version: LINK_VERSION, note, promiscuous, send_locked }
    }

    /// Sets the interface promiscuous if the filter in force is.
    pub(super) fn follow_filter(&mut self, id: &WorkerId, filter: &FilterProgram) {
        let on = filter.is_promiscuous();
        if on == self.promiscuous {
            return;
        }
        for (capture, (_, ifindex)) in self.captures().zip(id.interface.captured()) {
            if let Err(error) = capture.set_promiscuous(ifindex, on) {
                tracing::warn!(target: WORKERS, worker = %id, %error, promiscuous = on, "can't set");
                return;
            }
        }
        self.promiscuous = on;
    }

    /// Its capture sockets, one for each interface.
    pub(super) fn captures(&self) -> impl Iterator<Item = &Capture> {
        std::iter::once(&self.capture).chain(&self.more)
    }

    /// What its worker is started with, and the keeper holds.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = vec![self.capture.as_fd(), self.page.as_fd()];
        all.extend(self.more.iter().map(AsFd::as_fd));
        all
    }

    /// Returns whether a rollover of this worker's frames to others began since the last call.
    pub(super) fn collect_kernel_drops(&mut self) -> bool {
        let drops = self.captures().filter_map(|capture| capture.statistics().ok());
        self.kernel_drops += drops.map(|statistics| u64::from(statistics.drops)).sum::<u64>();
        self.kernel_drops += self.left_behind.swap(0, Ordering::Relaxed);
        let rolled_over = self.capture.rollover().unwrap_or_default().rolled_over;
        let before = std::mem::replace(&mut self.facts.rolled_over, rolled_over);
        let was_rolling = std::mem::replace(&mut self.rolling, rolled_over > before);
        self.rolling && !was_rolling
    }

    /// Settles counts that a killed worker left unsettled in its page, as its replacement would.
    fn settle(&self, worker: &ActualWorker) {
        let io = self.reader.worker().io.unwrap_or(IoBackend::Recvmmsg);
        if let Ok(writer) = PageWriter::map(&self.page, 0, io) {
            worker.counted_outputs().for_each(|(_, slot)| writer.settle_output(slot));
            writer.settle_totals();
        }
    }
}

/// The filter of a worker.
pub(super) fn program(id: &WorkerId, wanted: &FilterSet) -> FilterProgram {
    let direction = if id.interface.local { Direction::Sent } else { Direction::Received };
    FilterProgram::for_direction(direction, wanted)
}

fn clamped_note(wanted: usize, granted: usize) -> String {
    let rate = sustained_rate_pps(granted as u64);
    format!(
        "the kernel grants a receive buffer of {granted} instead of {wanted} bytes: above {rate} datagrams/s, some are \
         lost while a stalled worker is replaced"
    )
}

impl Executor {
    pub(super) fn open_slot<'a>(
        &mut self,
        id: &'a WorkerId,
        wanted: &FilterSet,
        receive_buffer_bytes: u32,
    ) -> Outcome<'a> {
        let sibling = self.slots.iter().find(|(other, _)| other.interface == id.interface);
        let options = CaptureOptions {
            ifindex: id.interface.ifindex,
            filter: &program(id, wanted),
            receive_buffer_bytes: receive_buffer_bytes as usize,
            fanout: match sibling {
                // Each of its sockets takes all frames of its interface.
                _ if !id.interface.linked.is_empty() => Fanout::None,
                Some((_, slot)) => Fanout::Join(slot.fanout),
                None => Fanout::New,
            },
        };
        // Without marks, what MCR sends would be taken for what another program sends.
        let marking = if id.interface.local { check_marking() } else { Ok(()) };
        let socket = marking.and_then(|()| self.prepared.take());
        let opened = match socket.and_then(|socket| WorkerSlot::new(socket, &options, id)) {
            Ok((mut slot, report)) => {
                slot.follow_filter(id, options.filter);
                slot.accepted = Arc::clone(wanted);
                tracing::debug!(target: WORKERS, worker = %id, ?report, "capture socket is open");
                self.warn_of_clamped_buffer(report.receive_buffer_bytes, options.receive_buffer_bytes);
                self.slots.insert(id.clone(), slot);
                Ok((Arc::clone(wanted), receive_buffer_bytes))
            }
            Err(error) => {
                let reason = format!("can't capture on {}: {error}", id.interface);
                tracing::warn!(target: WORKERS, worker = %id, "{reason}");
                Err(reason)
            }
        };
        self.prepared.refill();
        Outcome::CaptureOpened(id, opened)
    }

    pub(super) fn resize_receive_buffer<'a>(&mut self, id: &'a WorkerId, bytes: u32) -> Outcome<'a> {
        let outcome = Outcome::ReceiveBufferResized(id, bytes);
        let Some(slot) = self.slots.get_mut(id) else { return outcome };
        let wanted = bytes as usize;
        let resized = slot.captures().map(|capture| capture.resize_receive_buffer(wanted));
        // Of several sockets the smallest counts.
        let resized = resized.reduce(|one, other| Ok(one?.min(other?)));
        match resized.unwrap_or(Ok(wanted)) {
            Ok(granted) => {
                slot.facts.receive_buffer_bytes = granted as u64;
                slot.facts.note = (granted < wanted).then(|| clamped_note(wanted, granted));
                self.warn_of_clamped_buffer(granted, wanted);
            }
            // The same call would fail again, so it is not repeated.
            Err(error) => {
                tracing::warn!(target: WORKERS, worker = %id, %error, "the receive buffer keeps its size");
            }
        }
        outcome
    }

    fn warn_of_clamped_buffer(&mut self, granted: usize, wanted: usize) {
        if granted < wanted && !self.warned_of_clamped_buffer {
            self.warned_of_clamped_buffer = true;
            let note = clamped_note(wanted, granted);
            tracing::warn!(target: WORKERS, "{note}. Give mcrd CAP_NET_ADMIN or raise net.core.rmem_max");
        }
    }

    /// `None` without a capture socket.
    pub(super) fn attach_filter<'a>(&mut self, id: &'a WorkerId, wanted: &FilterSet) -> Option<Outcome<'a>> {
        if self.slots.get(id)?.accepted_by_program.is_some() {
            return Some(Outcome::FilterAttached(id, self.accept_by_program(id, wanted)));
        }
        self.attach_classic_filter(id, wanted)
    }

    /// The same, for a socket whose filter is not the program, or not any more.
    pub(super) fn attach_classic_filter<'a>(
        &mut self,
        id: &'a WorkerId,
        wanted: &FilterSet,
    ) -> Option<Outcome<'a>> {
        let slot = self.slots.get_mut(id)?;
        let program = program(id, wanted);
        if slot.filter == program.instructions() {
            // With thousands of groups the filter has prefixes only, and accepts the new one already.
            slot.accepted = Arc::clone(wanted);
            return Some(Outcome::FilterAttached(id, Ok(Arc::clone(wanted))));
        }
        // A failed attempt leaves a different filter in force.
        slot.filter.clear();
        let attached = slot.captures().map(|capture| capture.attach_filter(&program));
        // Of several sockets the last one counts: they are given the same program.
        let attached = attached.reduce(|one, other| one.and(other));
        let attached = match attached.unwrap_or(Ok(program.precision())) {
            Ok(precision) => {
                tracing::debug!(target: WORKERS, worker = %id, destinations = wanted.len(), ?precision, "filter");
                slot.follow_filter(id, &program);
                slot.accepted = Arc::clone(wanted);
                if precision == program.precision() {
                    slot.filter.extend_from_slice(program.instructions());
                }
                Ok(Arc::clone(wanted))
            }
            Err(error) => {
                let reason = format!("can't change the filter on {}: {error}", id.interface.name);
                tracing::warn!(target: WORKERS, worker = %id, "{reason}");
                Err(reason)
            }
        };
        Some(Outcome::FilterAttached(id, attached))
    }

    pub(super) fn discard(&mut self, id: &WorkerId, machine: &mut Machine, now: Duration) {
        let slot = self.slots.remove(id).zip(machine.worker(id)).map(|(mut slot, worker)| {
            slot.settle(worker);
            slot.close_replaced();
            slot.collect_kernel_drops();
            slot
        });
        let totals = slot.as_ref().map(|slot| slot.reader.worker().totals).unwrap_or_default();
        let last = slot.as_ref().map(|slot| LastCounts {
            page: &slot.reader,
            totals: &totals,
            kernel_drops: slot.kernel_drops,
        });
        machine.handle(now, Outcome::Discarded(id, last));
        if let Some(slot) = slot {
            // Not on this thread: closing takes the kernel some 14 ms (`synchronize_net` in `packet_release`).
            tokio::task::spawn_blocking(move || drop(slot));
        }
        tracing::info!(target: WORKERS, worker = %id, "left");
    }
}
