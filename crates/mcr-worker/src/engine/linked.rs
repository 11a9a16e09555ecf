//! The part of the engine that only workers of linked interfaces run: datagrams of merged rules.
//!
//! ```text
//!  frame, capture socket ─▶ parse ─▶ Table ─▶ leg ─▶ Merge::judge ─┬─▶ Runs, as for other rules
//!                                                                  ├─▶ skip: duplicate, too_late, other_stream
//!                                                                  └─▶ held, for rules in order ─▶ Egress::send_copy
//! ```
//!
//! Counters: a datagram that no rule lets leave is skipped, by the reason of the first; one that is held counts as matched when it
//! leaves, so that `received = matched + Σ skips + held`.

mod state;

use mcr_link::reason::SkipReason;
use mcr_link::telemetry::merges::LegCount;
use mcr_link::telemetry::skips::Skip;
use mcr_link::telemetry::{PageWriter, Total};
use mcr_rules::MergeOrder;
use mcr_wire::{Datagram, LinkLayer, Refusal, VNET_HEADER_BYTES};

use super::accounts::Accounts;
use super::arrival::Arrival;
use super::index::DestinationKey;
use super::merge::Copied;
use super::merge::order::Order;
use super::merge::tally::Tally;
use super::runs::{Joined, Run};
use super::send::{Egress, Piece, SendMeta};
use super::skips::skip_reason;
use super::table::{AdmittingRules, Lookup, Table, TableRule};
use super::{Engine, Parsed, close_all, send_run};

pub(crate) use self::state::Linked;
use self::state::{Held, Outcome, merge_of, publish, window_ns};

/// An egress whose sends are of a datagram in memory.
struct OfCopy<'e, E> {
    egress: &'e mut E,
    payload: &'e [u8],
}

impl<E: Egress> Egress for OfCopy<'_, E> {
    type Frame = E::Frame;

    fn send(&mut self, page: &Accounts, meta: SendMeta, _pieces: &[Piece<E::Frame>]) {
        self.egress.send_copy(page, meta, self.payload);
    }
}

impl<F: Copy> Engine<F> {
    /// Makes this the engine of a worker of linked interfaces, with the link layers of its capture sockets.
    pub(crate) fn link(&mut self, links: impl IntoIterator<Item = LinkLayer>) {
        self.linked = Some(Box::new(Linked::new(links)));
    }

    /// Adapts to a new table, in a worker of linked interfaces.
    pub(super) fn begin_merges(&mut self, table: &Table, page: &PageWriter) {
        let Some(linked) = &mut self.linked else { return };
        linked.begin_table(&self.table, table, page);
    }

    /// A batch begins, of this number of frames from a capture socket.
    pub(crate) fn begin_linked_batch(&mut self, now_ns: u64, socket: u8, frames: usize) {
        self.begin_batch(now_ns);
        let Some(linked) = &mut self.linked else { return };
        linked.begin_batch(now_ns, frames);
        linked.socket = socket;
        linked.down &= !(1 << socket);
        if let Some(link) = linked.links.get(usize::from(socket)) {
            self.link = *link;
        }
    }

    /// The interface of a capture socket went down: its legs are not charged with loss until something arrives on it.
    pub(crate) fn socket_down(&mut self, socket: u8) {
        if let Some(linked) = &mut self.linked {
            linked.down |= 1 << socket;
        }
    }

    /// Counts what merges have left behind. To be called often, also while nothing arrives.
    pub(crate) fn settle_merges(&mut self, page: &PageWriter) {
        let Some(linked) = &self.linked else { return };
        let now_ns = mcr_sys::clock::monotonic_ns();
        for rule in self.table.rules() {
            let Some((merge, region)) =
                rule.merge.as_ref().and_then(|merge| Some((merge, merge.region.get()?)))
            else {
                continue;
            };
            let mut tally = Tally { down: linked.down_legs(merge), ..Tally::default() };
            merge_of(merge, page, region, linked.slack_ns(now_ns)).settle(now_ns, &mut tally);
            publish(page, rule, &tally);
        }
    }

