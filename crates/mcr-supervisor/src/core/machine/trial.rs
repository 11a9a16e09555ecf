//! A change on trial: in force, and reverted at a deadline unless confirmed, so that operators can't lock themselves
//! out. Until then the previous config is the persistent one.

use std::time::Duration;

use mcr_rules::Config;

use super::Machine;
use crate::core::plan::Incarnations;

/// A change that awaits confirmation.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    pub(super) before: (Config, Incarnations),
    pub(super) until: Duration,
}

impl Machine {
    /// When the change on trial is reverted; `None` if there is none.
    pub(crate) fn trial_deadline(&self) -> Option<Duration> {
        self.trial.as_ref().map(|trial| trial.until)
    }

    /// Keeps the change on trial. Returns false if there is none.
    pub(super) fn confirm(&mut self) -> bool {
        let confirmed = self.trial.take().is_some();
        if confirmed {
            self.revision += 1;
            self.ledger.retain(&self.incarnations);
        }
        confirmed
    }

    /// Begins to restore the config before the trial. Returns false, without effect, if nothing is on trial or a
    /// change is pending.
    pub(super) fn end_trial(&mut self, now: Duration) -> bool {
        if self.change.is_some() {
            return false;
        }
        let Some(trial) = self.trial.take() else { return false };
        self.go_back(trial.before, None, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::machine::Event;
    use crate::core::machine::change::{CHANGE_DEADLINE, Unacknowledged};
    use crate::core::plan::samples::{config, rule};
    use crate::core::simulation::World;

    const WITHIN: Duration = Duration::from_secs(30);

    /// A world with a rule that has relayed one datagram, and another config on trial.
    fn on_trial() -> (World, Config, Config) {
        let before = config([rule("eth0", "239.1.1.1", 5000, "eth1")]);
        let after = config([rule("eth0", "239.1.1.2", 5000, "eth1")]);
        let mut world = World::with(before.clone());
        world.traffic();
        assert!(world.begin_trial(after.clone(), WITHIN));
        assert_eq!(world.machine.lasting_config().0, &before, "not acknowledged yet");
        assert_eq!(world.await_change(), Ok(()));
        assert_eq!(world.machine.config(), &after);
        assert_eq!(world.machine.lasting_config().0, &before, "not confirmed yet");
        (world, before, after)
    }

    #[test]
    fn a_change_returns_at_its_deadline_with_its_counters() {
        let (mut world, before, _) = on_trial();
        let until = world.machine.trial_deadline().unwrap();
        assert_eq!(until, world.now + WITHIN);
        world.traffic();
        world.pass(WITHIN - Duration::from_millis(1));
        assert_ne!(world.machine.config(), &before);
        world.pass(Duration::from_millis(2));
        assert_eq!(world.machine.config(), &before);
        assert!(world.machine.trial_deadline().is_none() && !world.machine.handle(world.now, Event::Confirm));
        world.traffic();
        world.check();
        world.pass(Duration::from_secs(120));
        world.check_converged();
        let key = world.machine.key_of(before.rules[0].id()).unwrap();
        assert_eq!(world.counts()[&key].packets, 2, "one before and one after the trial");
    }

    #[test]
    fn a_confirmed_change_stays() {
        let (mut world, _, after) = on_trial();
        assert!(world.machine.handle(world.now, Event::Confirm));
        assert!(!world.machine.handle(world.now, Event::Confirm), "once");
        world.pass(WITHIN * 2);
        assert_eq!((world.machine.config(), world.machine.lasting_config().0), (&after, &after));
        world.check_converged();
    }

    #[test]
    fn a_trial_ends_when_told_and_there_is_one_at_a_time() {
        let (mut world, before, after) = on_trial();
        assert!(!world.begin_trial(Config::default(), WITHIN));
        assert!(world.machine.handle(world.now, Event::Revert));
        assert!(!world.machine.handle(world.now, Event::Revert), "it is on its way");
        assert_eq!(world.await_change(), Ok(()));
        assert_eq!(world.machine.config(), &before);
        assert!(world.begin_trial(after, WITHIN));
    }

    #[test]
    fn a_refused_trial_is_undone_and_needs_no_confirmation() {
        let before = config([rule("eth0", "239.1.1.1", 5000, "eth1")]);
        let mut world = World::with(before.clone());
        world.refusing = true;
        let after = config([rule("eth0", "239.1.1.2", 5000, "eth1")]);
        assert!(world.begin_trial(after, WITHIN));
        assert!(world.await_change().unwrap_err().contains("refuses"));
        assert_eq!(world.machine.config(), &before);
        assert_eq!(world.machine.trial_deadline(), None);
    }

    /// A refusal of a superseded rule set does not affect the next change.
    #[test]
    fn an_old_refusal_does_not_undo_the_next_change() {
        let before =
            config([rule("eth0", "239.1.1.1", 5000, "eth1"), rule("eth0", "239.1.1.2", 5000, "eth1")]);
        let mut world = World::with(before.clone());
        world.refusing = true;
        assert!(world.begin(config([before.rules[0].clone()]), Unacknowledged::Keep));
        assert_eq!(world.await_change(), Ok(()));
        assert!(world.remark.take().unwrap().contains("refuses"));
        world.refusing = false;
        assert_eq!(world.change(config([rule("eth0", "239.1.1.3", 5000, "eth1")])), Ok(()));
        assert_eq!(world.remark.take(), None);
    }

    #[test]
    fn the_way_back_is_awaited_before_a_change_is_called_undone() {
        let before = config([rule("eth0", "239.1.1.1", 5000, "eth1")]);
        let mut world = World::with(before.clone());
        let id = world.processes.keys().next().unwrap().clone();
        world.stall(&id, true);
        let after = config([rule("eth0", "239.1.1.2", 5000, "eth1")]);
        assert!(world.begin(after, Unacknowledged::Undo));
        let begun = world.now;
        let reason = world.await_change().unwrap_err();
        assert!(!reason.is_empty() && world.now >= begun + CHANGE_DEADLINE, "{reason}");
        assert!(
            world.machine.actual().workers[&id]
                .is_current(world.machine.plan().interfaces.get(&id.interface))
        );
        world.check();
    }
}
