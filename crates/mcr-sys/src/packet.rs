//! Capturing frames below the IP layer: AF_PACKET sockets (packet(7)) with a filter, in a fan-out group.
//!
//! The supervisor opens them, passes them to workers, and keeps duplicates, so that a worker's death loses nothing that
//! is queued. The order of the steps keeps unwanted frames out:
//!
//! ```text
//!   socket (protocol 0: receives nothing) ─▶ virtio header ─▶ send lock ─▶ filter ─▶ bind (now frames arrive) ─▶ fan-out
//! ```

mod send_lock;

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socket_with, sockopt};
use socket2::{SockFilter, SockRef};

mod super_frames;

use crate::filter::{Direction, FilterProgram, Instruction, Precision};
use crate::interface_mode::{self, Mode};
use crate::link::IfIndex;
use crate::{Result, SysError, failed, socket_option};

pub use super_frames::delivers_super_frames;

/// linux/if_ether.h.
const ETH_P_ALL: u16 = 3;

/// More frames than any queue holds.
pub const MAX_DISCARDED: u64 = 1 << 20;

/// The kernel's number of a fan-out group, unique in its network namespace. Zero is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FanoutGroup(pub u16);

/// Which fan-out group a capture socket belongs to: the members share the frames of the interface, by the core that
/// took them from the device (`PACKET_FANOUT_CPU`), and a member whose queue is nearly full
/// rolls over to the others (`PACKET_FANOUT_FLAG_ROLLOVER`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fanout {
    /// A new group with a unique number.
    New,
    /// The group of an earlier socket of the same interface, which must still be open.
    Join(FanoutGroup),
    /// None: the socket takes all frames of the interface, which may be down when it is opened.
    None,
}

/// Properties of a capture socket.
#[derive(Clone, Copy, Debug)]
pub struct CaptureOptions<'a> {
    /// The interface whose frames are received.
    pub ifindex: IfIndex,
    /// The filter that is in force from the first frame on.
    pub filter: &'a FilterProgram,
    /// Requested size of the kernel's queue, as `SO_RCVBUF` counts it: about 2.3 KiB for each frame of full size.
    pub receive_buffer_bytes: usize,
    /// The group it belongs to.
    pub fanout: Fanout,
}

/// The options that the kernel granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureReport {
    /// The group the socket is in, for [`Fanout::Join`].
    pub fanout: FanoutGroup,
    /// The size of the queue that the kernel granted, as the option counts it.
    pub receive_buffer_bytes: usize,
    /// It is less than requested: without `CAP_NET_ADMIN`, `net.core.rmem_max` is the limit.
    pub clamped: bool,
    /// The precision of the filter that is in force.
    pub precision: Precision,
    /// The socket can't send.
    pub send_locked: bool,
}

/// Counters since the last read (`struct tpacket_stats`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CaptureStatistics {
    /// Frames that passed the filter, the dropped ones among them.
    pub packets: u32,
    /// Frames for which the queue had no room.
    pub drops: u32,
}
// SAFETY: two integers.
unsafe impl socket_option::Plain for CaptureStatistics {}

/// Frames that came to a socket's share of its fan-out group while its queue was nearly full, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RolloverStatistics {
    /// Taken by other members.
    pub rolled_over: u64,
    /// No member had room for them.
    pub failed: u64,
}

/// A packet socket that is not bound, receives nothing, and can't send (`send_lock`). Preparing it takes 4 to 24 ms, which many
/// can wait at the same time; the rest of [`Capture::open_on`] is fast.
#[derive(Debug)]
pub struct PreparedSocket {
    fd: OwnedFd,
    send_locked: bool,
}

impl PreparedSocket {
    /// Opens a socket in the calling thread's network namespace and locks it; without the lock where the kernel does not have
    /// it.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`; no descriptor is free.
    pub fn new() -> Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)
            .map_err(failed("open packet socket"))?;
        socket_option::set("set PACKET_VNET_HDR", fd.as_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1)?;
        let send_locked = send_lock::lock(fd.as_fd()).is_ok();
        Ok(Self { fd, send_locked })
    }

    /// Returns whether it can't send.
    #[must_use]
    pub const fn is_send_locked(&self) -> bool {
        self.send_locked
    }
}

