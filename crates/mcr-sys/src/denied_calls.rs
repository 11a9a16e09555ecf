//! Programs that may not use io_uring, as under a container runtime's default seccomp profile (seccomp(2)). For tests
//! of what a program does then.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// `io_uring_setup`: the number is the same on all architectures.
const IO_URING_SETUP: u32 = 425;

/// A classic BPF program over `struct seccomp_data`, whose first word is the system call's number.
fn program() -> [libc::sock_filter; 4] {
    let instruction =
        |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf, k };
    let denied = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, IO_URING_SETUP),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, denied),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// Lets the program that the command starts, and those that it starts, fail to make an io_uring with EPERM. Needs
/// CAP_SYS_ADMIN.
pub fn deny_io_uring(command: &mut Command) {
    let mut filter = program();
    let deny = move || {
        let program = libc::sock_fprog {
            len: u16::try_from(filter.len()).unwrap_or_default(),
            filter: filter.as_mut_ptr(),
        };
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: `program` and the filter that it points to live across the call, which copies them.
        let answer = unsafe { libc::syscall(libc::SYS_seccomp, mode, 0, &raw const program) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec, the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(deny) };
}

/// Lets the program that the command starts, and those that it starts, never have a capability, root or not
/// (`PR_CAPBSET_DROP`, capabilities(7)). Needs CAP_SETPCAP.
pub fn without_capability(command: &mut Command, capability: u8) {
    let drop = move || {
        // SAFETY: this operation of prctl takes one number.
        let answer = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability)) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec, the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(drop) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_refused_and_other_calls_are_not() {
        if crate::uring::probe().is_err() {
            println!("skipped: no io_uring here in the first place");
            return;
        }
        // The test's own executable, told to run one other test, is the program.
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "uring::tests::the_probe_succeeds_where_a_ring_does"]);
        assert!(command.output().unwrap().status.success());
        deny_io_uring(&mut command);
        assert!(!command.output().unwrap().status.success());
    }
}
