//! The rules of the running config in parts, so that changing one rule among thousands writes one part.

use mcr_rules::Rule;
use xxhash_rust::xxh3::xxh3_64;

use crate::core::machine::Machine;

const PART_RULES: usize = 512;

pub(super) type Incarnated = (Rule, u64);

/// The parts at one revision of the config.
#[derive(Debug, Default)]
pub(super) struct ConfigParts {
    revision: Option<u64>,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    rules: Vec<Incarnated>,
    hash: u64,
}

impl ConfigParts {
    /// Updates the parts from the config. A pending change does not count.
    pub(super) fn update(&mut self, machine: &Machine) {
        let revision = Some(machine.revision());
        if self.revision == revision || (self.revision.is_some() && machine.is_changing()) {
            return;
        }
        self.revision = revision;
        let rules = machine.lasting_rules();
        let mut count = 0;
        for (number, part) in rules.chunks(PART_RULES).enumerate() {
            count = number + 1;
            let same = |old: &Part| {
                old.rules.iter().map(|(rule, incarnation)| (rule, *incarnation)).eq(part.iter().copied())
            };
            if self.parts.get(number).is_some_and(same) {
                continue;
            }
            let rules = part.iter().map(|(rule, incarnation)| ((*rule).clone(), *incarnation)).collect();
            let new = Part { rules, hash: xxh3_64(&encode(part)) };
            match self.parts.get_mut(number) {
                Some(old) => *old = new,
                None => self.parts.push(new),
            }
        }
        self.parts.truncate(count);
    }

    /// The config revision of the parts.
    pub(super) fn revision(&self) -> u64 {
        self.revision.unwrap_or_default()
    }

    /// The hash of each part's record.
    pub(super) fn hashes(&self) -> impl Iterator<Item = u64> {
        self.parts.iter().map(|part| part.hash)
    }

    pub(super) fn record(&self, number: usize) -> Option<Vec<u8>> {
        self.parts.get(number).map(|part| encode(&part.rules))
    }
}

fn encode(part: &(impl serde::Serialize + ?Sized)) -> Vec<u8> {
    // Rules are plain structs with string keys: encoding can't fail.
    serde_json::to_vec(part).unwrap_or_default()
}
