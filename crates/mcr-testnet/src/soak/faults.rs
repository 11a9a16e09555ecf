//! The faults of a soak test, their injection and recovery.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::RawPrefix;
use fastrand::Rng;
use mcr_sys::clock::monotonic;
use mcr_sys::process::{PidFd, Signal};
use serde_json::Value;

use super::ledger::Counted;
use super::load::{self, FAR, INPUTS, LEGS, Load, OUTPUTS};
use crate::frames::mutation::Mutations;
use crate::{Daemon, IoBackend, Topology, frames, wait};

/// Duration of a fault that needs an explicit end.
const HELD: Duration = Duration::from_millis(500);
/// A stalled worker is replaced within 750 ms (R4); otherwise it is resumed after this time.
const STALL: Duration = Duration::from_secs(3);
/// Deadline for recovery from a fault.
const RECOVERY: Duration = Duration::from_secs(30);
/// Clients of the flood, and hostile frames at a constant rate.
const CLIENTS: usize = 200;
const HOSTILE_FRAMES: usize = 5_000;
const HOSTILE_PER_PAUSE: usize = 20;

macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident = $name:literal,)+) => {
        /// See the module documentation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Fault { $($(#[$doc])* $fault,)+ }

        impl Fault {
            const ALL: &[Self] = &[$(Self::$fault),+];

            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$fault => $name,)+ }
            }
        }
    };
}

faults! {
    KillWorker = "kill -9 worker",
    StopWorker = "SIGSTOP worker",
    KillSupervisor = "kill -9 supervisor",
    Upgrade = "upgrade of supervisor",
    KillKeeper = "kill -9 keeper",
    InputDown = "input down and up",
    OutputDown = "output down and up",
    InputCarrier = "carrier flap of input",
    OutputCarrier = "carrier flap of output",
    InputRecreated = "input deleted, re-created",
    OutputRecreated = "output deleted, re-created",
    OutputRenamed = "output renamed and back",
    InputRenamed = "input renamed and back",
    AddressRemoved = "address removed and added",
    Rules = "rules added and removed",
    Config = "config loaded and replaced",
    Reload = "config file changed, reloaded",
    Traces = "traces and log levels",
    Clients = "flood of control clients",
    Hostile = "hostile frames",
}

impl Fault {
    /// All faults in random order. The supervisor is replaced only in every fourth round, first: its memory is
    /// measured over rounds of all other faults.
    pub(super) fn agenda(cycle: usize, random: &mut Rng) -> Vec<Self> {
        let mut agenda: Vec<Self> =
            Self::ALL.iter().copied().filter(|fault| !Self::REPLACING.contains(fault)).collect();
        random.shuffle(&mut agenda);
        if cycle.is_multiple_of(4) {
            agenda.extend(Self::REPLACING);
        }
        agenda
    }

    /// The leg to inject it on. Faults that kill a worker are on the first leg: the worker of the other leg keeps
    /// running, so that its memory is measured over rounds of all other faults.
    pub(super) fn leg(self, random: &mut Rng) -> usize {
        match self {
            Self::KillWorker | Self::StopWorker | Self::InputRecreated | Self::InputRenamed => 0,
            _ => random.usize(..LEGS),
        }
    }

    const REPLACING: [Self; 2] = [Self::KillSupervisor, Self::Upgrade];

    /// Returns whether it must cause no loss on any leg.
    pub(super) const fn is_lossless(self) -> bool {
        matches!(
            self,
            Self::KillSupervisor
                | Self::Upgrade
                | Self::KillKeeper
                | Self::Rules
                | Self::Config
                | Self::Reload
                | Self::Traces
                | Self::Clients
                | Self::Hostile
        )
    }
}

/// The network and the daemon.
pub(super) struct Site<'a> {
    pub(super) topology: &'a Topology,
    pub(super) daemon: Daemon,
    pub(super) load: &'a Load,
    pub(super) io: IoBackend,
}

