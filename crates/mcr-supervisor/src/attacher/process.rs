//! The attacher's process: one thread, one poll loop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use mcr_link::message::{self, Incoming};
use mcr_sys::bpf::attachment::{Attachment, remove_leftovers};
use mcr_sys::bpf::early_drop::{Destination, Dropped, EarlyDrop};
use mcr_sys::channel::Channel;
use mcr_sys::clock;
use mcr_sys::ingress_users::{IngressUsers, group_mac};
use mcr_sys::link::IfIndex;
use mcr_sys::poll::wait_readable;
use mcr_sys::privileges::keep_only_bpf;
use mcr_sys::process::leave_session;
use mcr_sys::shared_memory::read_sealed;

use super::protocol::{
    DestinationList, FromAttacher, MAX_INTERFACES_PER_MESSAGE, MAX_LIST_BYTES, ToAttacher, obstacle,
};
use crate::core::early_drop::{InterfaceState, Obstacle};

/// How often it looks who else takes what arrives, repairs what differs, and reports.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The program stays in force for this time after each look. Then it passes everything: the attacher was killed and left a
/// filter behind, or hangs.
const STAY: Duration = Duration::from_secs(4);
/// Number of examinations after which the kernel's map is compared even if nothing changed.
const LOOKS_PER_AUDIT: u32 = 10;

/// Attaches for the supervisor at the other end of the channel, until all have closed that.
///
/// # Errors
/// Its privileges can't be limited, or the channel failed.
pub fn run(channel: Channel) -> mcr_sys::Result<()> {
    leave_session()?;
    keep_only_bpf()?;
    let program = match EarlyDrop::load() {
        Ok(program) => program,
        Err(error) => {
            // Nobody to tell is nothing to do.
            let _ = message::send(&channel, &FromAttacher::Unavailable { reason: error.to_string() }, &[]);
            return Ok(());
        }
    };
    // Best effort: a filter that is left passes everything by now.
    let _ = remove_leftovers();
    let mut attacher = Attacher {
        channel,
        program,
        generation: 0,
        wanted: BTreeMap::new(),
        attached: BTreeMap::new(),
        applied: BTreeSet::new(),
        looks: 0,
    };
    let mut next = clock::monotonic();
    loop {
        let now = clock::monotonic();
        let mut due = now >= next;
        if !due {
            wait_readable([attacher.channel.as_fd()], Some(next - now))?;
        }
        match attacher.receive() {
            Received::Closed => return Ok(()),
            Received::New => due = true,
            Received::Nothing => {}
        }
        if due {
            attacher.look();
            next = clock::monotonic() + LOOK_EVERY;
        }
    }
}

struct Attacher {
    channel: Channel,
    program: EarlyDrop,
    generation: u64,
    wanted: BTreeMap<IfIndex, Vec<(IpAddr, u16)>>,
    attached: BTreeMap<IfIndex, Attachment>,
    /// The destinations in the kernel.
    applied: BTreeSet<Destination>,
    looks: u32,
}

enum Received {
    New,
    Nothing,
    Closed,
}

impl Attacher {
    fn receive(&mut self) -> Received {
        let mut received = Received::Nothing;
        loop {
            match message::receive::<ToAttacher>(&self.channel) {
                Ok(Incoming::Message(ToAttacher::Want { generation }, fds)) => {
                    // What can't be read is not in force, which the answer says.
                    self.wanted = fds.first().and_then(read_list).unwrap_or_default();
                    self.generation = generation;
                    received = Received::New;
                }
                Ok(Incoming::WouldBlock) => return received,
                Ok(Incoming::Closed) | Err(_) => return Received::Closed,
            }
        }
    }

