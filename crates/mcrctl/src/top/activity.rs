//! Notices when a counter of losses begins to move and when it has rested for a while: of these the daemon has no events.

use std::collections::BTreeMap;
use std::time::Duration;

/// A counter that has not moved for so long is at rest.
pub(super) const QUIET: Duration = Duration::from_secs(10);

/// What a counter did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Started,
    /// It has rested for [`QUIET`].
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Motion {
    /// Seen once.
    Unknown,
    Moving,
    Resting,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    count: u64,
    moved_at: Duration,
    motion: Motion,
}

/// The counters under watch. What moves or rests from the beginning is no news.
#[derive(Clone, Debug)]
pub(super) struct Activity<K> {
    of: BTreeMap<K, Watched>,
}

impl<K> Default for Activity<K> {
    fn default() -> Self {
        Self { of: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Activity<K> {
    /// Looks at all counters; those that are not there any more are forgotten.
    pub(super) fn observe(
        &mut self,
        at: Duration,
        counts: impl IntoIterator<Item = (K, u64)>,
    ) -> Vec<(K, Transition)> {
        let before = std::mem::take(&mut self.of);
        let mut turns = Vec::new();
        for (key, count) in counts {
            let new = Watched { count, moved_at: at, motion: Motion::Unknown };
            let mut watched = before.get(&key).copied().filter(|was| was.count <= count).unwrap_or(new);
            if count > watched.count {
                if watched.motion == Motion::Resting {
                    turns.push((key.clone(), Transition::Started));
                }
                watched = Watched { count, moved_at: at, motion: Motion::Moving };
            } else if watched.motion == Motion::Moving && at.saturating_sub(watched.moved_at) >= QUIET {
                watched.motion = Motion::Resting;
                turns.push((key.clone(), Transition::Stopped));
            } else if watched.motion == Motion::Unknown && at > watched.moved_at {
                watched.motion = Motion::Resting;
            }
            self.of.insert(key, watched);
        }
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_reported() {
        let mut activity = Activity::<&str>::default();
        let counts = [5, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 8, 2, 3];
        let mut told = Vec::new();
        for (second, count) in (0..).zip(counts) {
            let at = Duration::from_secs(second);
            // "still" never moves, "moving" always does, "new" starts from rest.
            let all = [("a", count), ("still", 4), ("moving", second), ("new", second.saturating_sub(3))];
            told.extend(activity.observe(at, all).into_iter().map(|(key, turn)| (second, key, turn)));
        }
        let expected =
            [(4, "new", Transition::Started), (12, "a", Transition::Stopped), (14, "a", Transition::Started)];
        assert_eq!(told, expected);
    }
}
