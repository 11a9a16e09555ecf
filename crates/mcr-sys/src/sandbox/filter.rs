//! A list of system calls as a program for the kernel's filter machine (seccomp(2), `struct seccomp_data`).
//!
//! ```text
//!  architecture? ─▶ number? ─▶ checks of arguments ─▶ allow
//!       │             │               └─ one fails: kill
//!       │             ├─ refused call: its errno
//!       └─ other      └─ no match: kill
//! ```
//!
//! A call without checks is allowed by its number alone, so that the kernel caches the answer and does not run the program.
//! Checks compare the low 32 bits of an argument: right for descriptors, operations and flags, which the kernel takes as `int`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::lists::{Call, Check, Descriptor, List};
use crate::{Result, SysError};

/// Offsets in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;
/// The low half of an argument of 64 bits.
const LOW_HALF: u32 = if cfg!(target_endian = "little") { 0 } else { 4 };

/// linux/audit.h: the only architecture whose numbers the lists have.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// Load a word of `seccomp_data`; jump if it is equal, or has any of these bits; return.
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// The open descriptors that checks name.
#[derive(Clone, Copy, Debug)]
pub struct Descriptors<'a> {
    /// A worker's capture sockets.
    pub captures: &'a [BorrowedFd<'a>],
}

/// A program, ready to be installed.
#[derive(Clone, Debug)]
pub struct Filter {
    program: Vec<libc::sock_filter>,
}

impl Filter {
    /// Builds the program of a list.
    ///
    /// # Errors
    /// A check names a descriptor that is not given.
    pub fn new(list: &List, descriptors: Option<&Descriptors<'_>>) -> Result<Self> {
        let mut program = vec![
            instruction(LOAD, 0, 0, ARCHITECTURE_AT),
            instruction(JUMP_EQUAL, 1, 0, ARCHITECTURE),
            instruction(RETURN, 0, 0, KILL),
            instruction(LOAD, 0, 0, NUMBER_AT),
        ];
        for call in list.allowed {
            let body = body(call, descriptors)?;
            // A body is at most some twenty instructions long.
            let skip = u8::try_from(body.len()).map_err(|_| too_long())?;
            program.push(instruction(JUMP_EQUAL, 0, skip, number(call.number)));
            program.extend(body);
        }
        for refused in list.refused {
            program.push(instruction(JUMP_EQUAL, 0, 1, number(refused.number)));
            program.push(instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | refused.errno.unsigned_abs()));
        }
        program.push(instruction(RETURN, 0, 0, KILL));
        Ok(Self { program })
    }

    /// Puts it in force for the calling thread, for good; threads that it starts later inherit it. By prctl(2), which the usual
    /// filters of services and containers permit.
    ///
    /// # Errors
    /// The kernel has no system call filters (EINVAL), or `no_new_privs` is not set (EACCES).
    pub fn install(&self) -> Result<()> {
        const STEP: &str = "prctl PR_SET_SECCOMP";
        let length = u16::try_from(self.program.len()).map_err(|_| too_long())?;
        // The kernel copies the program, and does not write to it.
        let program = libc::sock_fprog { len: length, filter: self.program.as_ptr().cast_mut() };
        let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
        // SAFETY: `program` names a live array of `length` instructions.
        let answer = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
        if answer == 0 { Ok(()) } else { Err(SysError::last(STEP)) }
    }

    /// The instructions.
    #[must_use]
    pub fn instructions(&self) -> &[libc::sock_filter] {
        &self.program
    }
}

/// Returns whether the kernel has system call filters that can kill a process: prctl(2) refuses the address 0 with EFAULT, and
/// the mode with EINVAL.
#[must_use]
pub fn is_available() -> bool {
    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    let nothing = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: the kernel reads the program from user memory and refuses the null address.
    let answer = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, nothing) };
    answer != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

/// The instructions that decide about a call whose number matches. They end the program.
fn body(call: &Call, descriptors: Option<&Descriptors<'_>>) -> Result<Vec<libc::sock_filter>> {
    let mut body = Vec::new();
    for check in call.checks {
        match check {
            Check::OneOf(argument, values) => {
                push_one_of(&mut body, *argument, values)?;
            }
            Check::NoBits(argument, bits) => {
                body.push(load(*argument));
                body.push(instruction(JUMP_ANY_BIT, 0, 1, *bits));
                body.push(instruction(RETURN, 0, 0, KILL));
            }
            Check::Is(argument, descriptor) => {
                push_one_of(&mut body, *argument, &descriptor_numbers(*descriptor, descriptors)?)?;
            }
            Check::IsNot(argument, descriptor) => {
                body.push(load(*argument));
                for number in descriptor_numbers(*descriptor, descriptors)? {
                    body.push(instruction(JUMP_EQUAL, 0, 1, number));
                    body.push(instruction(RETURN, 0, 0, KILL));
                }
            }
        }
    }
    body.push(instruction(RETURN, 0, 0, ALLOW));
    Ok(body)
}

/// Kills unless an argument is one of these values.
fn push_one_of(body: &mut Vec<libc::sock_filter>, argument: u8, values: &[u32]) -> Result<()> {
    body.push(load(argument));
    let others = u8::try_from(values.len()).map_err(|_| too_long())?;
    for (after, value) in (0..others).rev().zip(values) {
        // Over the values after it, and the kill.
        body.push(instruction(JUMP_EQUAL, after + 1, 0, *value));
    }
    body.push(instruction(RETURN, 0, 0, KILL));
    Ok(())
}

fn descriptor_numbers(descriptor: Descriptor, descriptors: Option<&Descriptors<'_>>) -> Result<Vec<u32>> {
    let missing = || SysError::invalid("build system call filter", "a descriptor of the list is not open");
    let Descriptor::Capture = descriptor;
    let captures = descriptors.ok_or_else(missing)?.captures;
    if captures.is_empty() {
        return Err(missing());
    }
    captures.iter().map(|capture| u32::try_from(capture.as_raw_fd()).map_err(|_| missing())).collect()
}

fn too_long() -> SysError {
    SysError::invalid("build system call filter", "the list is too long")
}

fn load(argument: u8) -> libc::sock_filter {
    instruction(LOAD, 0, 0, ARGUMENTS_AT + 8 * u32::from(argument) + LOW_HALF)
}

/// Numbers of system calls fit 32 bits.
fn number(number: libc::c_long) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

const fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}