/// A worker as `mcrctl workers` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Worker {
    pub(super) pid: u32,
    interface: String,
    running: bool,
}

impl Site<'_> {
    /// The output of `mcrctl --json`; null if it fails.
    fn ask(&self, command: &str) -> Value {
        let output = self.daemon.ctl(&["--json", "--timeout", "5", command]);
        serde_json::from_str(&output.stdout).unwrap_or_default()
    }

    pub(super) fn workers(&self) -> Vec<Worker> {
        let reply = self.ask("workers");
        let worker = |worker: &Value| {
            Some(Worker {
                pid: u32::try_from(worker["pid"].as_u64()?).ok().filter(|pid| *pid > 0)?,
                interface: worker["interface"].as_str()?.to_owned(),
                running: worker["state"] == "running",
            })
        };
        reply["workers"].as_array().into_iter().flatten().filter_map(worker).collect()
    }

    fn worker_of(&self, leg: usize) -> Result<Worker, String> {
        let workers = self.workers();
        let found = workers.iter().find(|worker| worker.interface == INPUTS[leg]).cloned();
        found.ok_or_else(|| format!("no worker on {}: {workers:?}", INPUTS[leg]))
    }

    pub(super) fn totals(&self) -> Counted {
        let stats = self.ask("stats");
        let reasons = |name: &str| -> u64 {
            stats[name].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum()
        };
        let workers = stats["workers"].as_array().into_iter().flatten();
        Counted {
            drops: reasons("drops"),
            skips: reasons("skips"),
            kernel_drops: workers.filter_map(|worker| worker["kernel_drops"].as_u64()).sum(),
        }
    }

    /// Waits until datagrams sent after `since` arrive on every leg, all rules are active and all workers run.
    /// Returns when the datagrams arrived.
    pub(super) fn wait_until_working(&self, since: Duration) -> Result<Duration, String> {
        let deadline = monotonic() + RECOVERY;
        let mut flows_at = None;
        loop {
            if flows_at.is_none() && (0..LEGS).all(|leg| self.load.newest(leg) > since) {
                flows_at = Some(monotonic());
            }
            if let Some(at) = flows_at {
                let rules = self.ask("list");
                let rules = rules["rules"].as_array().cloned().unwrap_or_default();
                let workers = self.workers();
                let settled =
                    rules.len() == load::FLOWS && rules.iter().all(|rule| rule["state"] == "active");
                if settled && workers.len() == LEGS && workers.iter().all(|worker| worker.running) {
                    return Ok(at);
                }
            }
            if monotonic() > deadline {
                let came: Vec<bool> = (0..LEGS).map(|leg| self.load.newest(leg) > since).collect();
                let states = self.ask("list");
                return Err(format!("does not work again: legs {came:?}, {states}, {:?}", self.workers()));
            }
            wait::pause_for(Duration::from_millis(2));
        }
    }

    fn ctl(&self, arguments: &[&str]) {
        let output = self.daemon.ctl(arguments);
        assert_eq!(output.code, 0, "mcrctl {arguments:?}: {}", output.stderr);
    }
}

