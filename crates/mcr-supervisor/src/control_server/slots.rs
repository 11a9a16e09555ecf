//! Admission of connections. Pure: the order of events replaces the time.
//!
//! At its limit, a user gets a new connection if one of theirs is idle: the one that has been idle longest is
//! evicted. So users don't lock themselves out by forgotten connections, and can't lock out root or the daemon's
//! user.

use std::collections::BTreeMap;

use mcr_control::method::Right;

use super::limits::SlotLimits;

/// A connection's number; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ConnectionId(u64);

#[derive(Debug)]
struct Slot {
    uid: u32,
    right: Right,
    /// The number of its last event.
    active: u64,
    /// A request is being answered.
    busy: bool,
}

/// All connections.
#[derive(Debug)]
pub(super) struct Slots {
    limits: SlotLimits,
    slots: BTreeMap<ConnectionId, Slot>,
    events: u64,
}

/// The decision about a new client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is admitted; another connection may be evicted for it.
    Admitted {
        id: ConnectionId,
        evicted: Option<ConnectionId>,
    },
    Refused,
}

impl Slots {
    pub(super) fn new(limits: SlotLimits) -> Self {
        Self { limits, slots: BTreeMap::new(), events: 0 }
    }

    /// Decides on a new client.
    pub(super) fn admit(&mut self, uid: u32, right: Right) -> Admission {
        let evicted = if self.has_room(uid, right) {
            None
        } else {
            match self.longest_idle(uid, right) {
                None => return Admission::Refused,
                victim => victim,
            }
        };
        if let Some(victim) = evicted {
            self.slots.remove(&victim);
        }
        self.events += 1;
        let id = ConnectionId(self.events);
        self.slots.insert(id, Slot { uid, right, active: self.events, busy: false });
        Admission::Admitted { id, evicted }
    }

    /// Records that a connection's request starts or stops being handled.
    pub(super) fn set_busy(&mut self, id: ConnectionId, busy: bool) {
        self.events += 1;
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.active = self.events;
            slot.busy = busy;
        }
    }

    /// Removes a connection; no effect on an evicted one.
    pub(super) fn release(&mut self, id: ConnectionId) {
        self.slots.remove(&id);
    }

    fn has_room(&self, uid: u32, right: Right) -> bool {
        let count = |of: &dyn Fn(&Slot) -> bool| self.slots.values().filter(|slot| of(slot)).count();
        let of_user = count(&|slot| slot.uid == uid);
        let total = self.slots.len();
        let unreserved = self.limits.total.saturating_sub(self.limits.reserved);
        let of_others = count(&|slot| slot.right != Right::Own);
        match right {
            Right::Own => total < self.limits.total,
            Right::Read | Right::Change => {
                total < self.limits.total && of_others < unreserved && of_user < self.limits.per_user
            }
            Right::Nothing => {
                total < self.limits.total
                    && of_others < unreserved
                    && count(&|slot| slot.right == Right::Nothing) < self.limits.without_rights
                    && of_user < self.limits.per_user_without_rights
            }
        }
    }

    /// Root and the daemon's user may evict each other: they count as one.
    fn longest_idle(&self, uid: u32, right: Right) -> Option<ConnectionId> {
        self.slots
            .iter()
            .filter(|(_, slot)| !slot.busy)
            .filter(|(_, slot)| slot.uid == uid || (right == Right::Own && slot.right == Right::Own))
            .min_by_key(|(_, slot)| slot.active)
            .map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SlotLimits =
        SlotLimits { total: 10, reserved: 4, per_user: 3, without_rights: 3, per_user_without_rights: 2 };

    fn admit(slots: &mut Slots, uid: u32, right: Right) -> Option<ConnectionId> {
        match slots.admit(uid, right) {
            Admission::Admitted { id, evicted: None } => Some(id),
            _ => None,
        }
    }

    fn busy(slots: &mut Slots, uid: u32, right: Right) -> Option<ConnectionId> {
        admit(slots, uid, right).inspect(|id| slots.set_busy(*id, true))
    }

    #[test]
    fn users_have_their_limit_and_root_the_reserve() {
        let mut slots = Slots::new(LIMITS);
        let by_user = |slots: &mut Slots, uid, right| (0..9).filter_map(|_| busy(slots, uid, right)).count();
        assert_eq!(by_user(&mut slots, 1, Right::Nothing), 2);
        assert_eq!(by_user(&mut slots, 2, Right::Nothing), 1);
        assert_eq!(by_user(&mut slots, 3, Right::Read), 3);
        assert_eq!(by_user(&mut slots, 4, Right::Change), 0);
        assert_eq!(slots.admit(4, Right::Change), Admission::Refused);
        assert_eq!(by_user(&mut slots, 0, Right::Own), 4);
        assert_eq!(slots.admit(0, Right::Own), Admission::Refused);
    }

    #[test]
    fn root_may_use_everything() {
        let mut slots = Slots::new(LIMITS);
        assert_eq!((0..20).filter_map(|_| busy(&mut slots, 0, Right::Own)).count(), 10);
        assert_eq!(slots.admit(7, Right::Change), Admission::Refused);
    }

    #[test]
    fn the_longest_idle_connection_of_the_same_user_makes_room() {
        let mut slots = Slots::new(LIMITS);
        let [first, second, third] = std::array::from_fn(|_| admit(&mut slots, 5, Right::Read).unwrap());
        slots.set_busy(first, true);
        slots.set_busy(first, false);
        slots.set_busy(second, true);
        let Admission::Admitted { evicted, .. } = slots.admit(5, Right::Read) else { panic!() };
        assert_eq!(evicted, Some(third));
        let Admission::Admitted { evicted, .. } = slots.admit(5, Right::Read) else { panic!() };
        assert_eq!(evicted, Some(first));
    }

    #[test]
    fn released_slots_are_free_and_an_evicted_one_is_released_once() {
        let mut slots = Slots::new(LIMITS);
        let ids: Vec<_> = (0..10).filter_map(|_| busy(&mut slots, 0, Right::Own)).collect();
        slots.release(ids[3]);
        slots.release(ids[3]);
        assert!(busy(&mut slots, 0, Right::Own).is_some());
        assert!(busy(&mut slots, 0, Right::Own).is_none());
    }
}
