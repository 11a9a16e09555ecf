//! Assigns cores to interfaces' workers: evenly spread, and stable, so that a new rule never moves a worker.

use std::collections::{BTreeMap, BTreeSet};

use mcr_rules::{Config, InterfaceName, Rule};

/// The usable cores, and their assignment to interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cores {
    online: BTreeSet<u16>,
    assigned: BTreeMap<InterfaceName, u16>,
}

impl Cores {
    /// Creates it from the cores this process may run on; core 0 if none are known.
    pub(crate) fn new(online: impl IntoIterator<Item = u16>) -> Self {
        let mut online: BTreeSet<u16> = online.into_iter().collect();
        if online.is_empty() {
            online.insert(0);
        }
        Self { online, assigned: BTreeMap::new() }
    }

    /// Assigns a core to each unpinned input interface of the config: its present core, else the least loaded.
    /// Interfaces without rules release theirs.
    pub(crate) fn assign(&mut self, config: &Config) {
        let inputs: BTreeSet<&InterfaceName> =
            config.rules.iter().flat_map(Rule::inputs).map(|input| &input.interface).collect();
        let free: Vec<_> = inputs.iter().filter(|name| !config.pinning.contains_key(**name)).collect();
        self.assigned.retain(|name, core| {
            self.online.contains(core) && inputs.contains(name) && !config.pinning.contains_key(name)
        });
        let mut load: BTreeMap<u16, usize> = self.online.iter().map(|core| (*core, 0)).collect();
        let pinned =
            config.pinning.iter().filter(|(name, _)| inputs.contains(name)).flat_map(|(_, cores)| cores);
        for core in pinned.chain(self.assigned.values()) {
            load.entry(*core).and_modify(|n| *n += 1);
        }
        for name in free {
            if self.assigned.contains_key(*name) {
                continue;
            }
            // Ties go to the lowest core: `min_by_key` keeps the first.
            if let Some((core, n)) = load.iter_mut().min_by_key(|(_, n)| **n) {
                *n += 1;
                self.assigned.insert((*name).clone(), *core);
            }
        }
    }

    /// The assigned cores, by unpinned interface.
    pub(crate) fn assigned(&self) -> &BTreeMap<InterfaceName, u16> {
        &self.assigned
    }

    /// Restores an earlier assignment.
    pub(crate) fn resume(&mut self, assigned: BTreeMap<InterfaceName, u16>) {
        self.assigned = assigned;
    }

    /// The cores of the workers of an interface with these names: those pinned that exist, else the assigned one.
    pub(crate) fn of<'a>(
        &self,
        config: &Config,
        names: impl Iterator<Item = &'a str> + Clone,
    ) -> BTreeSet<u16> {
        let pinned = names.clone().filter_map(|name| config.pinning.get(name)).flatten().copied();
        let usable: BTreeSet<u16> = pinned.filter(|core| self.online.contains(core)).collect();
        if !usable.is_empty() {
            return usable;
        }
        let assigned = names.filter_map(|name| self.assigned.get(name)).chain(&self.online).next();
        BTreeSet::from([assigned.copied().unwrap_or_default()])
    }

    /// Cores named in `pinning` that this process can't use.
    pub(crate) fn missing(&self, config: &Config) -> BTreeSet<u16> {
        config.pinning.values().flatten().copied().filter(|core| !self.online.contains(core)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::plan::samples::{config, rule};

    fn core_of(cores: &Cores, config: &Config, name: &str) -> Vec<u16> {
        cores.of(config, std::iter::once(name)).into_iter().collect()
    }

    #[test]
    fn interfaces_spread_evenly_and_stay() {
        let mut cores = Cores::new([0, 1, 2]);
        let mut config = config([rule("b", "239.1.1.1", 5000, "out"), rule("d", "239.1.1.1", 5000, "out")]);
        cores.assign(&config);
        assert_eq!((core_of(&cores, &config, "b"), core_of(&cores, &config, "d")), (vec![0], vec![1]));

        config.rules.insert(0, rule("a", "239.1.1.1", 5000, "out"));
        config.rules.push(rule("e", "239.1.1.1", 5000, "out"));
        cores.assign(&config);
        assert_eq!((core_of(&cores, &config, "b"), core_of(&cores, &config, "d")), (vec![0], vec![1]));
        assert_eq!((core_of(&cores, &config, "a"), core_of(&cores, &config, "e")), (vec![2], vec![0]));

        config.rules.retain(|rule| rule.input.interface.as_str() != "d");
        config.rules.push(rule("f", "239.1.1.1", 5000, "out"));
        cores.assign(&config);
        assert_eq!(core_of(&cores, &config, "f"), [1], "the core that was given back");
    }

    #[test]
    fn pinning_counts_as_load_and_wins() {
        let mut cores = Cores::new([0, 1]);
        let mut config = config([rule("pin", "239.1.1.1", 5000, "out"), rule("x", "239.1.1.1", 5000, "out")]);
        config.pinning.insert("pin".parse().unwrap(), vec![0, 7]);
        cores.assign(&config);
        assert_eq!(core_of(&cores, &config, "pin"), [0], "core 7 does not exist");
        assert_eq!(core_of(&cores, &config, "x"), [1]);
        assert_eq!(cores.missing(&config), BTreeSet::from([7]));
    }

    #[test]
    fn pinning_to_cores_that_do_not_exist_still_gives_a_core() {
        let mut cores = Cores::new([2, 3]);
        let mut config = config([rule("pin", "239.1.1.1", 5000, "out")]);
        config.pinning.insert("pin".parse().unwrap(), vec![90]);
        cores.assign(&config);
        assert_eq!(core_of(&cores, &config, "pin"), [2]);
    }
}
