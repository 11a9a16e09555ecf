//! Who used a core, and for how long.

use std::sync::OnceLock;

/// `/proc/stat` counts in hundredths of a second (`USER_HZ`, proc_stat(5)).
const TICK_NS: u64 = 10_000_000;

/// Time on a core of all threads of a process, ns (`schedstat`, the kernel's sched-stats.rst).
pub(crate) fn process_ns(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// Time of the kernel's thread for network work that a core puts off, ns.
pub(crate) fn deferred_work_ns(core: u16) -> u64 {
    static PID: OnceLock<Option<u32>> = OnceLock::new();
    let pid = PID.get_or_init(|| {
        let name = format!("ksoftirqd/{core}");
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        processes.filter_map(|process| process.file_name().to_str()?.parse().ok()).find(|pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
        })
    });
    pid.map_or(0, process_ns)
}

/// What `/proc/stat` says of a core, in steps of 10 ms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CoreTime {
    /// Anything ran on it.
    pub(crate) busy_ns: u64,
    /// That, and what a hypervisor took away.
    pub(crate) taken_ns: u64,
}

impl CoreTime {
    pub(crate) fn read(core: u16) -> Self {
        Self::of_line(&format!("cpu{core} "))
    }

    /// All cores together.
    pub(crate) fn read_all() -> Self {
        Self::of_line("cpu ")
    }

    fn of_line(prefix: &str) -> Self {
        let table = std::fs::read_to_string("/proc/stat").expect("/proc/stat");
        let line = table.lines().find_map(|line| line.strip_prefix(prefix)).expect("the core");
        let ticks: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let sum =
            |places: &[usize]| places.iter().filter_map(|place| ticks.get(*place)).sum::<u64>() * TICK_NS;
        // user nice system idle iowait irq softirq steal
        Self { busy_ns: sum(&[0, 1, 2, 5, 6]), taken_ns: sum(&[0, 1, 2, 5, 6, 7]) }
    }
}
