//! Finds the programs that have the ports of unicast inputs, and when they close them, by sock_diag.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mcr_rules::log::MEMBERSHIP;
use mcr_sys::udp_sockets::{ClosedUdpSockets, UdpSocket, UdpSockets};
use tokio::io::unix::AsyncFd;

use crate::async_fd::{Watched, watched};
use crate::core::plan::Absorber;
use crate::core::ports::{PortHolder, PortHolders, holder};

/// Descriptors that are examined at most to find the program of a socket: some 20 ms.
const MAX_DESCRIPTORS: usize = 20_000;

/// Notifications of closed sockets.
pub(crate) type ClosedSockets = Arc<AsyncFd<Watched<ClosedUdpSockets>>>;

/// See the module documentation. Opens its sockets when they are needed first.
#[derive(Debug, Default)]
pub(super) struct PortExaminer {
    sockets: Option<UdpSockets>,
    closed: Option<ClosedSockets>,
    /// The holders found last, by their socket: a program is looked for once.
    known: BTreeMap<u32, PortHolder>,
    has_failed: bool,
}

impl PortExaminer {
    /// Returns the holders of these absorbers' ports; `own` are the inodes of the daemon's own sockets. Without sock_diag
    /// nobody is known: then only a failed bind shows that a port is taken.
    pub(super) fn examine<'a>(
        &mut self,
        absorbers: impl IntoIterator<Item = &'a Absorber>,
        own: &BTreeSet<u32>,
    ) -> PortHolders {
        let absorbers: Vec<&Absorber> = absorbers.into_iter().collect();
        let ports: BTreeSet<u16> = absorbers.iter().map(|absorber| absorber.port).collect();
        let found = self.list(&ports.into_iter().collect::<Vec<_>>());
        let mut known = std::mem::take(&mut self.known);
        let mut holders = PortHolders::new();
        for absorber in absorbers {
            let Some(socket) = holder(absorber, &found, own) else { continue };
            let known = known.entry(socket.inode).or_insert_with(|| identify(socket));
            self.known.insert(socket.inode, known.clone());
            holders.insert(*absorber, known.clone());
        }
        holders
    }

    fn list(&mut self, ports: &[u16]) -> Vec<UdpSocket> {
        let listed = match &mut self.sockets {
            Some(sockets) => sockets.bound_to(ports),
            None => UdpSockets::open().and_then(|sockets| self.sockets.insert(sockets).bound_to(ports)),
        };
        listed.unwrap_or_else(|error| {
            if !std::mem::replace(&mut self.has_failed, true) {
                tracing::warn!(
                    target: MEMBERSHIP,
                    "programs that have the ports of unicast inputs can't be found: {error}"
                );
            }
            self.sockets = None;
            Vec::new()
        })
    }

    /// Notifications of closed sockets, while a program has a port. Call it within the runtime.
    pub(super) fn closed(&mut self, needed: bool) -> Option<ClosedSockets> {
        if !needed {
            self.closed = None;
        } else if self.closed.is_none() {
            // Without them, a closed socket is found by the next examination.
            self.closed = ClosedUdpSockets::open().ok().and_then(|closed| watched(closed).ok()).map(Arc::new);
        }
        self.closed.clone()
    }
}

/// Finds the program of a socket, as far as this process may look.
fn identify(socket: &UdpSocket) -> PortHolder {
    let UdpSocket { uid, inode, .. } = *socket;
    PortHolder::Socket { uid, inode, program: program_of(inode) }
}

fn program_of(inode: u32) -> Option<(u32, String)> {
    let link = format!("socket:[{inode}]");
    let mut left = MAX_DESCRIPTORS;
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has_it = |pid: &u32| {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors
            .take_while(|_| {
                left.checked_sub(1).is_some_and(|less| {
                    left = less;
                    true
                })
            })
            .any(|entry| {
                std::fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == link.as_str())
            })
    };
    let pid = pids.find(has_it)?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some((pid, name.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket as StdSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_program_of_a_socket_is_found() {
        let socket = StdSocket::bind("127.0.0.1:0").unwrap();
        let inode = mcr_sys::absorber::inode(socket.as_fd()).unwrap();
        let (pid, name) = program_of(inode).unwrap();
        assert_eq!(pid, std::process::id());
        assert!(!name.is_empty() && !name.ends_with('\n'), "{name:?}");
        assert_eq!(program_of(0), None);
    }
}
