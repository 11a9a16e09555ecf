//! A worker is confined: what it may do is the repository's list, and nothing that an attacker in it tries succeeds. The attempts
//! are made from inside, by ptrace(2) and through the worker's own ring.

mod attempts;
mod forged;
mod inside;
mod pinned;
mod settings;

use std::time::Duration;

use mcr_sys::clock::monotonic;
use mcr_sys::process::Status;
use mcr_sys::sandbox::filter::{Descriptors, Filter};
use mcr_sys::sandbox::lists::{KEEPER, List, OBSERVER, WORKER_IO_URING, WORKER_RECVMMSG};
use mcr_sys::test_env::interpreter::{Verdict, can_pass, verdict};
use mcr_sys::test_env::tracer::{Outcome, RingMemory, Traced};
use mcr_sys::uring::OPERATIONS;
use mcr_testnet::{Daemon, IoBackend, Topology, wait_for};
use serde_json::{Value, json};

use crate::scenario::{input, is_in_user_namespace, nth, output, relay, rule, with};

const DEADLINE: Duration = Duration::from_secs(20);
/// Attempts are made in sessions of this length: a worker that is stopped for longer counts as stalled.
const SESSION: Duration = Duration::from_millis(200);
const EACCES: i32 = 13;
const EINVAL: i64 = 22;
const SIGSYS: i32 = 31;
/// io_uring_register(2), on x86-64.
const REGISTER: i64 = 427;
/// Linux 6.0 has these many ring operations, and operations on the ring itself (linux/io_uring.h).
const OPERATIONS_OF_LINUX_6_0: usize = 48;
const REGISTER_OPERATIONS_OF_LINUX_6_0: usize = 25;

/// Reading a process's filters takes rights in the initial user namespace, and a kernel that shows them (ptrace(2)): with another
/// one, a process that has filters seems to have none.
fn may_read_filters(pid: u32) -> bool {
    if is_in_user_namespace() {
        println!("skipped: system call filters can't be read in a user namespace");
        return false;
    }
    let shown = !Traced::attach(pid).expect("attach").filters().expect("filters").is_empty();
    let has_some = Status::read(Some(pid)).expect("a status").field("Seccomp") == ["2"];
    if has_some && !shown {
        println!("skipped: this kernel shows no system call filters (CONFIG_CHECKPOINT_RESTORE)");
        return false;
    }
    true
}

fn worker_of(daemon: &Daemon, interface: &str) -> Value {
    wait_for("a running worker", DEADLINE, || {
        let reply = daemon.ctl_json(&["workers"]);
        let workers = reply["workers"].as_array().into_iter().flatten();
        let found = workers.into_iter().find(|w| w["interface"] == interface && w["state"] == "running");
        found.cloned().ok_or(reply)
    })
}

fn pid_of(worker: &Value) -> u32 {
    worker["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
}

/// The descriptors of a process that are packet sockets.
fn packet_sockets(pid: u32) -> Vec<u32> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/packet")).expect("packet sockets");
    let inodes: Vec<&str> = table.lines().skip(1).filter_map(|line| line.split_whitespace().last()).collect();
    let directory = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let is_packet = |entry: &std::fs::DirEntry| {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let inode = target
            .to_str()
            .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned));
        inode.is_some_and(|inode| inodes.contains(&inode.as_str()))
    };
    directory
        .flatten()
        .filter(is_packet)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Every thread of a process has a filter.
fn assert_confined(pid: u32) {
    let threads: Vec<u32> = std::fs::read_dir(format!("/proc/{pid}/task"))
        .expect("threads")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    assert!(!threads.is_empty());
    for thread in threads {
        let status = Status::read(Some(thread)).expect("a thread's status");
        assert_eq!(status.field("Seccomp"), ["2"], "thread {thread} of {pid}");
        assert_eq!(status.field("NoNewPrivs"), ["1"], "thread {thread} of {pid}");
    }
}

