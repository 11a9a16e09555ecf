//! The programs that compete, each as its users run it.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mcr_testnet::{Daemon, IoBackend, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cpu::{CoreTime, deferred_work_ns, process_ns};
use crate::topology::{Lab, RELAY_CORE, SENDER_CORE, move_to_sender_core, on_any_core, on_core};

/// The UDP port of what is sent to the relay ...
pub(crate) const INPUT_PORT: u16 = 5000;
/// ... and of what it sends.
const OUTPUT_PORT: u16 = 6001;
/// The first group sent to the relay ...
pub(crate) const INPUT_GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 1);
/// ... and by it.
const OUTPUT_GROUP: Ipv4Addr = Ipv4Addr::new(239, 2, 2, 1);

/// What relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// MCR on io_uring.
    Mcr,
    /// MCR on io_uring without coalescing (`latency_budget_us: 0`).
    McrAtOnce,
    /// MCR on io_uring with a `latency_budget_us` of 200 instead of 50.
    McrPatient,
    /// MCR on io_uring with a quarter of the default's `ring_buffers`.
    McrFewBuffers,
    /// MCR on io_uring with four times the default's `ring_buffers`.
    McrManyBuffers,
    /// MCR on io_uring with each datagram of its first rule traced.
    McrTraced,
    /// The same with one in 100.
    McrSampled,
    /// MCR on io_uring with early drop, which the others are without.
    McrEarlyDrop,
    /// MCR's kernel engine, with early drop.
    McrKernel,
    /// The same whose input merges received datagrams.
    McrKernelMerged,
    /// MCR on io_uring on a host whose kernel drops the relayed groups before its own IP input (nftables at ingress).
    McrSpared,
    /// MCR on io_uring with `source: "keep"` at its outputs.
    McrKept,
    /// MCR on io_uring with `sandbox: "off"`.
    McrUnconfined,
    /// MCR's fallback.
    McrRecvmmsg,
    /// The same with `sandbox: "off"`.
    McrRecvmmsgUnconfined,
    /// MCR on io_uring whose input merges received datagrams (`aggregate: "on"`); all others have it off.
    McrMerged,
    /// The same with `aggregate: "auto"`.
    McrAuto,
    /// MCR's fallback whose input merges received datagrams.
    McrRecvmmsgMerged,
    /// The plain relay in `floor.rs`.
    Floor,
    /// One process for each pair of input and output.
    Socat,
    /// The kernel's multicast routing, in the context of the core that a frame arrives on: here the sender's.
    Smcroute,
    /// The same with the group joined (`mgroup`), as MCR and socat have it.
    SmcrouteJoined,
    /// Not joined, steered to the relay's core by RPS.
    SmcrouteSteered,
}

impl Peer {
    pub(crate) const ALL: &[Self] = &[
        Self::Mcr,
        Self::McrAtOnce,
        Self::McrPatient,
        Self::McrFewBuffers,
        Self::McrManyBuffers,
        Self::McrTraced,
        Self::McrSampled,
        Self::McrEarlyDrop,
        Self::McrKernel,
        Self::McrKernelMerged,
        Self::McrSpared,
        Self::McrKept,
        Self::McrUnconfined,
        Self::McrRecvmmsg,
        Self::McrRecvmmsgUnconfined,
        Self::McrMerged,
        Self::McrAuto,
        Self::McrRecvmmsgMerged,
        Self::Floor,
        Self::Socat,
        Self::Smcroute,
        Self::SmcrouteJoined,
        Self::SmcrouteSteered,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mcr => "mcr",
            Self::McrAtOnce => "mcr-at-once",
            Self::McrPatient => "mcr-patient",
            Self::McrFewBuffers => "mcr-64-buffers",
            Self::McrManyBuffers => "mcr-1024-buffers",
            Self::McrTraced => "mcr-traced",
            Self::McrSampled => "mcr-traced-1/100",
            Self::McrEarlyDrop => "mcr-early-drop",
            Self::McrKernel => "mcr-kernel",
            Self::McrKernelMerged => "mcr-kernel-merged",
            Self::McrSpared => "mcr-spared-ip",
            Self::McrKept => "mcr-kept-source",
            Self::McrUnconfined => "mcr-sandbox-off",
            Self::McrRecvmmsg => "mcr-recvmmsg",
            Self::McrRecvmmsgUnconfined => "mcr-recvmmsg-sandbox-off",
            Self::McrMerged => "mcr-merged",
            Self::McrAuto => "mcr-auto",
            Self::McrRecvmmsgMerged => "mcr-recvmmsg-merged",
            Self::Floor => "recvmmsg+sendmmsg",
            Self::Socat => "socat",
            Self::Smcroute => "smcroute",
            Self::SmcrouteJoined => "smcroute-joined",
            Self::SmcrouteSteered => "smcroute-steered",
        }
    }

    /// Why it can't take part; `None` if it can.
    pub(crate) fn why_missing(self) -> Option<String> {
        match self {
            Self::Socat => missing("socat", &["-V"]),
            Self::Smcroute | Self::SmcrouteJoined | Self::SmcrouteSteered => missing("smcrouted", &["-v"]),
            Self::McrSpared => missing("nft", &["--version"]),
            _ => None,
        }
    }

    /// Its version as it tells it.
    pub(crate) fn version(self) -> Option<String> {
        match self {
            Self::Socat => first_line_with("socat", "-V", "socat version"),
            Self::Smcroute => first_line_with("smcrouted", "-v", "SMCRoute"),
            _ => None,
        }
    }
}

