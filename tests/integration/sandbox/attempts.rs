//! The escape kit: what an attacker in a worker tries. Each attempt is one system call that would succeed in a process that is
//! only without privileges, or nearly.

use mcr_sys::clock::monotonic;
use mcr_sys::test_env::tracer::{Outcome, Traced};
use mcr_testnet::{Daemon, IoBackend, Topology, wait_for, wait_until};

use super::{DEADLINE, Duration, SIGSYS, packet_sockets, pid_of, two_workers, worker_of};
use crate::events::Events;
use crate::scenario::{assert_received, recv, send};

/// A worker that has worked for a quarter of a second is replaced at once.
const WORKED: Duration = Duration::from_millis(300);

/// An attempt: a name, and a call with its arguments, from the capture socket, an egress socket and scratch memory.
struct Attempt {
    what: &'static str,
    call: i64,
    arguments: fn(u64, u64, u64) -> [u64; 6],
}

const fn attempt(what: &'static str, call: i64, arguments: fn(u64, u64, u64) -> [u64; 6]) -> Attempt {
    Attempt { what, call, arguments }
}

mod call {
    //! Numbers of x86-64, on which the attempts run.
    pub(super) const READ: i64 = 0;
    pub(super) const WRITE: i64 = 1;
    pub(super) const MMAP: i64 = 9;
    pub(super) const MPROTECT: i64 = 10;
    pub(super) const IOCTL: i64 = 16;
    pub(super) const WRITEV: i64 = 20;
    pub(super) const DUP: i64 = 32;
    pub(super) const DUP2: i64 = 33;
    pub(super) const SOCKET: i64 = 41;
    pub(super) const CONNECT: i64 = 42;
    pub(super) const SENDTO: i64 = 44;
    pub(super) const SENDMSG: i64 = 46;
    pub(super) const BIND: i64 = 49;
    pub(super) const SOCKETPAIR: i64 = 53;
    pub(super) const SETSOCKOPT: i64 = 54;
    pub(super) const GETSOCKOPT: i64 = 55;
    pub(super) const CLONE: i64 = 56;
    pub(super) const EXECVE: i64 = 59;
    pub(super) const KILL: i64 = 62;
    pub(super) const FCNTL: i64 = 72;
    pub(super) const PTRACE: i64 = 101;
    pub(super) const SETUID: i64 = 105;
    pub(super) const PERSONALITY: i64 = 135;
    pub(super) const PRCTL: i64 = 157;
    pub(super) const CHROOT: i64 = 161;
    pub(super) const MOUNT: i64 = 165;
    pub(super) const FUTEX: i64 = 202;
    pub(super) const KEYCTL: i64 = 250;
    pub(super) const OPENAT: i64 = 257;
    pub(super) const UNSHARE: i64 = 272;
    pub(super) const DUP3: i64 = 292;
    pub(super) const SENDMMSG: i64 = 307;
    pub(super) const SETNS: i64 = 308;
    pub(super) const PROCESS_VM_READV: i64 = 310;
    pub(super) const SECCOMP: i64 = 317;
    pub(super) const MEMFD_CREATE: i64 = 319;
    pub(super) const BPF: i64 = 321;
    pub(super) const USERFAULTFD: i64 = 323;
    pub(super) const IO_URING_SETUP: i64 = 425;
    pub(super) const IO_URING_REGISTER: i64 = 427;
    pub(super) const PIDFD_OPEN: i64 = 434;
    pub(super) const CLONE3: i64 = 435;
}

/// What scratch memory holds: a path at its start, 256 bytes of zeroes behind.
const PATH: &[u8] = b"/etc/passwd\0";

