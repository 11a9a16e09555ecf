//! The attacher's process: one thread, one poll loop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use mcr_link::message::{self, Incoming};
use mcr_sys::bpf::attachment::{Attachment, remove_leftovers};
use mcr_sys::bpf::early_drop::{Destination, Dropped, EarlyDrop};
use mcr_sys::bpf::relay::Programs;
use mcr_sys::channel::Channel;
use mcr_sys::clock;
use mcr_sys::ingress_users::{IngressUsers, group_mac};
use mcr_sys::link::IfIndex;
use mcr_sys::poll::wait_readable;
use mcr_sys::privileges::keep_only_bpf;
use mcr_sys::process::leave_session;
use mcr_sys::shared_memory::read_sealed;

use super::protocol::{
    DestinationList, FromAttacher, MAX_INTERFACES_PER_MESSAGE, MAX_LIST_BYTES, There, ToAttacher, obstacle,
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
        programs: None,
        pass_maps: false,
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
            Received::Closed => {
                attacher.end_relaying();
                return Ok(());
            }
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
    wanted: BTreeMap<IfIndex, There>,
    attached: BTreeMap<IfIndex, Attached>,
    /// The programs that relay, once they were wanted, or why they can't be loaded.
    programs: Option<Result<Programs, String>>,
    /// Their maps are to be passed to the supervisor.
    pass_maps: bool,
    /// The destinations in the kernel.
    applied: BTreeSet<Destination>,
    looks: u32,
}

/// A program at an interface's ingress.
struct Attached {
    attachment: Attachment,
    /// It is the one that relays, too.
    relays: bool,
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
                Ok(Incoming::Message(ToAttacher::Want { generation, lacks_maps }, fds)) => {
                    self.pass_maps |= lacks_maps;
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
        for (ifindex, there) in &wanted {
            let list = &there.destinations;
            let relays = there.relays && self.has_programs();
            let mut obstacles = match &users {
                Some(Ok(users)) => users.of(*ifindex).map(|user| user.map(obstacle)),
                _ => [Some(Obstacle::Unknown); 2],
            };
            if (relays || obstacles.iter().any(Option::is_none))
                && let Err(why) = self.attach(*ifindex, relays)
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
            if obstacles.iter().all(Option::is_some) && !relays {
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

    /// Whether the programs that relay are loaded; loads them, and passes their maps on.
    fn has_programs(&mut self) -> bool {
        let load = || Programs::load(&self.program).map_err(|error| error.to_string());
        let programs = self.programs.get_or_insert_with(load);
        if std::mem::take(&mut self.pass_maps) {
            // Without a supervisor, nobody reads: the next one asks again.
            let _ = match programs {
                Ok(programs) => {
                    message::send(&self.channel, &FromAttacher::Programs, &programs.descriptors())
                }
                Err(reason) => {
                    let told = FromAttacher::NoPrograms { reason: reason.clone() };
                    message::send(&self.channel, &told, &[])
                }
            };
        }
        programs.is_ok()
    }

    /// Workers relay everything from now on.
    fn end_relaying(&self) {
        if let Some(Ok(programs)) = &self.programs {
            let _ = programs.stay(Duration::ZERO);
        }
    }

    /// Attaches the program behind all others, unless it is there: the one that relays, too, or that which only drops.
    fn attach(&mut self, ifindex: IfIndex, relays: bool) -> Result<(), Obstacle> {
        let program = match &self.programs {
            Some(Ok(programs)) if relays => programs.ingress(),
            _ => self.program.program(),
        };
        let is_last = |attachment: &Attachment| attachment.is_last(program).unwrap_or(false);
        let present = self.attached.get(&ifindex).filter(|attached| attached.relays == relays);
        if present.is_some_and(|attached| is_last(&attached.attachment)) {
            return Ok(());
        }
        // What relays stays where it is, also with others behind.
        if relays && present.is_some_and(|attached| attached.attachment.is_there(program).unwrap_or(false)) {
            return Err(Obstacle::Filters);
        }
        // Detached first: the interface was made anew, or another program is behind and would miss what is dropped.
        self.attached.remove(&ifindex);
        // Counts go on after a pause.
        if !matches!(self.program.dropped(ifindex), Ok(Some(_))) {
            self.program.count_on(ifindex).map_err(|_| Obstacle::Unknown)?;
        }
        let attachment = Attachment::new(program, ifindex).map_err(|_| Obstacle::Gone)?;
        let last = is_last(&attachment);
        if last || relays {
            self.attached.insert(ifindex, Attached { attachment, relays });
        }
        if last { Ok(()) } else { Err(Obstacle::Filters) }
    }

    fn state(&self, ifindex: IfIndex, obstacles: [Option<Obstacle>; 2]) -> InterfaceState {
        let Dropped { datagrams, bytes } = self.program.dropped(ifindex).ok().flatten().unwrap_or_default();
        let attached = self.attached.get(&ifindex);
        let method = attached.map(|attached| attached.attachment.method().name().to_owned());
        let relays = attached.is_some_and(|attached| attached.relays);
        InterfaceState { ifindex, method, obstacles, datagrams, bytes, relays }
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
        if let Some(Ok(programs)) = &self.programs {
            // Afterwards workers relay everything.
            let _ = programs.stay(STAY);
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

fn read_list(fd: &OwnedFd) -> Option<BTreeMap<IfIndex, There>> {
    let bytes = read_sealed(fd.as_fd(), MAX_LIST_BYTES).ok()?;
    let list: DestinationList = postcard::from_bytes(&bytes).ok()?;
    Some(list.into_iter().map(|(ifindex, there)| (IfIndex::new(ifindex), there)).collect())
}
