//! The running config as it is kept: its rules in parts, so that a change of one rule among thousands writes one part.

use mcr_rules::Rule;
use xxhash_rust::xxh3::xxh3_64;

use super::checkpoint::name;
use crate::core::checkpoint::ConfigRecord;
use crate::core::machine::Machine;
use crate::keeper::{Bundle, Kept};

/// Rules in a part.
const PART_RULES: usize = 512;

/// A rule and its incarnation.
type Living = (Rule, u64);

/// What the keeper has.
#[derive(Debug, Default)]
pub(super) struct RunningConfig {
    /// The rules of each part, and the hash of its record.
    parts: Vec<(Vec<Living>, u64)>,
}

impl RunningConfig {
    /// Puts what has changed since the last time.
    pub(super) fn put(&mut self, bundle: &mut Bundle<'_>, machine: &Machine, startup_file: String) {
        let rules = machine.lasting_rules();
        let parts = rules.chunks(PART_RULES);
        let count = parts.len();
        for (number, part) in parts.enumerate() {
            let same = |(noted, _): &(Vec<Living>, u64)| {
                noted.iter().map(|(rule, incarnation)| (rule, *incarnation)).eq(part.iter().copied())
            };
            if self.parts.get(number).is_some_and(same) {
                continue;
            }
            // Records are plain structures with keys that are texts; they can always be written.
            let bytes = serde_json::to_vec(part).unwrap_or_default();
            bundle.put_bytes(part_name(number), &bytes, &[]);
            let noted = part.iter().map(|(rule, incarnation)| ((*rule).clone(), *incarnation)).collect();
            match self.parts.get_mut(number) {
                Some(place) => *place = (noted, xxh3_64(&bytes)),
                None => self.parts.push((noted, xxh3_64(&bytes))),
            }
        }
        (count..self.parts.len()).for_each(|number| bundle.remove(part_name(number)));
        self.parts.truncate(count);
        let mut head = machine.config_head(startup_file);
        head.parts = self.parts.iter().map(|(_, hash)| *hash).collect();
        bundle.put(name::CONFIG.to_owned(), &head, &[]);
    }
}

/// The config that ran, if one was kept.
///
/// # Errors
/// It can't be read: another version wrote it, or a crash came while it was written.
pub(super) fn read(kept: &Kept) -> Result<Option<ConfigRecord>, String> {
    let Some(found) = kept.get(name::CONFIG) else { return Ok(None) };
    let mut record: ConfigRecord = found.record().map_err(|error| error.to_string())?;
    for (number, hash) in std::mem::take(&mut record.parts).into_iter().enumerate() {
        let part = kept.get(&part_name(number)).filter(|part| xxh3_64(part.bytes()) == hash);
        let part = part.ok_or_else(|| format!("its part {number} is missing or another one"))?;
        let rules: Vec<Living> = part.record().map_err(|error| format!("its part {number}: {error}"))?;
        for (rule, incarnation) in rules {
            record.incarnations.push((rule.id(), incarnation));
            record.config.rules.push(rule);
        }
    }
    Ok(Some(record))
}

fn part_name(number: usize) -> String {
    format!("{}{number}", name::RULES)
}