const ATTEMPTS: &[Attempt] = &[
    attempt("bind the capture socket to all interfaces", call::BIND, |capture, _, at| {
        [capture, at + 64, 20, 0, 0, 0]
    }),
    attempt("set its interface promiscuous", call::SETSOCKOPT, |capture, _, at| {
        [capture, 263, 1, at + 64, 16, 0]
    }),
    attempt("detach its filter", call::SETSOCKOPT, |capture, _, at| [capture, 1, 27, at + 64, 4, 0]),
    attempt("remove its transmit ring", call::SETSOCKOPT, |capture, _, at| {
        [capture, 263, 13, at + 64, 16, 0]
    }),
    attempt("leave its fan-out group", call::SETSOCKOPT, |capture, _, at| [capture, 263, 18, at + 64, 4, 0]),
    attempt("send a frame on it", call::SENDTO, |capture, _, at| [capture, at, 64, 0, 0, 0]),
    attempt("send a message on it", call::SENDMSG, |capture, _, at| [capture, at + 64, 0, 0, 0, 0]),
    attempt("send messages on it", call::SENDMMSG, |capture, _, at| [capture, at + 64, 1, 0, 0, 0]),
    attempt("write to it", call::WRITE, |capture, _, at| [capture, at, 64, 0, 0, 0]),
    attempt("write vectors to it", call::WRITEV, |capture, _, at| [capture, at + 64, 1, 0, 0, 0]),
    attempt("map it", call::MMAP, |capture, _, _| [0, 4096, 3, 1, capture, 0]),
    attempt("read its address", call::IOCTL, |capture, _, at| [capture, 0x8927, at + 64, 0, 0, 0]),
    attempt("set an interface's flags", call::IOCTL, |_, egress, at| [egress, 0x8914, at + 64, 0, 0, 0]),
    attempt("read another option", call::GETSOCKOPT, |capture, _, at| {
        [capture, 263, 6, at + 64, at + 128, 0]
    }),
    attempt("connect an egress socket", call::CONNECT, |_, egress, at| [egress, at + 64, 16, 0, 0, 0]),
    attempt("bind an egress socket", call::BIND, |_, egress, at| [egress, at + 64, 16, 0, 0, 0]),
    attempt("duplicate a descriptor", call::DUP, |capture, _, _| [capture, 0, 0, 0, 0, 0]),
    attempt("duplicate it to a number", call::DUP2, |capture, _, _| [capture, 100, 0, 0, 0, 0]),
    attempt("the same with a flag", call::DUP3, |capture, _, _| [capture, 100, 0, 0, 0, 0]),
    attempt("the same by fcntl", call::FCNTL, |capture, _, _| [capture, 0, 100, 0, 0, 0]),
    attempt("open a UDP socket", call::SOCKET, |_, _, _| [2, 2, 0, 0, 0, 0]),
    attempt("open a unix socket", call::SOCKET, |_, _, _| [1, 1, 0, 0, 0, 0]),
    attempt("open a netlink socket", call::SOCKET, |_, _, _| [16, 3, 0, 0, 0, 0]),
    attempt("open a socket pair", call::SOCKETPAIR, |_, _, at| [1, 1, 0, at + 64, 0, 0]),
    attempt("open a file", call::OPENAT, |_, _, at| [u64::MAX - 99, at, 0, 0, 0, 0]),
    attempt("read from the channel as a file", call::READ, |_, _, at| [0, at + 64, 8, 0, 0, 0]),
    attempt("write to the channel as a file", call::WRITE, |_, _, at| [0, at, 8, 0, 0, 0]),
    attempt("execute a program", call::EXECVE, |_, _, at| [at, 0, 0, 0, 0, 0]),
    attempt("fork", call::CLONE, |_, _, _| [17, 0, 0, 0, 0, 0]),
    attempt("start a thread", call::CLONE3, |_, _, at| [at + 64, 64, 0, 0, 0, 0]),
    attempt("make a user namespace", call::UNSHARE, |_, _, _| [0x1000_0000, 0, 0, 0, 0, 0]),
    attempt("enter a namespace", call::SETNS, |capture, _, _| [capture, 0, 0, 0, 0, 0]),
    attempt("make another ring", call::IO_URING_SETUP, |_, _, at| [8, at + 64, 0, 0, 0, 0]),
    attempt("register buffers", call::IO_URING_REGISTER, |_, egress, at| [egress, 0, at + 64, 1, 0, 0]),
    attempt("make memory executable", call::MPROTECT, |_, _, at| [at, 4096, 5, 0, 0, 0]),
    attempt("map executable memory", call::MMAP, |_, _, _| [0, 4096, 7, 0x22, u64::MAX, 0]),
    attempt("trace its parent", call::PTRACE, |_, _, _| [16, 1, 0, 0, 0, 0]),
    attempt("read another's memory", call::PROCESS_VM_READV, |_, _, at| [1, at + 64, 1, at + 64, 1, 0]),
    attempt("signal its group", call::KILL, |_, _, _| [0, 0, 0, 0, 0, 0]),
    attempt("open a process", call::PIDFD_OPEN, |_, _, _| [1, 0, 0, 0, 0, 0]),
    attempt("make a memory file", call::MEMFD_CREATE, |_, _, at| [at, 0, 0, 0, 0, 0]),
    attempt("load a program into the kernel", call::BPF, |_, _, at| [5, at + 64, 64, 0, 0, 0]),
    attempt("handle page faults", call::USERFAULTFD, |_, _, _| [1, 0, 0, 0, 0, 0]),
    attempt("read the key ring", call::KEYCTL, |_, _, _| [0, 0xffff_fffd, 1, 0, 0, 0]),
    attempt("change its root", call::CHROOT, |_, _, at| [at, 0, 0, 0, 0, 0]),
    attempt("mount", call::MOUNT, |_, _, at| [at, at, 0, 4096, 0, 0]),
    attempt("change its user", call::SETUID, |_, _, _| [65_534, 0, 0, 0, 0, 0]),
    attempt("be traced", call::PRCTL, |_, _, _| [4, 1, 0, 0, 0, 0]),
    attempt("another filter", call::SECCOMP, |_, _, at| [1, 0, at + 64, 0, 0, 0]),
    attempt("read the personality", call::PERSONALITY, |_, _, _| [0xffff_ffff, 0, 0, 0, 0, 0]),
    attempt("requeue a futex", call::FUTEX, |_, _, at| [at + 64, 3 | 128, 0, 0, at + 128, 0]),
];

