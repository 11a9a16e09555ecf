//! Tests of both loops: a worker in a thread, with the test as its supervisor. The capture socket is a UDP socket, to which the
//! test writes complete frames.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::thread::JoinHandle;
use std::time::Duration;

use mcr_link::message::{
    self, FromWorker, Incoming, IoBackend, LINK_VERSION, LinkLayer, ToWorker, WorkerStart,
};
use mcr_link::reason::DropReason;
use mcr_link::rule_set::{
    EgressId, OutputSlot, Own, RelayOutput, RelayRule, RuleSet, RuleSetChange, RuleSlot,
};
use mcr_link::telemetry::{PageReader, PageWriter, Total, TotalsSnapshot, create_page, rule_set_file};
use mcr_rules::{IoChoice, OutputOptions, RuleId, RuleOptions};
use mcr_sys::channel::Channel;
use mcr_sys::clock::monotonic;
use mcr_sys::egress::{EgressOptions, Family, Origin, open_egress};
use mcr_sys::link::IfIndex;
use mcr_sys::poll::wait_readable;

use super::WorkerError;
use super::start::{Privileges, run_with};
use crate::captured::{Captured, PORT, group};

mod health;
mod network;

const DEADLINE: Duration = Duration::from_secs(10);
const BOTH: [IoChoice; 2] = [IoChoice::IoUring, IoChoice::Recvmmsg];

/// Waits for a condition, with a deadline.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = monotonic() + DEADLINE;
    while !condition() {
        assert!(monotonic() < end, "in time: {what}");
        wait_readable([], Some(Duration::from_millis(1))).unwrap();
    }
}

/// A worker in a thread.
struct Worker {
    channel: Channel,
    page: PageReader,
    input: UdpSocket,
    generation: u64,
    thread: JoinHandle<Result<(), WorkerError>>,
}

