//! Settings and pinning.

use std::collections::BTreeSet;

use super::Report;
use crate::limits::{MAX_CORE, MAX_CORES_PER_INTERFACE, MAX_PINNED_INTERFACES};
use crate::name::InterfaceName;
use crate::path::Path;
use crate::settings::{Form, Settings};

pub(super) fn check_settings(settings: &Settings, report: &mut Report<'_>) {
    let path = Path::ROOT.key("settings");
    for setting in Settings::TABLE {
        let (value, range) = ((setting.get)(settings), setting.range());
        if !range.contains(&value) {
            report(&path.key(setting.name), out_of_range(value, range.start(), range.end()), None);
        } else if matches!(setting.form, Form::PowerOfTwo(_)) && !value.is_power_of_two() {
            let above = value.next_power_of_two();
            let hint = format!("write {} or {above}", above / 2);
            report(&path.key(setting.name), format!("{value} is not a power of two"), Some(&hint));
        }
    }
}

pub(super) fn check_pinning(pinning: &[(InterfaceName, Vec<Option<u16>>)], report: &mut Report<'_>) {
    let path = Path::ROOT.key("pinning");
    if pinning.len() > MAX_PINNED_INTERFACES {
        let message =
            format!("{} interfaces are pinned, at most {MAX_PINNED_INTERFACES} are allowed", pinning.len());
        report(&path, message, None);
    }
    for (interface, cores) in pinning {
        let path = path.key(interface.as_str());
        if cores.is_empty() {
            let hint =
                format!("name a core, or omit {interface} for one worker on a core that the planner selects");
            report(&path, "the list of cores is empty".to_owned(), Some(&hint));
        }
        if cores.len() > MAX_CORES_PER_INTERFACE {
            let message = format!("{} cores, at most {MAX_CORES_PER_INTERFACE} are allowed", cores.len());
            report(&path, message, None);
        }
        let mut seen = BTreeSet::new();
        for (index, core) in cores.iter().enumerate() {
            let Some(core) = *core else { continue };
            if core > MAX_CORE {
                report(&path.index(index), out_of_range(core, 0, MAX_CORE), None);
            } else if !seen.insert(core) {
                let hint = "an interface has one worker per core";
                report(&path.index(index), format!("core {core} is listed twice"), Some(hint));
            }
        }
    }
}

/// The message for a number outside its range.
pub(crate) fn out_of_range(
    value: impl std::fmt::Display,
    lowest: impl std::fmt::Display,
    highest: impl std::fmt::Display,
) -> String {
    format!("{value} is out of range: {lowest} to {highest} are allowed")
}
