//! The traffic of a soak test and its losses, by slot of the send time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use mcr_sys::clock::monotonic_ns;
use mcr_sys::egress::{EgressOptions, Family, Origin, open_egress};
use serde_json::{Value, json};

use crate::frames::mutation::HOSTILE;
use crate::{Topology, wait};

/// Pairs of an input and an output interface.
pub(super) const LEGS: usize = 2;
/// Groups of each leg.
pub(super) const GROUPS: usize = 2;
pub(super) const FLOWS: usize = LEGS * GROUPS;
/// The width of a slot.
pub(super) const SLOT_NS: u64 = 100_000_000;
const INPUT_PORT: u16 = 5_000;
const OUTPUT_PORT: u16 = 6_000;
/// Identifies the datagrams of a soak test.
const MAGIC: [u8; 8] = *b"MCR-SOAK";
/// Magic, flow, sequence, time.
const HEADER_BYTES: usize = 8 + 8 + 8 + 8;
/// Window for duplicate detection, in datagrams of one flow.
const MEMORY: usize = 1 << 16;
/// Receive buffer of a receiver: seconds of load, so that a busy machine causes no loss attributed to the relay.
const RECEIVE_BUFFER_BYTES: usize = 128 << 20;
const SEND_BUFFER_BYTES: usize = 8 << 20;

/// The interfaces of the relay: inputs and outputs of the legs.
pub(super) const INPUTS: [&str; LEGS] = ["eth0", "in1"];
pub(super) const OUTPUTS: [&str; LEGS] = ["eth1", "out1"];
/// The interfaces of sender and receivers.
pub(super) const FAR: [&str; LEGS] = ["eth0", "eth1"];

pub(super) fn number(leg: usize) -> u8 {
    u8::try_from(leg).unwrap_or_default()
}

pub(super) fn group_in(leg: usize, group: usize) -> Ipv4Addr {
    Ipv4Addr::new(239, 1, number(leg), 1 + number(group))
}

fn group_out(leg: usize, group: usize) -> Ipv4Addr {
    Ipv4Addr::new(239, 2, number(leg), 1 + number(group))
}

fn output_port(leg: usize) -> u16 {
    OUTPUT_PORT + u16::from(number(leg))
}

/// The sender's and the relay's address of a leg, with port; for hostile frames.
pub(super) fn input_pair(leg: usize, group: usize) -> (SocketAddr, SocketAddr) {
    let source = Ipv4Addr::new(10, 1, number(leg), 1);
    ((source, 7_000).into(), (group_in(leg, group), INPUT_PORT).into())
}

/// The name of a rule.
pub(super) fn name(leg: usize, group: usize) -> String {
    format!("leg{leg}-{group}")
}

/// The rules.
pub(super) fn config() -> String {
    let rules: Vec<Value> = (0..LEGS)
        .flat_map(|leg| (0..GROUPS).map(move |group| (leg, group)))
        .map(|(leg, group)| {
            let mut outputs = vec![
                json!({"interface": OUTPUTS[leg], "group": group_out(leg, group), "port": output_port(leg)}),
            ];
            if group == 0 {
                // Its host refuses each datagram, so that the error queue is read all the time.
                outputs.push(json!({"interface": OUTPUTS[leg], "group": format!("10.2.{leg}.2"), "port": 9}));
            }
            json!({
                "name": name(leg, group),
                "input": {"interface": INPUTS[leg], "group": group_in(leg, group), "port": INPUT_PORT},
                "outputs": outputs,
            })
        })
        .collect();
    json!({"rules": rules}).to_string()
}

/// Datagrams by slot.
type Slots = Vec<u64>;

fn count(slots: &mut Slots, slot: usize) {
    if slots.len() <= slot {
        slots.resize(slot + 1, 0);
    }
    slots[slot] += 1;
}

#[derive(Debug, Default)]
struct Sent {
    slots: [Slots; LEGS],
    errors: u64,
}

#[derive(Debug, Default)]
struct Received {
    slots: Slots,
    duplicates: u64,
    foreign: u64,
    hostile: u64,
    bytes: u64,
}