/// A socket that receives the frames of one interface, each with a virtio header of 10 bytes in front
/// (`PACKET_VNET_HDR`). Non-blocking.
#[derive(Debug)]
pub struct Capture {
    fd: OwnedFd,
}

impl Capture {
    /// Opens, configures and binds a capture socket; from then on it queues frames.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_RAW`, `ENODEV` if the interface does not exist, never `ENETDOWN` (a socket may wait for
    /// its interface), `EINVAL` or `ENOSPC` if the fan-out group is of another interface or full (256).
    pub fn open(options: &CaptureOptions<'_>) -> Result<(Self, CaptureReport)> {
        Self::open_on(PreparedSocket::new()?, options)
    }

    /// [`Self::open`] with a socket that was prepared before.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(socket: PreparedSocket, options: &CaptureOptions<'_>) -> Result<(Self, CaptureReport)> {
        let PreparedSocket { fd, send_locked } = socket;
        let precision = attach(fd.as_fd(), options.filter)?;
        set_receive_buffer(fd.as_fd(), options.receive_buffer_bytes)?;
        bind(fd.as_fd(), options.ifindex)?;
        let fanout = enter_fanout(fd.as_fd(), options.fanout, options.filter.direction())?;
        let granted = granted(fd.as_fd())?;
        let clamped = granted < options.receive_buffer_bytes;
        let report = CaptureReport { fanout, receive_buffer_bytes: granted, clamped, precision, send_locked };
        Ok((Self { fd }, report))
    }

    /// Returns whether the socket can't send.
    #[must_use]
    pub fn is_send_locked(&self) -> bool {
        send_lock::is_locked(self.fd.as_fd())
    }

    /// Adopts a capture socket from another process and reads its fan-out group.
    ///
    /// # Errors
    /// It is not a packet socket, or not in a fan-out group.
    pub fn adopt(fd: OwnedFd) -> Result<(Self, FanoutGroup)> {
        const STEP: &str = "adopt a packet socket";
        match sockopt::socket_domain(&fd) {
            Ok(AddressFamily::PACKET) => {}
            Ok(_) => return Err(SysError::invalid(STEP, "not a packet socket")),
            Err(errno) => return Err(SysError::from_errno(STEP, errno)),
        }
        let group = fanout_group(fd.as_fd())?;
        Ok((Self { fd }, group))
    }

    /// The size of the kernel's queue, as the option counts it.
    pub fn receive_buffer_bytes(&self) -> Result<usize> {
        granted(self.fd.as_fd())
    }

    /// Makes the kernel's queue larger or smaller; what is queued stays. Returns the size that the kernel grants, as the option counts it.
    pub fn resize_receive_buffer(&self, bytes: usize) -> Result<usize> {
        set_receive_buffer(self.fd.as_fd(), bytes)?;
        self.receive_buffer_bytes()
    }

    /// Reads and discards what is queued, at most [`MAX_DISCARDED`] frames, and returns the number.
    #[must_use]
    pub fn discard(&self) -> u64 {
        let mut nothing = [0_u8; 1];
        let read = |_: &u64| {
            let result = rustix::net::recv(&self.fd, &mut nothing, RecvFlags::DONTWAIT);
            // A super-frame that Linux before 6.2 discards.
            matches!(result, Ok(_) | Err(Errno::INVAL))
        };
        (0..MAX_DISCARDED).take_while(read).count() as u64
    }

    /// Replaces the filter atomically; frames in the queue stay.
    ///
    /// Returns the precision in force: less than the program's own where the kernel has too little memory for it
    /// (`net.core.optmem_max`).
    ///
    /// # Errors
    /// `ENOMEM` if not even a short program fits.
    pub fn attach_filter(&self, filter: &FilterProgram) -> Result<Precision> {
        attach(self.fd.as_fd(), filter)
    }

    /// Replaces the filter atomically by a program of [`crate::bpf::relay`]; frames in the queue stay.
    ///
    /// # Errors
    /// It is no program for sockets.
    pub fn attach_program(&self, program: BorrowedFd<'_>) -> Result<()> {
        let fd = program.as_raw_fd();
        socket_option::set("attach a program", self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_BPF, &fd)
    }

    /// Sets the interface promiscuous, or not, for as long as a socket wants it (`PACKET_MR_PROMISC`): the kernel counts the
    /// sockets. Each call that sets it needs one that does not.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn set_promiscuous(&self, ifindex: IfIndex, on: bool) -> Result<()> {
        interface_mode::set(self.fd.as_fd(), ifindex, Mode::Promiscuous, on)
    }

    /// Reads the kernel's counters and clears them: there must be one reader, which accumulates them.
    pub fn statistics(&self) -> Result<CaptureStatistics> {
        statistics(self.fd.as_fd())
    }

    /// Reads what other members of the fan-out group took because this socket's queue was nearly full: its worker does
    /// not keep up, or has stalled. Reading does not clear it.
    ///
    /// # Errors
    /// `EINVAL` if the socket came from a group without rollover.
    pub fn rollover(&self) -> Result<RolloverStatistics> {
        const STEP: &str = "get PACKET_ROLLOVER_STATS";
        let read: Rollover =
            socket_option::get(STEP, self.fd.as_fd(), libc::SOL_PACKET, PACKET_ROLLOVER_STATS)?;
        Ok(RolloverStatistics { rolled_over: read.all, failed: read.failed })
    }
}

