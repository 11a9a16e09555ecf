//! What was written to the maps: changes are the difference from it, and an audit compares.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mcr_sys::bpf::early_drop::Destination;
use mcr_sys::bpf::relay::{Accepts, MAX_RECORDS, Output, Rule, Tables, Verdict};
use mcr_sys::clock;
use mcr_sys::filter::{ANY_PORT, FilterDestination};
use mcr_sys::link::IfIndex;
use mcr_sys::{Result, SysError};

use crate::core::actual::kernel_engine::{KernelOutput, KernelRuleSet, PlacedRule, Port};
use crate::core::filter_set::FilterSet;
use crate::core::plan::RuleKey;

/// Programs that began before a place was given up have ended after this time.
const GRACE: Duration = Duration::from_secs(1);

/// A rule at its place.
#[derive(Debug)]
struct Record {
    place: u32,
    rule: PlacedRule,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Written {
    /// The port that outputs send from which have none.
    port: u16,
    verdicts: BTreeMap<Destination, Verdict>,
    accepted: BTreeMap<Destination, Accepts>,
    rules: BTreeMap<RuleKey, Record>,
    epochs: BTreeMap<IfIndex, u32>,
    own: Option<Arc<[IpAddr]>>,
    /// Places of rules that were removed, and since when; older first.
    given_up: Vec<(u32, Duration)>,
    free: BTreeSet<u32>,
}

impl Written {
    /// What is in the maps; no rule of it is known.
    pub(super) fn adopt(tables: &Tables, port: u16) -> std::result::Result<Self, String> {
        let verdicts = tables.verdicts().map_err(|error| error.to_string())?;
        let now = clock::monotonic();
        let used: BTreeSet<u32> = verdicts.values().filter_map(|verdict| verdict.relay).collect();
        Ok(Self {
            port,
            verdicts,
            accepted: BTreeMap::new(),
            rules: BTreeMap::new(),
            epochs: BTreeMap::new(),
            own: None,
            given_up: used.iter().map(|place| (*place, now)).collect(),
            free: (0..MAX_RECORDS).filter(|place| !used.contains(place)).collect(),
        })
    }

    /// Nothing is relayed any more.
    pub(super) fn end(&mut self, tables: &Tables) {
        for ifindex in tables.interfaces().unwrap_or_default() {
            // What was an epoch is none; where that fails, the attacher's time limit ends it.
            let _ = tables.set_epoch(ifindex, 0);
        }
        self.epochs.clear();
        self.rules.clear();
    }

    /// Accepts this on each interface, and nothing else.
    pub(super) fn accept(
        &mut self,
        tables: &Tables,
        accepted: impl Iterator<Item = (IfIndex, FilterSet)>,
    ) -> Result<()> {
        let mut all: BTreeMap<Destination, Accepts> = BTreeMap::new();
        for (ifindex, set) in accepted {
            set.iter().for_each(|wanted| add(&mut all, ifindex, wanted));
        }
        self.accepted = all;
        self.write_verdicts(tables)
    }

    /// Relays these rules, and no others.
    pub(super) fn relay(&mut self, tables: &Tables, set: &KernelRuleSet) -> Result<()> {
        if self.own.as_ref() != Some(&set.own) {
            tables.set_own(&set.own)?;
            self.own = Some(Arc::clone(&set.own));
        }
        let now = clock::monotonic();
        let passed = |(_, since): &(u32, Duration)| *since + GRACE <= now;
        self.free.extend(self.given_up.extract_if(.., |one| passed(one)).map(|(place, _)| place));
        let unchanged = |key: &RuleKey, record: &Record| set.rules.get(key) == Some(&record.rule);
        let gone = self.rules.extract_if(.., |key, record| !unchanged(key, record));
        // In force until the verdicts are written.
        self.given_up.extend(gone.map(|(_, record)| (record.place, now)));
        for (key, placed) in &set.rules {
            if self.rules.contains_key(key) {
                continue;
            }
            let place = self.free.pop_first();
            let place = place.ok_or_else(|| SysError::invalid("find a place for a rule", "none is free"))?;
            self.write(tables, place, placed)?;
            self.rules.insert(*key, Record { place, rule: placed.clone() });
        }
        self.write_epochs(tables, &set.interfaces())?;
        self.write_verdicts(tables)
    }

    fn write(&self, tables: &Tables, place: u32, placed: &PlacedRule) -> Result<()> {
        let (rule, outputs) = self.encoded(placed);
        tables.set_sources(place, &placed.rule.sources)?;
        tables.write_rule(place, &rule, &outputs)
    }