/// Shared by sender and receivers.
#[derive(Debug)]
struct Shared {
    start_ns: u64,
    sending: AtomicBool,
    receiving: AtomicBool,
    sockets: [Mutex<Option<OwnedFd>>; LEGS],
    sent: Mutex<Sent>,
    received: [Mutex<Received>; LEGS],
    /// By leg: the latest send time among received datagrams.
    newest_ns: [AtomicU64; LEGS],
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The traffic while it runs.
#[derive(Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
    receivers: [UdpSocket; LEGS],
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts the receivers, then the sender.
    pub(super) fn start(topology: &Topology, rate_pps: u64, size_bytes: usize) -> Self {
        let receivers = std::array::from_fn(|leg| receiver(topology, leg));
        let shared = Arc::new(Shared {
            start_ns: monotonic_ns(),
            sending: AtomicBool::new(true),
            receiving: AtomicBool::new(true),
            sockets: std::array::from_fn(|_| Mutex::new(None)),
            sent: Mutex::default(),
            received: std::array::from_fn(|_| Mutex::default()),
            newest_ns: std::array::from_fn(|_| AtomicU64::new(0)),
        });
        let mut load = Self { shared, receivers, threads: Vec::new() };
        for leg in 0..LEGS {
            load.send_anew(topology, leg);
            load.join(leg);
            let (shared, socket) = (Arc::clone(&load.shared), load.receivers[leg].try_clone());
            let socket = socket.expect("duplicate a socket");
            load.threads.push(std::thread::spawn(move || receive(&shared, leg, &socket)));
        }
        let shared = Arc::clone(&load.shared);
        let bytes = size_bytes.max(HEADER_BYTES);
        load.threads.push(std::thread::spawn(move || send(&shared, rate_pps, bytes)));
        load
    }

    /// Sends through a new socket, after the interface was recreated.
    pub(super) fn send_anew(&self, topology: &Topology, leg: usize) {
        let options = EgressOptions {
            ifindex: topology.sender.index(FAR[leg]),
            family: Family::V4,
            ttl: Some(16),
            dscp: Some(0),
            origin: Origin::Interface,
            multicast_loop: true,
            send_buffer_bytes: SEND_BUFFER_BYTES,
            marked: false,
            mark: 0,
        };
        let socket = topology.sender.run(|| open_egress(&options)).expect("a socket to send from");
        *lock(&self.shared.sockets[leg]) = Some(socket);
    }

    /// Joins the leg's groups: at the start, and after the interface was recreated.
    pub(super) fn join(&self, leg: usize) {
        let address = Ipv4Addr::new(10, 2, number(leg), 2);
        for group in 0..GROUPS {
            let group = group_out(leg, group);
            // The membership of a deleted interface is still on the socket.
            let _ = self.receivers[leg].leave_multicast_v4(&group, &address);
            self.receivers[leg].join_multicast_v4(&group, &address).expect("join a group");
        }
    }

    /// The latest send time among a leg's received datagrams.
    pub(super) fn newest(&self, leg: usize) -> Duration {
        Duration::from_nanos(self.shared.newest_ns[leg].load(Ordering::Relaxed))
    }

    pub(super) fn stop_sending(&self) {
        self.shared.sending.store(false, Ordering::Relaxed);
    }

    /// Datagrams sent and received so far.
    pub(super) fn traffic(&self) -> Traffic {
        let shared = &self.shared;
        let sent = lock(&shared.sent);
        let received = shared.received.each_ref().map(|received| lock(received));
        let sum = |field: fn(&Received) -> u64| received.iter().map(|received| field(received)).sum();
        let drops = |socket: &UdpSocket| mcr_sys::socket_memory::drops(socket.as_fd()).unwrap_or_default();
        Traffic {
            start: Duration::from_nanos(shared.start_ns),
            sent: sent.slots.clone(),
            received: received.each_ref().map(|received| received.slots.clone()),
            send_errors: sent.errors,
            duplicates: sum(|received| received.duplicates),
            foreign: sum(|received| received.foreign),
            hostile: sum(|received| received.hostile),
            bytes: sum(|received| received.bytes),
            receiver_drops: self.receivers.iter().map(|socket| u64::from(drops(socket))).sum(),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop_sending();
        self.shared.receiving.store(false, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has printed its message.
            let _ = thread.join();
        }
    }
}

fn receiver(topology: &Topology, leg: usize) -> UdpSocket {
    let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, output_port(leg)));
    let socket = topology.receiver.run(bind).expect("a socket to receive on");
    let forced = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES);
    if forced.is_err() {
        let size = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES);
        size.expect("set a buffer's size");
    }
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("set a timeout");
    socket
}

