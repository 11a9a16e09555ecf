use super::faults::Run;

const SEEDS: u64 = 256;
const STEPS: u64 = 3000;

#[expect(clippy::disallowed_methods, reason = "arguments from cargo xtask simulate")]
fn setting(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number"))
}

/// Runs one seed. A panic reports the seed and the step, which replay it.
fn run(seed: u64, steps: u64) {
    let mut step = 0;
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut run = Run::new(seed);
        while step < steps {
            run.step();
            step += 1;
        }
        run.quiesce();
    }));
    assert!(
        outcome.is_ok(),
        "seed {seed} fails in step {step} of {steps}; replay: cargo xtask simulate --seeds 1 --first-seed {seed} --steps {steps}"
    );
}

/// Commands, network events, deaths, stalls, refusals, lost and late messages and time in random order; invariants
/// are checked after each step, and without faults the plan is reached at the end. `cargo xtask simulate` runs more
/// seeds.
#[test]
fn simulation_whatever_happens_the_accounts_are_right_and_peace_brings_the_plan() {
    let first = setting("MCR_SIMULATION_FIRST_SEED", 0);
    let seeds = setting("MCR_SIMULATION_SEEDS", SEEDS);
    let steps = setting("MCR_SIMULATION_STEPS", STEPS);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let share = |thread: usize| {
            move || (first..first + seeds).skip(thread).step_by(threads).for_each(|seed| run(seed, steps))
        };
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(share(thread))).collect();
        for thread in all {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}
