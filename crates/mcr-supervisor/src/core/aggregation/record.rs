//! What must survive the supervisor: which interfaces it has changed, and which it leaves alone.

use mcr_sys::ethtool::ReceiveOffload;
use mcr_sys::link::IfIndex;
use serde::{Deserialize, Serialize};

use super::judge::Judge;
use super::{Aggregation, Changed, Interface, merges};

/// `rx-gro` and `rx-udp-gro-forwarding`.
type Pair = [bool; 2];

/// One interface that was changed, or that the operator has set since.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct OffloadRecord {
    ifindex: u32,
    /// What was there before, what is in force, and what is about to be set; `None` if nothing is to be restored.
    changed: Option<(Pair, Pair, Option<Pair>)>,
    /// It is left alone.
    overridden: bool,
}

const fn pair(offload: ReceiveOffload) -> Pair {
    [offload.gro, offload.udp_forwarding]
}

const fn offload([gro, udp_forwarding]: Pair) -> ReceiveOffload {
    ReceiveOffload { gro, udp_forwarding, lists: false }
}

impl Aggregation {
    /// The records of all interfaces that need one.
    pub(crate) fn records(&self) -> Vec<OffloadRecord> {
        let needed = self.interfaces.iter().filter(|(_, one)| one.changed.is_some() || one.overridden);
        let record = |(ifindex, one): (&IfIndex, &Interface)| OffloadRecord {
            ifindex: ifindex.to_raw(),
            changed: one
                .changed
                .map(|Changed { before, set, next }| (pair(before), pair(set), next.map(pair))),
            overridden: one.overridden,
        };
        needed.map(record).collect()
    }

    /// The state of an earlier supervisor; each interface is read before anything is decided.
    pub(in crate::core) fn adopt(&mut self, records: Vec<OffloadRecord>) {
        for OffloadRecord { ifindex, changed, overridden } in records {
            let changed = changed.map(|(before, set, next)| Changed {
                before: offload(before),
                set: offload(set),
                next: next.map(offload),
            });
            let on = changed.is_some_and(|changed| merges(changed.set));
            let judge = if on { Judge::resumed() } else { Judge::default() };
            let interface = Interface { stale: true, changed, overridden, judge, ..Interface::default() };
            self.interfaces.insert(IfIndex::new(ifindex), interface);
        }
    }
}
