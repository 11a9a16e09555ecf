//! Sockets whose room does not depend on the host's `net.core.rmem_default`.

use std::net::UdpSocket;

use rustix::net::sockopt;

/// Gives a socket a receive buffer of 8 MiB, or what `net.core.rmem_max` allows without CAP_NET_ADMIN (socket(7)).
///
/// # Panics
/// The kernel refuses to set it.
#[must_use]
pub fn with_room(socket: UdpSocket) -> UdpSocket {
    const BYTES: usize = 8 << 20;
    sockopt::set_socket_recv_buffer_size_force(&socket, BYTES)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, BYTES))
        .expect("SO_RCVBUF");
    socket
}
