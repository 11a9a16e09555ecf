//! Detects whether a process runs, waits for a core, or has stalled (proc_pid_stat(5), schedstat of the scheduler's statistics).

use std::time::Duration;

use crate::{Result, failed};

/// A process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// It runs or waits for a core; false if it sleeps, is stopped, or waits for the disk.
    pub runnable: bool,
    /// CPU time it has used.
    pub run_time: Duration,
}

/// Reads the state of a process.
///
/// # Errors
/// There is no such process, or the kernel has no such statistics.
pub fn scheduling(pid: u32) -> Result<Scheduling> {
    let read = |file: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(failed("read a process's scheduling"))
    };
    // The name in parentheses may contain anything, so the state is behind the last parenthesis.
    let stat = read("stat")?;
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next().map(str::to_owned));
    let run_ns = read("schedstat")?.split_whitespace().next().and_then(|ns| ns.parse().ok());
    Ok(Scheduling {
        runnable: state.as_deref() == Some("R"),
        run_time: Duration::from_nanos(run_ns.unwrap_or_default()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::monotonic;
    use crate::process::{CommandExt, PidFd, Signal};

    #[test]
    fn this_process_runs_and_a_stopped_one_does_not() {
        let own = std::process::id();
        let before = scheduling(own).unwrap();
        let end = monotonic() + Duration::from_millis(20);
        while monotonic() < end {}
        assert!(before.run_time < scheduling(own).unwrap().run_time || before.run_time > Duration::ZERO);

        let mut child = std::process::Command::new("sleep").arg("60").die_with_parent().spawn().unwrap();
        PidFd::open(child.id()).unwrap().kill(Signal::STOP).unwrap();
        // The signal is taken when the process gets a core.
        let end = monotonic() + Duration::from_secs(10);
        while scheduling(child.id()).unwrap().runnable {
            assert!(monotonic() < end, "it still runs 10 seconds after SIGSTOP");
            std::thread::yield_now();
        }
        child.kill().and_then(|()| child.wait().map(drop)).unwrap();
        assert!(scheduling(child.id()).is_err());
    }
}