fn send(shared: &Shared, rate_pps: u64, bytes: usize) {
    let mut datagram = vec![0x5a; bytes];
    datagram[..8].copy_from_slice(&MAGIC);
    let mut sequences = [0_u64; FLOWS];
    let mut done = 0;
    while shared.sending.load(Ordering::Relaxed) {
        let elapsed_ns = u128::from(monotonic_ns() - shared.start_ns);
        let due = u64::try_from(elapsed_ns * u128::from(rate_pps) / 1_000_000_000).unwrap_or(u64::MAX);
        // A stalled host does not catch up: a burst would exceed the configured load.
        done = done.max(due.saturating_sub(rate_pps / 20));
        while done < due {
            let flow = usize::try_from(done).unwrap_or_default() % FLOWS;
            send_one(shared, flow, &mut sequences[flow], &mut datagram);
            done += 1;
        }
        wait::pause_for(Duration::from_micros(500));
    }
}

fn send_one(shared: &Shared, flow: usize, sequence: &mut u64, datagram: &mut [u8]) {
    let (leg, group) = (flow / GROUPS, flow % GROUPS);
    let now_ns = monotonic_ns();
    for (place, value) in [(8, flow as u64), (16, *sequence), (24, now_ns)] {
        datagram[place..place + 8].copy_from_slice(&value.to_le_bytes());
    }
    let to = SocketAddr::new(IpAddr::V4(group_in(leg, group)), INPUT_PORT);
    let outcome = lock(&shared.sockets[leg])
        .as_ref()
        .map(|socket| rustix::net::sendto(socket, datagram, rustix::net::SendFlags::empty(), &to));
    let mut sent = lock(&shared.sent);
    if matches!(outcome, Some(Ok(_))) {
        *sequence += 1;
        count(&mut sent.slots[leg], slot(shared.start_ns, now_ns));
    } else {
        sent.errors += 1;
    }
}

fn slot(start_ns: u64, at_ns: u64) -> usize {
    usize::try_from(at_ns.saturating_sub(start_ns) / SLOT_NS).unwrap_or_default()
}

fn receive(shared: &Shared, leg: usize, socket: &UdpSocket) {
    let mut seen: Vec<Vec<u64>> = vec![vec![u64::MAX; MEMORY]; FLOWS];
    let mut buffer = vec![0; 65_536];
    while shared.receiving.load(Ordering::Relaxed) {
        // Errors are timeouts, or ICMP errors of another test's closed port.
        let Ok(bytes) = socket.recv(&mut buffer) else { continue };
        let mut received = lock(&shared.received[leg]);
        let Some((flow, sequence, at_ns)) = header(&buffer[..bytes]) else {
            received.hostile += u64::from(buffer[..bytes].starts_with(HOSTILE));
            received.foreign += 1;
            continue;
        };
        let place = &mut seen[flow][usize::try_from(sequence).unwrap_or_default() % MEMORY];
        if flow / GROUPS != leg {
            received.foreign += 1;
        } else if std::mem::replace(place, sequence) == sequence {
            received.duplicates += 1;
        } else {
            received.bytes += bytes as u64;
            count(&mut received.slots, slot(shared.start_ns, at_ns));
            shared.newest_ns[leg].fetch_max(at_ns, Ordering::Relaxed);
        }
    }
}

/// Flow, sequence number and send time.
fn header(datagram: &[u8]) -> Option<(usize, u64, u64)> {
    let number = |at: usize| Some(u64::from_le_bytes(datagram.get(at..at + 8)?.try_into().ok()?));
    let flow = usize::try_from(number(8)?).ok()?;
    (datagram.starts_with(&MAGIC) && flow < FLOWS).then_some((flow, number(16)?, number(24)?))
}

/// Datagrams sent and received.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Start of slot 0, by the monotonic clock.
    pub(super) start: Duration,
    pub(super) sent: [Slots; LEGS],
    pub(super) received: [Slots; LEGS],
    pub(super) send_errors: u64,
    pub(super) duplicates: u64,
    /// Datagrams that are not of this load.
    pub(super) foreign: u64,
    /// Of these, hostile frames.
    pub(super) hostile: u64,
    pub(super) bytes: u64,
    /// Datagrams dropped by the receivers' own queues.
    pub(super) receiver_drops: u64,
}

impl Traffic {
    pub(super) fn json(&self) -> Value {
        let sum = |legs: &[Slots; LEGS]| legs.iter().flatten().sum::<u64>();
        let (sent, received) = (sum(&self.sent), sum(&self.received));
        json!({
            "sent": sent, "received": received, "lost": sent - received.min(sent), "duplicates": self.duplicates,
            "foreign": self.foreign, "hostile": self.hostile, "bytes": self.bytes,
            "send_errors": self.send_errors, "receiver_drops": self.receiver_drops,
        })
    }
}