/// [`Capture::statistics`] of any packet socket.
pub(crate) fn statistics(fd: BorrowedFd<'_>) -> Result<CaptureStatistics> {
    socket_option::get("get PACKET_STATISTICS", fd, libc::SOL_PACKET, libc::PACKET_STATISTICS)
}

/// When the kernel took the frame off the device that was read last from this socket, since 1970 by the host's clock
/// (`SIOCGSTAMPNS`, socket(7)). `None` if there is no timestamp; the first call on a socket turns timestamps on.
///
/// # Errors
/// The descriptor is no socket.
pub fn last_frame_time(capture: BorrowedFd<'_>) -> Result<Option<Duration>> {
    /// linux/sockios.h: `SIOCGSTAMPNS_NEW`, which writes seconds and nanoseconds of 64 bits each.
    const SIOCGSTAMPNS_NEW: libc::Ioctl = 0x8010_8907;
    let mut time = [0_i64; 2];
    // SAFETY: the kernel writes 16 bytes.
    let result = unsafe { libc::ioctl(capture.as_raw_fd(), SIOCGSTAMPNS_NEW, time.as_mut_ptr()) };
    if result < 0 {
        let error = SysError::last("ioctl SIOCGSTAMPNS");
        return if error.errno() == Some(libc::ENOENT) { Ok(None) } else { Err(error) };
    }
    let [seconds, nanoseconds] = time;
    Ok(Some(Duration::new(
        u64::try_from(seconds).unwrap_or_default(),
        u32::try_from(nanoseconds).unwrap_or_default(),
    )))
}

/// linux/if_packet.h; libc lacks it.
const PACKET_ROLLOVER_STATS: libc::c_int = 21;

crate::owned_fd::owned_fd!(Capture);

/// `struct tpacket_rollover_stats`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Rollover {
    all: u64,
    huge: u64,
    failed: u64,
}
// SAFETY: three integers.
unsafe impl socket_option::Plain for Rollover {}

/// Makes a packet socket that is not bound yet unable to send.
pub(crate) fn lock_sends(fd: BorrowedFd<'_>) -> Result<()> {
    send_lock::lock(fd)
}

/// Attaches a filter, or a coarser one where the kernel has no memory for it. Returns the precision in force.
pub(crate) fn attach(fd: BorrowedFd<'_>, filter: &FilterProgram) -> Result<Precision> {
    let failed = failed("attach filter");
    match attach_instructions(fd, filter.instructions()) {
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {}
        result => return result.map(|()| filter.precision()).map_err(failed),
    }
    // Old and new filter count against `net.core.optmem_max` together. A short one that accepts all UDP makes room
    // without losing a wanted frame or accepting one from another interface or direction.
    attach_instructions(fd, filter.all_udp().instructions()).map_err(failed)?;
    let mut program = filter.clone();
    loop {
        match attach_instructions(fd, program.instructions()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                let Some(coarser) = program.coarser() else { return Err(failed(error)) };
                program = coarser;
            }
            result => return result.map(|()| program.precision()).map_err(failed),
        }
    }
}