/// What is to be relayed: `rules` groups, each to `outputs` groups.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) rules: u8,
    pub(crate) outputs: u8,
    /// Workers of MCR.
    pub(crate) workers: u8,
}

impl Work {
    pub(crate) fn pairs(self) -> u16 {
        u16::from(self.rules) * u16::from(self.outputs)
    }
}

/// A relay at work; it ends with this value.
pub(crate) struct Running {
    daemon: Option<Daemon>,
    processes: Vec<Process>,
    /// Its processes whose time counts; none if it is the kernel.
    worker_pids: Vec<u32>,
    steered: bool,
    /// Where its datagrams go: the first group and the port.
    pub(crate) destination: (Ipv4Addr, u16),
    _directory: TempDir,
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts a peer; it may not be ready yet.
    pub(crate) fn start(peer: Peer, lab: &Lab, work: Work) -> Self {
        let mut running = Self {
            daemon: None,
            processes: Vec::new(),
            worker_pids: Vec::new(),
            steered: peer == Peer::SmcrouteSteered,
            destination: (OUTPUT_GROUP, OUTPUT_PORT),
            _directory: TempDir::new().expect("a directory"),
        };
        lab.steer_to_relay_core(running.steered);
        lab.spare_ip_input(peer == Peer::McrSpared);
        match peer {
            Peer::Mcr
            | Peer::McrAtOnce
            | Peer::McrPatient
            | Peer::McrFewBuffers
            | Peer::McrManyBuffers
            | Peer::McrTraced
            | Peer::McrSampled
            | Peer::McrEarlyDrop
            | Peer::McrKernel
            | Peer::McrKernelMerged
            | Peer::McrSpared
            | Peer::McrKept
            | Peer::McrUnconfined
            | Peer::McrRecvmmsg
            | Peer::McrRecvmmsgUnconfined
            | Peer::McrMerged
            | Peer::McrAuto
            | Peer::McrRecvmmsgMerged => running.start_mcr(lab, work, peer),
            Peer::Floor => running.start_floor(lab, work),
            Peer::Socat => running.start_socats(lab, work),
            Peer::Smcroute | Peer::SmcrouteSteered => running.start_smcroute(lab, work, false),
            Peer::SmcrouteJoined => running.start_smcroute(lab, work, true),
        }
        running
    }