on_both_backends! {
    /// R39, for system calls; read out of the running process, not out of the program that built it.
    fn the_list_in_force_is_the_repositorys(io) {
        let topology = Topology::sender_relay_receiver();
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]);
        let worker = worker_of(&daemon, "eth0");
        let pid = pid_of(&worker);
        let [capture] = packet_sockets(pid)[..] else { panic!("one packet socket") };
        assert_confined(pid);
        let list = if io == IoBackend::Uring { &WORKER_IO_URING } else { &WORKER_RECVMMSG };
        if !may_read_filters(pid) {
            return;
        }
        let filters = Traced::attach(pid).expect("attach").filters().expect("filters");
        let [filter] = &filters[..] else { panic!("{} filters", filters.len()) };

        let passing: Vec<i64> = (0..4_096).filter(|n| can_pass(filter, *n)).map(i64::from).collect();
        let mut listed: Vec<i64> = list.allowed.iter().map(|call| call.number).collect();
        listed.sort_unstable();
        assert_eq!(passing, listed);
        assert!(passing.len() <= 16, "{} calls", passing.len());
        // And the same decisions about their arguments: it is the program of the list with this descriptor.
        let own = std::fs::File::open("/dev/null").expect("a file");
        // SAFETY is not needed: a duplicate at the wanted number stands for the worker's socket.
        let same = rustix::io::fcntl_dupfd_cloexec(&own, i32::try_from(capture).expect("a descriptor"));
        let same = same.expect("a duplicate");
        if std::os::fd::AsRawFd::as_raw_fd(&same) == i32::try_from(capture).expect("a descriptor") {
            let descriptors = Descriptors { captures: &[std::os::fd::AsFd::as_fd(&same)] };
            let expected = Filter::new(list, Some(&descriptors)).expect("a filter");
            let lines = |program: &[_]| format!("{program:?}");
            assert_eq!(lines(filter), lines(expected.instructions()));
        }
        let layers = worker["sandbox"].to_string();
        for layer in ["tx-locked", "seccomp"] {
            assert!(layers.contains(layer), "{layers}");
        }
        assert_eq!(layers.contains("ring"), io == IoBackend::Uring, "{layers}");
    }

    /// R38: a worker holds few descriptors, whatever the number of its outputs that share a socket.
    fn two_hundred_outputs_take_no_descriptors_of_their_own(io) {
        let topology = Topology::sender_relay_receiver();
        let outputs = (0..200).map(|n| output(nth("239.2.2.0", n)));
        let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), outputs)]);
        let pid = pid_of(&worker_of(&daemon, "eth0"));
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").count();
        assert!(open <= 16, "{open} descriptors");
    }

    /// And one for each kind of output beyond the first (decision 040).
    fn each_kind_of_output_takes_one_descriptor(io) {
        let topology = Topology::sender_relay_receiver();
        let open = |kinds: u8| {
            let outputs = (1..=kinds).map(|ttl| with(output(nth("239.2.2.0", ttl)), "ttl", ttl));
            let daemon = relay(&topology, io, &[rule(input("239.1.1.1"), outputs)]);
            let pid = pid_of(&worker_of(&daemon, "eth0"));
            std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").count()
        };
        let (one, fifty) = (open(1), open(50));
        println!("{one} descriptors with one kind of output, {fifty} with 50");
        assert!(one <= 11, "{one} descriptors");
        assert_eq!(fifty, one + 49);
    }
}

/// The numbers whose attempts were not refused, in order. The kernel answers EINVAL for those that it does not know, before it
/// looks at restrictions; these must be the last ones, from a number on that is at least `known`.
fn passing(results: &[i64], known: usize) -> Vec<usize> {
    let unknown = results.iter().rev().take_while(|result| **result == -EINVAL).count();
    let (all, refused) = (results.len() - unknown, -i64::from(EACCES));
    assert!(all >= known, "{all} known ones: {results:?}");
    (0..all).filter(|number| results[*number] != refused).collect()
}

