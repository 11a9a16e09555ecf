//! The attacher: drops what it was told last, and answers late or never.

use mcr_sys::link::IfIndex;

use super::World;
use crate::core::early_drop::{Attached, InterfaceState, Obstacle, Report, Wanted, wanted};
use crate::core::machine::{Event, Outcome};
use crate::core::plan::Absorber;

#[derive(Clone, Debug, Default)]
pub(super) struct Attacher {
    generation: u64,
    dropped: Wanted,
    pub(super) answered: bool,
    /// Of both families, on every interface.
    obstacles: [Option<Obstacle>; 2],
}

impl Attacher {
    /// Whether the program that relays is attached to an interface.
    pub(super) fn relays(&self, ifindex: IfIndex) -> bool {
        self.dropped.get(&ifindex).is_some_and(|there| there.relays)
    }
}

impl World {
    pub(super) fn set_early_drop(&mut self, wanted: Wanted) {
        self.generations += 1;
        let generation = self.generations;
        let attacher = self.attacher.as_mut().expect("an attacher");
        (attacher.generation, attacher.dropped, attacher.answered) = (generation, wanted.clone(), false);
        self.machine.handle(self.now, Outcome::EarlyDropSet(wanted, generation));
    }

    /// It ends, or a new one is started.
    pub(super) fn toggle_attacher(&mut self) {
        let report = match self.attacher.take() {
            Some(_) => {
                self.end_kernel_engine();
                Report::Absent { reason: "ended by the test".to_owned(), no_permission: false }
            }
            None => {
                self.attacher = Some(Attacher { answered: true, ..Attacher::default() });
                Report::Present
            }
        };
        self.machine.handle(self.now, Event::EarlyDrop(report));
    }

    /// Others begin or cease to take what arrives.
    pub(super) fn obstruct(&mut self, families: [bool; 2]) {
        if let Some(attacher) = &mut self.attacher {
            attacher.obstacles = families.map(|is_obstructed| is_obstructed.then_some(Obstacle::Filters));
            attacher.answered = attacher.generation == 0;
        }
    }

    /// It reports what is new. Returns whether there was anything.
    pub(super) fn attacher_answers(&mut self) -> bool {
        let Some(attacher) = self.attacher.as_mut().filter(|attacher| !attacher.answered) else {
            return false;
        };
        attacher.answered = true;
        let relays = attacher.dropped.values().any(|there| there.relays);
        let obstacles = attacher.obstacles;
        let method = obstacles.contains(&None).then(|| "tcx".to_owned());
        let state = |ifindex: &_| InterfaceState {
            ifindex: *ifindex,
            method: method.clone(),
            obstacles,
            datagrams: 0,
            bytes: 0,
            relays: attacher.relays(*ifindex),
        };
        let interfaces = attacher.dropped.keys().map(state).collect();
        let report = Report::Attached(Attached { generation: attacher.generation, interfaces });
        if relays {
            self.load_kernel_engine();
        }
        self.machine.handle(self.now, Event::EarlyDrop(report));
        true
    }

    /// Whether what arrives for an absorber is dropped.
    pub(super) fn is_dropped_early(&self, absorber: &Absorber) -> bool {
        let Absorber { ifindex, address, port } = absorber;
        self.attacher.as_ref().is_some_and(|attacher| {
            let is_listed = attacher.dropped.get(ifindex).is_some_and(|there| {
                there.destinations.iter().any(|one| one.address == *address && one.port == *port)
            });
            is_listed && attacher.obstacles.get(usize::from(address.is_ipv6())) == Some(&None)
        })
    }

    /// What is said to be in force is.
    pub(super) fn check_early_drop(&self) {
        for absorber in self.machine.plan().absorbers.keys() {
            let covered = self.machine.actual().early_drop.covers(absorber);
            // Obstacles are reported late.
            let is_late = self.attacher.as_ref().is_some_and(|attacher| !attacher.answered);
            assert!(!covered || is_late || self.is_dropped_early(absorber), "{absorber:?}");
        }
    }

    /// What the attacher drops is what is planned.
    pub(super) fn check_early_drop_converged(&self) {
        if let Some(attacher) = &self.attacher {
            assert_eq!(attacher.dropped, wanted(self.machine.plan()));
        }
    }
}
