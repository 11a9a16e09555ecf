//! The supervisor dies or is replaced; workers, groups and traffic go on (R5, R8, R9).

use std::time::Duration;

use mcr_sys::clock;
use mcr_sys::process::{PidFd, Signal};
use mcr_testnet::{Daemon, Generator, Host, IoBackend, Topology, assert_accounting, wait_for, wait_until};
use serde_json::{Value, json};

use crate::scenario::{
    INPUT_PORT, OUTPUT_PORT, assert_received, input, input_on, nth, output, packets_of, recv, relay, rule,
    send, stats_without_drops, with,
};

const DEADLINE: Duration = Duration::from_secs(20);
/// L1: 20,000 datagrams/s of 1,400 B in four groups through two workers.
const RATE_PPS: u64 = 10_000;

/// Seconds that the traffic of one test lasts at least.
pub(crate) fn seconds() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a setting of the test")]
    let setting = std::env::var("MCR_ADOPTION_SECONDS");
    setting.ok().map_or(4, |text| text.parse().expect("MCR_ADOPTION_SECONDS is a number"))
}

fn workers(daemon: &Daemon) -> Vec<Value> {
    daemon.ctl_json(&["workers"])["workers"].as_array().cloned().unwrap_or_default()
}

/// Interface, process and what it has, of each worker: what no worker's change of supervisor may change.
pub(crate) fn identities(daemon: &Daemon) -> Vec<Value> {
    let fields = ["interface", "core", "pid", "generation", "ruleset_hash", "restarts", "io", "uid"];
    let of = |worker: &Value| Value::from_iter(fields.map(|field| (field, worker[field].clone())));
    workers(daemon).iter().map(of).collect()
}

pub(crate) fn pids(daemon: &Daemon) -> Vec<u32> {
    let pids = workers(daemon).iter().filter_map(|w| w["pid"].as_u64()).collect::<Vec<_>>();
    pids.into_iter().filter_map(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0).collect()
}

/// The rules of [`Load`].
pub(crate) fn load_rules() -> Vec<Value> {
    let rule_of = |index| {
        let group = nth("239.1.1.0", index);
        let input = if index < 2 { input(group) } else { input_on("in1", group) };
        rule(input, [output(nth("239.2.2.0", index))])
    };
    (0..4).map(rule_of).collect()
}

/// Two input interfaces with two groups each, and who sends and receives.
pub(crate) struct Load {
    pub(crate) topology: Topology,
    pub(crate) daemon: Daemon,
}

impl Load {
    pub(crate) fn new(io: IoBackend) -> Self {
        let topology = Topology::sender_relay_receiver();
        topology.add_input(1);
        let daemon = relay(&topology, io, &load_rules());
        Self { topology, daemon }
    }

    pub(crate) fn begin(&self, seconds: u64) -> Traffic {
        let each = RATE_PPS * seconds;
        let receivers = ["239.2.2.0", "239.2.2.2"]
            .map(|group| recv(&self.topology.receiver, "eth0", group, "--groups 2 --idle 3"));
        let options = format!("--groups 2 --rate {RATE_PPS} --size 1400 --count {each}");
        let senders = [("eth0", "239.1.1.0"), ("eth1", "239.1.1.2")]
            .map(|(interface, group)| send(&self.topology.sender, interface, group, &options));
        Traffic { senders, receivers, each }
    }

    fn start_again(&mut self, io: IoBackend) {
        self.daemon.start_again(&self.topology.relay, |command| {
            command.env("MCRD_IO", io.as_str());
        });
    }

    pub(crate) fn received(&self) -> u64 {
        let stats = self.daemon.ctl_json(&["stats"]);
        stats["workers"].as_array().into_iter().flatten().filter_map(|w| w["received"].as_u64()).sum()
    }
}

pub(crate) struct Traffic {
    senders: [Generator; 2],
    receivers: [Generator; 2],
    each: u64,
}

