//! Socket addresses in the kernel's form, built once and used many times.

use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// A `sockaddr_in` or `sockaddr_in6` (ip(7), ipv6(7)).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SocketAddress {
    storage: libc::sockaddr_in6,
    bytes: libc::socklen_t,
}

impl SocketAddress {
    /// An address of no family, to be filled by the kernel.
    pub(crate) const EMPTY: Self = Self {
        storage: libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
        bytes: 0,
    };
    /// The room for an address of either family.
    #[expect(clippy::cast_possible_truncation, reason = "28 bytes")]
    pub(crate) const CAPACITY: libc::socklen_t = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    #[expect(clippy::cast_possible_truncation, reason = "the constant is 2")]
    const IPV4: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;
    #[expect(clippy::cast_possible_truncation, reason = "the constant is 10")]
    const IPV6: libc::sa_family_t = libc::AF_INET6 as libc::sa_family_t;

    /// The address in the kernel's form.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        let mut storage = Self::EMPTY.storage;
        storage.sin6_port = address.port().to_be();
        let bytes = match address {
            SocketAddr::V4(v4) => {
                storage.sin6_family = Self::IPV4;
                // In a sockaddr_in the address stands where a sockaddr_in6 has its flow information.
                storage.sin6_flowinfo = u32::from_ne_bytes(v4.ip().octets());
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                storage.sin6_family = Self::IPV6;
                storage.sin6_flowinfo = v6.flowinfo();
                storage.sin6_addr.s6_addr = v6.ip().octets();
                storage.sin6_scope_id = v6.scope_id();
                size_of::<libc::sockaddr_in6>()
            }
        };
        Self { storage, bytes: libc::socklen_t::try_from(bytes).unwrap_or_default() }
    }

    /// The address that the kernel wrote, if it is one of IPv4 or IPv6.
    #[must_use]
    pub fn get(&self) -> Option<SocketAddr> {
        let port = u16::from_be(self.storage.sin6_port);
        match self.storage.sin6_family {
            Self::IPV4 => {
                let ip = Ipv4Addr::from(self.storage.sin6_flowinfo.to_ne_bytes());
                Some(SocketAddr::new(IpAddr::V4(ip), port))
            }
            Self::IPV6 => Some(SocketAddr::V6(SocketAddrV6::new(
                Ipv6Addr::from(self.storage.sin6_addr.s6_addr),
                port,
                self.storage.sin6_flowinfo,
                self.storage.sin6_scope_id,
            ))),
            _ => None,
        }
    }

    /// The length of the address, as `msghdr` takes it.
    pub(crate) const fn bytes(&self) -> libc::socklen_t {
        self.bytes
    }
}

impl From<SocketAddr> for SocketAddress {
    fn from(address: SocketAddr) -> Self {
        Self::new(address)
    }
}

impl std::fmt::Debug for SocketAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.get().fmt(f)
    }
}

impl PartialEq for SocketAddress {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for SocketAddress {}
