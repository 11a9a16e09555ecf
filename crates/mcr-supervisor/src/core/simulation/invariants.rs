//! Invariants: after each step, and in the quiescent state without faults.

use mcr_control::reply::RuleState;
use mcr_sys::filter::FilterDestination;

use super::World;
use crate::core::actual::Capture;
use crate::core::plan::{OutputKey, PlannedRule, WorkerId};
use crate::core::status;

impl World {
    /// Checks the invariants that hold at any moment.
    pub(crate) fn check(&self) {
        let counts = self.counts();
        for (rule, planned) in self.machine.config().rules.iter().zip(&self.machine.plan().rules) {
            let truth = self.truth.get(&planned.key).copied().unwrap_or_default();
            let count = counts.get(&planned.key).cloned().unwrap_or_default();
            assert_eq!(count.packets, truth, "{:?}", planned.key);
            let outputs = OutputKey::all_of(rule);
            let sent: u64 =
                outputs.iter().filter_map(|key| count.outputs.get(key)).map(|output| output.packets).sum();
            assert_eq!(count.due_on(&outputs), sent, "{:?}", planned.key);
        }
        for (id, process) in &self.processes {
            let Some((set, _)) = process.applied.as_ref().filter(|_| !process.has_drifted()) else {
                continue;
            };
            let worker = &self.machine.actual().workers[id];
            // The filter of a worker being removed may have been refused to an earlier supervisor.
            if worker.leaving || matches!(worker.capture, Capture::Open { failure: Some(_), .. }) {
                continue;
            }
            for rule in &set.rules {
                let wanted = FilterDestination { address: rule.group, port: rule.port, promiscuous: false };
                assert!(self.captures[id].contains(&wanted), "{id}: the filter stops a rule in force");
            }
        }
        self.check_states();
        self.check_early_drop();
    }

    /// An active rule is in force in each of its workers and in no other, and its groups are joined.
    fn check_states(&self) {
        let plan = self.machine.plan();
        let states = status::rule_states(plan, self.machine.actual());
        let one_by_one = status::rule_states_one_by_one(plan, self.machine.actual());
        assert!(states.eq(one_by_one), "what is known of all is not true of each");
        let states = status::rule_states(plan, self.machine.actual());
        for ((key, (state, _), _), planned) in states.zip(&plan.rules) {
            if state != RuleState::Active {
                continue;
            }
            let interface = planned.installed.as_ref().expect("an active rule has an interface");
            for core in &plan.interfaces[interface].cores {
                let id = WorkerId { interface: interface.clone(), core: *core };
                let Some(process) = self.processes.get(&id) else { panic!("{id} has no process") };
                if process.has_drifted() {
                    continue;
                }
                let (set, _) = process.applied.as_ref().expect("a rule set");
                assert!(set.rules.iter().any(|rule| rule.id == key.id), "{id} lacks {key:?}");
            }
            let mut memberships = planned.memberships.iter();
            let is_joined = |membership| self.joined.contains(membership);
            // One leg of a merged rule is enough.
            let one_leg = !planned.legs.is_empty() && memberships.clone().any(is_joined);
            assert!(one_leg || memberships.all(is_joined));
        }
    }

    /// Checks the quiescent state without faults.
    pub(crate) fn check_converged(&self) {
        let plan = self.machine.plan();
        assert_eq!(self.joined.all(), plan.memberships.keys().copied().collect());
        let free = plan.absorbers.keys().filter(|absorber| !self.programs.contains(*absorber));
        let free = free.filter(|absorber| !self.is_dropped_early(absorber));
        assert_eq!(self.absorbed, free.copied().collect());
        self.check_early_drop_converged();
        self.check_kernel_engine_converged();
        let remark = |rule: &PlannedRule| rule.absorbers().any(|absorber| self.programs.contains(&absorber));
        for ((_, (state, reason), _), planned) in
            status::rule_states(plan, self.machine.actual()).zip(&plan.rules)
        {
            let shown = reason.is_some_and(|reason| reason.contains("which gets the datagrams, too"));
            assert_eq!(shown, state == RuleState::Active && remark(planned), "{planned:#?}");
        }
        for (interface, planned) in plan.interfaces.iter().filter(|(_, planned)| planned.up) {
            for core in planned.cores.iter().filter(|_| !planned.relays.is_empty()) {
                let id = WorkerId { interface: interface.clone(), core: *core };
                let worker = &self.machine.actual().workers[&id];
                assert!(worker.is_current(Some(planned)), "{id} is not up to date: {worker:#?}");
                assert!(!worker.is_outdated(Some(planned)), "{id} was not replaced");
                assert_eq!(self.processes[&id].settings, planned.settings, "{id}");
                assert_eq!(self.receive_buffers[&id], planned.receive_buffer_bytes, "{id}");
            }
        }
        self.check_offloads();
        let wanted = |id: &WorkerId| {
            plan.interfaces.get(&id.interface).is_some_and(|planned| {
                // While the interface is down no replacement can take over, so the old worker stays.
                !planned.up
                    || planned.cores.contains(&id.core) && (planned.pinned || !planned.relays.is_empty())
            })
        };
        for id in self.captures.keys() {
            assert!(wanted(id), "{id} is not wanted");
        }
        assert!(self.processes.keys().eq(self.captures.keys()), "a capture socket without a process");
        for (id, process) in &self.processes {
            assert!(!process.stalled && !process.has_drifted(), "{id} hangs, or relays by other rules");
        }
    }
}
