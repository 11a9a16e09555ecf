//! Makes another process run system calls, and reads its system call filter (ptrace(2)): what an attacker who has taken over a
//! worker could try, from inside. Only on x86-64.
//!
//! ```text
//!  attach (PTRACE_SEIZE, PTRACE_INTERRUPT): the process stops within a call ─▶ its registers, kept
//!     call: number and arguments into the registers, back to the `syscall` instruction, one step ─▶ the result, or its death
//!  detach: the kept registers; the kernel starts the interrupted call again
//! ```

use std::ffi::c_void;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::clock::monotonic;
use crate::{Result, SysError, failed};

/// linux/ptrace.h; libc lacks it.
const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;
/// The instruction `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// A process is caught within a system call within this time: it waits most of the time.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
/// Below the stack's red zone; functions of the process overwrite it when they run again.
const SCRATCH_BELOW_STACK: u64 = 16 * 1024;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It returned this; from -4095 to -1 an errno.
    Returned(i64),
    /// The process was killed by this signal.
    Killed(i32),
}

impl Outcome {
    /// Whether the call did what it was asked to.
    #[must_use]
    pub const fn succeeded(self) -> bool {
        matches!(self, Self::Returned(value) if value >= 0)
    }
}

/// A process that is stopped within a system call. It continues when this value is dropped.
#[derive(Debug)]
pub struct Traced {
    pid: libc::pid_t,
    registers: libc::user_regs_struct,
    memory: File,
    dead: bool,
}

impl Traced {
    /// Stops a process within a system call. For the main thread of a process; call everything from one thread.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_PTRACE; the process ended; it never makes a call.
    pub fn attach(pid: u32) -> Result<Self> {
        Self::attach_with(pid, 0)
    }

    /// The same; as long as it is traced, no system call filter applies to it, so that the layers behind the filter show.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN in the initial user namespace, or if this process has a filter itself; EINVAL where the
    /// kernel is built without `CONFIG_CHECKPOINT_RESTORE`.
    pub fn attach_without_filters(pid: u32) -> Result<Self> {
        Self::attach_with(pid, libc::PTRACE_O_SUSPEND_SECCOMP.unsigned_abs().into())
    }

    fn attach_with(pid: u32, options: u64) -> Result<Self> {
        const STEP: &str = "attach to a process";
        let pid = libc::pid_t::try_from(pid).map_err(|_| SysError::invalid(STEP, "no such process"))?;
        let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"));
        let memory = memory.map_err(failed(STEP))?;
        let end = monotonic() + PATIENCE;
        loop {
            request(STEP, libc::PTRACE_SEIZE, pid, 0, options)?;
            request(STEP, libc::PTRACE_INTERRUPT, pid, 0, 0)?;
            if let Outcome::Killed(_) = wait(pid)? {
                return Err(SysError::invalid(STEP, "it ended"));
            }
            let registers = registers(pid)?;
            let mut before = [0; 2];
            let within = memory.read_exact_at(&mut before, registers.rip - 2).is_ok() && before == SYSCALL;
            if within {
                return Ok(Self { pid, registers, memory, dead: false });
            }
            request(STEP, libc::PTRACE_DETACH, pid, 0, 0)?;
            if monotonic() > end {
                return Err(SysError::invalid(STEP, "it was not within a system call"));
            }
        }
    }

    /// The filters in force, the newest first.
    ///
    /// # Errors
    /// EACCES without CAP_SYS_ADMIN in the initial user namespace, or if this process has a filter itself.
    pub fn filters(&self) -> Result<Vec<Vec<libc::sock_filter>>> {
        const STEP: &str = "ptrace PTRACE_SECCOMP_GET_FILTER";
        let mut filters = Vec::new();
        loop {
            let index = filters.len() as u64;
            let length = match request(STEP, PTRACE_SECCOMP_GET_FILTER, self.pid, index, 0) {
                Ok(length) => usize::try_from(length).unwrap_or_default(),
                // No filter has this index.
                Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(filters),
                // It has none at all.
                Err(error) if error.errno() == Some(libc::EINVAL) && filters.is_empty() => {
                    return Ok(filters);
                }
                Err(error) => return Err(error),
            };
            let mut filter = vec![libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; length];
            request(STEP, PTRACE_SECCOMP_GET_FILTER, self.pid, index, filter.as_mut_ptr().addr() as u64)?;
            filters.push(filter);
        }
    }

