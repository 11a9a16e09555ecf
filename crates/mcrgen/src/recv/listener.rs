//! The sockets of a receiver, one for each group, so that the kernel separates the groups; and the memberships.

use crate::interrupt::Interrupt;
use anyhow::{Context, Result};
use mcr_sys::link::IfIndex;
use mcr_sys::membership::{Membership, MembershipPool};
use mcr_sys::mmsg::receive_segmented;
use mcr_sys::socket_memory::drops;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::SockRef;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Total size of the receive buffers ...
const BUFFERS_BYTES: usize = 128 << 20;
/// ... and bounds for each.
const BUFFER_BYTES: std::ops::RangeInclusive<usize> = 1 << 20..=32 << 20;
/// Descriptors other than the sockets of the groups: standard streams, epoll, signals, membership sockets.
const OTHER_DESCRIPTORS: u64 = 64;
/// The epoll data of the signals; that of a group is its index.
const INTERRUPT: u64 = u64::MAX;
/// Maximum number of ready sockets returned by one call.
const EVENTS: usize = 64;

/// The groups to receive.
pub(crate) struct Subscription<'a> {
    pub(crate) interface: &'a str,
    pub(crate) groups: &'a [IpAddr],
    pub(crate) port: u16,
    pub(crate) sources: &'a [IpAddr],
}

impl Subscription<'_> {
    fn ifindex(&self) -> Result<IfIndex> {
        IfIndex::by_name(self.interface).with_context(|| format!("interface {}", self.interface))
    }
}

pub(crate) struct Listener {
    sockets: Vec<OwnedFd>,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    /// Keeps the memberships until dropped.
    _memberships: MembershipPool,
}

impl Listener {
    /// Opens the sockets of all subscriptions, then joins their groups. Sockets are numbered in this order.
    pub(crate) fn open(subscriptions: &[Subscription<'_>], interrupt: &Interrupt) -> Result<Self> {
        let groups = subscriptions.iter().map(|one| one.groups.len()).sum();
        allow_descriptors(groups);
        let buffer_bytes = (BUFFERS_BYTES / groups.max(1)).clamp(*BUFFER_BYTES.start(), *BUFFER_BYTES.end());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?;
        let watch = |fd: BorrowedFd<'_>, data| {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(data), epoll::EventFlags::IN).context("epoll")
        };
        watch(interrupt.as_fd(), INTERRUPT)?;
        let mut sockets = Vec::with_capacity(groups);
        for subscription in subscriptions {
            let ifindex = subscription.ifindex()?;
            for group in subscription.groups {
                let address = match group {
                    IpAddr::V4(group) => SocketAddr::from((*group, subscription.port)),
                    IpAddr::V6(group) => {
                        SocketAddr::V6(SocketAddrV6::new(*group, subscription.port, 0, ifindex.to_raw()))
                    }
                };
                let socket = open_socket(address, subscription.interface, buffer_bytes)
                    .with_context(|| format!("receive on {address}"))?;
                watch(socket.as_fd(), sockets.len() as u64)?;
                sockets.push(socket);
            }
        }
        let mut memberships = MembershipPool::new();
        subscriptions.iter().try_for_each(|subscription| join(subscription, &mut memberships))?;
        Ok(Self { sockets, epoll, events: Vec::with_capacity(EVENTS), _memberships: memberships })
    }

    /// Waits until a socket is readable, a signal arrives, or the timeout expires. Returns the indices of the groups.
    pub(crate) fn wait(&mut self, timeout_ns: Option<u64>) -> Result<Vec<usize>> {
        let timeout = timeout_ns.map(|ns| Timespec {
            tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ns % 1_000_000_000).unwrap_or(0),
        });
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context("epoll"),
        }
        let ready = self.events.iter().map(|event| event.data.u64()).filter(|data| *data != INTERRUPT);
        Ok(ready.filter_map(|data| usize::try_from(data).ok()).collect())
    }

    pub(crate) fn socket(&self, group: usize) -> Option<BorrowedFd<'_>> {
        self.sockets.get(group).map(AsFd::as_fd)
    }

    /// Returns the number of datagrams dropped because socket buffers were full.
    pub(crate) fn drops(&self) -> u64 {
        self.sockets.iter().filter_map(|socket| drops(socket.as_fd()).ok()).map(u64::from).sum()
    }
}

fn open_socket(address: SocketAddr, interface: &str, buffer_bytes: usize) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    // Several receivers of one group may run on one host.
    sockopt::set_socket_reuseaddr(&socket, address.ip().is_multicast())?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    SockRef::from(&socket).bind_device(Some(interface.as_bytes())).context("bind to interface")?;
    // SO_RCVBUFFORCE requires CAP_NET_ADMIN; without it, net.core.rmem_max applies, and drops are reported.
    if sockopt::set_socket_recv_buffer_size_force(&socket, buffer_bytes).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, buffer_bytes)?;
    }
    // Kernels without UDP_GRO return single datagrams.
    let _ = receive_segmented(socket.as_fd());
    bind(&socket, &address)?;
    Ok(socket)
}

fn join(subscription: &Subscription<'_>, pool: &mut MembershipPool) -> Result<()> {
    let ifindex = subscription.ifindex()?;
    for group in subscription.groups.iter().filter(|group| group.is_multicast()) {
        let sources: Vec<Option<IpAddr>> = match subscription.sources {
            [] => vec![None],
            sources => sources.iter().copied().map(Some).collect(),
        };
        for source in sources {
            pool.join(Membership { ifindex, group: *group, source })
                .with_context(|| format!("join {group} on {}", subscription.interface))?;
        }
    }
    Ok(())
}

/// Raises the limit of open files (`RLIMIT_NOFILE`) as far as permitted; opening the sockets fails if it is too low.
fn allow_descriptors(groups: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = groups as u64 * 2 + OTHER_DESCRIPTORS;
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(limit.maximum.map_or(wanted, |maximum| wanted.min(maximum)));
        let _ = setrlimit(Resource::Nofile, limit);
    }
}
