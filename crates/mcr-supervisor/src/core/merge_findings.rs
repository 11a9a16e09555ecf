//! What may be wrong with a merged rule, in words; [`merges`](super::merges) finds it.

use std::collections::BTreeSet;

use crate::core::plan::{PlannedRule, Readiness};

/// What is wrong with a merged rule. Legs are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum MergeFinding {
    /// Nothing comes on this leg, although its interface is up and other legs deliver.
    Silent(usize),
    /// Datagrams come on this leg after the window.
    Late(usize),
    /// Copies have different payloads.
    Differ,
    /// Datagrams are missing on all legs.
    Lost,
}

/// The remarks on a merged rule: what its legs wait for, and what was found.
pub(crate) fn remarks<'a>(
    rule: &'a PlannedRule,
    found: Option<&'a BTreeSet<MergeFinding>>,
) -> impl Iterator<Item = String> + 'a {
    let waiting = rule.legs.iter().enumerate().filter_map(|(index, ready)| match ready {
        Readiness::Waiting(reason) => Some(format!("leg {}: {reason}", index + 1)),
        Readiness::Ready => None,
    });
    waiting.chain(found.into_iter().flatten().map(words))
}

fn words(finding: &MergeFinding) -> String {
    match finding {
        MergeFinding::Silent(leg) => format!("leg {} is silent", leg + 1),
        MergeFinding::Late(leg) => {
            format!("leg {} is later than the window: its datagrams are too_late", leg + 1)
        }
        MergeFinding::Differ => "legs differ: copies have different payloads".to_owned(),
        MergeFinding::Lost => "datagrams are lost on all legs".to_owned(),
    }
}