pub(crate) fn attach_instructions(fd: BorrowedFd<'_>, program: &[Instruction]) -> std::io::Result<()> {
    let instructions: Vec<SockFilter> =
        program.iter().map(|line| SockFilter::new(line.code, line.jt, line.jf, line.k)).collect();
    SockRef::from(&fd).attach_filter(&instructions)
}

fn granted(fd: BorrowedFd<'_>) -> Result<usize> {
    sockopt::socket_recv_buffer_size(fd)
        .map_err(failed("get receive buffer size"))
        // socket(7): the kernel doubles the value for its own needs.
        .map(|bytes| bytes / 2)
}

fn set_receive_buffer(fd: BorrowedFd<'_>, bytes: usize) -> Result<()> {
    match sockopt::set_socket_recv_buffer_size_force(fd, bytes) {
        Err(Errno::PERM) => sockopt::set_socket_recv_buffer_size(fd, bytes),
        other => other,
    }
    .map_err(failed("set receive buffer size"))
}

/// Binds to all protocols: one protocol only would receive nothing on a bridge port (its traffic goes to the bridge first).
pub(crate) fn bind(fd: BorrowedFd<'_>, ifindex: IfIndex) -> Result<()> {
    bind_to_protocol(fd, ifindex, ETH_P_ALL)
}

/// Binds to an EtherType; protocol 0 receives nothing.
pub(crate) fn bind_to_protocol(fd: BorrowedFd<'_>, ifindex: IfIndex, protocol: u16) -> Result<()> {
    #[expect(clippy::cast_possible_truncation, reason = "the constant is 17")]
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: ifindex.to_int(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let bytes = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default();
    // SAFETY: pointer and length name a live sockaddr_ll.
    let answer = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), bytes) };
    if answer == 0 { Ok(()) } else { Err(SysError::last("bind packet socket")) }
}

/// What a group does by its flags, for a socket without one. Its group reads as 0.
fn ignore_outgoing(fd: BorrowedFd<'_>, direction: Direction) -> Result<FanoutGroup> {
    if direction == Direction::Received {
        socket_option::set(
            "set PACKET_IGNORE_OUTGOING",
            fd,
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            &1,
        )?;
    }
    Ok(FanoutGroup(0))
}

fn enter_fanout(fd: BorrowedFd<'_>, fanout: Fanout, direction: Direction) -> Result<FanoutGroup> {
    let (group, unique) = match fanout {
        Fanout::None => return ignore_outgoing(fd, direction),
        Fanout::New => (0, libc::PACKET_FANOUT_FLAG_UNIQUEID),
        Fanout::Join(FanoutGroup(group)) => (group, 0),
    };
    // A member whose queue is nearly full lets others take its frames: a stalled worker loses nothing while
    // its siblings have room, at the price of order within a flow (packet(7)).
    let kind = libc::PACKET_FANOUT_CPU | libc::PACKET_FANOUT_FLAG_ROLLOVER | unique;
    let set = |kind: libc::c_uint| {
        let value = u32::from(group) | kind << 16;
        socket_option::set("join fan-out group", fd, libc::SOL_PACKET, libc::PACKET_FANOUT, &value)
    };
    if direction == Direction::Sent {
        set(kind)?;
        return fanout_group(fd);
    }
    match set(kind | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING) {
        // Linux before 6.2 does not know the flag; the filter drops outgoing frames anyway.
        Err(error) if error.errno() == Some(libc::EINVAL) => set(kind)?,
        other => other?,
    }
    fanout_group(fd)
}

fn fanout_group(fd: BorrowedFd<'_>) -> Result<FanoutGroup> {
    let value =
        socket_option::get::<libc::c_int>("get fan-out group", fd, libc::SOL_PACKET, libc::PACKET_FANOUT)?;
    #[expect(clippy::cast_possible_truncation, reason = "packet(7): the lower 16 bits are the group")]
    Ok(FanoutGroup(value.cast_unsigned() as u16))
}

#[cfg(test)]
mod tests;