    /// As [`Self::process`], for a frame of a worker of linked interfaces, of this length.
    ///
    /// Returns whether it is a fragment; then the caller calls [`Self::process_further`].
    #[must_use]
    pub(crate) fn process_linked<const TRACED: bool, E: Egress<Frame = F>>(
        &mut self,
        (frame, bytes): (F, usize),
        parsed: &Parsed,
        page: &Accounts,
        egress: &mut E,
    ) -> bool {
        page.count(Total::Frames, 1);
        let datagram = match parsed {
            Ok(datagram) => datagram,
            Err(Refusal::Fragment) => return true,
            Err(refusal) => {
                page.count(Total::Received, 1);
                page.skip(skip_reason(*refusal), 1);
                if TRACED {
                    page.trace(|tracer| tracer.refused(skip_reason(*refusal)));
                }
                return false;
            }
        };
        let count = datagram.segment_count() as u64;
        page.count(Total::Received, count);
        self.look_up::<TRACED, E>(datagram, page, egress);
        let reason = match &self.last.lookup {
            Lookup::HostAddress(_) if self.is_from_this_host(egress.frame(frame, bytes)) => {
                SkipReason::OwnSource
            }
            Lookup::Admitted(rules) | Lookup::HostAddress(rules) => {
                let rules = rules.clone();
                if matches!(self.last.lookup, Lookup::HostAddress(_)) {
                    self.enter_flow::<TRACED, E>(page, egress);
                }
                self.merge_datagrams::<TRACED, E>((frame, bytes), datagram, &rules, page, egress);
                return false;
            }
            Lookup::NoRule => SkipReason::NoRule,
            Lookup::OwnSource => SkipReason::OwnSource,
            Lookup::SourceExcluded => SkipReason::SourceExcluded,
        };
        page.skip(reason, count);
        self.count_skipped(datagram, reason, count, page);
        if TRACED {
            page.trace(|tracer| tracer.skipped(datagram, reason));
        }
        false
    }

    /// Merges the datagrams of a frame.
    fn merge_datagrams<const TRACED: bool, E: Egress<Frame = F>>(
        &mut self,
        (frame, bytes): (F, usize),
        datagram: &Datagram,
        rules: &AdmittingRules,
        page: &Accounts,
        egress: &mut E,
    ) {
        let (mut start, end) = (datagram.payload.start, datagram.payload.end);
        let size = match datagram.segment_bytes.map(usize::from) {
            Some(size @ 1..) => size.min(end - start),
            _ => end - start,
        };
        if TRACED {
            let admitting = self.table.admitting(rules);
            admitting.for_each(|index| page.trace(|tracer| tracer.admitted(index, datagram)));
        }
        loop {
            let part = start..(start + size).min(end);
            start = part.end;
            self.merge_one::<TRACED, E>((frame, bytes, part), datagram, rules, page, egress);
            if start >= end {
                return;
            }
        }
    }

    /// Merges one datagram, for each rule that it is for.
    fn merge_one<const TRACED: bool, E: Egress<Frame = F>>(
        &mut self,
        (frame, bytes, part): (F, usize, std::ops::Range<usize>),
        datagram: &Datagram,
        rules: &AdmittingRules,
        page: &Accounts,
        egress: &mut E,
    ) {
        let Some(mut linked) = self.linked.take() else { return };
        let Self { table, runs, now_ns, .. } = self;
        let (address, port) = datagram.destination;
        let source = datagram.source.0;
        let (mut counted, mut reason) = (false, None);
        for index in table.admitting(rules) {
            let Some(rule) = table.rule(index) else { continue };
            let Some(merge) = &rule.merge else { continue };
            let Some(leg) = merge.leg_of(linked.socket, DestinationKey { address, port }, source) else {
                continue;
            };
            let start = VNET_HEADER_BYTES + part.start;
            let payload = egress.frame(frame, bytes).get(start..start + part.len()).unwrap_or_default();
            let copied = Copied { leg, payload, now_ns: *now_ns };
            let (mut outcome, place) = linked.decide((index, rule, merge), (leg, source), &copied, page);
            let number = index as usize;
            if let (Outcome::Leave, Some(place), MergeOrder::Sequence) =
                (&outcome, place, merge.options.order)
            {
                let held = Held {
                    payload: Vec::new(),
                    ttl: datagram.ttl,
                    dscp: datagram.dscp,
                    first_match: !counted,
                };
                outcome = linked.in_turn(number, place, *now_ns, (payload, held));
                if matches!(outcome, Outcome::Skip(_)) {
                    page.count_leg(rule.slot, leg, LegCount::TooLate, 1);
                }
            }
            match outcome {
                Outcome::Leave => {
                    let arrival = arrival(frame, &part, datagram, !counted);
                    counted = true;
                    join::<TRACED, E>(table, runs, (index, rule), &arrival, *now_ns, page, egress);
                }
                Outcome::Held => counted = true,
                Outcome::Skip(why) => {
                    let skip = Skip { reason: why, source, port };
                    page.skip_of_rule(rule.slot, skip, 1, *now_ns);
                    reason.get_or_insert(why);
                }
            }
            if merge.options.order == MergeOrder::Sequence {
                send_due::<TRACED, E>(table, runs, &mut linked, (index, rule), *now_ns, page, egress);
            }
        }
        self.linked = Some(linked);
        if !counted {
            let reason = reason.unwrap_or(SkipReason::SourceExcluded);
            page.skip(reason, 1);
            if TRACED {
                page.trace(|tracer| tracer.skipped(datagram, reason));
            }
        }
    }

