//! Counters across restarts of workers: a rule's counters are the sum over the pages of all workers that have it,
//! plus what workers that dropped it had counted.
//!
//! A slot in a page is never cleared. When it is assigned to another rule, its contents are that rule's baseline.

use std::collections::BTreeMap;
use std::time::Duration;

use mcr_link::reason::DropReason;
use mcr_link::rule_set::{OutputSlot, RuleSlot};
use mcr_link::telemetry::health::HealthSnapshot;
use mcr_link::telemetry::merges::MergeSnapshot;
use mcr_link::telemetry::skips::RuleSkips;
use mcr_link::telemetry::{OutputSnapshot, PageReader, RuleSnapshot, TotalsSnapshot};
use serde::{Deserialize, Serialize};

use crate::core::actual::{ActualWorker, Released};
use crate::core::plan::{Incarnations, OutputKey, RuleKey, WorkerId};

/// A telemetry page, or its substitute in tests.
pub(crate) trait Counters {
    /// A rule's counters since the page was created.
    fn rule(&self, slot: RuleSlot) -> RuleSnapshot;
    /// An output's counters since the page was created.
    fn output(&self, slot: OutputSlot) -> OutputSnapshot;
    /// The merge of the rule in a slot, if it is merged.
    fn merge(&self, _slot: RuleSlot) -> Option<MergeSnapshot> {
        None
    }
    /// The skips of the rule in a slot, if there are any.
    fn skips(&self, _slot: RuleSlot) -> Option<RuleSkips> {
        None
    }
}

impl Counters for PageReader {
    fn rule(&self, slot: RuleSlot) -> RuleSnapshot {
        self.rule(slot)
    }

    fn output(&self, slot: OutputSlot) -> OutputSnapshot {
        self.output(slot)
    }

    fn merge(&self, slot: RuleSlot) -> Option<MergeSnapshot> {
        self.merge(slot)
    }

    fn skips(&self, slot: RuleSlot) -> Option<RuleSkips> {
        self.rule_skips(slot)
    }
}

/// One rule's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RuleCount {
    /// Datagrams admitted.
    pub(crate) packets: u64,
    /// Their payload bytes.
    pub(crate) bytes: u64,
    /// Sends due for them, including on removed outputs.
    pub(crate) due: u64,
    /// Datagrams that came in a frame with others, without the first of each frame.
    pub(crate) merged: u64,
    /// When the first datagram arrived, by the monotonic clock; zero if none did.
    pub(crate) first: Duration,
    /// When the last datagram arrived; zero if none did.
    pub(crate) last: Duration,
    /// Stream health of their contents.
    pub(crate) health: HealthSnapshot,
    /// Frames for its destination that it did not relay; few rules have any.
    pub(crate) skips: Option<Box<RuleSkips>>,
    /// What its legs brought, if it is merged.
    pub(crate) merge: Option<Box<MergeSnapshot>>,
    /// By output, including removed ones.
    pub(crate) outputs: OutputCounts,
}

/// Counters by output, in key order. Most rules have few outputs, and the smallest B-tree node would take 2 KiB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OutputCounts(Vec<(OutputKey, OutputSnapshot)>);

impl OutputCounts {
    /// An output's counters.
    pub(crate) fn get(&self, key: &OutputKey) -> Option<&OutputSnapshot> {
        self.place(key).ok().and_then(|place| self.0.get(place)).map(|(_, counters)| counters)
    }

    /// All outputs with their counters.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(OutputKey, OutputSnapshot)> {
        self.0.iter()
    }

    fn change(&mut self, key: &OutputKey, change: impl FnOnce(&mut OutputSnapshot)) {
        let place = self.place(key).unwrap_or_else(|place| {
            self.0.insert(place, (key.clone(), OutputSnapshot::default()));
            place
        });
        if let Some((_, counters)) = self.0.get_mut(place) {
            change(counters);
        }
    }

    fn place(&self, key: &OutputKey) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.cmp(key))
    }
}

impl FromIterator<(OutputKey, OutputSnapshot)> for OutputCounts {
    fn from_iter<I: IntoIterator<Item = (OutputKey, OutputSnapshot)>>(counters: I) -> Self {
        Self(BTreeMap::from_iter(counters).into_iter().collect())
    }
}

impl RuleCount {
    /// Sends due on the rule's present outputs: what removed ones settled is subtracted.
    pub(crate) fn due_on(&self, present: &[OutputKey]) -> u64 {
        let past = self.outputs.iter().filter(|(key, _)| !present.contains(key));
        let settled: u64 = past.map(|(_, output)| output.packets + output.dropped()).sum();
        self.due.saturating_sub(settled)
    }

    /// Frames in which its datagrams came.
    pub(crate) fn frames(&self) -> u64 {
        self.packets.saturating_sub(self.merged)
    }

    fn add(&mut self, now: RuleSnapshot, baseline: RuleSnapshot) {
        self.packets += now.packets.wrapping_sub(baseline.packets);
        self.bytes += now.bytes.wrapping_sub(baseline.bytes);
        self.due += now.due.wrapping_sub(baseline.due);
        self.merged += now.merged.wrapping_sub(baseline.merged);
        let health = now.health.since(&baseline.health);
        if now.packets != baseline.packets {
            self.first = if self.first.is_zero() { now.first } else { self.first.min(now.first) };
            self.last = self.last.max(now.last);
            self.health.add(&health);
        }
    }

    fn add_skips(&mut self, skips: Option<RuleSkips>) {
        if let Some(skips) = skips {
            self.skips.get_or_insert_default().add(&skips);
        }
    }

