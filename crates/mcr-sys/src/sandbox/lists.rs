//! The system calls that each process may make once it is confined, one comment each. What is in force in a live worker is
//! compared with these lists by a test (`tests/integration/sandbox.rs`).
//!
//! Keep them short. A new call needs a reason here, and the numbers in SPECIFICATION.md.

use Check::{Is, IsNot, NoBits, OneOf};
use Descriptor::Capture;

/// A descriptor that is known when the list is put in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// A worker's capture sockets.
    Capture,
}

/// A condition on an argument, which is counted from 0; a call that does not meet all of its conditions kills the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// It is one of these values.
    OneOf(u8, &'static [u32]),
    /// It has none of these bits.
    NoBits(u8, u32),
    /// It is one of these descriptors.
    Is(u8, Descriptor),
    /// It is none of them.
    IsNot(u8, Descriptor),
}

/// A permitted call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// As in its manual page.
    pub name: &'static str,
    /// The number on this architecture.
    pub number: libc::c_long,
    /// All of these must hold.
    pub checks: &'static [Check],
}

/// A call that fails with this errno instead of killing the process: one that the C library or the Rust runtime may make in an
/// odd case, and can do without. It grants nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// As in its manual page.
    pub name: &'static str,
    /// The number on this architecture.
    pub number: libc::c_long,
    /// The error.
    pub errno: i32,
}

/// The list of a process. Every other call kills it.
#[derive(Clone, Copy, Debug)]
pub struct List {
    /// Which process.
    pub name: &'static str,
    /// The permitted calls; the most frequent ones come first.
    pub allowed: &'static [Call],
    /// The refused ones.
    pub refused: &'static [Refused],
}