impl Traffic {
    pub(crate) fn is_running(&mut self) -> bool {
        self.senders.iter_mut().all(Generator::is_running)
    }

    /// Waits for the end, and that each datagram has arrived once.
    pub(crate) fn finish(self) {
        let sent = self.senders.map(Generator::finish);
        for report in &sent {
            assert_eq!(report["sent"], json!(self.each), "{report:#}");
        }
        for receiver in self.receivers {
            assert_received(&receiver.finish(), self.each);
        }
    }
}

/// Groups that the kernel has joined on a host, multicast by the kernel's own means left out.
pub(crate) fn groups(host: &Host) -> Vec<String> {
    let text = host.run(|| std::fs::read_to_string("/proc/thread-self/net/igmp").expect("procfs"));
    let address =
        |word: &str| u32::from_str_radix(word, 16).ok().map(|n| std::net::Ipv4Addr::from(n.to_ne_bytes()));
    let all = text.lines().filter(|line| line.starts_with('\t'));
    let mut found: Vec<String> = all
        .filter_map(|line| address(line.split_whitespace().next()?))
        .filter(|group| group.octets()[..3] != [224, 0, 0])
        .map(|group| group.to_string())
        .collect();
    found.sort();
    found
}

/// The skips of the first rule.
fn rule_skips(daemon: &Daemon) -> u64 {
    let stats = daemon.ctl_json(&["stats"]);
    let skips = stats["rules"][0]["skips"].as_object().into_iter().flatten();
    skips.filter_map(|(_, count)| count.as_u64()).sum()
}

on_both_backends! {
    /// Skips that a worker had counted before it died are known to the next supervisor, too.
    fn the_skips_of_past_workers_are_kept(io) {
        let topology = Topology::sender_relay_receiver();
        let excluding = with(input("239.1.1.1"), "sources", json!(["10.1.0.9"]));
        let mut daemon = relay(&topology, io, &[rule(excluding, [output("239.2.2.2")])]);
        let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 20 --rate 1000").finish();
        wait_until("the worker counts 20 skips", DEADLINE, || rule_skips(&daemon) == 20);
        let before = pids(&daemon);
        kill(before[0]);
        wait_until("another worker runs", DEADLINE, || matches!(pids(&daemon)[..], [pid] if pid != before[0]));
        daemon.wait_until_active(1);
        assert_eq!(rule_skips(&daemon), 20, "after the death of the worker");
        daemon.kill();
        daemon.start_again(&topology.relay, |command| {
            command.env("MCRD_IO", io.as_str());
        });
        daemon.wait_until_active(1);
        assert_eq!(rule_skips(&daemon), 20, "after the death of the supervisor");
        assert_accounting(&daemon.settled_stats());
    }
}

on_both_backends! {
    /// R5: under L1 the supervisor is killed, and later another one is started; nothing is lost, no worker restarted.
    fn rate_a_killed_supervisor_costs_no_datagram(io) {
        let mut load = Load::new(io);
        let before = identities(&load.daemon);
        assert_eq!(before.len(), 2, "{before:#?}");
        let joined = groups(&load.topology.relay);
        let mut traffic = load.begin(seconds());
        wait_until("traffic", DEADLINE, || load.received() > 1_000);
        let counted = load.received();
        load.daemon.kill();
        // Without a supervisor for a third of the time.
        let alone = clock::monotonic() + Duration::from_millis(seconds() * 1000 / 3);
        wait_until("the time alone", DEADLINE * 4, || {
            assert_eq!(groups(&load.topology.relay), joined, "groups are left");
            clock::monotonic() >= alone
        });
        assert!(traffic.is_running(), "the traffic ended too early");
        let started = clock::monotonic();
        load.start_again(io);
        println!("adopted {} ms after it was started", (clock::monotonic() - started).as_millis());
        load.daemon.wait_until_active(4);
        assert_eq!(identities(&load.daemon), before);
        assert!(load.received() > counted, "counters go on");
        assert!(load.daemon.log().contains("adopted 2 workers and 4 memberships"), "{}", load.daemon.log());
        assert!(traffic.is_running(), "the traffic ended too early");
        traffic.finish();
        assert_eq!(groups(&load.topology.relay), joined);
        assert_eq!(identities(&load.daemon), before);
        stats_without_drops(&load.daemon);
    }
}