    /// Brings the kernel to what is wanted, as far as nobody else takes what arrives, and reports.
    fn look(&mut self) {
        let users = if self.wanted.is_empty() { None } else { Some(IngressUsers::look()) };
        let mut states: Vec<InterfaceState> = Vec::new();
        let mut destinations = BTreeSet::new();
        let wanted = std::mem::take(&mut self.wanted);
        let program = &self.program;
        self.attached.retain(|ifindex, _| {
            let stays = wanted.contains_key(ifindex);
            if !stays {
                let _ = program.forget(*ifindex);
            }
            stays
        });
        for (ifindex, list) in &wanted {
            let mut obstacles = match &users {
                Some(Ok(users)) => users.of(*ifindex).map(|user| user.map(obstacle)),
                _ => [Some(Obstacle::Unknown); 2],
            };
            if obstacles.iter().any(Option::is_none)
                && let Err(why) = self.attach(*ifindex)
            {
                obstacles = [Some(why); 2];
            }
            for (address, _) in list {
                let Some(place) = obstacles.get_mut(family(*address)) else { continue };
                let above = || match &users {
                    Some(Ok(users)) => {
                        group_mac(*address).is_some_and(|mac| users.is_wanted_above(*ifindex, mac))
                    }
                    _ => true,
                };
                if place.is_none() && above() {
                    *place = Some(Obstacle::Upper);
                }
            }
            if obstacles.iter().all(Option::is_some) {
                self.attached.remove(ifindex);
            }
            let free = list.iter().filter(|(to, _)| obstacles.get(family(*to)).is_some_and(Option::is_none));
            destinations.extend(free.map(|(address, port)| Destination {
                ifindex: *ifindex,
                address: *address,
                port: *port,
            }));
            states.push(self.state(*ifindex, obstacles));
        }
        self.wanted = wanted;
        if !self.apply(destinations) {
            states.iter_mut().for_each(|state| state.obstacles = [Some(Obstacle::Unknown); 2]);
        }
        self.report(&states);
    }

    /// Attaches the program behind all others, unless it is there.
    fn attach(&mut self, ifindex: IfIndex) -> Result<(), Obstacle> {
        let program = self.program.program();
        let is_last = |attachment: &Attachment| attachment.is_last(program).unwrap_or(false);
        if self.attached.get(&ifindex).is_some_and(is_last) {
            return Ok(());
        }
        // Detached first: the interface was made anew, or another program is behind and would miss what is dropped.
        self.attached.remove(&ifindex);
        // Counts go on after a pause.
        if !matches!(self.program.dropped(ifindex), Ok(Some(_))) {
            self.program.count_on(ifindex).map_err(|_| Obstacle::Unknown)?;
        }
        let attachment = Attachment::new(program, ifindex).map_err(|_| Obstacle::Gone)?;
        if !is_last(&attachment) {
            return Err(Obstacle::Filters);
        }
        self.attached.insert(ifindex, attachment);
        Ok(())
    }

    fn state(&self, ifindex: IfIndex, obstacles: [Option<Obstacle>; 2]) -> InterfaceState {
        let Dropped { datagrams, bytes } = self.program.dropped(ifindex).ok().flatten().unwrap_or_default();
        let method = self.attached.get(&ifindex).map(|attachment| attachment.method().name().to_owned());
        InterfaceState { ifindex, method, obstacles, datagrams, bytes }
    }

    /// Sets the destinations, and keeps the program in force. Returns whether that succeeded.
    fn apply(&mut self, destinations: BTreeSet<Destination>) -> bool {
        self.looks = self.looks.wrapping_add(1);
        let audit = self.looks.is_multiple_of(LOOKS_PER_AUDIT);
        if destinations != self.applied || audit {
            if self.program.set_destinations(&destinations).is_err() {
                // Nothing is dropped until the next attempt.
                let _ = self.program.stay(Duration::ZERO);
                self.applied = BTreeSet::new();
                return false;
            }
            self.applied = destinations;
        }
        self.program.stay(STAY).is_ok()
    }

    fn report(&self, states: &[InterfaceState]) {
        let mut parts = states.chunks(MAX_INTERFACES_PER_MESSAGE).peekable();
        loop {
            let interfaces = parts.next().unwrap_or_default().to_vec();
            let more = parts.peek().is_some();
            let state = FromAttacher::State { generation: self.generation, interfaces, more };
            // Without a supervisor, nobody reads: the next one gets a later report.
            let sent = message::send(&self.channel, &state, &[]);
            if !more || sent.is_err() {
                return;
            }
        }
    }
}

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

fn read_list(fd: &OwnedFd) -> Option<BTreeMap<IfIndex, Vec<(IpAddr, u16)>>> {
    let bytes = read_sealed(fd.as_fd(), MAX_LIST_BYTES).ok()?;
    let list: DestinationList = postcard::from_bytes(&bytes).ok()?;
    Some(list.into_iter().map(|(ifindex, destinations)| (IfIndex::new(ifindex), destinations)).collect())
}
