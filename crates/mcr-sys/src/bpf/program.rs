//! Programs: their code as `cargo xtask bpf` writes it, and loading it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::call::{Argument, Command, address, bpf, descriptor, object_name};
use crate::{Result, SysError};

/// What a program is for (`enum bpf_prog_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A filter of a socket.
    SocketFilter = 1,
    /// A program of tc.
    Tc = 3,
}

/// In the source register of the instruction that loads the address of a map: its immediate value is a descriptor.
const BPF_PSEUDO_MAP_FD: u64 = 1;
/// What a verifier's log has room for; its end names the fault.
const LOG_BYTES: usize = 256 * 1024;
/// What an error keeps of it.
const LOG_TOLD_BYTES: usize = 1000;
/// The licence, as the kernel knows it.
const LICENCE: &[u8] = b"Dual MIT/GPL\0";

/// A compiled program.
#[derive(Debug)]
pub struct Code<M: 'static> {
    /// Its name in `bpftool prog`.
    pub name: &'static str,
    /// What it is for.
    pub kind: Kind,
    /// The instructions (`struct bpf_insn`), as the bytes of each read in little-endian order.
    pub instructions: &'static [u64],
    /// The instructions that load the address of a map.
    pub uses: &'static [(usize, M)],
}

#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct InfoOf {
    fd: u32,
    info_bytes: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
struct Info {
    kind: u32,
    id: u32,
}

// SAFETY: the layout of `BPF_PROG_LOAD`; `load` passes pointers that live across the call.
unsafe impl Argument for Load {}
// SAFETY: the layout of `BPF_OBJ_GET_INFO_BY_FD`; `id_of` passes a pointer to `info_bytes` bytes.
unsafe impl Argument for InfoOf {}

/// A loaded program; the kernel has it as long as a descriptor is open, or it is attached.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    id: u32,
}

impl Program {
    /// Loads a program whose uses of maps get the descriptors that `map` returns.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF and CAP_NET_ADMIN in the initial user namespace. If the verifier refuses it, the error has the
    /// end of its log.
    pub(super) fn load<M>(code: &Code<M>, map: impl Fn(&M) -> i32) -> Result<Self> {
        let mut instructions = code.instructions.to_vec();
        for (at, which) in code.uses {
            if let Some(instruction) = instructions.get_mut(*at) {
                *instruction = with_map(*instruction, map(which));
            }
        }
        // Without a log first: it costs time and memory.
        let fd = load(code, &instructions, None).or_else(|error| {
            let mut log = vec![0; LOG_BYTES];
            let again = load(code, &instructions, Some(&mut log));
            again.map_err(|_| with_log(error, &log))
        })?;
        let id = id_of(fd.as_fd())?;
        Ok(Self { fd, id })
    }

    /// The kernel's number of it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }
}

crate::owned_fd::as_fd!(Program, fd);

/// The instruction with the descriptor of a map.
fn with_map(instruction: u64, fd: i32) -> u64 {
    let opcode_and_target = instruction & 0x0fff;
    opcode_and_target | BPF_PSEUDO_MAP_FD << 12 | u64::from(fd.cast_unsigned()) << 32
}

fn load<M>(code: &Code<M>, instructions: &[u64], log: Option<&mut Vec<u8>>) -> Result<OwnedFd> {
    let instructions: Vec<[u8; 8]> = instructions.iter().map(|word| word.to_le_bytes()).collect();
    let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    let (log_level, log_bytes, log) =
        log.map_or((0, 0, 0), |log| (1, count(log.len()), address(log.as_mut_ptr())));
    let mut argument = Load {
        kind: code.kind as u32,
        instruction_count: count(instructions.len()),
        instructions: address(instructions.as_ptr()),
        licence: address(LICENCE.as_ptr()),
        log_level,
        log_bytes,
        log,
        kernel_version: 0,
        flags: 0,
        name: object_name(code.name),
    };
    descriptor("load a BPF program", Command::ProgramLoad, &mut argument)
}

fn with_log(error: SysError, log: &[u8]) -> SysError {
    let text = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let end = text.get(text.len().saturating_sub(LOG_TOLD_BYTES)..).unwrap_or_default();
    if end.is_empty() {
        return error;
    }
    let told = format!("{}: {}", error.source, String::from_utf8_lossy(end).trim());
    SysError::new(error.step, std::io::Error::new(error.source.kind(), told))
}

fn id_of(program: BorrowedFd<'_>) -> Result<u32> {
    let mut info = Info { kind: 0, id: 0 };
    let fd = program.as_raw_fd().cast_unsigned();
    let mut argument = InfoOf { fd, info_bytes: 8, info: address(&raw mut info) };
    bpf("look at a BPF program", Command::ObjectInfo, &mut argument)?;
    Ok(info.id)
}

/// `BPF_PROG_TEST_RUN`.
#[cfg(any(test, feature = "test-env"))]
#[repr(C)]
struct TestRun {
    program: u32,
    answer: u32,
    data_bytes: u32,
    result_bytes: u32,
    data: u64,
    result: u64,
    repeat: u32,
    duration: u32,
    context_bytes: u32,
    context_result_bytes: u32,
    context: u64,
    context_result: u64,
}

// SAFETY: the layout of `BPF_PROG_TEST_RUN`; `test_run` passes arrays of the stated sizes.
#[cfg(any(test, feature = "test-env"))]
unsafe impl Argument for TestRun {}

#[cfg(any(test, feature = "test-env"))]
impl Program {
    /// Runs it on a frame as if that had arrived on the interface. Returns its verdict.
    ///
    /// # Errors
    /// The frame has less than 14 bytes, or more than a page.
    pub fn test_run(&self, frame: &[u8], ifindex: crate::link::IfIndex) -> Result<i32> {
        /// Of `struct __sk_buff`, whose other fields must be 0.
        const CONTEXT_BYTES: usize = 192;
        const IFINDEX_AT: usize = 40;
        let mut context = [0_u8; CONTEXT_BYTES];
        if let Some(place) = context.get_mut(IFINDEX_AT..IFINDEX_AT + 4) {
            place.copy_from_slice(&ifindex.to_raw().to_ne_bytes());
        }
        let mut argument = TestRun {
            program: self.fd.as_raw_fd().cast_unsigned(),
            answer: 0,
            data_bytes: u32::try_from(frame.len()).unwrap_or(u32::MAX),
            result_bytes: 0,
            data: address(frame.as_ptr()),
            result: 0,
            repeat: 1,
            duration: 0,
            context_bytes: u32::try_from(CONTEXT_BYTES).unwrap_or_default(),
            context_result_bytes: 0,
            context: address(context.as_ptr()),
            context_result: 0,
        };
        bpf("run a BPF program", Command::ProgramTestRun, &mut argument)?;
        Ok(argument.answer.cast_signed())
    }
}
