//! The system calls of the test kit (`mcr-testnet`) that need unsafe code: namespaces, tun interfaces, raw packet sockets,
//! programs with fewer rights, what a system call filter decides. Only with the feature `test-env`, which development crates alone enable (decision 018).

pub mod interpreter;
mod restrict;
#[cfg(target_arch = "x86_64")]
pub mod tracer;
mod tun;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::link::IfIndex;
use crate::{Result, failed, packet, socket_option};

pub use restrict::{
    deny_io_uring, deny_submissions, deny_transmit_rings, kill_at_submissions, with_file, with_own_sysfs,
    without_capability,
};
pub use tun::{create_tun, set_link_type};

/// Moves the calling thread into a new network namespace (`CLONE_NEWNET`, unshare(2)).
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`.
pub fn unshare_network() -> Result<()> {
    unshare("unshare CLONE_NEWNET", UnshareFlags::NEWNET)
}

/// Moves this process, which must have one thread, into a new user namespace (`CLONE_NEWUSER`).
///
/// # Errors
/// `EINVAL` with several threads; `EPERM` or `ENOSPC` if the system forbids user namespaces.
pub fn unshare_user() -> Result<()> {
    unshare("unshare CLONE_NEWUSER", UnshareFlags::NEWUSER)
}

fn unshare(step: &'static str, flags: UnshareFlags) -> Result<()> {
    // SAFETY: unsafe only because of CLONE_FILES, which no caller passes.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(failed(step))
}

/// Makes the program that the command starts run in this network namespace.
///
/// # Errors
/// Out of file descriptors.
pub fn in_network_namespace(command: &mut Command, namespace: impl AsFd) -> io::Result<()> {
    let fd = namespace.as_fd().try_clone_to_owned()?;
    let enter = move || -> io::Result<()> {
        rustix::thread::move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    };
    // SAFETY: between fork and exec only one system call runs, without allocation or locks.
    unsafe { command.pre_exec(enter) };
    Ok(())
}

/// Opens a packet socket that sends on one interface of the calling thread's network namespace and receives nothing.
/// With `vnet_header`, each frame starts with a `struct virtio_net_hdr` (`PACKET_VNET_HDR`).
///
/// # Errors
/// `ENODEV` if there is no such interface, `EPERM` without `CAP_NET_RAW`.
pub fn packet_sender(ifindex: IfIndex, vnet_header: bool) -> Result<OwnedFd> {
    let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .map_err(failed("open raw sender"))?;
    if vnet_header {
        socket_option::set("set PACKET_VNET_HDR", fd.as_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1)?;
    }
    packet::bind_to_protocol(fd.as_fd(), ifindex, 0)?;
    Ok(fd)
}
