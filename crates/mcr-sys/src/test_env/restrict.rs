//! Programs with fewer rights or other files than this one: without system calls that a container's seccomp profile
//! denies (seccomp(2)), without capabilities, with files mounted over the system's.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// System calls; the numbers are the same on all architectures.
const IO_URING_SETUP: u32 = 425;
const IO_URING_ENTER: u32 = 426;

/// Offset of the system call's number in `struct seccomp_data` …
const NUMBER_AT: u32 = 0;
/// … and of the low halves of its second and third argument.
const SECOND_ARGUMENT_AT: u32 = if cfg!(target_endian = "little") { 24 } else { 28 };
const THIRD_ARGUMENT_AT: u32 = SECOND_ARGUMENT_AT + 8;

/// Makes io_uring_setup(2) fail with EPERM in the program that the command starts and in its children. Needs
/// CAP_SYS_ADMIN.
pub fn deny_io_uring(command: &mut Command) {
    restrict(command, IO_URING_SETUP, &[], error(libc::EPERM));
}

/// Makes io_uring_enter(2) fail with EAGAIN for submissions of `requests` or more, as it does when the kernel is out of
/// memory, in the program that the command starts and in its children. Needs CAP_SYS_ADMIN.
pub fn deny_submissions(command: &mut Command, requests: u32) {
    let many = Argument { at: SECOND_ARGUMENT_AT, jump: libc::BPF_JGE, value: requests };
    restrict(command, IO_URING_ENTER, &[many], error(libc::EAGAIN));
}

/// Makes the kernel kill the program that the command starts, or the child of it, that calls io_uring_enter(2) with
/// submissions of `requests` or more. Needs CAP_SYS_ADMIN.
pub fn kill_at_submissions(command: &mut Command, requests: u32) {
    let many = Argument { at: SECOND_ARGUMENT_AT, jump: libc::BPF_JGE, value: requests };
    restrict(command, IO_URING_ENTER, &[many], libc::SECCOMP_RET_KILL_PROCESS);
}

/// Makes setting a transmit ring of a packet socket (`PACKET_TX_RING`) fail with ENOMEM in the program that the command starts
/// and in its children. Needs CAP_SYS_ADMIN.
pub fn deny_transmit_rings(command: &mut Command) {
    let number = |value: libc::c_int| value.unsigned_abs();
    let level = Argument { at: SECOND_ARGUMENT_AT, jump: libc::BPF_JEQ, value: number(libc::SOL_PACKET) };
    let option = Argument { at: THIRD_ARGUMENT_AT, jump: libc::BPF_JEQ, value: number(libc::PACKET_TX_RING) };
    let set_option = u32::try_from(libc::SYS_setsockopt).unwrap_or_default();
    restrict(command, set_option, &[level, option], error(libc::ENOMEM));
}

/// A condition on an argument of a system call.
struct Argument {
    at: u32,
    jump: u32,
    value: u32,
}

/// The action of a filter that makes a system call fail.
fn error(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.unsigned_abs()
}

/// The action of the kernel on a system call whose arguments meet all conditions.
fn restrict(command: &mut Command, call: u32, arguments: &[Argument], action: u32) {
    // A classic BPF program.
    let instruction =
        |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf, k };
    let load = |at| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
    let ret = |what| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, what);
    let jump = libc::BPF_JMP | libc::BPF_K;
    // From each test to the last instruction but one; two instructions for each argument, and the action.
    let over = |arguments: usize| u8::try_from(2 * arguments + 1).unwrap_or_default();
    let mut filter = vec![load(NUMBER_AT), instruction(jump | libc::BPF_JEQ, 0, over(arguments.len()), call)];
    for (number, argument) in arguments.iter().enumerate() {
        filter.push(load(argument.at));
        let left = over(arguments.len() - number - 1);
        filter.push(instruction(jump | argument.jump, 0, left, argument.value));
    }
    filter.extend([ret(action), ret(libc::SECCOMP_RET_ALLOW)]);
    let install = move || {
        let program = libc::sock_fprog {
            len: u16::try_from(filter.len()).unwrap_or_default(),
            filter: filter.as_mut_ptr(),
        };
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: `program` and the filter that it points to live across the call, which copies them.
        let answer = unsafe { libc::syscall(libc::SYS_seccomp, mode, 0, &raw const program) };
        result(answer == 0)
    };
    before_exec(command, install);
}