fn udp() -> UdpSocket {
    let socket = mcr_testnet::with_room(UdpSocket::bind("127.0.0.1:0").unwrap());
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn start_message(io: IoChoice) -> WorkerStart {
    WorkerStart {
        version: LINK_VERSION,
        interface: "test0".into(),
        core: 0,
        link: LinkLayer::Ethernet,
        linked: Vec::new(),
        mtu: 1_500,
        io,
        ring_buffers: 64,
        latency_budget_us: 50,
        sandbox: mcr_rules::SandboxChoice::Auto,
        log_levels: "off".parse().unwrap(),
        log_json: false,
    }
}

impl Worker {
    /// Starts a worker that receives from a UDP socket, and sends its first message.
    fn spawn(start: WorkerStart, page: &OwnedFd) -> Self {
        let capture = udp();
        let worker = Self::spawn_on(capture.as_fd(), start, page);
        worker.input.connect(capture.local_addr().unwrap()).unwrap();
        worker
    }

    fn spawn_on(capture: BorrowedFd<'_>, start: WorkerStart, page: &OwnedFd) -> Self {
        let (channel, theirs) = Channel::pair().unwrap();
        let input = udp();
        let thread = std::thread::spawn(move || run_with(theirs, Privileges::Keep));
        let descriptors = [capture, page.as_fd()];
        message::send(&channel, &ToWorker::Start(start), &descriptors).unwrap();
        Self { channel, page: PageReader::map(page.as_fd()).unwrap(), input, generation: 0, thread }
    }

    fn ready(io: IoChoice) -> Self {
        let worker = Self::spawn(start_message(io), &create_page().unwrap());
        let backend = if io == IoChoice::IoUring { IoBackend::IoUring } else { IoBackend::Recvmmsg };
        match worker.reply() {
            FromWorker::Ready { io, io_note: None, .. } => assert_eq!(io, backend),
            other => panic!("{other:?}"),
        }
        assert_eq!(worker.page.worker().io, Some(backend));
        assert_eq!(worker.page.worker().pid, std::process::id());
        worker
    }

    fn reply(&self) -> FromWorker {
        loop {
            match message::receive(&self.channel).unwrap() {
                Incoming::Message(message, _) => return message,
                Incoming::WouldBlock => {
                    let readable = wait_readable([self.channel.as_fd()], Some(DEADLINE)).unwrap();
                    assert_eq!(readable, [true], "no reply from the worker");
                }
                Incoming::Closed => panic!("the worker closed its channel"),
            }
        }
    }

    fn send(&self, message: &ToWorker, descriptors: &[&OwnedFd]) {
        let descriptors: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        message::send(&self.channel, message, &descriptors).unwrap();
    }

    fn pass(&self, id: u32, socket: impl Into<OwnedFd>) {
        self.send(&ToWorker::Egress(vec![EgressId(id)]), &[&socket.into()]);
    }

    fn announce(&mut self, rules: Vec<RelayRule>) -> (FromWorker, u64) {
        self.generation += 1;
        let set = RuleSet {
            generation: self.generation,
            own: Own::default(),
            rules: rules.into_iter().map(Into::into).collect(),
        };
        let (generation, hash) = (self.generation, set.content_hash());
        let file = rule_set_file(&set.encode().unwrap()).unwrap();
        self.send(&ToWorker::RuleSet { generation, hash }, &[&file]);
        (self.reply(), hash)
    }

    fn apply(&mut self, rules: Vec<RelayRule>) {
        let (reply, hash) = self.announce(rules);
        assert_eq!(reply, FromWorker::Applied { generation: self.generation, hash });
        let published = self.page.worker();
        assert_eq!((published.generation, published.hash), (self.generation, hash));
    }

    fn capture(&self, captured: &Captured) {
        self.input.send(&captured.frame()).unwrap();
    }

    /// Whether the accounting identities hold, with no send in flight.
    fn is_balanced(&self) -> bool {
        let totals = self.page.worker().totals;
        totals.received == totals.matched + totals.skips.iter().sum::<u64>()
            && totals.due == totals.sent + totals.drops.iter().sum::<u64>()
    }

    /// Returns the totals once `frames` frames have been counted.
    fn settled(&self, frames: u64) -> TotalsSnapshot {
        eventually(&format!("{frames} frames are accounted for"), || {
            self.page.worker().totals.frames == frames && self.is_balanced()
        });
        self.page.worker().totals
    }

    fn stop(self) {
        self.send(&ToWorker::Stop, &[]);
        self.thread.join().unwrap().unwrap();
    }
}

fn output(slot: u32, egress: u32, address: SocketAddr) -> RelayOutput {
    RelayOutput {
        address,
        options: OutputOptions::default(),
        source: None,
        egress: Some(EgressId(egress)),
        slot: OutputSlot(slot),
    }
}

/// A rule for one of the groups of [`Captured`].
fn rule(number: u8, outputs: Vec<RelayOutput>) -> RelayRule {
    RelayRule {
        id: RuleId::from_bits(number.into()),
        group: group(number).into(),
        more_groups: Vec::new(),
        reassemble: true,
        port: PORT,
        sources: vec![],
        slot: RuleSlot(number.into()),
        options: RuleOptions::default(),
        merge: None,
        outputs,
    }
}

fn payload(number: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (number * 31 + at * 7).to_le_bytes()[0]).collect()
}

fn arrived(receiver: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let bytes = receiver.recv(&mut buffer).unwrap();
    buffer.truncate(bytes);
    buffer
}

#[test]
fn datagrams_reach_every_output_and_are_counted() {
    for io in BOTH {
        let mut worker = Worker::ready(io);
        let receivers = [udp(), udp()];
        worker.pass(5, udp());
        worker.pass(6, udp());
        let addresses = [0, 1].map(|at: usize| receivers[at].local_addr().unwrap());
        worker.apply(vec![rule(1, vec![output(0, 5, addresses[0]), output(1, 6, addresses[1])])]);
        for number in 0..20 {
            worker.capture(&Captured::plain(1, 1, &payload(number, 100 + number)));
            for receiver in &receivers {
                assert_eq!(arrived(receiver), payload(number, 100 + number), "{io:?}");
            }
        }
        worker.capture(&Captured::plain(1, 2, b"no rule"));
        let totals = worker.settled(21);
        assert_eq!((totals.matched, totals.due, totals.sent), (20, 40, 40));
        let beats = worker.page.worker().heartbeat;
        eventually("heartbeats", || worker.page.worker().heartbeat > beats + 1);
        worker.stop();
    }
}