    fn encoded(&self, PlacedRule { rule, slot, outputs }: &PlacedRule) -> (Rule, Vec<Output>) {
        let encoded = Rule {
            to: rule.to,
            slot: *slot,
            max_bytes: rule.max_bytes,
            min_ttl: rule.min_ttl,
            has_sources: !rule.sources.is_empty(),
        };
        let outputs = rule.outputs.iter().zip(outputs).map(|(output, slot)| self.output(output, *slot));
        (encoded, outputs.collect())
    }

    fn output(&self, output: &KernelOutput, slot: u32) -> Output {
        Output {
            ifindex: output.ifindex,
            slot,
            mac: output.mac,
            source_mac: output.source_mac,
            to: output.to,
            source: output.source,
            source_port: match output.source_port {
                Port::Any => Some(self.port),
                Port::Arriving => None,
                Port::Fixed(port) => Some(port),
            },
            mark: output.mark,
            ttl: output.ttl,
            dscp: output.dscp,
        }
    }

    /// An interface that is new begins with an epoch that was never used.
    fn write_epochs(&mut self, tables: &Tables, interfaces: &BTreeSet<IfIndex>) -> Result<()> {
        for ifindex in tables.interfaces()?.iter().filter(|ifindex| !interfaces.contains(ifindex)) {
            tables.set_epoch(*ifindex, 0)?;
        }
        self.epochs.retain(|ifindex, _| interfaces.contains(ifindex));
        for ifindex in interfaces {
            if !self.epochs.contains_key(ifindex) {
                let epoch = new_epoch();
                tables.set_epoch(*ifindex, epoch)?;
                self.epochs.insert(*ifindex, epoch);
            }
        }
        Ok(())
    }

    fn wanted(&self) -> BTreeMap<Destination, Verdict> {
        let accepted =
            self.accepted.iter().map(|(to, accepts)| (*to, Verdict { accepts: *accepts, relay: None }));
        let mut wanted: BTreeMap<Destination, Verdict> = accepted.collect();
        for record in self.rules.values() {
            if let Some(verdict) = wanted.get_mut(&record.rule.rule.to) {
                verdict.relay = Some(record.place);
            }
        }
        wanted
    }

    fn write_verdicts(&mut self, tables: &Tables) -> Result<()> {
        let wanted = self.wanted();
        for (to, verdict) in &wanted {
            if self.verdicts.get(to) != Some(verdict) {
                tables.set_verdict(to, *verdict)?;
                self.verdicts.insert(*to, *verdict);
            }
        }
        let gone: Vec<Destination> =
            self.verdicts.keys().filter(|to| !wanted.contains_key(to)).copied().collect();
        for to in gone {
            tables.remove_verdict(&to)?;
            self.verdicts.remove(&to);
        }
        Ok(())
    }

    /// Compares the maps with what was written, and repairs them. Returns how many entries were different.
    pub(super) fn audit(&mut self, tables: &Tables) -> Result<usize> {
        let mut repaired = 0;
        for record in self.rules.values() {
            let (rule, outputs) = self.encoded(&record.rule);
            if !tables.has_rule(record.place, &rule, &outputs)? {
                repaired += 1;
                self.write(tables, record.place, &record.rule)?;
            }
        }
        for (ifindex, epoch) in &self.epochs {
            if tables.epoch(*ifindex)?.is_none_or(|(found, _)| found != *epoch) {
                repaired += 1;
                tables.set_epoch(*ifindex, *epoch)?;
            }
        }
        let present = tables.verdicts()?;
        if present != self.verdicts {
            let differs = |to: &&Destination| present.get(to) != self.verdicts.get(to);
            let all: BTreeSet<&Destination> = present.keys().chain(self.verdicts.keys()).collect();
            repaired += all.into_iter().filter(|to| differs(to)).count();
            self.verdicts = present;
            self.write_verdicts(tables)?;
        }
        Ok(repaired)
    }

    /// Interfaces where a decision was not executed.
    pub(super) fn not_executed(&self, tables: &Tables) -> BTreeSet<IfIndex> {
        let broken = |ifindex: &&IfIndex| matches!(tables.epoch(**ifindex), Ok(Some((_, true))));
        self.epochs.keys().filter(broken).copied().collect()
    }
}

/// A number that grows each millisecond, so that a later supervisor's are new, too.
fn new_epoch() -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "the lower bits differ")]
    let milliseconds = clock::monotonic().as_millis() as u32;
    milliseconds.max(1)
}

/// Adds what a destination accepts: itself, and for its address what has no port that is known.
fn add(all: &mut BTreeMap<Destination, Accepts>, ifindex: IfIndex, wanted: &FilterDestination) {
    let FilterDestination { address, port, promiscuous } = *wanted;
    let entry = all.entry(Destination { ifindex, address, port }).or_default();
    entry.whole = true;
    entry.promiscuous_whole |= promiscuous;
    let any = all.entry(Destination { ifindex, address, port: ANY_PORT }).or_default();
    any.odd = true;
    any.promiscuous_odd |= promiscuous;
}