/// Drops a capability from the bounding set of the program that the command starts and of its children
/// (`PR_CAPBSET_DROP`, capabilities(7)). Needs CAP_SETPCAP.
pub fn without_capability(command: &mut Command, capability: u8) {
    let drop = move || {
        // SAFETY: this operation of prctl takes one number.
        result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability)) } == 0)
    };
    before_exec(command, drop);
}

/// Mounts a /sys that shows the devices of the network namespace that the program has entered by then, instead of those
/// of the namespace that the caller's /sys was mounted in (network_namespaces(7)), for the program that the command
/// starts and its children. Needs CAP_SYS_ADMIN.
pub fn with_own_sysfs(command: &mut Command) {
    let mount = move || {
        own_mounts()?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        let (kind, at) = (c"sysfs".as_ptr(), c"/sys".as_ptr());
        // SAFETY: each string ends with a zero; a file system of this kind takes no data.
        result(unsafe { libc::mount(kind, at, kind, flags, std::ptr::null()) } == 0)
    };
    before_exec(command, mount);
}

/// Mounts `file` over `place`, which exists, for the program that the command starts and its children. Needs
/// CAP_SYS_ADMIN.
///
/// # Errors
/// `InvalidInput`: a path has a zero in it.
pub fn with_file(command: &mut Command, file: &Path, place: &Path) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let (file, place) = (text(file)?, text(place)?);
    let mount = move || {
        own_mounts()?;
        // SAFETY: each string ends with a zero; a bind mount takes neither kind nor data.
        let answer = unsafe {
            libc::mount(file.as_ptr(), place.as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null())
        };
        result(answer == 0)
    };
    before_exec(command, mount);
    Ok(())
}

/// Moves the calling process into a new mount namespace without propagation (mount_namespaces(7)).
fn own_mounts() -> io::Result<()> {
    let root: &CStr = c"/";
    // SAFETY: takes a number.
    result(unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0)?;
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the string ends with a zero; a change of propagation takes nothing else.
    result(
        unsafe { libc::mount(std::ptr::null(), root.as_ptr(), std::ptr::null(), flags, std::ptr::null()) }
            == 0,
    )
}

/// Calls `work` in the child between fork and exec. It must make system calls only, and allocate nothing.
fn before_exec(command: &mut Command, work: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: as every caller in this file promises.
    unsafe { command.pre_exec(work) };
}

fn result(success: bool) -> io::Result<()> {
    if success { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mcr_testnet::NetNamespace;

    #[test]
    fn io_uring_setup_fails_and_other_calls_do_not() {
        if crate::uring::probe(true).is_err() {
            println!("skipped: no io_uring here in the first place");
            return;
        }
        // The program is this test executable, running one other test.
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "uring::tests::the_probe_succeeds_where_a_ring_does"]);
        deny_submissions(&mut command, 1 << 20);
        assert!(command.output().unwrap().status.success());
        deny_io_uring(&mut command);
        assert!(!command.output().unwrap().status.success());
    }

    #[test]
    fn sys_shows_the_programs_namespace_to_it_alone() {
        let devices = || -> Vec<_> {
            std::fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        let before = devices();
        let namespace = NetNamespace::create().unwrap();
        let mut command = Command::new("ls");
        namespace.apply_to(command.arg("/sys/class/net")).unwrap();
        with_own_sysfs(&mut command);
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "lo");
        assert_eq!(devices(), before);
    }

    #[test]
    fn a_file_is_mounted_over_another() {
        let manifest = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        let mut command = Command::new("cat");
        command.arg("/proc/sys/kernel/osrelease");
        with_file(&mut command, manifest, Path::new("/proc/sys/kernel/osrelease")).unwrap();
        let output = command.output().unwrap();
        assert_eq!(output.stdout, std::fs::read(manifest).unwrap());
    }
}