/// An egress socket of the process: a socket that is neither a packet socket nor the channel. Before its first send it is in no
/// table of UDP sockets.
pub(super) fn egress_socket(pid: u32) -> u64 {
    let others = ["packet", "unix"].map(|table| {
        let path = format!("/proc/{pid}/net/{table}");
        std::fs::read_to_string(path).expect("a table of sockets")
    });
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let is_egress = |entry: &std::fs::DirEntry| {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let inode = target
            .to_str()
            .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned));
        let is_other =
            |inode: &str| others.iter().any(|table| table.split_whitespace().any(|word| word == inode));
        inode.is_some_and(|inode| !is_other(&inode))
    };
    let found = descriptors.flatten().find(is_egress).expect("an egress socket").file_name();
    found.to_str().and_then(|text| text.parse().ok()).expect("a number")
}

on_both_backends! {
    /// None of the attempts succeeds; each that kills the worker is told as such, and the other worker's stream loses nothing.
    fn no_attempt_succeeds_and_the_other_worker_loses_nothing(io) {
        assert!(ATTEMPTS.len() >= 33);
        let topology = Topology::sender_relay_receiver();
        let mut daemon = two_workers(&topology, io);
        daemon.expect_sandbox_kills();
        let receiver = recv(&topology.receiver, "eth0", "239.2.2.2", "--idle 2");
        let mut stream = send(&topology.sender, "eth1", "239.1.1.1", "--rate 1000 --count 600000 --size 200");
        let other = pid_of(&worker_of(&daemon, "in1"));
        let (mut kills, mut refused) = (0_usize, 0_usize);
        for Attempt { what, call, arguments } in ATTEMPTS {
            let pid = pid_of(&worker_of(&daemon, "eth0"));
            let [capture] = packet_sockets(pid)[..] else { panic!("one packet socket") };
            let egress = egress_socket(pid);
            let mut traced = Traced::attach(pid).expect("attach");
            let scratch = traced.scratch();
            traced.write(scratch, &[0; 512]).expect("write");
            traced.write(scratch, PATH).expect("write");
            let outcome = traced.call(*call, arguments(capture.into(), egress, scratch)).expect("a call");
            drop(traced);
            assert!(!outcome.succeeded(), "{what} succeeded: {outcome:?}");
            match outcome {
                Outcome::Killed(signal) => {
                    assert_eq!(signal, SIGSYS, "{what}");
                    kills += 1;
                    let worker = wait_for("a replacement, and the reason", DEADLINE, || {
                        let worker = worker_of(&daemon, "eth0");
                        let told = worker["sandbox_kills"] == kills && pid_of(&worker) != pid;
                        if told { Ok(worker) } else { Err(worker) }
                    });
                    assert_eq!(worker["restarts"], kills, "{worker:#}");
                    let since = monotonic();
                    wait_until("a worker that has worked", DEADLINE, || monotonic() - since > WORKED);
                }
                // A call that libraries make is refused instead.
                Outcome::Returned(errno) => {
                    assert_eq!(errno, -1, "{what}: refused with EPERM");
                    refused += 1;
                }
            }
        }
        println!("{} attempts: {kills} killed, {refused} refused", ATTEMPTS.len());
        let log = daemon.log();
        assert!(log.matches("its sandbox killed it (SIGSYS)").count() >= kills, "{log}");
        assert!(stream.is_running(), "the stream ended before the attempts");
        stream.interrupt();
        let sent = stream.finish()["sent"].as_u64().expect("a number");
        assert_received(&receiver.finish(), sent);
        assert_eq!(pid_of(&worker_of(&daemon, "in1")), other, "the other worker is the same");
    }
}