    fn start_mcr(&mut self, lab: &Lab, work: Work, peer: Peer) {
        let io = match peer {
            Peer::McrRecvmmsg | Peer::McrRecvmmsgUnconfined | Peer::McrRecvmmsgMerged => IoBackend::Recvmmsg,
            _ => IoBackend::Uring,
        };
        let mut settings = match peer {
            Peer::McrAtOnce => json!({"latency_budget_us": 0}),
            Peer::McrPatient => json!({"latency_budget_us": 200}),
            Peer::McrFewBuffers => json!({"ring_buffers": 64}),
            Peer::McrManyBuffers => json!({"ring_buffers": 1024}),
            Peer::McrUnconfined | Peer::McrRecvmmsgUnconfined => json!({"sandbox": "off"}),
            _ => json!({}),
        };
        settings["aggregate"] = match peer {
            Peer::McrMerged | Peer::McrRecvmmsgMerged | Peer::McrKernelMerged => "on",
            Peer::McrAuto => "auto",
            _ => "off",
        }
        .into();
        let by_kernel = matches!(peer, Peer::McrKernel | Peer::McrKernelMerged);
        let early_drop = by_kernel || peer == Peer::McrEarlyDrop;
        settings["early_drop"] = if early_drop { json!("auto") } else { json!("off") };
        settings["engine"] = if by_kernel { json!("kernel") } else { json!("worker") };
        let rules: Vec<Value> = (0..work.rules)
            .map(|rule| {
                let outputs: Vec<Value> = (0..work.outputs)
                    .map(|output| nth(OUTPUT_GROUP, rule * work.outputs + output))
                    .map(|group| {
                        let source = if peer == Peer::McrKept { "keep" } else { "10.2.0.1" };
                        json!({"interface": "eth1", "group": group, "port": OUTPUT_PORT, "source": source})
                    })
                    .collect();
                let group = nth(INPUT_GROUP, rule);
                json!({"input": {"interface": "eth0", "group": group, "port": INPUT_PORT}, "outputs": outputs})
            })
            .collect();
        let cores = if work.workers == 1 { json!([RELAY_CORE]) } else { json!([SENDER_CORE, RELAY_CORE]) };
        let config = json!({"rules": rules, "pinning": {"eth0": cores}, "settings": &settings});
        let daemon = on_any_core(|| Daemon::start(&lab.network.relay, io, &config.to_string()));
        daemon.wait_until_active(work.rules.into());
        move_to_sender_core(daemon.pid());
        let workers = daemon.ctl_json(&["workers"]);
        let workers: Vec<&Value> = workers["workers"].as_array().into_iter().flatten().collect();
        assert_eq!(workers.len(), usize::from(work.workers), "{workers:?}");
        for worker in workers {
            assert_eq!(worker["io"], io.as_str(), "{worker}");
            let confined = worker["sandbox"].to_string().contains("seccomp");
            assert_eq!(confined, settings["sandbox"] != "off", "{worker}");
            assert!(work.workers > 1 || worker["core"] == RELAY_CORE, "{worker}");
            self.worker_pids.extend(worker["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()));
        }
        match peer {
            Peer::McrEarlyDrop => wait_for_early_drop(&daemon),
            Peer::McrKernel | Peer::McrKernelMerged => {
                wait_for_early_drop(&daemon);
                wait_for_kernel(&daemon);
            }
            Peer::McrTraced => trace(&daemon, "1"),
            Peer::McrSampled => trace(&daemon, "1/100"),
            _ => {}
        }
        self.daemon = Some(daemon);
    }

    fn start_floor(&mut self, lab: &Lab, work: Work) {
        assert_eq!(work.rules, 1, "the floor relays one group");
        let this = std::env::current_exe().expect("this executable has a path");
        let mut command = lab.network.relay.command(this);
        command.args(["--floor", &INPUT_GROUP.to_string(), &INPUT_PORT.to_string()]);
        command.args([OUTPUT_GROUP.to_string(), OUTPUT_PORT.to_string(), work.outputs.to_string()]);
        self.spawn(command);
    }

    fn start_socats(&mut self, lab: &Lab, work: Work) {
        for rule in 0..work.rules {
            for output in 0..work.outputs {
                let from = nth(INPUT_GROUP, rule);
                let to = nth(OUTPUT_GROUP, rule * work.outputs + output);
                let mut command = lab.network.relay.command("socat");
                command.arg("-u");
                command.arg(format!(
                    "UDP4-RECV:{INPUT_PORT},bind={from},ip-add-membership={from}:eth0,reuseaddr"
                ));
                command.arg(format!(
                    "UDP4-DATAGRAM:{to}:{OUTPUT_PORT},ip-multicast-if=10.2.0.1,ip-multicast-ttl=16"
                ));
                self.spawn(command);
            }
        }
    }

    /// Static routes. Without `mgroup` no switch would bring the groups, but here the sender is at hand; a membership costs
    /// the kernel a local delivery.
    fn start_smcroute(&mut self, lab: &Lab, work: Work, joined: bool) {
        assert_eq!(work.outputs, 1, "the kernel does not translate groups");
        let mut config = String::from("phyint eth0 enable\nphyint eth1 enable\n");
        for rule in 0..work.rules {
            let group = nth(INPUT_GROUP, rule);
            if joined {
                writeln!(config, "mgroup from eth0 group {group}").expect("a string");
            }
            writeln!(config, "mroute from eth0 source 10.1.0.1 group {group} to eth1").expect("a string");
        }
        let directory = self._directory.path();
        std::fs::write(directory.join("smcroute.conf"), config).expect("write smcroute.conf");
        let mut command = lab.network.relay.command("smcrouted");
        command.args(["-n", "-N", "-i", "mcrbench", "-f"]).arg(directory.join("smcroute.conf"));
        command.arg("-P").arg(directory.join("pid")).arg("-u").arg(directory.join("sock"));
        self.spawn(command);
        self.worker_pids.clear();
        self.destination = (INPUT_GROUP, INPUT_PORT);
    }

    fn spawn(&mut self, mut command: Command) {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child =
            on_core(RELAY_CORE, || command.spawn()).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        self.worker_pids.push(child.id());
        self.processes.push(Process(child));
    }

    /// The time spent relaying so far, ns: of its processes with what the kernel did for them on the relay's core, or
    /// of that core if the kernel relays there. `None` where it can't be told from the sender's.
    pub(crate) fn cpu_ns(&self) -> Option<u64> {
        if self.steered {
            return Some(CoreTime::read(RELAY_CORE).busy_ns);
        }
        if self.worker_pids.is_empty() {
            return None;
        }
        let own: u64 = self.worker_pids.iter().map(|pid| process_ns(*pid)).sum();
        Some(own + deferred_work_ns(RELAY_CORE))
    }

    /// The daemon, if the relay is MCR.
    pub(crate) fn daemon(&self) -> Option<&Daemon> {
        self.daemon.as_ref()
    }
}

fn wait_for_early_drop(daemon: &Daemon) {
    wait_for("the early drop", Duration::from_secs(10), || {
        let all = daemon.ctl_json(&["interfaces"]);
        let found = all["interfaces"].as_array().into_iter().flatten().find(|one| one["name"] == "eth0");
        if found.is_some_and(|one| one["early_drop"] == "on") { Ok(()) } else { Err(all) }
    });
}

fn wait_for_kernel(daemon: &Daemon) {
    wait_for("the kernel engine", Duration::from_secs(10), || {
        let rules = daemon.ctl_json(&["list"]);
        let is = |rule: &Value| rule["engine"] == "kernel";
        if rules["rules"].as_array().is_some_and(|all| all.iter().all(is)) { Ok(()) } else { Err(rules) }
    });
}

/// Traces the first rule for longer than a run takes.
fn trace(daemon: &Daemon, sample: &str) {
    let list = daemon.ctl_json(&["list"]);
    let rule = list["rules"][0]["id"].as_str().expect("a rule");
    let limits = ["--sample", sample, "--records", "100000000", "--seconds", "600"];
    let enabled = daemon.ctl(&[&["trace", "enable", rule], limits.as_slice()].concat());
    assert_eq!(enabled.code, 0, "{enabled:?}");
}

fn nth(first: Ipv4Addr, offset: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(first.to_bits() + u32::from(offset))
}

fn missing(program: &str, arguments: &[&str]) -> Option<String> {
    let command = Command::new(program).args(arguments).output();
    command
        .err()
        .map(|error| format!("{program}: {error}; on Debian: apt-get install socat smcroute nftables"))
}

fn first_line_with(program: &str, argument: &str, text: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    said.lines().find(|line| line.contains(text)).map(|line| line.trim().to_owned())
}
