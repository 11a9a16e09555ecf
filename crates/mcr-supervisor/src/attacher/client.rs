//! The supervisor's side of the attacher.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mcr_link::message::{self, Incoming, LinkError};
use mcr_sys::channel::Channel;
use mcr_sys::poll::wait_readable;
use mcr_sys::process::{PidFd, Signal, Status};
use mcr_sys::shared_memory::sealed_bytes;
use tokio::io::unix::AsyncFd;

use super::protocol::{DestinationList, FromAttacher, There, ToAttacher};
use crate::async_fd::{Watched, watched};
use crate::core::early_drop::{Attached, Wanted};

/// It ends within this time once the channel is closed: it has a filter to remove at most.
const END_DEADLINE: Duration = Duration::from_secs(2);
/// CAP_NET_ADMIN and CAP_BPF, by their bits (linux/capability.h).
const NEEDED: u64 = 1 << 12 | 1 << 39;

/// Whether this process has what the attacher needs.
pub(crate) fn may_attach() -> bool {
    let status = Status::read(None).ok();
    let effective = status
        .as_ref()
        .and_then(|status| status.field("CapEff").first().and_then(|hex| u64::from_str_radix(hex, 16).ok()));
    effective.is_some_and(|set| set & NEEDED == NEEDED)
}

/// An attacher.
#[derive(Debug)]
pub(crate) struct AttacherClient {
    channel: Arc<AsyncFd<Watched<Channel>>>,
    process: PidFd,
    /// Interfaces of a state whose other messages are still to come.
    parts: Vec<crate::core::early_drop::InterfaceState>,
}

/// What was read from an attacher.
#[derive(Debug)]
pub(crate) enum Attention {
    /// States, in order, and the maps of the programs that relay, or why there are none.
    States(Vec<Attached>, Option<Result<Vec<OwnedFd>, String>>),
    /// It has ended or is about to.
    Gone {
        /// Human-readable.
        reason: String,
        /// Another one could not do anything either.
        useless: bool,
    },
}

/// An attacher that was started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) channel: Channel,
    pub(crate) process: PidFd,
}

/// Starts an attacher, which inherits this process's capabilities.
pub(crate) fn start() -> Result<Started, String> {
    let (ours, theirs) = Channel::pair().map_err(|error| error.to_string())?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("mcrd")
        .arg("attach")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("start the attacher: {error}"))?;
    match PidFd::open(child.id()) {
        Ok(process) => Ok(Started { channel: ours, process }),
        Err(error) => {
            let _ = child.kill().and_then(|()| child.wait());
            Err(error.to_string())
        }
    }
}

impl Started {
    /// Ends it unused.
    pub(crate) fn end(self) {
        let Self { channel, process } = self;
        drop(channel);
        await_end(&process);
    }
}

impl AttacherClient {
    /// The attacher at the other end of a channel. Call it within the runtime.
    pub(crate) fn new(channel: Channel, process: PidFd) -> Result<Self, String> {
        let channel = watched(channel).map_err(|error| format!("watch the attacher: {error}"))?;
        Ok(Self { channel: Arc::new(channel), process, parts: Vec::new() })
    }

    /// Its process id; `None` if it has ended.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// What the keeper holds of it.
    pub(crate) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.channel.get_ref().0.as_fd(), self.process.as_fd()]
    }

    /// Becomes readable when it has sent a message, or ended.
    pub(crate) fn watch(&self) -> Arc<AsyncFd<Watched<Channel>>> {
        Arc::clone(&self.channel)
    }

    /// Tells it what to drop.
    ///
    /// `lacks_maps`: the maps of the programs that relay are needed.
    pub(crate) fn want(&self, generation: u64, wanted: &Wanted, lacks_maps: bool) -> Result<(), String> {
        let list: DestinationList = wanted
            .iter()
            .map(|(ifindex, there)| {
                let droppable = there.destinations.iter().filter(|destination| !destination.promiscuous);
                let destinations = droppable.map(|one| (one.address, one.port)).collect();
                (ifindex.to_raw(), There { destinations, relays: there.relays })
            })
            .collect();
        let bytes = postcard::to_stdvec(&list).map_err(|error| error.to_string())?;
        let file = sealed_bytes("mcr-destinations", &bytes).map_err(|error| error.to_string())?;
        let message = ToAttacher::Want { generation, lacks_maps };
        message::send(&self.channel.get_ref().0, &message, &[file.as_fd()])
            .map_err(|error: LinkError| error.to_string())
    }

    /// Reads what it has sent.
    pub(crate) fn read(&mut self) -> Attention {
        let (mut states, mut programs) = (Vec::new(), None);
        let gone = |reason| Attention::Gone { reason, useless: false };
        loop {
            match message::receive(&self.channel.get_ref().0) {
                Ok(Incoming::Message(FromAttacher::State { generation, mut interfaces, more }, _)) => {
                    self.parts.append(&mut interfaces);
                    if !more {
                        states.push(Attached { generation, interfaces: std::mem::take(&mut self.parts) });
                    }
                }
                Ok(Incoming::Message(FromAttacher::Unavailable { reason }, _)) => {
                    return Attention::Gone { reason, useless: true };
                }
                Ok(Incoming::Message(FromAttacher::Programs, fds)) => programs = Some(Ok(fds)),
                Ok(Incoming::Message(FromAttacher::NoPrograms { reason }, _)) => programs = Some(Err(reason)),
                Ok(Incoming::WouldBlock) => return Attention::States(states, programs),
                Ok(Incoming::Closed) => return gone("the attacher ended".to_owned()),
                Err(error) => return gone(format!("the attacher's protocol: {error}")),
            }
        }
    }

    /// Kills it, and waits for its exit.
    pub(crate) fn kill(&self) {
        // It may have ended already.
        let _ = self.process.kill(Signal::KILL);
        let _ = wait_readable([self.process.as_fd()], Some(END_DEADLINE));
        let _ = self.process.reap();
    }

    /// Ends it by closing the channel, which nobody else may have, and waits for its exit.
    pub(crate) fn end(self) {
        let Self { channel, process, .. } = self;
        drop(channel);
        await_end(&process);
    }
}

fn await_end(process: &PidFd) {
    let _ = wait_readable([process.as_fd()], Some(END_DEADLINE));
    if !process.has_ended().unwrap_or(true) {
        // It may end meanwhile.
        let _ = process.kill(Signal::KILL);
        let _ = wait_readable([process.as_fd()], Some(END_DEADLINE));
    }
    let _ = process.reap();
}