/// Frames are queued in the kernel until the first rule set, so that the worker receives them together, in portions that fit
/// into the receiver's socket buffer.
#[test]
fn a_queue_of_frames_is_relayed_completely_and_in_order() {
    let plain = |number, bytes| Captured::plain(1, 1, &payload(number, bytes));
    let parts = [
        (0..60).map(|n| plain(n, 200)).collect(),
        (60..80).map(|n| plain(n, n * 3)).collect(),
        vec![Captured { segment: 500, ..plain(80, 20_250) }],
        vec![Captured { segment: 10, ..plain(81, 1_005) }, plain(82, 0), plain(83, 8_900)],
    ];
    for io in BOTH {
        let mut worker = Worker::ready(io);
        let receiver = udp();
        worker.pass(0, udp());
        let rules = vec![rule(1, vec![output(0, 0, receiver.local_addr().unwrap())])];
        let (mut frames, mut datagrams) = (0, 0);
        for part in &parts {
            let part: &Vec<Captured> = part;
            part.iter().for_each(|frame| worker.capture(frame));
            if frames == 0 {
                worker.apply(rules.clone());
            }
            for datagram in part.iter().flat_map(Captured::datagrams) {
                assert_eq!(arrived(&receiver), datagram, "{io:?}, datagram {datagrams}");
                datagrams += 1;
            }
            frames += part.len() as u64;
        }
        let totals = worker.settled(frames);
        assert_eq!((totals.received, totals.sent), (datagrams, datagrams));
        worker.stop();
    }
}

#[test]
fn more_sends_than_the_ring_holds_lose_nothing() {
    for io in BOTH {
        let mut worker = Worker::ready(io);
        let receiver = udp();
        let address = receiver.local_addr().unwrap();
        worker.pass(0, udp());
        // Sizes that can't be combined in a run: one send for each datagram and output.
        (0..50_usize).for_each(|n| worker.capture(&Captured::plain(1, 1, &payload(n, 100 + n))));
        worker.apply(vec![rule(1, (0..60).map(|slot| output(slot, 0, address)).collect())]);
        let totals = worker.settled(50);
        assert_eq!(totals.due, 3_000);
        assert_eq!(totals.drops[DropReason::NoBuffer.index()], 0, "{io:?}");
        assert_eq!(totals.sent, 3_000, "{io:?} {totals:?}");
        worker.stop();
    }
}

/// The ICMP error of a closed port fails the next send on the socket, possibly to another host.
#[test]
fn a_closed_port_affects_its_own_output_only() {
    for io in BOTH {
        let mut worker = Worker::ready(io);
        let receiver = udp();
        let closed = udp().local_addr().unwrap();
        let egress = open_egress(&EgressOptions {
            ifindex: IfIndex::new(1),
            family: Family::V4,
            ttl: Some(16),
            dscp: Some(0),
            origin: Origin::Interface,
            multicast_loop: true,
            send_buffer_bytes: 1 << 20,
            marked: false,
            mark: 0,
        });
        worker.pass(0, egress.unwrap());
        let outputs = vec![output(0, 0, closed), output(1, 0, receiver.local_addr().unwrap())];
        (0..40).for_each(|n| worker.capture(&Captured::plain(1, 1, &payload(n, 100 + n % 3))));
        worker.apply(vec![rule(1, outputs)]);
        (0..40).for_each(|n| assert_eq!(arrived(&receiver), payload(n, 100 + n % 3), "{io:?}"));
        worker.settled(40);
        let good = worker.page.output(OutputSlot(1));
        assert_eq!((good.packets, good.dropped()), (40, 0), "{io:?}");
        let (bad, refused) = (worker.page.output(OutputSlot(0)), DropReason::Refused.index());
        // Each datagram to it but the last has been answered before the next is sent, up to the kernel's limit of ICMP.
        assert!(bad.drops[refused] >= 5, "{io:?}: {bad:?}");
        assert_eq!((bad.packets + bad.drops[refused], bad.dropped()), (40, bad.drops[refused]), "{io:?}");
        worker.stop();
    }
}