macro_rules! calls {
    ($($(#[doc = $why:literal])+ $name:ident = $number:ident $checks:expr;)+) => {
        &[$(Call { name: stringify!($name), number: libc::$number, checks: &$checks },)+]
    };
}

macro_rules! refused {
    ($($(#[doc = $why:literal])+ $name:ident = $number:ident, $errno:ident;)+) => {
        &[$(Refused { name: stringify!($name), number: libc::$number, errno: libc::$errno },)+]
    };
}

/// linux/sockios.h, `SIOCGSTAMPNS_NEW`.
const SIOCGSTAMPNS_NEW: u32 = 0x8010_8907;
/// The seals of a memory file; and the close-on-exec flag, by which debug builds of std check that a descriptor which they close
/// is open.
const FCNTL_OPERATIONS: &[u32] = &[libc::F_GET_SEALS as u32, libc::F_GETFD as u32];
const PROT_EXEC: u32 = libc::PROT_EXEC as u32;
const SOL_SOCKET: u32 = libc::SOL_SOCKET as u32;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
/// mmap(2) without a file.
const NO_DESCRIPTOR: u32 = u32::MAX;
/// The only two operations that a confined ring needs (io_uring_register(2)): sockets come and go with rules, and what is under
/// way is cancelled before the memory goes.
const RING_OPERATIONS: &[u32] = &[crate::uring::REGISTER_FILES_UPDATE, crate::uring::REGISTER_SYNC_CANCEL];
/// What locks and condition variables of std and of the C library use: waiting, waiting until a time, waking. No requeueing and
/// no priority inheritance, which are where the faults of futex(2) have been.
const FUTEX_OPERATIONS: &[u32] = &[
    (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as u32,
    (libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG) as u32,
    (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as u32,
];

/// A worker that receives and sends by io_uring.
pub const WORKER_IO_URING: List = List {
    name: "worker (io_uring)",
    allowed: calls! {
        /// The loop: submit, wait, complete. Without a check, so that the kernel caches the answer. What goes through the ring
        /// is limited by the ring's own restrictions (`uring::restrictions`).
        io_uring_enter = SYS_io_uring_enter [];
        /// The measurement of latency: the receive time of a frame, and nothing else of the capture socket.
        ioctl = SYS_ioctl [Is(0, Capture), OneOf(1, &[SIOCGSTAMPNS_NEW])];
        /// Sends in turn, segmentation probes, repeated sends (`relay::retry`), and answers to the supervisor.
        sendmmsg = SYS_sendmmsg [IsNot(0, Capture)];
        /// Messages of the supervisor with their descriptors, and the error queues of egress sockets.
        recvmsg = SYS_recvmsg [IsNot(0, Capture)];
        /// Replies: the drop counter of an egress socket (`SO_MEMINFO`). No other option.
        getsockopt = SYS_getsockopt [OneOf(1, &[SOL_SOCKET]), OneOf(2, &[libc::SO_MEMINFO as u32])];
        /// Registers egress sockets with the ring, and cancels what is under way at the end.
        io_uring_register = SYS_io_uring_register [OneOf(1, RING_OPERATIONS)];
        /// Log lines, by the log's thread.
        write = SYS_write [OneOf(0, &[STDERR])];
        /// The log's queue between the two threads.
        futex = SYS_futex [OneOf(1, FUTEX_OPERATIONS)];
        /// Reading a rule set or mapping a trace ring: it must be sealed …
        fcntl = SYS_fcntl [OneOf(1, FCNTL_OPERATIONS)];
        /// … and its length is checked.
        fstat = SYS_fstat [];
        /// Memory, rule sets, trace rings. Never executable, and never the capture socket, whose transmit ring would become
        /// usable.
        mmap = SYS_mmap [NoBits(2, PROT_EXEC), IsNot(4, Capture)];
        /// Gives memory back.
        munmap = SYS_munmap [];
        /// The C library's heap.
        brk = SYS_brk [];
        /// Egress sockets and files of messages that are done with.
        close = SYS_close [];
        /// Where the clock can't be read in user space.
        clock_gettime = SYS_clock_gettime [];
        /// The end.
        exit_group = SYS_exit_group [];
    },
    refused: RUNTIME,
};

/// A worker that receives and sends by recvmmsg(2) and sendmmsg(2).
pub const WORKER_RECVMMSG: List = List {
    name: "worker (recvmmsg)",
    allowed: calls! {
        /// Receives frames, from nothing but the capture socket.
        recvmmsg = SYS_recvmmsg [Is(0, Capture)];
        /// Sends datagrams, and answers to the supervisor.
        sendmmsg = SYS_sendmmsg [IsNot(0, Capture)];
        /// Waits for frames and messages.
        ppoll = SYS_ppoll [];
        /// As above.
        ioctl = SYS_ioctl [Is(0, Capture), OneOf(1, &[SIOCGSTAMPNS_NEW])];
        /// As above.
        recvmsg = SYS_recvmsg [IsNot(0, Capture)];
        /// As above.
        getsockopt = SYS_getsockopt [OneOf(1, &[SOL_SOCKET]), OneOf(2, &[libc::SO_MEMINFO as u32])];
        /// As above.
        write = SYS_write [OneOf(0, &[STDERR])];
        /// As above.
        futex = SYS_futex [OneOf(1, FUTEX_OPERATIONS)];
        /// As above.
        fcntl = SYS_fcntl [OneOf(1, FCNTL_OPERATIONS)];
        /// As above.
        fstat = SYS_fstat [];
        /// As above.
        mmap = SYS_mmap [NoBits(2, PROT_EXEC), IsNot(4, Capture)];
        /// As above.
        munmap = SYS_munmap [];
        /// As above.
        brk = SYS_brk [];
        /// As above.
        close = SYS_close [];
        /// As above.
        clock_gettime = SYS_clock_gettime [];
        /// As above.
        exit_group = SYS_exit_group [];
    },
    refused: RUNTIME,
};

/// The keeper: holds descriptors, capture sockets among them, and does nothing with them.
pub const KEEPER: List = List {
    name: "keeper",
    allowed: calls! {
        /// Waits for supervisors.
        ppoll = SYS_ppoll [];
        /// Items to keep, with their descriptors.
        recvmsg = SYS_recvmsg [];
        /// Items for the next supervisor. A capture socket can't send: it is locked.
        sendmsg = SYS_sendmsg [];
        /// The same, without descriptors.
        sendmmsg = SYS_sendmmsg [];
        /// The next supervisor connects.
        accept4 = SYS_accept4 [];
        /// Who it is: `SO_PEERCRED`, `SO_PEERGROUPS`.
        getsockopt =
            SYS_getsockopt [OneOf(1, &[SOL_SOCKET]), OneOf(2, &[libc::SO_PEERCRED as u32, libc::SO_PEERGROUPS as u32])];
        /// Log lines, by the log's thread.
        write = SYS_write [OneOf(0, &[STDERR])];
        /// The log's queue between the two threads.
        futex = SYS_futex [OneOf(1, FUTEX_OPERATIONS)];
        /// Items that are replaced or removed.
        close = SYS_close [];
        /// Memory only: no file, and above all no capture socket.
        mmap = SYS_mmap [NoBits(2, PROT_EXEC), OneOf(4, &[NO_DESCRIPTOR])];
        /// Gives memory back.
        munmap = SYS_munmap [];
        /// The C library's heap.
        brk = SYS_brk [];
        /// Where the clock can't be read in user space.
        clock_gettime = SYS_clock_gettime [];
        /// The end.
        exit_group = SYS_exit_group [];
    },
    refused: RUNTIME_WITHOUT_FCNTL,
};

/// The observer of `explain`: reads packets for some seconds, and writes a report.
pub const OBSERVER: List = List {
    name: "observer",
    allowed: calls! {
        /// Reads packets.
        recvmsg = SYS_recvmsg [];
        /// Waits for them.
        ppoll = SYS_ppoll [];
        /// How many did not fit the queue (`PACKET_STATISTICS`). No other option.
        getsockopt =
            SYS_getsockopt [OneOf(1, &[libc::SOL_PACKET as u32]), OneOf(2, &[libc::PACKET_STATISTICS as u32])];
        /// The report, and an error message.
        write = SYS_write [OneOf(0, &[STDOUT, STDERR])];
        /// Locks of std around standard output; there is no other thread.
        futex = SYS_futex [OneOf(1, FUTEX_OPERATIONS)];
        /// Its socket.
        close = SYS_close [];
        /// Memory only: no file, and above all not its socket.
        mmap = SYS_mmap [NoBits(2, PROT_EXEC), OneOf(4, &[NO_DESCRIPTOR])];
        /// Gives memory back.
        munmap = SYS_munmap [];
        /// The C library's heap.
        brk = SYS_brk [];
        /// Where the clock can't be read in user space.
        clock_gettime = SYS_clock_gettime [];
        /// The end.
        exit_group = SYS_exit_group [];
    },
    refused: RUNTIME_WITHOUT_FCNTL,
};

/// Calls of the C library and the Rust runtime that every process can do without.
const RUNTIME: &[Refused] = RUNTIME_WITHOUT_FCNTL.split_at(RUNTIME_WITHOUT_FCNTL.len() - 1).0;

/// The same for a process whose list has no fcntl(2); that call is the last.
const RUNTIME_WITHOUT_FCNTL: &[Refused] = refused! {
    /// Growing a large block: it is copied instead.
    mremap = SYS_mremap, EPERM;
    /// Giving back part of a heap: it is kept.
    madvise = SYS_madvise, EPERM;
    /// Growing the heap of a second thread: the first one's is used.
    mprotect = SYS_mprotect, EPERM;
    /// Removing the signal stack at the end of a thread.
    sigaltstack = SYS_sigaltstack, EPERM;
    /// Keys of hash maps and of the allocator: there is another source, or they were made before.
    getrandom = SYS_getrandom, EPERM;
    /// Spinning before waiting.
    sched_yield = SYS_sched_yield, EPERM;
    /// What abort(3) does before it ends the process.
    rt_sigaction = SYS_rt_sigaction, EPERM;
    /// As above.
    rt_sigprocmask = SYS_rt_sigprocmask, EPERM;
    /// As above.
    gettid = SYS_gettid, EPERM;
    /// As above.
    getpid = SYS_getpid, EPERM;
    /// As above.
    tgkill = SYS_tgkill, EPERM;
    /// A wait with a timeout that SIGSTOP interrupted is continued by this call; the caller waits again instead.
    restart_syscall = SYS_restart_syscall, EINTR;
    /// Debug builds of std check that a descriptor which they close is open.
    fcntl = SYS_fcntl, EPERM;
};