    /// Sends held datagrams whose gap has been there for the window. Returns when to call it again, if any are left.
    pub(crate) fn expire_held<E: Egress<Frame = F>>(
        &mut self,
        now_ns: u64,
        page: &Accounts,
        egress: &mut E,
    ) -> Option<u64> {
        self.linked.as_ref().filter(|linked| linked.held > 0)?;
        self.release(page, egress, |order, window_ns| order.expire(now_ns, window_ns));
        let linked = self.linked.as_ref()?;
        let rules = linked.rules.iter().zip(self.table.rules());
        let deadlines =
            rules.filter_map(|(state, rule)| state.order.deadline_ns(window_ns(rule.merge.as_ref()?)));
        deadlines.min()
    }

    /// Sends all held datagrams, before a table without their rules.
    pub(crate) fn flush_held<E: Egress<Frame = F>>(&mut self, page: &Accounts, egress: &mut E) {
        if self.linked.as_ref().is_some_and(|linked| linked.held > 0) {
            self.release(page, egress, |order, _| order.give_up_all());
        }
    }

    fn release<E: Egress<Frame = F>>(
        &mut self,
        page: &Accounts,
        egress: &mut E,
        mut expire: impl FnMut(&mut Order<Held>, u64),
    ) {
        let Some(mut linked) = self.linked.take() else { return };
        let Self { table, runs, now_ns, .. } = self;
        for (index, rule) in (0_u32..).zip(table.rules()) {
            let Some(merge) = &rule.merge else { continue };
            if let Some(state) = linked.rules.get_mut(index as usize) {
                expire(&mut state.order, window_ns(merge));
            }
            send_due::<false, E>(table, runs, &mut linked, (index, rule), *now_ns, page, egress);
        }
        self.linked = Some(linked);
    }
}

fn arrival<F: Copy>(
    frame: F,
    part: &std::ops::Range<usize>,
    datagram: &Datagram,
    first_match: bool,
) -> Arrival<F> {
    // A payload is below 64 KiB.
    let bytes = u16::try_from(part.len()).unwrap_or(u16::MAX);
    let start = u32::try_from(VNET_HEADER_BYTES + part.start).unwrap_or(u32::MAX);
    Arrival {
        piece: Piece { frame, start, bytes: bytes.into() },
        segment_bytes: bytes,
        datagrams: 1,
        first_match,
        ttl: datagram.ttl,
        dscp: datagram.dscp,
    }
}

/// Adds a datagram to the run of its rule.
fn join<const TRACED: bool, E: Egress>(
    table: &Table,
    runs: &mut super::Runs<E::Frame>,
    (index, rule): (u32, &TableRule),
    arrival: &Arrival<E::Frame>,
    now_ns: u64,
    page: &Accounts,
    egress: &mut E,
) {
    loop {
        match runs.join(index, arrival, rule.by_ttl, rule.by_dscp) {
            Joined::Yes => break,
            Joined::CloseRule => {
                if let Some((run, pieces)) = runs.close(index) {
                    send_run::<TRACED, E>(table, now_ns, page, egress, run, pieces);
                }
            }
            Joined::CloseAll => close_all::<TRACED, E>(table, runs, now_ns, page, egress),
        }
    }
    if TRACED {
        page.trace(|tracer| tracer.joined(index, 1, arrival.piece.bytes, arrival.segment_bytes));
    }
}

/// Sends the held datagrams of a rule that may leave, after what is in its run.
fn send_due<const TRACED: bool, E: Egress>(
    table: &Table,
    runs: &mut super::Runs<E::Frame>,
    linked: &mut Linked,
    (index, rule): (u32, &TableRule),
    now_ns: u64,
    page: &Accounts,
    egress: &mut E,
) {
    let number = index as usize;
    while let Some(held) = linked.take_due(number) {
        if let Some((run, pieces)) = runs.close(index) {
            send_run::<TRACED, E>(table, now_ns, page, egress, run, pieces);
        }
        linked.publish_held(number, rule, page);
        let Held { payload, ttl, dscp, first_match } = held;
        let run = Run::of_one(index, payload.len(), (ttl, dscp), first_match);
        let mut of_copy = OfCopy { egress: &mut *egress, payload: &payload };
        send_run::<false, _>(table, now_ns, page, &mut of_copy, &run, &[]);
        linked.spare.push(payload);
    }
    linked.publish_held(number, rule, page);
}
