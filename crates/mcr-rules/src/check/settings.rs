//! Settings and pinning.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::Report;
use crate::limits::{
    MAX_CORE, MAX_CORES_PER_INTERFACE, MAX_FLOW_SILENCE_S, MAX_LATENCY_BUDGET_US, MAX_ORPHAN_TIMEOUT_S,
    MAX_PINNED_INTERFACES, MAX_RING_BUFFERS, MAX_SOCKET_BUFFER_BYTES, MAX_WORKER_GRACE_S, MIN_RING_BUFFERS,
    MIN_SOCKET_BUFFER_BYTES,
};
use crate::name::InterfaceName;
use crate::path::Path;
use crate::settings::Settings;

pub(super) fn check_settings(settings: &Settings, report: &mut Report<'_>) {
    let path = Path::ROOT.key("settings");
    for (key, value, range) in [
        ("worker_grace_s", settings.worker_grace_s, Settings::WORKER_GRACE_S),
        ("receive_buffer_bytes", settings.receive_buffer_bytes, Settings::SOCKET_BUFFER_BYTES),
        ("send_buffer_bytes", settings.send_buffer_bytes, Settings::SOCKET_BUFFER_BYTES),
        ("ring_buffers", settings.ring_buffers.into(), Settings::RING_BUFFERS),
        ("latency_budget_us", settings.latency_budget_us, Settings::LATENCY_BUDGET_US),
        ("flow_silence_s", settings.flow_silence_s, Settings::FLOW_SILENCE_S),
        ("orphan_timeout_s", settings.orphan_timeout_s, Settings::ORPHAN_TIMEOUT_S),
    ] {
        if !range.contains(&value) {
            report(&path.key(key), out_of_range(value, range.start(), range.end()), None);
        } else if key == "ring_buffers" && !value.is_power_of_two() {
            let above = value.next_power_of_two();
            let hint = format!("write {} or {above}", above / 2);
            report(&path.key(key), format!("{value} is not a power of two"), Some(hint));
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
            let hint = format!(
                "name a core, or leave {interface} away for one worker on a core of the planner's choice"
            );
            report(&path, "the list of cores is empty".to_owned(), Some(hint));
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
                let hint = "an interface has one worker on a core".to_owned();
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

impl Settings {
    pub(crate) const WORKER_GRACE_S: RangeInclusive<u32> = 0..=MAX_WORKER_GRACE_S;
    pub(crate) const ORPHAN_TIMEOUT_S: RangeInclusive<u32> = 1..=MAX_ORPHAN_TIMEOUT_S;
    pub(crate) const SOCKET_BUFFER_BYTES: RangeInclusive<u32> =
        MIN_SOCKET_BUFFER_BYTES..=MAX_SOCKET_BUFFER_BYTES;
    pub(crate) const LATENCY_BUDGET_US: RangeInclusive<u32> = 0..=MAX_LATENCY_BUDGET_US;
    pub(crate) const FLOW_SILENCE_S: RangeInclusive<u32> = 1..=MAX_FLOW_SILENCE_S;
    pub(crate) const RING_BUFFERS: RangeInclusive<u32> = MIN_RING_BUFFERS as u32..=MAX_RING_BUFFERS as u32;
}