    /// Runs one system call in the process.
    ///
    /// # Errors
    /// The process is dead already; ptrace(2) failed.
    pub fn call(&mut self, number: i64, arguments: [u64; 6]) -> Result<Outcome> {
        const STEP: &str = "run a system call in a process";
        if self.dead {
            return Err(SysError::invalid(STEP, "it is dead"));
        }
        let mut registers = self.registers;
        let [a, b, c, d, e, f] = arguments;
        registers.rip -= 2;
        registers.rax = number.cast_unsigned();
        // No call is to be started again.
        registers.orig_rax = u64::MAX;
        (registers.rdi, registers.rsi, registers.rdx) = (a, b, c);
        (registers.r10, registers.r8, registers.r9) = (d, e, f);
        set_registers(self.pid, &registers)?;
        request(STEP, libc::PTRACE_SINGLESTEP, self.pid, 0, 0)?;
        let outcome = match wait(self.pid)? {
            Outcome::Killed(signal) => {
                self.dead = true;
                return Ok(Outcome::Killed(signal));
            }
            Outcome::Returned(_) => Outcome::Returned(self::registers(self.pid)?.rax.cast_signed()),
        };
        set_registers(self.pid, &self.registers)?;
        Ok(outcome)
    }

    /// Submits an entry to the process's ring as its own code would, and returns the result that the kernel posts.
    ///
    /// # Errors
    /// The process has no ring, or the kernel posted nothing for the entry.
    pub fn submit(&mut self, ring: &RingMemory, entry: &[u8; 64]) -> Result<i32> {
        const STEP: &str = "submit to a process's ring";
        const MARK: u64 = 0x5afe << 32;
        let offsets = &ring.offsets;
        let word = |traced: &Self, at: u64| -> Result<u32> {
            let mut bytes = [0; 4];
            traced.read(ring.rings + at, &mut bytes)?;
            Ok(u32::from_ne_bytes(bytes))
        };
        let mut entry = *entry;
        entry[32..40].copy_from_slice(&MARK.to_ne_bytes());
        let (tail, mask) = (word(self, offsets.sq_tail)?, word(self, offsets.sq_mask)?);
        self.write(ring.entries + u64::from(tail & mask) * 64, &entry)?;
        self.write(ring.rings + offsets.sq_tail, &tail.wrapping_add(1).to_ne_bytes())?;
        let before = word(self, offsets.cq_tail)?;
        // The second call runs what the first one left to be done.
        for to_submit in [1, 0] {
            const GETEVENTS: u64 = 1;
            let arguments = [u64::from(ring.descriptor), to_submit, 0, GETEVENTS, 0, 0];
            if let Outcome::Killed(_) = self.call(libc::SYS_io_uring_enter, arguments)? {
                return Err(SysError::invalid(STEP, "the process was killed"));
            }
        }
        let (after, mask) = (word(self, offsets.cq_tail)?, word(self, offsets.cq_mask)?);
        for index in 0..after.wrapping_sub(before) {
            let mut completion = [0; 16];
            let place = u64::from(before.wrapping_add(index) & mask);
            self.read(ring.rings + offsets.cq_entries + place * 16, &mut completion)?;
            let [data, rest] = [&completion[..8], &completion[8..12]];
            if data == MARK.to_ne_bytes() {
                return Ok(i32::from_ne_bytes(rest.try_into().unwrap_or_default()));
            }
        }
        Err(SysError::invalid(STEP, "no completion"))
    }

    /// Memory of the process that calls may use: 8 KiB below its stack.
    #[must_use]
    pub const fn scratch(&self) -> u64 {
        (self.registers.rsp - SCRATCH_BELOW_STACK) & !0xfff
    }

    /// Writes into the memory of the process.
    ///
    /// # Errors
    /// Nothing is mapped there.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.memory.write_all_at(bytes, address).map_err(failed("write a process's memory"))
    }

    /// Reads from the memory of the process.
    ///
    /// # Errors
    /// Nothing is mapped there.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.memory.read_exact_at(bytes, address).map_err(failed("read a process's memory"))
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if !self.dead {
            // It may have been killed by another.
            let _ = set_registers(self.pid, &self.registers);
            let _ = request("detach from a process", libc::PTRACE_DETACH, self.pid, 0, 0);
        }
    }
}

/// Where a process has its io_uring.
#[derive(Clone, Copy, Debug)]
pub struct RingMemory {
    descriptor: u32,
    rings: u64,
    entries: u64,
    offsets: Offsets,
}

/// Places in the shared rings (`struct io_sqring_offsets`, `struct io_cqring_offsets`), which depend on the kernel only.
#[derive(Clone, Copy, Debug)]
struct Offsets {
    sq_tail: u64,
    sq_mask: u64,
    cq_tail: u64,
    cq_mask: u64,
    cq_entries: u64,
}

