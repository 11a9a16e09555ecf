//! Starting, pinning, watching and signaling processes.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::Duration;

mod exit_status;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, WaitId, WaitIdOptions};
use rustix::thread::CpuSet;

pub use rustix::process::Signal;

use crate::{Result, SysError, failed};

/// Returns freed memory to the system. The allocator would keep the high-water mark of a burst otherwise. Only glibc has a call for it (malloc_trim(3)); elsewhere nothing happens.
pub fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A handle to one process that stays valid when its PID is reused (pidfd_open(2)). It becomes readable when
/// the process ends.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
}

impl PidFd {
    /// A handle to the process that has this PID now. Free of races for children that were not waited for.
    ///
    /// # Errors
    /// `ESRCH` if there is none.
    pub fn open(pid: u32) -> Result<Self> {
        const STEP: &str = "pidfd_open";
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| SysError::from_errno(STEP, Errno::SRCH))?;
        rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK).map(|fd| Self { fd }).map_err(failed(STEP))
    }

    /// The PID behind this handle; `None` if the process was reaped or is in another PID namespace, or if the descriptor
    /// is not a pidfd.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        use std::os::fd::AsRawFd;
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd())).ok()?;
        let word = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
        word.trim().parse().ok().filter(|pid| *pid > 0)
    }

    /// Reaps a child: its exit status, or `None` if it has not ended or is not a child of this process. For a child that is traced,
    /// the tracer gets the status first (ptrace(2)); that is waited for, a short time.
    pub fn reap(&self) -> Result<Option<ExitStatus>> {
        for _ in 0..MAX_WAITS_FOR_TRACER {
            match self.try_to_reap()? {
                Reaped::NotYet if self.has_ended()? => {
                    crate::poll::wait_readable([], Some(WAIT_FOR_TRACER))?;
                }
                Reaped::NotYet | Reaped::NoChild => return Ok(None),
                Reaped::Ended(status) => return Ok(Some(status)),
            }
        }
        Ok(None)
    }

    fn try_to_reap(&self) -> Result<Reaped> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match rustix::process::waitid(WaitId::PidFd(self.fd.as_fd()), options) {
            Ok(None) => Ok(Reaped::NotYet),
            Ok(Some(status)) => {
                let code = status.exit_status().map(|code| code << 8);
                let raw = code.or(status.terminating_signal()).unwrap_or_default();
                Ok(Reaped::Ended(ExitStatus::from_raw(raw)))
            }
            Err(Errno::CHILD) => Ok(Reaped::NoChild),
            Err(errno) => Err(SysError::from_errno("waitid", errno)),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// `ESRCH` if the process has ended, `EPERM` if it may not be signaled.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        rustix::process::pidfd_send_signal(&self.fd, signal).map_err(failed("pidfd_send_signal"))
    }

    /// Returns whether the process has ended; never blocks.
    pub fn has_ended(&self) -> Result<bool> {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let no_wait = rustix::time::Timespec::default();
        rustix::event::poll(&mut fds, Some(&no_wait)).map(|ready| ready > 0).map_err(failed("poll pidfd"))
    }
}

/// The result of one attempt to reap.
enum Reaped {
    Ended(ExitStatus),
    NotYet,
    NoChild,
}

/// How often and how long a tracer is waited for.
const MAX_WAITS_FOR_TRACER: u32 = 20;
const WAIT_FOR_TRACER: Duration = Duration::from_millis(1);

crate::owned_fd::owned_fd!(PidFd);

/// Leaves the session and process group of the process that started this one, and with them their signals.
///
/// # Errors
/// `EPERM` if the process leads a group already.
pub fn leave_session() -> Result<()> {
    rustix::process::setsid().map(drop).map_err(failed("setsid"))
}