    fn add_merge(&mut self, merge: Option<MergeSnapshot>) {
        if let Some(merge) = merge {
            self.merge.get_or_insert_default().add(&merge);
        }
    }

    fn add_output(&mut self, key: &OutputKey, now: OutputSnapshot, baseline: OutputSnapshot) {
        let drops: [u64; DropReason::COUNT] =
            std::array::from_fn(|n| now.drops[n].wrapping_sub(baseline.drops[n]));
        self.outputs.change(key, |output| {
            output.packets += now.packets.wrapping_sub(baseline.packets);
            output.bytes += now.bytes.wrapping_sub(baseline.bytes);
            output.drops.iter_mut().zip(drops).for_each(|(sum, n)| *sum += n);
            output.replies += now.replies.wrapping_sub(baseline.replies);
            if drops.iter().any(|n| *n != 0) {
                output.last_errno = now.last_errno;
            }
        });
    }
}

/// The contents of a page's slots when they were assigned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Baselines {
    rules: BTreeMap<RuleSlot, RuleSnapshot>,
    outputs: BTreeMap<OutputSlot, OutputSnapshot>,
}

impl Baselines {
    fn rule(&self, slot: RuleSlot) -> RuleSnapshot {
        self.rules.get(&slot).copied().unwrap_or_default()
    }

    fn output(&self, slot: OutputSlot) -> OutputSnapshot {
        self.outputs.get(&slot).copied().unwrap_or_default()
    }
}

/// All counters that are in no page any more, and the baselines of the pages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    kept: BTreeMap<RuleKey, RuleCount>,
    baselines: BTreeMap<WorkerId, Baselines>,
    left: TotalsSnapshot,
    left_kernel_drops: u64,
    #[serde(skip)]
    revision: u64,
}

impl Ledger {
    /// A worker released slots and no longer counts in them: their contents are added, and become the baseline of the
    /// slot's next owner.
    ///
    /// Idempotent: what was added is the new baseline.
    pub(crate) fn release(&mut self, id: &WorkerId, released: &Released, page: &dyn Counters) {
        if released.rules.is_empty() && released.outputs.is_empty() {
            return;
        }
        self.revision += 1;
        let baselines = self.baselines.entry(id.clone()).or_default();
        for (key, slot) in &released.rules {
            let now = page.rule(*slot);
            let count = self.kept.entry(*key).or_default();
            count.add(now, baselines.rule(*slot));
            count.add_skips(page.skips(*slot));
            // Nothing is held for a rule that is gone.
            count.add_merge(page.merge(*slot).map(|merge| MergeSnapshot { held: 0, ..merge }));
            baselines.rules.insert(*slot, now);
        }
        for ((rule, output), slot) in &released.outputs {
            let now = page.output(*slot);
            let count = self.kept.entry(*rule).or_default();
            count.add_output(output, now, baselines.output(*slot));
            baselines.outputs.insert(*slot, now);
        }
    }

    /// A worker is removed with its page: everything it counted is added.
    pub(crate) fn discard(
        &mut self,
        id: &WorkerId,
        worker: &ActualWorker,
        page: &dyn Counters,
        totals: &TotalsSnapshot,
        kernel_drops: u64,
    ) {
        self.revision += 1;
        let baselines = self.baselines.remove(id).unwrap_or_default();
        add_page(&mut self.kept, &baselines, worker, page);
        self.left.add(totals);
        self.left_kernel_drops += kernel_drops;
    }

    /// Drops rules that no longer exist.
    pub(crate) fn retain(&mut self, incarnations: &Incarnations) {
        let before = self.kept.len();
        self.kept.retain(|key, _| incarnations.get(&key.id) == Some(&key.incarnation));
        self.revision += u64::from(self.kept.len() != before);
    }

    /// Every rule's counters: the pages of these workers plus the ledger.
    pub(crate) fn count<'a>(
        &self,
        workers: impl Iterator<Item = (&'a WorkerId, &'a ActualWorker, &'a dyn Counters)>,
    ) -> BTreeMap<RuleKey, RuleCount> {
        let mut counts = self.kept.clone();
        let none = Baselines::default();
        for (id, worker, page) in workers {
            add_page(&mut counts, self.baselines.get(id).unwrap_or(&none), worker, page);
        }
        counts
    }

    /// Frames that the kernel dropped for removed workers.
    pub(crate) fn left_kernel_drops(&self) -> u64 {
        self.left_kernel_drops
    }

    /// Increases with every change.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The newest incarnation of any rule that was counted.
    pub(crate) fn last_incarnation(&self) -> u64 {
        self.kept.keys().map(|key| key.incarnation).max().unwrap_or_default()
    }

    /// The totals of removed workers.
    pub(crate) fn left(&self) -> &TotalsSnapshot {
        &self.left
    }
}

fn add_page(
    counts: &mut BTreeMap<RuleKey, RuleCount>,
    baselines: &Baselines,
    worker: &ActualWorker,
    page: &dyn Counters,
) {
    // Outputs first: settled counts are read before due counts, so that no datagram in flight appears as a loss.
    for ((rule, output), slot) in worker.counted_outputs() {
        let count = counts.entry(*rule).or_default();
        count.add_output(output, page.output(slot), baselines.output(slot));
    }
    for (key, slot) in worker.counted_rules() {
        let count = counts.entry(key).or_default();
        count.add(page.rule(slot), baselines.rule(slot));
        count.add_skips(page.skips(slot));
        count.add_merge(page.merge(slot));
    }
}

#[cfg(test)]
mod tests;
