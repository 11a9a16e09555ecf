//! How a process ended that is not a child of this one, so that waitid(2) has no status for it.
//!
//! ```text
//!  ended, not reaped ─▶ /proc/PID/stat, field 52 (proc_pid_stat(5)), with the right to trace the process
//!  reaped by another ─▶ ioctl PIDFD_GET_INFO (linux/pidfd.h), from Linux 6.15 on
//! ```
//!
//! Its new parent, often init, reaps it at any moment, so both are asked.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use super::PidFd;

/// linux/pidfd.h: `_IOWR(0xFF, 11, struct pidfd_info)` with the first version of the structure.
const PIDFD_GET_INFO: libc::Ioctl = 0xc040_ff0b;
/// `PIDFD_INFO_EXIT`.
const EXIT: u64 = 1 << 3;
/// The field `exit_code` of /proc/PID/stat, counted from the first one after the name of the program.
const EXIT_CODE_FIELD: usize = 52 - 3;

/// `struct pidfd_info`, first version (64 bytes).
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    /// pid, tgid, ppid, and eight user and group ids; `exit_code` follows.
    ids: [u32; 11],
    exit_code: i32,
}
const _: () = assert!(size_of::<PidfdInfo>() == 64, "the number of the ioctl has the size");

/// How often and how long the process's parent is waited for, where only a reaped process's status can be read.
const MAX_WAITS_FOR_PARENT: u32 = 20;
const WAIT_FOR_PARENT: Duration = Duration::from_millis(1);

impl PidFd {
    /// Returns how the process ended; `None` if it has not, or if that can't be known: its parent has reaped it, and the kernel is
    /// older than Linux 6.15; or its parent has not within 20 ms, and this process may not read its status (ptrace(2), access mode
    /// checking: a process that is not dumpable takes CAP_SYS_PTRACE).
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        if !self.has_ended().ok()? {
            return None;
        }
        for _ in 0..MAX_WAITS_FOR_PARENT {
            // Reaped between the two: then the first one has it.
            let known =
                reaped_status(&self.fd).or_else(|| self.zombie_status()).or_else(|| reaped_status(&self.fd));
            if known.is_some() || self.pid().is_none() {
                return known;
            }
            crate::poll::wait_readable([], Some(WAIT_FOR_PARENT)).ok()?;
        }
        None
    }

    fn zombie_status(&self) -> Option<ExitStatus> {
        let pid = self.pid()?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The PID was not given to another process meanwhile.
        (self.pid() == Some(pid)).then(|| exit_code(&text)).flatten()
    }
}

/// The exit code in a line of /proc/PID/stat. The kernel writes 0 where this process may not see it, so 0 is no answer.
fn exit_code(stat: &str) -> Option<ExitStatus> {
    // The name of the program, in parentheses, may have spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let raw: i32 = fields.split_whitespace().nth(EXIT_CODE_FIELD)?.parse().ok()?;
    (raw != 0).then(|| ExitStatus::from_raw(raw))
}

fn reaped_status(pidfd: &impl std::os::fd::AsFd) -> Option<ExitStatus> {
    let fd: BorrowedFd<'_> = pidfd.as_fd();
    let mut info = PidfdInfo { mask: EXIT, ..PidfdInfo::default() };
    // SAFETY: the kernel reads and writes 64 bytes of a live structure.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (answer == 0 && info.mask & EXIT != 0).then(|| ExitStatus::from_raw(info.exit_code))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::super::Signal;
    use super::*;

    /// A line as the kernel writes it.
    fn stat(exit_code: &str) -> String {
        let between = "0 ".repeat(EXIT_CODE_FIELD - 1);
        format!("17 (a) b (c) Z {between}{exit_code}\n")
    }

    #[test]
    fn the_exit_code_is_the_last_field() {
        assert_eq!(exit_code(&stat("31")).and_then(|status| status.signal()), Some(31));
        assert_eq!(exit_code(&stat("159")).and_then(|status| status.signal()), Some(31), "with a core dump");
        assert_eq!(exit_code(&stat("256")).and_then(|status| status.code()), Some(1));
        for nothing in ["0", "", "x"] {
            assert_eq!(exit_code(&stat(nothing)), None, "{nothing:?}");
        }
        assert_eq!(exit_code("17 (cat"), None);
    }

    /// As long as it is not reaped, every kernel tells; afterwards, this one must tell as well as it can.
    #[test]
    fn the_end_of_a_process_is_known_before_and_after_it_is_reaped() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let handle = PidFd::open(child.id()).unwrap();
        assert_eq!(handle.exit_status(), None, "it runs");
        handle.kill(Signal::SYS).unwrap();
        crate::poll::wait_readable([std::os::fd::AsFd::as_fd(&handle)], Some(Duration::from_secs(10)))
            .unwrap();
        assert_eq!(handle.exit_status().and_then(|status| status.signal()), Some(libc::SIGSYS));
        child.wait().unwrap();
        let after = handle.exit_status().and_then(|status| status.signal());
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        let expected = numbers.take(2).ge([6, 15]).then_some(libc::SIGSYS);
        assert_eq!(after, expected, "{release}");
    }
}
