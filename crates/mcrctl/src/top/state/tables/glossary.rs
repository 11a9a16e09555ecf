//! What the reasons mean: the sentences of the manual.

use crate::top::series::KERNEL_REASON;

/// The manual of the counters. Its tables have a row for each reason: name, meaning, what to do.
const MANUAL: &str = include_str!("../../../../../../user_docs/COUNTERS.md");

/// A reason in words; empty for one that this version's manual does not know.
pub(in crate::top) fn meaning(reason: &str) -> String {
    if reason == KERNEL_REASON {
        return "frames the kernel dropped: the worker's queue was full".to_owned();
    }
    let row = MANUAL.lines().find_map(|line| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` |")?;
        (name == reason).then_some(rest)
    });
    row.and_then(|row| row.split('|').next()).unwrap_or_default().trim().replace('`', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_in_the_manual() {
        for reason in ["no_rule", "too_big", "queue_full", "worker_died", KERNEL_REASON] {
            assert!(!meaning(reason).is_empty(), "{reason}");
        }
        assert_eq!(meaning("nonsense"), "");
    }
}