#[test]
fn a_rule_set_replaces_the_one_before_and_its_sockets() {
    for io in BOTH {
        let mut worker = Worker::ready(io);
        let (first, second) = (udp(), udp());
        let (egress, watch) = UnixDatagram::pair().unwrap();
        worker.pass(0, udp());
        worker.pass(1, egress);
        let kept = output(0, 0, first.local_addr().unwrap());
        worker.apply(vec![rule(1, vec![kept.clone(), output(1, 1, first.local_addr().unwrap())])]);
        watch.send(b"open").unwrap();
        worker.pass(2, udp());
        worker.apply(vec![rule(1, vec![kept]), rule(2, vec![output(2, 2, second.local_addr().unwrap())])]);
        eventually("the unused socket is closed", || watch.send(b"open").is_err());
        worker.capture(&Captured::plain(1, 1, b"one"));
        worker.capture(&Captured::plain(1, 2, b"two"));
        assert_eq!((arrived(&first), arrived(&second)), (b"one".to_vec(), b"two".to_vec()));
        worker.apply(vec![]);
        worker.capture(&Captured::plain(1, 1, b"none"));
        let totals = worker.settled(3);
        assert_eq!((totals.matched, totals.sent), (2, 2));
        worker.stop();
    }
}

#[test]
fn a_refused_rule_set_changes_nothing() {
    for io in BOTH {
        let mut worker = Worker::ready(io);
        let receiver = udp();
        worker.pass(0, udp());
        let good = vec![rule(1, vec![output(0, 0, receiver.local_addr().unwrap())])];
        worker.apply(good.clone());
        let applied = worker.page.worker();

        let (reply, _) = worker.announce(vec![rule(1, vec![output(0, 9, receiver.local_addr().unwrap())])]);
        assert!(matches!(&reply, FromWorker::Refused { generation: 2, reason } if reason.contains("egress")));
        let file = rule_set_file(b"not a rule set").unwrap();
        worker.send(&ToWorker::RuleSet { generation: 3, hash: 1 }, &[&file]);
        assert!(matches!(worker.reply(), FromWorker::Refused { generation: 3, .. }));
        worker.send(&ToWorker::RuleSet { generation: 4, hash: 1 }, &[]);
        assert!(matches!(worker.reply(), FromWorker::Refused { generation: 4, .. }));
        let set =
            RuleSet { generation: 1, own: Own::default(), rules: good.into_iter().map(Into::into).collect() };
        let file = rule_set_file(&set.encode().unwrap()).unwrap();
        worker.send(&ToWorker::RuleSet { generation: 5, hash: set.content_hash() }, &[&file]);
        assert!(matches!(worker.reply(), FromWorker::Refused { generation: 5, .. }));
        let next = RuleSet { generation: 6, ..RuleSet::default() };
        let of_another = RuleSetChange { base_generation: 5, ..RuleSetChange::between(&set, &next) };
        let file = rule_set_file(&of_another.encode().unwrap()).unwrap();
        worker.send(&ToWorker::RuleSetChange { generation: 6, hash: next.content_hash() }, &[&file]);
        assert!(
            matches!(&worker.reply(), FromWorker::Refused { generation: 6, reason } if reason.contains("generation 5, and 1"))
        );

        let still = worker.page.worker();
        assert_eq!((still.generation, still.hash), (applied.generation, applied.hash));
        worker.send(&ToWorker::LogLevels("error,dataplane=off".parse().unwrap()), &[]);
        worker.capture(&Captured::plain(1, 1, b"still"));
        assert_eq!(arrived(&receiver), b"still");
        worker.stop();
    }
}