/// Injects a fault and ends it if it needs an explicit end. Returns a note for the ledger.
pub(super) fn strike(site: &mut Site<'_>, fault: Fault, leg: usize, random: &mut Rng) -> String {
    let topology = site.topology;
    let (input, output) = (INPUTS[leg], OUTPUTS[leg]);
    match fault {
        Fault::KillWorker => kill("worker", || site.worker_of(leg).map(|worker| worker.pid)),
        Fault::StopWorker => return stop_worker(site, leg),
        Fault::KillSupervisor | Fault::Upgrade => return replace_supervisor(site, fault),
        Fault::KillKeeper => kill("keeper", || site.daemon.keeper().ok_or("no keeper".to_owned())),
        Fault::InputDown | Fault::OutputDown | Fault::InputCarrier | Fault::OutputCarrier => {
            let (host, interface) = match fault {
                Fault::InputDown => (&topology.relay, input),
                Fault::OutputDown => (&topology.relay, output),
                Fault::InputCarrier => (&topology.sender, FAR[leg]),
                _ => (&topology.receiver, FAR[leg]),
            };
            host.set_up(interface, false);
            wait::pause_for(HELD);
            host.set_up(interface, true);
        }
        Fault::InputRecreated => {
            topology.relay.delete(input);
            topology.add_input(load::number(leg));
            site.load.send_anew(topology, leg);
        }
        Fault::OutputRecreated => {
            topology.relay.delete(output);
            topology.add_output(load::number(leg));
            site.load.join(leg);
        }
        Fault::InputRenamed | Fault::OutputRenamed => {
            let name = if fault == Fault::InputRenamed { input } else { output };
            topology.relay.setup(name, |links| links.rename(name, "elsewhere"));
            wait::pause_for(HELD);
            topology.relay.setup(name, |links| links.rename("elsewhere", name));
        }
        Fault::AddressRemoved => {
            let address = format!("10.2.{leg}.1/24");
            topology.relay.remove_address(output, &address);
            wait::pause_for(HELD);
            topology.relay.add_address(output, &address);
        }
        Fault::Rules => change_rules(site, leg, random),
        Fault::Config => load_config(site, random),
        Fault::Reload => reload(site, leg, random),
        Fault::Traces => trace(site),
        Fault::Clients => flood(site),
        Fault::Hostile => send_hostile(site, leg, random),
    }
    String::new()
}

/// Kills a process, and waits until there is another one instead.
fn kill(what: &str, find: impl Fn() -> Result<u32, String>) {
    let pid = find().unwrap_or_else(|problem| panic!("{problem}"));
    let killed = PidFd::open(pid).and_then(|handle| handle.kill(Signal::KILL));
    killed.unwrap_or_else(|error| panic!("kill the {what}: {error}"));
    wait::wait_for(&format!("another {what}"), RECOVERY, || match find() {
        Ok(now) if now != pid => Ok(()),
        now => Err(now),
    });
}

fn stop_worker(site: &Site<'_>, leg: usize) -> String {
    let worker = site.worker_of(leg).unwrap_or_else(|problem| panic!("{problem}"));
    let handle = PidFd::open(worker.pid).expect("watch a worker");
    let begin = monotonic();
    handle.kill(Signal::STOP).expect("stop a worker");
    while monotonic() < begin + STALL {
        if site.worker_of(leg).is_ok_and(|now| now.pid != worker.pid) {
            return format!("replaced after {} ms", (monotonic() - begin).as_millis());
        }
        wait::pause_for(Duration::from_millis(10));
    }
    // It may have been killed at this moment.
    let _ = handle.kill(Signal::CONT);
    "was not replaced".to_owned()
}

fn replace_supervisor(site: &mut Site<'_>, fault: Fault) -> String {
    let before: Vec<u32> = site.workers().iter().map(|worker| worker.pid).collect();
    if fault == Fault::Upgrade {
        site.daemon.upgrade();
    } else {
        let io = site.io.as_str();
        site.daemon.kill_and_restart(&site.topology.relay, |command| {
            command.env("MCRD_IO", io);
        });
    }
    let after: Vec<u32> = site.workers().iter().map(|worker| worker.pid).collect();
    assert_eq!(before, after, "workers were restarted");
    "workers adopted".to_owned()
}

fn change_rules(site: &Site<'_>, leg: usize, random: &mut Rng) {
    let outputs = format!("239.3.3.3:7000:{}", OUTPUTS[leg]);
    for _ in 0..10 {
        let group = format!("239.3.{}.1", random.u8(..));
        let add = ["add", "--name", "guest", "--input-interface", INPUTS[leg], "--input-group", &group];
        site.ctl(&[&add[..], &["--input-port", "5000", "--outputs", &outputs]].concat());
        site.ctl(&["remove", "--name", "guest"]);
    }
}