impl RingMemory {
    /// Finds the only ring of a process.
    ///
    /// # Errors
    /// It has none, or this process can't make one to ask for the layout.
    pub fn of(pid: u32) -> Result<Self> {
        const STEP: &str = "find a process's ring";
        let missing = || SysError::invalid(STEP, "it has no ring");
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).map_err(failed(STEP))?;
        // `IORING_OFF_SQ_RING` and `IORING_OFF_SQES`.
        let at = |offset: &str| {
            let line = maps.lines().find(|line| line.contains("io_uring") && line.contains(offset))?;
            u64::from_str_radix(line.split('-').next()?, 16).ok()
        };
        let (rings, entries) = (at(" 00000000 ").ok_or_else(missing)?, at(" 10000000 ").ok_or_else(missing)?);
        let directory = std::fs::read_dir(format!("/proc/{pid}/fd")).map_err(failed(STEP))?;
        let is_ring = |entry: &std::fs::DirEntry| {
            std::fs::read_link(entry.path())
                .is_ok_and(|target| target.to_string_lossy().contains("[io_uring]"))
        };
        let descriptor = directory.flatten().find(is_ring);
        let descriptor = descriptor.and_then(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(Self { descriptor: descriptor.ok_or_else(missing)?, rings, entries, offsets: offsets()? })
    }

    /// Its descriptor.
    #[must_use]
    pub const fn descriptor(&self) -> u32 {
        self.descriptor
    }
}

fn offsets() -> Result<Offsets> {
    use std::os::fd::{FromRawFd, OwnedFd};
    // `struct io_uring_params`: 40 bytes, then the two structures of 40 bytes.
    let mut parameters = [0_u32; 30];
    // SAFETY: the kernel reads and writes a structure of 120 bytes.
    let answer = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, parameters.as_mut_ptr()) };
    let fd = i32::try_from(answer).ok().filter(|fd| *fd >= 0);
    let fd = fd.ok_or_else(|| SysError::last("io_uring_setup"))?;
    // SAFETY: the kernel made this descriptor for this call; nothing else has it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    let [.., sq_tail, sq_mask] = parameters[..13] else { unreachable!("the length is fixed") };
    let [cq_tail, cq_mask, _, _, cq_entries] = parameters[21..26] else {
        unreachable!("the length is fixed")
    };
    let [sq_tail, sq_mask, cq_tail, cq_mask, cq_entries] =
        [sq_tail, sq_mask, cq_tail, cq_mask, cq_entries].map(u64::from);
    Ok(Offsets { sq_tail, sq_mask, cq_tail, cq_mask, cq_entries })
}

fn request(
    step: &'static str,
    request: libc::c_uint,
    pid: libc::pid_t,
    address: u64,
    data: u64,
) -> Result<i64> {
    // Both have 64 bits here.
    let pointer = |number: u64| {
        std::ptr::without_provenance_mut::<c_void>(usize::try_from(number).unwrap_or(usize::MAX))
    };
    // SAFETY: ptrace(2) acts on the other process; what it writes here goes to `data`, which callers point to live memory of
    // the size that the request writes.
    let answer = unsafe { libc::ptrace(request, pid, pointer(address), pointer(data)) };
    if answer < 0 { Err(SysError::last(step)) } else { Ok(answer) }
}

fn registers(pid: libc::pid_t) -> Result<libc::user_regs_struct> {
    // SAFETY: registers are integers; all zeroes is valid.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    let address = (&raw mut registers).expose_provenance() as u64;
    request("ptrace PTRACE_GETREGS", libc::PTRACE_GETREGS, pid, 0, address)?;
    Ok(registers)
}

fn set_registers(pid: libc::pid_t, registers: &libc::user_regs_struct) -> Result<()> {
    let address = std::ptr::from_ref(registers).expose_provenance() as u64;
    request("ptrace PTRACE_SETREGS", libc::PTRACE_SETREGS, pid, 0, address).map(drop)
}

/// Waits until the process stops or dies.
fn wait(pid: libc::pid_t) -> Result<Outcome> {
    loop {
        let mut status = 0;
        // SAFETY: the kernel writes one int.
        let answer = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        if answer == pid {
            return Ok(match status {
                _ if libc::WIFSIGNALED(status) => Outcome::Killed(libc::WTERMSIG(status)),
                _ if libc::WIFEXITED(status) => Outcome::Killed(0),
                _ => Outcome::Returned(0),
            });
        }
        let error = SysError::last("wait for a process");
        if error.errno() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::CommandExt;

    #[test]
    fn a_process_runs_foreign_calls_and_goes_on() {
        let mut child = std::process::Command::new("sleep").arg("0.3").die_with_parent().spawn().unwrap();
        let mut traced = Traced::attach(child.id()).unwrap();
        assert_eq!(traced.filters().unwrap().len(), 0);
        let own = i64::from(child.id());
        assert_eq!(traced.call(libc::SYS_getpid, [0; 6]).unwrap(), Outcome::Returned(own));
        let path = traced.scratch();
        traced.write(path, b"/etc/hostname\0").unwrap();
        let at = libc::AT_FDCWD.cast_unsigned().into();
        let fd = traced.call(libc::SYS_openat, [at, path, 0, 0, 0, 0]).unwrap();
        assert!(fd.succeeded(), "{fd:?}");
        assert_eq!(traced.call(libc::SYS_close, [999, 0, 0, 0, 0, 0]).unwrap(), Outcome::Returned(-9));
        drop(traced);
        assert!(child.wait().unwrap().success(), "it went on");
    }
}