/// R39, for operations on the ring itself. Two layers refuse the others: the ring, which is asked with the filter suspended, and
/// the filter, which is read out of the process.
#[test]
fn of_all_operations_on_the_ring_itself_the_listed_pass() {
    let topology = Topology::sender_relay_receiver();
    let mut daemon = relay(&topology, IoBackend::Uring, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]);
    daemon.expect_sandbox_kills();
    let pid = pid_of(&worker_of(&daemon, "eth0"));
    if !may_read_filters(pid) {
        return;
    }
    let ring = u64::from(RingMemory::of(pid).expect("a ring").descriptor());
    let listed: Vec<usize> = mcr_sys::uring::REGISTER_OPERATIONS.iter().map(|n| *n as usize).collect();
    assert!(listed.len() <= 2);

    let mut traced = match Traced::attach_without_filters(pid) {
        Ok(traced) => traced,
        Err(error) => return println!("skipped: the filter can't be suspended: {error}"),
    };
    // No argument: what passes fails without effect.
    let mut attempt = |operation: u64| match traced.call(REGISTER, [ring, operation, 0, 0, 0, 0]) {
        Ok(Outcome::Returned(result)) => result,
        other => panic!("operation {operation}: {other:?}"),
    };
    let results: Vec<i64> = (0..256).map(&mut attempt).collect();
    assert!(results.iter().all(|result| *result < 0), "{results:?}");
    assert_eq!(passing(&results, REGISTER_OPERATIONS_OF_LINUX_6_0), listed);
    drop(traced);

    let filters = Traced::attach(pid).expect("attach").filters().expect("filters");
    let register = u32::try_from(REGISTER).expect("a number");
    let allowed =
        |operation: u64| verdict(&filters[0], register, [ring, operation, 0, 0, 0, 0]) == Verdict::Allow;
    // The upper half: the same operations on a registered ring (`IORING_REGISTER_USE_REGISTERED_RING`).
    let passing = (0..256).chain((1 << 31)..(1 << 31) + 256).filter(|n| allowed(*n));
    assert_eq!(passing.collect::<Vec<_>>(), listed.iter().map(|n| *n as u64).collect::<Vec<_>>());
    assert_eq!(pid_of(&worker_of(&daemon, "eth0")), pid, "the worker goes on");
    // And not only by the letter of the filter.
    let unregister = Traced::attach(pid).expect("attach").call(REGISTER, [ring, 1, 0, 0, 0, 0]);
    assert_eq!(unregister.expect("a call"), Outcome::Killed(SIGSYS));
}

/// R39, for the ring: of all operations exactly the listed ones pass, and only on registered sockets, without flags that run them
/// elsewhere or chain them.
#[test]
fn of_all_ring_operations_the_listed_pass() {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, IoBackend::Uring, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]);
    let worker = worker_of(&daemon, "eth0");
    let pid = pid_of(&worker);
    let ring = RingMemory::of(pid).expect("a ring");
    const FIXED_FILE: u8 = 1;
    // No file has this place, no memory this address: what passes fails without effect.
    let entry = |operation: u8, flags: u8| {
        let mut entry = [0_u8; 64];
        (entry[0], entry[1]) = (operation, flags);
        entry[4..8].copy_from_slice(&1_000_000_i32.to_ne_bytes());
        entry
    };
    let operations: Vec<u8> = (0..=255).collect();
    let mut results = Vec::new();
    let mut operations = operations.iter().peekable();
    while operations.peek().is_some() {
        let mut traced = Traced::attach(pid).expect("attach");
        let end = monotonic() + SESSION;
        while let Some(operation) = operations.next_if(|_| monotonic() < end) {
            let result = traced.submit(&ring, &entry(*operation, FIXED_FILE)).expect("a result");
            assert!(result < 0, "operation {operation} did something: {result}");
            results.push(i64::from(result));
        }
    }
    let passing = passing(&results, OPERATIONS_OF_LINUX_6_0);
    let mut listed: Vec<usize> = OPERATIONS.iter().map(|operation| usize::from(*operation)).collect();
    listed.sort_unstable();
    assert_eq!(passing, listed);
    assert!(passing.len() <= 6);
    for operation in OPERATIONS {
        let mut traced = Traced::attach(pid).expect("attach");
        for (flags, what) in [
            (0, "a raw descriptor"),
            (FIXED_FILE | 1 << 1, "IO_DRAIN"),
            (FIXED_FILE | 1 << 2, "IO_LINK"),
            (FIXED_FILE | 1 << 3, "IO_HARDLINK"),
            (FIXED_FILE | 1 << 4, "ASYNC"),
        ] {
            let result = traced.submit(&ring, &entry(*operation, flags)).expect("a result");
            assert_eq!(result, -EACCES, "operation {operation} with {what}");
        }
    }
    assert_eq!(pid_of(&worker_of(&daemon, "eth0")), pid, "the worker goes on");
}