/// A death by SIGSYS has a reason, an event and a count of its own.
#[test]
fn a_death_by_the_sandbox_is_told() {
    let topology = Topology::sender_relay_receiver();
    let mut daemon = two_workers(&topology, IoBackend::Uring);
    daemon.expect_sandbox_kills();
    let events = Events::of(&daemon);
    let pid = pid_of(&worker_of(&daemon, "eth0"));
    let outcome =
        Traced::attach(pid).expect("attach").call(call::SOCKET, [2, 2, 0, 0, 0, 0]).expect("a call");
    assert_eq!(outcome, Outcome::Killed(SIGSYS));
    let event = events.next_of("worker", "killed_by_sandbox");
    assert_eq!(event["interface"], "eth0", "{event}");
    let worker = wait_for("a replacement", DEADLINE, || {
        let worker = worker_of(&daemon, "eth0");
        if worker["sandbox_kills"] == 1 { Ok(worker) } else { Err(worker) }
    });
    assert_eq!(worker["restarts"], 1, "{worker:#}");
    let log = daemon.log();
    assert!(log.contains("its sandbox killed it (SIGSYS)"), "{log}");
    let doctor = daemon.ctl_json(&["doctor", "--listen", "0"]);
    let findings = doctor["host"]["findings"].to_string();
    assert!(findings.contains("worker_killed_by_sandbox"), "{findings}");
}

/// Makes a worker do what its filter forbids.
fn break_out(pid: u32) {
    let outcome =
        Traced::attach(pid).expect("attach").call(call::SOCKET, [2, 2, 0, 0, 0, 0]).expect("a call");
    assert_eq!(outcome, Outcome::Killed(SIGSYS));
}

/// Before Linux 6.15 a process that is no child can be reaped before the supervisor looks; and in a user namespace only a reaped
/// one's status can be read.
fn tells_how_any_process_ended() -> bool {
    if crate::scenario::is_in_user_namespace() {
        return false;
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    numbers.take(2).ge([6, 15])
}

fn assert_told(daemon: &Daemon, kills: u64) {
    wait_for("a replacement, and the reason", DEADLINE, || {
        let worker = worker_of(daemon, "eth0");
        if worker["restarts"] == kills { Ok(()) } else { Err(worker) }
    });
    let (worker, log) = (worker_of(daemon, "eth0"), daemon.log());
    println!("{} of {kills} deaths are told as what they were", worker["sandbox_kills"]);
    if tells_how_any_process_ended() {
        assert_eq!(worker["sandbox_kills"], kills, "{worker:#}");
        let told = log.matches("its sandbox killed it (SIGSYS)").count();
        assert!(told >= usize::try_from(kills).expect("a number"), "{log}");
    } else {
        let known = worker["sandbox_kills"].as_u64().expect("a number");
        let unknown = log.matches("how is not known").count() as u64;
        let honest = known == kills || known + unknown >= kills;
        assert!(honest, "{worker:#}\n{log}");
    }
}

on_both_backends! {
    /// Also of workers that an earlier supervisor started: after an upgrade, after a crash, and while none was there.
    fn a_death_by_the_sandbox_of_an_adopted_worker_is_told(io) {
        let topology = Topology::sender_relay_receiver();
        let mut daemon = two_workers(&topology, io);
        daemon.expect_sandbox_kills();
        let backend = |command: &mut std::process::Command| {
            command.env("MCRD_IO", io.as_str());
        };
        let first = pid_of(&worker_of(&daemon, "eth0"));
        daemon.upgrade();
        assert_eq!(pid_of(&worker_of(&daemon, "eth0")), first, "adopted");
        let events = Events::of(&daemon);
        break_out(first);
        assert_told(&daemon, 1);
        if tells_how_any_process_ended() {
            assert_eq!(events.next_of("worker", "killed_by_sandbox")["interface"], "eth0");
        }
        drop(events);

        let second = pid_of(&worker_of(&daemon, "eth0"));
        daemon.kill_and_restart(&topology.relay, backend);
        assert_eq!(pid_of(&worker_of(&daemon, "eth0")), second, "adopted");
        break_out(second);
        assert_told(&daemon, 2);

        let third = pid_of(&worker_of(&daemon, "eth0"));
        daemon.kill();
        break_out(third);
        daemon.start_again(&topology.relay, backend);
        assert_told(&daemon, 3);
        if tells_how_any_process_ended() {
            let log = daemon.log();
            assert!(log.contains("while mcrd was away, its sandbox killed it"), "{log}");
        }
    }
}