/// Only the change is sent; the resulting table and hash are those of the whole set.
#[test]
fn a_change_of_the_rule_set_takes_effect() {
    for io in BOTH {
        let mut worker = Worker::ready(io);
        let (receiver, other) = (udp(), udp());
        worker.pass(0, udp());
        let to = |slot, socket: &UdpSocket| vec![output(slot, 0, socket.local_addr().unwrap())];
        let whole = |generation, rules: Vec<RelayRule>| RuleSet {
            generation,
            own: Own::default(),
            rules: rules.into_iter().map(Into::into).collect(),
        };
        let first = vec![rule(1, to(0, &receiver)), rule(2, to(1, &receiver))];
        worker.apply(first.clone());
        let (before, after) =
            (whole(1, first), whole(2, vec![rule(1, to(2, &other)), rule(3, to(3, &other))]));
        let file = rule_set_file(&RuleSetChange::between(&before, &after).encode().unwrap()).unwrap();
        let hash = after.content_hash();
        worker.send(&ToWorker::RuleSetChange { generation: 2, hash }, &[&file]);
        assert_eq!(worker.reply(), FromWorker::Applied { generation: 2, hash });
        for (group, payload) in [(1, b"one"), (2, b"two"), (3, b"333")] {
            worker.capture(&Captured::plain(1, group, payload));
        }
        assert_eq!((arrived(&other), arrived(&other)), (b"one".to_vec(), b"333".to_vec()), "{io:?}");
        eventually("the table is hashed", || {
            worker.page.worker().audit.is_some_and(|audit| audit.hash == after.table_hash())
        });
        worker.stop();
    }
}

#[test]
fn datagrams_of_a_dead_worker_are_counted_by_its_replacement() {
    for io in BOTH {
        let page = create_page().unwrap();
        let dead = PageWriter::map(&page, 1, IoBackend::IoUring).unwrap();
        dead.count(Total::Frames, 9);
        dead.count(Total::Received, 9);
        dead.count(Total::Matched, 7);
        dead.matched(RuleSlot(1), 7, 700, 14);
        dead.due(OutputSlot(0), 7);
        dead.due(OutputSlot(1), 7);
        dead.sent(OutputSlot(0), 7, 700);
        dead.sent(OutputSlot(1), 3, 300);
        let mut worker = Worker::spawn(start_message(io), &page);
        assert!(matches!(worker.reply(), FromWorker::Ready { .. }));
        worker.pass(0, udp());
        let address = udp().local_addr().unwrap();
        worker.apply(vec![rule(1, vec![output(0, 0, address), output(1, 0, address)])]);
        let totals = worker.settled(9);
        assert_eq!(totals.drops[DropReason::WorkerDied.index()], 4);
        assert_eq!(worker.page.output(OutputSlot(1)).drops[DropReason::WorkerDied.index()], 4);
        worker.stop();
    }
}

#[test]
fn a_worker_exits_when_its_channel_is_closed() {
    for io in BOTH {
        let worker = Worker::ready(io);
        drop(worker.channel);
        worker.thread.join().unwrap().unwrap();
    }
}

#[test]
fn an_invalid_start_message_is_answered() {
    let page = create_page().unwrap();
    let start = WorkerStart { version: LINK_VERSION + 1, ..start_message(IoChoice::Auto) };
    let worker = Worker::spawn(start, &page);
    assert!(matches!(worker.reply(), FromWorker::Failed { reason } if reason.contains("version")));
    assert!(matches!(worker.thread.join().unwrap(), Err(WorkerError::Start(_))));

    // The capture socket instead of the page.
    let (channel, theirs) = Channel::pair().unwrap();
    let thread = std::thread::spawn(move || run_with(theirs, Privileges::Keep));
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let start = ToWorker::Start(start_message(IoChoice::Auto));
    message::send(&channel, &start, &[socket.as_fd(), socket.as_fd()]).unwrap();
    assert!(matches!(thread.join().unwrap(), Err(WorkerError::System(_))));
}