fn load_config(site: &Site<'_>, random: &mut Rng) {
    let whole = site.daemon.directory().join("whole.json5");
    let more = site.daemon.directory().join("more.json5");
    std::fs::write(&whole, load::config()).expect("write a config");
    let rules: Vec<Value> = (0..50)
        .map(|_| {
            let group = format!("239.4.{}.{}", random.u8(..), random.u8(..));
            let port = random.u16(1..=9_999);
            serde_json::json!({
                "input": {"interface": INPUTS[usize::from(port % 2)], "group": group, "port": port},
                "outputs": [{"interface": OUTPUTS[0], "group": "239.3.3.4", "port": 7000}],
            })
        })
        .collect();
    std::fs::write(&more, serde_json::json!({"rules": rules}).to_string()).expect("write a config");
    let path = |path: &std::path::Path| path.to_str().expect("a path in UTF-8").to_owned();
    site.ctl(&["load", &path(&more)]);
    site.ctl(&["load", "--replace", &path(&whole)]);
}

/// Changes the config file and reloads it, forth and back.
fn reload(site: &Site<'_>, leg: usize, random: &mut Rng) {
    let mut config: Value = serde_json::from_str(&load::config()).expect("a config");
    let rules = config["rules"].as_array_mut().expect("rules");
    rules.push(serde_json::json!({
        "input": {"interface": INPUTS[leg], "group": format!("239.5.{}.1", random.u8(..)), "port": 5000},
        "outputs": [{"interface": OUTPUTS[leg], "group": "239.3.3.5", "port": 7000}],
    }));
    for (config, count) in [(config.to_string(), load::FLOWS + 1), (load::config(), load::FLOWS)] {
        std::fs::write(site.daemon.config(), config).expect("write the config file");
        site.daemon.signal(Signal::HUP);
        wait::wait_for("the rules of the file", RECOVERY, || {
            let rules = site.ask("list");
            if rules["rules"].as_array().map(Vec::len) == Some(count) { Ok(()) } else { Err(rules) }
        });
    }
}

/// Traces all rules while the workers log all they can. Those of both legs, since a worker keeps the memory that its first trace takes.
fn trace(site: &Site<'_>) {
    let rules = || (0..LEGS).flat_map(|leg| (0..load::GROUPS).map(move |group| load::name(leg, group)));
    site.ctl(&["log-level", "set", "trace", "--facility", "dataplane"]);
    rules().for_each(|rule| site.ctl(&["trace", "enable", &rule]));
    wait::pause_for(HELD);
    for rule in rules() {
        site.ctl(&["trace", "show", &rule]);
        site.ctl(&["trace", "disable", &rule]);
    }
    site.ctl(&["log-level", "set", "info", "--facility", "dataplane"]);
}

fn flood(site: &Site<'_>) {
    let mut clients: Vec<UnixStream> = Vec::new();
    for number in 0..CLIENTS {
        let Ok(mut client) = UnixStream::connect(site.daemon.socket()) else { continue };
        let words: &[u8] = match number % 3 {
            0 => b"",
            1 => b"{\"method\":",
            _ => b"\xff\xfe[[[[[[[[\0\0",
        };
        // The daemon may have closed it already.
        let _ = client.write_all(words);
        clients.push(client);
    }
    wait::pause_for(HELD);
}

fn send_hostile(site: &Site<'_>, leg: usize, random: &mut Rng) {
    let own = format!("10.1.{leg}.2:7000").parse().expect("an address");
    let targets = vec![load::input_pair(leg, 0), load::input_pair(leg, 1)];
    let mut mutations = Mutations::new(random.u64(..), targets, vec![own]);
    let sender = frames::sender(&site.topology.sender, FAR[leg], RawPrefix::None);
    for number in 0..HOSTILE_FRAMES {
        sender.send(&mutations.frame()).expect("send a hostile frame");
        if number % HOSTILE_PER_PAUSE == 0 {
            wait::pause_for(Duration::from_millis(1));
        }
    }
}

/// The message of a panic.
pub(super) fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("something went wrong").to_owned()
}
