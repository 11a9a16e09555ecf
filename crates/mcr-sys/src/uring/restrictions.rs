//! What a confined ring may do (io_uring_register(2), `IORING_REGISTER_RESTRICTIONS`). A system call filter sees neither the
//! operations that are submitted nor their descriptors; the restrictions do. They are set while the ring is disabled, and can't
//! be changed afterwards.

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, squeue};

use crate::{Result, failed};

/// `IORING_REGISTER_FILES_UPDATE`: sockets come and go with rules.
pub const REGISTER_FILES_UPDATE: u32 = 6;
/// `IORING_REGISTER_SYNC_CANCEL`: before the ring's memory goes.
pub const REGISTER_SYNC_CANCEL: u32 = 24;

/// The operations on the ring itself.
pub const REGISTER_OPERATIONS: &[u32] = &[REGISTER_FILES_UPDATE, REGISTER_SYNC_CANCEL];

/// The operations that may be submitted: receive (multishot), send, wait for a socket, wait for a time.
pub const OPERATIONS: &[u8] =
    &[opcode::RecvMulti::CODE, opcode::SendMsg::CODE, opcode::PollAdd::CODE, opcode::Timeout::CODE];

/// Their flags: from the ring's buffers, and without a completion if it succeeds. Not `IO_LINK`, `IO_HARDLINK`, `IO_DRAIN`,
/// `ASYNC`.
const ALLOWED_FLAGS: squeue::Flags = squeue::Flags::BUFFER_SELECT.union(squeue::Flags::SKIP_SUCCESS);

/// Every operation is on a registered socket: a descriptor can't be used.
const REQUIRED_FLAGS: squeue::Flags = squeue::Flags::FIXED_FILE;

/// Restricts a ring that was made disabled.
pub(super) fn restrict(ring: &IoUring) -> Result<()> {
    let registers = REGISTER_OPERATIONS.iter().filter_map(|operation| u8::try_from(*operation).ok());
    let mut restrictions: Vec<Restriction> = registers.map(Restriction::register_op).collect();
    restrictions.extend(OPERATIONS.iter().map(|operation| Restriction::sqe_op(*operation)));
    restrictions.push(Restriction::sqe_flags_allowed(ALLOWED_FLAGS.bits()));
    restrictions.push(Restriction::sqe_flags_required(REQUIRED_FLAGS.bits()));
    ring.submitter().register_restrictions(&mut restrictions).map_err(failed("IORING_REGISTER_RESTRICTIONS"))
}