/// Raises the limit of open descriptors to `wanted`, or as far as this process may, and returns the limit in force.
///
/// # Errors
/// setrlimit(2) refuses even what the hard limit allows.
pub fn raise_descriptor_limit(wanted: u64) -> Result<u64> {
    let before = rustix::process::getrlimit(Resource::Nofile);
    let hard = before.maximum.unwrap_or(u64::MAX);
    if before.current.is_none_or(|current| current >= wanted) {
        return Ok(before.current.unwrap_or(u64::MAX));
    }
    let raise = |current: u64, maximum: u64| {
        let limit = Rlimit { current: Some(current), maximum: Some(maximum) };
        rustix::process::setrlimit(Resource::Nofile, limit)
    };
    // More than the hard limit takes CAP_SYS_RESOURCE.
    if wanted > hard && raise(wanted, wanted).is_ok() {
        return Ok(wanted);
    }
    let granted = wanted.min(hard);
    raise(granted, hard).map_err(failed("setrlimit RLIMIT_NOFILE"))?;
    Ok(granted)
}

/// Raises the limit of open descriptors to the hard limit, which the administrator sets, and returns it.
///
/// # Errors
/// setrlimit(2) refuses what the hard limit allows.
pub fn use_all_descriptors() -> Result<u64> {
    raise_descriptor_limit(rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(MAX_DESCRIPTORS))
}

/// The default of `fs.nr_open`; more is never granted.
const MAX_DESCRIPTORS: u64 = 1 << 20;

/// Pins the calling thread, and threads and processes it starts later, to one core (sched_setaffinity(2)).
///
/// # Errors
/// `EINVAL` if there is no such core or this process may not use it.
pub fn pin_to_core(core: u16) -> Result<()> {
    const STEP: &str = "sched_setaffinity";
    if usize::from(core) >= CpuSet::MAX_CPU {
        return Err(SysError::from_errno(STEP, Errno::INVAL));
    }
    let mut set = CpuSet::new();
    set.set(usize::from(core));
    rustix::thread::sched_setaffinity(None, &set).map_err(failed(STEP))
}

/// The cores that this thread may run on, in order.
pub fn online_cores() -> Result<Vec<u16>> {
    let set = rustix::thread::sched_getaffinity(None).map_err(failed("sched_getaffinity"))?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .filter_map(|core| u16::try_from(core).ok())
        .collect())
}

/// Extensions of `std::process::Command`. Each takes effect in the child between fork and exec.
pub trait CommandExt {
    /// The child is killed when the *thread* that starts it ends (prctl(2), `PR_SET_PDEATHSIG`): start it from a thread
    /// that runs as long as the child should.
    fn die_with_parent(&mut self) -> &mut Self;

    /// The child runs with this user and group and without supplementary groups.
    fn as_user(&mut self, uid: u32, gid: u32) -> &mut Self;
}

impl CommandExt for Command {
    fn die_with_parent(&mut self) -> &mut Self {
        let parent = rustix::process::getpid();
        let set_signal = move || -> io::Result<()> {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the signal was set.
            if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
        };
        // SAFETY: between fork and exec only system calls run, without allocation or locks.
        unsafe { self.pre_exec(set_signal) }
    }

    fn as_user(&mut self, uid: u32, gid: u32) -> &mut Self {
        // std drops the supplementary groups when it changes the user of a root process.
        self.gid(gid).uid(uid)
    }
}

/// The contents of /proc/PID/status (proc_pid_status(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    text: String,
}

impl Status {
    /// Reads /proc/PID/status, or the calling thread's own.
    ///
    /// # Errors
    /// There is no such process, or its status may not be read.
    pub fn read(pid: Option<u32>) -> Result<Self> {
        let path =
            pid.map_or_else(|| "/proc/thread-self/status".to_owned(), |pid| format!("/proc/{pid}/status"));
        let read = || -> io::Result<String> { io::read_to_string(File::open(&path)?) };
        read().map(|text| Self { text }).map_err(failed("read /proc status"))
    }

    /// The words after `name:`, empty if there is no such line.
    pub fn field(&self, name: &str) -> Vec<&str> {
        self.text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|rest| rest.split_whitespace().collect())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