/// The list in force in a process without a capture socket.
fn assert_list_in_force(pid: u32, list: &List) {
    assert_confined(pid);
    let filters = Traced::attach(pid).expect("attach").filters().expect("filters");
    let [filter] = &filters[..] else { panic!("{} filters", filters.len()) };
    let passing: Vec<i64> = (0..4_096).filter(|n| can_pass(filter, *n)).map(i64::from).collect();
    let mut listed: Vec<i64> = list.allowed.iter().map(|call| call.number).collect();
    listed.sort_unstable();
    assert_eq!(passing, listed);
    assert!(passing.len() <= 16, "{} calls", passing.len());
    let expected = Filter::new(list, None).expect("a filter");
    assert_eq!(format!("{filter:?}"), format!("{:?}", expected.instructions()));
}

/// The keeper has a list of its own.
#[test]
fn the_keeper_is_confined() {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, IoBackend::Uring, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]);
    let keeper = daemon.keeper().expect("a keeper");
    assert_confined(keeper);
    if may_read_filters(keeper) {
        assert_list_in_force(keeper, &KEEPER);
    }
}

/// The observers of a daemon that are confined by now.
fn observers(daemon: &Daemon) -> Vec<u32> {
    let parent = daemon.pid().to_string();
    let processes = std::fs::read_dir("/proc").expect("processes").flatten();
    let is_observer = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let status = Status::read(Some(*pid)).ok();
        let has =
            |field: &str, value: &str| status.as_ref().is_some_and(|status| status.field(field) == [value]);
        line.starts_with(b"mcrd\0observe\0") && has("PPid", &parent) && has("Seccomp", "2")
    };
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_observer).collect()
}

/// So has the observer; and `explain` needs no other call.
#[test]
fn the_observer_is_confined() {
    let topology = Topology::sender_relay_receiver();
    let daemon = relay(&topology, IoBackend::Uring, &[rule(input("239.1.1.1"), [output("239.2.2.2")])]);
    if !may_read_filters(daemon.keeper().expect("a keeper")) {
        return;
    }
    let answer = std::thread::scope(|scope| {
        let asking = scope.spawn(|| daemon.ctl_json(&["doctor", "--listen", "3"]));
        let observer = wait_for("an observer", DEADLINE, || observers(&daemon).first().copied().ok_or(()));
        assert_list_in_force(observer, &OBSERVER);
        asking.join().expect("an answer")
    });
    assert!(answer["host"]["findings"].is_array(), "{answer:#}");
}

/// A configuration of two workers: the one under attack on `eth0`, and another on `in1`.
fn two_workers(topology: &Topology, io: IoBackend) -> Daemon {
    topology.add_input(1);
    let on_second = json!({"interface": "in1", "group": "239.1.1.1", "port": crate::scenario::INPUT_PORT});
    relay(
        topology,
        io,
        &[rule(input("239.1.1.1"), [output("239.2.2.1")]), rule(on_second, [output("239.2.2.2")])],
    )
}