/// A rule from `eth0`'s group `239.1.1.N` to `239.2.2.N`, added at run time.
fn add(daemon: &Daemon, number: u8) -> mcr_testnet::CtlOutput {
    let (group, port) = (nth("239.1.1.0", number), INPUT_PORT.to_string());
    let outputs = format!("{}:{OUTPUT_PORT}:eth1", nth("239.2.2.0", number));
    let name = format!("rule-{number}");
    let rule = ["add", "--input-interface", "eth0", "--input-group", &group, "--input-port", &port];
    daemon.ctl(&[&rule[..], &["--name", &name, "--outputs", &outputs]].concat())
}

fn remove(daemon: &Daemon, number: u8) {
    let done = daemon.ctl(&["remove", "--name", &format!("rule-{number}")]);
    assert_eq!(done.code, 0, "{}", done.stderr);
}

/// The numbers of the rules that run.
fn running(daemon: &Daemon) -> Vec<u8> {
    let rules = daemon.ctl_json(&["list"])["rules"].as_array().cloned().unwrap_or_default();
    let number = |rule: &Value| rule["input"]["group"].as_str()?.rsplit('.').next()?.parse().ok();
    let mut numbers: Vec<u8> = rules.iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

fn numbered(number: u8) -> Value {
    let rule = rule(input(nth("239.1.1.0", number)), [output(nth("239.2.2.0", number))]);
    with(rule, "name", format!("rule-{number}"))
}

/// Each of these rules relays, each datagram once.
fn assert_relay(topology: &Topology, numbers: &[u8]) {
    for number in numbers {
        let receiver = recv(&topology.receiver, "eth0", &nth("239.2.2.0", *number), "--idle 1");
        let _ = send(&topology.sender, "eth0", &nth("239.1.1.0", *number), "--count 200").finish();
        assert_received(&receiver.finish(), 200);
    }
}

pub(crate) fn await_end(pid: u32) {
    let Ok(process) = PidFd::open(pid) else { return };
    wait_until("the end of a process", DEADLINE, || process.has_ended().expect("poll"));
}

pub(crate) fn kill(pid: u32) {
    PidFd::open(pid).expect("a process").kill(Signal::KILL).expect("it can be killed");
}

pub(crate) fn plain(_: &mut std::process::Command) {}

#[test]
fn the_running_config_goes_on_and_can_be_changed_afterwards() {
    let topology = Topology::sender_relay_receiver();
    let unicast = rule(input("10.1.0.2"), [output("239.2.2.9")]);
    let mut daemon = relay(&topology, IoBackend::Uring, &[numbered(1), unicast]);
    assert_eq!(add(&daemon, 2).code, 0);
    remove(&daemon, 1);
    let mut expected = vec![2];
    let mut generation = 0;
    for round in 3..7_u8 {
        let before = identities(&daemon);
        daemon.kill();
        assert_eq!(
            groups(&topology.relay),
            expected.iter().map(|n| nth("239.1.1.0", *n)).collect::<Vec<_>>()
        );
        daemon.start_again(&topology.relay, plain);
        assert_eq!(identities(&daemon), before, "round {round}");
        assert!(daemon.log().contains("the running config stays in force"), "{}", daemon.log());
        assert_eq!(add(&daemon, round).code, 0);
        expected.push(round);
        daemon.wait_until_active(expected.len() + 1);
        assert_relay(&topology, &expected);
        let now = workers(&daemon)[0]["generation"].as_u64().expect("a number");
        assert!(now > generation, "generations grow");
        generation = now;
        if round == 5 {
            remove(&daemon, 3);
            expected.retain(|number| *number != 3);
        }
        let numbers: Vec<u8> =
            running(&daemon).into_iter().filter(|number| *number != 2 || expected.contains(&2)).collect();
        assert!(expected.iter().all(|number| numbers.contains(number)), "{numbers:?} {expected:?}");
    }
    // Each of the others was sent to in each round since it was added.
    let stats = daemon.settled_stats();
    assert_accounting(&stats);
    assert_eq!(packets_of(&stats, "239.2.2.2"), 800, "counters go on");
    // The unicast input still answers no ICMP and relays.
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.9", "--idle 1");
    let _ = send(&topology.sender, "eth0", "10.1.0.2", "--count 200").finish();
    assert_received(&receiver.finish(), 200);

    let keeper = daemon.keeper().expect("a keeper");
    let (keeper_socket, all) = (daemon.directory().join("mcrd.sock.keeper"), pids(&daemon));
    assert!(keeper_socket.exists());
    assert!(daemon.terminate().success(), "{}", daemon.log());
    all.into_iter().chain([keeper]).for_each(await_end);
    assert!(!keeper_socket.exists() && !daemon.socket().exists());
    assert_eq!(groups(&topology.relay), [] as [&str; 0]);
}

/// A config that is kept in several parts, changed in the first, the last and a middle one.
#[test]
fn a_config_of_a_thousand_rules_goes_on_rule_by_rule() {
    let topology = Topology::sender_relay_receiver();
    let of_port =
        |port: u16| with(rule(input("239.1.1.1"), [output("239.2.2.1")]), "name", format!("p{port}"));
    let rules: Vec<Value> = (0..1_300_u16)
        .map(|number| {
            let mut rule = of_port(number);
            rule["input"]["port"] = json!(10_000 + number);
            rule
        })
        .collect();
    let mut daemon = relay(&topology, IoBackend::Uring, &rules);
    let shown = |daemon: &Daemon| daemon.ctl_json(&["list"])["rules"].clone();
    let worker = pids(&daemon);
    for name in ["p0", "p700", "p1299"] {
        let done = daemon.ctl(&["remove", "--name", name]);
        assert_eq!(done.code, 0, "{}", done.stderr);
        assert_eq!(add(&daemon, u8::try_from(name.len()).expect("a length")).code, 0);
        let before = shown(&daemon);
        daemon.kill();
        daemon.start_again(&topology.relay, plain);
        assert_eq!(shown(&daemon), before, "after {name} was removed");
        assert_eq!(pids(&daemon), worker);
    }
    assert_relay(&topology, &[2, 4, 5]);
    stats_without_drops(&daemon);
}

/// Killed at any moment of a change: what runs afterwards is the config before or after it, and can be changed.
#[test]
fn a_supervisor_killed_during_a_change_leaves_the_old_config_or_the_new() {
    let topology = Topology::sender_relay_receiver();
    let mut daemon = relay(&topology, IoBackend::Uring, &[numbered(1)]);
    let worker = pids(&daemon);
    for round in 0..6_u8 {
        let number = 10 + round;
        let before = running(&daemon);
        let (pid, delay) = (daemon.pid(), Duration::from_micros(300 * u64::from(round).pow(2)));
        let answer = std::thread::scope(|scope| {
            let asking = scope.spawn(|| add(&daemon, number));
            let end = clock::monotonic() + Duration::from_millis(4) + delay;
            while clock::monotonic() < end {
                std::hint::spin_loop();
            }
            kill(pid);
            asking.join().expect("mcrctl")
        });
        daemon.kill();
        daemon.start_again(&topology.relay, plain);
        let now = running(&daemon);
        let mut after = before.clone();
        after.push(number);
        assert!(now == after || (now == before && answer.code != 0), "{before:?} {now:?} {answer:?}");
        daemon.wait_until_active(now.len());
        assert_eq!(pids(&daemon), worker, "the worker was restarted");
        let joined: Vec<String> = now.iter().map(|number| nth("239.1.1.0", *number)).collect();
        assert_eq!(groups(&topology.relay), joined);
    }
    assert_relay(&topology, &running(&daemon));
    stats_without_drops(&daemon);
}

#[test]
fn a_keeper_that_dies_is_replaced_and_has_everything_again() {
    let topology = Topology::sender_relay_receiver();
    let mut daemon = relay(&topology, IoBackend::Uring, &[numbered(1), numbered(2)]);
    assert_eq!(add(&daemon, 3).code, 0);
    let before = identities(&daemon);
    for _ in 0..2 {
        let keeper = daemon.keeper().expect("a keeper");
        kill(keeper);
        wait_for("another keeper", DEADLINE, || match daemon.keeper() {
            Some(other) if other != keeper => Ok(()),
            other => Err(other),
        });
        assert!(daemon.log().contains("the keeper is lost"), "{}", daemon.log());
        // It has everything when the loop answers.
        assert_eq!(daemon.ctl(&["ping"]).code, 0);
        daemon.kill();
        daemon.start_again(&topology.relay, plain);
        assert_eq!(identities(&daemon), before);
        assert_eq!(running(&daemon), [1, 2, 3]);
    }
    assert_relay(&topology, &[1, 2, 3]);
    stats_without_drops(&daemon);
}

#[test]
fn without_supervisor_and_keeper_workers_end_and_a_fresh_start_has_no_twins() {
    let topology = Topology::sender_relay_receiver();
    let mut daemon = relay(&topology, IoBackend::Uring, &[numbered(1)]);
    assert_eq!(add(&daemon, 2).code, 0);
    let all = pids(&daemon);
    let keeper = daemon.keeper().expect("a keeper");
    kill(keeper);
    daemon.kill();
    // The supervisor may have started another one in between.
    if let Some(another) = daemon.keeper() {
        kill(another);
    }
    daemon.start_again(&topology.relay, plain);
    all.into_iter().for_each(await_end);
    assert_eq!(running(&daemon), [1], "the startup file is what is left");
    daemon.wait_until_active(1);
    assert_relay(&topology, &[1]);
    stats_without_drops(&daemon);
}

#[test]
fn a_worker_that_dies_while_nobody_looks_is_replaced_by_the_next_supervisor() {
    let topology = Topology::sender_relay_receiver();
    let mut daemon = relay(&topology, IoBackend::Uring, &[numbered(1)]);
    assert_relay(&topology, &[1]);
    let [worker] = pids(&daemon)[..] else { panic!("one worker") };
    daemon.kill();
    kill(worker);
    // What arrives meanwhile waits in the capture socket, which the keeper has.
    let receiver = recv(&topology.receiver, "eth0", "239.2.2.1", "--idle 2");
    let _ = send(&topology.sender, "eth0", "239.1.1.1", "--count 500").finish();
    daemon.start_again(&topology.relay, plain);
    assert_received(&receiver.finish(), 500);
    let now = workers(&daemon);
    assert_eq!(now[0]["restarts"], 1, "{now:#?}");
    let stats = stats_without_drops(&daemon);
    assert_eq!(stats["rules"][0]["packets"], 700);
}

#[test]
fn workers_left_alone_for_too_long_end() {
    let topology = Topology::sender_relay_receiver();
    let config = json!({"rules": [numbered(1)], "settings": {"orphan_timeout_s": 1}}).to_string();
    let mut daemon = Daemon::start(&topology.relay, IoBackend::Uring, &config);
    daemon.wait_until_active(1);
    let all = pids(&daemon);
    let keeper = daemon.keeper().expect("a keeper");
    daemon.kill();
    assert!(!all.is_empty());
    all.into_iter().chain([keeper]).for_each(await_end);
    wait_for("the group to be left", DEADLINE, || match groups(&topology.relay) {
        joined if joined.is_empty() => Ok(()),
        joined => Err(joined),
    });
    assert!(daemon.log().contains("no supervisor adopted the workers in time"), "{}", daemon.log());
    daemon.start_again(&topology.relay, plain);
    daemon.wait_until_active(1);
    assert_relay(&topology, &[1]);
}

#[test]
fn another_startup_file_is_put_in_force_over_what_ran() {
    let topology = Topology::sender_relay_receiver();
    let mut daemon = relay(&topology, IoBackend::Uring, &[numbered(1), numbered(2)]);
    let before = pids(&daemon);
    let other = daemon.directory().join("other.json5");
    std::fs::write(&other, json!({"rules": [numbered(2), numbered(3)]}).to_string()).unwrap();
    daemon.kill();
    daemon.start_again(&topology.relay, |command| {
        command.arg("--config").arg(&other);
    });
    assert_eq!(running(&daemon), [2, 3]);
    assert!(daemon.log().contains("is now started with"), "{}", daemon.log());
    assert_eq!(pids(&daemon), before, "the worker stays");
    daemon.wait_until_active(2);
    assert_relay(&topology, &[2, 3]);
    assert_eq!(groups(&topology.relay), ["239.1.1.2", "239.1.1.3"]);
    stats_without_drops(&daemon);
}

/// A process that connects to the keeper's socket must be of the daemon's own user; garbage is hung up on.
#[test]
fn other_users_and_garbage_at_the_keepers_socket_are_refused() {
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;
    let topology = Topology::sender_relay_receiver();
    let mut daemon = relay(&topology, IoBackend::Uring, &[numbered(1)]);
    let keeper_socket = daemon.directory().join("mcrd.sock.keeper");
    assert_eq!(std::fs::metadata(&keeper_socket).unwrap().permissions().mode() & 0o777, 0o600);
    let keeper = daemon.keeper().expect("a keeper");
    let hung_up = |channel: &mcr_sys::channel::Channel| {
        let mut buffer = vec![0; 64 * 1024];
        wait_until("the keeper to hang up", DEADLINE, || {
            let _ = mcr_sys::poll::wait_readable([channel.as_fd()], Some(Duration::from_millis(100)));
            match channel.receive(&mut buffer) {
                Ok(mcr_sys::channel::Received::Message { fds, .. }) => {
                    assert!(fds.is_empty(), "descriptors for a stranger");
                    false
                }
                Ok(mcr_sys::channel::Received::WouldBlock) => false,
                Ok(mcr_sys::channel::Received::Closed) | Err(_) => true,
            }
        });
    };
    for garbage in [&b"x"[..], &[0xff; 4096], &[3, 200, 200, 200, 200], &[6]] {
        let channel = mcr_sys::listener::connect(&keeper_socket).unwrap();
        let (pipe, _other) = std::io::pipe().unwrap();
        channel.send(garbage, &[pipe.as_fd()]).unwrap();
        hung_up(&channel);
    }
    // A reader who is not the supervisor may not change anything.
    std::fs::set_permissions(daemon.directory(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&keeper_socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    let visited = std::thread::scope(|scope| {
        let visit = || {
            let nobody = rustix::process::Uid::from_raw(65_534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).ok()?;
            Some(
                mcr_sys::listener::connect(&keeper_socket)
                    .expect("the mode lets everybody connect in this test"),
            )
        };
        scope.spawn(visit).join().unwrap()
    });
    match visited {
        Some(channel) => {
            hung_up(&channel);
            assert!(
                daemon.log().contains("the keeper serves the daemon's own user only"),
                "{}",
                daemon.log()
            );
        }
        None => println!("skipped: this user can't become another"),
    }
    assert_eq!(daemon.keeper(), Some(keeper), "the keeper is as before");
    let before = identities(&daemon);
    daemon.kill();
    daemon.start_again(&topology.relay, plain);
    assert_eq!(identities(&daemon), before);
    assert_relay(&topology, &[1]);
}
